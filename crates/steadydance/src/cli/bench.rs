//! `steadydance bench`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use steadydance::bench::{
    BenchError, Case, Change, GpuNote, Measured, OpenGpu, Options, Report, ReportFile, cases, gpu_cases, run,
};
use steadydance::{PipelineError, RequestError};

use super::args::BenchArgs;
use super::failure::Failure;
use super::plan::bytes;
use super::stop::Stop;
use super::terminal::{self, Terminal};

/// Measures, shows a line for each case as it is done, and writes the report where it is asked for.
///
/// # Errors
/// No case has the name, a case fails, or a file cannot be read or written.
pub fn bench(args: &BenchArgs, terminal: Terminal) -> Result<(), Failure> {
    let ordinal = ordinal(&args.device)?;
    let chosen = chosen(args, ordinal.is_some())?;
    if args.list {
        let list: String = chosen.iter().map(|case| format!("{}\n", case.name)).collect();
        return terminal::write_out(&list);
    }
    // A report that cannot be compared with, or a place that cannot be written, is told before minutes of work.
    let before = args.compare.as_deref().map(Report::read).transpose().map_err(Failure::usage)?;
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let file = match &args.json {
        Some(path) if !to_stdout => Some(ReportFile::create(path).map_err(Failure::usage)?),
        _ => None,
    };
    if let Some(threads) = args.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        pool.map_err(|e| Failure::other(format!("{threads} threads cannot be had ({e})")))?;
    }

    let gpu = ordinal.map(|ordinal| open(&args.device, ordinal)).transpose()?;
    let stop = Stop::install(to_stdout, terminal)?;
    let count = chosen.len();
    let (mut begun, mut last) = (0, String::new());
    let mut told = |case: &Case, done: Option<&Measured>| {
        match done {
            Some(measured) if to_stdout => terminal.say(&line(measured)),
            Some(measured) => drop(terminal::write_out(&format!("{}\n", line(measured)))),
            None if last != case.name => {
                (begun, last) = (begun + 1, case.name.clone());
                terminal.detail(&format!("{begun}/{count} {last}"));
            }
            None => {}
        }
        !stop.token().is_cancelled()
    };
    let options = Options {
        warmups: args.warmups as usize,
        runs: args.runs.unwrap_or(if gpu.is_some() { 5 } else { 3 }) as usize,
        time: Duration::from_secs(args.seconds.into()),
    };
    if !to_stdout {
        let rate = if gpu.is_some() { "TFLOP/s" } else { "GFLOP/s" };
        terminal::write_out(&format!("{HEADING_CASE}{rate}{HEADING_REST}\n"))?;
    }
    let report = stop.guard(|| run(&chosen, &options, gpu.as_ref(), &mut told).map_err(failure))?;
    if let Some(note) = &report.gpu {
        terminal.say(&peaks(note));
    }

    if let Some(output) = file {
        output.write(&report).map_err(Failure::other)?;
    } else if to_stdout {
        terminal::write_json(&report)?;
    }
    let Some(before) = before else { return Ok(()) };
    let text = compared(&report.since(&before));
    if to_stdout {
        terminal.say(text.trim_end());
        return Ok(());
    }
    terminal::write_out(&text)
}

const HEADING_CASE: &str = "case                                         median     p90   ";
const HEADING_REST: &str = "  of peak     memory";

/// The GPU's number; `None` for the processor.
pub(super) fn ordinal(device: &str) -> Result<Option<u32>, Failure> {
    let number = match device {
        "cpu" => return Ok(None),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
    };
    number
        .map(Some)
        .ok_or_else(|| Failure::usage(format!("--device {device}: what is measured is cpu, cuda or cuda:N")))
}

pub(super) fn open(device: &str, ordinal: u32) -> Result<OpenGpu, Failure> {
    let refused = |why: String| PipelineError::from(RequestError::Device { found: device.to_owned(), why });
    OpenGpu::open(ordinal).map_err(|e| refused(e.to_string()).into())
}

/// What a GPU can do at most.
fn peaks(note: &GpuNote) -> String {
    let peaks = &note.peaks;
    let e4m3 = peaks.e4m3_tflops.map_or_else(String::new, |rate| format!(", e4m3 {rate:.0}"));
    format!(
        "{} (kernels for {}): bf16 {:.0}, int8 {:.0}{e4m3} TFLOP/s by this engine's products; {:.0} GB/s within its memory, {:.1} to it, {:.1} from it",
        note.name, note.kernels_for, peaks.bf16_tflops, peaks.int8_tops, peaks.copy_gb_s, peaks.in_gb_s, peaks.out_gb_s
    )
}

fn chosen(args: &BenchArgs, on_gpu: bool) -> Result<Vec<Case>, Failure> {
    let named = |case: &Case| args.cases.iter().any(|glob| glob.matches(&case.name));
    let all = args.list && args.cases.is_empty();
    let wanted = |case: &Case| all || if args.cases.is_empty() { case.usual } else { named(case) };
    let chosen: Vec<Case> = (if on_gpu { gpu_cases() } else { cases() }).into_iter().filter(wanted).collect();
    match chosen.is_empty() {
        true => {
            Err(Failure::usage("no case has such a name; `steadydance bench --list` shows them, * stands for anything"))
        }
        false => Ok(chosen),
    }
}

pub(super) fn failure(error: BenchError) -> Failure {
    match error {
        BenchError::Cancelled { .. } => Failure::interrupted(error),
        other => Failure::other(other),
    }
}

/// What one case came to.
fn line(measured: &Measured) -> String {
    let Measured { name, time, gflops, of_peak, peak_in, whole_seconds, peak_bytes, .. } = measured;
    let mut line = format!("{name:<42} {:>8} {:>7}", seconds(time.median), seconds(time.p90));
    let gpu = measured.gpu.as_ref();
    let rate = gflops.map_or_else(String::new, |rate| match gpu {
        Some(_) => format!("{:.1}", rate / 1e3),
        None => format!("{rate:.0}"),
    });
    let share = of_peak.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
    let memory = gpu.map(|gpu| gpu.peak_bytes).or(*peak_bytes).map_or_else(String::new, bytes);
    let _ = write!(line, " {rate:>9} {share:>8} {memory:>10}");
    if let Some(numbers) = peak_in {
        let _ = write!(line, "  {numbers}");
    }
    if let Some(rate) = measured.bytes.map(|b| b as f64 / time.median / 1e9) {
        let _ = write!(line, "  {rate:.2} GB/s");
    }
    if let Some(whole) = whole_seconds {
        let _ = write!(line, "  all of it {}", seconds(*whole));
    }
    if let Some(gpu) = gpu {
        let planned = gpu.planned_bytes.map(|b| format!("  planned {}", bytes(b)));
        let copied = gpu.copied_bytes.filter(|b| *b > 0).map(|b| format!("  {} copied", bytes(b)));
        let times = gpu.step_seconds.zip(gpu.clip_seconds);
        let times = times.map(|(step, clip)| format!("  a step {}, a clip {}", seconds(step), seconds(clip)));
        line.extend([planned, copied, times].into_iter().flatten());
    }
    line
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{:.1} ms", 1e3 * s),
        s if s < 100.0 => format!("{s:.2} s"),
        s => format!("{s:.0} s"),
    }
}

/// What became of the cases that were measured before too.
fn compared(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "the other report has none of these cases\n".to_owned();
    }
    let mut text = "\nsince then                                   before       now\n".to_owned();
    for Change { name, before, now, speedup, is_clear } in changes {
        let word = match (is_clear, *speedup > 1.0) {
            (false, _) => "within the noise",
            (true, true) => "faster",
            (true, false) => "slower",
        };
        let _ = writeln!(text, "{name:<42} {:>8} {:>9} {speedup:>6.2} x  {word}", seconds(*before), seconds(*now));
    }
    text
}
