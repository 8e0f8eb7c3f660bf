//! `models pull`, `path`, `verify`, `rm` and `list` against a hub on this machine, and a run with what was pulled.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use testkit::hub::{COMMIT, FakeHub, Fault, etag};

use crate::support::{Outcome, Sandbox, fixture, tiny_run, tiny_run_of};

const DWPOSE: &str = "yzd-v/DWPose";
const OFFICIAL: &str = "steadydancer-14b";
const FP16: &str = "steadydancer-14b-fp16";
const OFFICIAL_REPOSITORY: &str = "MCG-NJU/SteadyDancer-14B";
const TOKENIZER_REPOSITORY: &str = "Wan-AI/Wan2.1-T2V-1.3B";
const KIJAI: &str = "Kijai/WanVideo_comfy";

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
    let (official, read) = (OFFICIAL_REPOSITORY, |name: &str| fs::read(fixture("model").join(name)).unwrap());
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
    hub.put(TOKENIZER_REPOSITORY, tokenizer, read(tokenizer));
    for name in [
        "SteadyDancer/Wan21_I2V_SteadyDancer_fp16.safetensors",
        "Wan2_1_VAE_fp32.safetensors",
        "umt5-xxl-enc-bf16.safetensors",
        "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors",
    ] {
        hub.put(KIJAI, name, name);
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

    /// Pulls a whole repository: the tables know hashes of some files, and those on this hub are others.
    fn pull(&self, repositories: &[&str]) -> String {
        let pulled = repositories.iter().map(|r| self.run(&format!("models pull {r}")).ok().trim().to_owned());
        pulled.collect::<Vec<_>>().swap_remove(0)
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
    // The tokenizer of another repository belongs to it.
    let folder = place.pull(&[OFFICIAL_REPOSITORY]);
    let listed = place.listed(OFFICIAL);
    assert_eq!(
        (&listed["state"], &listed["missing"][0]["repository"]),
        (&"partial".into(), &TOKENIZER_REPOSITORY.into())
    );
    assert!(place.run("models list").ok().contains("1 of 13 files missing; steadydance models pull steadydancer-14b"));
    let run = |model: &Path, out: &Path| {
        let line = tiny_run_of(model, &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), out);
        place.sandbox.run(&line)
    };
    run(Path::new(OFFICIAL), &place.sandbox.out("a.mp4")).fails(4, &["`steadydance models pull steadydancer-14b`"]);
    place
        .run(&format!("models pull {OFFICIAL}"))
        .fails(4, &["tokenizer.json of Wan-AI/", "known", "--include google/umt5"]);
    place.pull(&[TOKENIZER_REPOSITORY]);
    assert_eq!(place.listed(OFFICIAL)["state"], "cached");
    let parts = place.run(&format!("models path {OFFICIAL} --parts"));
    let parts: Vec<(&str, &str)> = parts.ok().lines().map(|l| l.split_once('\t').unwrap()).collect();
    assert_eq!(parts.len(), 13);
    let part = |name: &str| parts.iter().find(|(p, _)| *p == name).unwrap().1;
    assert!(part("tokenizer").contains("Wan2.1-T2V-1.3B") && part("vae").ends_with("Wan2.1_VAE.pth"));
    assert!(parts.iter().all(|(_, path)| Path::new(path).is_file()));
    // Shapes do not tell everything of so small a model.
    fs::copy(fixture("model/steadydance.json"), Path::new(&folder).join("steadydance.json")).unwrap();
    let (a, b) = (place.sandbox.out("a.mp4"), place.sandbox.out("b.mp4"));
    run(Path::new(OFFICIAL), &a).ok();
    place.sandbox.run(&tiny_run(&b)).ok();
    assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
    // A plan of a published name is made from shapes, here or not.
    let plan = place.run(&format!("plan --model {OFFICIAL} --memory-budget 500 --json")).json();
    assert_eq!(plan["width"], 1024);
}

#[test]
fn removing_leaves_what_another_model_needs() {
    let place = Place::new(tiny());
    place.pull(&[OFFICIAL_REPOSITORY, TOKENIZER_REPOSITORY, KIJAI]);
    let tokenizers = place.cache().join("models--Wan-AI--Wan2.1-T2V-1.3B");
    place.run("models rm umt5-tokenizer").fails(4, &["nothing of umt5-tokenizer was removed", OFFICIAL, FP16]);
    assert!(place.run(&format!("models rm {OFFICIAL}")).ok().contains("1 kept for other models"));
    assert!(!place.cache().join("models--MCG-NJU--SteadyDancer-14B").exists());
    assert_eq!((&place.listed(FP16)["state"], tokenizers.exists()), (&"cached".into(), true));
    place.run(&format!("models verify {KIJAI}")).ok();
    place
        .run(&format!("models verify {FP16}"))
        .fails_with_output(4, &["2 of 5 files", "umt5-xxl-enc-bf16.safetensors"]);
    place.run(&format!("models rm {FP16}")).ok();
    assert!(!place.cache().join("models--Kijai--WanVideo_comfy").exists());
    assert!(!tokenizers.exists());
}

#[test]
fn a_pull_that_fails_says_why_and_with_which_code() {
    let place = Place::new(dwpose());
    place.run("models pull dwpose").fails(4, &["yolox_l.onnx", "known", "--revision"]);
    place.run("models pull nonsense").fails(2, &["\"nonsense\"", "models list --all"]);
    place.run("models pull steadydancer-14b-fp9").fails(2, &["did you mean steadydancer-14b-fp8"]);
    place.run("models pull dwpose --include *.onnx").fails(2, &["--include is for ORG/NAME"]);
    place.run("models pull dwpose --jobs 0").fails(2, &["--jobs"]);
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
fn any_repository_is_pulled_by_its_name_and_patterns() {
    let place = Place::new(FakeHub::new());
    for (file, bytes) in [("a.bin", content(1)), ("b/c.bin", content(2)), ("b/d.json", vec![1]), ("e.txt", vec![2])] {
        place.hub.put("org/any", file, bytes);
    }
    place.run("models path org/any").fails(4, &["nothing of org/any", "models pull org/any"]);
    let pulled = place.run(&format!("models pull org/any@{COMMIT} --include *.bin --include b/*"));
    let folder = place.cache().join("models--org--any/snapshots").join(COMMIT);
    same_path(pulled.ok(), &folder);
    assert!(pulled.stderr.contains("3 files, 4.0 MB of 4.0 MB to come; licence on its page"), "{}", pulled.stderr);
    assert!(folder.join("b/d.json").is_file() && !folder.join("e.txt").exists());
    same_path(place.run("models path org/any").ok(), &folder);
    assert_eq!(place.run("models verify org/any").ok().matches("ok").count(), 3);
    same_path(place.run("models pull org/any --include e.txt").ok(), &folder.join("e.txt"));

    place.run("models pull org/any --include *.gguf").fails(2, &["no file for --include *.gguf", "4 files: a.bin"]);
    place.run("models pull org/any --include [").fails(2, &["--include", "no pattern"]);
    place.run("models pull org/any@v1 --revision v2").fails(2, &["two revisions"]);
    place.run("models pull org/none").fails(8, &["the hub has no", "org/none"]);
    place.run("models pull ../../x").fails(2, &["repository", "ORGANISATION/NAME"]);
    place.hub.announce_listing(&format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{{\"rfilename\":\"../../evil\"}}]}}"));
    place.run("models pull org/any").fails(8, &["../../evil", "no file inside a repository"]);

    assert_eq!(place.run("models rm org/any --json").json()["bytes"], 4_000_002);
    assert!(!place.cache().join("models--org--any").exists());
    place.run("models rm org/any").fails(4, &["nothing of org/any"]);
    let blobs = place.cache().join("models--org--any/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", "a".repeat(64))), "half").unwrap();
    assert_eq!(place.run("models rm org/any --json").json()["bytes"], 4);
    assert!(!blobs.exists());
}

#[test]
fn names_stand_for_parts_and_loras_too() {
    let place = Place::new(dwpose());
    let run = |more: &str| place.run(&format!("run --ref a.png --drive b.mp4 --model steadydancer-14b{more}"));
    run(" --lora lightx2v-i2v-14b-rank64:0.8").fails(4, &["`steadydance models pull lightx2v-i2v-14b-rank64`"]);
    run(" --lora dwpose").fails(2, &["dwpose", "has nothing for --lora"]);
    run("").fails(4, &["`steadydance models pull steadydancer-14b`"]);
    place
        .run("run --ref a.png --drive b.mp4 --model steadydancer-14b-fp9")
        .fails(4, &["did you mean steadydancer-14b-fp8"]);
    // A plan needs no weights, of whatever packaging.
    let plan = |name: &str| place.run(&format!("plan --model {name} --memory-budget 500 --json")).json();
    assert_eq!(plan("steadydancer-14b-fp8")["tokens"], plan("steadydancer-14b-q5_k_m")["tokens"]);
    assert_eq!(place.hub.log(), []);
}

#[test]
fn the_list_shows_what_matters_first() {
    let place = Place::new(dwpose());
    let names = |line: &str| -> Vec<String> {
        let text = place.run(line);
        let heads = text.ok().lines().filter(|l| !l.starts_with(' '));
        heads.map(|l| l.split(' ').next().unwrap().to_owned()).collect()
    };
    let (short, all) = (names("models list"), names("models list --all"));
    assert!(short.len() < all.len() && all.contains(&"wan2.1-vae".to_owned()), "{short:?}");
    for name in ["demo", "steadydancer-14b-fp8", "dwpose", "lightx2v-i2v-14b-rank64"] {
        assert!(short.contains(&name.to_owned()), "{name}");
    }
    assert_eq!(names("models list DWPose"), ["dwpose"]);
    assert!(place.run("models list nothing-has-this").stderr.contains("nothing-has-this"));
    assert_eq!(place.run("models list --json").json().as_array().unwrap().len(), all.len());
    let listed = place.listed("steadydancer-14b-fp8");
    let missing = listed["missing"].as_array().unwrap();
    assert_eq!((missing.len(), &listed["state"]), (5, &"absent".into()));
}

#[test]
fn two_programs_that_pull_the_same_download_it_once() {
    use std::process::Stdio;
    let place = Place::new(dwpose());
    place.hub.delay(std::time::Duration::from_millis(500));
    let start = || {
        let mut program = place.sandbox.program();
        program.args(["models", "pull", DWPOSE]).env("HF_ENDPOINT", place.hub.endpoint()).env("NO_PROXY", "127.0.0.1");
        program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let folder = place.cache().join("models--yzd-v--DWPose/snapshots").join(COMMIT);
    for child in [start(), start(), start()] {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        same_path(&String::from_utf8(output.stdout).unwrap(), &folder);
    }
    assert_eq!(place.hub.downloads(), 2);
    assert_eq!(fs::read(folder.join("yolox_l.onnx")).unwrap(), content(1));
}

#[test]
fn a_killed_pull_goes_on_later() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let place = Place::new(dwpose());
    // The rest of each file comes only after this.
    place.hub.delay(std::time::Duration::from_secs(60));
    let mut program = place.sandbox.program();
    program.args(["models", "pull", DWPOSE, "--json"]).env("HF_ENDPOINT", place.hub.endpoint());
    let mut child = program.env("NO_PROXY", "127.0.0.1").stdout(Stdio::piped()).spawn().unwrap();
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(events.any(|l| l.unwrap().contains("\"progress\"")));
    let blobs = place.cache().join("models--yzd-v--DWPose/blobs");
    let unfinished = |bytes: &[u8]| blobs.join(format!("{}.incomplete", etag(bytes)));
    let here = |seed: u8| fs::metadata(unfinished(&content(seed))).map_or(0, |i| i.len());
    while here(1) < 900_000 || here(2) < 900_000 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // SIGKILL: nothing can be put in order.
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(place.listed("dwpose")["state"], "partial");
    assert!(!place.cache().join("models--yzd-v--DWPose/refs").exists());

    place.hub.delay(std::time::Duration::ZERO);
    let folder = place.run(&format!("models pull {DWPOSE}")).ok().trim().to_owned();
    for (file, seed) in [("yolox_l.onnx", 1), ("dw-ll_ucoco_384.onnx", 2)] {
        assert_eq!(fs::read(Path::new(&folder).join(file)).unwrap(), content(seed));
        assert!(!unfinished(&content(seed)).exists());
    }
    let resumed = place.hub.log().iter().filter(|r| r.to_storage && r.headers.contains_key("range")).count();
    assert_eq!(resumed, 2);
}

#[test]
fn helpers_are_no_models_to_run() {
    let place = Place::new(dwpose());
    place
        .run("run --ref a.png --drive b.mp4 --model dwpose")
        .fails(2, &["DWPose", "makes no clip", "steadydancer-14b"]);
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
