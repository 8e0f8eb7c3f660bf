//! What is to be done, as far as memory and time are concerned.

use std::fmt;

use kernels::Compute;
use serde::{Deserialize, Serialize};

use super::Phase;

/// All phases of a run, and what is held through all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// In order.
    pub phases: Vec<PhaseJob>,
    /// Latents, conditions and embeddings on the device, in bytes; the context is not among them.
    pub held_device_bytes: u64,
    /// The program, pictures, and what is held on the host.
    pub held_ram_bytes: u64,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseJob {
    /// Which.
    pub phase: Phase,
    /// Its weights.
    pub network: NetworkSize,
    /// How often all groups are used: steps times branches for the transformer, once for an encoder.
    pub passes: u64,
    /// Arithmetic of all passes.
    pub work: Work,
    /// Manners of computing on the device, fastest first; empty where the phase cannot run there.
    pub ways: Vec<Way>,
    /// Manners of computing on the CPU, fastest first; empty where it cannot.
    pub host_ways: Vec<Way>,
}

/// Sizes of a network's weights as they are held, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkSize {
    /// Phases with a network of one name share its weights.
    pub name: String,
    /// What is needed throughout (embeddings, heads).
    pub fixed_bytes: u64,
    /// Tables of which a few rows are read, straight from the file: they take no memory.
    pub table_bytes: u64,
    /// Groups (blocks) in the order in which a pass uses them; empty when nothing can be streamed.
    pub group_bytes: Vec<u64>,
    /// The largest matrix in a group.
    pub largest_matrix_bytes: u64,
    /// What is no matrix in all groups (norms, biases): it stays where matrices come one by one.
    pub vector_bytes: u64,
}

impl NetworkSize {
    /// A network that is held whole or not at all.
    pub fn whole(name: &str, bytes: u64) -> Self {
        Self { name: name.to_owned(), fixed_bytes: bytes, ..Self::default() }
    }

    /// All weights that a device would hold.
    pub fn bytes(&self) -> u64 {
        self.group_bytes.iter().fold(self.fixed_bytes, |sum, g| sum.saturating_add(*g))
    }
}

/// Arithmetic of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Multiplications and additions, each counted as one.
    pub flops: f64,
    /// In which a GPU does them.
    pub precision: Precision,
    /// In which a CPU multiplies.
    pub compute: Compute,
}

/// Which of [`Rates`](super::Rates) applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32.
    Single,
    /// bf16 or f16, f32 sums.
    Half,
}

/// One manner of computing a phase's activations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// Which manner.
    pub how: How,
    /// Activations and workspaces at their peak, where it computes.
    pub bytes: u64,
    /// What the host holds beside where a device computes: what comes from there, and is put together. 0 on the CPU.
    pub host_bytes: u64,
    /// Time of arithmetic relative to the fastest way; at least 1.
    pub time_factor: f64,
    /// Whether the result is that of [`How::Whole`] up to the rounding of kernels.
    pub exact: bool,
}

impl Way {
    /// Everything at once.
    pub fn whole(bytes: u64) -> Self {
        Self { how: How::Whole, bytes, host_bytes: 0, time_factor: 1.0, exact: true }
    }
}

/// Manners of computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum How {
    /// Everything at once.
    Whole,
    /// Feed-forward layers in so many pieces along the tokens.
    FfnChunks(u32),
    /// Queries and feed-forward layers in pieces along the tokens; only the residual stream, keys, values and the attended
    /// values are whole.
    TokenChunks,
    /// Pictures in square tiles of so many pixels, blended where they overlap.
    Tiles(u32),
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Whole => f.pad("whole"),
            How::FfnChunks(n) => f.pad(&format!("FFN in {n} chunks")),
            How::TokenChunks => f.pad("token chunks"),
            How::Tiles(side) => f.pad(&format!("tiles of {side} px")),
        }
    }
}
