//! A request becomes a video, step by step.

mod activations;
mod animate;
mod clips;
mod config;
mod convert;
mod denoise;
pub mod doctor;
mod engine;
mod error;
pub mod eval;
mod files;
mod geometry;
mod gpu;
mod inspect;
mod kept;
mod lora;
mod model;
mod motion;
mod needs;
mod observer;
mod pixels;
mod poses;
mod predict;
mod pressure;
mod preview;
mod progress;
mod request;
mod resolve;
mod stored;
pub mod trace;
pub mod work;

pub use activations::{Activations, Branches};
pub use config::pose_canvas;
pub use convert::{Conversion, compare_checkpoints};
pub use denoise::{Conditions, Denoise, Watch, denoise, frame_mask};
pub use dit::Attention;
pub use engine::{
    AnimatePlan, ComponentInfo, Engine, EngineOptions, HeldDType, ModelInfo, PhaseMemory, Report, plan_known,
};
pub use error::{ErrorKind, PipelineError, RequestError};
pub use gpu::open_gpu;
pub use inspect::{DTypeShare, Inspection, NetworkMatch, TensorRow, inspect};
pub use lora::{Lora, LoraFit, LoraInfo, LoraModel, LoraSource, inspect_lora};
pub use model::{ModelFiles, ModelOverrides, ModelSource};
pub use observer::{CancelToken, Event, Observer};
pub use poses::{
    EmbeddedPoses, FinderOptions, PoseModelFiles, PoseModelPlaces, PoseModels, PoseOutcome, PoseRecipe, PoseRequest,
    PoseSettings, find_poses,
};
pub use request::{
    AnimateRequest, Audio, MAX_FRAMES, MAX_SIDE, MIN_SIDE, Motion, SIDE_MULTIPLE, Settings, SizeRule, Timing,
};
pub use stored::StoredModel;
