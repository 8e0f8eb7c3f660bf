//! LoRA: differences to a network's weights, kept in a file of their own.
//!
//! A [`LoraFile`] is opened from any of the spellings that circulate for Wan (`keys`), fitted to a network's
//! [`Manifest`](crate::Manifest) (`fit`), and put on a [`Stack`] with a strength. [`Merged`] is a
//! [`TensorSource`](crate::TensorSource) over another one: a tensor that the stack touches is given as
//!
//! W' = W + Σ strength · factor · difference
//!
//! computed in f32 in the order of the stack and rounded once to the precision in which the tensor is held. The
//! difference is `up · down` of a low-rank pair (factor alpha / rank, 1 without alpha) or a whole tensor (factor 1). A matrix
//! that is quantised keeps its bytes: its differences are put beside it and applied to activations.
//! Nothing is written and nothing is kept: each reading of a tensor gives the same bits, and a source without the stack
//! gives the original ones.

mod error;
mod file;
mod fit;
mod keys;
mod merge;

pub use error::LoraError;
pub use file::{LoraFile, LoraSummary};
pub use fit::{Fitted, Leftovers, shorten};
pub use keys::Dialect;
pub use merge::{Merged, Stack};
