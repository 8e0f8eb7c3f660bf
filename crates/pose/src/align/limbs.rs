//! Lengths of the parts of a body, in one frame and over a clip.

use super::joint::*;
use crate::openpose::{BODY_POINTS, OpenPose};

/// Parts that have a length: five single ones, then four pairs, right before left.
pub(crate) const LIMBS: usize = 13;

/// In words, for reports.
pub(crate) const LIMB_NAMES: [&str; LIMBS] = [
    "neck",
    "right side of the face",
    "left side of the face",
    "shoulders",
    "torso",
    "right upper arm",
    "left upper arm",
    "right forearm",
    "left forearm",
    "right thigh",
    "left thigh",
    "right shin",
    "left shin",
];

/// The path of joints along each limb; the torso's leads to the middle of the hips, see [`LimbLengths::of`].
const PATHS: [&[usize]; LIMBS] = [
    &[NOSE, NECK],
    &[RIGHT_EAR, RIGHT_EYE, NOSE],
    &[LEFT_EAR, LEFT_EYE, NOSE],
    &[RIGHT_SHOULDER, LEFT_SHOULDER],
    &[NECK, RIGHT_HIP, LEFT_HIP],
    &[RIGHT_SHOULDER, RIGHT_ELBOW],
    &[LEFT_SHOULDER, LEFT_ELBOW],
    &[RIGHT_ELBOW, RIGHT_WRIST],
    &[LEFT_ELBOW, LEFT_WRIST],
    &[RIGHT_HIP, RIGHT_KNEE],
    &[LEFT_HIP, LEFT_KNEE],
    &[RIGHT_KNEE, RIGHT_ANKLE],
    &[LEFT_KNEE, LEFT_ANKLE],
];
/// The torso among the limbs.
pub(crate) const TORSO: usize = 4;

/// A limb must be seen in so many frames for the clip to tell its length.
const LEAST_FRAMES: usize = 5;
/// So many limbs must be seen in a frame for it to tell the person's size.
const LEAST_LIMBS: usize = 3;
/// Foreshortening only makes limbs shorter, so a limb's length shows in its longest frames and a frame's size in its longest
/// limbs. Not in the very longest, which are the detector's errors.
const LONG_FRAMES: f64 = 0.9;
const LONG_LIMBS: f64 = 0.75;
/// Neck and face are not straight: nose and ears stick out, so that a turned head makes them longer. Their usual length is
/// the median, and they tell nothing about size.
const HEAD: std::ops::Range<usize> = 0..3;
const USUAL_FRAMES: f64 = 0.5;
/// Rounds of the fit; it settles in two or three.
const ROUNDS: usize = 5;

/// The limbs of a person in a frame, in "height 1" coordinates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LimbLengths {
    pub lengths: [f64; LIMBS],
    /// Whether every joint of the limb is visible.
    pub seen: [bool; LIMBS],
}

impl LimbLengths {
    /// `aspect` is the width / height of the picture that the pose is in fractions of.
    pub fn of(pose: &OpenPose, aspect: f64) -> Self {
        Self::of_points(&pose.body.map(|p| [p[0] * aspect, p[1]]), &pose.visible)
    }

    pub fn of_points(points: &[[f64; 2]; BODY_POINTS], visible: &[bool; BODY_POINTS]) -> Self {
        let between = |a: [f64; 2], b: [f64; 2]| ((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)).sqrt();
        let length = |limb: usize| match limb {
            TORSO => {
                let hips = [0, 1].map(|axis| (points[RIGHT_HIP][axis] + points[LEFT_HIP][axis]) / 2.0);
                between(points[NECK], hips)
            }
            _ => PATHS[limb].windows(2).map(|step| between(points[step[0]], points[step[1]])).sum(),
        };
        Self {
            lengths: std::array::from_fn(length),
            seen: std::array::from_fn(|limb| PATHS[limb].iter().all(|&joint| visible[joint])),
        }
    }
}

/// The lengths that the limbs would have in frame `at` if none were foreshortened and the head upright, as far as the clip
/// tells.
///
/// Model: length(limb, frame) = size(frame) · length(limb) · foreshortening, the last at most 1. Sizes and lengths are fitted
/// in turn, each as a high quantile of what the other leaves over. The size takes out that the person may be nearer to the
/// camera in other frames.
pub(crate) fn unforeshortened(frames: &[Option<LimbLengths>], at: usize) -> [Option<f64>; LIMBS] {
    let mut sizes: Vec<Option<f64>> = frames.iter().map(|frame| frame.map(|_| 1.0)).collect();
    let mut limbs = [None; LIMBS];
    for _ in 0..ROUNDS {
        limbs = std::array::from_fn(|limb| {
            let lengths = frames.iter().zip(&sizes).filter_map(|(frame, size)| {
                let frame = frame.as_ref().filter(|frame| frame.seen[limb])?;
                Some(frame.lengths[limb] / (*size)?)
            });
            let part = if HEAD.contains(&limb) { USUAL_FRAMES } else { LONG_FRAMES };
            quantile(lengths, part, LEAST_FRAMES)
        });
        for (frame, size) in frames.iter().zip(&mut sizes) {
            let frame = frame.as_ref();
            let ratios = frame.into_iter().flat_map(|frame| {
                let straight = (HEAD.end..LIMBS).filter(|&limb| frame.seen[limb]);
                straight.filter_map(|limb| Some(frame.lengths[limb] / limbs[limb]?))
            });
            *size = quantile(ratios, LONG_LIMBS, LEAST_LIMBS);
        }
    }
    let size = sizes.get(at).copied().flatten();
    limbs.map(|limb| Some(limb? * size?))
}

/// The value below which the part `q` of the positive, finite ones lies; `None` for fewer than `least` of them.
pub(crate) fn quantile(values: impl Iterator<Item = f64>, q: f64, least: usize) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|v| v.is_finite() && *v > 0.0).collect();
    if values.len() < least.max(1) {
        return None;
    }
    values.sort_by(f64::total_cmp);
    values.get(((values.len() - 1) as f64 * q).round() as usize).copied()
}
