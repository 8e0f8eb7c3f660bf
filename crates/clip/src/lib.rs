//! The CLIP ViT-H vision tower.

mod keys;
mod memory;
mod vision;

pub use keys::key_map;
pub use memory::{activation_bytes, gpu_activation_bytes};
pub use vision::{Activation, Config, VisionTower, manifest};

/// What the repeated parts are called under which weights are asked for, in the order of their use.
pub const GROUPS: &[&str] = &["transformer"];
