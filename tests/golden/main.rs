//! Every golden case, by what its metadata says it is: `cargo test --test golden -- --nocapture` shows a table.
//!
//! The cases lie outside the project (`STEADYDANCE_GOLDEN_DIR`, else `shared/golden` beside it); where there are none
//! the tests say so and have nothing to do. A case that fails names its first wrong stage.

mod autoencoder;
mod checks;
mod encoders;
mod networks;
mod pictures;
mod poses;
mod sampling;
mod schedules;
mod selfcheck;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use testkit::Case;

use checks::Report;

/// The function that runs cases of a component.
fn runner(component: &str) -> Option<fn(&Case) -> Result<Report>> {
    Some(match component {
        "dit.steadydancer" | "dit.wan_t2v" | "dit.wan_i2v" | "dit.wan_vace" => networks::original,
        "dit.diffusers" => networks::diffusers,
        "text_encoder.umt5" => encoders::umt5,
        "image_encoder.clip_vision" => encoders::clip_vision,
        "vae.wan21" => autoencoder::wan21,
        "vae.diffusers" => autoencoder::diffusers,
        "scheduler.unipc" | "scheduler.dpm++" => schedules::run,
        "sampling.steadydancer" => sampling::steadydancer,
        "pose.aligned" | "pose.negative" => poses::run,
        "preprocess.image" => pictures::run,
        _ => return None,
    })
}

/// Runs one file. A panic is a failure of this case and leaves the others alone.
fn run_file(path: &Path) -> (String, Result<Report>) {
    let case = match Case::read(path).context("no golden case") {
        Ok(case) => case,
        Err(error) => return ("?".to_owned(), Err(error)),
    };
    let outcome = match runner(&case.component) {
        None => Err(anyhow!("unknown component {:?}", case.component)),
        Some(run) => catch_unwind(AssertUnwindSafe(|| run(&case))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(anyhow!("panicked: {}", text.unwrap_or("without a message")))
        }),
    };
    (case.component, outcome)
}

/// The error and its causes, without the backtraces that candle puts into its messages.
fn told(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.split("\n   0: ").next().unwrap_or_default().trim_end().to_owned()
}

#[test]
fn every_case_agrees_with_its_reference() {
    let files = testkit::golden_files();
    if files.is_empty() {
        assert!(
            std::env::var_os("STEADYDANCE_GOLDEN_DIR").is_none(),
            "STEADYDANCE_GOLDEN_DIR names no folder that holds .safetensors files"
        );
        println!("no golden cases here; set STEADYDANCE_GOLDEN_DIR to a folder of them");
        return;
    }
    let names: Vec<String> =
        files.iter().map(|p| p.file_stem().unwrap_or_default().to_string_lossy().into_owned()).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0);
    println!("     {:width$}  {:25} outputs     error  allowed  largest at", "case", "component");
    let mut failures = Vec::new();
    for (path, name) in files.iter().zip(&names) {
        match run_file(path) {
            (component, Ok(report)) => println!("ok   {name:width$}  {component:25} {report}"),
            (component, Err(error)) => {
                let error = told(&error);
                println!("FAIL {name:width$}  {component:25} {error}");
                failures.push(format!("{name} ({component}): {error}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} cases fail:\n{}", failures.len(), files.len(), failures.join("\n"));
}
