//! Runs that succeed: what is written, what is said, and that it is the same each time.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Sandbox, fixture, picture, tiny_run};

const PHASES: [&str; 6] = ["pose", "text-encode", "image-encode", "vae-encode", "denoise", "decode"];

pub fn with(arguments: Vec<String>, more: &[&str]) -> Vec<String> {
    arguments.into_iter().chain(more.iter().map(|a| (*a).to_owned())).collect()
}

fn neg_pose() -> String {
    fixture("portrait_9/neg_pose").to_str().unwrap().to_owned()
}

#[test]
fn a_clip_appears_and_stdout_is_its_path() {
    let sandbox = Sandbox::new();
    let out = sandbox.out("clip.mp4");
    let outcome = sandbox.run(&with(tiny_run(&out), &["--neg-pose", &neg_pose(), "--prompt", "a dance"]));
    assert_eq!(outcome.ok(), format!("{}\n", out.display()));
    let bytes = fs::read(&out).unwrap();
    assert_eq!(&bytes[4..8], b"ftyp");
    for text in ["48x64", "9 frames at 16 fps", "seed 106060", "denoise", "predicted", "measured"] {
        assert!(outcome.stderr.contains(text), "{text:?} in {}", outcome.stderr);
    }
    assert!(!outcome.stderr.contains('\u{1b}') && !outcome.stderr.contains('\r'), "no drawing off a terminal");
    let left: Vec<_> = fs::read_dir(sandbox.out("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["clip.mp4"]);
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let sandbox = Sandbox::new();
    let run = |name: &str, more: &[&str]| {
        let out = sandbox.out(name);
        sandbox.run(&with(tiny_run(&out), more)).ok();
        fs::read(out).unwrap()
    };
    let first = run("a.mp4", &["--seed", "7", "--no-metadata"]);
    assert_eq!(first, run("b.mp4", &["--seed", "7", "--no-metadata"]));
    assert_ne!(first, run("c.mp4", &["--seed", "8", "--no-metadata"]));
    assert_eq!(run("d.mp4", &["--prompt", "x"]), run("e.mp4", &["--prompt", "x"]), "metadata included");
}

#[test]
fn metadata_is_written_unless_it_is_not_wanted() {
    let sandbox = Sandbox::new();
    let run = |name: &str, more: &[&str]| {
        let out = sandbox.out(name);
        sandbox.run(&with(tiny_run(&out), more)).ok();
        String::from_utf8_lossy(&fs::read(out).unwrap()).into_owned()
    };
    let with_metadata = run("a.mp4", &["--seed", "424242", "--prompt", "sunset"]);
    assert!(with_metadata.contains("424242") && with_metadata.contains("steadydance"));
    let without = run("b.mp4", &["--seed", "424242", "--prompt", "sunset", "--no-metadata"]);
    assert!(!without.contains("424242") && !without.contains("sunset"));
}

#[test]
fn events_tell_every_phase_in_order() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&with(tiny_run(&sandbox.out("clip.mp4")), &["--json", "--neg-pose", &neg_pose()]));
    let events: Vec<Value> = outcome.ok().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |kind: &str| events.iter().filter(|e| e["event"] == kind).collect::<Vec<_>>();
    assert_eq!(events[0]["event"], "model");
    for kind in ["phase_started", "phase_finished"] {
        assert_eq!(of(kind).iter().map(|e| e["phase"].as_str().unwrap()).collect::<Vec<_>>(), PHASES, "{kind}");
    }
    assert_eq!(of("step").iter().map(|e| e["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for progress in of("progress") {
        assert!(progress["done"].as_u64() <= progress["total"].as_u64(), "{progress}");
    }
    let done = events.last().unwrap();
    assert_eq!(done["event"], "done");
    assert_eq!([&done["width"], &done["height"], &done["num_frames"]], [&json!(48), &json!(64), &json!(9)]);
    assert_eq!((done["fps"].as_f64(), &done["seed"]), (Some(16.0), &json!(106_060)));
    let forwards: u64 = of("step").iter().map(|e| e["forwards"].as_u64().unwrap()).sum();
    assert_eq!(done["forwards"].as_u64(), Some(forwards));
    assert!(!outcome.stderr.contains("error"), "{}", outcome.stderr);
}

#[test]
fn the_embedded_model_needs_no_files_and_brings_its_lora() {
    let sandbox = Sandbox::new();
    picture(96, 96, 3).save(sandbox.work("me.png")).unwrap();
    let pose = fixture("portrait_9/pose");
    let line = ["run", "--ref", "me.png", "--pose", pose.to_str().unwrap(), "--size", "64x64", "--num-frames", "5"];
    let line = [&line[..], &["--steps", "2"]].concat();
    let outcome = sandbox.run(&line);
    assert_eq!(outcome.ok(), "me-dance.mp4\n");
    assert!(outcome.stderr.contains("LoRA demo-4step, strength 1"), "{}", outcome.stderr);
    sandbox.run(&line).fails(2, &["me-dance.mp4", "--force"]);
    let quiet = sandbox.run(&[&line[..], &["--force", "-q"]].concat());
    assert_eq!((quiet.ok(), quiet.stderr.as_str()), ("me-dance.mp4\n", ""));
}

#[test]
fn every_kind_of_output() {
    let sandbox = Sandbox::new();
    for (name, magic) in [("clip.webm", &b"\x1aE\xdf\xa3"[..]), ("clip.gif", b"GIF8")] {
        let out = sandbox.out(name);
        sandbox.run(&tiny_run(&out)).ok();
        assert!(fs::read(&out).unwrap().starts_with(magic), "{name}");
    }
    let folder = sandbox.out("frames");
    sandbox.run(&tiny_run(&folder)).ok();
    let pictures: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "png"))
        .collect();
    assert_eq!(pictures.len(), 9);
    assert_eq!(image::image_dimensions(&pictures[0]).unwrap(), (48, 64));
}

#[test]
fn keypoints_make_a_clip() {
    let sandbox = Sandbox::new();
    picture(64, 96, 2).save(sandbox.work("me.png")).unwrap();
    // A standing figure that raises an arm; joints that are not of the body are not found.
    let person = |raise: f64| {
        let body = [
            (32., 12.),
            (34., 10.),
            (30., 10.),
            (36., 11.),
            (28., 11.),
            (40., 24.),
            (24., 24.),
            (44., 38. - raise),
            (20., 38.),
            (46., 50. - 2. * raise),
            (18., 50.),
            (37., 52.),
            (27., 52.),
            (38., 70.),
            (26., 70.),
            (38., 88.),
            (26., 88.),
        ];
        let keypoints: Vec<_> =
            (0..133).map(|i| body.get(i).map_or(json!([0., 0., 0.]), |(x, y)| json!([x, y, 0.9]))).collect();
        json!({ "people": [{ "keypoints": keypoints }] })
    };
    let mut frames: Vec<_> = (0..9).map(|i| person(f64::from(i))).collect();
    frames[4] = json!({ "people": [] });
    let mut reference = person(0.0);
    (reference["width"], reference["height"]) = (json!(64), json!(96));
    let file = json!({
        "format": "steadydance-keypoints", "version": 1, "width": 64, "height": 96, "fps": 16,
        "reference": reference, "frames": frames,
    });
    sandbox.write("dance.json", file.to_string());
    let line =
        ["run", "--json", "--ref", "me.png", "--keypoints", "dance.json", "--size", "64x96", "--num-frames", "9"];
    let outcome = sandbox.run(&[&line[..], &["--preset", "official", "--steps", "5", "-o", "clip.mp4"]].concat());
    let done: Value = serde_json::from_str(outcome.ok().lines().last().unwrap()).unwrap();
    assert_eq!((&done["event"], &done["num_frames"], &done["height"]), (&json!("done"), &json!(9), &json!(96)));
    // Pose guidance is on: step 2 of 5 lies in its window and takes a third forward.
    assert!(done["forwards"].as_u64().unwrap() > 10, "{done}");
    let missing = ["run", "--ref", "me.png", "--keypoints", "dance.json", "--person", "5", "--num-frames", "9"];
    sandbox.run(&missing).fails(3, &["person"]);
}

#[test]
fn a_dry_run_is_the_plan_and_writes_nothing() {
    let sandbox = Sandbox::new();
    let arguments = with(tiny_run(&sandbox.out("clip.mp4")), &["--neg-pose", &neg_pose()]);
    let dry = sandbox.run(&with(arguments.clone(), &["--dry-run", "--json", "--memory-budget", "4"])).json();
    let mut plan = arguments.clone();
    plan[0] = "plan".to_owned();
    assert_eq!(sandbox.run(&with(plan.clone(), &["--json", "--memory-budget", "4"])).json(), dry);
    assert_eq!([&dry["width"], &dry["height"], &dry["num_frames"]], [&json!(48), &json!(64), &json!(9)]);
    assert_eq!(dry["latent_frames"], 3);
    assert_eq!(dry["tokens"], (3 + 2) * 3 * 4);
    let table = sandbox.run(&plan);
    for text in ["48x64", "denoise", "VAE decode", "peak", "#"] {
        assert!(table.ok().contains(text), "{text} in {}", table.stdout);
    }
    sandbox.assert_nothing_written("plan");
}

#[test]
fn published_models_are_planned_without_their_files() {
    let sandbox = Sandbox::new();
    let line = ["plan", "--model", "steadydancer-14b", "--size", "832x480", "--num-frames", "81", "--json"];
    let plan = |gib: &str| sandbox.run(&[&line[..], &["--memory-budget", gib]].concat()).json();
    let (large, small) = (plan("500"), plan("24"));
    for (plan, gib) in [(&large, 500u64), (&small, 24)] {
        assert_eq!((&plan["tokens"], &plan["forwards"]), (&json!((21 + 2) * 30 * 52), &json!(91)));
        assert!(plan["stages"]["peaks"]["ram_bytes"].as_u64().unwrap() <= gib << 30);
    }
    let denoise = |plan: &Value| {
        let phases = plan["stages"]["phases"].as_array().unwrap().clone();
        phases.into_iter().find(|p| p["phase"] == "denoise").unwrap()["placement"]["ring"].clone()
    };
    assert_eq!((denoise(&large), denoise(&small)), (json!(0), json!(2)));
}

#[test]
fn inspect_says_which_network_a_file_fits() {
    let sandbox = Sandbox::new();
    for (file, component) in [
        ("diffusion_pytorch_model.safetensors.index.json", "dit"),
        ("Wan2.1_VAE.pth", "vae"),
        ("models_t5_umt5-xxl-enc-bf16.pth", "text-encoder"),
        ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth", "image-encoder"),
    ] {
        let path = fixture("model").join(file);
        let found = sandbox.run(&["inspect", path.to_str().unwrap(), "--json"]).json();
        assert_eq!(found["network"]["component"], component, "{file}");
        assert_eq!(found["network"]["deviations"], Value::Null, "{file}");
        assert!(found.get("tensors").is_none() && found["elements"].as_u64().unwrap() > 0);
        let listed = sandbox.run(&["inspect", path.to_str().unwrap(), "--json", "--tensors"]).json();
        let elements: u64 = listed["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["shape"].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).product::<u64>())
            .sum();
        assert_eq!(listed["elements"].as_u64(), Some(elements), "{file}");
        assert!(sandbox.run(&["inspect", path.to_str().unwrap()]).ok().contains("every tensor"), "{file}");
    }
}
