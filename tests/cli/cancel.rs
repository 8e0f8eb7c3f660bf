//! Ctrl-C in every phase. `--json` events tell when a phase has begun; the signal is a real one.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use crate::pose::from_video;
use crate::pose_networks::Sight;
use crate::support::{Sandbox, fixture, picture, pose_folder};

/// A run that takes long enough in every phase to be stopped there.
fn start(sandbox: &Sandbox, more: &[&str]) -> Child {
    picture(128, 128, 5).save(sandbox.work("me.png")).unwrap();
    pose_folder(&sandbox.work("pose"), 33, 128, 128);
    let model = fixture("model");
    let out = sandbox.out("clip.mp4");
    let line = ["run", "--json", "--ref", "me.png", "--pose", "pose", "--neg-pose", "pose", "--size", "128x128"];
    let mut program = sandbox.program();
    program.args(line).args(["--num-frames", "33", "--steps", "4", "--prompt", "a dance", "--model"]).arg(model);
    program.arg("-o").arg(out).args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    program.spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status().unwrap();
    assert!(status.success());
}

/// Reads events until `phase` has begun, sends the signals, and checks how the program ends.
fn stop_in(phase: &str, signals: &[&str]) {
    let sandbox = Sandbox::new();
    let child = start(&sandbox, &[]);
    stop(&sandbox, child, phase, signals);
}

/// The same while the poses of a video are found and shown.
fn stop_poses_in(phase: &str) {
    let sandbox = Sandbox::new();
    let line = from_video(&sandbox, Sight::People, 60, &sandbox.out("poses"));
    let mut program = sandbox.program();
    program.args(line).arg("--json").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = program.spawn().unwrap();
    stop(&sandbox, child, phase, &["INT"]);
}

fn stop(sandbox: &Sandbox, mut child: Child, phase: &str, signals: &[&str]) {
    let mut events = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    loop {
        line.clear();
        if events.read_line(&mut line).unwrap() == 0 {
            let output = child.wait_with_output().unwrap();
            panic!("{phase} never began: {}", String::from_utf8_lossy(&output.stderr));
        }
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "phase_started" && event["phase"] == phase {
            break;
        }
    }
    for name in signals {
        signal(&child, name);
    }
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{phase}: {stderr}");
    let errors = stderr.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{phase}: {stderr}");
    assert!(!stderr.contains("panicked"), "{phase}: {stderr}");
    let last: serde_json::Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["kind"]), (&"error".into(), &"interrupted".into()), "{phase}: {last}");
    assert_eq!(last["exit_code"], 130);
    if signals.len() == 1 {
        sandbox.assert_nothing_written(phase);
    }
    assert!(!sandbox.out("clip.mp4").exists(), "{phase}");
}

#[test]
fn in_the_pose_phase() {
    stop_in("pose", &["INT"]);
}

#[test]
fn in_the_text_encoder() {
    stop_in("text-encode", &["INT"]);
}

#[test]
fn in_the_image_encoder() {
    stop_in("image-encode", &["INT"]);
}

#[test]
fn in_the_vae_encoder() {
    stop_in("vae-encode", &["INT"]);
}

#[test]
fn in_the_sampling_loop() {
    stop_in("denoise", &["INT"]);
}

#[test]
fn in_the_decoder() {
    stop_in("decode", &["INT"]);
}

#[test]
fn by_sigterm() {
    stop_in("denoise", &["TERM"]);
}

#[test]
fn at_once_by_a_second_signal() {
    stop_in("vae-encode", &["INT", "INT"]);
}

#[test]
fn a_finished_clip_of_before_stays_when_its_replacement_is_stopped() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.out("clip.mp4"), "the clip of before").unwrap();
    let mut child = start(&sandbox, &["--force"]);
    let mut events = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"decode\"") {
        line.clear();
        assert_ne!(events.read_line(&mut line).unwrap(), 0, "decode never began");
    }
    signal(&child, "INT");
    std::io::copy(&mut events, &mut std::io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read(sandbox.out("clip.mp4")).unwrap(), b"the clip of before");
    assert_eq!(std::fs::read_dir(sandbox.out("")).unwrap().count(), 1);
}

#[test]
fn in_the_search_for_poses() {
    stop_poses_in("pose");
}

#[test]
fn in_the_preview() {
    stop_poses_in("preview");
}

#[test]
fn a_killed_run_goes_on_where_it_was_with_the_same_command() {
    let sandbox = Sandbox::new();
    let every_step = ["--snapshot-interval", "0"];
    let mut child = start(&sandbox, &every_step);
    let mut events = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !(line.contains("\"step\"") && line.contains("\"step\":2")) {
        line.clear();
        assert_ne!(events.read_line(&mut line).unwrap(), 0, "step 2 never ended");
    }
    signal(&child, "KILL");
    child.wait().unwrap();
    let kept = sandbox.out("clip.latents.safetensors");
    assert!(kept.is_file() && !sandbox.out("clip.mp4").exists());

    let steps = |more: &[&str]| -> Vec<u64> {
        let output = start(&sandbox, more).wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let events = String::from_utf8(output.stdout).unwrap();
        let events = events.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        events.filter(|e| e["event"] == "step").map(|e| e["step"].as_u64().unwrap()).collect()
    };
    // It was killed while the third was made, or the fourth if that was quick.
    let made = steps(&every_step);
    assert!([&[3, 4][..], &[4]].contains(&&made[..]), "{made:?}");
    assert!(!kept.exists());
    let clip = std::fs::read(sandbox.out("clip.mp4")).unwrap();
    assert_eq!(steps(&["--force", "--snapshot-interval", "off"]), [1, 2, 3, 4]);
    assert!(std::fs::read(sandbox.out("clip.mp4")).unwrap() == clip, "the clips differ");
}
