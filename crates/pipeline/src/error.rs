//! What can go wrong, and of what kind it is.

use kernels::cuda::CudaError;
use media::MediaError;
use offload::{DeviceError, FlagConflict, Phase, PlanError};
use pose::PoseError;
use scheduler::{GuidanceError, ScheduleError};
use vae::VaeError;
use weights::WeightsError;
use weights::convert::ConvertError;
use weights::lora::LoraError;

use crate::poses::CANVAS_WANTED;

/// What one should know of poses that the embedded networks find.
pub(crate) const PUPPETS_ONLY: &str = "the demo's own networks look for poses and know drawn puppets only; for people get \
     DWPose with `steadydance models pull dwpose` and name its files with --detector and --estimator";

/// Most frames whose poses are found at once: half an hour at 30 frames a second.
pub const MOST_POSE_FRAMES: usize = 54_000;

/// A number or combination that cannot be asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Flags for the planner that contradict each other.
    #[error(transparent)]
    Flags(#[from] FlagConflict),
    /// Not 4n+1, or too many.
    #[error("num_frames is {found}; expected 4·n+1, nearest {nearest}")]
    NumFrames {
        /// What was asked for.
        found: usize,
        /// The nearest number that is allowed.
        nearest: usize,
    },
    /// Sides must be multiples of 16 within limits.
    #[error(
        "size is {width}x{height}; expected multiples of 16 from 32 to 4096, nearest {}x{}", nearest[0], nearest[1]
    )]
    Size {
        /// Asked width.
        width: usize,
        /// Asked height.
        height: usize,
        /// The nearest size that is allowed.
        nearest: [usize; 2],
    },
    /// Strength of a LoRA out of range.
    #[error("the strength of {name} is {found}; expected -100 to 100, 1 is as trained and 0 off")]
    LoraStrength {
        /// The LoRA.
        name: String,
        /// What was asked for.
        found: f64,
    },
    /// Tiles that the VAE cannot compute.
    #[error("{0}")]
    VaeTile(vae::VaeError),
    /// Frame rate out of range.
    #[error("fps is {found}; expected 1 to 240")]
    Fps {
        /// What was asked for.
        found: f64,
    },
    /// Rate factor out of range.
    #[error("crf is {found}; expected 0 (lossless) to 51 (smallest)")]
    Crf {
        /// What was asked for.
        found: u8,
    },
    /// A setting of poses out of range.
    #[error("{name} is {found}; expected {low} to {high}")]
    PoseSetting {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        found: f64,
        /// Smallest value allowed.
        low: f64,
        /// Largest value allowed.
        high: f64,
    },
    /// A canvas that poses cannot be drawn on.
    #[error("canvas is {}x{}; expected {CANVAS_WANTED}", found[0], found[1])]
    PoseCanvas {
        /// Its width and height.
        found: [usize; 2],
    },
    /// The clip has no such frame.
    #[error("align_frame is {found}, but the clip has {frames} frame(s); give 0 to {}, a time such as 1.5s, or auto", frames.saturating_sub(1))]
    AlignFrame {
        /// What was asked for.
        found: usize,
        /// Frames of the clip.
        frames: usize,
    },
    /// More frames than can be held.
    #[error(
        "{path}: {found} frames are too many at once; at most {MOST_POSE_FRAMES}: use --max-frames, or --fps to take fewer"
    )]
    TooManyFrames {
        /// The motion.
        path: std::path::PathBuf,
        /// Frames of the motion.
        found: usize,
    },
    /// Drawn poses cannot be turned back into keypoints.
    #[error("drawn poses cannot be read back; give a video or a keypoint file")]
    PosesNeedMotion,
    /// A clip of no frames was asked for.
    #[error("max_frames is 0; expected 1 or more")]
    NoFramesWanted,
    /// No such sampler.
    #[error(transparent)]
    Sampler(scheduler::UnknownSampler),
    /// Schedule numbers out of range.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Guidance numbers out of range.
    #[error(transparent)]
    Guidance(#[from] GuidanceError),
    /// The output would overwrite something that is read.
    #[error("the output {output} is also an input ({input}); choose another name")]
    OutputIsInput {
        /// The output path.
        output: std::path::PathBuf,
        /// The input it is the same file as.
        input: std::path::PathBuf,
    },
    /// A folder that is replaced as a whole has another file of the run in it, or its name.
    #[error("the folder {folder} is, or holds, another file of this run ({file}); choose another name")]
    FolderHolds {
        /// The folder that would be replaced.
        folder: std::path::PathBuf,
        /// The file.
        file: std::path::PathBuf,
    },
    /// The motion has fewer frames than the clip.
    #[error(
        "num_frames is {asked}, but the motion gives {available} frame(s) at {fps} fps; use --num-frames {largest} or less, or a longer motion"
    )]
    TooFewFrames {
        /// What was asked for.
        asked: usize,
        /// Frames that the motion gives.
        available: usize,
        /// The largest 4n+1 that fits.
        largest: usize,
        /// Rate at which it was sampled.
        fps: f64,
    },
    /// An output of a kind that cannot be written.
    #[error(transparent)]
    OutputKind(MediaError),
    /// A way to attend that the model's heads are not for.
    #[error("--attention {asked} is for heads of 128 channels, and this model's have {head}; leave it at bf16")]
    Attention {
        /// What was asked for.
        asked: &'static str,
        /// Channels of a head.
        head: usize,
    },
    /// A device this build or machine does not have.
    #[error("device {found:?} is not available: {why}; use --device cpu")]
    Device {
        /// What was asked for.
        found: String,
        /// Why not.
        why: String,
    },
}

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// What was asked for is not possible.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A picture, video or pose file cannot be used.
    #[error(transparent)]
    Media(MediaError),
    /// Keypoints or drawn poses cannot be used.
    #[error(transparent)]
    Pose(#[from] PoseError),
    /// The motion is a plain video, and a network that finds poses is not there.
    #[error(
        "no pose {what} ({names}): get it with `steadydance models pull dwpose`, name its file with {flag}, or give --keypoints FILE.json instead of a plain video"
    )]
    NoPoseModel {
        /// Detector or estimator.
        what: &'static str,
        /// File names that were looked for.
        names: String,
        /// The flag that names the file.
        flag: &'static str,
    },
    /// Nobody is in the pictures.
    #[error(
        "{path}: no person was found{}; choose a {what} in which one person is seen from head to foot{}",
        if *frames == 1 { String::new() } else { format!(" in any of {frames} frames") },
        if *puppets_only { format!(" ({PUPPETS_ONLY})") } else { ", or try --score-threshold or --pose-profile".to_owned() }
    )]
    NobodyFound {
        /// Reference picture or driving video.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Frames that were looked at.
        frames: usize,
        /// Whether the embedded networks looked, which know the demo's puppets only.
        puppets_only: bool,
    },
    /// Nothing of the people would be drawn.
    #[error(
        "{path}: no joint scores above {threshold} in any frame (the best has {best:.2}); give a lower --score-threshold, 0.35 is usual"
    )]
    NothingSeen {
        /// The motion.
        path: std::path::PathBuf,
        /// Score that joints must exceed.
        threshold: f64,
        /// Highest score there is.
        best: f64,
    },
    /// Positive and negative poses are not frame for frame the same motion.
    #[error(
        "{neg_pose} has {found} frame(s), but frame {needed} is needed to go with {pose}; negative poses are made frame for frame from the positive ones"
    )]
    PosePair {
        /// Aligned poses.
        pose: std::path::PathBuf,
        /// Their twins.
        neg_pose: std::path::PathBuf,
        /// Frames of the twins.
        found: usize,
        /// Frames needed.
        needed: usize,
    },
    /// Drawn poses end before the clip does.
    #[error(
        "{path}: {found} frame(s) can be decoded, frame {needed} is needed; the file is damaged or truncated, get a complete copy"
    )]
    PoseEnds {
        /// The poses.
        path: std::path::PathBuf,
        /// Frames that could be decoded.
        found: usize,
        /// Frames needed.
        needed: usize,
    },
    /// A video holds less than it says.
    #[error(
        "{path}: the file is truncated or damaged: {found} of about {expected} frames are there; get a complete copy"
    )]
    Truncated {
        /// The video.
        path: std::path::PathBuf,
        /// Frames that are there.
        found: usize,
        /// Frames that its header promises.
        expected: usize,
    },
    /// Kept latents cannot be used.
    #[error("{path}: {problem}")]
    Latents {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A checkpoint cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A LoRA cannot be used.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// A model folder or its parts cannot be used.
    #[error("{path}: {problem}")]
    Model {
        /// The folder or file.
        path: std::path::PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// No placement fits the memory.
    #[error(transparent)]
    DoesNotFit(#[from] PlanError),
    /// The result cannot be written.
    #[error("cannot write the result: {0}")]
    Output(MediaError),
    /// A computation failed.
    #[error("{place}: {}", first_line(source))]
    Compute {
        /// Phase, block and step.
        place: String,
        /// What the network or device said.
        source: candle_core::Error,
    },
    /// Memory ran out on the way, and there was no other way to compute.
    #[error("{place}: {source}; free memory, or ask for less with --size, --num-frames or --on-pressure degrade")]
    OutOfMemory {
        /// Phase, block and step.
        place: String,
        /// What the device said.
        source: DeviceError,
    },
    /// A network gave infinities or NaN.
    #[error("{place}: the network's output is not finite; the weights do not fit the network or are damaged")]
    NotFinite {
        /// Phase, block and step.
        place: String,
    },
    /// The run did not come to its end; what it had computed was saved.
    #[error(
        "{source}; {} kept in {}, {}",
        kept(*steps),
        latents.display(),
        if *found_again { "the same command goes on from there".into() } else { format!("run again with --latents {}", latents.display()) }
    )]
    Kept {
        /// What ended it.
        source: Box<PipelineError>,
        /// Where the latents are.
        latents: std::path::PathBuf,
        /// Steps that are done, and all of the loop; `None` if the loop was over.
        steps: Option<[usize; 2]>,
        /// Whether a run with the same output finds the file by itself.
        found_again: bool,
    },
    /// A checkpoint cannot be converted or compared.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// An evaluation cannot be made.
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
    /// The observer asked to stop.
    #[error("cancelled during {phase}; partial files are removed")]
    Cancelled {
        /// Where it stopped.
        phase: Phase,
    },
}

fn kept(steps: Option<[usize; 2]>) -> String {
    match steps {
        Some([done, all]) => format!("steps 1 to {done} of {all} are"),
        None => "the finished latents are".to_owned(),
    }
}

/// What kind of failure it is; programs map it to an exit code or a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Anything else, among them a result that cannot be written.
    Other,
    /// What was asked for is not possible.
    Usage,
    /// A picture, video or pose file cannot be used.
    Input,
    /// A model is missing or damaged.
    Model,
    /// The plan does not fit the memory.
    DoesNotFit,
    /// Device or driver.
    Device,
    /// Stopped on request.
    Cancelled,
}

impl PipelineError {
    /// A computation's failure at a place. What reading a checkpoint said keeps its own kind.
    pub(crate) fn from_compute(place: String, source: candle_core::Error) -> Self {
        if let Some(device @ DeviceError::OutOfMemory { .. }) = DeviceError::inside(&source) {
            return PipelineError::OutOfMemory { place, source: device.clone() };
        }
        if let Some(&CudaError::OutOfMemory { asked_bytes, used_bytes, budget_bytes }) = CudaError::inside(&source) {
            let device = "the GPU".to_owned();
            let source = DeviceError::OutOfMemory { device, asked_bytes, used_bytes, total_bytes: budget_bytes };
            return PipelineError::OutOfMemory { place, source };
        }
        if let Some(VaeError::NotFinite { what, number, layer }) = VaeError::inside(&source) {
            let from = layer.as_ref().map(|layer| format!(", from {layer} on")).unwrap_or_default();
            return PipelineError::NotFinite { place: format!("{place}, {what} {number}{from}") };
        }
        match WeightsError::from_candle(source) {
            Ok(weights) => PipelineError::Weights(weights),
            Err(source) => PipelineError::Compute { place, source },
        }
    }

    /// Whether memory ran out, whatever was kept then.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        match self {
            PipelineError::OutOfMemory { .. } => true,
            PipelineError::Kept { source, .. } => source.is_out_of_memory(),
            _ => false,
        }
    }

    /// See [`ErrorKind`].
    pub fn kind(&self) -> ErrorKind {
        match self {
            PipelineError::Pose(error) if error.is_out_of_gpu_memory() => ErrorKind::DoesNotFit,
            PipelineError::Pose(error) if error.is_of_networks() => ErrorKind::Model,
            PipelineError::Output(MediaError::OutputExists { .. }) => ErrorKind::Usage,
            PipelineError::Request(RequestError::Device { .. }) => ErrorKind::Device,
            PipelineError::Request(_) => ErrorKind::Usage,
            PipelineError::Media(_)
            | PipelineError::Pose(_)
            | PipelineError::PosePair { .. }
            | PipelineError::PoseEnds { .. }
            | PipelineError::Truncated { .. }
            | PipelineError::Latents { .. }
            | PipelineError::NothingSeen { .. }
            | PipelineError::NobodyFound { .. } => ErrorKind::Input,
            PipelineError::Weights(_)
            | PipelineError::Lora(_)
            | PipelineError::Model { .. }
            | PipelineError::NoPoseModel { .. }
            | PipelineError::NotFinite { .. } => ErrorKind::Model,
            PipelineError::DoesNotFit(_) | PipelineError::OutOfMemory { .. } => ErrorKind::DoesNotFit,
            PipelineError::Cancelled { .. } => ErrorKind::Cancelled,
            PipelineError::Kept { source, .. } => source.kind(),
            PipelineError::Eval(error) => error.kind(),
            PipelineError::Convert(error) => match error {
                ConvertError::Weights(_) | ConvertError::Value { .. } => ErrorKind::Model,
                ConvertError::Cancelled { .. } | ConvertError::Stopped { .. } => ErrorKind::Cancelled,
                ConvertError::Space { .. } | ConvertError::Write { .. } => ErrorKind::Other,
                _ => ErrorKind::Usage,
            },
            PipelineError::Output(_) | PipelineError::Compute { .. } => ErrorKind::Other,
        }
    }
}

/// candle appends a backtrace when one is asked for; people get the first line.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
