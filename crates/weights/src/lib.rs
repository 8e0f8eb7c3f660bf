//! Bytes on disk to tensors.
//!
//! - [`Checkpoint`]: an opened file, shard set or folder, memory-mapped, as a table of named tensors, floats or
//!   [quantised](Flavour);
//! - [`onnx::Model`]: the graph of an ONNX file beside its weights;
//! - [`KeyMap`]: other projects' tensor names to the original Wan names that our networks use;
//! - [`Weights`]: a view with a name prefix that networks ask for tensors while they are built;
//! - [`Manifest`]: what a network asks for, recorded without any memory, so that a checkpoint is checked as a
//!   whole (missing, unexpected and misshapen tensors named) before a byte of it is read;
//! - [`WeightSource`]: the trait through which a network with many blocks gets the weights of one block at a time.
//! - [`lora`]: differences to a network's weights, merged while its tensors are read;
//! - [`convert`]: from any form of a checkpoint to any other, and the comparison of two;
//! - [`hub`]: the cache that weights are kept in, shared with Python's `huggingface_hub`, and downloads into it.
//!
//! Numbers read from files are checked to be finite while they are copied: a damaged checkpoint is an error that
//! names the tensor, not a grey video.

mod checkpoint;
pub mod convert;
mod cursor;
mod error;
mod flavour;
mod gguf;
pub mod hub;
mod keymap;
pub mod lora;
mod manifest;
pub mod onnx;
mod pickle;
mod random;
mod save;
mod source;
mod view;

pub use checkpoint::{Checkpoint, Entry, Format, StoredMatrix, StoredType};
pub use error::WeightsError;
pub use flavour::Flavour;
pub use kernels::Compute;
pub use kernels::linear::Matrix;
pub use keymap::KeyMap;
pub use manifest::{Manifest, TensorSpec};
pub use random::RandomWeights;
pub use save::{SaveTensor, save_safetensors, save_sharded};
pub use source::{CheckpointSource, Computing, MatrixForm, Resident, TensorMap, TensorSource, WeightSource};
pub use view::Weights;
