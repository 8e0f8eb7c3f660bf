//! `convert` and `inspect --compare`: forms, names, interruptions, and what cannot be.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Sandbox, model_copy};

fn demo(part: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo").join(format!("{part}.safetensors"));
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_transformer_becomes_smaller_and_still_is_one() {
    let sandbox = Sandbox::new();
    for (form, file) in [("q8_0", "dit-q8_0.gguf"), ("fp8", "dit-fp8.safetensors"), ("int8", "dit-int8.safetensors")] {
        let done = sandbox.run(&["convert", &demo("dit"), "--to", form]);
        assert_eq!(done.ok(), format!("{file}\n"));
        assert!(done.stderr.contains("sha256") && done.stderr.contains("tensors change"), "{}", done.stderr);
        let found = sandbox.run(&["inspect", file, "--json"]).json();
        assert_eq!(found["network"]["component"], "dit", "{found}");
        assert_eq!(found["network"]["deviations"], Value::Null);
        let size = fs::metadata(sandbox.work(file)).unwrap().len();
        assert!(size < fs::metadata(demo("dit")).unwrap().len() * 9 / 10, "{form}: {size}");

        let compared = sandbox.run(&["inspect", &demo("dit"), "--compare", file, "--json"]).json();
        assert_eq!((&compared["missing"], &compared["added"]), (&Value::Array(vec![]), &Value::Array(vec![])));
        let error = compared["relative_error"].as_f64().unwrap();
        assert!(error > 1e-4 && error < 0.05, "{form}: {error}");
        let text = sandbox.run(&["inspect", &demo("dit"), "--compare", file]);
        assert!(text.ok().contains("tensors in both") && text.stdout.contains("blocks."), "{}", text.stdout);
    }
    // From one to another, and the other way of the same is the same.
    sandbox.run(&["convert", "dit-q8_0.gguf", "--to", "q8_0", "-o", "again.gguf"]).ok();
    let same = sandbox.run(&["inspect", "dit-q8_0.gguf", "--compare", "again.gguf"]);
    assert!(same.ok().contains("equal: "), "{}", same.stdout);
    sandbox.run(&["convert", "dit-q8_0.gguf", "--to", "bf16", "-o", "floats.safetensors"]).ok();
}

#[test]
fn a_run_takes_what_was_written() {
    let sandbox = Sandbox::new();
    let folder = sandbox.work("model");
    model_copy(&folder);
    let index = folder.join("diffusion_pytorch_model.safetensors.index.json");
    let small = folder.join("small.gguf");
    sandbox.run(&["convert", index.to_str().unwrap(), "--to", "q8_0", "-o", small.to_str().unwrap()]).ok();
    let [reference, dance] = ["reference.png", "dance.json"].map(|name| {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/media").join(name).to_str().unwrap().to_owned()
    });
    let line =
        ["run", "--ref", &reference, "--keypoints", &dance, "--size", "64x64", "--num-frames", "5", "--steps", "1"];
    let with = [&line[..], &["--model", small.to_str().unwrap(), "-o", "out.mp4"]].concat();
    sandbox.run(&with).ok();
    assert!(fs::metadata(sandbox.work("out.mp4")).unwrap().len() > 500);
}

#[test]
fn what_would_be_written_is_said_before() {
    let sandbox = Sandbox::new();
    let plan = sandbox.run(&["convert", &demo("dit"), "--to", "int8-rotated", "--dry-run", "--json"]).json();
    assert_eq!((&plan["event"], &plan["form"]), (&"plan".into(), &"int8-rotated".into()));
    assert!(plan["bytes"].as_u64().unwrap() > 1000 && plan["matrices"].as_u64().unwrap() > 5, "{plan}");
    sandbox.assert_nothing_written("a dry run");
    assert_eq!(fs::read_dir(sandbox.work("")).unwrap().count(), 0);
    let list = sandbox.run(&["convert", "--list"]);
    for form in ["fp8-rows", "int8-blocks", "q4_k_m", "iq4_xs"] {
        assert!(list.ok().contains(form), "{form}");
    }
    let events = sandbox.run(&["convert", &demo("umt5"), "--to", "q8_0", "-o", "u.gguf", "--json"]);
    let last: Value = serde_json::from_str(events.ok().lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["path"]), (&"done".into(), &"u.gguf".into()));
    assert_eq!(last["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(sandbox.run(&["inspect", "u.gguf", "--json"]).json()["network"]["component"], "text-encoder");
}

#[test]
fn what_cannot_be_is_one_line() {
    let sandbox = Sandbox::new();
    sandbox.run(&["convert"]).fails(2, &["--to"]);
    sandbox.run(&["convert", &demo("dit"), "--to", "q7"]).fails(2, &["q7", "q4_k_m"]);
    sandbox.run(&["convert", "gone.safetensors", "--to", "fp8"]).fails(4, &["gone.safetensors"]);
    sandbox
        .run(&["convert", &demo("vae"), "--to", "fp8"])
        .fails(2, &["vae.safetensors", "no matrices of numbered layers"]);
    sandbox.write("mine.gguf", "mine");
    let line = ["convert", &demo("dit"), "--to", "q8_0", "-o", "mine.gguf"];
    sandbox.run(&line).fails(2, &["mine.gguf", "--force"]);
    assert_eq!(fs::read(sandbox.work("mine.gguf")).unwrap(), b"mine");
    sandbox.run(&[&line[..], &["--force"]].concat()).ok();
    sandbox
        .run(&["convert", "mine.gguf", "--to", "q8_0", "-o", "mine.gguf", "--force"])
        .fails(2, &["choose another name"]);
    sandbox.run(&["convert", &demo("dit"), "--to", "fp8", "-o", "no/such/folder.safetensors"]).fails(1, &["no/such"]);
    sandbox.run(&["inspect", &demo("dit"), "--compare", "gone"]).fails(4, &["gone"]);
    let broken = sandbox.write("broken.gguf", b"GGUF\x03\0\0\0 and no more");
    sandbox.run(&["convert", broken.to_str().unwrap(), "--to", "bf16"]).fails(4, &["broken.gguf"]);
}
