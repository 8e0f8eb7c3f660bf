//! What is known before any file is opened: models by name, sampling presets, and the embedded demo model.

mod demo;
mod known;
mod manifest;
mod preset;

pub use demo::{DEMO, DemoModel, EmbeddedLora};
pub use known::{Fact, KnownFile, KnownModel, Part, known_models};
pub use manifest::{ManifestError, known_models_with, known_models_with_folder};
pub use preset::{Preset, PresetError, preset, presets};
