//! How good a motion is: what was found, what was repaired, and what the user had better know before hours of rendering.

mod warning;

use std::fmt;
use std::ops::Range;

use serde::Serialize;

pub use warning::{BodyPart, Warning};

use crate::align::joint;
use crate::align::limbs::{LIMB_NAMES, LIMBS, LimbLengths};
use crate::align::{DegenerateScale, Scales};
use crate::keypoints::{COCO_BODY_POINTS, WholeBody};
use crate::motion::usual_height;
use crate::openpose::{BODY_POINTS, HAND_POINTS, HIDDEN, OpenPose};

/// Joints visible in less than this part of the frames are listed as rarely seen.
pub const RARELY_SEEN: f64 = 0.5;
/// A hand counts as seen in a frame if this part of its points is.
const HAND_SEEN: f64 = 0.5;
/// A limb's length must be known in so many frames for its variation to mean anything.
const LEAST_FRAMES: usize = 5;
/// Median of |x| over the standard deviation, for normally distributed x.
const MEDIAN_OF_DEVIATION: f64 = 0.674_489_75;

/// Frames from `first` to `last`, both included. As text `3-7`, or `3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FrameRange {
    /// First frame.
    pub first: usize,
    /// Last frame; the same for a single one.
    pub last: usize,
}

impl FrameRange {
    /// Rising frame numbers as ranges.
    pub fn of(frames: impl IntoIterator<Item = usize>) -> Vec<Self> {
        let mut ranges: Vec<Self> = Vec::new();
        for frame in frames {
            match ranges.last_mut() {
                Some(range) if range.last + 1 == frame => range.last = frame,
                _ => ranges.push(Self { first: frame, last: frame }),
            }
        }
        ranges
    }

    /// Number of frames.
    pub fn count(ranges: &[Self]) -> usize {
        ranges.iter().map(|range| range.last - range.first + 1).sum()
    }
}

impl fmt::Display for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// Part of the frames in which a joint is visible.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct JointPresence {
    /// In words.
    pub joint: &'static str,
    /// 0..1.
    pub seen: f64,
}

/// How much a limb's drawn length varies over the clip.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LimbDrift {
    /// In words.
    pub limb: &'static str,
    /// Standard deviation / mean of the length. Turning towards the camera gives 0.2 to 0.4.
    pub variation: f64,
}

/// What was noticed about a clip; known before the first frame is drawn. Where several people are drawn, numbers are about
/// the main one unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QualityReport {
    /// Frames in the clip.
    pub frames: usize,
    /// Part of the frames in which the person was found.
    pub detection_rate: f64,
    /// Frames in which the person was not found.
    pub missing: Vec<FrameRange>,
    /// Those of them that were filled in between two poses.
    pub interpolated: Vec<FrameRange>,
    /// Those of them that show the pose of another frame.
    pub held: Vec<FrameRange>,
    /// Frames that show nobody at all.
    pub blank: Vec<FrameRange>,
    /// People told apart in the video, drawn or not; after a cut everybody is new.
    pub tracks: usize,
    /// People drawn.
    pub people: usize,
    /// Number of frames with more than one person in them.
    pub frames_with_several: usize,
    /// Frames at which everybody is suddenly somewhere else.
    pub cuts: Vec<usize>,
    /// How often the person drawn becomes another one, which only the list's order as identity lets happen.
    pub switches: usize,
    /// Mean score of the body's keypoints where the person was found.
    pub mean_score: f64,
    /// Jitter of the keypoints as found, and as drawn, of clips of at least [`JITTER_FPS`]: the standard deviation of what no smooth motion explains, in
    /// pixels of a person 1000 pixels tall (see [`jitter`]). `None` for too short a clip.
    pub jitter_px: [Option<f64>; 2],
    /// Keypoints, counted in every frame, that were hidden and have been interpolated.
    pub filled_keypoints: usize,
    /// Keypoints, counted in every frame, that jumped away for a single frame and have been interpolated.
    pub spikes: usize,
    /// Variation of the limbs' lengths, the largest first.
    pub limb_drift: Vec<LimbDrift>,
    /// Joints visible in less than half of the frames ([`RARELY_SEEN`]).
    pub rarely_seen: Vec<JointPresence>,
    /// Part of the frames in which the left and the right hand are seen.
    pub hands_seen: [f64; 2],
    /// Part of the visible body joints of everyone drawn that lies outside of the canvas after alignment.
    pub out_of_frame_fraction: f64,
    /// Whether there was a reference person; if not, poses are centred and keep their size.
    pub aligned: bool,
    /// The driving frame that was measured against the reference.
    pub align_frame: usize,
    /// How unlike the reference the pose of that frame is, see [`shape_distance`](crate::align::shape_distance).
    pub align_distance: Option<f64>,
    /// The scales in use.
    pub scales: Scales,
    /// Those of them that were not usable as measured.
    pub degenerate_scales: Vec<DegenerateScale>,
    /// Whether the motion was mirrored, as asked.
    pub mirror: bool,
    /// The picture looks like the mirror image of the motion (as drawn).
    pub likely_mirrored: bool,
    /// Picture and video show the person from opposite sides, front and back.
    pub seen_from_behind: bool,
    /// The gist of it for the user, in the order of weight.
    pub warnings: Vec<Warning>,
}

/// Frames a second below which a dance cannot be told from jitter.
pub const JITTER_FPS: f64 = 10.0;

/// Jitter of a body's keypoints: the standard deviation of noise that is independent from frame to frame, in thousandths of
/// the person's height. `None` if no keypoint is seen in five consecutive frames of a shot.
///
/// Measured as the part of a keypoint's place that a cubic through the two frames before and after does not explain; that
/// leaves 6 % of a swing of 2 Hz at 16 frames a second, and the median over all keypoints ignores the fast ones.
pub fn jitter(motion: &[Option<WholeBody>], shots: &[Range<usize>], threshold: f64) -> Option<f64> {
    let height = usual_height(motion, threshold)?;
    let mut residuals = Vec::new();
    for window in shots.iter().flat_map(|shot| motion[shot.clone()].windows(5)) {
        let [Some(a), Some(b), Some(c), Some(d), Some(e)] = window else {
            continue;
        };
        for point in 0..COCO_BODY_POINTS {
            if [a, b, c, d, e].iter().all(|body| body.is_seen(point, threshold)) {
                let residual = |axis: usize| {
                    let [a, b, c, d, e] = [a, b, c, d, e].map(|body| body.points[point][axis]);
                    c - (4.0 * (b + d) - (a + e)) / 6.0
                };
                residuals.extend([residual(0).abs(), residual(1).abs()]);
            }
        }
    }
    if residuals.is_empty() {
        return None;
    }
    residuals.sort_by(f64::total_cmp);
    let median = residuals[residuals.len() / 2];
    // The residual's own variance for noise of variance 1.
    let gain = (1.0 + 2.0 * (16.0 + 1.0) / 36.0f64).sqrt();
    Some(1000.0 * median / (MEDIAN_OF_DEVIATION * gain * height))
}

/// Variation of the limbs' lengths, the largest first. `aspect` is the width / height of the driving frames.
pub(crate) fn limb_drift(motion: &[Option<OpenPose>], aspect: f64) -> Vec<LimbDrift> {
    let lengths: Vec<LimbLengths> = motion.iter().flatten().map(|pose| LimbLengths::of(pose, aspect)).collect();
    let variation = |limb: usize| {
        let seen: Vec<f64> = lengths.iter().filter(|l| l.seen[limb]).map(|l| l.lengths[limb]).collect();
        let count = seen.len() as f64;
        let mean = seen.iter().sum::<f64>() / count;
        let variance = seen.iter().map(|l| (l - mean) * (l - mean)).sum::<f64>() / count;
        let variation = variance.sqrt() / mean;
        (seen.len() >= LEAST_FRAMES && variation.is_finite()).then_some(LimbDrift { limb: LIMB_NAMES[limb], variation })
    };
    let mut drift: Vec<LimbDrift> = (0..LIMBS).filter_map(variation).collect();
    drift.sort_by(|a, b| b.variation.total_cmp(&a.variation));
    drift
}

/// Part of the poses in which each joint is visible; all 0 without poses.
pub(crate) fn presence(motion: &[Option<OpenPose>]) -> [f64; BODY_POINTS] {
    let count = motion.iter().flatten().count().max(1) as f64;
    let seen = |joint: usize| motion.iter().flatten().filter(|pose| pose.visible[joint]).count() as f64;
    std::array::from_fn(|joint| seen(joint) / count)
}

/// The joints of `presence` that are seldom there.
pub(crate) fn rarely_seen(presence: &[f64; BODY_POINTS]) -> Vec<JointPresence> {
    let all = joint::NAMES.iter().zip(presence).map(|(&joint, &seen)| JointPresence { joint, seen });
    all.filter(|joint| joint.seen < RARELY_SEEN).collect()
}

/// Part of the poses in which the left and the right hand are seen.
pub(crate) fn hands_seen(motion: &[Option<OpenPose>]) -> [f64; 2] {
    let count = motion.iter().flatten().count().max(1) as f64;
    let seen = |hand: &[[f64; 2]; HAND_POINTS]| {
        hand.iter().filter(|p| **p != [HIDDEN; 2]).count() as f64 >= HAND_SEEN * HAND_POINTS as f64
    };
    [0, 1].map(|side| motion.iter().flatten().filter(|pose| seen(&pose.hands[side])).count() as f64 / count)
}
