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
//! # Weights
//! [`hub`] downloads models into the cache that Python's `huggingface_hub` uses too; a [`StoredModel`] is a model of
//! [`known_models`], or of tables of one's own ([`known_models_with_folder`]), whose files are there.
//! ```no_run
//! use steadydance::{Engine, EngineOptions, ModelOverrides, ModelSource, StoredModel, hub, known_models};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let known = known_models().into_iter().find(|m| m.name == "steadydancer-14b").ok_or("no such model")?;
//! let hub = hub::Hub::from_env();
//! hub.plan(&StoredModel::wanted(&known, None), &())?.run(&())?; // downloads what is missing
//! let stored = StoredModel::find(&known, hub.cache(), None).ok_or("not here")?;
//! let source = ModelSource::Files(stored.model_files(&ModelOverrides::default())?);
//! let engine = Engine::open(&source, &EngineOptions::default())?;
//! # Ok(())
//! # }
//! ```
//!
//! # LoRAs
//! [`EngineOptions::loras`] are added to the transformer's weights while these are read; an opened engine changes them
//! with [`Engine::set_loras`].
//! ```no_run
//! use steadydance::{Engine, EngineOptions, Lora, ModelSource};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let loras = vec![Lora::file("distill.safetensors", 1.0), Lora::file("style.safetensors", 0.6)];
//! let mut engine = Engine::open(&ModelSource::Demo, &EngineOptions { loras, ..EngineOptions::default() })?;
//! for lora in &engine.model().loras {
//!     println!("{} changes {} weights, {} keys unmatched", lora.name, lora.fit.targets, lora.fit.unmatched.len());
//! }
//! engine.set_loras(&[])?; // the original weights again, to the bit
//! # Ok(())
//! # }
//! ```
//!
//! # Poses of a video
//! [`find_poses`] looks for people in a video, fits one of them to a picture, and writes keypoints, drawn poses, a
//! contact sheet and a report. [`Motion::Video`] does the same within a run.
//! ```no_run
//! use steadydance::{FinderOptions, Motion, PersonChoice, PoseModelPlaces, PoseRequest, find_poses};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let models = PoseModelPlaces { folders: vec!["dwpose".into()], ..PoseModelPlaces::default() };
//! let mut request = PoseRequest::new(Motion::Video { drive: "dance.mp4".into() }, "dance-pose");
//! request.reference = Some("portrait.png".into());
//! request.settings.person = PersonChoice::Left;
//! let outcome = find_poses(&request, &FinderOptions { models, cache: None }, &mut ())?;
//! println!("found in {:.0} % of {} frames", 100.0 * outcome.quality.detection_rate, outcome.frames);
//! # Ok(())
//! # }
//! ```
//!
//! # Quality
//! [`eval`] makes and judges clips for pairs whose truth is known, and has its metrics as plain functions.
//!
//! # The machine
//! [`doctor::diagnose`] tells what this machine is, which models would run on it, and what to do about what is not well.
//!
//! # Errors
//! Everything that can go wrong is a [`PipelineError`]; [`PipelineError::kind`] sorts it for a program's exit code or a
//! server's status. No message has more than one line.

pub use ::bench;
pub use kernels::{Compute, CpuLevelError, check_cpu_level};
pub use models::{
    Fact, KnownFile, KnownModel, ManifestError, Part, Preset, PresetError, known_models, known_models_with,
    known_models_with_folder, preset, presets,
};
pub use offload::own_bytes;
pub use offload::plan as plan_job;
pub use offload::{
    Aliases, Budgets, DeviceFacts, DeviceKind, HostRates, How, Job, Machine, Memory, MemoryFlags, MemoryMode,
    NetworkSize, OffloadTo, OnPressure, Peaks, Phase, PhaseJob, PhasePlan, Piece, PinMemory, Place, Placement,
    PlanError, Precision, Quality, QualityProfile, StagePlan, Tier, Way, Work, card, card_names, virtual_card,
};
pub use pipeline::doctor;
pub use pipeline::eval;
pub use pipeline::trace;
pub use pipeline::{
    Activations, AnimatePlan, AnimateRequest, Attention, Audio, Branches, CancelToken, ComponentInfo, Conversion,
    DTypeShare, EmbeddedPoses, Engine, EngineOptions, ErrorKind, Event, FinderOptions, HeldDType, Inspection, Lora,
    LoraFit, LoraInfo, LoraModel, LoraSource, MAX_FRAMES, MAX_SIDE, MIN_SIDE, ModelFiles, ModelInfo, ModelOverrides,
    ModelSource, Motion, NetworkMatch, Observer, PipelineError, PoseModelFiles, PoseModelPlaces, PoseModels,
    PoseOutcome, PoseRecipe, PoseRequest, PoseSettings, Report, RequestError, SIDE_MULTIPLE, Settings, SizeRule,
    StoredModel, TensorRow, Timing, compare_checkpoints, find_poses, inspect, inspect_lora, plan_known, pose_canvas,
};
pub use pose::{AlignFrame, PersonChoice, QualityReport};
pub use scheduler::{GuidancePlan, SamplerKind, Schedule};
pub use weights::convert;
pub use weights::hub;
pub use weights::lora::{Dialect, LoraSummary};

/// The version of this library and program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub struct Readme;
