//! All metrics of one clip, and what they are called.

use image::RgbImage;
use pose::WholeBody;
use pose::keypoints::COCO_BODY_POINTS;
use serde::{Deserialize, Serialize};

use super::joints::is_visible;
use super::{JointScore, Similarity, Truth, appearance, background_jitter, jitter, psnr, ssim};

/// The metrics of one clip. What could not be measured is `None`; `docs/eval.md` defines each.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// dB, whole picture.
    pub psnr: Option<f64>,
    /// dB, the figure's pixels.
    pub psnr_figure: Option<f64>,
    /// dB, the figure's pixels of the reference picture shown in every frame.
    pub baseline_repeat: Option<f64>,
    /// dB, the figure's pixels of the reference picture moved as a whole by the similarity transform of each frame's
    /// pose.
    pub baseline_warp: Option<f64>,
    /// dB, what the model adds to the better of both.
    pub gain: Option<f64>,
    /// −1..=1, whole picture.
    pub ssim: Option<f64>,
    /// −1..=1, the figure's pixels.
    pub ssim_figure: Option<f64>,
    /// Levels.
    pub jitter: Option<f64>,
    /// Levels.
    pub background_jitter: Option<f64>,
    /// CIEDE2000.
    pub identity_pixels: Option<f64>,
    /// CIEDE2000.
    pub identity_parts: Option<f64>,
    /// dB, first frame to the reference as the model saw it.
    pub first_frame: Option<f64>,
    /// dB, first frame to the reference after the model's VAE.
    pub first_frame_vae: Option<f64>,
    /// 0..=1.
    pub pck: Option<f64>,
    /// 0..=1.
    pub joints_found: Option<f64>,
    /// Per cent of the picture's height.
    pub joint_error: Option<f64>,
}

/// What a metric is called, and which way is better.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Field of [`Scores`], key in reports.
    pub key: &'static str,
    /// For people.
    pub label: &'static str,
    /// Unit; empty for plain numbers.
    pub unit: &'static str,
    /// Whether higher is better; `None` for what only tells how hard a pair is.
    pub higher_is_better: Option<bool>,
    /// Its value.
    pub of: fn(&Scores) -> Option<f64>,
}

macro_rules! metrics {
    ($($key:ident, $label:literal, $unit:literal, $better:expr;)*) => {
        /// All metrics, in the order of reports.
        pub const METRICS: &[Metric] = &[$(Metric {
            key: stringify!($key), label: $label, unit: $unit, higher_is_better: $better, of: |s| s.$key,
        }),*];
    };
}

metrics! {
    psnr_figure, "PSNR, figure", "dB", Some(true);
    gain, "gain over the better baseline", "dB", Some(true);
    psnr, "PSNR, picture", "dB", Some(true);
    ssim_figure, "SSIM, figure", "", Some(true);
    ssim, "SSIM, picture", "", Some(true);
    pck, "joints within 5 % of the height", "", Some(true);
    joints_found, "joints found", "", Some(true);
    joint_error, "joint error", "% of height", Some(false);
    identity_parts, "colour distance, body parts", "ΔE00", Some(false);
    identity_pixels, "colour distance, figure", "ΔE00", Some(false);
    jitter, "jitter", "levels", Some(false);
    background_jitter, "jitter, background", "levels", Some(false);
    first_frame, "first frame to the reference", "dB", Some(true);
    first_frame_vae, "first frame to the reference after the VAE", "dB", Some(true);
    baseline_repeat, "baseline: reference repeated", "dB", None;
    baseline_warp, "baseline: reference warped", "dB", None;
}

/// The reference picture as far as judging needs it.
pub(super) struct Reference<'a> {
    /// As the model saw it.
    pub seen: &'a RgbImage,
    /// After the model's VAE, where there is a model.
    pub reconstructed: Option<&'a RgbImage>,
}

/// Judges a clip. `joints` is what pose networks found of it.
pub(super) fn judge(frames: &[RgbImage], truth: &Truth, reference: &Reference, joints: Option<JointScore>) -> Scores {
    let masks = Some(truth.masks.as_slice());
    let on_figure = |frames: &[RgbImage]| psnr(frames, &truth.frames, masks);
    let psnr_figure = on_figure(frames);
    let baseline_repeat = on_figure(&vec![reference.seen.clone(); truth.frames.len()]);
    let baseline_warp = on_figure(&warped(reference.seen, truth));
    let best = [baseline_repeat, baseline_warp].into_iter().flatten().reduce(f64::max);
    let look = appearance(frames, &truth.frames, &truth.masks, &truth.targets);
    let first = |picture: &RgbImage| psnr(frames.get(..1)?, std::slice::from_ref(picture), None);
    Scores {
        psnr: psnr(frames, &truth.frames, None),
        psnr_figure,
        baseline_repeat,
        baseline_warp,
        gain: psnr_figure.zip(best).map(|(psnr, best)| psnr - best),
        ssim: ssim(frames, &truth.frames, None),
        ssim_figure: ssim(frames, &truth.frames, masks),
        jitter: jitter(frames, &truth.frames),
        background_jitter: background_jitter(frames, &truth.masks),
        identity_pixels: look.map(|l| l.pixels),
        identity_parts: look.and_then(|l| l.parts),
        first_frame: first(reference.seen),
        first_frame_vae: reference.reconstructed.and_then(first),
        pck: joints.map(|j| j.pck),
        joints_found: joints.map(|j| j.found),
        joint_error: joints.and_then(|j| j.error_percent),
    }
}

/// The reference picture, moved for each frame by the similarity that takes its body joints nearest to the driven
/// pose's (those that both show). Frames without a pose keep the last transform.
fn warped(reference: &RgbImage, truth: &Truth) -> Vec<RgbImage> {
    let mut current = Similarity::IDENTITY;
    let fitted = |pose: &Option<WholeBody>| {
        let (from, to) = (truth.reference_pose.as_ref()?, pose.as_ref()?);
        let both = (0..COCO_BODY_POINTS).filter(|j| is_visible(from, *j) && is_visible(to, *j));
        Similarity::fit(&both.map(|j| (from.points[j], to.points[j])).collect::<Vec<_>>())
    };
    truth
        .poses
        .iter()
        .map(|pose| {
            current = fitted(pose).unwrap_or(current);
            current.warp(reference)
        })
        .collect()
}
