//! `eval`: sets, reports, comparisons, interruptions, and sets of every bad kind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::pose_networks::{self, Sight};
use crate::support::{Outcome, Sandbox, fixture, model_copy, pose_folder};

fn set() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/eval")
}

/// The demo model on two pairs, as short as can be.
fn eval(sandbox: &Sandbox, set: &Path, output: &str, more: &[&str]) -> Outcome {
    let output = sandbox.out(output);
    let mut arguments = vec!["eval", set.to_str().unwrap(), "-o", output.to_str().unwrap()];
    for (flag, value) in [("--num-frames", "5"), ("--steps", "1"), ("--pairs", "2")] {
        if !more.contains(&flag) {
            arguments.extend([flag, value]);
        }
    }
    arguments.extend(more);
    sandbox.run(&arguments)
}

fn report(sandbox: &Sandbox, output: &str) -> Value {
    serde_json::from_slice(&fs::read(sandbox.out(output).join("report.json")).unwrap()).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_report_tells_all_and_shows_all() {
    let sandbox = Sandbox::new();
    let outcome = eval(&sandbox, &set(), "a", &["--keep-videos"]);
    assert_eq!(outcome.ok(), format!("{}\n", sandbox.out("a").display()));
    for text in ["0001 (2 of 2): figure", "over the baselines", "gain over the better baseline", "of joints right"] {
        assert!(outcome.stderr.contains(text), "{text} in {}", outcome.stderr);
    }
    assert_eq!(names(&sandbox.out("")), ["a"], "nothing unfinished is left");
    assert_eq!(names(&sandbox.out("a")), ["index.html", "report.json", "sheets", "videos"]);
    assert_eq!(names(&sandbox.out("a/sheets")), ["0000.jpg", "0001.jpg"]);
    assert_eq!(names(&sandbox.out("a/videos")), ["0000.mp4", "0001.mp4"]);

    let report = report(&sandbox, "a");
    assert_eq!((&report["format"], &report["version"]), (&"steadydance-eval-report".into(), &1.into()));
    assert_eq!((&report["drive"], &report["num_frames"]), (&"keypoints".into(), &5.into()));
    assert_eq!(report["settings"]["num_inference_steps"], 1);
    assert!(report["settings"]["seed"].is_u64());
    // The demo model brings the networks that judge its puppets; exact keypoints need none to drive.
    assert_eq!((&report["judge"]["detector"], &report["judge"]["same_as_driver"]), (&"embedded".into(), &false.into()));
    assert_eq!(report["model"]["identity"].as_str().map(str::len), Some(64));
    for pair in report["pairs"].as_array().unwrap() {
        let scores = &pair["scores"];
        let db = |key: &str| scores[key].as_f64().unwrap();
        assert!(db("psnr") > 3.0 && db("psnr") < 60.0, "{scores}");
        let best = db("baseline_repeat").max(db("baseline_warp"));
        assert!((db("gain") - (db("psnr_figure") - best)).abs() < 1e-9);
        assert!(db("first_frame") > 3.0 && db("first_frame_vae") > 3.0);
        assert!(scores["pck"].is_f64() && pair["seconds"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(report["summary"]["psnr"]["pairs"], 2);

    let page = fs::read_to_string(sandbox.out("a/index.html")).unwrap();
    assert_eq!(page.matches("data:image/jpeg;base64,").count(), 2);
    for absent in ["<script", "http://", "https://", "<link"] {
        assert!(!page.contains(absent), "{absent}");
    }
}

/// The embedded model does what it is for, and its LoRA what that is for.
#[test]
fn the_demo_model_moves_the_figure_better_with_its_lora() {
    let sandbox = Sandbox::new();
    let mean = |output: &str, more: &[&str]| {
        let line = ["--pairs", "15..18", "--num-frames", "17", "--steps", "4", "--drive", "exact"];
        eval(&sandbox, &set(), output, &[&line[..], more].concat()).ok();
        let report = report(&sandbox, output);
        let of = |metric: &str| report["summary"][metric]["mean"].as_f64().unwrap();
        ["gain", "psnr", "first_frame_vae"].map(of)
    };
    let [gain, psnr, first_frame] = mean("with", &[]);
    let [without, ..] = mean("without", &["--lora", "demo-4step:0"]);
    assert!(gain > 3.2, "{gain} dB over repeating or warping the reference");
    assert!(gain > without + 0.1, "{gain} dB with the LoRA, {without} without");
    assert!(psnr > 20.0 && first_frame > 30.0, "the picture {psnr} dB, its first frame {first_frame}");
}

#[test]
fn the_same_evaluation_gives_the_same_numbers_and_comparisons_find_a_fall() {
    let sandbox = Sandbox::new();
    let first = eval(&sandbox, &set(), "a", &["--pairs", "1..2", "--drive", "exact", "--json"]);
    let events: Vec<Value> = first.ok().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["comparison"]), (&"evaluated".into(), &Value::Null));
    assert!(events.iter().any(|e| e["event"] == "pair_finished" && e["name"] == "0001"));
    assert!(!first.stdout.contains("keep their proportions"), "exact poses need no reference");

    let path = sandbox.out("a/report.json");
    let compare = ["--pairs", "1..2", "--drive", "exact", "--compare", path.to_str().unwrap()];
    let again = eval(&sandbox, &set(), "b", &compare);
    assert_eq!(report(&sandbox, "a")["pairs"][0]["scores"], report(&sandbox, "b")["pairs"][0]["scores"]);
    assert!(again.ok().contains("PSNR, figure") && again.stdout.contains("+0.000 dB"), "{}", again.stdout);
    assert!(!again.stdout.contains("worse") && !again.stdout.contains("note:"), "{}", again.stdout);

    // An earlier report that was better by a decibel.
    let mut better = report(&sandbox, "a");
    let psnr = better["pairs"][0]["scores"]["psnr"].as_f64().unwrap();
    better["pairs"][0]["scores"]["psnr"] = (psnr + 1.0).into();
    fs::write(&path, better.to_string()).unwrap();
    let worse = eval(&sandbox, &set(), "c", &compare);
    worse.fails_with_output(1, &["PSNR, picture fell by 1.00 dB", "--tolerance-db"]);
    assert!(sandbox.out("c/report.json").is_file() && worse.stdout.contains("worse"));
    let tolerant = [&compare[..], &["--tolerance-db", "1.5"]].concat();
    eval(&sandbox, &set(), "d", &tolerant).ok();

    // A report that cannot be compared is refused before clips are made.
    eval(&sandbox, &set(), "e", &["--pairs", "3..4", "--compare", path.to_str().unwrap()]).fails(2, &["no pair"]);
    let mut other = report(&sandbox, "a");
    for name in ["psnr", "psnr_figure"] {
        other["pairs"][0]["scores"].as_object_mut().unwrap().remove(name);
    }
    fs::write(sandbox.work("other.json"), other.to_string()).unwrap();
    eval(&sandbox, &set(), "e", &["--pairs", "1..2", "--compare", "other.json"]).fails(3, &["other.json", "PSNR"]);
    other["set"]["frames"] = 17.into();
    fs::write(sandbox.work("other.json"), other.to_string()).unwrap();
    eval(&sandbox, &set(), "e", &["--compare", "other.json"]).fails(2, &["another set", "frames is 17"]);

    // Ready-made videos; those of another length or size are refused.
    let videos = sandbox.work("videos");
    pose_folder(&videos.join("0001"), 5, 160, 224);
    let ready = ["--pairs", "1..2", "--outputs", videos.to_str().unwrap()];
    eval(&sandbox, &set(), "e", &ready).ok();
    let found = report(&sandbox, "e");
    assert!(found["model"].is_null() && found["settings"].is_null() && found["pairs"][0]["scores"]["psnr"].is_f64());
    eval(&sandbox, &set(), "f", &["--pairs", "2", "--outputs", videos.to_str().unwrap()]).fails(3, &["0000.mp4"]);
    eval(&sandbox, &set(), "f", &[&ready[..], &["--num-frames", "9"]].concat()).fails(3, &["5 frames, 9 are needed"]);
    assert_eq!(names(&sandbox.out("")), ["a", "b", "c", "d", "e"]);
}

/// A copy of the first pairs of the set that may be damaged.
fn set_copy(sandbox: &Sandbox) -> PathBuf {
    let copy = sandbox.work("set");
    for pair in ["0000", "0001", "0002"] {
        fs::create_dir_all(copy.join(pair)).unwrap();
        for entry in fs::read_dir(set().join(pair)).unwrap().map(Result::unwrap) {
            fs::copy(entry.path(), copy.join(pair).join(entry.file_name())).unwrap();
        }
    }
    fs::copy(set().join("set.json"), copy.join("set.json")).unwrap();
    copy
}

#[test]
fn finished_pairs_outlive_a_failure() {
    let sandbox = Sandbox::new();
    let set = set_copy(&sandbox);
    // The header is whole, the frames are not: found out when the pair's turn comes.
    let truth = set.join("0001/truth.mp4");
    let whole = fs::read(&truth).unwrap();
    let mut damaged = whole.clone();
    let start = damaged.windows(4).position(|w| w == b"mdat").unwrap() + 4;
    let end = damaged.windows(4).rposition(|w| w == b"moov").unwrap().max(start + 1000);
    let end = if end > damaged.len() - 4 { damaged.len() } else { end - 4 };
    damaged[start..end].fill(0);
    fs::write(&truth, &damaged).unwrap();
    let broken = eval(&sandbox, &set, "a", &["--pairs", "3"]);
    broken.fails(3, &["truth.mp4"]);
    assert!(broken.stderr.contains("1 finished pair(s) are kept"), "{}", broken.stderr);
    assert_eq!(names(&sandbox.out("")), ["a.unfinished"]);
    fs::write(&truth, &whole).unwrap();

    // Nothing else makes it go: other settings, a mistake, another process, a file of somebody else.
    let before = names(&sandbox.out("a.unfinished"));
    eval(&sandbox, &set, "a", &["--seed", "7"]).fails(2, &["settings.seed", "--restart", "1 pair(s)"]);
    eval(&sandbox, &set, "a", &["--judge-pose", "gone.onnx", "--restart"]).fails(4, &["detector"]);
    let lock = fs::File::options().write(true).open(sandbox.out("a.unfinished/lock")).unwrap();
    lock.lock().unwrap();
    eval(&sandbox, &set, "a", &[]).fails(2, &["in use"]);
    drop(lock);
    fs::write(sandbox.out("a.unfinished/mine.jpg"), "").unwrap();
    eval(&sandbox, &set, "a", &["--seed", "7", "--restart"]).fails(2, &["mine.jpg"]);
    fs::remove_file(sandbox.out("a.unfinished/mine.jpg")).unwrap();
    assert_eq!(names(&sandbox.out("a.unfinished")), before);

    // Which pairs are asked for is no other setting.
    let resumed = eval(&sandbox, &set, "a", &[]);
    resumed.ok();
    assert!(
        resumed.stderr.contains("going on from") && resumed.stderr.contains("known from before"),
        "{}",
        resumed.stderr
    );
    assert_eq!(names(&sandbox.out("")), ["a"]);
    assert_eq!(report(&sandbox, "a")["pairs"].as_array().map(Vec::len), Some(2));
}

#[test]
fn bad_sets_and_settings_are_refused_before_anything_is_made() {
    let sandbox = Sandbox::new();
    let refused = |file: &str, content: Option<&[u8]>, mentions: &[&str]| {
        let set = set_copy(&sandbox);
        match content {
            Some(content) => fs::write(set.join(file), content).unwrap(),
            None => fs::remove_file(set.join(file)).unwrap(),
        }
        eval(&sandbox, &set, "x", &[]).fails(3, mentions);
    };
    refused("0001/mask.mp4", None, &["0001/mask.mp4"]);
    refused("0001/mask.mp4", Some(b"noise"), &["0001/mask.mp4"]);
    refused("0000/pose.json", Some(b"{\"format\": "), &["0000/pose.json"]);
    refused("0000/prompt.txt", None, &["0000/prompt.txt"]);
    refused("0000/reference.png", Some(&crate::support::png(32, 32)), &["reference.png", "32x32", "160x224"]);
    refused("set.json", Some(b"[]"), &["set.json"]);
    let driving = fs::read(set().join("0000/driving.mp4")).unwrap();
    refused("0001/truth.mp4", Some(&driving), &["0001/truth.mp4", "the set 160x224"]);
    let head = fs::read_to_string(set().join("set.json")).unwrap();
    let slower = head.replacen("\"fps\": 16", "\"fps\": 12", 1);
    assert_ne!(slower, head);
    refused("set.json", Some(slower.as_bytes()), &["0000/truth.mp4", "16.000 frames a second, the set 12"]);
    let short = sandbox.work("set/0001/mask");
    pose_folder(&short, 4, 160, 224);
    let copy = set_copy(&sandbox);
    eval(&sandbox, &copy, "x", &[]).fails(3, &["0001/mask", "4 frames, the set 33"]);

    let usage = |more: &[&str], mentions: &[&str]| eval(&sandbox, &set(), "x", more).fails(2, mentions);
    usage(&["--pairs", "99..100"], &["the set has 32"]);
    usage(&["--size", "64x64"], &["size is 64x64", "160x224"]);
    usage(&["--fps", "8"], &["fps is 8"]);
    for flag in ["--size-rule=area", "--timing=one-to-one", "--audio=none", "--no-metadata"] {
        usage(&[flag], &[flag.split('=').next().unwrap(), "no effect"]);
    }
    usage(&["--num-frames", "81"], &["num_frames is 81", "33"]);
    usage(&["--tolerance-db", "-1"], &["tolerance"]);
    usage(&["--compare", "x", "--drive", "by-car"], &["by-car"]);
    eval(&sandbox, &set(), "x", &["--compare", "gone.json"]).fails(3, &["gone.json"]);
    eval(&sandbox, &set(), "x", &["--judge-pose", "gone.onnx"]).fails(4, &["detector"]);
    fs::write(sandbox.work("r.json"), "{\"format\": \"other\", \"version\": 1}").unwrap();
    eval(&sandbox, &set(), "x", &["--compare", "r.json"]).fails(3, &["r.json", "other"]);
    let model = sandbox.work("model");
    model_copy(&model);
    fs::remove_file(model.join("Wan2.1_VAE.pth")).unwrap();
    eval(&sandbox, &set(), "x", &["--model", model.to_str().unwrap()]).fails(4, &["VAE"]);
    sandbox.assert_nothing_written("refused evaluations");
}

#[test]
fn the_demo_finds_and_judges_its_puppets_by_itself() {
    let sandbox = Sandbox::new();
    // A frame rate that is meant for runs is not one that was asked for here.
    sandbox.write("steadydance.toml", "fps = 8\n");
    eval(&sandbox, &set(), "a", &["--pairs", "1", "--drive", "video", "--pose-cache=false"]).ok();
    let found = report(&sandbox, "a");
    assert_eq!((&found["settings"]["fps"], &found["driver"]["estimator"]), (&16.0.into(), &"embedded".into()));
    assert_eq!(found["driver"]["identity"].as_str().map(str::len), Some(64));
    assert_eq!((&found["drive"], &found["judge"]["detector"]), (&"video".into(), &"embedded".into()));
    assert_eq!(found["judge"]["same_as_driver"], true);
    // Other models have no networks of their own: without files there is nothing to find poses with.
    let model = sandbox.work("model");
    model_copy(&model);
    let other = ["--pairs", "1", "--drive", "video", "--model", model.to_str().unwrap()];
    eval(&sandbox, &set(), "b", &other).fails(4, &["detector"]);
}

#[test]
fn joints_are_judged_by_networks_and_the_report_says_by_which() {
    let sandbox = Sandbox::new();
    let [detector, estimator] = pose_networks::write(&sandbox, Sight::People).map(|p| p.to_str().unwrap().to_owned());
    let one = ["--pairs", "1", "--pose-cache=false"];
    let run = [&one[..], &["--drive", "video", "--detector", &detector, "--estimator", &estimator]].concat();
    let outcome = eval(&sandbox, &set(), "a", &run);
    outcome.ok();
    assert!(outcome.stderr.contains("of joints right"), "{}", outcome.stderr);
    let found = report(&sandbox, "a");
    assert_eq!((&found["drive"], &found["judge"]["same_as_driver"]), (&"video".into(), &true.into()));
    let scores = &found["pairs"][0]["scores"];
    let share = |key: &str| scores[key].as_f64().unwrap();
    assert!((0.0..=share("joints_found")).contains(&share("pck")) && share("joints_found") <= 1.0, "{scores}");
    assert!(fs::read_to_string(sandbox.out("a/index.html")).unwrap().contains("their mistakes count as right"));

    let judge = [&one[..], &["--judge-detector", &detector, "--judge-pose", &estimator]].concat();
    eval(&sandbox, &set(), "b", &judge).ok();
    assert_eq!(report(&sandbox, "b")["judge"]["same_as_driver"], false);
}

#[test]
fn the_judge_of_its_own_finds_the_joints_of_truths() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.work("videos")).unwrap();
    for pair in ["0000", "0004"] {
        fs::copy(set().join(pair).join("truth.mp4"), sandbox.work("videos").join(format!("{pair}.mp4"))).unwrap();
    }
    let judge = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/judge").join(format!("{name}.safetensors"));
        file.to_str().unwrap().to_owned()
    };
    let videos = sandbox.work("videos");
    let networks = ["--judge-detector", &judge("detector"), "--judge-pose", &judge("estimator")];
    for (pairs, out) in [("0..1", "a"), ("4..5", "b")] {
        let line = ["--outputs", videos.to_str().unwrap(), "--pairs", pairs, "--num-frames", "17"];
        let arguments = ["eval", set().to_str().unwrap(), "-o", sandbox.out(out).to_str().unwrap()].map(str::to_owned);
        let more = line.iter().chain(&networks).map(|a| (*a).to_owned());
        sandbox.run(&arguments.into_iter().chain(more).collect::<Vec<_>>()).ok();
        let share = report(&sandbox, out)["pairs"][0]["scores"]["pck"].as_f64().unwrap();
        assert!(share > 0.4, "of the joints of truth {pairs} it finds {share}");
    }
}

#[test]
fn a_report_names_loras_and_tells_their_contents_apart() {
    let sandbox = Sandbox::new();
    let identity = |level: f64, output: &str| {
        let difference = Tensor::full(level, &[1, 6, 128], &Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
        let tensors = BTreeMap::from([("diffusion_model.blocks.1.diff_m".to_owned(), difference)]);
        weights::save_safetensors(&sandbox.work("style.safetensors"), &tensors, &BTreeMap::new()).unwrap();
        let model = fixture("model");
        let one = ["--pairs", "1", "--model", model.to_str().unwrap(), "--lora", "style.safetensors:0.5"];
        eval(&sandbox, &set(), output, &one).ok();
        let lora = report(&sandbox, output)["model"]["loras"][0].clone();
        assert_eq!((&lora["name"], &lora["strength"]), (&"style.safetensors".into(), &0.5.into()));
        lora["identity"].as_str().unwrap().to_owned()
    };
    assert_ne!(identity(0.25, "a"), identity(0.5, "b"));
    let page = fs::read_to_string(sandbox.out("a/index.html")).unwrap();
    assert!(page.contains("LoRA style.safetensors at strength 0.5"));
}
