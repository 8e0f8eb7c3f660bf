//! Where keypoints come from: a file ([`KeypointEstimator`]) or networks ([`crate::DwPose`]).

use std::fmt;

use image::RgbImage;

use crate::keypoints::{FrameKeypoints, PoseClip, ReferenceKeypoints};
use crate::sizes::Size;
use crate::{PoseError, Result};

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
    /// [`PoseError::Estimator`] for a failed detector, others as the implementation says.
    fn estimate(&mut self, role: FrameRole, picture: &RgbImage) -> Result<FrameKeypoints>;

    /// The people of consecutive driving frames from `first` on, in order. A detector that gains from batches overrides it.
    ///
    /// # Errors
    /// As [`PoseEstimator::estimate`].
    fn estimate_batch(&mut self, first: usize, frames: &[RgbImage]) -> Result<Vec<FrameKeypoints>> {
        let roles = (first..).map(FrameRole::Driving);
        let pairs = roles.zip(frames);
        pairs.map(|(role, frame)| self.estimate(role, frame)).collect()
    }

    /// What one should know of the pictures seen so far, a line each.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An estimator that looks up a clip read from a keypoint file, resized to the picture at hand.
#[derive(Clone, Debug)]
pub struct KeypointEstimator {
    clip: PoseClip,
}

impl KeypointEstimator {
    /// # Errors
    /// What [`PoseClip::validate`] finds.
    pub fn new(clip: PoseClip) -> Result<Self> {
        clip.validate()?;
        Ok(Self { clip })
    }
}

impl PoseEstimator for KeypointEstimator {
    /// # Errors
    /// [`PoseError::NoReference`], or [`PoseError::FrameIndex`] for a frame beyond the file's last.
    fn estimate(&mut self, role: FrameRole, picture: &RgbImage) -> Result<FrameKeypoints> {
        let clip = &self.clip;
        let (people, size) = match role {
            FrameRole::Reference => {
                let reference = clip.reference.as_ref().ok_or(PoseError::NoReference)?;
                let size = Size::new(reference.width, reference.height);
                (&reference.people, size)
            }
            FrameRole::Driving(index) => {
                let frames = clip.frames.len();
                let frame = clip.frames.get(index).ok_or(PoseError::FrameIndex { index, frames })?;
                (&frame.people, clip.size())
            }
        };
        let x = f64::from(picture.width()) / f64::from(size.width);
        let y = f64::from(picture.height()) / f64::from(size.height);
        let people = people.iter().map(|person| person.scaled(x, y)).collect();
        Ok(FrameKeypoints { people })
    }
}

/// Runs an estimator over the reference picture and the driving frames, one frame in memory at a time.
///
/// # Errors
/// The estimator's, the frame source's (`E`), and [`PoseError::NoFrames`] for an empty video. Frames of differing sizes are
/// brought to the pixels of the first.
pub fn estimate_clip<E: From<PoseError>>(
    estimator: &mut dyn PoseEstimator,
    reference: &RgbImage,
    frames: impl IntoIterator<Item = std::result::Result<RgbImage, E>>,
    fps: f64,
) -> std::result::Result<PoseClip, E> {
    let people = estimator.estimate(FrameRole::Reference, reference)?.people;
    let mut clip = PoseClip {
        width: 0,
        height: 0,
        fps,
        frames: Vec::new(),
        reference: Some(ReferenceKeypoints { width: reference.width(), height: reference.height(), people }),
    };
    for (index, frame) in frames.into_iter().enumerate() {
        let frame = frame?;
        let mut keypoints = estimator.estimate(FrameRole::Driving(index), &frame)?;
        let (width, height) = frame.dimensions();
        if index == 0 {
            (clip.width, clip.height) = (width, height);
        } else if (width, height) != (clip.width, clip.height) {
            let x = f64::from(clip.width) / f64::from(width);
            let y = f64::from(clip.height) / f64::from(height);
            for person in &mut keypoints.people {
                *person = person.scaled(x, y);
            }
        }
        clip.frames.push(keypoints);
    }
    if clip.frames.is_empty() {
        return Err(PoseError::NoFrames.into());
    }
    clip.validate()?;
    Ok(clip)
}
