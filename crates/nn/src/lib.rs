//! Layers that two or more models share. Activations are f32; a [`Linear`] computes from whatever precision its
//! weights are held in.

pub mod backend;
mod heads;
mod linear;
mod norm;
mod rope;

pub use heads::{merge_heads, split_heads};
pub use kernels::attention::{attention, attention_with_bias, softmax};
pub use linear::Linear;
pub use norm::{LayerNorm, RmsNorm};
pub use rope::RopeTables;
