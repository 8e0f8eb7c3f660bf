//! Keypoints in memory: people, frames, clips.

use crate::sizes::Size;
use crate::{Place, PoseError, Result};

/// Keypoints a person: 17 body, 6 feet, 68 face, 21 left hand, 21 right hand (COCO-WholeBody order).
pub const WHOLE_BODY_POINTS: usize = 133;

/// Highest frame rate that is accepted.
pub const MAX_FPS: f64 = 1000.0;

/// One person.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeBody {
    /// `(x, y)` in pixels of the picture the person was found in. May lie outside of it.
    pub points: [[f64; 2]; WHOLE_BODY_POINTS],
    /// Confidence of each point. DWPose gives raw scores of about 0 to 1, which can be a little above 1.
    pub scores: [f64; WHOLE_BODY_POINTS],
}

impl WholeBody {
    /// # Errors
    /// [`PoseError::NotFinite`] names the first coordinate or score that is NaN or infinite.
    pub fn validate(&self, place: Place) -> Result<()> {
        for (point, ([x, y], score)) in self.points.iter().zip(&self.scores).enumerate() {
            for (field, value) in [("x", *x), ("y", *y), ("score", *score)] {
                if !value.is_finite() {
                    return Err(PoseError::NotFinite { place, point, field, value });
                }
            }
        }
        Ok(())
    }

    /// The same person in a picture resized by the given factors.
    pub fn scaled(&self, x: f64, y: f64) -> Self {
        Self { points: self.points.map(|p| [p[0] * x, p[1] * y]), scores: self.scores }
    }
}

/// The people of one frame, best first. May be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FrameKeypoints {
    /// In the order the detector gave, which upstream sorts by falling score.
    pub people: Vec<WholeBody>,
}

/// The people of the reference picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ReferenceKeypoints {
    /// Width in pixels of the picture that the coordinates refer to.
    pub width: u32,
    /// Its height in pixels.
    pub height: u32,
    /// Best first; at least one is needed for alignment.
    pub people: Vec<WholeBody>,
}

/// The keypoints of a driving video and, if known, of the reference picture.
#[derive(Clone, Debug, PartialEq)]
pub struct PoseClip {
    /// Width in pixels of the frames that the coordinates refer to.
    pub width: u32,
    /// Their height in pixels.
    pub height: u32,
    /// Frames a second.
    pub fps: f64,
    /// One entry a frame, in order.
    pub frames: Vec<FrameKeypoints>,
    /// Without it poses cannot be aligned to the reference person.
    pub reference: Option<ReferenceKeypoints>,
}

impl PoseClip {
    /// Size of the frames.
    pub fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }

    /// Checks sizes, frame rate, and that every number is finite.
    ///
    /// # Errors
    /// The first fault, with its frame, person and field.
    pub fn validate(&self) -> Result<()> {
        self.size().check("the driving video")?;
        if !(self.fps > 0.0 && self.fps <= MAX_FPS) {
            return Err(PoseError::Fps { found: self.fps, max: MAX_FPS });
        }
        if self.frames.is_empty() {
            return Err(PoseError::NoFrames);
        }
        if let Some(reference) = &self.reference {
            Size::new(reference.width, reference.height).check("the reference picture")?;
            for (person, body) in reference.people.iter().enumerate() {
                body.validate(Place::Reference { person })?;
            }
        }
        for (frame, keypoints) in self.frames.iter().enumerate() {
            for (person, body) in keypoints.people.iter().enumerate() {
                body.validate(Place::Frame { frame, person })?;
            }
        }
        Ok(())
    }

    /// The clip with the frames at `indices` (in that order, repeats allowed) at `fps`: frame-rate conversion by whichever
    /// rule picked the indices.
    ///
    /// # Errors
    /// [`PoseError::FrameIndex`] for an index beyond the clip, and what [`PoseClip::validate`] finds.
    pub fn select(&self, indices: &[usize], fps: f64) -> Result<Self> {
        let frames = indices
            .iter()
            .map(|&index| {
                self.frames.get(index).cloned().ok_or(PoseError::FrameIndex { index, frames: self.frames.len() })
            })
            .collect::<Result<Vec<_>>>()?;
        let clip = Self { frames, fps, reference: self.reference.clone(), ..*self };
        clip.validate()?;
        Ok(clip)
    }
}
