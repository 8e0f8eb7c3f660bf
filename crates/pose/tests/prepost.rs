//! DWPose around its networks against `tests/reference/make_pose_prepost.py`, which runs OpenCV and torch.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor};
use image::RgbImage;
use pose::dwpose::{DwPose, DwPoseOptions, PoseNetworks};
use pose::{FrameRole, PoseEstimator, PoseProfile};
use safetensors::SafeTensors;

/// Objectness and classes of a candidate that is nothing.
const BACKGROUND: f32 = -9.0;
const CASES: usize = 8;

/// Murmur3's finaliser.
fn mix(mut n: u32) -> u32 {
    n = (n ^ (n >> 16)).wrapping_mul(0x85EB_CA6B);
    n = (n ^ (n >> 13)).wrapping_mul(0xC2B2_AE35);
    n ^ (n >> 16)
}

fn pixels(width: u32, height: u32, seed: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let sample = |c: u32| {
            let index = (y * width + x) * 3 + c;
            let ramp = (x * 3 + y * 5 + c * 80) & 255;
            (((ramp * 3) >> 2) + (mix(index.wrapping_add(seed * 7919)) & 63)) as u8
        };
        image::Rgb([0, 1, 2].map(sample))
    })
}

fn logits(seed: u32, person: u32, twin: u32, axis: u32, bins: usize) -> Vec<f32> {
    let start = (((seed * 64 + person) * 2 + twin) * 2 + axis).wrapping_mul(1_000_003);
    let value = |i: usize| {
        let value = (mix(start.wrapping_add(i as u32)) % 257) as f32 / 128.0 - 1.0;
        if (i / bins) % 7 == 3 { value - 1.25 } else { value }
    };
    (0..133 * bins).map(value).collect()
}

/// Networks that answer with a case's made-up outputs, person after person, and keep what they were shown.
struct Replay {
    raw: Tensor,
    seed: u32,
    person: AtomicUsize,
    seen: Mutex<Vec<Vec<f32>>>,
}

impl PoseNetworks for Replay {
    fn detect(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        assert_eq!(pictures.dims(), [1, 640, 640, 3]);
        self.seen.lock().expect("lock").push(pictures.flatten_all()?.to_vec1()?);
        Ok(self.raw.clone())
    }

    fn keypoints(&self, crops: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let twins = crops.dim(0)?;
        assert_eq!(crops.dims(), [twins, 384, 288, 3]);
        self.seen.lock().expect("lock").push(crops.flatten_all()?.to_vec1()?);
        let person = self.person.fetch_add(1, Ordering::Relaxed) as u32;
        let axis = |axis: u32, bins: usize| {
            let values: Vec<f32> =
                (0..twins).flat_map(|twin| logits(self.seed, person, twin as u32, axis, bins)).collect();
            Tensor::from_vec(values, (twins, 133, bins), &Device::Cpu)
        };
        Ok((axis(0, 576)?, axis(1, 768)?))
    }
}

fn array<const N: usize, T>(file: &SafeTensors, name: &str, from: impl Fn([u8; N]) -> T) -> Vec<T> {
    let bytes = file.tensor(name).expect(name).data();
    bytes.chunks_exact(N).map(|b| from(b.try_into().expect("chunk"))).collect()
}

fn doubles(file: &SafeTensors, name: &str) -> Vec<f64> {
    array(file, name, f64::from_le_bytes)
}

fn integers(file: &SafeTensors, name: &str) -> Vec<i64> {
    array(file, name, i64::from_le_bytes)
}

fn replay(file: &SafeTensors, case: usize, seed: u32) -> Replay {
    let values: Vec<f32> = array(file, &format!("{case}.raw"), f32::from_le_bytes);
    let mut raw = [[0.0, 0.0, 0.0, 0.0, BACKGROUND, BACKGROUND, BACKGROUND, BACKGROUND, BACKGROUND]; 8400].concat();
    for (index, row) in integers(file, &format!("{case}.rows")).iter().zip(values.chunks_exact(9)) {
        raw[*index as usize * 9..][..9].copy_from_slice(row);
    }
    let raw = Tensor::from_vec(raw, (1, 8400, 9), &Device::Cpu).expect("raw");
    Replay { raw, seed, person: AtomicUsize::new(0), seen: Mutex::default() }
}

/// How many samples differ from u8 ones, and the largest difference.
fn levels(ours: impl Iterator<Item = f32>, expected: &[u8]) -> (usize, f32) {
    let ours: Vec<f32> = ours.collect();
    assert_eq!(ours.len(), expected.len());
    let differences = ours.iter().zip(expected).map(|(a, b)| (a - f32::from(*b)).abs());
    differences.fold((0, 0.0), |(count, worst), d| (count + usize::from(d > 0.01), d.max(worst)))
}

/// Every `step`th pixel of every `step`th row of [rows, columns, 3].
fn every(step: usize, columns: usize, samples: &[f32]) -> impl Iterator<Item = f32> {
    let lines = samples.chunks_exact(columns * 3).step_by(step);
    lines.flat_map(move |line| line.chunks_exact(3).step_by(step).flatten().copied())
}

fn compare(profile: PoseProfile) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/prepost/{profile}.safetensors"));
    let bytes = std::fs::read(path).expect("fixture");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut people_in_all = 0;
    let (mut worst_box, mut worst_point) = (0f64, 0f64);
    let (mut off_letterbox, mut off_crops, mut crop_samples) = (0, 0, 0);
    for case in 0..CASES {
        let [width, height, seed, role] = integers(&file, &format!("{case}.picture"))[..] else {
            panic!("four numbers")
        };
        let picture = pixels(width as u32, height as u32, seed as u32);
        let role = if role == 1 { FrameRole::Reference } else { FrameRole::Driving(case) };
        let mut estimator = DwPose::new(
            replay(&file, case, seed as u32),
            DwPoseOptions { max_people: 99.try_into().expect("not 0"), ..DwPoseOptions::new(profile) },
        );

        let expected = doubles(&file, &format!("{case}.boxes"));
        let boxes = estimator.boxes(role, &picture).expect("boxes");
        assert_eq!(boxes.len(), expected.len() / 5, "{profile}, case {case}");
        for (ours, expected) in boxes.iter().zip(expected.chunks_exact(5)) {
            for (ours, expected) in [ours.x1, ours.y1, ours.x2, ours.y2, ours.score].iter().zip(expected) {
                worst_box = worst_box.max((ours - expected).abs());
            }
        }

        let found = estimator.estimate(role, &picture).expect("keypoints");
        let expected = doubles(&file, &format!("{case}.keypoints"));
        assert_eq!(found.people.len(), expected.len() / 399, "{profile}, case {case}");
        assert_eq!(estimator.statistics().whole_pictures, usize::from(boxes.is_empty()));
        people_in_all += found.people.len();
        for (person, expected) in found.people.iter().zip(expected.chunks_exact(399)) {
            for ((point, score), expected) in person.points.iter().zip(person.scores).zip(expected.chunks_exact(3)) {
                worst_point = worst_point.max((point[0] - expected[0]).abs()).max((point[1] - expected[1]).abs());
                assert_eq!(score, expected[2]);
            }
        }

        let networks = estimator.into_networks();
        let seen = networks.seen.into_inner().expect("lock");
        let tensor = file.tensor(&format!("{case}.letterbox")).expect("letterbox");
        let (count, worst) = levels(every(17, 640, &seen[0]), tensor.data());
        assert!(worst <= 1.0, "{profile}, case {case}: letterbox {worst}");
        off_letterbox += count;
        let tensor = file.tensor(&format!("{case}.crops")).expect("crops");
        for (ours, expected) in seen[2..].iter().zip(tensor.data().chunks_exact(43 * 32 * 3)) {
            let (mean, deviation) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);
            let plain = &ours[..384 * 288 * 3];
            let ours = every(9, 288, plain).enumerate().map(|(i, v)| v * deviation[i % 3] + mean[i % 3]);
            let (count, worst) = levels(ours, expected);
            assert!(worst <= 1.01, "{profile}, case {case}: crop {worst}");
            off_crops += count;
            crop_samples += expected.len();
        }
    }
    println!(
        "{profile}: {people_in_all} people; boxes {worst_box:.1e} px, keypoints {worst_point:.1e} px; samples one level \
         off: letterbox {off_letterbox} of {}, crops {off_crops} of {crop_samples}",
        CASES * 38 * 38 * 3
    );
    assert!(people_in_all >= 15, "the fixture is complete");
    assert!(worst_box < 1e-9 && worst_point < 1e-9, "boxes {worst_box}, keypoints {worst_point}");
    // Ties of rounding, in the pre-resize or in the crop.
    assert!(off_letterbox * 100 < CASES * 38 * 38 * 3, "{off_letterbox} letterbox samples");
    assert!(off_crops * 100 < crop_samples, "{off_crops} of {crop_samples} crop samples");
}

#[test]
fn official_profile_equals_the_reference() {
    compare(PoseProfile::official());
}

#[test]
fn onnx_profile_equals_the_reference() {
    compare(PoseProfile::onnx());
}
