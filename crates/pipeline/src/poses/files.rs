//! Where the pose networks' files are.

use std::path::{Path, PathBuf};

use offload::{PhaseJob, Way};
use pose::detector::DETECTOR_SIDE;
use pose::net::{DwPoseConfig, YoloxConfig};
use serde::{Deserialize, Serialize};

use super::extract::batch_size;
use crate::PipelineError;
use crate::needs::pose_phase;

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
    /// When the embedded networks do. `None` leaves it to the model: an [`Engine`](crate::Engine) of the embedded model
    /// uses them unless files are named, everything else never.
    #[serde(default)]
    pub embedded: Option<EmbeddedPoses>,
}

/// When the embedded pose networks are used. They know the drawn puppets that the embedded model was trained on, and no
/// people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmbeddedPoses {
    /// Not at all.
    Never,
    /// When no file is named and none is in the folders.
    IfNoneFound,
    /// When no file is named, whatever the folders hold.
    UnlessNamed,
}

/// The networks that find poses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoseModels {
    /// Those of two files.
    Files(PoseModelFiles),
    /// The embedded ones.
    Embedded,
}

impl PoseModels {
    /// Which networks `places` mean.
    ///
    /// # Errors
    /// A file is not there and the embedded networks shall not stand in; the error says how to get it.
    pub fn find(places: &PoseModelPlaces) -> Result<Self, PipelineError> {
        let named = places.detector.is_some() || places.estimator.is_some();
        match (named, places.embedded) {
            (false, Some(EmbeddedPoses::UnlessNamed)) => Ok(Self::Embedded),
            (false, Some(EmbeddedPoses::IfNoneFound)) => match PoseModelFiles::find(places) {
                Err(PipelineError::NoPoseModel { .. }) => Ok(Self::Embedded),
                found => found.map(Self::Files),
            },
            _ => PoseModelFiles::find(places).map(Self::Files),
        }
    }

    /// What finding poses in so many frames takes: both networks from f32 files, and the frames in flight.
    ///
    /// # Errors
    /// The detector's file is damaged or of another network.
    pub(crate) fn phase(&self, num_frames: usize) -> Result<PhaseJob, PipelineError> {
        let (stored, side) = match self {
            Self::Files(files) => {
                let size = |path: &Path| std::fs::metadata(path).map_or(0, |info| info.len());
                (size(&files.detector) + size(&files.estimator), pose::net::detector_side(&files.detector)?)
            }
            // Half of what they are in f32. The detector's side is smaller than the released ones'.
            Self::Embedded => {
                (models::DEMO.pose_networks().iter().map(|bytes| 2 * bytes.len() as u64).sum(), DETECTOR_SIDE)
            }
        };
        let frames = batch_size() as u64;
        let phase = pose_phase(HELD_PER_STORED * stored, frame_bytes(side) * frames, num_frames);
        Ok(PhaseJob { ways: vec![Way::whole(gpu_frame_bytes(side) * frames)], ..phase })
    }
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
/// Activations of a frame in flight at the released detectors' side: their widest maps, the resized picture, crops.
const BYTES_PER_FRAME: u64 = 192 << 20;

/// The same for a detector of pictures of `side` pixels: maps grow with the area. Pictures and crops do not shrink with
/// it.
fn frame_bytes(side: usize) -> u64 {
    let area = |side: usize| (side * side) as u64;
    BYTES_PER_FRAME * area(side.max(DETECTOR_SIDE)) / area(DETECTOR_SIDE)
}

/// What a frame in flight takes on a GPU, where the networks are as the released ones: the detector's maps at its side, or those of a
/// person's two crops.
fn gpu_frame_bytes(side: usize) -> u64 {
    let detector = YoloxConfig { input_size: [side; 2], ..YoloxConfig::yolox_l() };
    detector.gpu_activation_bytes(1).max(DwPoseConfig::dwpose_l().gpu_activation_bytes(2))
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

    #[test]
    fn memory_of_a_frame_grows_with_the_detectors_area() {
        assert_eq!([64, 640].map(frame_bytes), [BYTES_PER_FRAME; 2]);
        assert_eq!(frame_bytes(1280), 4 * BYTES_PER_FRAME);
        let [usual, large] = [640, 1280].map(gpu_frame_bytes);
        assert!((40 << 20..120 << 20).contains(&usual) && large > 3 * usual, "{usual} {large}");
    }

    #[test]
    fn embedded_networks_stand_in_only_where_they_may() {
        let dir = tempfile::tempdir().unwrap();
        let with = |embedded| PoseModelPlaces {
            folders: vec![dir.path().into()],
            embedded: Some(embedded),
            ..Default::default()
        };
        let find = |places: &PoseModelPlaces| PoseModels::find(places);
        let [never, missing, unless] =
            [EmbeddedPoses::Never, EmbeddedPoses::IfNoneFound, EmbeddedPoses::UnlessNamed].map(with);
        assert!(matches!(find(&never), Err(PipelineError::NoPoseModel { .. })));
        assert_eq!(find(&missing).unwrap(), PoseModels::Embedded);
        assert_eq!(find(&unless).unwrap(), PoseModels::Embedded);
        for name in [DETECTOR_NAMES[0], ESTIMATOR_NAMES[0]] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert!(matches!(find(&never).unwrap(), PoseModels::Files(_)));
        assert!(matches!(find(&missing).unwrap(), PoseModels::Files(_)));
        assert_eq!(find(&unless).unwrap(), PoseModels::Embedded);
        // A named file is never passed over, not even one that is not there.
        for places in [missing, unless] {
            let named = PoseModelPlaces { estimator: Some(dir.path().join(ESTIMATOR_NAMES[0])), ..places.clone() };
            assert!(matches!(find(&named).unwrap(), PoseModels::Files(_)));
            let gone = PoseModelPlaces { detector: Some("gone.onnx".into()), ..places };
            assert!(find(&gone).is_err());
        }
    }
}
