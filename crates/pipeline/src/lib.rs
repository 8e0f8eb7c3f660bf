//! A request becomes a video, step by step.

mod engine;
mod error;
mod inspect;
mod model;
mod observer;
mod request;

pub use engine::{AnimatePlan, ComponentInfo, Engine, EngineOptions, HeldDType, ModelInfo, Report, plan_known};
pub use error::{ErrorKind, PipelineError, RequestError};
pub use inspect::{DTypeShare, Inspection, NetworkMatch, TensorRow, inspect};
pub use model::{ModelFiles, ModelOverrides, ModelSource};
pub use observer::{CancelToken, Event, Observer};
pub use request::{
    AnimateRequest, Audio, MAX_FRAMES, MAX_SIDE, MIN_SIDE, Motion, SIDE_MULTIPLE, Settings, SizeRule, Timing,
};
