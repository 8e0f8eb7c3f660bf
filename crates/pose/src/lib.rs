//! Keypoints of a driving video → drawn pose frames for SteadyDancer.
//!
//! The way of a frame, one module per step (source: SteadyDancer's pose pipeline, itself derived from MusePose):
//!
//! 1. [`keypoints`], [`json`], [`estimator`]: 133 COCO-WholeBody keypoints a person, from a file or a detector;
//! 2. [`openpose`]: 133 → 134 OpenPose order, normalised to the image, hidden points masked;
//! 3. [`align`]: limb lengths of the driving person become those of the reference person;
//! 4. [`augment`]: the perturbed twin, which is the negative pose condition;
//! 5. [`draw`]: skeletons as OpenCV draws them, pixel for pixel;
//! 6. [`frames`]: all of it, lazily, as an iterator of drawn pairs.
//!
//! Sizes that the steps need come from [`sizes`]. No tensor and no file but keypoint JSON is known here.

pub mod align;
pub mod augment;
pub mod draw;
mod error;
pub mod estimator;
pub mod frames;
pub mod json;
pub mod keypoints;
pub mod openpose;
mod openpose_json;
pub mod sizes;

pub use align::{AlignedPose, Alignment, Aspects, DegenerateScale, ScaleGuard, Scales};
pub use augment::{Augmentation, Augmenter};
pub use draw::{Palette, draw_poses};
pub use error::{Place, PoseError};
pub use estimator::{FrameRole, KeypointEstimator, PoseEstimator, estimate_clip};
pub use frames::{MissingPerson, PersonChoice, PoseFrames, PoseOptions, PosePair, PoseReport};
pub use keypoints::{FrameKeypoints, PoseClip, ReferenceKeypoints, WHOLE_BODY_POINTS, WholeBody};
pub use openpose::{HandPairing, OpenPose};
pub use sizes::Size;

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, PoseError>;
