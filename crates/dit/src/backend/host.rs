//! On the host, with its kernels.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};
use kernels::Compute;
use kernels::attention::{Attention, Bias};
use kernels::linear::{Epilogue, Input, Matrix};
use kernels::residual::{add_in_place, gated_add_in_place};
use nn::{LayerNorm, Linear, RmsNorm, RopeTables, attention, merge_heads, split_heads};
use weights::Weights;

use super::{Backend, Rows};
use crate::Conditioning;
use crate::block::{Context, norm_modulated};
use crate::conditioning::Prepared;
use crate::ends::PATCH;

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
    /// Keys, and values.
    type Keys = [Tensor; 2];
    type Mark = ();
    type Latents = Tensor;

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

    fn linear_of(&self, weight: Matrix, bias: Tensor) -> Result<Linear> {
        Ok(Linear::from_tensors(weight, Some(bias)))
    }

    fn layer_norm_of(&self, gain: Tensor, bias: Tensor, eps: f64) -> Result<LayerNorm> {
        LayerNorm::from_tensors(gain, bias, eps)
    }

    fn fetch(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.clone())
    }

    fn bring_latents(&self, latents: &Tensor) -> Result<Tensor> {
        latents.to_dtype(DType::F32)
    }

    fn fetch_latents(&self, latents: &Tensor) -> Result<Tensor> {
        Ok(latents.clone())
    }

    fn shape_of(&self, latents: &Tensor) -> Result<[usize; 4]> {
        Ok(latents.dims4()?.into())
    }

    fn modulation_of(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(rows.clone())
    }

    fn rope(&self, head_dim: usize, grid: (usize, usize, usize)) -> Result<RopeTables> {
        RopeTables::video(head_dim, grid, &Device::Cpu)
    }

    fn context(&self, context: Context<Self>) -> Result<Context<Self>> {
        Ok(context)
    }

    fn prepared<'a>(&self, condition: &'a Conditioning) -> Result<&'a Prepared<Self>> {
        condition.on_host()
    }

    fn mark(&self) -> Result<()> {
        Ok(())
    }

    fn wait(&self, (): &()) -> Result<()> {
        Ok(())
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

    fn patches(&self, parts: &[&Tensor]) -> Result<Input> {
        let all = match parts {
            [one] => (*one).clone(),
            several => Tensor::cat(several, 0)?,
        };
        // [C, F, y, q, x, r] → [F, y, x, C, q, r]: within a patch the channel is slowest.
        let (c, f, h, w) = all.dims4()?;
        let (y, x) = (h / PATCH, w / PATCH);
        let patches = all.reshape(&[c, f, y, PATCH, x, PATCH][..])?.permute([1, 2, 4, 0, 3, 5])?;
        Ok(patches.reshape((1, f * y * x, c * PATCH * PATCH))?.into())
    }

    fn unpatched(&self, tokens: Tensor, [c, f, h, w]: [usize; 4]) -> Result<Tensor> {
        // [F, y, x, q, r, C] → [C, F, y, q, x, r]: here the channel is fastest.
        let patches = tokens.reshape(&[f, h / PATCH, w / PATCH, PATCH, PATCH, c][..])?;
        patches.permute([5, 0, 1, 3, 2, 4])?.reshape((c, f, h, w))
    }

    /// `[h·w, F, C]`: positions are the batch, frames the sequence.
    fn pixels(&self, latents: &Tensor) -> Result<Input> {
        Ok(latents.flatten_from(2)?.permute((2, 1, 0))?.contiguous()?.into())
    }

    fn to_latents(&self, pixels: Tensor, [c, f, h, w]: [usize; 4]) -> Result<Tensor> {
        pixels.permute((2, 1, 0))?.reshape((c, f, h, w))
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

    fn norm(&self, x: Tensor, norm: &LayerNorm) -> Result<Tensor> {
        norm.forward(&x)
    }

    fn product(&self, x: &Input, linear: &Linear) -> Result<Tensor> {
        linear.forward_of(x, Epilogue::None)
    }

    fn product_stream(&self, x: &Input, linear: &Linear) -> Result<Tensor> {
        linear.forward_of(x, Epilogue::None)
    }

    fn product_silu(&self, x: &Input, linear: &Linear) -> Result<Tensor> {
        linear.forward_of(x, Epilogue::None)?.silu()
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

    fn own_keys(&self, kv: [Tensor; 2]) -> Result<[Tensor; 2]> {
        Ok(kv)
    }

    fn context_keys(&self, kv: [Tensor; 2]) -> Result<[Tensor; 2]> {
        Ok(kv)
    }

    fn attention(
        &self,
        queries: &Tensor,
        [k, v]: &[Tensor; 2],
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

    fn attention_over_frames(&self, [q, k, v]: [Tensor; 3], heads: usize) -> Result<Tensor> {
        let scale = ((q.dim(2)? / heads.max(1)) as f64).sqrt().recip();
        // As attention takes them without a copy.
        let k = split_heads(&{ k }, heads)?.contiguous()?;
        let v = split_heads(&{ v }, heads)?.contiguous()?;
        merge_heads(&attention(&split_heads(&q, heads)?, &k, &v, scale)?)
    }

    fn add(&self, x: &Tensor, y: Tensor) -> Result<Tensor> {
        add_in_place(x, y)
    }

    fn add_scaled(&self, x: Tensor, y: Tensor, scale: f64) -> Result<Tensor> {
        let scale = Tensor::full(scale as f32, x.dim(2)?, x.device())?;
        gated_add_in_place(&x, y, &scale)
    }
}
