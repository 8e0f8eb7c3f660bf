//! What each input does to the picture, measured on the demo model: words set colours, poses are followed, guidance goes away from the
//! negative poses, and the seed changes details only.

use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::support::Sandbox;

const FRAMES: &str = "9";

/// A file of a pair that the demo model was not trained on.
fn of_pair(pair: &str, name: &str) -> String {
    let set = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/eval");
    set.join(pair).join(name).to_str().unwrap().to_owned()
}

/// A clip of the picture `reference`, driven by the keypoints of `pair`.
fn dance(sandbox: &Sandbox, name: &str, reference: &Path, pair: &str, more: &[&str]) -> Vec<RgbImage> {
    let (keypoints, drive) = (of_pair(pair, "driving.json"), of_pair(pair, "driving.mp4"));
    clip(sandbox, name, reference, &[&["--keypoints", &keypoints, "--drive", &drive][..], more].concat())
}

fn clip(sandbox: &Sandbox, name: &str, reference: &Path, more: &[&str]) -> Vec<RgbImage> {
    let out = sandbox.out(name);
    let line = ["run", "--ref", reference.to_str().unwrap(), "--num-frames", FRAMES, "-q"];
    sandbox.run(&[&line[..], &["-o", out.to_str().unwrap()], more].concat()).ok();
    let mut files: Vec<_> = std::fs::read_dir(&out).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "png"));
    files.sort();
    assert_eq!(files.len().to_string(), FRAMES);
    files.iter().map(|f| image::open(f).unwrap().to_rgb8()).collect()
}

/// The mean colour over the middle third of all frames, where the figure stands.
fn colour(clip: &[RgbImage]) -> [f64; 3] {
    let (mut sum, mut count) = ([0.0; 3], 0.0);
    for frame in clip {
        let (w, h) = frame.dimensions();
        for (x, y, pixel) in frame.enumerate_pixels() {
            if (w / 3..2 * w / 3).contains(&x) && (h / 4..3 * h / 4).contains(&y) {
                (0..3).for_each(|c| sum[c] += f64::from(pixel[c]));
                count += 1.0;
            }
        }
    }
    sum.map(|s| s / count)
}

/// The mean absolute difference of two clips, in levels.
fn distance(a: &[RgbImage], b: &[RgbImage]) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        assert_eq!(a.dimensions(), b.dimensions());
        sum += a.iter().zip(b.iter()).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>();
        count += a.len() as f64;
    }
    sum / count
}

fn reference(pair: &str) -> PathBuf {
    of_pair(pair, "reference.png").into()
}

#[test]
fn a_prompt_colours_what_the_reference_leaves_open() {
    let sandbox = Sandbox::new();
    let grey = image::open(reference("0004")).unwrap().to_luma8();
    image::DynamicImage::ImageLuma8(grey).to_rgb8().save(sandbox.work("grey.png")).unwrap();
    let of = |name: &str| {
        let prompt = format!("a puppet in a {name} shirt and {name} trousers");
        colour(&dance(&sandbox, name, &sandbox.work("grey.png"), "0004", &["--prompt", &prompt]))
    };
    let (red, green, blue) = (of("red"), of("green"), of("blue"));
    // Each is most of its own colour, by several levels.
    for (channel, most, others) in [(0, red, [green, blue]), (1, green, [red, blue]), (2, blue, [red, green])] {
        let share = |c: [f64; 3]| c[channel] - c.iter().sum::<f64>() / 3.0;
        for other in others {
            assert!(share(most) > share(other) + 4.0, "channel {channel}: {red:?} {green:?} {blue:?}");
        }
    }
}

#[test]
fn poses_are_followed_and_the_seed_changes_details_only() {
    let sandbox = Sandbox::new();
    let me = reference("0004");
    let one = dance(&sandbox, "one", &me, "0004", &["--seed", "1"]);
    assert_eq!(distance(&one, &dance(&sandbox, "again", &me, "0004", &["--seed", "1"])), 0.0);
    let seed = distance(&one, &dance(&sandbox, "seed", &me, "0004", &["--seed", "2"]));
    let other = distance(&one, &dance(&sandbox, "other", &me, "0009", &["--seed", "1"]));
    assert!(seed > 0.1, "another seed changed {seed:.2} levels");
    assert!(other > 1.5 * seed, "another dance changed {other:.2} levels, another seed {seed:.2}");
}

#[test]
fn pose_guidance_goes_away_from_the_negative_poses() {
    let sandbox = Sandbox::new();
    let me = reference("0004");
    let drawn = |pair: &str| {
        let (folder, keypoints) = (sandbox.work(pair), of_pair(pair, "driving.json"));
        let line = ["pose", "--ref", me.to_str().unwrap(), "--keypoints", &keypoints, "--max-frames", FRAMES, "-q"];
        sandbox.run(&[&line[..], &["-o", folder.to_str().unwrap()]].concat()).ok();
        folder.join("pose.mp4").to_str().unwrap().to_owned()
    };
    let (pose, negative) = (drawn("0004"), drawn("0009"));
    let there = clip(&sandbox, "there", &me, &["--pose", &negative]);
    let guided = |scale: &str| {
        let guidance = ["--pose-guidance-scale", scale, "--pose-guidance-interval", "0,1"];
        let made = clip(&sandbox, scale, &me, &[&["--pose", &pose, "--neg-pose", &negative][..], &guidance].concat());
        distance(&made, &there)
    };
    let (none, some, more) = (guided("0"), guided("1"), guided("2"));
    assert!(none < some && some < more, "distance to the negative dance by scale: {none:.3} {some:.3} {more:.3}");
}
