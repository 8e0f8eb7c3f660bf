//! The CLIP ViT-H vision tower.

mod keys;
mod memory;
mod vision;

pub use keys::key_map;
pub use memory::activation_bytes;
pub use vision::{Activation, Config, VisionTower, manifest};
