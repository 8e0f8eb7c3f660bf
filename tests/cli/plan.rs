//! `plan` for machines that are not this one, the flags of memory, and words of other programs in the environment.

use serde_json::{Value, json};

use crate::run::with;
use crate::support::{Sandbox, tiny_run};

const MODEL: [&str; 6] = ["plan", "--model", "steadydancer-14b-fp8", "--ram-budget", "64", "--size"];

fn plan(sandbox: &Sandbox, more: &[&str]) -> Value {
    sandbox.run(&[&MODEL[..], &["480x832", "--json"], more].concat()).json()
}

fn denoise(plan: &Value) -> Value {
    let phases = plan["stages"]["phases"].as_array().unwrap();
    phases.iter().find(|p| p["phase"] == "denoise").unwrap().clone()
}

#[test]
fn any_card_is_planned_for_without_it() {
    let sandbox = Sandbox::new();
    for (more, mode) in [
        (&["--card", "4090"][..], "stage"),
        (&["--card", "RTX 3060"], "partial"),
        (&["--card", "h200"], "full"),
        (&["--vram-budget", "6"], "partial"),
        (&["--vram-budget", "6", "--memory-mode", "stream"], "stream"),
        (&["--vram-budget", "3", "--memory-mode", "minimal"], "minimal"),
        (&["--card", "4090", "--memory-mode", "cpu"], "cpu"),
    ] {
        let plan = plan(&sandbox, more);
        let stages = &plan["stages"];
        assert_eq!(stages["mode"], mode, "{more:?}");
        let (peak, budget) = (&stages["peaks"]["device_bytes"], &stages["budgets"]["device_bytes"]);
        assert!(peak.as_u64().unwrap() <= budget.as_u64().unwrap(), "{more:?}");
        assert!(stages["seconds"].as_f64().unwrap() > 0.0);
    }
    // A reserve is taken off a card, and a budget is a bound.
    let budget = |more: &[&str]| plan(&sandbox, more)["stages"]["budgets"]["device_bytes"].as_u64().unwrap();
    let card = budget(&["--card", "4090", "--reserve-vram", "0"]);
    assert_eq!(budget(&["--card", "4090"]), card - (1 << 29));
    assert_eq!(budget(&["--card", "4090", "--reserve-vram", "5"]), card - (5 << 30));
    assert_eq!(budget(&["--card", "4090", "--vram-budget", "8"]), 8 << 30);
    // Precision changes sizes.
    let held = |form: &str| denoise(&plan(&sandbox, &["--card", "h200", "--dit-dtype", form]))["weights_bytes"].clone();
    assert!(held("q4_k").as_u64() < held("int8").as_u64() && held("int8").as_u64() < held("bf16").as_u64());
}

#[test]
fn what_does_not_fit_names_a_budget_that_does() {
    let sandbox = Sandbox::new();
    fn line<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&MODEL[..], &["480x832"], more].concat()
    }
    let small = sandbox.run(&line(&["--vram-budget", "1"]));
    small.fails(5, &["of device memory", "1.00 GiB may be used", "--size", "must be available"]);
    let needed = small.stderr.split("at least ").nth(1).unwrap().split(' ').next().unwrap();
    sandbox.run(&line(&["--vram-budget", needed])).ok();
    let stage = ["--vram-budget", "8", "--memory-mode", "stage"];
    sandbox.run(&line(&stage)).fails(5, &["in mode stage", "--memory-mode auto fits"]);
    sandbox.run(&["plan", "--model", "wan2.1-t2v-14b"]).fails(4, &["no pipeline", "steadydancer-14b"]);
}

#[test]
fn the_table_is_plain_text_with_a_drawing() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&[&MODEL[..], &["480x832", "--card", "4070", "--preset", "distill-4step"]].concat());
    let text = outcome.ok();
    for part in ["on RTX 4070", "5 denoise      GPU", "mode partial", "budget 11.49 GiB", "memory over time", "why"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(text.is_ascii(), "{text}");
    // Without a budget for it the RAM is this machine's, which is said.
    let outcome = sandbox.run(&["plan", "--model", "steadydancer-14b-fp8", "--card", "h200"]);
    assert!(outcome.ok().contains("note: RAM is what is available here"), "{}", outcome.stdout);
}

#[test]
fn flags_for_a_gpu_are_told_to_do_nothing_on_a_cpu() {
    let sandbox = Sandbox::new();
    let run = with(tiny_run(&sandbox.out("clip.mp4")), &["--dry-run", "--vram-budget", "2", "--gpu-vae"]);
    let outcome = sandbox.run(&run);
    assert!(outcome.ok().contains("note: --gpu-vae, --vram-budget do nothing here"), "{}", outcome.stdout);
    // The same flags plan for a card.
    let mut plan = with(tiny_run(&sandbox.out("clip.mp4")), &["--vram-budget", "2", "--gpu-vae", "--json"]);
    plan[0] = "plan".to_owned();
    assert_eq!(denoise(&sandbox.run(&plan).json())["on"], "device");
    let fp8 = with(tiny_run(&sandbox.out("clip.mp4")), &["--dry-run", "--dit-dtype", "fp8"]);
    sandbox.run(&fp8).fails(4, &["--dit-dtype fp8", "convert"]);
}

#[test]
fn large_models_multiply_in_bf16_on_a_cpu_and_say_so() {
    let sandbox = Sandbox::new();
    let plan = |model: &str, more: &[&str]| {
        let line = ["plan", "--model", model, "--size", "64x64", "--num-frames", "5", "--ram-budget", "500", "--json"];
        let plan = sandbox.run(&[&line[..], more].concat()).json();
        (plan["compute"].as_str().unwrap().to_owned(), plan["notes"].to_string().contains("--compute f32"))
    };
    let of = |compute: &str, told| (compute.to_owned(), told);
    assert_eq!(plan("steadydancer-14b", &[]), of("bf16", true));
    assert_eq!(plan("steadydancer-14b", &["--compute", "int8"]), of("int8", true));
    assert_eq!(plan("steadydancer-14b", &["--compute", "f32"]), of("f32", false));
    // A card computes by itself.
    assert_eq!(plan("steadydancer-14b", &["--card", "4090"]), of("bf16", false));
    assert!(sandbox.run(&["plan", "--compute", "f64"]).stderr.contains("--compute"));
}

#[test]
fn attention_in_eight_bits_is_for_cards() {
    let sandbox = Sandbox::new();
    let plan = |more: &[&str]| {
        let line = ["plan", "--model", "steadydancer-14b", "--size", "64x64", "--num-frames", "5", "--json"];
        let plan = sandbox.run(&[&line[..], more].concat()).json();
        (
            plan["attention"].as_str().unwrap().to_owned(),
            plan["notes"].to_string().contains("--attention int8 does nothing"),
        )
    };
    let of = |attention: &str, told| (attention.to_owned(), told);
    assert_eq!(plan(&["--card", "4090"]), of("bf16", false));
    assert_eq!(plan(&["--card", "4090", "--attention", "int8"]), of("int8", false));
    assert_eq!(plan(&["--ram-budget", "500", "--attention", "int8"]), of("int8", true));
    assert!(sandbox.run(&["plan", "--attention", "fp4"]).stderr.contains("--attention"));
}

#[test]
fn quality_profiles_change_the_picture_and_say_so() {
    let sandbox = Sandbox::new();
    let low = |more: &[&str]| {
        let line = ["plan", "--model", "steadydancer-14b", "--ram-budget", "500", "--quality-profile", "low", "--json"];
        sandbox.run(&[&line[..], more].concat()).json()
    };
    let plan = low(&[]);
    assert_eq!([&plan["width"], &plan["height"], &plan["num_frames"]], [&json!(384), &json!(384), &json!(33)]);
    let steps = |plan: &Value| plan["schedule"]["timesteps"].as_array().unwrap().len();
    assert_eq!((steps(&plan), &plan["stages"]["quality"]), (25, &json!("low")));
    let notes = plan["notes"].to_string();
    assert!(notes.contains("quality profile low changes the picture: 384x384, 33 frames, 25 steps"), "{notes}");
    // What is asked for by itself wins, and distilled steps stay.
    let plan = low(&["--size", "64x32", "--num-frames", "5", "--steps", "3"]);
    assert_eq!([&plan["width"], &plan["num_frames"], &json!(steps(&plan))], [&json!(64), &json!(5), &json!(3)]);
    assert_eq!(steps(&low(&["--preset", "distill-4step"])), 4);
    // In a run the aspect is the picture's.
    let mut run = tiny_run(&sandbox.out("clip.mp4"));
    let size = run.iter().position(|a| a == "--size");
    size.into_iter().for_each(|at| drop(run.drain(at..at + 2)));
    let plan = sandbox.run(&with(run, &["--dry-run", "--json", "--quality-profile", "emergency"])).json();
    let area = plan["width"].as_u64().unwrap() * plan["height"].as_u64().unwrap();
    assert!(area <= 96 * 96 && plan["width"] != plan["height"], "{plan}");
}

#[test]
fn words_of_other_programs_are_read_from_the_environment() {
    let sandbox = Sandbox::new();
    let line = [&MODEL[..], &["480x832", "--json", "--vram-budget", "24"]].concat();
    let mode = |more: &[&str], variables: &[(&str, &str)]| {
        let outcome = sandbox.run_with(&[&line[..], more].concat(), variables);
        (outcome.json()["stages"]["mode"].clone(), outcome.stderr)
    };
    assert_eq!(mode(&[], &[("COMFYUI_ARGS", "--lowvram")]).0, "stream");
    assert_eq!(mode(&[], &[("GPU_MEMORY_MODE", "sequential_cpu_offload")]).0, "stream");
    assert_eq!(mode(&[], &[("GPU_TIER", "DATACENTER_80GB")]).0, "stage");
    assert_eq!(mode(&["--memory-mode", "minimal"], &[("COMFYUI_ARGS", "--lowvram")]).0, "minimal");
    let (found, warnings) = mode(&[], &[("COMFYUI_ARGS", "--novram --port 8188"), ("VRAM_MODE", "odd")]);
    assert_eq!(found, "minimal");
    assert!(warnings.contains("--port 8188") && warnings.contains("VRAM_MODE=odd"), "{warnings}");
    let outcome = sandbox.run_with(&line, &[("COMFYUI_ARGS", "--lowvram --novram")]);
    outcome.fails(2, &["--lowvram", "--novram", "contradict"]);
}

#[test]
fn a_probe_measures_this_machine_and_times_follow() {
    let sandbox = Sandbox::new();
    let line = ["plan", "--model", "steadydancer-14b-fp8", "--size", "256x256", "--num-frames", "5", "--json"];
    let probed = sandbox.run(&[&line[..], &["--probe"]].concat()).json();
    let note =
        probed["notes"].as_array().unwrap().iter().find_map(|n| n.as_str().filter(|n| n.starts_with("probed: ")));
    let note = note.unwrap_or_else(|| panic!("{probed}"));
    for part in ["GFLOP/s in f32", "in bf16", "in int8", "the disk reads"] {
        assert!(note.contains(part), "{note}");
    }
    let usual = sandbox.run(&line).json();
    let seconds = |plan: &Value| plan["stages"]["phases"][4]["seconds"].as_f64().unwrap();
    assert!(seconds(&probed) > 0.0 && seconds(&probed) != seconds(&usual), "{} {}", seconds(&probed), seconds(&usual));
    assert_eq!(probed["stages"]["phases"][4]["peaks"], usual["stages"]["phases"][4]["peaks"]);
}

#[test]
fn the_whole_program_stays_within_its_plan_and_near_it() {
    let sandbox = Sandbox::new();
    let media = |name: &str| format!("{}/examples/media/{name}", env!("CARGO_MANIFEST_DIR"));
    let (picture, keypoints, out) = (media("reference-2.png"), media("dance-3.json"), sandbox.out("clip.mp4"));
    let line = ["run", "-q", "--ref", &picture, "--keypoints", &keypoints, "--size", "160x224", "--num-frames", "17"];
    let report = sandbox.work("memory.json");
    let files = ["-o", out.to_str().unwrap(), "--mem-report", report.to_str().unwrap()];
    sandbox.run(&[&line[..], &files].concat()).ok();
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let [measured, predicted] = ["measured_peak_bytes", "predicted_peak_bytes"].map(|k| report[k].as_f64().unwrap());
    assert!(measured <= predicted && predicted <= 1.5 * measured, "measured {measured}, predicted {predicted}");
}
