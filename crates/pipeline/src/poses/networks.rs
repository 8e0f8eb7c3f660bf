//! The networks behind the estimator.

use candle_core::Device;
use pose::net::Networks;
use pose::{DwPose, DwPoseOptions, PoseEstimator, PoseProfile};

use super::PoseModelFiles;
use crate::PipelineError;

/// Opens both networks on the host.
pub(super) fn open(files: &PoseModelFiles, profile: PoseProfile) -> Result<Box<dyn PoseEstimator>, PipelineError> {
    let networks = Networks::load(&files.detector, &files.estimator, &Device::Cpu)?;
    Ok(Box::new(DwPose::new(networks, DwPoseOptions::new(profile))))
}
