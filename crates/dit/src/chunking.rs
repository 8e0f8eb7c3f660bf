//! How many tokens are computed at a time.

use std::ops::Range;

use candle_core::Result;
use kernels::{INDEPENDENT_ROWS, pieces};
use serde::{Deserialize, Serialize};

use crate::backend::Backend;

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

/// Tokens that come in pieces, in their order.
pub(crate) struct Gathered<'a, B: Backend> {
    backend: &'a B,
    total: usize,
    next: usize,
    out: Option<B::Activations>,
}

impl<'a, B: Backend> Gathered<'a, B> {
    pub fn new(backend: &'a B, total: usize) -> Self {
        Self { backend, total, next: 0, out: None }
    }

    /// The next piece; one that is all there is, is taken as it is.
    pub fn push(&mut self, piece: B::Activations) -> Result<()> {
        let count = self.backend.tokens(&piece)?;
        if count == self.total {
            self.out = Some(piece);
            return Ok(());
        }
        let out = match &self.out {
            Some(out) => out,
            None => self.out.insert(self.backend.room(&piece, self.total)?),
        };
        self.backend.put(&piece, out, self.next)?;
        self.next += count;
        Ok(())
    }

    pub fn finish(self) -> Result<B::Activations> {
        self.out.ok_or_else(|| candle_core::Error::msg("no tokens"))
    }
}

/// What `f` makes of runs of at most `most` of `tokens` tokens, `[1, run, D]` each → `[1, tokens, D]`.
pub(crate) fn by_runs<B: Backend>(
    backend: &B,
    [tokens, most]: [usize; 2],
    mut f: impl FnMut(Range<usize>) -> Result<B::Activations>,
) -> Result<B::Activations> {
    let mut out = Gathered::new(backend, tokens);
    for run in pieces(tokens, most) {
        out.push(f(run)?)?;
    }
    out.finish()
}
