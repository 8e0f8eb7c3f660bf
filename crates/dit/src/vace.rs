//! VACE's side branch: blocks beside the main ones that turn control latents into hints (spec wan_components §4.6).

use candle_core::Result;
use weights::Weights;

use crate::Config;
use crate::backend::Backend;
use crate::block::{Block, Pass};

/// One side block with its projections; the first also projects its input and adds the main tokens.
pub(crate) struct VaceBlock<'b, B: Backend> {
    backend: &'b B,
    before: Option<B::Linear>,
    block: Block<'b, B>,
    after: B::Linear,
}

impl<'b, B: Backend> VaceBlock<'b, B> {
    pub fn new(backend: &'b B, config: &Config, index: usize, w: &Weights) -> Result<Self> {
        let square = |name| backend.linear([config.dim; 2], &w.pp(name));
        Ok(Self {
            backend,
            before: if index == 0 { Some(square("before_proj")?) } else { None },
            block: Block::new(backend, config, w, false)?,
            after: square("after_proj")?,
        })
    }

    /// `control` `[1, L, D]` side stream, `tokens` the main stream before any block → (side stream, hint).
    pub fn forward(
        &self,
        control: B::Activations,
        tokens: &B::Activations,
        pass: &Pass<B>,
    ) -> Result<(B::Activations, B::Activations)> {
        let x = match &self.before {
            Some(before) => self.backend.product_added(&self.backend.input(control)?, before, tokens)?,
            None => control,
        };
        let x = self.block.forward(x, pass)?;
        let hint = self.backend.product(&self.backend.input(x.clone())?, &self.after)?;
        Ok((x, hint))
    }
}
