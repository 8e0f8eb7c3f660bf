//! Every golden case, by what its metadata says it is: `cargo test --test golden`.
//!
//! The cases lie outside the project (`STEADYDANCE_GOLDEN_DIR`, else `shared/golden` beside it); where they are absent
//! the tests say so and have nothing to do. A case that fails names its first wrong stage.

mod networks;

use testkit::Case;

/// Component → the function that runs one of its cases.
const COMPONENTS: &[(&str, fn(&Case) -> Result<String, String>)] = &[
    ("dit.steadydancer", networks::original),
    ("dit.wan_t2v", networks::original),
    ("dit.wan_i2v", networks::original),
    ("dit.wan_vace", networks::original),
    ("dit.diffusers", networks::diffusers),
];

/// Compares stages in the order in which they arise and reports the first that is wrong.
fn in_order(case: &Case, stages: &[(&str, &candle_core::Tensor)]) -> Result<String, String> {
    let mut worst = 0f64;
    for (name, ours) in stages {
        worst = worst.max(case.compare(name, ours).map_err(|e| format!("first wrong stage: {e}"))?);
    }
    Ok(format!("{} outputs, largest error {worst:.2e} of {:.0e}", stages.len(), case.tolerance))
}

#[test]
fn every_case_agrees_with_its_reference() {
    let files = testkit::golden_files();
    if files.is_empty() {
        println!("no golden cases here; set STEADYDANCE_GOLDEN_DIR to a folder of them");
        return;
    }
    let mut failures = Vec::new();
    for path in &files {
        let label = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let outcome = Case::read(path).map_err(|e| e.to_string()).and_then(|case| {
            let run = COMPONENTS.iter().find(|(name, _)| *name == case.component);
            let (_, run) = run.ok_or_else(|| format!("unknown component {:?}", case.component))?;
            run(&case).map(|report| format!("{}: {report}", case.component))
        });
        match outcome {
            Ok(report) => println!("ok   {label}: {report}"),
            Err(report) => {
                println!("FAIL {label}: {report}");
                failures.push(format!("{label}: {report}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), files.len(), failures.join("\n"));
}
