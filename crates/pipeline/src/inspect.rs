//! What a checkpoint is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::PipelineError;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorRow {
    /// Name as stored.
    pub name: String,
    /// Stored type.
    pub dtype: String,
    /// Shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Stored bytes.
    pub bytes: u64,
}

/// Tensors of one stored type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub struct DTypeShare {
    /// How many tensors.
    pub tensors: usize,
    /// Elements in them.
    pub elements: u64,
    /// Stored bytes.
    pub bytes: u64,
}

/// The network that a file fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkMatch {
    /// `dit`, `vae`, `text-encoder`, `image-encoder`.
    pub component: String,
    /// Say `SteadyDancer-14B`.
    pub label: String,
    /// Parameters the network needs.
    pub parameters: u64,
    /// Its sizes.
    pub config: serde_json::Value,
    /// `None` when every tensor fits; else what is missing, unexpected or misshapen.
    pub deviations: Option<String>,
}

/// What a checkpoint is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The file or index.
    pub path: PathBuf,
    /// How it is packed.
    pub format: String,
    /// Stored bytes of all tensors.
    pub total_bytes: u64,
    /// Elements of all tensors.
    pub elements: u64,
    /// By stored type.
    pub dtypes: BTreeMap<String, DTypeShare>,
    /// The network it fits, when it is one we know.
    pub network: Option<NetworkMatch>,
    /// Free text of the header.
    pub metadata: BTreeMap<String, String>,
    /// All tensors in the order of their names.
    pub tensors: Vec<TensorRow>,
}

/// Opens a checkpoint and says what it is. Reads headers only.
///
/// # Errors
/// Missing, damaged, or no checkpoint at all.
pub fn inspect(_path: &Path) -> Result<Inspection, PipelineError> {
    unimplemented!()
}
