//! In which numbers products are computed.

use serde::{Deserialize, Serialize};

use crate::level;

/// The numbers that products of activations with matrices, and of activations with each other, are computed in on the
/// host. Activations between them are f32, and sums are f32 or whole, in every case.
///
/// Where a machine has no instructions for a kind, the next more exact kind is used: `Int8` falls back to `Bf16` and that
/// to `F32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compute {
    /// Both factors in f32: the reference.
    #[default]
    F32,
    /// Both factors rounded to bf16, as the models' own code computes.
    Bf16,
    /// Matrices that are stored as int8 times activations quantised to int8 by row; others as [`Bf16`](Self::Bf16).
    Int8,
}

impl Compute {
    /// As switches and reports spell it: `f32`, `bf16` or `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Whether this machine has instructions for it, and may use them.
    pub fn is_available(self) -> bool {
        match self {
            Self::F32 => true,
            Self::Bf16 => level::bf16_products(),
            Self::Int8 => level::int8_products(),
        }
    }
}
