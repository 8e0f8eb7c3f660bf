//! A request becomes a video, step by step.

mod animate;
mod clips;
mod denoise;
mod engine;
mod error;
mod geometry;
mod inspect;
mod kept;
mod model;
mod motion;
mod needs;
mod observer;
mod pixels;
mod poses;
mod preview;
mod progress;
mod request;
mod resolve;
mod stored;

pub use denoise::{Conditions, Watch, denoise, frame_mask};
pub use engine::{AnimatePlan, ComponentInfo, Engine, EngineOptions, HeldDType, ModelInfo, Report, plan_known};
pub use error::{ErrorKind, PipelineError, RequestError};
pub use inspect::{DTypeShare, Inspection, NetworkMatch, TensorRow, inspect};
pub use model::{ModelFiles, ModelOverrides, ModelSource};
pub use observer::{CancelToken, Event, Observer};
pub use poses::{
    FinderOptions, PoseModelFiles, PoseModelPlaces, PoseOutcome, PoseRecipe, PoseRequest, PoseSettings, find_poses,
};
pub use request::{
    AnimateRequest, Audio, MAX_FRAMES, MAX_SIDE, MIN_SIDE, Motion, SIDE_MULTIPLE, Settings, SizeRule, Timing,
};
pub use stored::StoredModel;
