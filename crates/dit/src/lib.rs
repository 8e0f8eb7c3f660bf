//! The WAN 2.1 diffusion transformer, SteadyDancer's condition modules and VACE's side branch.
//!
//! Sources: Wan 2.1 (`wan/modules/model.py`, `vace_model.py`), SteadyDancer (arXiv 2511.19320,
//! `wan/modules/model_dancer.py`); both Apache-2.0, followed in formulas only.
//!
//! Shapes: F latent frames, h×w latent size, D width, S text tokens (512), L = F·(h/2)·(w/2) tokens, to which
//! SteadyDancer appends two frames' worth.

mod attention;
mod backend;
mod block;
mod chunking;
mod condition;
mod conditioning;
mod config;
mod embed;
mod ends;
mod keymap;
mod memory;
mod model;
mod passes;
mod vace;

pub use attention::Attention;
pub use chunking::Chunking;
pub use conditioning::{Conditioning, Inputs, PoseInputs, VaceInputs};
pub use config::{Config, VaceConfig};
pub use keymap::{diffusers_names, keymap};
pub use memory::{PassShape, activation_bytes, gpu_activation_bytes};
pub use model::{Dit, Guide, Tap, manifest, no_tap};
pub use passes::{Step, not_told};

/// What the repeated parts are called under which weights are asked for: `blocks.0` and on, and VACE's.
pub const GROUPS: &[&str] = &["blocks", "vace_blocks"];
