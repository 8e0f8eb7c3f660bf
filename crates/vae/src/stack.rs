//! A half of the VAE as a pipeline that frames flow through.

use std::fmt;

use candle_core::{Result, Tensor};
use kernels::cuda::Gpu;
use weights::Weights;

use crate::backend::{Backend, Fetched, Host, OnGpu, Output};
use crate::blocks::{Block, BlockState};
use crate::layers::Layer;

/// A half, wherever it computes.
pub(crate) trait Half: fmt::Debug + Send + Sync {
    /// Whether results are there when a push returns.
    fn is_at_once(&self) -> bool;
    /// Begins a video.
    fn start(&self) -> Box<dyn Flow + '_>;
}

/// One video on its way through a half.
pub(crate) trait Flow: fmt::Debug {
    /// Sends the frames of `x` `[B, C, T, H, W]` through one after the other, each as deep as it gets, so that one frame is alive at full
    /// resolution however many came in → the frames that come out.
    fn push(&mut self, x: &Tensor) -> Result<Vec<Fetched>>;

    /// The first layer that remembers something that is not finite.
    fn not_finite(&self) -> Result<Option<String>>;
}

/// A half with these layers, on a GPU if one is given.
pub(crate) fn half(layers: &[Layer], gpu: Option<&Gpu>, weights: &Weights) -> Result<Box<dyn Half>> {
    Ok(match gpu {
        None => Box::new(Stack::new(Host, layers, weights)?),
        Some(gpu) => Box::new(Stack::new(OnGpu::new(gpu.clone()), layers, weights)?),
    })
}

/// The layers of a half, in order, with their names.
#[derive(Debug)]
struct Stack<B: Backend> {
    backend: B,
    blocks: Vec<(String, Block<B>)>,
}

impl<B: Backend> Stack<B> {
    fn new(backend: B, layers: &[Layer], weights: &Weights) -> Result<Self> {
        let last = layers.len().saturating_sub(1);
        let block = |(i, layer): (usize, &Layer)| {
            let output = if i == last { Output::Last } else { Output::Inner };
            Ok((layer.name.clone(), Block::new(&backend, layer, output, weights)?))
        };
        let blocks = layers.iter().enumerate().map(block).collect::<Result<_>>()?;
        Ok(Self { backend, blocks })
    }
}

impl<B: Backend> Half for Stack<B> {
    fn is_at_once(&self) -> bool {
        B::AT_ONCE
    }

    fn start(&self) -> Box<dyn Flow + '_> {
        Box::new(Running { stack: self, states: self.blocks.iter().map(|_| BlockState::default()).collect() })
    }
}

/// A video, and what all layers remember of it.
#[derive(Debug)]
struct Running<'a, B: Backend> {
    stack: &'a Stack<B>,
    states: Vec<BlockState<B>>,
}

impl<B: Backend> Running<'_, B> {
    fn descend(&mut self, x: B::Frames, from: usize, done: &mut Vec<Fetched>) -> Result<()> {
        let Stack { backend, blocks } = self.stack;
        let mut x = x;
        for (i, (_, block)) in blocks.iter().enumerate().skip(from) {
            let mut parts = block.forward(backend, x, &mut self.states[i])?;
            if parts.len() != 1 {
                for part in parts {
                    self.descend(part, i + 1, done)?;
                }
                return Ok(());
            }
            x = parts.remove(0);
        }
        done.push(backend.fetch(x)?);
        Ok(())
    }
}

impl<B: Backend> Flow for Running<'_, B> {
    fn push(&mut self, x: &Tensor) -> Result<Vec<Fetched>> {
        let mut done = Vec::new();
        for t in 0..x.dim(2)? {
            self.descend(self.stack.backend.bring(x.narrow(2, t, 1)?)?, 0, &mut done)?;
        }
        Ok(done)
    }

    fn not_finite(&self) -> Result<Option<String>> {
        for ((name, _), state) in self.stack.blocks.iter().zip(&self.states) {
            if !state.is_finite(&self.stack.backend)? {
                return Ok(Some(name.clone()));
            }
        }
        Ok(None)
    }
}

/// On the host with all frames at once, layer by layer: what [`Flow::push`] is tested against.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Whole {
    stack: Stack<Host>,
    states: Vec<BlockState<Host>>,
}

#[cfg(test)]
impl Whole {
    pub fn new(layers: &[Layer], weights: &Weights) -> Result<Self> {
        let stack = Stack::new(Host, layers, weights)?;
        Ok(Self { states: stack.blocks.iter().map(|_| BlockState::default()).collect(), stack })
    }

    pub fn push(&mut self, x: &Tensor) -> Result<Option<Tensor>> {
        let mut x = x.clone();
        for ((_, block), state) in self.stack.blocks.iter().zip(&mut self.states) {
            let parts = block.forward(&Host, x, state)?;
            if parts.is_empty() {
                return Ok(None);
            }
            x = Tensor::cat(&parts, 2)?;
        }
        Ok(Some(x))
    }
}
