//! Where weights live: the decision that the manager of weights follows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where the weights of a phase live while it runs, and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// How many groups are kept where the phase computes; they lie spread among the others.
    pub resident: usize,
    /// Staging buffers through which the other groups go; 0 when there are no others. One is at work while the next is
    /// filled.
    pub ring: usize,
    /// What a staging buffer holds.
    pub piece: Piece,
    /// Where the other groups come from.
    pub tier: Tier,
    /// What becomes of the weights after the phase.
    pub after: After,
}

/// What is moved at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Piece {
    /// A whole group (block).
    Group,
    /// One matrix.
    Matrix,
}

/// Where weights come from that are not resident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Pinned host memory, filled once.
    Pinned,
    /// Ordinary host memory, filled once.
    Host,
    /// The file, on every pass.
    Disk,
}

/// What becomes of weights after their phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum After {
    /// They are released; the next run reads the file again.
    Drop,
    /// They stay.
    Keep,
}

impl Placement {
    /// All of `groups` groups (0 for a network without) are kept while the phase runs.
    pub const fn resident(groups: usize) -> Self {
        Self { resident: groups, ring: 0, piece: Piece::Group, tier: Tier::Disk, after: After::Drop }
    }

    /// Every group comes from the file when its turn comes.
    pub const fn streamed() -> Self {
        Self { resident: 0, ring: 2, ..Self::resident(0) }
    }

    /// Which of `groups` groups stay when `resident` of them do: they lie spread among the others, so that copies have
    /// arithmetic beside them all along a pass.
    pub fn stays(group: usize, resident: usize, groups: usize) -> bool {
        let moved = groups - resident.min(groups);
        (group + 1) * moved / groups == group * moved / groups
    }

    /// Whether every weight is kept while the phase runs.
    pub fn is_resident(&self) -> bool {
        self.ring == 0
    }

    /// Whether some weights come when their turn comes.
    pub fn is_streamed(&self) -> bool {
        !self.is_resident()
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tier = match self.tier {
            Tier::Pinned => "pinned",
            Tier::Host => "RAM",
            Tier::Disk => "disk",
        };
        match (self.ring, self.piece, self.resident) {
            (0, ..) => f.pad("resident"),
            (_, Piece::Matrix, _) => f.pad(&format!("matrices from {tier}")),
            (_, Piece::Group, 0) => f.pad(&format!("stream from {tier}")),
            (_, Piece::Group, n) => f.pad(&format!("{n} + {tier}")),
        }
    }
}
