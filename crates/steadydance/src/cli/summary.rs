//! The last words of a run, on stderr.

use std::time::Duration;

use steadydance::{ModelInfo, Report};

use super::plan::{bytes, lora_line};
use super::progress::clock;
use super::terminal::Terminal;

/// Says what was made, how long it took, and how good the prediction was.
pub fn print(report: &Report, model: &ModelInfo, terminal: Terminal) {
    for line in lines(report, model) {
        terminal.say(&line);
    }
}

fn lines(report: &Report, model: &ModelInfo) -> Vec<String> {
    let Report { width, height, num_frames, fps, seed, forwards, .. } = report;
    let sound = if report.has_audio { "with sound" } else { "no sound" };
    let phases: Vec<_> = report.phase_seconds.iter().map(|(phase, s)| format!("{phase} {s:.1} s")).collect();
    let measured = report.measured_peak_bytes().or(report.peak_rss_bytes).map_or_else(|| "unknown".to_owned(), bytes);
    let mut lines = vec![
        format!(
            "{width}x{height}, {num_frames} frames at {fps} fps ({:.2} s), {sound}, seed {seed}",
            *num_frames as f64 / fps
        ),
        format!(
            "{}: {forwards} forwards, {} in all ({})",
            model.label,
            clock(Duration::from_secs_f64(report.seconds.max(0.0))),
            phases.join(", ")
        ),
        format!("peak memory: {} predicted, {measured} measured", bytes(report.predicted_peak_bytes)),
    ];
    lines.extend(model.loras.iter().map(lora_line));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadydance::Phase;

    #[test]
    fn the_summary_has_every_number() {
        let report = Report {
            output: None,
            width: 64,
            height: 48,
            num_frames: 17,
            fps: 16.0,
            seed: 7,
            forwards: 15,
            has_audio: true,
            seconds: 62.0,
            phase_seconds: vec![(Phase::Denoise, 40.25)],
            predicted_peak_bytes: 1 << 30,
            peak_rss_bytes: Some(3 << 29),
            memory: vec![],
            replans: vec![],
        };
        let info = ModelInfo { label: "demo".into(), parameters: 1, components: vec![], loras: vec![] };
        let text = lines(&report, &info).join("\n");
        for part in [
            "64x48",
            "17 frames at 16 fps",
            "with sound",
            "seed 7",
            "1:02",
            "denoise 40.2 s",
            "1.00 GiB predicted",
            "1.50 GiB",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
