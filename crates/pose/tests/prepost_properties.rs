//! Laws of suppression, boxes, crops and SimCC decoding.

use image::RgbImage;
use pose::crop::{CROP, CropWindow, mirror};
use pose::detector::{DETECTOR_SIDE, Letterbox, PersonBox, candidates};
use pose::keypoints::MIRRORED_POINTS;
use pose::profile::{ChannelOrder, Suppression};
use pose::simcc::{SPLIT, Simcc};
use pose::{PoseError, PoseProfile, Size};
use proptest::prelude::*;

/// What the released networks take and give.
const CANDIDATES: usize = candidates(DETECTOR_SIDE);
const BINS_X: usize = SPLIT * CROP.width as usize;
const BINS_Y: usize = SPLIT * CROP.height as usize;

const PROFILES: [PoseProfile; 2] = [PoseProfile::official(), PoseProfile::onnx()];

/// Boxes that overlap often; scores from so few values that ties are common.
fn boxes() -> impl Strategy<Value = Vec<PersonBox>> {
    let one = (0..40u8, 0..40u8, 1..40u8, 1..40u8, 0..12u8).prop_map(|(x, y, w, h, score)| {
        let [x1, y1, w, h, score] = [x, y, w, h, score].map(f64::from);
        PersonBox { x1, y1, x2: x1 + w, y2: y1 + h, score: score / 12.0 }
    });
    prop::collection::vec(one, 0..40)
}

fn suppression() -> impl Strategy<Value = Suppression> {
    (0.0..1.0f64, any::<bool>())
        .prop_map(|(max_overlap, inclusive_corners)| Suppression { max_overlap, inclusive_corners })
}

fn overlap(a: &PersonBox, b: &PersonBox, one: f64) -> f64 {
    let side = |low: f64, high: f64| (high - low + one).max(0.0);
    let area = |b: &PersonBox| side(b.x1, b.x2) * side(b.y1, b.y2);
    let both = side(a.x1.max(b.x1), a.x2.min(b.x2)) * side(a.y1.max(b.y1), a.y2.min(b.y2));
    both / (area(a) + area(b) - both)
}

/// A number that a broken network might give.
fn wild() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -3.0..3.0f32,
        2 => -200.0..200.0f32,
        1 => any::<f32>().prop_filter("finite", |v| v.is_finite()),
        1 => prop::sample::select(vec![f32::MAX, f32::MIN, 0.0, -0.0, 88.7, 89.0, -104.0, 1e-40]),
    ]
}

fn person(x1: f64, y1: f64, x2: f64, y2: f64) -> PersonBox {
    PersonBox { x1, y1, x2, y2, score: 1.0 }
}

fn hash_logits(len: usize, seed: u32, levels: u32) -> Vec<f32> {
    let level = |i: u32| {
        // Two rounds of multiply and shift: one would be linear, and sums of a row and a reversed row all alike.
        let n = i.wrapping_add(seed.wrapping_mul(0x9E37_79B9)).wrapping_mul(0x85EB_CA6B);
        let n = (n ^ (n >> 15)).wrapping_mul(0xC2B2_AE35);
        ((n ^ (n >> 13)) >> 3) % levels
    };
    (0..len as u32).map(|i| level(i) as f32 / levels as f32 - 0.3).collect()
}

/// What the network would give for the mirror image.
fn mirrored(x: &[f32], y: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let row = |values: &[f32], k: usize, bins: usize| values[MIRRORED_POINTS[k] * bins..][..bins].to_vec();
    let x = (0..133).flat_map(|k| row(x, k, BINS_X).into_iter().rev());
    (x.collect(), (0..133).flat_map(|k| row(y, k, BINS_Y)).collect())
}

proptest! {
    #[test]
    fn suppression_keeps_the_best_and_no_two_alike(boxes in boxes(), pass in suppression()) {
        let kept = pass.apply(boxes.clone());
        let one = if pass.inclusive_corners { 1.0 } else { 0.0 };
        for (i, a) in kept.iter().enumerate() {
            prop_assert!(kept[..i].iter().all(|b| overlap(a, b, one) <= pass.max_overlap));
            prop_assert!(boxes.contains(a));
        }
        prop_assert!(kept.is_sorted_by(|a, b| a.score >= b.score));
        let best = boxes.iter().copied().reduce(|a, b| if b.score > a.score { b } else { a });
        prop_assert_eq!(kept.first(), best.as_ref(), "the first of the best");
        // Whatever is gone had a reason that is kept.
        for gone in boxes.iter().filter(|b| !kept.contains(b)) {
            prop_assert!(kept.iter().any(|k| k.score >= gone.score && overlap(k, gone, one) > pass.max_overlap));
        }
        prop_assert_eq!(pass.apply(kept.clone()), kept);
    }

    #[test]
    fn order_matters_to_suppression_only_through_ties(boxes in boxes(), pass in suppression(), turn in 0..40usize) {
        let mut distinct = boxes;
        for (i, b) in distinct.iter_mut().enumerate() {
            b.score += i as f64 * 1e-6;
        }
        let mut turned = distinct.clone();
        turned.rotate_left(turn.min(distinct.len()));
        turned.reverse();
        prop_assert_eq!(pass.apply(turned), pass.apply(distinct));
    }

    #[test]
    fn wild_boxes_are_usable_or_refused(
        rows in prop::collection::vec((0..CANDIDATES, prop::array::uniform8(wild())), 1..30),
        (width, height) in (1..5000u32, 1..5000u32),
    ) {
        let mut raw = [[0.0f32, 0.0, 0.0, 0.0, -20.0, -20.0, -20.0, -20.0]; CANDIDATES].concat();
        for (index, row) in rows {
            raw[index * 8..][..8].copy_from_slice(&row);
        }
        let size = Size::new(width, height);
        for profile in PROFILES {
            match Letterbox::new(size, DETECTOR_SIDE, &profile).people(&raw, &profile) {
                Err(PoseError::NetworkNotFinite { .. }) => (),
                Err(error) => prop_assert!(false, "{error}"),
                Ok(people) => for p in people {
                    prop_assert!(p.score > profile.person_score && p.score <= 1.0);
                    prop_assert!(p.x1 < p.x2 && p.y1 < p.y2);
                    prop_assert!(p.x1 < f64::from(width) && p.x2 > 0.0 && p.y1 < f64::from(height) && p.y2 > 0.0);
                    let window = CropWindow::around(&p, CROP);
                    let corners = [window.to_picture([-0.5, -0.5]), window.to_picture([288.0, 384.0])];
                    prop_assert!(corners.iter().flatten().all(|v| v.is_finite()));
                },
            }
        }
    }

    #[test]
    fn letterboxes_bring_boxes_back(
        (width, height) in (1..5000u32, 1..5000u32),
        (cell, w, h) in (0..400usize, 1.0..300.0f32, 1.0..300.0f32),
    ) {
        prop_assume!(width.max(height) <= 16 * width.min(height));
        for profile in PROFILES {
            let letterbox = Letterbox::new(Size::new(width, height), DETECTOR_SIDE, &profile);
            let inner = letterbox.inner();
            prop_assert!(inner.width.max(inner.height) >= 639 && inner.width.max(inner.height) <= 640);
            // A person around the middle of a cell of stride 32.
            let mut raw = [[0.0f32, 0.0, 0.0, 0.0, -20.0, -20.0]; CANDIDATES].concat();
            let row = [0.5, 0.5, (w / 32.0).ln(), (h / 32.0).ln(), 10.0, 10.0];
            raw[(8000 + cell) * 6..][..6].copy_from_slice(&row);
            let centre = [(cell % 20) as f64 * 32.0 + 16.0, (cell / 20) as f64 * 32.0 + 16.0];
            let fit = 640.0 / f64::from(width.max(height));
            for p in letterbox.people(&raw, &profile).unwrap() {
                let scale = match profile.name {
                    "onnx" => [fit; 2],
                    _ => [f64::from(inner.width) / f64::from(width), f64::from(inner.height) / f64::from(height)],
                };
                prop_assert!(((p.x1 + p.x2) / 2.0 * scale[0] - centre[0]).abs() < 1e-6);
                prop_assert!(((p.y1 + p.y2) / 2.0 * scale[1] - centre[1]).abs() < 1e-6);
                prop_assert!(((p.x2 - p.x1) * scale[0] - f64::from(w)).abs() < 1e-3);
                prop_assert!(((p.y2 - p.y1) * scale[1] - f64::from(h)).abs() < 1e-3);
            }
        }
    }

    #[test]
    fn crop_and_back_is_identity(
        (x, y, w, h) in (-2e3..5e3f64, -2e3..5e3f64, 0.01..4e3f64, 0.01..4e3f64),
        (px, py) in (-10.0..300.0f64, -10.0..400.0f64),
    ) {
        let window = CropWindow::around(&person(x, y, x + w, y + h), CROP);
        prop_assert!((window.size[0] / window.size[1] - 0.75).abs() < 1e-12);
        prop_assert!(window.size[0] >= w * 1.25 - 1e-9 && window.size[1] >= h * 1.25 - 1e-9);
        let back = window.to_crop(window.to_picture([px, py]));
        let slack = 1e-9 * (1.0 + 1e4 / w.min(h));
        prop_assert!((back[0] - px).abs() < slack && (back[1] - py).abs() < slack, "{back:?}");
    }

    #[test]
    fn flip_test_of_a_symmetric_answer_changes_nothing(seed in any::<u32>(), levels in 2..500u32) {
        let (x, y) = (hash_logits(133 * BINS_X, seed, levels), hash_logits(133 * BINS_Y, !seed, levels));
        let (mx, my) = mirrored(&x, &y);
        let (plain, twin) = (Simcc::new(&x, &y).unwrap(), Simcc::new(&mx, &my).unwrap());
        prop_assert_eq!(plain.decode(Some(&twin)), plain.decode(None));
    }

    #[test]
    fn flip_test_treats_both_sides_alike(seed in any::<u32>()) {
        // So many levels that sums hardly tie; where they do, the first bin of one side is the last of the other.
        let logits = |bins, seed| hash_logits(133 * bins, seed, 1 << 20);
        let (ax, ay) = (logits(BINS_X, seed), logits(BINS_Y, seed ^ 1));
        let (bx, by) = (logits(BINS_X, seed ^ 2), logits(BINS_Y, seed ^ 3));
        let (a, b) = (Simcc::new(&ax, &ay).unwrap(), Simcc::new(&bx, &by).unwrap());
        let (one, other) = (a.decode(Some(&b)), b.decode(Some(&a)));
        let mut ties = 0;
        for (k, m) in MIRRORED_POINTS.into_iter().enumerate() {
            prop_assert_eq!(one.scores[k], other.scores[m]);
            prop_assert_eq!(one.points[k][1], other.points[m][1]);
            let last = (BINS_X - 1) as f64 / 2.0;
            ties += usize::from(one.scores[k] > 0.0 && (one.points[k][0] + other.points[m][0] - last).abs() > 1e-9);
        }
        prop_assert!(ties < 5, "{ties} ties");
    }
}

#[test]
fn equal_scores_stay_in_order() {
    let pass = Suppression { max_overlap: 0.5, inclusive_corners: false };
    let (a, b) = (person(0.0, 0.0, 10.0, 10.0), person(1.0, 0.0, 11.0, 10.0));
    assert_eq!(pass.apply(vec![a, b]), [a]);
    assert_eq!(pass.apply(vec![b, a]), [b]);
    // Exactly the threshold is kept: 5 of 15 columns.
    let third = Suppression { max_overlap: 1.0 / 3.0, inclusive_corners: false };
    let shifted = person(5.0, 0.0, 15.0, 10.0);
    assert_eq!(third.apply(vec![a, shifted]).len(), 2);
    // With inclusive corners it is 6 of 16.
    assert_eq!(Suppression { inclusive_corners: true, ..third }.apply(vec![a, shifted]).len(), 1);
}

#[test]
fn degenerate_boxes_are_dropped() {
    let profile = PoseProfile::official();
    let letterbox = Letterbox::new(Size::new(640, 320), DETECTOR_SIDE, &profile);
    let people = |row: [f32; 6]| {
        let mut raw = [[0.0f32, 0.0, 0.0, 0.0, -20.0, -20.0]; CANDIDATES].concat();
        raw[..6].copy_from_slice(&row);
        letterbox.people(&raw, &profile).unwrap()
    };
    assert_eq!(people([2.0, 2.0, 1.0, 1.0, 5.0, 5.0]).len(), 1);
    assert_eq!(people([2.0, 2.0, -800.0, 1.0, 5.0, 5.0]), [], "no width");
    assert_eq!(people([2.0, 2.0, 1.0, -800.0, 5.0, 5.0]), [], "no height");
    assert_eq!(people([-9.0, 2.0, 1.0, 1.0, 5.0, 5.0]), [], "left of the picture");
    assert_eq!(people([2.0, 50.0, 1.0, 1.0, 5.0, 5.0]), [], "in the grey below the picture");
    assert_eq!(people([2.0, 2.0, 1.0, 1.0, 5.0, -0.1]), [], "not sure enough");
}

#[test]
fn a_person_must_be_the_best_class_in_the_official_profile_only() {
    let mut raw = [[0.0f32, 0.0, 0.0, 0.0, -20.0, -20.0, -20.0]; CANDIDATES].concat();
    let rows = |raw: &[f32], profile: PoseProfile| {
        Letterbox::new(Size::new(640, 640), DETECTOR_SIDE, &profile).people(raw, &profile).unwrap().len()
    };
    raw[..7].copy_from_slice(&[2.0, 2.0, 1.0, 1.0, 5.0, 2.0, 2.0]);
    assert_eq!((rows(&raw, PoseProfile::official()), rows(&raw, PoseProfile::onnx())), (1, 1), "first of equals");
    raw[6] = 2.1;
    assert_eq!((rows(&raw, PoseProfile::official()), rows(&raw, PoseProfile::onnx())), (0, 1));
}

#[test]
fn the_second_pass_of_the_official_profile_sees_small_boxes_larger() {
    // Two squares of 2 pixels, half a pixel apart: overlap 3/5, with inclusive corners 7.5/10.5.
    let mut raw = [[0.0f32, 0.0, 0.0, 0.0, -20.0, -20.0]; CANDIDATES].concat();
    let length = (2.0f32 / 8.0).ln();
    raw[..6].copy_from_slice(&[100.0 / 8.0, 12.0, length, length, 5.0, 5.0]);
    raw[6..12].copy_from_slice(&[100.5 / 8.0 - 1.0, 12.0, length, length, 5.0, 4.0]);
    let official = PoseProfile::official();
    let letterbox = Letterbox::new(Size::new(640, 640), DETECTOR_SIDE, &official);
    assert_eq!(letterbox.people(&raw, &official).unwrap().len(), 1);
    let first_only = PoseProfile { suppressions: &official.suppressions[..1], ..official };
    assert_eq!(letterbox.people(&raw, &first_only).unwrap().len(), 2);
}

#[test]
fn crops_of_integer_windows_are_pixels() {
    // A window of 288 x 384 pixels moves samples, nothing else.
    let picture = RgbImage::from_fn(200, 300, |x, y| image::Rgb([(x % 251) as u8, (y % 241) as u8, 7]));
    let (w, h) = (288.0 / 1.25, 384.0 / 1.25);
    let window = CropWindow::around(&person(0.0, 0.0, w, h), CROP);
    let window = CropWindow { centre: [154.0, 202.0], ..window };
    let mut crop = vec![0f32; window.samples()];
    window.write(&picture, ChannelOrder::Bgr, &mut crop);
    for (x, y) in [(0, 0), (5, 9), (189, 289), (190, 100), (100, 290), (287, 383)] {
        let inside = x + 10 < 200 && y + 10 < 300;
        let rgb = if inside { [(x + 10) % 251, (y + 10) % 241, 7] } else { [0; 3] }.map(|v| v as f32);
        let expected = [(rgb[2] - 123.675) / 58.395, (rgb[1] - 116.28) / 57.12, (rgb[0] - 103.53) / 57.375];
        assert_eq!(crop[(y * 288 + x) * 3..][..3], expected, "{x} {y}");
    }
    let mut twin = vec![0f32; window.samples()];
    mirror(&crop, 288, &mut twin);
    assert_eq!(twin[..3], crop[(288 - 1) * 3..][..3]);
    let mut back = vec![0f32; window.samples()];
    mirror(&twin, 288, &mut back);
    assert_eq!(back, crop);
}

#[test]
fn windows_of_any_size_give_finite_crops() {
    let picture = RgbImage::from_pixel(3, 2, image::Rgb([9, 99, 199]));
    for b in [
        person(0.0, 0.0, 1e-300, 1e-300),
        person(-1e38, -1e38, 1e38, 1e38),
        person(1e6, 1e6, 1e6 + 5.0, 1e6 + 5.0),
        person(-0.5, 0.0, 2.5, 1e30),
    ] {
        let window = CropWindow::around(&b, CROP);
        let mut crop = vec![f32::NAN; window.samples()];
        window.write(&picture, ChannelOrder::Rgb, &mut crop);
        assert!(crop.iter().all(|v| v.is_finite()), "{b:?}");
    }
}

#[test]
fn the_mirror_table_pairs_points() {
    for (k, &m) in MIRRORED_POINTS.iter().enumerate() {
        assert_eq!(MIRRORED_POINTS[m], k);
    }
    assert_eq!(MIRRORED_POINTS.iter().enumerate().filter(|(k, m)| k == *m).count(), 1 + 1 + 4 + 1 + 2 + 2);
}

#[test]
fn weak_and_tied_keypoints() {
    let (mut x, mut y) = (vec![-1.0f32; 133 * BINS_X], vec![-1.0f32; 133 * BINS_Y]);
    // Keypoint 0: two equal maxima each. Keypoint 1: one axis not above 0. Keypoint 2: nothing.
    for bin in [40, 90] {
        (x[bin], y[bin + 1]) = (0.5, 0.75);
    }
    (x[BINS_X + 3], y[BINS_Y + 4]) = (0.5, 0.0);
    let person = Simcc::new(&x, &y).unwrap().decode(None);
    assert_eq!((person.points[0], person.scores[0]), ([20.0, 20.5], 0.5));
    assert_eq!((person.points[1], person.scores[1]), ([-0.5, -0.5], 0.0));
    assert_eq!((person.points[2], person.scores[2]), ([-0.5, -0.5], -1.0));
    // The largest finite logits do not overflow in the mean.
    x.fill(f32::MAX);
    y.fill(f32::MAX);
    let huge = Simcc::new(&x, &y).unwrap();
    assert_eq!(huge.decode(Some(&huge)).scores[0], f64::from(f32::MAX));
    x[700] = f32::NEG_INFINITY;
    assert!(matches!(Simcc::new(&x, &y), Err(PoseError::NetworkNotFinite { .. })));
    assert!(matches!(Simcc::new(&x, &y[1..]), Err(PoseError::NetworkShape { .. })));
}
