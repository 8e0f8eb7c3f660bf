//! On the host, with its kernels.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use kernels::Compute;
use kernels::attention::{Attention, Bias};
use kernels::linear::{Epilogue, Input};
use kernels::residual::{add_in_place, gated_add_in_place};
use nn::{LayerNorm, Linear, RmsNorm, RopeTables, merge_heads, split_heads};
use weights::Weights;

use super::{Backend, Rows};
use crate::Conditioning;
use crate::block::{Context, KeysValues, norm_modulated};

/// See the module: f32.
pub(crate) struct Host;

impl Backend for Host {
    const AT_ONCE: bool = true;

    type Activations = Tensor;
    type Input = Input;
    type Linear = Linear;
    type RmsNorm = RmsNorm;
    type LayerNorm = LayerNorm;
    type Modulation = Tensor;
    type Rope = RopeTables;

    fn linear(&self, [outputs, inputs]: [usize; 2], w: &Weights) -> Result<Linear> {
        Linear::new(inputs, outputs, w)
    }

    fn rms_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<RmsNorm> {
        RmsNorm::new(dim, eps, w)
    }

    fn layer_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<LayerNorm> {
        LayerNorm::affine(dim, eps, w)
    }

    fn modulation(&self, dim: usize, w: &Weights) -> Result<Tensor> {
        w.tensor((1, 6, dim), "modulation")
    }

    fn bring(&self, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }

    fn fetch(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn time(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(rows.clone())
    }

    fn rope(&self, head_dim: usize, grid: (usize, usize, usize)) -> Result<RopeTables> {
        RopeTables::video(head_dim, grid, &Device::Cpu)
    }

    fn context<'a>(&self, condition: &'a Conditioning) -> Result<&'a Context<Self>> {
        Ok(&condition.context)
    }

    fn tokens(&self, x: &Tensor) -> Result<usize> {
        x.dim(1)
    }

    fn run(&self, x: &Tensor, run: Range<usize>) -> Result<Tensor> {
        x.narrow(1, run.start, run.len())
    }

    fn rope_run(&self, rope: &RopeTables, run: Range<usize>) -> Result<RopeTables> {
        rope.rows(run)
    }

    fn room(&self, piece: &Tensor, total: usize) -> Result<Tensor> {
        let mut dims = piece.dims().to_vec();
        if let Some(tokens) = dims.get_mut(1) {
            *tokens = total;
        }
        Tensor::zeros(dims, piece.dtype(), piece.device())
    }

    fn put(&self, piece: &Tensor, all: &Tensor, first: usize) -> Result<()> {
        all.slice_set(piece, 1, first)
    }

    fn modulate(&self, block: &Tensor, time: &Tensor) -> Result<Tensor> {
        block + time
    }

    fn norm_modulated(&self, x: &Tensor, Rows { all, first }: Rows<Self>, eps: f64) -> Result<Input> {
        norm_modulated(x, &all.narrow(1, first + 1, 1)?, &all.narrow(1, first, 1)?, eps)
    }

    fn normalised(&self, x: &Tensor, norm: &LayerNorm) -> Result<Input> {
        norm.before(x)
    }

    fn input(&self, x: Tensor) -> Result<Input> {
        Ok(x.into())
    }

    fn product(&self, x: &Input, linear: &Linear) -> Result<Tensor> {
        linear.forward_of(x, Epilogue::None)
    }

    fn product_gelu(&self, x: &Input, linear: &Linear) -> Result<Tensor> {
        linear.forward_of(x, Epilogue::GeluTanh)
    }

    fn product_gated(
        &self,
        x: &Input,
        linear: &Linear,
        residual: &Tensor,
        Rows { all, first }: Rows<Self>,
    ) -> Result<Tensor> {
        let gate = &all.narrow(1, first, 1)?;
        linear.forward_of(x, Epilogue::GatedResidual { residual, gate })
    }

    fn product_added(&self, x: &Input, linear: &Linear, residual: &Tensor) -> Result<Tensor> {
        linear.forward_of(x, Epilogue::Residual(residual))
    }

    /// A view.
    fn in_heads(&self, x: Tensor, heads: usize) -> Result<Tensor> {
        split_heads(&x, heads)?.transpose(1, 2)
    }

    fn norm_in_heads(&self, x: Tensor, norm: &RmsNorm, heads: usize) -> Result<Tensor> {
        self.in_heads(norm.forward_in_place(x)?, heads)
    }

    fn norm_rope_in_heads(&self, x: Tensor, norm: &RmsNorm, rope: &RopeTables, _heads: usize) -> Result<Tensor> {
        rope.apply_after_norm(norm, x)
    }

    fn attention(
        &self,
        queries: &Tensor,
        KeysValues { k, v }: &KeysValues<Self>,
        counts: Option<&Tensor>,
        compute: Compute,
    ) -> Result<Tensor> {
        let scale = (queries.dim(3)? as f64).sqrt().recip();
        let attention = Attention::new(scale).bias(counts.map_or(Bias::None, Bias::Keys)).compute(compute);
        let heads = |t: &Tensor| t.transpose(1, 2);
        let (count, keys) = (queries.dim(1)?, k.dim(1)?);
        let _span = tracing::info_span!(target: "steadydance", "attention", queries = count, keys).entered();
        merge_heads(&attention.apply(&heads(queries)?, &heads(k)?, &heads(v)?)?)
    }

    fn add(&self, x: &Tensor, y: Tensor) -> Result<Tensor> {
        add_in_place(x, y)
    }

    fn add_scaled(&self, x: Tensor, y: Tensor, scale: f64) -> Result<Tensor> {
        let scale = Tensor::full(scale as f32, x.dim(2)?, x.device())?;
        gated_add_in_place(&x, y, &scale)
    }
}
