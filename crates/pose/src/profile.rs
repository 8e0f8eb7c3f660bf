//! The two ways in which DWPose is run in the wild, as constants.
//!
//! Weights are the same, results are not: pictures are prepared, boxes chosen and logits read differently.
//! Every number here is a fact of the program that it is named after; [`crate::dwpose`] does what the profile says.

use std::fmt;
use std::str::FromStr;

use crate::{PoseError, Result};

/// Which sample of a pixel a network finds first.
///
/// Our pictures are RGB, upstream's are BGR as OpenCV reads them, so that a swap there is none here and the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red.
    Bgr,
}

impl ChannelOrder {
    /// Indices into an RGB pixel, in the order that the network sees.
    pub(crate) const fn samples(self) -> [usize; 3] {
        match self {
            ChannelOrder::Rgb => [0, 1, 2],
            ChannelOrder::Bgr => [2, 1, 0],
        }
    }
}

/// How a scaled side becomes a whole number of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideRounding {
    /// ⌊side + ½⌋.
    Nearest,
    /// ⌊side⌋.
    Down,
}

/// By which factor boxes in the letterbox are brought back to the picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxScale {
    /// Each axis by its own factor, rounded side / side.
    PerAxis,
    /// Both by the factor from which the sides were computed, before they were rounded.
    Common,
}

/// Which candidates of the detector are people. The score is objectness · person probability in either case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersonRule {
    /// Person is the most probable class (the first, if several are).
    BestClass,
    /// Person is probable enough, whatever else the thing may be.
    AnyClass,
}

/// One pass of greedy non-maximum suppression: best box first, boxes that overlap a kept one too much are dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suppression {
    /// Intersection over union from which on (exclusively) the weaker of two boxes is dropped, 0 to 1.
    pub max_overlap: f64,
    /// Whether corners are pixels that belong to the box, which makes it one pixel wider and higher than x2−x1 and y2−y1.
    pub inclusive_corners: bool,
}

/// Everything in which the variants differ. [`PoseProfile::official`] is the default.
///
/// A person must have a score above `person_score`. Upstream collects candidates from a lower score on (0.01 official,
/// 0.1 ONNX) and drops the weak ones after suppression; a weak box never suppresses a stronger one, so that the result
/// is the same and the lower threshold is not repeated here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoseProfile {
    /// The word for it in settings.
    pub name: &'static str,
    /// Whether the reference picture is first resized to [`crate::sizes::canvas_base`] (OpenCV's cubic).
    pub reference_canvas: bool,
    /// Whether any picture is then resized to [`crate::sizes::detect_size`]: OpenCV's cubic where its short side is below
    /// 1024, else area.
    pub detect_resize: bool,
    /// What the detector sees. It was trained on BGR.
    pub detector_channels: ChannelOrder,
    /// What the keypoint network sees. It was trained on RGB, with the means and deviations of RGB that are used here.
    pub keypoint_channels: ChannelOrder,
    /// Sides of the picture in the letterbox.
    pub letterbox_rounding: SideRounding,
    /// The way back from the letterbox.
    pub box_scale: BoxScale,
    /// Which candidates are people.
    pub person_rule: PersonRule,
    /// Score that a person exceeds, 0 to 1.
    pub person_score: f64,
    /// Suppression passes, in order, over boxes in pixels of the picture.
    pub suppressions: &'static [Suppression],
    /// Whether the keypoint network also looks at the mirrored crop, and logits are averaged. Twice the work.
    pub flip_test: bool,
    /// Score from which on the variant draws a keypoint. Not applied here: it is for
    /// [`crate::PoseOptions::score_threshold`].
    pub visibility_threshold: f64,
}

impl PoseProfile {
    /// SteadyDancer's own program (mmdet and mmpose), for parity with its published examples.
    ///
    /// Frames arrive there as BGR and are swapped once. The detector, trained on BGR, therefore sees RGB; the keypoint
    /// network's preprocessor swaps again, so that it sees BGR normalised with RGB's constants. Both oddities are kept.
    pub const fn official() -> Self {
        Self {
            name: "official",
            reference_canvas: true,
            detect_resize: true,
            detector_channels: ChannelOrder::Rgb,
            keypoint_channels: ChannelOrder::Bgr,
            letterbox_rounding: SideRounding::Nearest,
            box_scale: BoxScale::PerAxis,
            person_rule: PersonRule::BestClass,
            person_score: 0.5,
            suppressions: &[
                Suppression { max_overlap: 0.65, inclusive_corners: false },
                Suppression { max_overlap: 0.7, inclusive_corners: true },
            ],
            flip_test: true,
            visibility_threshold: 0.35,
        }
    }

    /// The recipe that comes with DWPose's ONNX files (WanGP, ComfyUI): about half the work.
    ///
    /// Frames are BGR as read: the detector sees what it was trained on, the keypoint network BGR with RGB's constants.
    pub const fn onnx() -> Self {
        Self {
            name: "onnx",
            reference_canvas: false,
            detect_resize: false,
            detector_channels: ChannelOrder::Bgr,
            keypoint_channels: ChannelOrder::Bgr,
            letterbox_rounding: SideRounding::Down,
            box_scale: BoxScale::Common,
            person_rule: PersonRule::AnyClass,
            person_score: 0.3,
            suppressions: &[Suppression { max_overlap: 0.45, inclusive_corners: true }],
            flip_test: false,
            visibility_threshold: 0.3,
        }
    }
}

impl Default for PoseProfile {
    fn default() -> Self {
        Self::official()
    }
}

impl fmt::Display for PoseProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for PoseProfile {
    type Err = PoseError;

    /// # Errors
    /// [`PoseError::UnknownProfile`] for anything but `official` and `onnx`.
    fn from_str(name: &str) -> Result<Self> {
        let all = [Self::official(), Self::onnx()];
        all.into_iter().find(|p| p.name == name).ok_or_else(|| PoseError::UnknownProfile { found: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_profiles() {
        for profile in [PoseProfile::official(), PoseProfile::onnx()] {
            assert_eq!(profile.to_string().parse::<PoseProfile>().unwrap(), profile);
        }
        let error = "Official".parse::<PoseProfile>().unwrap_err();
        assert_eq!(error.to_string(), "pose profile is \"Official\"; expected official or onnx");
    }

    #[test]
    fn thresholds_are_those_of_the_programs() {
        let (official, onnx) = (PoseProfile::official(), PoseProfile::onnx());
        assert_eq!((official.person_score, onnx.person_score), (0.5, 0.3));
        assert_eq!((official.visibility_threshold, onnx.visibility_threshold), (0.35, 0.3));
        assert_eq!(official.suppressions.len() + onnx.suppressions.len(), 3);
        assert_eq!(official.visibility_threshold, crate::openpose::SCORE_THRESHOLD);
    }
}
