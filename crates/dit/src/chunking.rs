//! How many tokens are computed at a time.

use std::ops::Range;

use candle_core::{Result, Tensor};
use kernels::{INDEPENDENT_ROWS, pieces};
use serde::{Deserialize, Serialize};

/// What of a block is computed for all tokens together and what a run of tokens at a time. Rows do not know of each other,
/// so results are the same to the bit; smaller runs take less memory and read each matrix more often.
///
/// `tokens` is the most of a run; runs are alike in size, and fewer than [`kernels::INDEPENDENT_ROWS`] count as that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Chunking {
    /// Everything together.
    #[default]
    Whole,
    /// The feed-forward layer, with its norm and residual, by runs.
    FeedForward {
        /// Most tokens of a run.
        tokens: usize,
    },
    /// Everything by runs: only the input, keys, values and the output of a block are there for all tokens.
    Minimal {
        /// Most tokens of a run.
        tokens: usize,
    },
}

impl Chunking {
    /// Most tokens that attention takes at once, of `all`.
    pub(crate) fn attention_tokens(self, all: usize) -> usize {
        match self {
            Self::Whole | Self::FeedForward { .. } => all,
            Self::Minimal { tokens } => tokens.max(INDEPENDENT_ROWS),
        }
    }

    /// Most tokens that the feed-forward layer takes at once, of `all`.
    pub(crate) fn ffn_tokens(self, all: usize) -> usize {
        match self {
            Self::Whole => all,
            Self::FeedForward { tokens } | Self::Minimal { tokens } => tokens.max(INDEPENDENT_ROWS),
        }
    }
}

/// A tensor that comes in pieces along one dimension, in their order.
pub(crate) struct Gathered {
    dim: usize,
    total: usize,
    next: usize,
    out: Option<Tensor>,
}

impl Gathered {
    pub fn new(dim: usize, total: usize) -> Self {
        Self { dim, total, next: 0, out: None }
    }

    /// The next piece; one that is all there is, is taken as it is.
    pub fn push(&mut self, piece: Tensor) -> Result<()> {
        let count = piece.dim(self.dim)?;
        if count == self.total {
            self.out = Some(piece);
            return Ok(());
        }
        let out = match &self.out {
            Some(out) => out,
            None => {
                let mut dims = piece.dims().to_vec();
                dims[self.dim] = self.total;
                self.out.insert(Tensor::zeros(dims, piece.dtype(), piece.device())?)
            }
        };
        out.slice_set(&piece, self.dim, self.next)?;
        self.next += count;
        Ok(())
    }

    pub fn finish(self) -> Result<Tensor> {
        self.out.ok_or_else(|| candle_core::Error::msg("no tokens"))
    }
}

/// What `f` makes of runs of at most `most` of `tokens` tokens, `[1, run, D]` each → `[1, tokens, D]`.
pub(crate) fn by_runs(tokens: usize, most: usize, mut f: impl FnMut(Range<usize>) -> Result<Tensor>) -> Result<Tensor> {
    let mut out = Gathered::new(1, tokens);
    for run in pieces(tokens, most) {
        out.push(f(run)?)?;
    }
    out.finish()
}
