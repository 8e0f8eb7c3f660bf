use std::path::PathBuf;

use crate::WeightsError;

/// Why a checkpoint cannot be converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// A form that does not exist.
    #[error("there is no form {found:?}; there are: {known}")]
    Form {
        /// What was asked for.
        found: String,
        /// All names there are.
        known: String,
    },
    /// The output exists.
    #[error("{path} exists; choose another name, or --force to replace it")]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output is a file of the input.
    #[error("{path} is a file of the checkpoint that is converted; choose another name")]
    SameFile {
        /// The output.
        path: PathBuf,
    },
    /// Another process writes the same output.
    #[error("{path} is being written by another conversion; wait for it, or choose another name")]
    InUse {
        /// The unfinished file.
        path: PathBuf,
    },
    /// Nothing in the checkpoint has the form's kind of tensor.
    #[error(
        "{path} has no matrices of numbered layers, which are what {form} changes; give a transformer or an encoder, \
         or convert to f32, f16 or bf16"
    )]
    NothingToDo {
        /// The checkpoint.
        path: PathBuf,
        /// The form.
        form: &'static str,
    },
    /// A value that the form cannot hold.
    #[error("{path}: tensor {name} cannot be written as {form}: {problem}; choose another form, such as bf16")]
    Value {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The form.
        form: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The disk is too small.
    #[error("{path} takes {needed} bytes and its disk has {available} free; free some, or choose a smaller form")]
    Space {
        /// The output.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// Stopped by the caller.
    #[error(
        "cancelled after {done} of {total} tensors; they are kept in {part}, and the same command goes on from them"
    )]
    Cancelled {
        /// Tensors that are written.
        done: usize,
        /// All of them.
        total: usize,
        /// The unfinished file.
        part: PathBuf,
    },
    /// A comparison was stopped by the caller.
    #[error("cancelled after {done} of {total} tensors")]
    Stopped {
        /// Tensors that were compared.
        done: usize,
        /// All of them.
        total: usize,
    },
    /// The output cannot be written.
    #[error("cannot write {path}: {source}; what is written is kept, and the same command goes on from it")]
    Write {
        /// The unfinished file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The input cannot be read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}
