//! Keypoints in memory: people, frames, clips.

use crate::sizes::Size;
use crate::{Place, PoseError, Result};

/// Keypoints a person: 17 body, 6 feet, 68 face, 21 left hand, 21 right hand (COCO-WholeBody order).
pub const WHOLE_BODY_POINTS: usize = 133;

/// The first keypoints are the body's: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles (left before right).
pub const COCO_BODY_POINTS: usize = 17;

/// The first hand keypoint: 21 of the left hand, then 21 of the right.
pub const FIRST_HAND_POINT: usize = 91;

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

    /// Whether keypoint `point` is to be believed: its score is above `threshold` or, for a hand, not below it (the rule by
    /// which [`OpenPose`](crate::OpenPose) shows joints).
    pub fn is_seen(&self, point: usize, threshold: f64) -> bool {
        let score = self.scores[point];
        if point < FIRST_HAND_POINT { score > threshold } else { score >= threshold }
    }

    /// The person in the mirror: x counts from the other side of a picture `width` wide, and left is right.
    pub fn mirrored(&self, width: f64) -> Self {
        let place = |i: usize| {
            let [x, y] = self.points[MIRRORED_POINTS[i]];
            [width - x, y]
        };
        Self { points: std::array::from_fn(place), scores: std::array::from_fn(|i| self.scores[MIRRORED_POINTS[i]]) }
    }

    /// The same person in a picture resized by the given factors.
    pub fn scaled(&self, x: f64, y: f64) -> Self {
        Self { points: self.points.map(|p| [p[0] * x, p[1] * y]), scores: self.scores }
    }
}

/// The keypoint on the other side of the body, by keypoint (COCO-WholeBody's symmetry; a point on the midline is its own).
#[rustfmt::skip]
pub const MIRRORED_POINTS: [usize; WHOLE_BODY_POINTS] = [
    // Body: nose, then eyes, ears, shoulders, elbows, wrists, hips, knees and ankles in pairs.
    0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15,
    // Feet.
    20, 21, 22, 17, 18, 19,
    // Face: jaw, brows, nose, nostrils, eyes, outer and inner lips.
    39, 38, 37, 36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 23,
    49, 48, 47, 46, 45, 44, 43, 42, 41, 40,
    50, 51, 52, 53, 58, 57, 56, 55, 54,
    68, 67, 66, 65, 70, 69, 62, 61, 60, 59, 64, 63,
    77, 76, 75, 74, 73, 72, 71, 82, 81, 80, 79, 78,
    87, 86, 85, 84, 83, 90, 89, 88,
    // Hands.
    112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 129, 130, 131, 132,
    91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111,
];

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

    /// The clip with its driving frames (not the reference) in the mirror, see [`WholeBody::mirrored`].
    pub fn mirrored(mut self) -> Self {
        for person in self.frames.iter_mut().flat_map(|frame| &mut frame.people) {
            *person = person.mirrored(f64::from(self.width));
        }
        self
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirroring_follows_the_flip_table() {
        let body = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15, 20, 21, 22, 17, 18, 19];
        let jaw_and_brows = (23..40).rev().chain((40..50).rev());
        let nose_and_eyes = [50, 51, 52, 53, 58, 57, 56, 55, 54, 68, 67, 66, 65, 70, 69, 62, 61, 60, 59, 64, 63];
        let mouth = (71..78).rev().chain((78..83).rev()).chain((83..88).rev()).chain([90, 89, 88]);
        let hands = (112..133).chain(91..112);
        let table: Vec<usize> =
            body.into_iter().chain(jaw_and_brows).chain(nose_and_eyes).chain(mouth).chain(hands).collect();
        assert_eq!(table, MIRRORED_POINTS);
        assert!((0..WHOLE_BODY_POINTS).all(|i| MIRRORED_POINTS[MIRRORED_POINTS[i]] == i));
        let person = WholeBody {
            points: std::array::from_fn(|i| [i as f64, 2.0 * i as f64]),
            scores: std::array::from_fn(|i| i as f64 / 133.0),
        };
        let other = person.mirrored(500.0);
        assert_eq!((other.points[5], other.scores[5]), ([494.0, 12.0], 6.0 / 133.0));
        assert_eq!(other.mirrored(500.0), person);
    }
}
