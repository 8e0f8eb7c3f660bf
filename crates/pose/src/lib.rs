//! Keypoints of a driving video → drawn pose frames for SteadyDancer.
//!
//! The way of a frame, one module per step (source: SteadyDancer's pose pipeline, itself derived from MusePose):
//!
//! 1. [`keypoints`], [`json`], [`estimator`]: 133 COCO-WholeBody keypoints a person, from a file or a detector;
//! 2. [`openpose`]: 133 → 134 OpenPose order, normalised to the image, hidden points masked;
//! 3. [`align`]: limb lengths of the driving person become those of the reference person;
//! 4. [`augment`]: the perturbed twin, which is the negative pose condition;
//! 5. [`draw`]: skeletons as OpenCV draws them, pixel for pixel;
//! 6. [`frames`]: all of it as an iterator of drawn pairs.
//!
//! Between 1 and 2, and not in the original: [`people`] tells who is who and who is followed, [`motion`] fills gaps and
//! smooths jitter; [`quality`] reports on it all. [`PoseOptions::upstream`] leaves them out.
//!
//! Sizes that the steps need come from [`sizes`]. No file but keypoint JSON is known here.
//!
//! [`dwpose`] is the detector of step 1, around two networks: [`profile`] (which variant), [`detector`] (letterbox in,
//! boxes out), [`crop`] (a person's part of the picture), [`simcc`] (logits to keypoints). The
//! networks themselves are in [`net`].

pub mod align;
pub mod augment;
pub mod crop;
pub mod detector;
pub mod draw;
pub mod dwpose;
mod error;
pub mod estimator;
pub mod frames;
pub mod json;
pub mod keypoints;
pub mod motion;
pub mod net;
pub mod openpose;
mod openpose_json;
pub mod options;
pub mod people;
mod performance;
pub mod profile;
pub mod quality;
pub mod simcc;
pub mod sizes;

pub use align::{AlignedPose, Alignment, Aspects, DegenerateScale, ScaleGuard, Scales};
pub use augment::{Augmentation, Augmenter};
pub use detector::PersonBox;
pub use draw::{Palette, draw_poses};
pub use dwpose::{DwPose, DwPoseOptions, DwPoseStatistics, PoseNetworks};
pub use error::{Network, Place, PoseError};
pub use estimator::{FrameRole, PoseEstimator};
pub use frames::{PoseFrames, PosePair};
pub use keypoints::{FrameKeypoints, PoseClip, ReferenceKeypoints, WHOLE_BODY_POINTS, WholeBody};
pub use openpose::{HandPairing, OpenPose};
pub use options::{AlignFrame, MissingPerson, PoseOptions};
pub use people::{Identity, PersonChoice};
pub use performance::Shown;
pub use profile::PoseProfile;
pub use quality::{FrameRange, QualityReport, Warning};
pub use sizes::Size;

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, PoseError>;
