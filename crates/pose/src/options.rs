//! Settings of [`PoseFrames`](crate::PoseFrames).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::align::ScaleGuard;
use crate::augment::Augmentation;
use crate::draw::Palette;
use crate::motion::check_smooth;
use crate::openpose::{HandPairing, SCORE_THRESHOLD};
use crate::people::{Identity, PersonChoice};
use crate::sizes::{CANVAS_AREA, CANVAS_AREAS};
use crate::{PoseError, Result};

/// Smoothing that takes out about half of a detector's jitter and hardly anything of a dance, see
/// [`OneEuro::with_strength`](crate::motion::OneEuro::with_strength).
pub const USUAL_SMOOTHING: f64 = 0.5;

/// What is drawn for a frame without the chosen person. (Upstream never meets one: its detector falls back on the whole picture.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingPerson {
    /// The pose of the nearest earlier frame that has one, at the start of the clip of the first that has one.
    Hold,
    /// An empty canvas. Beware: all-black negative poses break the guidance.
    Blank,
    /// Up to [`PoseOptions::max_gap`] frames between two poses lead evenly from one to the other; the rest is held.
    #[default]
    Interpolate,
}

/// Which frame of the clip is measured against the reference. As text, and in JSON: a number, a time such as `1.5s`, or
/// `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AlignFrame {
    /// This one or, if it does not show the person (the robust guard: and the neck), the next that does, else the last before.
    Index(usize),
    /// The one at this time, likewise; beyond the end the last.
    Time(Duration),
    /// The one whose pose is most like the reference's, see [`nearest_frame`](crate::align::nearest_frame); 0 without a reference.
    Auto,
}

impl AlignFrame {
    /// Words that are understood.
    pub const ALLOWED: &str = "auto, the number of a frame (0 is the first), or a time such as 1.5s";

    /// The frame's number in a clip of `frames` frames at `fps`; `None` if it is to be chosen.
    pub fn index(self, frames: usize, fps: f64) -> Option<usize> {
        match self {
            Self::Index(index) => Some(index),
            Self::Time(time) => Some(((time.as_secs_f64() * fps).round() as usize).min(frames.saturating_sub(1))),
            Self::Auto => None,
        }
    }
}

impl Default for AlignFrame {
    fn default() -> Self {
        // The clip starts from the picture, so it is in frame 0 that the two people must stand in the same place.
        Self::Index(0)
    }
}

impl fmt::Display for AlignFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Time(time) => write!(f, "{}s", time.as_secs_f64()),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for AlignFrame {
    type Err = PoseError;

    fn from_str(text: &str) -> Result<Self> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let time = || Duration::try_from_secs_f64(text.strip_suffix('s')?.parse().ok()?).ok();
        let frame = text.parse().ok().map(Self::Index).or_else(|| time().map(Self::Time));
        frame.ok_or_else(|| PoseError::Word { name: "align frame", found: text.to_owned(), allowed: Self::ALLOWED })
    }
}

impl TryFrom<String> for AlignFrame {
    type Error = PoseError;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<AlignFrame> for String {
    fn from(frame: AlignFrame) -> Self {
        frame.to_string()
    }
}

/// Settings of [`PoseFrames`](crate::PoseFrames).
#[derive(Clone, Debug, PartialEq)]
pub struct PoseOptions {
    /// Person of the driving frames, and by the same word of the reference picture.
    pub person: PersonChoice,
    /// How people are known again from frame to frame.
    pub identity: Identity,
    /// Person of the reference picture, by place in its list, if `person` is [`PersonChoice::Index`].
    pub reference_person: usize,
    /// Driving frame that is measured against the reference.
    pub align_frame: AlignFrame,
    /// Joints and hand points below this score are hidden.
    pub score_threshold: f64,
    /// What to do about scales that cannot be right. The robust guard also settles hidden joints ([`OpenPose::settled`](crate::OpenPose::settled)).
    pub guard: ScaleGuard,
    /// What to draw for a frame without a person.
    pub missing: MissingPerson,
    /// Longest gap in frames, of the person or of single joints, that is filled by interpolation; `None` is half a second.
    /// With 0 nothing is filled and no spike removed.
    pub max_gap: Option<usize>,
    /// Strength of the smoothing, 0 (off) to 1, see [`OneEuro::with_strength`](crate::motion::OneEuro::with_strength).
    pub smooth: f64,
    /// Whether the driving motion is mirrored: the right arm does what the left did.
    pub mirror: bool,
    /// Whose hands are drawn if there are several people.
    pub hands: HandPairing,
    /// Colours.
    pub palette: Palette,
    /// Area of the canvas in pixels before it is doubled, see [`canvas_of_area`](crate::sizes::canvas_of_area).
    pub canvas_area: f64,
    /// Decides the negative poses, see [`Augmenter`](crate::Augmenter).
    pub seed: u64,
    /// The negative poses' numbers, one a frame, in place of those of the seed.
    pub augmentations: Option<Vec<Augmentation>>,
}

impl Default for PoseOptions {
    fn default() -> Self {
        Self {
            person: PersonChoice::default(),
            identity: Identity::default(),
            reference_person: 0,
            align_frame: AlignFrame::default(),
            score_threshold: SCORE_THRESHOLD,
            guard: ScaleGuard::default(),
            missing: MissingPerson::default(),
            max_gap: None,
            smooth: 0.0,
            mirror: false,
            hands: HandPairing::default(),
            palette: Palette::default(),
            canvas_area: CANVAS_AREA,
            seed: 0,
            augmentations: None,
        }
    }
}

impl PoseOptions {
    /// Everything as SteadyDancer does it, oddities included: person 0 of each frame, nothing filled or smoothed.
    pub fn upstream() -> Self {
        Self {
            person: PersonChoice::Index(0),
            identity: Identity::ListOrder,
            guard: ScaleGuard::Upstream,
            missing: MissingPerson::Hold,
            max_gap: Some(0),
            smooth: 0.0,
            hands: HandPairing::Upstream,
            ..Self::default()
        }
    }

    /// # Errors
    /// The first setting that does not fit a clip of `frames` frames.
    pub fn validate(&self, frames: usize) -> Result<()> {
        self.guard.validate()?;
        check_smooth(self.smooth)?;
        if !self.score_threshold.is_finite() {
            return Err(PoseError::Setting {
                name: "score_threshold",
                found: self.score_threshold,
                allowed: "a finite number (0.35 is usual)",
            });
        }
        if !CANVAS_AREAS.contains(&self.canvas_area) {
            return Err(PoseError::Setting {
                name: "canvas_area",
                found: self.canvas_area,
                allowed: "4096 to 16777216 pixels (589824 is SteadyDancer's)",
            });
        }
        if let AlignFrame::Index(index) = self.align_frame
            && index >= frames
        {
            return Err(PoseError::FrameIndex { index, frames });
        }
        match &self.augmentations {
            Some(given) if given.len() < frames => Err(PoseError::AugmentationCount { found: given.len(), frames }),
            _ => Ok(()),
        }
    }

    /// [`PoseOptions::max_gap`] in frames.
    pub fn longest_gap(&self, fps: f64) -> usize {
        self.max_gap.unwrap_or((fps / 2.0).round() as usize)
    }
}
