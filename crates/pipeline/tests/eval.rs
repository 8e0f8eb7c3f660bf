//! The evaluation's metrics against independent values, and what must hold of them whatever the pictures are.

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use models::preset;
use pipeline::eval::{
    Drive, EvalRequest, EvalSet, EvalSource, Mask, PSNR_CAP_DB, PointPair, Similarity, appearance, background_jitter,
    evaluate, jitter, psnr, ssim,
};
use pipeline::{ErrorKind, Observer, PipelineError, PoseSettings, Settings};
use proptest::prelude::*;

const WIDTH: u32 = 26;
const HEIGHT: u32 = 21;

/// The formulas of tests/reference/make_eval.py.
fn clip(k: u32) -> Vec<RgbImage> {
    let level = |t: u32, x: u32, y: u32, c: u32| {
        let smooth = (x * 7 + y * 5 + c * 40 + t * 3 * k) % 256;
        let edge = ((x + t) / 6 + y / 5) % 2 * 60;
        ((smooth / 2 + edge + k * ((x * y + t) % 11)) % 256) as u8
    };
    let frame = |t| RgbImage::from_fn(WIDTH, HEIGHT, |x, y| Rgb([0, 1, 2].map(|c| level(t, x, y, c))));
    (0..4).map(frame).collect()
}

fn masks() -> Vec<Mask> {
    let figure = |t: i32| {
        let pixels = (0..HEIGHT as i32).flat_map(|y| (0..WIDTH as i32).map(move |x| (x, y)));
        pixels.map(|(x, y)| (x - 12 - t).pow(2) + (y - 10).pow(2) < 36).collect()
    };
    (0..4).map(figure).collect()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// tests/fixtures/eval/metrics.json is written by tests/reference/make_eval.py, which computes with numpy and scipy.
#[test]
fn metrics_agree_with_an_independent_computation() {
    let text = fs::read_to_string(repository().join("tests/fixtures/eval/metrics.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (a, b, m) = (clip(1), clip(3), masks());
    let found = [
        ("psnr", psnr(&a, &b, None), 1e-9),
        ("psnr_figure", psnr(&a, &b, Some(&m)), 1e-9),
        ("ssim", ssim(&a, &b, None), 1e-9),
        ("ssim_figure", ssim(&a, &b, Some(&m)), 1e-9),
        ("jitter", jitter(&a, &b), 1e-9),
        ("background_jitter", background_jitter(&a, &m), 1e-9),
        // The conversion matrices are published with seven digits.
        ("identity_pixels", appearance(&a, &b, &m, &[]).map(|l| l.pixels), 2e-3),
    ];
    for (name, found, tolerance) in found {
        let (found, expected) = (found.unwrap(), expected[name].as_f64().unwrap());
        assert!((found - expected).abs() < tolerance, "{name}: {found}, expected {expected}");
    }
}

#[test]
fn equal_clips_are_as_like_as_can_be() {
    let (a, m) = (clip(1), masks());
    assert_eq!((psnr(&a, &a, None), psnr(&a, &a, Some(&m))), (Some(PSNR_CAP_DB), Some(PSNR_CAP_DB)));
    assert!((ssim(&a, &a, None).unwrap() - 1.0).abs() < 1e-12);
    assert_eq!(jitter(&a, &a), Some(0.0));
    assert_eq!(appearance(&a, &a, &m, &[]).map(|l| l.pixels), Some(0.0));
    // One level in one sample is far below the cap.
    let mut near = a.clone();
    near[0].get_pixel_mut(0, 0)[0] ^= 1;
    assert!(psnr(&near, &a, None).unwrap() < 90.0);
}

#[test]
fn there_may_be_nothing_to_compare() {
    let (a, m) = (clip(1), masks());
    let nobody = vec![vec![false; (WIDTH * HEIGHT) as usize]; 4];
    assert_eq!(psnr(&a, &a, Some(&nobody)), None);
    assert_eq!(ssim(&a, &a, Some(&nobody)), None);
    assert_eq!(appearance(&a, &a, &nobody, &[]), None);
    assert_eq!((psnr(&[], &[], None), ssim(&[], &[], None), jitter(&[], &[])), (None, None, None));
    let other = vec![RgbImage::new(WIDTH, HEIGHT + 1); 4];
    assert_eq!((psnr(&a, &other, None), ssim(&a, &other, None), jitter(&a, &other)), (None, None, None));
    assert_eq!(appearance(&a, &other, &m, &[]), None);
    assert_eq!(psnr(&a, &a[..3], None), None);
    let small = vec![RgbImage::new(10, 30)];
    assert_eq!(ssim(&small, &small, None), None);
    let wrong_mask = vec![vec![true; 7]; 4];
    assert_eq!((psnr(&a, &a, Some(&wrong_mask)), ssim(&a, &a, Some(&wrong_mask))), (None, None));
    assert_eq!(background_jitter(&a, &wrong_mask), None);
}

fn pictures() -> impl Strategy<Value = [RgbImage; 2]> {
    (11u32..20, 11u32..20).prop_flat_map(|(w, h)| {
        let picture = move || {
            let samples = prop::collection::vec(any::<u8>(), (3 * w * h) as usize);
            samples.prop_map(move |s| RgbImage::from_raw(w, h, s).unwrap_or_default())
        };
        [picture(), picture()]
    })
}

fn pairs() -> impl Strategy<Value = Vec<PointPair>> {
    let point = || [-300.0..300.0f64, -300.0..300.0];
    prop::collection::vec((point(), point()), 3..17)
}

fn squared_error(s: &Similarity, pairs: &[PointPair]) -> f64 {
    pairs.iter().map(|(p, q)| (0..2).map(|i| (s.apply(*p)[i] - q[i]).powi(2)).sum::<f64>()).sum()
}

proptest! {
    #[test]
    fn ssim_is_symmetric_and_bounded([a, b] in pictures()) {
        let (a, b) = (&[a], &[b]);
        let there = ssim(a, b, None).unwrap();
        prop_assert!((-1.0..=1.0).contains(&there));
        prop_assert!((there - ssim(b, a, None).unwrap()).abs() < 1e-12);
        prop_assert_eq!(psnr(a, b, None), psnr(b, a, None));
        prop_assert!((0.0..=PSNR_CAP_DB).contains(&psnr(a, b, None).unwrap()));
    }

    #[test]
    fn a_similarity_is_recovered(
        angle in -3.1..3.1f64,
        scale in 0.05..20.0f64,
        shift in [-500.0..500.0f64, -500.0..500.0],
        pairs in pairs(),
    ) {
        let known = Similarity { turn: [scale * angle.cos(), scale * angle.sin()], shift };
        let points: Vec<_> = pairs.iter().map(|(p, _)| (*p, known.apply(*p))).collect();
        let found = Similarity::fit(&points).unwrap();
        prop_assert!(squared_error(&found, &points).sqrt() < 1e-6 * (1.0 + 1000.0 * scale));
        for (p, q) in &points {
            let back = found.inverse().unwrap().apply(*q);
            prop_assert!((back[0] - p[0]).abs() + (back[1] - p[1]).abs() < 1e-5);
        }
    }

    #[test]
    fn no_similarity_nearby_fits_better(pairs in pairs(), change in prop::array::uniform4(-0.1..0.1f64)) {
        let best = Similarity::fit(&pairs).unwrap();
        let [a, b, x, y] = change;
        let other = Similarity {
            turn: [best.turn[0] + a, best.turn[1] + b],
            shift: [best.shift[0] + 10.0 * x, best.shift[1] + 10.0 * y],
        };
        prop_assert!(squared_error(&best, &pairs) <= squared_error(&other, &pairs) * (1.0 + 1e-9));
    }
}

#[test]
fn pictures_move_with_the_transform() {
    let picture = RgbImage::from_fn(20, 16, |x, y| Rgb([(x * 12) as u8, (y * 15) as u8, 7]));
    assert_eq!(Similarity::IDENTITY.warp(&picture), picture);
    let moved = Similarity { turn: [1.0, 0.0], shift: [3.0, -2.0] }.warp(&picture);
    assert_eq!(moved[(8, 4)], picture[(5, 6)]);
    assert_eq!(moved[(0, 4)], picture[(0, 6)], "the edge continues");
    let half_turn = Similarity { turn: [-1.0, 0.0], shift: [20.0, 16.0] }.warp(&picture);
    assert_eq!(half_turn[(0, 0)], picture[(19, 15)]);
    let nothing = Similarity { turn: [0.0, 0.0], shift: [1.0, 1.0] };
    assert_eq!((nothing.inverse(), nothing.warp(&picture)), (None, picture));
    assert_eq!(Similarity::fit(&[]), None);
    let one = Similarity::fit(&[([1.0, 2.0], [4.0, 6.0])]).unwrap();
    assert_eq!((one.turn, one.shift), ([1.0, 0.0], [3.0, 4.0]));
    assert_eq!(Similarity::fit(&[([f64::NAN, 0.0], [0.0, 0.0])]), None);
}

#[test]
fn the_committed_set_is_whole() {
    let set = EvalSet::open(&repository().join("models/demo/eval"), None).unwrap();
    let info = set.info();
    assert_eq!((info.pairs.len(), info.frames, info.width, info.height), (32, 33, 160, 224));
    let pair = &info.pairs[3];
    let truth = set.truth(pair, 9).unwrap();
    assert_eq!((truth.frames.len(), truth.masks.len(), truth.poses.len()), (9, 9, 9));
    assert!(
        truth.targets[..info.settle].iter().all(Option::is_none)
            && truth.targets[info.settle..].iter().all(Option::is_some)
    );
    // The truth begins with the reference picture, up to what its compression lost.
    let reference = media::image::read_rgb(set.files(pair).reference).unwrap();
    assert!(psnr(&truth.frames[..1], &[reference], None).unwrap() > 38.0);
    let figure = truth.masks[0].iter().filter(|f| **f).count();
    assert!((500..20_000).contains(&figure), "{figure}");
    // The torso's joints lie on the figure.
    for (mask, target) in truth.masks.iter().zip(&truth.targets).skip(info.settle) {
        let [x, y] = target.as_ref().unwrap().points[11].map(|v| v as usize);
        assert!(mask[y * 160 + x]);
    }
}

/// `--drive exact` draws the poses of pose.json where they are: without a reference nothing is fitted.
#[test]
fn poses_without_a_reference_stay_in_their_places() {
    let set = EvalSet::open(&repository().join("models/demo/eval"), Some(0..1)).unwrap();
    let clip = pose::json::read(&set.files(&set.info().pairs[0]).pose, pose::json::ReadOptions::default()).unwrap();
    let clip = pose::PoseClip { reference: None, ..clip };
    let frames = pose::PoseFrames::new(clip.clone(), clip.size(), pose::PoseOptions::default()).unwrap();
    for (i, frame) in clip.frames.iter().enumerate() {
        let (person, drawn) = (&frame.people[0], &frames.poses(i)[0]);
        // OpenPose's right shoulder is COCO's joint 6.
        let [x, y] = [drawn.body[2][0] * 160.0 - person.points[6][0], drawn.body[2][1] * 224.0 - person.points[6][1]];
        assert!(x.abs() < 0.5 && y.abs() < 0.5, "frame {i}: off by {x}, {y} pixels");
    }
}

#[test]
fn every_score_is_a_metric() {
    use pipeline::eval::METRICS;
    let keys: Vec<&str> = METRICS.iter().map(|m| m.key).collect();
    let scores = serde_json::to_value(pipeline::eval::Scores::default()).unwrap();
    let mut fields: Vec<&str> = scores.as_object().unwrap().keys().map(String::as_str).collect();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    fields.sort_unstable();
    assert_eq!(sorted, fields, "every score is a metric");
}

#[test]
fn broken_sets_are_refused_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let error = |head: &str| {
        fs::write(dir.path().join("set.json"), head).unwrap();
        let error: PipelineError = EvalSet::open(dir.path(), None).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\n') && text.contains("docs/eval.md"), "{text}");
        text
    };
    let head = |more: &str| {
        format!(
            r#"{{"format": "steadydance-eval-set", "version": 1, "generator": "g", "split": "s", "width": 32, "height": 32, "frames": 5, "fps": 16, {more}}}"#
        )
    };
    assert!(error("{").contains("set.json"));
    assert!(error(&head(r#""pairs": []"#)).contains("0 pairs"));
    assert!(error(&head(r#""settle": 5, "pairs": [{"name": "a"}]"#)).contains("settle is 5; expected less than its 5"));
    for name in ["..", "a/b", "", "/etc", "a\\u0000"] {
        assert!(error(&head(&format!(r#""pairs": [{{"name": "{name}"}}]"#))).contains("name of a folder"), "{name}");
    }
    assert!(error(&head(r#""pairs": [{"name": "a"}, {"name": "a"}]"#)).contains("each once"));
    assert!(error(&head(r#""pairs": [{"name": "a"}]"#).replace("version\": 1", "version\": 2")).contains("version 2"));
    assert!(EvalSet::open(&dir.path().join("gone"), None).unwrap_err().to_string().contains("cannot be read"));
}

/// Stops at once.
struct Stopped;

impl Observer for Stopped {
    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn a_stop_while_judging_says_so_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // The set's folder has one of each pair's name.
    let set = repository().join("models/demo/eval");
    let request = EvalRequest {
        set: set.clone(),
        pairs: Some(0..1),
        drive: Drive::default(),
        settings: Settings::from_preset(&preset("demo").unwrap()).unwrap(),
        fps: None,
        pose: PoseSettings::default(),
        prompt: None,
        negative_prompt: None,
        judge: None,
        keep_videos: false,
        crf: 18,
        restart: false,
        output: dir.path().join("report"),
    };
    let error = evaluate(EvalSource::Videos(&set), &request, &mut Stopped).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(error.to_string(), "cancelled while judging pair 0000");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
