//! The WAN 2.1 diffusion transformer, SteadyDancer's condition modules and VACE's side branch.
//!
//! Sources: Wan 2.1 (`wan/modules/model.py`, `vace_model.py`), SteadyDancer (arXiv 2511.19320,
//! `wan/modules/model_dancer.py`); both Apache-2.0, followed in formulas only.
//!
//! Shapes: F latent frames, h×w latent size, D width, S text tokens (512), L = F·(h/2)·(w/2) tokens, to which
//! SteadyDancer appends two frames' worth.

mod backend;
mod block;
mod chunking;
mod condition;
mod config;
mod embed;
mod keymap;
mod memory;
mod model;
mod vace;

pub use chunking::Chunking;
pub use config::{Config, VaceConfig};
pub use keymap::{diffusers_names, keymap};
pub use memory::{PassShape, activation_bytes, gpu_activation_bytes};
pub use model::{Conditioning, Dit, Inputs, PoseInputs, Tap, VaceInputs, manifest, no_tap};

/// What the repeated parts are called under which weights are asked for: `blocks.0` and on, and VACE's.
pub const GROUPS: &[&str] = &["blocks", "vace_blocks"];
