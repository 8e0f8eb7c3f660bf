//! Bad inputs of every kind: one clear line, the documented exit code, nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{
    Sandbox, fixture, gif, model_copy, mp4_without_frames, mp4_without_index, mp4_without_tracks, png, png_header,
    safetensors_file, safetensors_parts, tiny_run, tiny_run_of, wav,
};

/// Runs the tiny model with one input replaced; the error names that input's file.
fn refuses(sandbox: &Sandbox, code: i32, file: &Path, arguments: &[String]) {
    let name = file.file_name().unwrap().to_str().unwrap();
    sandbox.run(arguments).fails(code, &[name]);
    sandbox.assert_nothing_written(name);
}

fn with_picture(sandbox: &Sandbox, picture: &Path) -> Vec<String> {
    tiny_run_of(&fixture("model"), picture, &fixture("portrait_9/pose"), &sandbox.out("clip.mp4"))
}

fn with_pose(sandbox: &Sandbox, pose: &Path) -> Vec<String> {
    tiny_run_of(&fixture("model"), &fixture("portrait_9/ref.png"), pose, &sandbox.out("clip.mp4"))
}

#[test]
fn pictures() {
    let sandbox = Sandbox::new();
    let whole = png(64, 64);
    fs::create_dir(sandbox.work("folder.png")).unwrap();
    let files: Vec<PathBuf> = vec![
        sandbox.work("missing.png"),
        sandbox.work("folder.png"),
        sandbox.write("empty.png", b""),
        sandbox.write("truncated.png", &whole[..whole.len() / 2]),
        sandbox.write("head-only.png", &whole[..20]),
        sandbox.write("text.png", "I am a picture."),
        sandbox.write("text.jpg", "I am a picture."),
        sandbox.write("video.png", mp4_without_index()),
        sandbox.write("tiny-7x5.png", png(7, 5)),
        sandbox.write("huge-header.png", png_header(100_000, 100_000)),
        sandbox.write("zero-header.png", png_header(0, 0)),
        sandbox.write("line\nbreak.png", "text"),
    ];
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        // Line breaks of names are flattened: an error has one line.
        let shown = PathBuf::from(name.replace('\n', " "));
        refuses(&sandbox, 3, &shown, &with_picture(&sandbox, &file));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_picture_that_cannot_be_read() {
    let sandbox = Sandbox::new();
    // Opens, but every read fails; unlike a file without permissions this also holds for root.
    refuses(&sandbox, 3, Path::new("/proc/self/mem"), &with_picture(&sandbox, Path::new("/proc/self/mem")));
}

#[test]
fn videos_of_poses() {
    let sandbox = Sandbox::new();
    let whole = gif(9, 64, 64);
    fs::create_dir(sandbox.work("empty-folder")).unwrap();
    fs::create_dir(sandbox.work("broken-folder")).unwrap();
    fs::write(sandbox.work("broken-folder/0000.png"), "text").unwrap();
    let files: Vec<PathBuf> = vec![
        sandbox.work("missing.mp4"),
        sandbox.write("empty.mp4", b""),
        sandbox.write("text.mp4", "This is a text file.\nIt has no frames.\n"),
        sandbox.write("truncated.mp4", mp4_without_index()),
        sandbox.write("no-tracks.mp4", mp4_without_tracks()),
        sandbox.write("no-frames.mp4", mp4_without_frames()),
        sandbox.write("sound-only.mp4", wav()),
        sandbox.write("truncated.gif", &whole[..15]),
        sandbox.work("empty-folder"),
    ];
    for file in files {
        refuses(&sandbox, 3, &file, &with_pose(&sandbox, &file));
    }
    refuses(&sandbox, 3, Path::new("0000.png"), &with_pose(&sandbox, &sandbox.work("broken-folder")));
}

#[test]
fn negative_poses_and_driving_videos() {
    let sandbox = Sandbox::new();
    let bad = sandbox.write("bad.mp4", "text");
    for flag in ["--neg-pose", "--drive"] {
        let mut arguments = tiny_run(&sandbox.out("clip.mp4"));
        arguments.extend([flag.to_owned(), bad.to_str().unwrap().to_owned()]);
        refuses(&sandbox, 3, &bad, &arguments);
    }
    let plain = sandbox.write("plain.gif", gif(9, 64, 64));
    let [reference, model] = [fixture("portrait_9/ref.png"), fixture("model")];
    let line = ["run", "--ref", reference.to_str().unwrap(), "--drive", plain.to_str().unwrap(), "--model"];
    let rest = [model.to_str().unwrap(), "--size", "64x64", "--num-frames", "5"];
    // The embedded model has networks of its own; others need files.
    sandbox.run(&[&line[..], &rest[..]].concat()).fails(4, &["no pose detector", "models pull dwpose", "--keypoints"]);
}

#[test]
fn keypoints() {
    let sandbox = Sandbox::new();
    let files = [
        sandbox.work("missing.json"),
        sandbox.write("empty.json", ""),
        sandbox.write("text.json", "hello"),
        sandbox.write("truncated.json", r#"{"format": "steadydance-keypoints", "version": 1, "frames": ["#),
        sandbox.write("other.json", r#"{"format": "other"}"#),
    ];
    for file in files {
        let reference = fixture("portrait_9/ref.png");
        let output = sandbox.out("clip.mp4");
        let line = ["run", "--ref", reference.to_str().unwrap(), "--keypoints", file.to_str().unwrap(), "--model"];
        let model = fixture("model");
        let rest = [model.to_str().unwrap(), "--size", "64x64", "--num-frames", "5", "-o", output.to_str().unwrap()];
        refuses(
            &sandbox,
            3,
            &file,
            &[&line[..], &rest[..]].concat().into_iter().map(str::to_owned).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn more_frames_than_the_motion_has() {
    let sandbox = Sandbox::new();
    let mut arguments = tiny_run(&sandbox.out("clip.mp4"));
    arguments.retain(|a| a != "--num-frames" && a != "9");
    arguments.extend(["--num-frames", "81"].map(str::to_owned));
    sandbox.run(&arguments).fails(2, &["81", "9"]);
    sandbox.assert_nothing_written("too many frames");
}

/// What is done to the second shard, and what the error mentions besides a file.
type Damage = (&'static str, fn(Vec<u8>) -> Vec<u8>);

fn edit_header(bytes: &[u8], edit: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Vec<u8> {
    let (mut header, data) = safetensors_parts(bytes);
    edit(header.as_object_mut().unwrap());
    safetensors_file(&header, &data)
}

fn set_length(mut bytes: Vec<u8>, length: u64) -> Vec<u8> {
    bytes[..8].copy_from_slice(&length.to_le_bytes());
    bytes
}

const DAMAGES: &[Damage] = &[
    ("zero bytes", |_| Vec::new()),
    ("seven bytes", |b| b[..7].to_vec()),
    ("a text file", |_| b"These are not weights, this is a text.".to_vec()),
    ("truncated mid-header", |b| b[..1000].to_vec()),
    ("truncated mid-tensor", |b| b[..b.len() - 1001].to_vec()),
    ("header length 2^60", |b| set_length(b, 1 << 60)),
    ("header length 2^64-1", |b| set_length(b, u64::MAX)),
    ("header length 0", |b| set_length(b, 0)),
    ("header that is no JSON", |b| {
        let mut bytes = b;
        bytes[8..40].fill(b'x');
        bytes
    }),
    ("overlapping offsets", |b| {
        edit_header(&b, |header| {
            let first = header["head.head.weight"]["data_offsets"].clone();
            let length = first[1].as_u64().unwrap() - first[0].as_u64().unwrap();
            let other = header["time_embedding.2.weight"]["data_offsets"][0].as_u64().unwrap();
            header["head.head.weight"]["data_offsets"] = serde_json::json!([other, other + length]);
        })
    }),
    ("offsets beyond the file", |b| {
        edit_header(&b, |header| {
            let offsets = header["head.head.weight"]["data_offsets"].clone();
            let length = offsets[1].as_u64().unwrap() - offsets[0].as_u64().unwrap();
            header["head.head.weight"]["data_offsets"] = serde_json::json!([1u64 << 50, (1u64 << 50) + length]);
        })
    }),
    ("a shape that overflows", |b| {
        edit_header(&b, |header| header["head.head.weight"]["shape"] = serde_json::json!([1u64 << 40, 1u64 << 40]))
    }),
];

#[test]
fn checkpoints_whose_bytes_are_damaged() {
    const SHARD: &str = "diffusion_pytorch_model-00002-of-00002.safetensors";
    let sandbox = Sandbox::new();
    let model = sandbox.work("model");
    model_copy(&model);
    let whole = fs::read(model.join(SHARD)).unwrap();
    for (what, damage) in DAMAGES {
        println!("{what}");
        fs::write(model.join(SHARD), damage(whole.clone())).unwrap();
        let out = sandbox.out("clip.mp4");
        let line = tiny_run_of(&model, &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), &out);
        refuses(&sandbox, 4, Path::new(SHARD), &line);
        sandbox.run(&["inspect", model.join(SHARD).to_str().unwrap()]).fails(4, &[SHARD]);
    }
    fs::remove_file(model.join(SHARD)).unwrap();
    let out = sandbox.out("clip.mp4");
    let line = tiny_run_of(&model, &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), &out);
    refuses(&sandbox, 4, Path::new(SHARD), &line);
}

#[test]
fn checkpoints_that_do_not_fit_or_hold_nan() {
    const SHARD: &str = "diffusion_pytorch_model-00002-of-00002.safetensors";
    const TENSOR: &str = "head.head.weight";
    let sandbox = Sandbox::new();
    let model = sandbox.work("model");
    model_copy(&model);
    let whole = fs::read(model.join(SHARD)).unwrap();
    let (header, data) = safetensors_parts(&whole);

    let wrong_shape = edit_header(&whole, |h| {
        let shape: Vec<u64> = serde_json::from_value(h[TENSOR]["shape"].clone()).unwrap();
        h[TENSOR]["shape"] = serde_json::json!([shape[0] * 2, shape[1] / 2]);
    });
    let renamed = edit_header(&whole, |h| {
        let tensor = h.remove(TENSOR).unwrap();
        h.insert("head.head.wait".to_owned(), tensor);
    });
    let integers = edit_header(&whole, |h| {
        if h[TENSOR]["dtype"] == "F32" {
            h[TENSOR]["dtype"] = "I32".into();
        } else {
            h[TENSOR]["dtype"] = "I16".into();
        }
    });
    let mut nan = data;
    let begin = header[TENSOR]["data_offsets"][0].as_u64().unwrap() as usize;
    nan[begin..begin + 8].fill(0xff);
    let nan = safetensors_file(&header, &nan);

    for (what, bytes) in [("shape", wrong_shape), ("name", renamed), ("dtype", integers), ("nan", nan)] {
        println!("{what}");
        fs::write(model.join(SHARD), bytes).unwrap();
        let out = sandbox.out("clip.mp4");
        let line = tiny_run_of(&model, &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), &out);
        sandbox.run(&line).fails(4, &[TENSOR]);
        sandbox.assert_nothing_written(what);
    }
}

#[test]
fn other_parts_of_a_model() {
    let sandbox = Sandbox::new();
    let parts = [
        "Wan2.1_VAE.pth",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
        "google/umt5-xxl/tokenizer.json",
    ];
    for part in parts {
        let model = sandbox.work("model");
        let file = model.join(part);
        for damage in ["missing", "empty", "text", "truncated"] {
            println!("{part} {damage}");
            model_copy(&model);
            let whole = fs::read(&file).unwrap();
            match damage {
                "missing" => fs::remove_file(&file).unwrap(),
                "empty" => fs::write(&file, b"").unwrap(),
                "text" => fs::write(&file, b"These are not weights.").unwrap(),
                _ => fs::write(&file, &whole[..whole.len() * 2 / 3]).unwrap(),
            }
            let out = sandbox.out("clip.mp4");
            let line = tiny_run_of(&model, &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), &out);
            refuses(&sandbox, 4, Path::new(part), &line);
            fs::remove_dir_all(&model).unwrap();
        }
    }
}

#[test]
fn models_that_are_not_there() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.work("empty-folder")).unwrap();
    for name in ["no-such-model", "empty-folder"] {
        let out = sandbox.out("clip.mp4");
        let model = sandbox.work(name);
        refuses(
            &sandbox,
            4,
            &model,
            &tiny_run_of(&model, &fixture("portrait_9/ref.png"), &fixture("portrait_9/pose"), &out),
        );
        sandbox.run(&["inspect", model.to_str().unwrap()]).fails(4, &[name]);
    }
}

#[test]
fn devices_that_are_not_there() {
    let sandbox = Sandbox::new();
    for device in ["cuda:99", "tpu", "cuda:x"] {
        let mut arguments = tiny_run(&sandbox.out("clip.mp4"));
        arguments.extend(["--device", device].map(str::to_owned));
        sandbox.run(&arguments).fails(7, &[device, "cpu"]);
    }
    sandbox.assert_nothing_written("device");
}

#[test]
fn memory_that_does_not_suffice() {
    let sandbox = Sandbox::new();
    let mut arguments = tiny_run(&sandbox.out("clip.mp4"));
    arguments.extend(["--memory-budget", "0.001"].map(str::to_owned));
    sandbox.run(&arguments).fails(5, &["GiB"]);
    sandbox.assert_nothing_written("memory");
    sandbox.run(&["plan", "--model", "steadydancer-14b", "--memory-budget", "0.5"]).fails(5, &["0.50 GiB", "--size"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let sandbox = Sandbox::new();
    let under_a_file = sandbox.write("file", "x").join("clip.mp4");
    let no_folder = sandbox.work("no/such/folder/clip.mp4");
    for output in [under_a_file, no_folder, PathBuf::from("/proc/clip.mp4"), PathBuf::from("/sys/clip.mp4")] {
        let name = output.to_str().unwrap();
        sandbox.run(&tiny_run(&output)).fails(1, &[name]);
        sandbox.assert_nothing_written(name);
    }
    let strange = sandbox.out("clip.exe");
    let outcome = sandbox.run(&tiny_run(&strange));
    assert!(matches!(outcome.code, Some(1 | 2)), "{outcome:?}");
    outcome.fails(outcome.code.unwrap(), &["clip.exe", ".mp4"]);
    sandbox.assert_nothing_written("clip.exe");
}

#[test]
fn the_output_is_never_an_input() {
    let sandbox = Sandbox::new();
    let picture = sandbox.write("a.png", png(64, 64));
    let video = sandbox.write("motion.gif", gif(9, 64, 64));
    let before = fs::read(&video).unwrap();
    fs::create_dir(sandbox.work("folder")).unwrap();
    for output in [video.clone(), sandbox.work("folder/../motion.gif")] {
        let mut line = tiny_run_of(&fixture("model"), &picture, &video, &output);
        sandbox.run(&line).fails(2, &["motion.gif", "input"]);
        line.push("--force".to_owned());
        sandbox.run(&line).fails(2, &["motion.gif", "input"]);
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&video, sandbox.work("link.gif")).unwrap();
        let mut line = tiny_run_of(&fixture("model"), &picture, &video, &sandbox.work("link.gif"));
        line.push("--force".to_owned());
        sandbox.run(&line).fails(2, &["link.gif", "input"]);
    }
    assert_eq!(fs::read(&video).unwrap(), before);
}
