//! What a GPU computes, which is an emulated one: its driver is named by its path.

use std::path::Path;

use crate::pose_networks::{self, Sight};
use crate::support::{Sandbox, fixture, pose_folder, tiny_run};

const DRIVER: &str = "STEADYDANCE_CUDA_DRIVER";

/// Root of the mean square of the differences of all pictures of two folders, in steps of 255.
fn apart(a: &Path, b: &Path) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    let pictures = |folder: &Path| {
        let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("frame_")).count()
    };
    let frames = pictures(a);
    assert!(frames > 1 && pictures(b) == frames);
    for frame in 0..frames {
        let [a, b] = [a, b].map(|folder| image::open(folder.join(format!("frame_{frame:04}.png"))).unwrap().to_rgb8());
        assert_eq!(a.dimensions(), b.dimensions());
        sum += a.iter().zip(b.iter()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>();
        count += a.len();
    }
    (sum / count as f64).sqrt()
}

#[test]
fn a_clip_from_a_gpu_is_the_cpus_but_for_rounding() {
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    let sandbox = Sandbox::new();
    let run = |name: &str, device: &str, more: &[&str]| {
        let out = sandbox.out(name);
        let mut line = tiny_run(&out);
        line.extend(["--device", device].iter().chain(more).map(|s| (*s).to_owned()));
        let outcome = sandbox.run_with(&line, &[(DRIVER, driver)]);
        outcome.ok();
        (out, outcome.stderr)
    };
    let (cpu, _) = run("cpu", "cpu", &[]);
    let (gpu, said) = run("gpu", "cuda:0", &["--cpu-vae"]);
    assert!(said.contains("steps compute on emulated GPU"), "{said}");
    let error = apart(&gpu, &cpu);
    assert!(error > 0.0 && error < 4.0, "{error} of 255");
    // The demo's heads are too narrow for 8 bits, which is told before anything is computed.
    let mut line = tiny_run(&sandbox.out("narrow"));
    line.extend(["--device", "cuda:0", "--attention", "int8"].map(str::to_owned));
    sandbox.run_with(&line, &[(DRIVER, driver)]).fails(2, &["--attention int8", "128 channels", "64"]);
    // Where weights live changes nothing, and where prompts are encoded next to nothing.
    let stream = ["--memory-mode", "stream", "--cpu-vae"];
    let encoder = |place: &'static str| [&stream[..], &[place]].concat();
    let (streamed, _) = run("streamed", "auto", &encoder("--gpu-text-encoder"));
    let (resident, _) = run("resident", "auto", &["--cpu-vae", "--gpu-text-encoder"]);
    assert!(apart(&streamed, &resident) == 0.0);
    let (elsewhere, _) = run("elsewhere", "auto", &encoder("--cpu-text-encoder"));
    let error = apart(&elsewhere, &streamed);
    assert!(error > 0.0 && error < 4.0, "{error} of 255");
}

#[test]
fn poses_are_found_on_a_gpu_where_that_is_asked() {
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    let sandbox = Sandbox::new();
    let [detector, estimator] = pose_networks::write_for(&sandbox, Sight::People, 64, [64, 32]);
    let video = sandbox.work("video");
    pose_folder(&video, 5, 64, 96);
    let run = |name: &str, place: &str| {
        let out = sandbox.out(name);
        let (model, picture) = (fixture("model"), fixture("portrait_9/ref.png"));
        let mut line = vec!["run".to_owned()];
        for (flag, value) in [
            ("--model", &model),
            ("--ref", &picture),
            ("--drive", &video),
            ("--detector", &detector),
            ("--estimator", &estimator),
            ("--output", &out),
        ] {
            line.extend([flag.to_owned(), value.to_str().unwrap().to_owned()]);
        }
        let poses = sandbox.out(&format!("{name}-poses"));
        let more = [
            "--size",
            "64x64",
            "--num-frames",
            "5",
            "--steps",
            "1",
            "--device",
            "cuda",
            "--cpu-text-encoder",
            "--cpu-vae",
        ];
        line.extend(more.iter().chain(&[place, "--debug-dir"]).map(|s| (*s).to_owned()));
        line.push(poses.to_str().unwrap().to_owned());
        sandbox.run_with(&line, &[(DRIVER, driver)]).ok();
        std::fs::read_to_string(poses.join("keypoints.json")).unwrap()
    };
    let cpu = run("cpu.mp4", "--cpu-pose");
    // What was found on the CPU is kept, and not taken for what a GPU finds: scores differ by its rounding.
    let gpu = run("gpu.mp4", "--gpu-pose");
    assert!(gpu != cpu && gpu.len().abs_diff(cpu.len()) < cpu.len() / 10);
    assert!(run("again.mp4", "--gpu-pose") == gpu);
}

#[test]
fn what_the_gpu_is_not_for_is_refused_by_its_flag() {
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    let sandbox = Sandbox::new();
    // The tiny image encoder has heads of 12 channels.
    let mut line = tiny_run(&sandbox.out("a.mp4"));
    line.extend(["--device", "cuda", "--gpu-clip"].map(str::to_owned));
    sandbox.run_with(&line, &[(DRIVER, driver)]).fails(7, &["--gpu-clip", "heads of 12"]);
}

#[test]
fn the_vae_computes_on_the_gpu_unless_it_is_told_not_to() {
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    let sandbox = Sandbox::new();
    let run = |name: &str, more: &[&str]| {
        let out = sandbox.out(name);
        let mut line = tiny_run(&out);
        for (flag, value) in [("--size", "32x32"), ("--num-frames", "5"), ("--steps", "1")] {
            let at = line.iter().position(|word| word == flag).unwrap();
            line[at + 1] = value.to_owned();
        }
        line.extend(["--device", "cuda"].iter().chain(more).map(|s| (*s).to_owned()));
        sandbox.run_with(&line, &[(DRIVER, driver)]).ok();
        out
    };
    let (cpu, gpu) = (run("cpu", &["--cpu-vae"]), run("gpu", &[]));
    let error = apart(&cpu, &gpu);
    assert!(error > 0.0 && error < 2.0, "{error} of 255");
    assert!(apart(&cpu, &run("single", &["--vae-dtype", "f32"])) == 0.0);
}

#[test]
fn a_vae_that_a_gpu_cannot_compute_in_f32_is_refused_there() {
    let Some(driver) = emulated_gpu::library().and_then(Path::to_str) else { return };
    let sandbox = Sandbox::new();
    let mut line = tiny_run(&sandbox.out("a.mp4"));
    line.extend(["--device", "cuda", "--gpu-vae", "--vae-dtype", "f32"].map(str::to_owned));
    sandbox.run_with(&line, &[(DRIVER, driver)]).fails(7, &["--gpu-vae", "bf16", "--vae-dtype f32"]);
}

#[test]
fn a_gpu_that_is_not_there_is_told_and_auto_does_without() {
    let sandbox = Sandbox::new();
    let nowhere = [(DRIVER, "/nowhere/libcuda.so.1")];
    let with = |name: &str, device: &str| {
        let mut line = tiny_run(&sandbox.out(name));
        line.extend(["--device", device].map(str::to_owned));
        sandbox.run_with(&line, &nowhere)
    };
    with("a.mp4", "cuda").fails(7, &["cuda", "/nowhere/libcuda.so.1", "--device cpu"]);
    let outcome = with("b.mp4", "auto");
    outcome.ok();
    assert!(outcome.stderr.contains("computing on the CPU: no NVIDIA driver"), "{}", outcome.stderr);
}
