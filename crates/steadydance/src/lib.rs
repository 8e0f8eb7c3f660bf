//! Animates the person in a picture with the motion of a video: native Rust inference for Wan 2.1 and SteadyDancer.
//!
//! An [`Engine`] is opened once and makes many clips. What is to be made is an [`AnimateRequest`]: a picture, a
//! [`Motion`], and [`Settings`] that begin as a [`preset`]. [`Engine::plan`] decides everything and reads no weight;
//! [`Engine::animate`] makes the clip and tells an [`Observer`] how it goes.
//!
//! ```no_run
//! use steadydance::{AnimateRequest, Engine, EngineOptions, ModelSource, Motion, Settings, preset};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::open(&ModelSource::Demo, &EngineOptions::default())?;
//!
//! let motion = Motion::Keypoints { file: "dance.json".into(), drive: Some("dance.mp4".into()) };
//! let settings = Settings::from_preset(&preset("official")?)?;
//! let request = AnimateRequest::new("portrait.png", motion, settings)
//!     .prompt("a woman dances on a beach")
//!     .size(256, 256)
//!     .num_frames(17)
//!     .seed(7)
//!     .output("portrait-dance.mp4");
//!
//! println!("{} forwards of {} tokens", engine.plan(&request)?.forwards, engine.plan(&request)?.tokens);
//! let report = engine.animate(&request, &mut ())?; // `()` is an observer that does not listen
//! println!("{} frames in {:.1} s", report.num_frames, report.seconds);
//! # Ok(())
//! # }
//! ```
//!
//! # Watching and stopping
//! ```no_run
//! use steadydance::{CancelToken, Event, Observer};
//!
//! /// Prints steps, and stops when its token is cancelled from another thread.
//! struct Watch(CancelToken);
//!
//! impl Observer for Watch {
//!     fn event(&mut self, event: &Event) {
//!         if let Event::Step { step, total, seconds, .. } = event {
//!             println!("step {step} of {total}: {seconds:.1} s");
//!         }
//!     }
//!     fn cancelled(&self) -> bool {
//!         self.0.is_cancelled()
//!     }
//! }
//! ```
//!
//! # Errors
//! Everything that can go wrong is a [`PipelineError`]; [`PipelineError::kind`] sorts it for a program's exit code or a
//! server's status. No message has more than one line.

pub use models::{KnownModel, Preset, PresetError, known_models, preset, presets};
pub use offload::{Memory, Phase, PhasePlan, Placement, StagePlan};
pub use pipeline::{
    AnimatePlan, AnimateRequest, Audio, CancelToken, ComponentInfo, DTypeShare, Engine, EngineOptions, ErrorKind,
    Event, HeldDType, Inspection, MAX_FRAMES, MAX_SIDE, MIN_SIDE, ModelFiles, ModelInfo, ModelOverrides, ModelSource,
    Motion, NetworkMatch, Observer, PipelineError, Report, RequestError, SIDE_MULTIPLE, Settings, SizeRule, TensorRow,
    Timing, inspect, plan_known,
};
pub use scheduler::{GuidancePlan, SamplerKind, Schedule};

/// The version of this library and program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
