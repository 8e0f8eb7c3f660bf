//! `steadydance convert`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use steadydance::Conversion;
use steadydance::convert::{Converted, Form};

use super::args::ConvertArgs;
use super::failure::{self, Failure};
use super::plan::bytes;
use super::progress::{Told, clock, write_event};
use super::pull::ByteBar;
use super::stop::Stop;
use super::terminal::{self, Terminal};

/// Events come no more often than once in so many tensors.
const EVENT_EVERY: usize = 50;

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Said<'a> {
    /// What will be done.
    Plan { output: &'a Path, form: &'a str, tensors: usize, matrices: usize, bytes: u64, peak_bytes: u64 },
    /// So much is done.
    Progress { done: usize, total: usize, bytes: u64, total_bytes: u64 },
    /// The last line of a conversion that succeeded.
    Done {
        #[serde(flatten)]
        converted: &'a Converted,
        seconds: f64,
    },
}

/// Writes a checkpoint in another form. The file's name is all that goes to stdout, or events when `--json` is given.
///
/// # Errors
/// See `docs/cli.md`.
pub fn convert(args: &ConvertArgs, terminal: Terminal) -> Result<(), Failure> {
    let (Some(input), Some(form)) = (&args.input, args.to) else {
        let line = |form: Form| format!("{:12} {}\n", form.name(), form.about());
        return terminal::write_out(&Form::ALL.map(line).concat());
    };
    let result = failure::catch_panic(|| write(args, input, form, terminal));
    if let (Err(failure), true) = (&result, args.json) {
        write_event(&Told::Error(failure));
    }
    result
}

fn write(args: &ConvertArgs, input: &Path, form: Form, terminal: Terminal) -> Result<(), Failure> {
    let output = args.output.clone().unwrap_or_else(|| usual_output(input, form));
    let conversion = Conversion::new(input, form)?;
    let plan = conversion.plan();
    let size = bytes(plan.bytes);
    if args.json {
        let (tensors, matrices, form) = (plan.tensors, plan.matrices, form.name());
        let (bytes, peak_bytes) = (plan.bytes, plan.peak_bytes);
        write_event(&Said::Plan { output: &output, form, tensors, matrices, bytes, peak_bytes });
    } else {
        terminal.say(&format!(
            "{} as {form} ({}): {} of {} tensors change, {} become {size}; at most {} of memory for a tensor",
            input.display(),
            form.about(),
            plan.matrices,
            plan.tensors,
            bytes(conversion.checkpoint().stored_bytes()),
            bytes(plan.peak_bytes),
        ));
    }
    if args.dry_run {
        return Ok(());
    }
    let stop = Stop::install(args.json, terminal)?;
    let began = Instant::now();
    let mut bar = None;
    let converted = stop.guard(|| {
        let result = conversion.run(&output, args.force, &mut |at| {
            if args.json {
                if at.done % EVENT_EVERY == 0 || at.done == at.total {
                    let (done, total, bytes, total_bytes) = (at.done, at.total, at.bytes, at.total_bytes);
                    write_event(&Said::Progress { done, total, bytes, total_bytes });
                }
            } else {
                bar.get_or_insert_with(|| ByteBar::new("convert", at.total_bytes, at.bytes, terminal))
                    .advance(at.bytes);
            }
            !stop.token().is_cancelled()
        });
        if let Some(bar) = &bar {
            bar.finish();
        }
        Ok(result?)
    })?;
    if args.json {
        write_event(&Said::Done { converted: &converted, seconds: began.elapsed().as_secs_f64() });
        return Ok(());
    }
    if converted.resumed_bytes > 0 {
        terminal.say(&format!("went on from {} that were written before", bytes(converted.resumed_bytes)));
    }
    terminal.say(&format!("{size} in {}; sha256 {}", clock(began.elapsed()), converted.sha256));
    terminal::write_out(&format!("{}\n", output.display()))
}

/// `<input>-<form>.<ending>` in the current folder; of an index or a folder, its name without what tells shards.
fn usual_output(input: &Path, form: Form) -> PathBuf {
    let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let endings = [".index.json", ".safetensors", ".gguf", ".pth", ".pt", ".onnx"];
    let stem = endings.iter().fold(name.as_str(), |stem, end| stem.strip_suffix(end).unwrap_or(stem));
    let stem = if stem.is_empty() { "checkpoint" } else { stem };
    PathBuf::from(format!("{stem}-{form}.{}", form.extension()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_called_after_input_and_form() {
        let of = |input: &str, form: &str| usual_output(Path::new(input), form.parse().unwrap()).display().to_string();
        assert_eq!(of("/a/b/model.safetensors", "q4_k_m"), "model-q4_k_m.gguf");
        assert_eq!(of("m.safetensors.index.json", "fp8"), "m-fp8.safetensors");
        assert_eq!(of("umt5.pth", "bf16"), "umt5-bf16.safetensors");
        assert_eq!(of("/", "bf16"), "checkpoint-bf16.safetensors");
    }
}
