//! `steadydance bench`: lists, measures, writes and compares.

use crate::support::Sandbox;

const QUICK: [&str; 9] = ["bench", "--case", "load-256mib", "--runs", "2", "--warmups", "0", "--seconds", "0"];

#[test]
fn cases_are_listed_by_name() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["bench", "--list", "--case", "dit-1.3b-480x272x17-*"]);
    let names: Vec<&str> = outcome.ok().lines().collect();
    assert!(names.contains(&"dit-1.3b-480x272x17-bf16") && names.len() == 7, "{names:?}");
    assert!(sandbox.run(&["bench", "--list"]).ok().lines().count() > 30);
}

#[test]
fn a_report_is_written_and_compared_with() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&[&QUICK[..], &["--json", "then.json"]].concat());
    assert!(outcome.ok().contains("load-256mib") && outcome.stdout.contains("GB/s"), "{}", outcome.stdout);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(sandbox.work("then.json")).unwrap()).unwrap();
    assert_eq!(report["cases"][0]["time"]["seconds"].as_array().unwrap().len(), 2);
    assert!(report["cases"][0]["peak"]["f32_gflops"].as_f64().unwrap() > 0.0);
    let outcome = sandbox.run(&[&QUICK[..], &["--compare", "then.json", "--json", "-"]].concat());
    let report: serde_json::Value = serde_json::from_str(outcome.ok()).unwrap();
    assert_eq!(report["format"], "steadydance-bench-report");
    assert!(outcome.stderr.contains("since then") && outcome.stderr.contains("load-256mib"), "{}", outcome.stderr);
}

#[test]
fn what_cannot_be_is_told_before_any_work() {
    let sandbox = Sandbox::new();
    sandbox.write("other.json", "{}");
    for (arguments, told) in [
        (&["bench", "--case", "nothing*"][..], "bench --list"),
        (&["bench", "--case", "load*", "--compare", "other.json"], "expected a report"),
        (&["bench", "--case", "load*", "--compare", "missing.json"], "missing.json"),
        (&["bench", "--case", "load*", "--json", "nowhere/report.json"], "nowhere"),
        (&["bench", "--runs", "0"], "--runs"),
    ] {
        let outcome = sandbox.run(arguments);
        let text = outcome.stderr.as_str();
        assert!(outcome.code == Some(2) && text.contains(told) && text.lines().count() == 1, "{arguments:?}: {text}");
    }
}

#[test]
fn a_trace_of_a_run_has_phases_blocks_and_layers() {
    let sandbox = Sandbox::new();
    crate::support::picture(64, 64, 5).save(sandbox.work("me.png")).unwrap();
    crate::support::pose_folder(&sandbox.work("pose"), 5, 64, 64);
    let line =
        ["-v", "run", "--ref", "me.png", "--pose", "pose", "--size", "64x64", "--num-frames", "5", "--steps", "1"];
    let outcome = sandbox.run(&[&line[..], &["--trace", "trace.json", "-o", "clip.mp4"]].concat());
    outcome.ok();
    assert!(outcome.stderr.contains("where the time goes"), "{}", outcome.stderr);
    let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(sandbox.work("trace.json")).unwrap()).unwrap();
    let names: std::collections::BTreeSet<&str> =
        trace["traceEvents"].as_array().unwrap().iter().map(|e| e["name"].as_str().unwrap()).collect();
    for name in ["denoise", "decode", "block", "linear", "attention", "conv3d", "norm and rope", "wait for weights"] {
        assert!(names.contains(name), "{name} in {names:?}");
    }
}
