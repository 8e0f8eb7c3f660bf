//! Poses: found by networks, read from keypoints, shown, kept, and used by a run.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::pose_networks::{self, Sight};
use crate::support::{Sandbox, fixture, gif, model_copy, picture, tiny_run, tiny_run_of};

const FILES: [&str; 6] = ["keypoints.json", "neg_pose.mp4", "overlay.mp4", "pose.mp4", "report.json", "sheet.png"];

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/media").join(name).to_str().unwrap().to_owned()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// `pose` on the example's keypoints, nine frames of it.
fn from_keypoints(out: &Path) -> Vec<String> {
    let (json, video, reference) = (example("dance.json"), example("dance.mp4"), example("reference.png"));
    let line = ["pose", "--keypoints", &json, "--drive", &video, "--ref", &reference, "--max-frames", "9", "-o"];
    line.map(str::to_owned).into_iter().chain([text(out)]).collect()
}

/// A video of `frames` pictures as a folder, and `pose` on it with toy networks.
pub fn from_video(sandbox: &Sandbox, sight: Sight, frames: u32, out: &Path) -> Vec<String> {
    let [detector, estimator] = pose_networks::write(sandbox, sight);
    let video = sandbox.work("video");
    fs::create_dir_all(&video).unwrap();
    for i in 0..frames {
        picture(96, 128, i).save(video.join(format!("{i:03}.png"))).unwrap();
    }
    let [video, detector, estimator, out] = [&video, &detector, &estimator, &out.to_owned()].map(|p| text(p));
    let line = ["pose", "--drive", &video, "--detector", &detector, "--estimator", &estimator, "-o", &out];
    line.map(str::to_owned).to_vec()
}

fn with(mut line: Vec<String>, more: &[&str]) -> Vec<String> {
    line.extend(more.iter().map(|a| (*a).to_owned()));
    line
}

#[test]
fn keypoints_become_a_folder_with_all_there_is_to_see() {
    let sandbox = Sandbox::new();
    let out = sandbox.out("poses");
    let outcome = sandbox.run(&from_keypoints(&out));
    assert_eq!(outcome.ok(), format!("{}\n", out.display()));
    assert_eq!(names(&out), FILES);
    assert_eq!(names(&sandbox.out("")), ["poses"]);
    let report = read_json(&out.join("report.json"));
    assert_eq!((report["frames"].as_u64(), report["detection_rate"].as_f64()), (Some(9), Some(1.0)));
    assert!(report["warnings"].is_array() && report["aligned"] == true, "{report}");
    let sheet = image::open(out.join("sheet.png")).unwrap().into_rgb8();
    assert!(sheet.width() > 600 && sheet.pixels().any(|p| p.0 == [70, 200, 110]), "the strip says found");

    // What was written is what a run takes.
    let [pose, neg_pose] = ["pose.mp4", "neg_pose.mp4"].map(|name| text(&out.join(name)));
    let line = ["run", "--ref", &example("reference.png"), "--pose", &pose, "--neg-pose", &neg_pose, "--dry-run"];
    assert!(sandbox.run(&line).ok().contains("9 frames"));
    let keypoints = text(&out.join("keypoints.json"));
    let line = ["run", "--ref", &example("reference.png"), "--keypoints", &keypoints, "--dry-run"];
    assert!(sandbox.run(&line).ok().contains("9 frames"));
}

#[test]
fn a_folder_is_replaced_only_when_asked_and_only_if_it_is_ours() {
    let sandbox = Sandbox::new();
    let out = sandbox.out("poses");
    let line = with(from_keypoints(&out), &["--fps", "4"]);
    sandbox.run(&line).ok();
    let before = fs::read(out.join("pose.mp4")).unwrap();
    sandbox.run(&line).fails(2, &["exists already", "--force"]);
    sandbox.run(&with(line.clone(), &["--force", "--mirror"])).ok();
    assert_eq!(names(&out), FILES);
    assert_ne!(fs::read(out.join("pose.mp4")).unwrap(), before);
    fs::write(out.join("notes.txt"), "mine").unwrap();
    sandbox.run(&with(line, &["--force"])).fails(2, &["not an empty folder", "this program's files"]);
    assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
}

#[test]
fn a_plain_video_is_looked_at_once() {
    let sandbox = Sandbox::new();
    let [first, second, third, fourth] = ["a", "b", "c", "d"].map(|name| sandbox.out(name));
    let outcome = sandbox.run(&from_video(&sandbox, Sight::People, 6, &first));
    outcome.ok();
    assert!(!outcome.stderr.contains("known from before"), "{}", outcome.stderr);
    assert_eq!(names(&first), FILES);

    let outcome = sandbox.run(&from_video(&sandbox, Sight::People, 6, &second));
    outcome.ok();
    assert!(outcome.stderr.contains("6 known from before"), "{}", outcome.stderr);
    for name in FILES {
        assert_eq!(fs::read(first.join(name)).unwrap(), fs::read(second.join(name)).unwrap(), "{name}");
    }
    // More frames: only the new ones are looked at. Another recipe, or no cache: all of them.
    for (more, known) in
        [(&["--max-frames", "3"][..], "3 known"), (&["--pose-profile", "onnx"], ""), (&["--pose-cache=false"], "")]
    {
        let line = with(from_video(&sandbox, Sight::People, 6, &third), &[more, &["--force"]].concat());
        let outcome = sandbox.run(&line);
        outcome.ok();
        assert_eq!(outcome.stderr.contains("known from before"), !known.is_empty(), "{more:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(known), "{more:?}: {}", outcome.stderr);
    }
    // The cached and the found are the same to the bit.
    let line = with(from_video(&sandbox, Sight::People, 6, &fourth), &["--pose-cache=false"]);
    sandbox.run(&line).ok();
    assert_eq!(fs::read(first.join("keypoints.json")).unwrap(), fs::read(fourth.join("keypoints.json")).unwrap());
}

#[test]
fn a_run_takes_a_plain_video_and_shows_its_poses() {
    let sandbox = Sandbox::new();
    let line = from_video(&sandbox, Sight::People, 9, &sandbox.out("poses"));
    let (out, debug) = (sandbox.out("clip.mp4"), sandbox.out("debug"));
    let mut run = tiny_run(&out);
    let at = run.iter().position(|a| a == "--pose").unwrap();
    run.drain(at..at + 2);
    run.extend(line[1..7].iter().cloned());
    run.extend(["--debug-dir".to_owned(), text(&debug)]);
    // The plan knows of the networks, and a plan writes nothing.
    let plan = sandbox.run(&with(run.clone(), &["--dry-run", "--json"])).json();
    let pose = &plan["stages"]["phases"][0];
    let stored: u64 = [&line[4], &line[6]].map(|file| fs::metadata(file).unwrap().len()).iter().sum();
    assert_eq!(pose["phase"], "pose");
    assert!(pose["weights_bytes"].as_u64().unwrap() >= stored && !debug.exists(), "{pose}");

    let outcome = sandbox.run(&run);
    outcome.ok();
    assert!(fs::read(&out).unwrap().len() > 1000);
    assert_eq!(names(&debug), ["keypoints.json", "overlay.mp4", "report.json", "sheet.png"]);
    assert!(read_json(&debug.join("report.json"))["aligned"] == true);

    // The same keypoints from a file give the same pixels.
    let again = sandbox.out("again.mp4");
    let mut from_file = tiny_run(&again);
    from_file.drain(at..at + 2);
    from_file.extend(["--keypoints".to_owned(), text(&debug.join("keypoints.json")), "--no-metadata".to_owned()]);
    sandbox.run(&from_file).ok();
    let plain = sandbox.out("plain.mp4");
    let mut without = tiny_run(&plain);
    without.drain(at..at + 2);
    without.extend(line[1..7].iter().cloned());
    without.push("--no-metadata".to_owned());
    sandbox.run(&without).ok();
    assert_eq!(fs::read(&again).unwrap(), fs::read(&plain).unwrap());
}

#[test]
fn events_tell_of_frames_and_end_with_the_report() {
    let sandbox = Sandbox::new();
    let line = with(from_video(&sandbox, Sight::People, 3, &sandbox.out("poses")), &["--json"]);
    let outcome = sandbox.run(&line);
    let events: Vec<Value> = outcome.ok().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let last = events.last().unwrap();
    assert_eq!(
        (last["event"].as_str(), last["frames"].as_u64(), last["estimated"].as_u64()),
        (Some("poses"), Some(3), Some(3))
    );
    assert_eq!(last["files"].as_array().unwrap().len(), FILES.len());
    assert!(last["quality"]["detection_rate"].as_f64().unwrap() > 0.0);
    let of =
        |event: &str| events.iter().filter(|e| e["event"] == event).map(|e| e["phase"].clone()).collect::<Vec<_>>();
    assert_eq!(of("phase_finished"), ["pose", "preview"]);
}

#[test]
fn inputs_in_a_folder_that_would_be_replaced_are_safe() {
    let sandbox = Sandbox::new();
    let folder = sandbox.work("poses");
    sandbox.run(&from_keypoints(&folder)).ok();
    let files: Vec<_> = FILES.iter().map(|name| fs::read(folder.join(name)).unwrap()).collect();
    let keypoints = text(&folder.join("keypoints.json"));
    let (reference, at) = (example("reference.png"), text(&folder));
    let pose = ["pose", "--keypoints", &keypoints, "--ref", &reference, "--max-frames", "1", "--force", "-o", &at];
    sandbox.run(&pose).fails(2, &["keypoints.json", "choose another name"]);
    let run = ["run", "--keypoints", &keypoints, "--ref", &reference, "--num-frames", "5", "--debug-dir", &at];
    sandbox.run(&run).fails(2, &["keypoints.json", "choose another name"]);
    let other = sandbox.work("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("notes.txt"), "mine").unwrap();
    let run =
        ["run", "--keypoints", &keypoints, "--ref", &reference, "--num-frames", "5", "--debug-dir", &text(&other)];
    sandbox.run(&run).fails(2, &["other", "not an empty folder"]);
    let after: Vec<_> = FILES.iter().map(|name| fs::read(folder.join(name)).unwrap()).collect();
    assert!(files == after && names(&other) == ["notes.txt"]);
    sandbox.assert_nothing_written("refused");
}

#[test]
fn flags_without_effect_are_named() {
    let sandbox = Sandbox::new();
    let line = with(from_keypoints(&sandbox.out("a")), &["--detector", "nowhere.onnx"]);
    let outcome = sandbox.run(&line);
    outcome.ok();
    assert!(outcome.stderr.contains("--detector is not used"), "{}", outcome.stderr);
    let line = with(from_keypoints(&sandbox.out("b")), &["--upstream-parity", "--mirror"]);
    let outcome = sandbox.run(&line);
    outcome.ok();
    assert!(outcome.stderr.contains("upstream parity knows no mirror"), "{}", outcome.stderr);
    let line = with(tiny_run(&sandbox.out("clip.mp4")), &["--mirror", "--dry-run"]);
    let outcome = sandbox.run(&line);
    assert!(outcome.stderr.contains("drawn poses are taken as they are: --mirror is not used"), "{}", outcome.stderr);
}

#[cfg(unix)]
#[test]
fn pipes_are_refused_and_names_of_any_bytes_are_told() {
    use std::os::unix::ffi::OsStrExt;
    let sandbox = Sandbox::new();
    let pipe = sandbox.work("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for line in [["pose", "--drive", &text(&pipe)], ["pose", "--keypoints", &text(&pipe)]] {
        sandbox.run(&line).fails(3, &["pipe"]);
    }
    let out = sandbox.out("").join(std::ffi::OsStr::from_bytes(b"o\xff"));
    let line = from_keypoints(Path::new("replaced"));
    let mut line: Vec<std::ffi::OsString> = line.into_iter().map(Into::into).collect();
    *line.last_mut().unwrap() = out.into_os_string();
    line.push("--json".into());
    let last: Value = serde_json::from_str(sandbox.run(&line).ok().lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "poses");
}

#[test]
fn nobody_in_the_pictures_is_said_and_nothing_is_written() {
    let sandbox = Sandbox::new();
    let line = from_video(&sandbox, Sight::Nobody, 3, &sandbox.out("poses"));
    sandbox.run(&line).fails(3, &["video", "no person was found in any of 3 frames", "--score-threshold"]);
    let [detector, estimator] = pose_networks::write(&sandbox, Sight::Nobody);
    let line = with(line, &["--ref", &example("reference.png")]);
    sandbox.run(&line).fails(3, &["reference.png", "no person was found;"]);
    assert!(detector.is_file() && estimator.is_file());
    sandbox.assert_nothing_written("nobody");
    // As upstream: a picture without a box is one person, whatever the scores.
    let line = with(from_video(&sandbox, Sight::Nobody, 3, &sandbox.out("parity")), &["--upstream-parity"]);
    sandbox.run(&line).ok();
}

#[test]
fn videos_of_one_frame_and_of_many_pixels_pass() {
    let sandbox = Sandbox::new();
    let line = from_video(&sandbox, Sight::People, 1, &sandbox.out("one"));
    sandbox.run(&line).ok();
    let big = sandbox.work("big");
    fs::create_dir(&big).unwrap();
    picture(3840, 2160, 1).save(big.join("0.png")).unwrap();
    let mut line = from_video(&sandbox, Sight::People, 1, &sandbox.out("big"));
    line[2] = text(&big);
    sandbox.run(&line).ok();
    let gif = sandbox.write("clip.gif", gif(3, 64, 48));
    line[2] = text(&gif);
    sandbox.run(&with(line, &["--force"])).ok();
}

/// Puppets of the held-out split, 160x224 pixels.
fn puppet(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/puppets").join(format!("{name}.png"))
}

#[test]
fn the_embedded_model_takes_a_plain_video_of_a_puppet() {
    let sandbox = Sandbox::new();
    let video = sandbox.work("puppet");
    fs::create_dir(&video).unwrap();
    for i in 0..5 {
        fs::copy(puppet("front"), video.join(format!("{i}.png"))).unwrap();
    }
    let (video, out) = (text(&video), sandbox.out("clip.mp4"));
    let line = ["run", "--ref", &text(&puppet("arms")), "--drive", &video, "--size", "64x64", "--steps", "1", "-o"];
    let outcome = sandbox.run(&[&line[..], &[&text(&out)]].concat());
    assert_eq!(outcome.ok(), format!("{}\n", out.display()));

    // `pose` says whose networks these are.
    let poses = sandbox.out("poses");
    let outcome = sandbox.run(&["pose", "--drive", &video, "-o", &text(&poses)]);
    outcome.ok();
    assert!(outcome.stderr.contains("know drawn puppets only"), "{}", outcome.stderr);
    let report = read_json(&poses.join("report.json"));
    assert_eq!((report["frames"].as_u64(), report["detection_rate"].as_f64()), (Some(5), Some(1.0)));
}

#[test]
fn the_embedded_networks_say_that_they_know_no_people() {
    let sandbox = Sandbox::new();
    let video = sandbox.work("grey");
    fs::create_dir(&video).unwrap();
    for i in 0..5 {
        image::RgbImage::from_pixel(96, 128, image::Rgb([128; 3])).save(video.join(format!("{i}.png"))).unwrap();
    }
    let line = ["run", "--ref", &text(&puppet("front")), "--drive", &text(&video), "-o", &text(&sandbox.out("a.mp4"))];
    sandbox.run(&line).fails(3, &["no person was found in any of 5 frames", "drawn puppets only", "--detector"]);
    // Before hours are spent, too, and once.
    let outcome = sandbox.run(&[&line[..], &["--dry-run"]].concat());
    assert_eq!(outcome.ok().matches("drawn puppets only").count(), 1, "{}{}", outcome.stdout, outcome.stderr);
    sandbox.assert_nothing_written("grey");
}

#[test]
fn poses_are_drawn_on_the_canvas_of_the_model_that_they_are_for() {
    let sandbox = Sandbox::new();
    let model = sandbox.work("model");
    model_copy(&model);
    let mut config = read_json(&model.join("steadydance.json"));
    let size = |folder: &str, more: &[&str]| {
        let out = sandbox.out(folder);
        sandbox.run(&with(from_keypoints(&out), more)).ok();
        let info = media::video::probe(out.join("pose.mp4")).unwrap();
        info.width * info.height
    };
    let at = text(&model);
    let usual = size("usual", &["--model", &at]);
    config["pose_canvas"] = serde_json::json!([256, 256]);
    fs::write(model.join("steadydance.json"), config.to_string()).unwrap();
    let small = size("small", &["--model", &at]);
    assert!(6 * small < usual, "{small} {usual}");
    assert_eq!(size("demo", &[]), small, "the embedded model's is of that area");
    assert_eq!(size("file", &["--model", &text(&model.join("diffusion_pytorch_model.safetensors.index.json"))]), small);

    // What cannot be a canvas is one line, for a plan and for poses.
    for wrong in
        ["[0, 0]", "[10000, 10000]", "[1, 65536]", "[\"a\", 1]", "[-64, 64]", "[64.5, 64]", "\"64x64\"", "[64]", "7"]
    {
        config["pose_canvas"] = serde_json::from_str(wrong).unwrap();
        fs::write(model.join("steadydance.json"), config.to_string()).unwrap();
        let mentions = ["steadydance.json", "pose_canvas is", "such as 1024 and 576"];
        let mut plan =
            tiny_run_of(&model, &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), &sandbox.out("x"));
        plan.push("--dry-run".to_owned());
        sandbox.run(&plan).fails(4, &mentions);
        sandbox.run(&with(from_keypoints(&sandbox.out("x")), &["--model", &at])).fails(4, &mentions);
    }
}

#[test]
fn networks_that_are_missing_or_damaged_are_named_with_the_way_out() {
    let sandbox = Sandbox::new();
    let out = sandbox.out("poses");
    let line = from_video(&sandbox, Sight::People, 2, &out);
    let (video, detector, estimator) = (&line[2], PathBuf::from(&line[4]), PathBuf::from(&line[6]));
    // A model of files never takes the networks for puppets.
    let model = text(&fixture("model"));
    let plain = ["pose", "--drive", video, "-o", &text(&out)];
    fs::write(sandbox.user_config(), format!("model = '{model}'\n")).unwrap();
    sandbox.run(&plain).fails(4, &["no pose detector", "yolox_l.onnx", "models pull dwpose", "--detector"]);
    fs::remove_file(sandbox.user_config()).unwrap();
    let run = ["run", "--ref", &example("reference.png"), "--drive", video, "--num-frames", "1", "-o", &text(&out)];
    sandbox.run(&[&run[..], &["--model", &model]].concat()).fails(4, &["no pose detector", "models pull dwpose"]);
    let gone = line.iter().map(|a| a.replace("detector.safetensors", "gone.onnx")).collect::<Vec<_>>();
    sandbox.run(&gone).fails(4, &["gone.onnx", "--detector"]);

    let nets = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/pose/tests/fixtures/nets");
    let onnx = fs::read(nets.join("yolox.onnx")).unwrap();
    let whole = fs::read(&detector).unwrap();
    for (name, content, mentions) in [
        ("empty.onnx", Vec::new(), "empty.onnx"),
        ("cut.onnx", onnx[..onnx.len() / 2].to_vec(), "cut.onnx"),
        ("text.onnx", b"<!DOCTYPE html><html>not found</html>".to_vec(), "text.onnx"),
        ("wide.onnx", onnx.clone(), "expected a square"),
        ("other.onnx", fs::read(nets.join("other.onnx")).unwrap(), "other.onnx"),
        ("cut.safetensors", whole[..whole.len() / 3].to_vec(), "cut.safetensors"),
        ("swapped.safetensors", fs::read(&estimator).unwrap(), "swapped.safetensors"),
    ] {
        let file = sandbox.write(name, content);
        let damaged: Vec<_> =
            line.iter().map(|a| if *a == text(&detector) { text(&file) } else { a.clone() }).collect();
        sandbox.run(&damaged).fails(4, &[mentions]);
        sandbox.assert_nothing_written(name);
    }
}

#[test]
fn settings_out_of_range_are_refused_before_anything_is_opened() {
    let sandbox = Sandbox::new();
    let line = from_keypoints(&sandbox.out("poses"));
    for (more, mentions) in [
        (&["--person", "tallest"][..], &["largest, center, left, right, all"][..]),
        (&["--align-frame", "soon"], &["auto"]),
        (&["--smooth", "2"], &["smooth is 2", "0 to 1"]),
        (&["--max-gap", "-1"], &["max_gap is -1", "0 to 10"]),
        (&["--fps", "0"], &["fps is 0", "1 to 240"]),
        (&["--pose-profile", "magic"], &["official", "onnx"]),
    ] {
        sandbox.run(&with(line.clone(), more)).fails(2, mentions);
    }
    sandbox.run(&with(line.clone(), &["--align-frame", "99"])).fails(2, &["align_frame is 99", "0 to 8", "auto"]);
    sandbox
        .run(&with(line.clone(), &["--score-threshold", "1.5"]))
        .fails(3, &["dance.json", "no joint", "0.35 is usual"]);
    sandbox.run(&with(line, &["--person", "7"])).fails(3, &["dance.json", "person"]);
    let line = from_video(&sandbox, Sight::People, 1, &fixture("model"));
    sandbox.run(&line).fails(2, &["exists already"]);
    sandbox.run(&["pose"]).fails(2, &["--drive"]);
    sandbox.assert_nothing_written("settings");
}
