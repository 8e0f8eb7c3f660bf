//! Warnings in plain words, each with what to do.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::{FrameRange, QualityReport};
use crate::align::joint::*;
use crate::openpose::{BODY_POINTS, OpenPose};

/// A part of the body hidden in more than this part of the frames is worth a warning, if the picture shows it.
const PART_HIDDEN: f64 = 0.3;
/// So is a hand seen in less than this part of the frames, if its wrist is seen in most.
const HAND_RARE: f64 = 0.3;
/// So are more than this part of the joints outside of the picture.
const OUT_OF_FRAME: f64 = 0.25;
/// Below this mean score the detector is guessing.
const LOW_SCORE: f64 = 0.5;
/// Jitter, as drawn, of more than this many thousandths of the person's height is seen as trembling.
const TREMBLING_PX: f64 = 4.0;
/// A limb that varies more than this is not always where it was found: turning gives at most 0.5.
const DRIFT: f64 = 0.6;
/// A pose at least this unlike the reference makes a poor measure, see [`shape_distance`](crate::align::shape_distance).
const UNLIKE: f64 = 0.8;

/// A part of the body, as warnings name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyPart {
    /// Nose and neck.
    Head,
    /// From shoulder to wrist.
    LeftArm,
    /// From shoulder to wrist.
    RightArm,
    /// From hip to ankle.
    LeftLeg,
    /// From hip to ankle.
    RightLeg,
}

impl BodyPart {
    const ALL: [Self; 5] = [Self::Head, Self::LeftArm, Self::RightArm, Self::LeftLeg, Self::RightLeg];

    fn joints(self) -> &'static [usize] {
        match self {
            Self::Head => &[NOSE, NECK],
            Self::LeftArm => &[LEFT_SHOULDER, LEFT_ELBOW, LEFT_WRIST],
            Self::RightArm => &[RIGHT_SHOULDER, RIGHT_ELBOW, RIGHT_WRIST],
            Self::LeftLeg => &[LEFT_HIP, LEFT_KNEE, LEFT_ANKLE],
            Self::RightLeg => &[RIGHT_HIP, RIGHT_KNEE, RIGHT_ANKLE],
        }
    }

    /// What to look for in another video.
    fn wanted(self) -> &'static str {
        match self {
            Self::Head => "the face is",
            Self::LeftArm | Self::RightArm => "both arms are",
            Self::LeftLeg | Self::RightLeg => "both legs are",
        }
    }
}

impl fmt::Display for BodyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Head => "head",
            Self::LeftArm => "left arm",
            Self::RightArm => "right arm",
            Self::LeftLeg => "left leg",
            Self::RightLeg => "right leg",
        })
    }
}

/// Something that may spoil the result: one line that says what was found and what to do. In JSON `{"kind", "message"}`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Warning {
    /// No reference person.
    NotAligned,
    /// Frames without anybody drawn.
    Blank {
        /// Which.
        frames: Vec<FrameRange>,
    },
    /// Frames without the person.
    Missing {
        /// Filled in between two poses.
        interpolated: Vec<FrameRange>,
        /// Showing the pose of another frame.
        held: Vec<FrameRange>,
        /// Frames in the clip.
        frames: usize,
    },
    /// The person drawn becomes another one.
    Switches {
        /// How often.
        count: usize,
    },
    /// Cuts in the video.
    Cuts {
        /// First frame after each.
        at: Vec<usize>,
    },
    /// The picture is a mirror image of the motion.
    Mirrored,
    /// Front and back.
    Behind,
    /// A part of the body is often hidden.
    Hidden {
        /// Which.
        part: BodyPart,
        /// Part of the frames in which its least seen joint is hidden.
        fraction: f64,
    },
    /// A hand is seldom seen.
    Hand {
        /// The left or the right one.
        left: bool,
        /// Part of the frames in which it is seen.
        fraction: f64,
    },
    /// The framings differ.
    OutOfFrame {
        /// Part of the joints that lie outside.
        fraction: f64,
    },
    /// The measured frame is a bad one.
    UnlikeReference {
        /// Its number.
        frame: usize,
        /// Its [`shape_distance`](crate::align::shape_distance).
        distance: f64,
    },
    /// Scales that could not be measured, neither in the align frame nor in others.
    Scales {
        /// Fields of [`Scales`](crate::align::Scales).
        parts: Vec<&'static str>,
    },
    /// The detector was unsure.
    LowScore {
        /// Mean score of the body's keypoints.
        mean: f64,
    },
    /// Trembling keypoints.
    Jitter {
        /// As [`QualityReport::jitter_px`], after smoothing.
        px: f64,
    },
    /// A limb of ever-changing length.
    Drift {
        /// In words.
        limb: &'static str,
        /// Standard deviation / mean of its length.
        variation: f64,
    },
}

impl Warning {
    /// All there is to say about a report. `presence` is the part of the frames in which each joint is visible.
    pub(crate) fn all(
        report: &QualityReport,
        presence: &[f64; BODY_POINTS],
        reference: Option<&OpenPose>,
    ) -> Vec<Self> {
        let mut warnings = Vec::new();
        let mut warn = |condition: bool, warning: Self| {
            if condition {
                warnings.push(warning);
            }
        };
        warn(!report.aligned, Self::NotAligned);
        warn(!report.blank.is_empty(), Self::Blank { frames: report.blank.clone() });
        let (interpolated, held) = (report.interpolated.clone(), report.held.clone());
        let filled = !interpolated.is_empty() || !held.is_empty();
        warn(filled, Self::Missing { interpolated, held, frames: report.frames });
        warn(report.switches > 0, Self::Switches { count: report.switches });
        warn(!report.cuts.is_empty(), Self::Cuts { at: report.cuts.clone() });
        warn(report.likely_mirrored, Self::Mirrored);
        warn(report.seen_from_behind, Self::Behind);
        let in_picture =
            |joints: &[usize]| reference.is_none_or(|pose| joints.iter().all(|&joint| pose.visible[joint]));
        for part in BodyPart::ALL {
            let seen = part.joints().iter().map(|&joint| presence[joint]).fold(1.0, f64::min);
            let fraction = 1.0 - seen;
            warn(fraction > PART_HIDDEN && in_picture(part.joints()), Self::Hidden { part, fraction });
        }
        for (side, wrist) in [LEFT_WRIST, RIGHT_WRIST].into_iter().enumerate() {
            let fraction = report.hands_seen[side];
            let arm = presence[wrist] > 1.0 - PART_HIDDEN && in_picture(&[wrist]);
            warn(arm && fraction < HAND_RARE, Self::Hand { left: side == 0, fraction });
        }
        let fraction = report.out_of_frame_fraction;
        warn(fraction > OUT_OF_FRAME, Self::OutOfFrame { fraction });
        if let Some(distance) = report.align_distance {
            warn(distance > UNLIKE, Self::UnlikeReference { frame: report.align_frame, distance });
        }
        let parts: Vec<&str> = report.degenerate_scales.iter().filter(|s| s.guessed).map(|s| s.part).collect();
        warn(!parts.is_empty(), Self::Scales { parts });
        warn(report.mean_score < LOW_SCORE, Self::LowScore { mean: report.mean_score });
        if let Some(px) = report.jitter_px[1] {
            warn(px > TREMBLING_PX, Self::Jitter { px });
        }
        if let Some(worst) = report.limb_drift.first() {
            warn(worst.variation > DRIFT, Self::Drift { limb: worst.limb, variation: worst.variation });
        }
        warnings
    }

    /// The name of the kind, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotAligned => "not_aligned",
            Self::Blank { .. } => "blank",
            Self::Missing { .. } => "missing",
            Self::Switches { .. } => "switches",
            Self::Cuts { .. } => "cuts",
            Self::Mirrored => "mirrored",
            Self::Behind => "behind",
            Self::Hidden { .. } => "hidden",
            Self::Hand { .. } => "hand",
            Self::OutOfFrame { .. } => "out_of_frame",
            Self::UnlikeReference { .. } => "unlike_reference",
            Self::Scales { .. } => "scales",
            Self::LowScore { .. } => "low_score",
            Self::Jitter { .. } => "jitter",
            Self::Drift { .. } => "drift",
        }
    }
}

/// The first few of a list.
fn list<T: fmt::Display>(items: &[T]) -> String {
    const SHOWN: usize = 8;
    let mut text = items.iter().take(SHOWN).map(T::to_string).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text.push_str(", …");
    }
    text
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |fraction: f64| format!("{:.0} %", 100.0 * fraction);
        match self {
            Self::NotAligned => write!(
                f,
                "the keypoints have no person of the reference picture: poses are centred, not fitted to it; give the picture's keypoints too"
            ),
            Self::Blank { frames } => write!(
                f,
                "{} frames show nobody ({}), and empty poses spoil the guidance: hold or interpolate missing people",
                FrameRange::count(frames),
                list(frames)
            ),
            Self::Missing { interpolated, held, frames } => {
                let missing = FrameRange::count(interpolated) + FrameRange::count(held);
                write!(f, "the person is not found in {missing} of {frames} frames (")?;
                if !interpolated.is_empty() {
                    write!(f, "interpolated: {}", list(interpolated))?;
                }
                if !held.is_empty() {
                    let separator = if interpolated.is_empty() { "" } else { "; " };
                    write!(f, "{separator}standing still: {}", list(held))?;
                }
                write!(f, "): choose a part of the video where the person is in view throughout")
            }
            Self::Switches { count } => write!(
                f,
                "the person drawn becomes another one {count} time(s), since the first of each frame's list is taken: let people be tracked instead"
            ),
            Self::Cuts { at } => write!(
                f,
                "the video seems to be cut at frame {}: choose a part without cuts, or the person will jump there",
                list(at)
            ),
            Self::Mirrored => write!(
                f,
                "the person in the picture faces the other way than the one in the video: try again with the motion mirrored"
            ),
            Self::Behind => write!(
                f,
                "one of picture and video shows the person from the front, the other from behind: choose another picture or another part of the video"
            ),
            Self::Hidden { part, fraction } => write!(
                f,
                "the {part} is hidden in {} of the frames: choose a video where {} seen",
                percent(*fraction),
                part.wanted()
            ),
            Self::Hand { left, fraction } => write!(
                f,
                "the {} hand is seen in {} of the frames only and will be made up in the others: choose a sharper or nearer video if it matters",
                if *left { "left" } else { "right" },
                percent(*fraction)
            ),
            Self::OutOfFrame { fraction } => write!(
                f,
                "{} of the joints lie outside of the picture: choose a picture framed like the video, with room for the motion",
                percent(*fraction)
            ),
            Self::UnlikeReference { frame, distance } => write!(
                f,
                "frame {frame}, by which the motion is fitted to the picture, shows quite another pose than it (distance {distance:.2}): choose the align frame by hand or `auto`, or start the motion nearer to the picture's pose"
            ),
            Self::Scales { parts } => write!(
                f,
                "some proportions could not be measured and are guessed ({}): if the figure looks deformed, choose another align frame or `auto`, or a picture that shows these parts at full length",
                list(parts)
            ),
            Self::LowScore { mean } => write!(
                f,
                "the keypoints are unsure (mean score {mean:.2}): choose a sharper, better lit or larger view of the person"
            ),
            Self::Jitter { px } => write!(
                f,
                "the keypoints tremble ({px:.1} px of a person 1000 px tall): smooth more, or choose a sharper video"
            ),
            Self::Drift { limb, variation } => write!(
                f,
                "the length of the {limb} varies by {} over the clip: it may be mistaken in some frames; look at the drawn poses",
                percent(*variation)
            ),
        }
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Warning", 2)?;
        fields.serialize_field("kind", self.kind())?;
        fields.serialize_field("message", &self.to_string())?;
        fields.end()
    }
}
