//! VACE's side branch: blocks beside the main ones that turn control latents into hints (spec wan_components §4.6).

use candle_core::{Result, Tensor};
use kernels::residual::add_in_place;
use nn::Linear;
use weights::Weights;

use crate::Config;
use crate::block::{Block, Pass};

/// One side block with its projections; the first also projects its input and adds the main tokens.
pub(crate) struct VaceBlock {
    before: Option<Linear>,
    block: Block,
    after: Linear,
}

impl VaceBlock {
    pub fn new(config: &Config, index: usize, w: &Weights) -> Result<Self> {
        let d = config.dim;
        Ok(Self {
            before: if index == 0 { Some(Linear::new(d, d, &w.pp("before_proj"))?) } else { None },
            block: Block::new(config, w, false)?,
            after: Linear::new(d, d, &w.pp("after_proj"))?,
        })
    }

    /// `control` `[1, L, D]` side stream, `tokens` the main stream before any block → (side stream, hint).
    pub fn forward(&self, control: Tensor, tokens: &Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let x = match &self.before {
            Some(before) => add_in_place(tokens, before.forward(&control)?)?,
            None => control,
        };
        let x = self.block.forward(x, pass)?;
        let hint = self.after.forward(&x)?;
        Ok((x, hint))
    }
}
