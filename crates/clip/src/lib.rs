//! The CLIP ViT-H vision tower.

mod keys;
mod vision;

pub use keys::key_map;
pub use vision::{Activation, Config, VisionTower, manifest};
