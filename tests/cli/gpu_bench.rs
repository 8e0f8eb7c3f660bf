//! What is measured on a GPU, which is an emulated one: its driver is named by its path. And what is told of numbers that are none.

use std::path::Path;
use std::process::Command;

use crate::support::{Sandbox, fixture, tiny_run_of};

const DRIVER: &str = "STEADYDANCE_CUDA_DRIVER";

#[test]
fn cases_of_a_gpu_are_listed_and_measured() {
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    let sandbox = Sandbox::new();
    // Listing opens nothing.
    let names = sandbox.run(&["bench", "--device", "cuda", "--list"]);
    assert!(names.ok().lines().any(|l| l == "dit-i2v-14b-480x832x81-fp8-stream"), "{}", names.stdout);
    let line = ["bench", "--device", "cuda", "--case", "gemm-300x*", "--runs", "1", "--warmups", "0", "--seconds", "0"];
    let outcome = sandbox.run_with(&[&line[..], &["--json", "gpu.json"]].concat(), &[(DRIVER, driver)]);
    assert!(outcome.ok().contains("TFLOP/s") && outcome.stderr.contains("emulated GPU"), "{}", outcome.stderr);
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(sandbox.work("gpu.json")).unwrap()).unwrap();
    assert!(report["gpu"]["peaks"]["bf16_tflops"].as_f64().unwrap() > 0.0);
    assert_eq!(report["cases"][0]["peak_in"], "int8");
    // Reports of GPUs are compared as others are.
    let again = [&line[..], &["--compare", "gpu.json"]].concat();
    assert!(sandbox.run_with(&again, &[(DRIVER, driver)]).ok().contains("since then"));

    sandbox.run(&["bench", "--device", "tpu"]).fails(2, &["cpu, cuda or cuda:N"]);
    sandbox.run_with(&line, &[(DRIVER, "/nowhere/libcuda.so.1")]).fails(7, &["/nowhere/libcuda.so.1"]);
}

#[test]
fn precisions_of_a_gpu_are_judged() {
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    let sandbox = Sandbox::new();
    let line = ["bench", "numerics", "--device", "cuda", "--model", "tiny", "--blocks", "2"];
    let small = ["--size", "32x32", "--num-frames", "5", "--precision", "int8*", "--json", "n.json"];
    let outcome = sandbox.run_with(&[&line[..], &small].concat(), &[(DRIVER, driver)]);
    let table = outcome.ok();
    assert!(table.contains("| int8, gpu |") && table.contains("| int8-rotated, gpu |"), "{table}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(sandbox.work("n.json")).unwrap()).unwrap();
    assert_eq!(report["rows"][0]["blocks_db"].as_array().unwrap().len(), 2);
    for (wrong, told) in [
        (&["--precision", "int3"][..], "int8-rotated"),
        (&["--model", "15b"], "steadydancer-14b"),
        (&["--size", "30x32"], "multiples of 16"),
        (&["--num-frames", "4"], "4n + 1"),
    ] {
        sandbox.run(&[&["bench", "numerics"], wrong].concat()).fails(2, &[told]);
    }
}

#[test]
fn the_demo_is_near_f32_on_the_processor() {
    let sandbox = Sandbox::new();
    let line = ["bench", "numerics", "--size", "32x32", "--num-frames", "5", "--precision", "bf16*"];
    let table = sandbox.run(&[&line[..], &["--markdown", "n.md"]].concat());
    table.ok();
    let table = std::fs::read_to_string(sandbox.work("n.md")).unwrap();
    assert!(table.lines().filter(|l| l.contains("passes")).count() == 2, "{table}");
}

/// Copies a model whose second block adds numbers that are next to the largest there are.
fn overflowing(folder: &Path) {
    let from = fixture("model");
    std::fs::create_dir_all(folder.join("google/umt5-xxl")).unwrap();
    for name in std::fs::read_dir(&from).unwrap().map(|e| e.unwrap().file_name()) {
        if from.join(&name).is_file() {
            std::fs::copy(from.join(&name), folder.join(&name)).unwrap();
        }
    }
    let tokenizer = "google/umt5-xxl/tokenizer.json";
    std::fs::copy(from.join(tokenizer), folder.join(tokenizer)).unwrap();
    let file = folder.join("diffusion_pytorch_model-00001-of-00002.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..start]).unwrap();
    let place = &header["blocks.1.ffn.2.bias"]["data_offsets"];
    let [from, to] = [0, 1].map(|i| start + place[i].as_u64().unwrap() as usize);
    // bf16: 3.3e38, finite.
    bytes[from..to].as_chunks_mut::<2>().0.iter_mut().for_each(|b| *b = 0x7f78u16.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
}

#[test]
fn a_number_that_is_none_names_its_block_and_step_on_both_devices() {
    let sandbox = Sandbox::new();
    let model = sandbox.work("model");
    overflowing(&model);
    let run = |name: &str, device: &str, driver: &str| {
        let (picture, pose) = (fixture("portrait_9/ref.png"), fixture("portrait_9/pose"));
        let mut line = tiny_run_of(&model, &picture, &pose, &sandbox.out(name));
        line.extend(["--device", device].map(str::to_owned));
        sandbox.run_with(&line, &[(DRIVER, driver)])
    };
    let told = ["block 1", "step 1/2", "not finite"];
    run("cpu.mp4", "cpu", "").fails(4, &told);
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    run("gpu.mp4", "cuda", driver).fails(4, &told);
}

#[test]
fn the_script_for_a_gpu_runs_on_an_emulated_one() {
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    let sandbox = Sandbox::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let done = Command::new("bash")
        .arg(root.join("scripts/gpu.sh"))
        .args(["info", "tests", "bench", "numerics", "eval"])
        .env("GPU_DRY", driver)
        .env("STEADYDANCE", env!("CARGO_BIN_EXE_steadydance"))
        .env("OUT", sandbox.out("reports"))
        .output()
        .unwrap();
    let summary = std::fs::read_to_string(sandbox.out("reports").join("summary.md")).unwrap_or_default();
    let log = std::fs::read_to_string(sandbox.out("reports").join("log.txt")).unwrap_or_default();
    assert!(done.status.success(), "{summary}\n{log}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(summary.contains("bench: passed") && summary.contains("numerics: passed"), "{summary}");
    let files = std::fs::read_dir(sandbox.out("reports")).unwrap().count();
    assert!((5..=8).contains(&files), "{files} files");
    let report = std::fs::read(sandbox.out("reports").join("bench.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["cases"].as_array().unwrap().len(), 4);
}
