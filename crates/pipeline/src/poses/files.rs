//! Where the pose networks' files are.

use std::path::{Path, PathBuf};

use offload::{Phase, PhaseNeeds};
use serde::{Deserialize, Serialize};

use super::extract::batch_size;
use crate::PipelineError;

/// The detector and the estimator, each an `.onnx` or a `.pth` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoseModelFiles {
    /// YOLOX.
    pub detector: PathBuf,
    /// DWPose.
    pub estimator: PathBuf,
}

/// Where the pose networks shall be looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoseModelPlaces {
    /// The detector's file.
    pub detector: Option<PathBuf>,
    /// The estimator's file.
    pub estimator: Option<PathBuf>,
    /// Folders, best first; each is looked through with the subfolders that releases use.
    pub folders: Vec<PathBuf>,
}

/// Names under which each network is in circulation.
const DETECTOR_NAMES: &[&str] = &["yolox_l.onnx", "yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth", "yolox_l.pth"];
const ESTIMATOR_NAMES: &[&str] = &["dw-ll_ucoco_384.onnx", "dw-ll_ucoco_384.pth"];
/// Folders of releases, seen from a model's or a program's folder.
const SUBFOLDERS: &[&str] = &[
    "",
    "dwpose",
    "DWPose",
    "preprocess/pretrained_weights/dwpose",
    "pretrained_weights/dwpose",
    "annotator/ckpts",
    "ckpts",
];

impl PoseModelFiles {
    /// Finds both files.
    ///
    /// # Errors
    /// One of them is not there; the error says how to get it.
    pub fn find(places: &PoseModelPlaces) -> Result<Self, PipelineError> {
        let look = |given: &Option<PathBuf>, names: &[&str], what: &'static str, flag: &'static str| {
            if let Some(path) = given {
                return match path.is_file() {
                    true => Ok(path.clone()),
                    false => Err(PipelineError::Model {
                        path: path.clone(),
                        problem: format!("there is no such file; {flag} names the {what}'s .onnx or .pth file"),
                    }),
                };
            }
            let candidates = places.folders.iter().flat_map(|folder| candidates(folder, names));
            candidates.into_iter().find(|p| p.is_file()).ok_or(PipelineError::NoPoseModel {
                what,
                names: names.join(" or "),
                flag,
            })
        };
        Ok(Self {
            detector: look(&places.detector, DETECTOR_NAMES, "detector", "--detector")?,
            estimator: look(&places.estimator, ESTIMATOR_NAMES, "estimator", "--estimator")?,
        })
    }
}

/// 3×3 filters of stride 1 are held four times as large as stored, ready for Winograd's method; they are most of both
/// networks.
const HELD_PER_STORED: u64 = 3;
/// Activations of a frame in flight: the detector's widest maps, the resized picture, crops.
const BYTES_PER_FRAME: u64 = 192 << 20;

impl PoseModelFiles {
    /// What finding poses takes: both networks from f32 files, and the frames in flight.
    pub(crate) fn needs(&self) -> PhaseNeeds {
        let stored = |path: &Path| std::fs::metadata(path).map_or(0, |info| info.len());
        let weights = HELD_PER_STORED * (stored(&self.detector) + stored(&self.estimator));
        PhaseNeeds::whole(Phase::Pose, weights, BYTES_PER_FRAME * batch_size() as u64)
    }
}

fn candidates(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    SUBFOLDERS.iter().flat_map(|sub| names.iter().map(move |name| folder.join(sub).join(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_the_folders_of_releases_and_given_ones_win() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("preprocess/pretrained_weights/dwpose");
        std::fs::create_dir_all(&folder).unwrap();
        let mut places = PoseModelPlaces { folders: vec!["no/such".into(), dir.path().into()], ..Default::default() };
        let error = PoseModelFiles::find(&places).unwrap_err().to_string();
        assert!(
            error.contains("detector") && error.contains("yolox_l.onnx") && error.contains("models pull dwpose"),
            "{error}"
        );
        for name in [DETECTOR_NAMES[1], ESTIMATOR_NAMES[1]] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let found = PoseModelFiles::find(&places).unwrap();
        assert_eq!(
            (&found.detector, &found.estimator),
            (&folder.join(DETECTOR_NAMES[1]), &folder.join(ESTIMATOR_NAMES[1]))
        );
        std::fs::write(dir.path().join("mine.onnx"), "").unwrap();
        places.detector = Some(dir.path().join("mine.onnx"));
        assert_eq!(PoseModelFiles::find(&places).unwrap().detector, dir.path().join("mine.onnx"));
        places.detector = Some("gone.onnx".into());
        assert!(PoseModelFiles::find(&places).unwrap_err().to_string().contains("--detector"));
    }
}
