//! A clip of keypoints → drawn positive and negative pose frames, one at a time.

use image::RgbImage;

use crate::align::{AlignedPose, Alignment, Aspects, DegenerateScale, ScaleGuard};
use crate::augment::{Augmentation, Augmenter};
use crate::draw::{Palette, draw_poses};
use crate::keypoints::{FrameKeypoints, PoseClip};
use crate::openpose::{HandPairing, OpenPose, SCORE_THRESHOLD};
use crate::sizes::{Size, canvas_base};
use crate::{PoseError, Result};

/// Aspect ratios that differ by more than this factor belong to different pictures.
const ASPECT_TOLERANCE: f64 = 1.05;

/// Which person of a frame is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PersonChoice {
    /// Place in the frame's list; upstream always takes 0, the detector's best.
    Index(usize),
}

impl PersonChoice {
    fn index(self, _frame: &FrameKeypoints) -> usize {
        let PersonChoice::Index(index) = self;
        index
    }
}

/// What is drawn for a frame without the chosen person. (Upstream never meets one: its detector falls back on the whole picture.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingPerson {
    /// The pose of the nearest earlier frame that has one, at the start of the clip of the first that has one.
    #[default]
    Hold,
    /// An empty canvas. Beware: all-black negative poses break the guidance.
    Blank,
}

/// Settings of [`PoseFrames`].
#[derive(Clone, Debug, PartialEq)]
pub struct PoseOptions {
    /// Person of the driving frames.
    pub person: PersonChoice,
    /// Person of the reference picture, by place in the list.
    pub reference_person: usize,
    /// Driving frame whose limb lengths are compared with the reference; if it has no person, the next one that has.
    pub align_frame: usize,
    /// Joints and hand points below this score are hidden.
    pub score_threshold: f64,
    /// What to do about scales that cannot be right.
    pub guard: ScaleGuard,
    /// What to draw for a frame without a person.
    pub missing: MissingPerson,
    /// Whose hands are drawn if there are several people.
    pub hands: HandPairing,
    /// Colours.
    pub palette: Palette,
    /// Decides the negative poses, see [`Augmenter`].
    pub seed: u64,
    /// The negative poses' numbers, one a frame, in place of those of the seed.
    pub augmentations: Option<Vec<Augmentation>>,
}

impl Default for PoseOptions {
    fn default() -> Self {
        Self {
            person: PersonChoice::Index(0),
            reference_person: 0,
            align_frame: 0,
            score_threshold: SCORE_THRESHOLD,
            guard: ScaleGuard::default(),
            missing: MissingPerson::default(),
            hands: HandPairing::default(),
            palette: Palette::default(),
            seed: 0,
            augmentations: None,
        }
    }
}

impl PoseOptions {
    /// Everything as SteadyDancer does it, oddities included.
    pub fn upstream() -> Self {
        Self { guard: ScaleGuard::Upstream, hands: HandPairing::Upstream, ..Self::default() }
    }
}

/// What was noticed about a clip; known before the first frame is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct PoseReport {
    /// Frames in the clip.
    pub frames: usize,
    /// Indices of the frames without the chosen person.
    pub frames_without_person: Vec<usize>,
    /// Number of frames with more than one person.
    pub frames_with_several: usize,
    /// The driving frame that was measured against the reference.
    pub align_frame: usize,
    /// Whether there was a reference person; if not, poses are centred and keep their size.
    pub aligned: bool,
    /// Part of the visible body joints (0..1) that lie outside of the canvas after alignment.
    pub out_of_frame_fraction: f64,
    /// Scales that were not usable as measured.
    pub degenerate_scales: Vec<DegenerateScale>,
}

/// One frame drawn twice, at twice the canvas size ([`PoseFrames::drawn_size`]).
#[derive(Clone, Debug, PartialEq)]
pub struct PosePair {
    /// The pose to follow.
    pub positive: RgbImage,
    /// Its perturbed twin.
    pub negative: RgbImage,
}

/// Iterator over the drawn frames of a clip. Memory: the keypoints (3 kB a person and frame) and the frame at hand.
#[derive(Clone, Debug)]
pub struct PoseFrames {
    clip: PoseClip,
    options: PoseOptions,
    alignment: Alignment,
    augmenter: Augmenter,
    canvas: Size,
    /// Frame whose pose each frame shows, or none.
    shown: Vec<Option<usize>>,
    report: PoseReport,
    next: usize,
}

impl PoseFrames {
    /// Prepares a clip for a reference picture of the given size. Draws nothing yet, but finds every error there is.
    ///
    /// # Errors
    /// Invalid clips and settings, pictures without a canvas, a clip or reference without the chosen person, and reference
    /// keypoints of another picture.
    pub fn new(clip: PoseClip, reference: Size, options: PoseOptions) -> Result<Self> {
        clip.validate()?;
        options.guard.validate()?;
        if !options.score_threshold.is_finite() {
            return Err(PoseError::Setting {
                name: "score_threshold",
                found: options.score_threshold,
                allowed: "a finite number (0.35 is usual)",
            });
        }
        let frames = clip.frames.len();
        if options.align_frame >= frames {
            return Err(PoseError::FrameIndex { index: options.align_frame, frames });
        }
        if let Some(given) = &options.augmentations
            && given.len() < frames
        {
            return Err(PoseError::AugmentationCount { found: given.len(), frames });
        }
        let canvas = canvas_base(reference)?;
        let present: Vec<bool> =
            clip.frames.iter().map(|frame| options.person.index(frame) < frame.people.len()).collect();
        // The first frame with a person at or after the asked one, else the last before it.
        let align_frame = (options.align_frame..frames)
            .chain((0..options.align_frame).rev())
            .find(|&i| present[i])
            .ok_or(PoseError::NoPerson { person: options.person.index(&clip.frames[0]), frames })?;
        let aspects = Aspects { drive: clip.size().aspect(), canvas: canvas.aspect() };
        let mut this = Self {
            augmenter: Augmenter::new(options.seed),
            alignment: Alignment::centred(aspects),
            shown: shown_frames(&present, options.missing),
            canvas,
            report: PoseReport {
                frames,
                frames_without_person: (0..frames).filter(|&i| !present[i]).collect(),
                frames_with_several: clip.frames.iter().filter(|f| f.people.len() > 1).count(),
                align_frame,
                aligned: clip.reference.is_some(),
                out_of_frame_fraction: 0.0,
                degenerate_scales: Vec::new(),
            },
            next: 0,
            clip,
            options,
        };
        if let (Some(target), Some(first)) = (this.reference_pose(reference)?, this.driving_pose(align_frame)) {
            (this.alignment, this.report.degenerate_scales) =
                Alignment::measure(&target, &first, aspects, this.options.guard);
        }
        this.report.out_of_frame_fraction = this.out_of_frame_fraction();
        Ok(this)
    }

    /// What was noticed about the clip.
    pub fn report(&self) -> &PoseReport {
        &self.report
    }

    /// Size of the drawn frames: twice the canvas.
    pub fn drawn_size(&self) -> Size {
        self.canvas.doubled()
    }

    /// The transform in use.
    pub fn alignment(&self) -> &Alignment {
        &self.alignment
    }

    /// The aligned pose that frame `index` shows; `None` for an empty canvas or a frame beyond the clip.
    pub fn pose(&self, index: usize) -> Option<AlignedPose> {
        let source = (*self.shown.get(index)?)?;
        Some(self.alignment.apply(&self.driving_pose(source)?))
    }

    /// The numbers of frame `index`'s negative pose.
    pub fn augmentation(&self, index: usize) -> Augmentation {
        let given = self.options.augmentations.as_ref();
        given.and_then(|given| given.get(index).copied()).unwrap_or_else(|| self.augmenter.frame(index))
    }

    /// Draws frame `index`, in any order; `None` beyond the clip.
    pub fn draw(&self, index: usize) -> Option<PosePair> {
        if index >= self.clip.frames.len() {
            return None;
        }
        let positive: Vec<AlignedPose> = self.pose(index).into_iter().collect();
        let augmentation = self.augmentation(index);
        let negative: Vec<AlignedPose> = positive.iter().map(|p| augmentation.apply(p)).collect();
        let draw = |poses: &[AlignedPose]| draw_poses(poses, self.drawn_size(), self.options.palette);
        Some(PosePair { positive: draw(&positive), negative: draw(&negative) })
    }

    fn driving_pose(&self, index: usize) -> Option<OpenPose> {
        let frame = &self.clip.frames[index];
        OpenPose::from_frame(
            frame,
            self.options.person.index(frame),
            self.clip.size(),
            self.options.score_threshold,
            self.options.hands,
        )
    }

    fn reference_pose(&self, picture: Size) -> Result<Option<OpenPose>> {
        let Some(reference) = &self.clip.reference else {
            return Ok(None);
        };
        let size = Size::new(reference.width, reference.height);
        let change = size.aspect() / picture.aspect();
        if change.max(1.0 / change) > ASPECT_TOLERANCE {
            return Err(PoseError::ReferenceMismatch { keypoints: size, picture });
        }
        let person = self.options.reference_person;
        let body = reference
            .people
            .get(person)
            .ok_or(PoseError::NoReferencePerson { person, found: reference.people.len() })?;
        let threshold = self.options.score_threshold;
        Ok(Some(OpenPose::from_whole_body(body, size, threshold)))
    }

    fn out_of_frame_fraction(&self) -> f64 {
        let inside = |p: &[f64; 2]| p.iter().all(|v| (0.0..1.0).contains(v));
        let (mut visible, mut outside) = (0u64, 0u64);
        for pose in (0..self.report.frames).filter_map(|i| self.pose(i)) {
            for (point, _) in pose.body.iter().zip(pose.visible).filter(|(_, seen)| *seen) {
                visible += 1;
                outside += u64::from(!inside(point));
            }
        }
        if visible == 0 {
            return 0.0;
        }
        outside as f64 / visible as f64
    }
}

fn shown_frames(present: &[bool], missing: MissingPerson) -> Vec<Option<usize>> {
    let mut held = match missing {
        MissingPerson::Hold => present.iter().position(|&p| p),
        MissingPerson::Blank => None,
    };
    let show = |(index, &present): (usize, &bool)| {
        let own = present.then_some(index);
        if missing == MissingPerson::Hold {
            held = own.or(held);
            held
        } else {
            own
        }
    };
    present.iter().enumerate().map(show).collect()
}

impl Iterator for PoseFrames {
    type Item = PosePair;

    fn next(&mut self) -> Option<PosePair> {
        let pair = self.draw(self.next)?;
        self.next += 1;
        Some(pair)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.clip.frames.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for PoseFrames {}
