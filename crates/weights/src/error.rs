use std::fmt;
use std::path::{Path, PathBuf};

/// What can be wrong with a weight file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The path does not exist or cannot be opened.
    #[error("cannot open {path}: {source}; give a .safetensors, .gguf or .pth file, or a folder with one")]
    Open {
        /// The path asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is neither of the formats that can be read.
    #[error(
        "{path} is not a checkpoint: {found}; allowed are .safetensors (single, or sharded with an index), .gguf, .pth/.pt and .onnx files"
    )]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// The file begins like a checkpoint but is damaged.
    #[error("{path} is damaged: {problem}; download or copy it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// An ONNX file that is whole and still cannot be used.
    #[error("{path} is an ONNX file that cannot be used: {problem}")]
    Onnx {
        /// The file.
        path: PathBuf,
        /// What was found, and what is allowed.
        problem: String,
    },
    /// A shard named by the index is not there.
    #[error("{index} names {count} shard file(s) that are missing, first {first}; put them beside the index")]
    MissingShards {
        /// The index file.
        index: PathBuf,
        /// How many shards are missing.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// The tensors do not fit the network.
    #[error("{path} does not fit {network}: {summary}")]
    Mismatch {
        /// The checkpoint.
        path: PathBuf,
        /// The network that was to be filled.
        network: String,
        /// Missing, unexpected and misshapen tensors, the first ten of each named.
        summary: String,
    },
    /// A tensor holds numbers that are not finite.
    #[error(
        "{path}: tensor {name} holds a non-finite value at element {element}; the checkpoint is corrupt, download it again"
    )]
    NotFinite {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Index of the first such element in row-major order.
        element: usize,
    },
    /// A stored type that cannot be computed with.
    #[error(
        "{path}: tensor {name} is stored as {dtype}; allowed are F32, F16, BF16, F64, F8_E4M3, F8_E5M2, I8 with scales, and of GGUF's types Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL and IQ4_XS"
    )]
    DType {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The stored type.
        dtype: String,
    },
    /// Quantised tensors that are not told unambiguously, or in a form that is not read.
    #[error("{path}: {count} of its tensors {problem} ({tensors}); take another file of this model")]
    Quantised {
        /// The checkpoint.
        path: PathBuf,
        /// How many tensors.
        count: usize,
        /// What is wrong with them.
        problem: &'static str,
        /// The first ten of them.
        tensors: String,
    },
    /// A weight with its LoRAs is beyond the range of the precision it is held in.
    #[error(
        "tensor {name} with its LoRAs ({loras}) is beyond the range of {dtype}; {}lower the strengths",
        if *dtype == "f16" { "hold it as bf16 (--dtype bf16), or " } else { "" }
    )]
    Overflow {
        /// The tensor.
        name: String,
        /// The precision.
        dtype: &'static str,
        /// The LoRAs that change it.
        loras: String,
    },
    /// A file that was open could not be read.
    #[error("{path} cannot be read any more: {source}; look at the disk or the network drive that it lies on")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not the one that was opened any more.
    #[error("{path} was written to or cut short while it was in use; wait until it is whole and run again")]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file to be written.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl WeightsError {
    /// A damaged file. What the file itself says in `problem` is made one line of visible characters.
    pub(crate) fn damaged(path: &Path, problem: impl fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), problem: visible(&problem.to_string()) }
    }

    /// Wraps this error so that it passes through networks, whose errors are candle's.
    pub fn into_candle(self) -> candle_core::Error {
        candle_core::Error::WrappedContext { wrapped: Box::new(self), context: "reading weights".into() }
    }

    /// Takes the error back out of candle's, where it was put when a network read its weights.
    ///
    /// # Errors
    /// Gives the argument back when it is an error of another kind.
    pub fn from_candle(error: candle_core::Error) -> Result<Self, candle_core::Error> {
        match error {
            candle_core::Error::WrappedContext { wrapped, context } => match wrapped.downcast::<WeightsError>() {
                Ok(found) => Ok(*found),
                Err(wrapped) => Err(candle_core::Error::WrappedContext { wrapped, context }),
            },
            candle_core::Error::WithBacktrace { inner, .. } => Self::from_candle(*inner),
            candle_core::Error::Context { inner, .. } => Self::from_candle(*inner),
            other => Err(other),
        }
    }
}

/// One line: control characters, which names in hostile files and messages of libraries have, are written as Rust escapes
/// them.
pub(crate) fn visible(text: &str) -> String {
    let escape = |c: char| c.is_control().then(|| c.escape_default());
    text.chars().fold(String::with_capacity(text.len()), |mut line, c| {
        match escape(c) {
            Some(escaped) => line.extend(escaped),
            None => line.push(c),
        }
        line
    })
}

/// The first ten of a list of names, as messages show them.
pub(crate) fn first_ten(names: &[String]) -> String {
    let shown = names.iter().take(10).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > 10 { format!("{shown}, …") } else { shown }
}
