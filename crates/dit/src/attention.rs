//! In which numbers a GPU attends.

use serde::{Deserialize, Serialize};

/// How tokens attend to each other on a GPU. Text and image are attended to in bf16 at any rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Attention {
    /// Scores, weights and values in bf16.
    #[default]
    Bf16,
    /// Scores in int8, weights and values in e4m3, or in bf16 on GPUs before Ada (SageAttention 2). Up to twice as fast, and less exact. For
    /// heads of 128 channels.
    Int8,
}

impl Attention {
    /// What requests call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Whether it is for heads of so many channels.
    pub fn fits(self, head_dim: usize) -> bool {
        self == Self::Bf16 || head_dim == kernels::cuda::ops::INT8_HEAD
    }
}
