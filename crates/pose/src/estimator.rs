//! What finds people in pictures; [`crate::DwPose`] does.

use std::fmt;

use image::RgbImage;

use crate::Result;
use crate::keypoints::FrameKeypoints;

/// Which picture an estimator is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRole {
    /// The reference picture.
    Reference,
    /// Frame of the driving video, counted from 0.
    Driving(usize),
}

impl fmt::Display for FrameRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameRole::Reference => f.write_str("reference picture"),
            FrameRole::Driving(index) => write!(f, "driving frame {index}"),
        }
    }
}

/// Finds people in pictures.
///
/// Keypoints are in pixels of the picture given, whatever size a detector works at; people come best first, and an empty
/// list means that nobody was found (which is no error).
pub trait PoseEstimator {
    /// The people of one picture.
    ///
    /// # Errors
    /// [`crate::PoseError::Estimator`] for a failed detector, others as the implementation says.
    fn estimate(&mut self, role: FrameRole, picture: &RgbImage) -> Result<FrameKeypoints>;

    /// The people of driving frames, whose numbers are `numbers` (one for each; they need not be neighbours). A detector
    /// that gains from batches overrides it.
    ///
    /// # Errors
    /// As [`PoseEstimator::estimate`].
    fn estimate_batch(&mut self, numbers: &[usize], frames: &[RgbImage]) -> Result<Vec<FrameKeypoints>> {
        let frames = numbers.iter().zip(frames);
        frames.map(|(number, frame)| self.estimate(FrameRole::Driving(*number), frame)).collect()
    }

    /// What one should know of the pictures seen so far, a line each.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}
