//! The networks behind the estimator.

use pose::net::{Networks, On};
use pose::{DwPose, DwPoseOptions, PoseEstimator, PoseProfile};

use super::PoseModels;
use crate::PipelineError;

/// Opens both networks.
pub(crate) fn open(
    networks: &PoseModels,
    profile: PoseProfile,
    on: On,
) -> Result<Box<dyn PoseEstimator>, PipelineError> {
    let networks = match networks {
        PoseModels::Files(files) => Networks::load(&files.detector, &files.estimator, on)?,
        PoseModels::Embedded => {
            let labels = ["demo/pose/detector.safetensors", "demo/pose/estimator.safetensors"];
            Networks::from_static(labels, models::DEMO.pose_networks(), on)?
        }
    };
    Ok(Box::new(DwPose::new(networks, DwPoseOptions::new(profile))))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pose::FrameRole;
    use pose::keypoints::COCO_BODY_POINTS;

    use super::*;

    /// Share of the figure's height. The committed estimator is a stage (models/demo/pose/README.md); the goals are
    /// 0.015 here and nine sure joints in ten below.
    const MEDIAN: f64 = 0.03;

    fn puppets() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/puppets")
    }

    /// Held-out frames with the keypoints that they were drawn from (models/demo/pose/README.md).
    #[test]
    fn the_embedded_networks_find_puppets_that_they_have_not_seen() {
        let folder = puppets();
        let mut estimator = open(&PoseModels::Embedded, PoseProfile::default(), On::Host).unwrap();
        for name in ["front", "arms", "behind"] {
            let picture = image::open(folder.join(format!("{name}.png"))).unwrap().into_rgb8();
            let truth =
                pose::json::read(&folder.join(format!("{name}.json")), pose::json::ReadOptions::default()).unwrap();
            let truth = &truth.frames[0].people[0];
            let found = estimator.estimate(FrameRole::Driving(0), &picture).unwrap();
            let [found] = found.people.as_slice() else { panic!("{name}: {} people", found.people.len()) };
            let seen: Vec<usize> = (0..COCO_BODY_POINTS).filter(|k| truth.scores[*k] > 0.9).collect();
            let ys = seen.iter().map(|k| truth.points[*k][1]);
            let height = ys.clone().fold(f64::MIN, f64::max) - ys.fold(f64::MAX, f64::min);
            let off = |k: &usize| {
                let ([x, y], [u, v]) = (truth.points[*k], found.points[*k]);
                (x - u).hypot(y - v) / height
            };
            let mut errors: Vec<f64> = seen.iter().map(off).collect();
            errors.sort_by(f64::total_cmp);
            println!("{name}: {:.4} median, {:.4} most", errors[errors.len() / 2], errors[errors.len() - 1]);
            assert!(errors[errors.len() / 2] < MEDIAN, "{name}: {errors:?}");
            let sure = seen.iter().filter(|k| found.scores[**k] > PoseProfile::default().visibility_threshold).count();
            assert!(2 * sure >= seen.len(), "{name}: {:?}", &found.scores[..COCO_BODY_POINTS]);
        }
    }
}
