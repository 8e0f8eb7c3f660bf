//! `steadydance doctor`.

use std::fmt::Write;

use steadydance::EngineOptions;
use steadydance::doctor::{Diagnosis, DoctorOptions, Gpu, HostedModel, Verdict, diagnose};
use steadydance::hub::{Bytes, Settings};

use super::args::DoctorArgs;
use super::failure::Failure;
use super::known;
use super::plan::bytes;
use super::terminal::{self, Terminal};

/// Says what this machine is and what is not well with it.
///
/// # Errors
/// A run of the demo would not work, or stdout cannot be written.
pub fn doctor(args: &DoctorArgs, terminal: Terminal) -> Result<(), Failure> {
    if !args.no_disk_speed && !args.json {
        terminal.say("measuring the disk …");
    }
    let found = diagnose(&DoctorOptions {
        models: known::models().to_vec(),
        hub: Settings::from_env(),
        engine: EngineOptions::default(),
        measure_disk: !args.no_disk_speed,
    });
    match args.json {
        true => terminal::write_json(&found)?,
        false => terminal::write_out(&text(&found))?,
    }
    found.problem.map_or(Ok(()), |problem| Err(Failure::other(problem)))
}

/// The diagnosis for people: a line for each fact, models, and what to do.
fn text(found: &Diagnosis) -> String {
    let Diagnosis { cpu, memory, disk, codecs, hub, .. } = found;
    let mut text = format!("steadydance {} on {}\n", found.version, found.system);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("computes", format!("on {}", found.devices.join(", ")));
    let cores = cpu.physical_cores.map(|n| format!(" of {n} cores")).unwrap_or_default();
    let name = if cpu.name.is_empty() { "unknown" } else { &cpu.name };
    line("CPU", format!("{name}; {} threads{cores}; kernels for {}", cpu.threads, cpu.instruction_set));
    match found.gpus.is_empty() {
        true => line("GPU", format!("none: {}", found.no_gpu.as_deref().unwrap_or("nobody could be asked"))),
        false => found.gpus.iter().for_each(|gpu| line("GPU", gpu_text(gpu))),
    }
    line("memory", format!("{} available of {}", bytes(memory.available_bytes), bytes(memory.total_bytes)));
    let free = disk.free_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    let speed = disk.read.as_ref().map(|read| {
        let cached = if read.pages_dropped { "" } else { ", perhaps from memory" };
        format!("; reads {}/s (measured over {}{cached})", Bytes(read.bytes_per_s as u64), Bytes(read.bytes))
    });
    line("disk", format!("{free} free for models{}", speed.unwrap_or_default()));
    line("FFmpeg", codecs.ffmpeg.clone());
    for output in &codecs.outputs {
        let by = output.encoder.map(|e| format!(" by {e}")).unwrap_or_default();
        let sound = output.sound.map(|s| format!(", sound by {s}")).unwrap_or_default();
        let found = if output.found { "written" } else { "NOT written" };
        line("", format!(".{}: {found}{by}{sound}", output.kind));
    }
    line("hub", format!("{}{}", hub.endpoint, if hub.offline { " (HF_HUB_OFFLINE: not used)" } else { "" }));
    line("", format!("token: {}", if hub.has_token { "yes" } else { "no" }));
    line("cache", format!("{}: {}", hub.cache.display(), bytes(hub.cache_bytes)));
    let here = if hub.models.is_empty() { "no model".to_owned() } else { hub.models.join(", ") };
    line("", format!("complete: {here}"));
    text += "\nmodels that make clips\n";
    for model in &found.models {
        text += &model_text(model);
    }
    for warning in &found.warnings {
        let _ = write!(text, "\n! {warning}");
    }
    if !found.warnings.is_empty() {
        text.push('\n');
    }
    text
}

fn gpu_text(gpu: &Gpu) -> String {
    let free = gpu.free_bytes.map(|free| format!("{} free of ", bytes(free))).unwrap_or_default();
    let code =
        gpu.problem.as_ref().map_or_else(|| "kernels for it are here".to_owned(), |p| format!("not usable: {p}"));
    let Gpu { name, capability, cuda, memory_bytes, .. } = gpu;
    format!("{name}, compute capability {capability}, {free}{}, driver for CUDA {cuda}; {code}", bytes(*memory_bytes))
}

fn model_text(model: &HostedModel) -> String {
    let here = if model.embedded {
        "embedded"
    } else if model.here {
        "here"
    } else {
        "not here"
    };
    let verdict = match &model.verdict {
        None => "not known without its files".to_owned(),
        Some(Verdict::Refused { problem }) => format!("would not run: {problem}"),
        Some(Verdict::Fits { size: [width, height], num_frames, peak_bytes, streamed }) => {
            let streamed = match streamed.as_slice() {
                [] => String::new(),
                phases => format!(", weights streamed in {}", phases.join(", ")),
            };
            format!("fits: {width}x{height}, {num_frames} frames, peak {}{streamed}", bytes(*peak_bytes))
        }
    };
    format!("{:<34}{here:<10}{verdict}\n", model.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_and_gpus_are_one_line_each() {
        let mut model = HostedModel {
            name: "m".into(),
            title: "M".into(),
            embedded: false,
            here: true,
            size_bytes: None,
            verdict: Some(Verdict::Fits {
                size: [832, 480],
                num_frames: 81,
                peak_bytes: 3 << 30,
                streamed: vec!["denoise".into()],
            }),
        };
        let text = model_text(&model);
        assert!(
            text.contains("here      fits: 832x480, 81 frames, peak 3.00 GiB, weights streamed in denoise\n"),
            "{text}"
        );
        model.verdict = Some(Verdict::Refused { problem: "too large".into() });
        assert!(model_text(&model).ends_with("would not run: too large\n"));
        model.verdict = None;
        assert!(model_text(&model).contains("not known"));
        let mut gpu = Gpu {
            name: "G".into(),
            capability: "8.6".into(),
            cuda: "13.0".into(),
            memory_bytes: 8 << 30,
            free_bytes: Some(1 << 30),
            problem: None,
        };
        let first = "G, compute capability 8.6, 1.00 GiB free of 8.00 GiB, driver for CUDA 13.0; ";
        assert_eq!(gpu_text(&gpu), format!("{first}kernels for it are here"));
        (gpu.free_bytes, gpu.problem) = (None, Some("too old".into()));
        assert_eq!(gpu_text(&gpu), "G, compute capability 8.6, 8.00 GiB, driver for CUDA 13.0; not usable: too old");
    }
}
