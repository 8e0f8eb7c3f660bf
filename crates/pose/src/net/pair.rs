//! The two networks together, as [`DwPose`](crate::DwPose) wants them.

use std::path::Path;

use candle_core::{Device, Result, Tensor};

use super::{WholeBodyNet, Yolox};
use crate::dwpose::PoseNetworks;
use crate::keypoints::WHOLE_BODY_POINTS;
use crate::{PoseError, Size};

/// Sides of what the detector sees.
const DETECTOR_SIZE: Size = Size::new(640, 640);
/// Sides of what the keypoint network sees.
const CROP_SIZE: Size = Size::new(288, 384);

/// A detector of people and a network for their 133 keypoints.
#[derive(Debug, Clone)]
pub struct Networks {
    detector: Yolox,
    keypoints: WholeBodyNet,
}

impl Networks {
    /// Opens both files; see [`Yolox::load`] and [`WholeBodyNet::load`]. The networks may be of any width and depth, but
    /// must take 640×640 and 288×384 pixels and give 133 keypoints.
    ///
    /// # Errors
    /// Files that are missing, damaged or of other networks.
    pub fn load(detector: &Path, estimator: &Path, device: &Device) -> crate::Result<Self> {
        let other = |path: &Path, network, problem| {
            let path = path.to_owned();
            PoseError::OtherNetwork { path, network, problem }
        };
        let nets = Self { detector: Yolox::load(detector, device)?, keypoints: WholeBodyNet::load(estimator, device)? };
        let seen = nets.detector.input_size();
        if seen != DETECTOR_SIZE {
            let problem = format!("it takes pictures of {seen} pixels; expected {DETECTOR_SIZE}");
            return Err(other(detector, "YOLOX", problem));
        }
        let (seen, points) = (nets.keypoints.input_size(), nets.keypoints.config().keypoints);
        if seen != CROP_SIZE || points != WHOLE_BODY_POINTS {
            let problem = format!(
                "it finds {points} keypoints in {seen} pixels; expected {WHOLE_BODY_POINTS} in {CROP_SIZE} (dw-ll_ucoco_384)"
            );
            return Err(other(estimator, "DWPose", problem));
        }
        Ok(nets)
    }
}

impl PoseNetworks for Networks {
    fn detect(&self, pictures: &Tensor) -> Result<Tensor> {
        self.detector.forward(pictures)
    }

    fn keypoints(&self, crops: &Tensor) -> Result<(Tensor, Tensor)> {
        self.keypoints.forward(crops)
    }
}
