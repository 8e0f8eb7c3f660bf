//! How activations are computed: together, or in parts that take less memory. Decided once, with the plan, and handed to
//! the networks.

use dit::Chunking;
use scheduler::GuidancePlan;
use serde::{Deserialize, Serialize};
use vae::Tile;

/// What of a run is computed at a time. Only a VAE tile that is smaller than the picture changes results, and little.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activations {
    /// Tokens of the transformer.
    pub dit: Chunking,
    /// Branches of the guidance.
    pub branches: Branches,
    /// The largest tile of the VAE's encoder; `None` computes pictures whole.
    pub encode_tile: Option<Tile>,
    /// The same of its decoder.
    pub decode_tile: Option<Tile>,
}

/// How the branches of a guidance go through the transformer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Branches {
    /// One forward after the other: each reads all blocks.
    #[default]
    OneAtATime,
    /// All of a step together: streamed blocks are read once a step. Takes a residual stream more for each.
    Batched,
}

/// How many conditions are held, and how many go through the blocks together at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BranchCount {
    pub conditions: usize,
    pub together: usize,
}

impl Branches {
    pub(crate) fn count(self, guidance: &GuidancePlan) -> BranchCount {
        let mut kinds = Vec::new();
        let mut most = 0;
        for step in 0..guidance.num_steps() {
            let active = guidance.active(step);
            most = most.max(active.len());
            for kind in active.iter().map(|a| (a.branch.text, a.branch.pose)) {
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
        }
        let together = match self {
            Self::OneAtATime => most.min(1),
            Self::Batched => most,
        };
        BranchCount { conditions: kinds.len(), together }
    }
}
