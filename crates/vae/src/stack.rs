//! A half of the VAE as a pipeline that frames flow through.

use candle_core::{Result, Tensor};
use weights::Weights;

use crate::blocks::{Block, BlockState};
use crate::layers::Layer;

/// The layers of a half, in order.
#[derive(Debug)]
pub(crate) struct Stack {
    blocks: Vec<Block>,
}

impl Stack {
    pub(crate) fn new(layers: &[Layer], weights: &Weights) -> Result<Self> {
        Ok(Self { blocks: layers.iter().map(|l| Block::new(l, weights)).collect::<Result<_>>()? })
    }

    pub(crate) fn start(&self) -> StackState {
        StackState { blocks: self.blocks.iter().map(|_| BlockState::default()).collect() }
    }

    /// Sends the frames of `x` `[B, C, T, H, W]` through one after the other, each as deep as it gets, so that one
    /// frame is alive at full resolution however many came in; appends the frames that come out to `done`.
    pub(crate) fn push(&self, x: &Tensor, state: &mut StackState, done: &mut Vec<Tensor>) -> Result<()> {
        for t in 0..x.dim(2)? {
            // Copied, because what layers remember must not keep a caller's chunk alive.
            self.descend(x.narrow(2, t, 1)?.force_contiguous()?, 0, state, done)?;
        }
        Ok(())
    }

    /// All frames at once, layer by layer: what [`push`](Self::push) is tested against.
    #[cfg(test)]
    pub(crate) fn push_whole(&self, x: &Tensor, state: &mut StackState) -> Result<Option<Tensor>> {
        let mut x = x.clone();
        for (block, state) in self.blocks.iter().zip(&mut state.blocks) {
            let parts = block.forward(x, state)?;
            if parts.is_empty() {
                return Ok(None);
            }
            x = Tensor::cat(&parts, 2)?;
        }
        Ok(Some(x))
    }

    fn descend(&self, x: Tensor, from: usize, state: &mut StackState, done: &mut Vec<Tensor>) -> Result<()> {
        let mut x = x;
        for (i, (block, at)) in self.blocks.iter().zip(&mut state.blocks).enumerate().skip(from) {
            let mut parts = block.forward(x, at)?;
            if parts.len() != 1 {
                for part in parts {
                    self.descend(part, i + 1, state, done)?;
                }
                return Ok(());
            }
            x = parts.remove(0);
        }
        done.push(x);
        Ok(())
    }
}

/// What all layers of a half remember.
#[derive(Debug)]
pub(crate) struct StackState {
    blocks: Vec<BlockState>,
}
