//! On the host, with its kernels.

use candle_core::{Device, Result, Tensor};
use kernels::attention::{Attention, Bias};
use kernels::linear::Epilogue;
use weights::Weights;

use super::{Backend, Gelu, SelfAttention};
use crate::{LayerNorm, Linear, RmsNorm, merge_heads, split_heads};

/// See the module: f32.
#[derive(Debug, Clone, Copy)]
pub struct Host;

impl Host {
    /// `[B, H, N, D]` each.
    fn attend(&self, [q, k, v]: [Tensor; 3], with: SelfAttention<Tensor>) -> Result<Tensor> {
        let _span = tracing::info_span!(target: "steadydance", "attention", tokens = q.dim(2)?).entered();
        let bias = with.offsets.map_or(Bias::None, Bias::Offsets);
        Attention::new(with.scale).bias(bias).compute(with.compute).apply(&q, &k, &v)
    }
}

impl Backend for Host {
    type Activations = Tensor;
    type Input = Tensor;
    type Linear = Linear;
    type RmsNorm = RmsNorm;
    type LayerNorm = LayerNorm;
    type Table = Tensor;
    type Rows = Tensor;
    /// `[H, 2·N − 1]`.
    type Offsets = Tensor;

    fn linear(&self, [outputs, inputs]: [usize; 2], biased: bool, w: &Weights) -> Result<Linear> {
        match biased {
            true => Linear::new(inputs, outputs, w),
            false => Linear::no_bias(inputs, outputs, w),
        }
    }

    fn rms_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<RmsNorm> {
        RmsNorm::new(dim, eps, w)
    }

    fn layer_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<LayerNorm> {
        LayerNorm::affine(dim, eps, w)
    }

    fn table(&self, [rows, heads]: [usize; 2], name: &str, w: &Weights) -> Result<Tensor> {
        w.tensor((rows, heads), name)
    }

    fn bring(&self, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }

    fn fetch(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn rows(&self, numbers: &[u32]) -> Result<Tensor> {
        Tensor::new(numbers, &Device::Cpu)
    }

    fn offsets(&self, table: &Tensor, rows: &Tensor) -> Result<Tensor> {
        // [R, H] → [H, 2·N − 1]
        table.t()?.contiguous()?.index_select(rows, 1)
    }

    fn rms_normed(&self, x: &Tensor, norm: &RmsNorm) -> Result<Tensor> {
        norm.forward(x)
    }

    fn layer_normed(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        norm.forward(x)
    }

    fn input(&self, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }

    fn product(&self, x: &Tensor, linear: &Linear) -> Result<Tensor> {
        linear.forward(x)
    }

    fn product_added(&self, x: Tensor, linear: &Linear, residual: &Tensor) -> Result<Tensor> {
        linear.forward_with(&x, Epilogue::Residual(residual))
    }

    fn gated_product(&self, x: Tensor, [gate, linear]: [&Linear; 2], gelu: Gelu) -> Result<Tensor> {
        let gate = match gelu {
            Gelu::Tanh => gate.forward_with(&x, Epilogue::GeluTanh)?,
            _ => self.gelu(gate.forward(&x)?, gelu)?,
        };
        linear.forward_with(&x, Epilogue::Times(&gate))
    }

    fn gelu(&self, x: Tensor, gelu: Gelu) -> Result<Tensor> {
        match gelu {
            Gelu::Tanh => kernels::activation::gelu_tanh(&x),
            Gelu::Erf => x.gelu_erf(),
            // sigmoid(z) = (tanh(z/2) + 1)/2
            Gelu::Quick => &x * (((&x * (1.702 / 2.0))?.tanh()? + 1.0)? * 0.5)?,
        }
    }

    fn attention(&self, parts: [Tensor; 3], with: SelfAttention<Tensor>) -> Result<Tensor> {
        let [q, k, v] = parts.map(|x| split_heads(&x, with.heads));
        merge_heads(&self.attend([q?, k?, v?], with)?)
    }

    fn attention_of_thirds(&self, all: Tensor, with: SelfAttention<Tensor>) -> Result<Tensor> {
        let (batch, tokens, width) = all.dims3()?;
        let heads = with.heads.max(1);
        // [B, N, 3·C] → three views of [B, H, N, C/H]
        let all = { all }.reshape((batch, tokens, 3, heads, width / 3 / heads))?;
        let third = |i: usize| all.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2);
        let parts = [third(0)?, third(1)?, third(2)?];
        drop(all);
        merge_heads(&self.attend(parts, with)?)
    }
}
