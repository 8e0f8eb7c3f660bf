//! The two networks together, as [`DwPose`](crate::DwPose) wants them.

use std::path::Path;

use candle_core::{Result, Tensor};

use super::dwpose::WholeBodyNet;
use super::run::On;
use super::yolox::Yolox;
use crate::dwpose::PoseNetworks;
use crate::keypoints::WHOLE_BODY_POINTS;
use crate::{PoseError, Size};

/// A detector of people and a network for their 133 keypoints.
#[derive(Debug, Clone)]
pub struct Networks {
    detector: Yolox,
    keypoints: WholeBodyNet,
}

impl Networks {
    /// Opens both files; see [`Yolox::load`] and [`WholeBodyNet::load`]. The networks may be of any width and depth and of
    /// their own input sizes; the detector's must be a square, and there must be 133 keypoints.
    ///
    /// # Errors
    /// Files that are missing, damaged or of other networks.
    pub fn load(detector: &Path, estimator: &Path, on: On) -> crate::Result<Self> {
        let nets = Self { detector: Yolox::load(detector, on)?, keypoints: WholeBodyNet::load(estimator, on)? };
        nets.checked([detector, estimator])
    }

    /// From safetensors files in memory; errors call them by `labels`, of the detector and of the estimator.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn from_static(labels: [&str; 2], files: [&'static [u8]; 2], on: On) -> crate::Result<Self> {
        let [detector, estimator] = files;
        let nets = Self {
            detector: Yolox::from_static(labels[0], detector, on)?,
            keypoints: WholeBodyNet::from_static(labels[1], estimator, on)?,
        };
        nets.checked(labels.map(Path::new))
    }

    fn checked(self, [detector, estimator]: [&Path; 2]) -> crate::Result<Self> {
        let other = |path: &Path, network, problem| {
            let path = path.to_owned();
            Err(PoseError::OtherNetwork { path, network, problem })
        };
        let seen = self.detector.input_size();
        if seen.width != seen.height {
            return other(detector, "YOLOX", format!("it takes pictures of {seen} pixels; expected a square"));
        }
        let points = self.keypoints.config().keypoints;
        if points != WHOLE_BODY_POINTS {
            let problem = format!("it finds {points} keypoints; expected {WHOLE_BODY_POINTS} (dw-ll_ucoco_384)");
            return other(estimator, "DWPose", problem);
        }
        Ok(self)
    }
}

impl PoseNetworks for Networks {
    fn detector_side(&self) -> usize {
        self.detector.config().input_size[0]
    }

    fn crop_size(&self) -> Size {
        self.keypoints.input_size()
    }

    fn detect(&self, pictures: &Tensor) -> Result<Tensor> {
        self.detector.forward(pictures)
    }

    fn keypoints(&self, crops: &Tensor) -> Result<(Tensor, Tensor)> {
        self.keypoints.forward(crops)
    }
}
