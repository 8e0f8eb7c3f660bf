//! `models pull`, `path`, `verify`, `rm` and `list` against a hub on this machine, and a run with what was pulled.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::hub::{COMMIT, FakeHub, Fault, etag};

use crate::support::{Outcome, Sandbox, fixture, tiny_run, tiny_run_of};

const DWPOSE: &str = "yzd-v/DWPose";
const OFFICIAL: &str = "steadydancer-14b";
const FP16: &str = "steadydancer-14b-fp16";

/// A hub with other bytes under the names of DWPose, so they are asked for by their commit.
fn dwpose() -> FakeHub {
    let hub = FakeHub::new();
    hub.put(DWPOSE, "yolox_l.onnx", content(1)).put(DWPOSE, "dw-ll_ucoco_384.onnx", content(2));
    hub
}

fn content(seed: u8) -> Vec<u8> {
    (0..2_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8 ^ seed).collect()
}

/// A hub with the tiny model under the names of the official one, and something under those of its fp16 form.
fn tiny() -> FakeHub {
    let hub = FakeHub::new();
    let (official, read) = ("MCG-NJU/SteadyDancer-14B", |name: &str| fs::read(fixture("model").join(name)).unwrap());
    let index = "diffusion_pytorch_model.safetensors.index.json";
    hub.put(official, index, String::from_utf8(read(index)).unwrap().replace("-of-00002", "-of-00007"));
    for i in 1..=7 {
        let shard = |of: u32| format!("diffusion_pytorch_model-0000{i}-of-0000{of}.safetensors");
        // The tiny model's index names two of them.
        hub.put(official, &shard(7), if i <= 2 { read(&shard(2)) } else { vec![i as u8; 10] });
    }
    let text = "models_t5_umt5-xxl-enc-bf16.pth";
    let image = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth";
    for name in ["config.json", "Wan2.1_VAE.pth", text, image] {
        hub.put(official, name, read(name));
    }
    let tokenizer = "google/umt5-xxl/tokenizer.json";
    hub.put("Wan-AI/Wan2.1-T2V-1.3B", tokenizer, read(tokenizer));
    for name in [
        "SteadyDancer/Wan21_I2V_SteadyDancer_fp16.safetensors",
        "Wan2_1_VAE_fp32.safetensors",
        "umt5-xxl-enc-bf16.safetensors",
        "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors",
    ] {
        hub.put("Kijai/WanVideo_comfy", name, name);
    }
    hub
}

struct Place {
    sandbox: Sandbox,
    hub: FakeHub,
}

impl Place {
    fn new(hub: FakeHub) -> Self {
        Self { sandbox: Sandbox::new(), hub }
    }

    fn run(&self, line: &str) -> Outcome {
        self.run_with(line, &[])
    }

    fn run_with(&self, line: &str, more: &[(&str, &str)]) -> Outcome {
        let endpoint = self.hub.endpoint();
        let mut variables = vec![("HF_ENDPOINT", endpoint.as_str()), ("NO_PROXY", "127.0.0.1")];
        variables.extend(more);
        self.sandbox.run_with(&line.split(' ').collect::<Vec<_>>(), &variables)
    }

    /// Where the environment of the sandbox puts the cache.
    fn cache(&self) -> PathBuf {
        self.sandbox.work("../.cache/huggingface/hub").components().collect()
    }

    fn listed(&self, name: &str) -> Value {
        let list = self.run("models list --json").json();
        list.as_array().unwrap().iter().find(|m| m["name"] == name).unwrap().clone()
    }
}

fn same_path(a: &str, b: &Path) {
    assert_eq!(fs::canonicalize(a.trim()).unwrap(), fs::canonicalize(b).unwrap());
}

#[test]
fn a_model_is_pulled_found_checked_and_removed() {
    let place = Place::new(dwpose());
    assert_eq!(place.listed("dwpose")["state"], "absent");
    place.run("models path dwpose").fails(4, &["yzd-v/DWPose", "models pull dwpose"]);

    let pulled = place.run(&format!("models pull dwpose --revision {COMMIT}"));
    let folder = place.cache().join("models--yzd-v--DWPose/snapshots").join(COMMIT);
    same_path(pulled.ok(), &folder);
    assert_eq!(pulled.stdout.lines().count(), 1);
    for text in ["2 files", "4.0 MB of 4.0 MB to come", "licence Apache-2.0"] {
        assert!(pulled.stderr.contains(text), "{text:?} in {}", pulled.stderr);
    }
    assert!(!pulled.stderr.contains('\u{1b}') && !pulled.stderr.contains('\r'), "no drawing off a terminal");
    assert_eq!(fs::read(folder.join("yolox_l.onnx")).unwrap(), content(1));
    same_path(place.run("models path dwpose").ok(), &folder);
    let listed = place.listed("dwpose");
    assert_eq!((&listed["state"], &listed["cached_bytes"]), (&"cached".into(), &4_000_000.into()));
    same_path(listed["path"].as_str().unwrap(), &folder);
    assert!(place.run("models list").ok().contains("here, 4.0 MB"));

    let verify = format!("models verify dwpose --revision {COMMIT}");
    let verified = place.run(&format!("{verify} --json")).json();
    assert!(verified.as_array().unwrap().iter().all(|c| c["hashed"] == true && c["damage"].is_null()), "{verified}");
    assert_eq!(place.run(&verify).ok().matches("ok").count(), 2);
    // The table knows the true files, and these are others.
    place.run("models verify dwpose").fails_with_output(4, &["2 of 2 files", "models rm dwpose"]);
    let blob = place.cache().join("models--yzd-v--DWPose/blobs").join(etag(&content(1)));
    let mut wrong = content(1);
    wrong[5] ^= 1;
    fs::write(blob, wrong).unwrap();
    place.run(&verify).fails_with_output(4, &["1 of 2 files", "yolox_l.onnx"]);

    let removed = place.run("models rm dwpose --json").json();
    assert_eq!((&removed["files"], &removed["bytes"]), (&4.into(), &4_000_000.into()));
    assert!(!place.cache().join("models--yzd-v--DWPose").exists());
    place.run("models rm dwpose").fails(4, &["nothing of dwpose"]);
}

#[test]
fn events_tell_a_pull() {
    let place = Place::new(dwpose());
    place.hub.faults([Fault::CutAfter(700_000)]);
    let outcome = place.run(&format!("models pull dwpose --json --revision {COMMIT}"));
    let events: Vec<Value> = outcome.ok().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert_eq!((names[0], *names.last().unwrap()), ("plan", "done"));
    assert_eq!(events[0]["missing_bytes"], 4_000_000);
    let count = |name: &str| names.iter().filter(|n| **n == name).count();
    assert_eq!((count("file_started"), count("retry"), count("file_finished")), (2, 1, 2), "{names:?}");
    same_path(
        events.last().unwrap()["path"].as_str().unwrap(),
        &place.cache().join("models--yzd-v--DWPose/snapshots").join(COMMIT),
    );
    assert!(outcome.stderr.is_empty(), "{}", outcome.stderr);

    place.hub.heads([404]);
    let failed = place.run("models pull dwpose --json");
    failed.fails_with_output(8, &["the hub has no"]);
    let last: Value = serde_json::from_str(failed.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["kind"], &last["exit_code"]), (&"error".into(), &"network".into(), &8.into()));
}

#[test]
fn a_pulled_model_runs_by_its_name() {
    let place = Place::new(tiny());
    let folder = place.run(&format!("models pull {OFFICIAL}")).ok().trim().to_owned();
    assert_eq!(place.listed(OFFICIAL)["state"], "cached");
    // Shapes do not tell everything of so small a model.
    fs::copy(fixture("model/steadydance.json"), Path::new(&folder).join("steadydance.json")).unwrap();
    let (a, b) = (place.sandbox.out("a.mp4"), place.sandbox.out("b.mp4"));
    let named = tiny_run_of(Path::new(OFFICIAL), &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), &a);
    place.sandbox.run(&named).ok();
    place.sandbox.run(&tiny_run(&b)).ok();
    assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
    // A plan of a published name is made from shapes, here or not.
    let plan = place.run(&format!("plan --model {OFFICIAL} --memory-budget 500 --json")).json();
    assert_eq!(plan["width"], 1024);
}

#[test]
fn removing_leaves_what_another_model_needs() {
    let place = Place::new(tiny());
    for name in [OFFICIAL, FP16] {
        place.run(&format!("models pull {name}")).ok();
    }
    let tokenizers = place.cache().join("models--Wan-AI--Wan2.1-T2V-1.3B");
    place.run(&format!("models rm {OFFICIAL}")).ok();
    assert!(!place.cache().join("models--MCG-NJU--SteadyDancer-14B").exists());
    assert_eq!((&place.listed(FP16)["state"], tokenizers.exists()), (&"cached".into(), true));
    place.run(&format!("models verify {FP16}")).ok();
    place.run(&format!("models rm {FP16}")).ok();
    assert!(!tokenizers.exists());
}

#[test]
fn a_pull_that_fails_says_why_and_with_which_code() {
    let place = Place::new(dwpose());
    place.run("models pull dwpose").fails(4, &["yolox_l.onnx", "known", "--revision"]);
    place.run("models pull nonsense").fails(2, &["\"nonsense\"", "dwpose"]);
    place.run("models pull demo").fails(2, &["inside the program"]);
    place.run("models pull dwpose --revision ../../x").fails(2, &["revision"]);
    place.run("models pull dwpose --revision v9").fails(8, &["v9"]);
    place.run_with("models pull dwpose", &[("HF_HUB_OFFLINE", "1")]).fails(8, &["HF_HUB_OFFLINE"]);
    place.run_with("models pull dwpose", &[("HF_ENDPOINT", "nowhere")]).fails(2, &["HF_ENDPOINT"]);
    // No resolver is asked for a label of more than 63 letters.
    let nameless = format!("http://{}.invalid", "x".repeat(64));
    place.run_with("models pull dwpose", &[("HF_ENDPOINT", &nameless)]).fails(8, &["resolved"]);
    place.hub.require_token("hf_right");
    place.run("models pull dwpose").fails(8, &["refuses", "set HF_TOKEN"]);
    place.run_with("models pull dwpose", &[("HF_TOKEN", "hf_wrong")]).fails(8, &["check that the token"]);
    fs::write(place.sandbox.work("token"), "hf_right\n").unwrap();
    let line = format!("models pull dwpose --revision {COMMIT}");
    place.hub.faults([Fault::Corrupt, Fault::Corrupt]);
    place.run_with(&line, &[("HF_TOKEN_PATH", "token")]).fails(4, &["damaged", "was removed"]);
    place.run_with(&line, &[("HF_TOKEN_PATH", "token"), ("HF_HOME", "elsewhere")]).ok();
    assert!(place.sandbox.work("elsewhere/hub/models--yzd-v--DWPose").is_dir());
}

#[test]
fn helpers_are_no_models_to_run() {
    let place = Place::new(dwpose());
    place.run("run --ref a.png --drive b.mp4 --model dwpose").fails(2, &["helper", "steadydancer-14b"]);
    place.run("plan --model dwpose").fails(4, &["no published model"]);
    assert_eq!(place.hub.log(), [], "nothing but `models pull` uses the network");
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_file_to_go_on_with() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    let place = Place::new(dwpose());
    // The rest of each file comes only after this.
    place.hub.delay(std::time::Duration::from_secs(3));
    let mut program = place.sandbox.program();
    program.args(["models", "pull", "dwpose", "--json", "--revision", COMMIT]).env("HF_ENDPOINT", place.hub.endpoint());
    let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(events.any(|l| l.unwrap().contains("file_started")));
    std::thread::sleep(std::time::Duration::from_millis(500));
    Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    let rest: Vec<String> = events.map(|l| l.unwrap()).collect();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("goes on from there"), "{stderr}");
    assert!(rest.last().unwrap().contains("interrupted"), "{rest:?}");
    assert_eq!(place.listed("dwpose")["state"], "partial");

    place.hub.delay(std::time::Duration::ZERO);
    place.run(&format!("models pull dwpose --revision {COMMIT}")).ok();
    let resumed = place.hub.log().iter().filter(|r| r.to_storage && r.headers.contains_key("range")).count();
    assert_eq!(resumed, 2);
}
