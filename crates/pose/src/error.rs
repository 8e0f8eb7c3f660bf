//! What can go wrong between a keypoint file and a drawn frame.

use std::fmt;
use std::path::PathBuf;

use kernels::cuda::CudaError;

/// Where in a clip an error was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// A person of the reference picture.
    Reference {
        /// Index in `reference.people`.
        person: usize,
    },
    /// A person of a driving frame.
    Frame {
        /// Index in `frames`.
        frame: usize,
        /// Index in that frame's `people`.
        person: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Reference { person } => write!(f, "reference, person {person}"),
            Place::Frame { frame, person } => write!(f, "frame {frame}, person {person}"),
        }
    }
}

/// One of DWPose's two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// YOLOX, which finds people.
    Detector,
    /// DWPose proper, which finds a person's keypoints.
    Keypoints,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::Detector => "person detector (YOLOX)",
            Network::Keypoints => "keypoint network (DWPose)",
        })
    }
}

/// Errors of this crate. Every message says what was found, what is allowed and, where it helps, what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoseError {
    /// The keypoint file cannot be read.
    #[error("cannot read keypoint file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The keypoint file cannot be written.
    #[error("cannot write keypoint file {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The keypoint data are larger than the reader accepts.
    #[error("keypoint data are {bytes} bytes; at most {limit_bytes} are read: split the clip or leave out people")]
    TooLarge {
        /// Size found; a lower bound when the data come from a pipe.
        bytes: u64,
        /// Largest size that is read.
        limit_bytes: u64,
    },
    /// Not a JSON text.
    #[error(
        "not valid JSON at line {line}, column {column} (in `{path}`): {reason}; numbers must be plain and finite, NaN and Infinity are not JSON"
    )]
    NotJson {
        /// 1-based line.
        line: usize,
        /// 1-based column.
        column: usize,
        /// The field being read, `.` at the top.
        path: String,
        /// The parser's words.
        reason: String,
    },
    /// JSON, but a field is missing, unknown or of a wrong kind.
    #[error("keypoint file, `{path}`: {reason} (line {line}, column {column}); see docs/keypoints.md")]
    Field {
        /// The field, as `frames[3].people[0].keypoints[17]`.
        path: String,
        /// What is wrong.
        reason: String,
        /// 1-based line.
        line: usize,
        /// 1-based column.
        column: usize,
    },
    /// JSON of another kind.
    #[error(
        "`format` is {found}; expected \"steadydance-keypoints\" (docs/keypoints.md) or an OpenPose file with `people`"
    )]
    UnknownFormat {
        /// What stands there, "missing" if nothing does.
        found: String,
    },
    /// A version that this reader does not know.
    #[error("keypoint file has version {found}; this program reads version {supported}")]
    UnknownVersion {
        /// Version found.
        found: u64,
        /// Version that is read.
        supported: u64,
    },
    /// An OpenPose file says no frame rate and none was given.
    #[error("OpenPose keypoint files have no frame rate; give the driving video's fps")]
    OpenPoseNeedsFps,
    /// A clip without frames.
    #[error("the keypoint clip has no frames; at least one is needed")]
    NoFrames,
    /// A person with a wrong number of keypoints.
    #[error("{place}: `{field}` has {found} keypoints; expected {expected}")]
    PointCount {
        /// Which person.
        place: Place,
        /// The field that holds the keypoints.
        field: &'static str,
        /// Number found.
        found: usize,
        /// Number or numbers allowed.
        expected: &'static str,
    },
    /// NaN or an infinity among the keypoints.
    #[error("{place}, keypoint {point}: {field} is {value}; expected a finite number (an unseen keypoint has score 0)")]
    NotFinite {
        /// Which person.
        place: Place,
        /// Index of the keypoint.
        point: usize,
        /// `x`, `y` or `score`.
        field: &'static str,
        /// The value found.
        value: f64,
    },
    /// An image size of zero or beyond reason.
    #[error("{what} is {width}x{height}; each side must be 1 to {max} pixels")]
    ImageSize {
        /// Whose size.
        what: &'static str,
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Largest side allowed.
        max: u32,
    },
    /// A frame rate that is no frame rate.
    #[error("fps is {found}; expected a number above 0 and at most {max}")]
    Fps {
        /// Value found.
        found: f64,
        /// Largest value allowed.
        max: f64,
    },
    /// A picture so long and thin that its pose canvas has an empty side.
    #[error(
        "reference picture is {width}x{height}: too long and thin for a pose canvas of 589824 pixels; crop it to an aspect ratio below 2000:1"
    )]
    TooThin {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The reference keypoints do not belong to the reference picture.
    #[error(
        "reference keypoints are for a {keypoints} picture, but the reference picture is {picture}: aspect ratios differ; detect keypoints on this picture"
    )]
    ReferenceMismatch {
        /// Size that the keypoints were measured in.
        keypoints: crate::Size,
        /// Size of the picture.
        picture: crate::Size,
    },
    /// Nobody to take the motion from.
    #[error(
        "person {person} was asked for; {people} people were found in the {frames} frames: choose another person (0 is the first) or another driving video"
    )]
    NoPerson {
        /// Person asked for.
        person: crate::PersonChoice,
        /// People found; with cuts, the most between two of them.
        people: usize,
        /// Frames in the clip.
        frames: usize,
    },
    /// Nobody to take the proportions from.
    #[error(
        "the reference picture has {found} people, and the one asked for ({person}) is not among them: choose another person or another picture, or leave the `reference` out"
    )]
    NoReferencePerson {
        /// Who was asked for.
        person: crate::PersonChoice,
        /// People found.
        found: usize,
    },
    /// A frame index beyond the clip.
    #[error("frame {index} was asked for; the keypoint clip has {frames} frames")]
    FrameIndex {
        /// Index asked for.
        index: usize,
        /// Frames in the clip.
        frames: usize,
    },
    /// Too few given augmentations.
    #[error("{found} augmentations were given for {frames} frames; one a frame is needed")]
    AugmentationCount {
        /// Number given.
        found: usize,
        /// Frames in the clip.
        frames: usize,
    },
    /// A setting out of its range.
    #[error("{name} is {found}; expected {allowed}")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// Value found.
        found: f64,
        /// Values allowed.
        allowed: &'static str,
    },
    /// A word that is none of those allowed.
    #[error("{name} is {found:?}; expected {allowed}")]
    Word {
        /// Name of the setting.
        name: &'static str,
        /// What was given.
        found: String,
        /// What is understood.
        allowed: &'static str,
    },
    /// The file of a network cannot be used.
    #[error("cannot load {network}: {source}")]
    Weights {
        /// The network that was to be filled.
        network: &'static str,
        /// What is wrong with the file.
        source: weights::WeightsError,
    },
    /// The file holds another network than the one that was to be filled.
    #[error("{} is not {network}: {problem}", path.display())]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// The network that was to be filled.
        network: &'static str,
        /// The first difference.
        problem: String,
    },
    /// A GPU has no room for the networks or their work.
    #[error(
        "the GPU has no room for the pose networks: {asked_bytes} bytes beside {used_bytes} of {budget_bytes}; leave out --gpu-pose"
    )]
    GpuMemory {
        /// What was asked for.
        asked_bytes: u64,
        /// What was in use.
        used_bytes: u64,
        /// What may be used.
        budget_bytes: u64,
    },
    /// A detector failed.
    #[error("pose estimation failed: {0}")]
    Estimator(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A word that names no pose profile.
    #[error("pose profile is {found:?}; expected official or onnx")]
    UnknownProfile {
        /// The word.
        found: String,
    },
    /// A picture too long and thin to look for people in.
    #[error(
        "picture is {width}x{height}; people are looked for in pictures at most {max} times as long as wide: crop it"
    )]
    TooLong {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
        /// Largest ratio of the sides.
        max: u32,
    },
    /// A network gave a tensor of another shape than its kind does.
    #[error("the {network} gave {found:?}, expected {expected}: its weights are of another model")]
    NetworkShape {
        /// Which network.
        network: Network,
        /// Shape or lengths found.
        found: Vec<usize>,
        /// Shape or shapes allowed.
        expected: String,
    },
    /// A network gave NaN, an infinity or a box beyond f32.
    #[error("the {network} gave {value}, expected finite numbers: its weights file is damaged or of another model")]
    NetworkNotFinite {
        /// Which network.
        network: Network,
        /// The value found.
        value: f64,
    },
    /// People could not be looked for in a picture.
    #[error("{picture}: {source}")]
    Picture {
        /// Which picture.
        picture: crate::FrameRole,
        /// What happened.
        source: Box<PoseError>,
    },
}

impl PoseError {
    /// Whether a network or its file is at fault, and not a picture, a motion or a setting.
    pub fn is_of_networks(&self) -> bool {
        match self {
            Self::Weights { .. } | Self::OtherNetwork { .. } => true,
            Self::NetworkShape { .. } | Self::NetworkNotFinite { .. } | Self::Estimator(_) => true,
            Self::Picture { source, .. } => source.is_of_networks(),
            _ => false,
        }
    }

    /// Whether a GPU had no room for a network or its work.
    pub fn is_out_of_gpu_memory(&self) -> bool {
        match self {
            Self::Picture { source, .. } => source.is_out_of_gpu_memory(),
            Self::GpuMemory { .. } => true,
            _ => false,
        }
    }

    /// What went wrong while a network was brought somewhere or computed.
    pub(crate) fn of_network(error: candle_core::Error) -> Self {
        match CudaError::inside(&error) {
            Some(&CudaError::OutOfMemory { asked_bytes, used_bytes, budget_bytes }) => {
                Self::GpuMemory { asked_bytes, used_bytes, budget_bytes }
            }
            Some(gpu) => Self::Estimator(gpu.to_string().into()),
            None => Self::Estimator(Box::new(error)),
        }
    }
}
