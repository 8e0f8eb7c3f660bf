//! On a GPU. Nothing here waits for it but [`fetch`](Backend::fetch), [`fetch_latents`](Backend::fetch_latents) and [`wait`](Backend::wait).
//!
//! Tensors there have no dimension for the one clip: `[L, D]`, and `[L, H, D/H]` in heads. Residual streams are f32, anything else
//! that is computed bf16.

mod values;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use kernels::Compute;
use kernels::cuda::ops::{
    Activation, Columns, FRAME_HEAD, Heads, InputForm, Int8Keys, Norm, Rope, RowOutput, Terms, ValueSums, attention,
    attention_int8, attention_over_frames, combine, convert, gated_add_in_place, input_form, linear_rounded,
    patchify_into, rms_norm_rope_in_place, unpatchify,
};
use kernels::cuda::{Event, Gpu, GpuDtype, GpuTensor};
use kernels::linear::Matrix;
use nn::RopeTables;
use weights::Weights;

use super::{Backend, Host, Rows};
use crate::block::Context;
use crate::conditioning::Prepared;
use crate::ends::PATCH;
use crate::{Attention, Conditioning};
use values::{GpuInput, GpuKeys, GpuLinear, GpuNorm, GpuRope};

/// See the module.
pub(crate) struct OnGpu {
    gpu: Gpu,
    attention: Attention,
    /// Angles of the last grid.
    rope: Mutex<Option<(RopeKey, GpuRope)>>,
}

/// Channels of a head, and tokens along (t, y, x).
type RopeKey = (usize, (usize, usize, usize));

impl OnGpu {
    pub fn new(gpu: Gpu, attention: Attention) -> Self {
        Self { gpu, attention, rope: Mutex::default() }
    }

    /// `Σ factor·latents`, of those whose factor is not 0.
    pub fn combined(&self, latents: &[GpuTensor], factors: &[f64]) -> Result<GpuTensor> {
        let mut terms = latents.iter().zip(factors).filter(|(_, factor)| **factor != 0.0).map(|(x, f)| (*f as f32, x));
        let mut sum: Option<GpuTensor> = None;
        loop {
            // As many as fit beside the sum so far.
            let mut some: Vec<_> = terms.by_ref().take(7).collect();
            match (&sum, some.is_empty()) {
                (Some(sum), true) => return Ok(sum.clone()),
                (None, true) => candle_core::bail!("a guidance without branches"),
                (Some(sum), false) => some.push((1.0, sum)),
                (None, false) => {}
            }
            sum = Some(combine(&self.gpu, &some)?);
        }
    }

    /// The first dimension, which is the one clip, away.
    fn upload(&self, x: &Tensor) -> Result<GpuTensor> {
        Ok(GpuTensor::upload(&self.gpu, &x.squeeze(0)?, GpuDtype::F32)?)
    }

    fn multiply(&self, x: &GpuInput, linear: &GpuLinear, terms: Terms) -> Result<GpuTensor> {
        // Asked for here and let go of at the end: it may have the place of others.
        let matrix = linear.matrix()?;
        let rounded = x.rounded(&self.gpu, input_form(&self.gpu, &matrix)?)?;
        Ok(linear_rounded(&self.gpu, &rounded, &matrix, &Terms { bias: Some(&linear.bias), ..terms })?)
    }

    fn in_heads_of(x: &GpuTensor, heads: usize) -> Result<GpuTensor> {
        match x.shape() {
            &[tokens, width] if heads > 0 && width % heads == 0 => Ok(x.reshape(&[tokens, heads, width / heads])?),
            other => candle_core::bail!("{heads} heads of {other:?}"),
        }
    }
}

/// `[L, H, D/H]` with the one clip as a dimension.
fn in_one_clip(x: &GpuTensor) -> Result<GpuTensor> {
    match x.shape() {
        &[tokens, heads, dim] => Ok(x.reshape(&[1, tokens, heads, dim])?),
        other => candle_core::bail!("{other:?} is not in heads"),
    }
}

impl Backend for OnGpu {
    const AT_ONCE: bool = false;

    type Activations = GpuTensor;
    type Input = GpuInput;
    type Linear = GpuLinear;
    type RmsNorm = GpuNorm;
    type LayerNorm = GpuNorm;
    /// `[6, D]`.
    type Modulation = GpuTensor;
    type Rope = GpuRope;
    type Keys = GpuKeys;
    type Mark = Event;
    type Latents = GpuTensor;

    fn linear(&self, shape: [usize; 2], w: &Weights) -> Result<GpuLinear> {
        GpuLinear::asked(shape, w)
    }

    fn rms_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<GpuNorm> {
        Ok(GpuNorm { weight: w.gpu_tensor(dim, "weight")?, bias: None, eps: eps as f32 })
    }

    fn layer_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<GpuNorm> {
        let bias = Some(w.gpu_tensor(dim, "bias")?);
        Ok(GpuNorm { weight: w.gpu_tensor(dim, "weight")?, bias, eps: eps as f32 })
    }

    fn modulation(&self, dim: usize, w: &Weights) -> Result<GpuTensor> {
        Ok(w.gpu_tensor((1, 6, dim), "modulation")?.reshape(&[6, dim])?)
    }

    fn linear_of(&self, weight: Matrix, bias: Tensor) -> Result<GpuLinear> {
        GpuLinear::held(&self.gpu, weight, &bias)
    }

    fn layer_norm_of(&self, gain: Tensor, bias: Tensor, eps: f64) -> Result<GpuNorm> {
        let there = |t| GpuTensor::upload(&self.gpu, t, GpuDtype::F32);
        Ok(GpuNorm { weight: there(&gain)?, bias: Some(there(&bias)?), eps: eps as f32 })
    }

    fn fetch(&self, x: &GpuTensor) -> Result<Tensor> {
        x.download(&self.gpu)?.unsqueeze(0)
    }

    fn bring_latents(&self, latents: &Tensor) -> Result<GpuTensor> {
        Ok(GpuTensor::upload(&self.gpu, &latents.to_dtype(DType::F32)?, GpuDtype::F32)?)
    }

    fn fetch_latents(&self, latents: &GpuTensor) -> Result<Tensor> {
        Ok(latents.download(&self.gpu)?)
    }

    fn shape_of(&self, latents: &GpuTensor) -> Result<[usize; 4]> {
        match latents.shape() {
            &[c, f, h, w] => Ok([c, f, h, w]),
            other => candle_core::bail!("latents {other:?} where [C, F, h, w] is needed"),
        }
    }

    fn modulation_of(&self, rows: &Tensor) -> Result<GpuTensor> {
        self.upload(rows)
    }

    fn rope(&self, head_dim: usize, grid: (usize, usize, usize)) -> Result<GpuRope> {
        let mut last = self.rope.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, rope)) = &*last
            && *key == (head_dim, grid)
        {
            return Ok(rope.clone());
        }
        let tables = RopeTables::video(head_dim, grid, &Device::Cpu)?;
        let [cos, sin] = tables.parts().map(|t| GpuTensor::upload(&self.gpu, t, GpuDtype::F32));
        let rope = GpuRope { cos: cos?, sin: sin? };
        *last = Some(((head_dim, grid), rope.clone()));
        Ok(rope)
    }

    fn context(&self, Context { text, counts, image, kept }: Context<Host>) -> Result<Context<Self>> {
        let counts = match counts {
            // For all heads and queries.
            Some(counts) => Some(GpuTensor::upload(&self.gpu, &counts.reshape((1, 1, ()))?, GpuDtype::F32)?),
            None => None,
        };
        let image = image.map(|image| self.upload(&image)).transpose()?;
        Ok(Context { text: self.upload(&text)?, counts, image, kept: kept.map(|_| Default::default()) })
    }

    fn prepared<'a>(&self, condition: &'a Conditioning) -> Result<&'a Prepared<Self>> {
        condition.on_gpu()
    }

    fn mark(&self) -> Result<Event> {
        Ok(self.gpu.compute().record()?)
    }

    fn wait(&self, mark: &Event) -> Result<()> {
        Ok(mark.synchronise()?)
    }

    fn tokens(&self, x: &GpuTensor) -> Result<usize> {
        match x.shape().first() {
            Some(tokens) => Ok(*tokens),
            None => candle_core::bail!("no tokens"),
        }
    }

    fn run(&self, x: &GpuTensor, run: Range<usize>) -> Result<GpuTensor> {
        Ok(x.narrow(run.start, run.len())?)
    }

    fn rope_run(&self, rope: &GpuRope, run: Range<usize>) -> Result<GpuRope> {
        let part = |t: &GpuTensor| t.narrow(run.start, run.len());
        Ok(GpuRope { cos: part(&rope.cos)?, sin: part(&rope.sin)? })
    }

    fn room(&self, piece: &GpuTensor, total: usize) -> Result<GpuTensor> {
        let mut shape = piece.shape().to_vec();
        if let Some(tokens) = shape.first_mut() {
            *tokens = total;
        }
        Ok(GpuTensor::empty(&self.gpu, &shape, piece.dtype())?)
    }

    fn put(&self, piece: &GpuTensor, all: &GpuTensor, first: usize) -> Result<()> {
        Ok(piece.copy_to_rows(&self.gpu, all, first)?)
    }

    fn patches(&self, parts: &[&GpuTensor]) -> Result<GpuInput> {
        let shapes = parts.iter().map(|part| self.shape_of(part)).collect::<Result<Vec<_>>>()?;
        let Some([_, f, h, w]) = shapes.first() else { candle_core::bail!("no latents") };
        let columns = shapes.iter().map(|[c, ..]| c * PATCH * PATCH);
        let tokens = [f * (h / PATCH) * (w / PATCH), columns.clone().sum()];
        let tokens = GpuTensor::empty(&self.gpu, &tokens, GpuDtype::Bf16)?;
        let mut first = 0;
        for (part, columns) in parts.iter().zip(columns) {
            patchify_into(&self.gpu, part, &tokens, first, PATCH)?;
            first += columns;
        }
        self.input(tokens)
    }

    fn unpatched(&self, tokens: GpuTensor, shape: [usize; 4]) -> Result<GpuTensor> {
        Ok(unpatchify(&self.gpu, &tokens, shape, PATCH)?)
    }

    /// `[F, h·w, C]`.
    fn pixels(&self, latents: &GpuTensor) -> Result<GpuInput> {
        let [c, f, h, w] = self.shape_of(latents)?;
        let pixels = GpuTensor::empty(&self.gpu, &[f, h * w, c], GpuDtype::Bf16)?;
        patchify_into(&self.gpu, latents, &pixels, 0, 1)?;
        self.input(pixels)
    }

    fn to_latents(&self, pixels: GpuTensor, shape: [usize; 4]) -> Result<GpuTensor> {
        Ok(unpatchify(&self.gpu, &pixels, shape, 1)?)
    }

    fn modulate(&self, block: &GpuTensor, time: &GpuTensor) -> Result<GpuTensor> {
        let sum = convert(&self.gpu, block, GpuDtype::F32)?;
        gated_add_in_place(&self.gpu, &sum, time, None)?;
        Ok(sum)
    }

    fn norm_modulated(&self, x: &GpuTensor, Rows { all, first }: Rows<Self>, eps: f64) -> Result<GpuInput> {
        let modulation = (all.narrow(first + 1, 1)?, all.narrow(first, 1)?, 1.0);
        Ok(GpuInput::new(x.clone(), Norm::Layer { eps: eps as f32 }, Some(modulation)))
    }

    fn normalised(&self, x: &GpuTensor, norm: &GpuNorm) -> Result<GpuInput> {
        let modulation = norm.bias.as_ref().map(|bias| (norm.weight.clone(), bias.clone(), 0.0));
        Ok(GpuInput::new(x.clone(), Norm::Layer { eps: norm.eps }, modulation))
    }

    fn input(&self, x: GpuTensor) -> Result<GpuInput> {
        Ok(GpuInput::new(x, Norm::None, None))
    }

    fn norm(&self, x: GpuTensor, norm: &GpuNorm) -> Result<GpuTensor> {
        let form = InputForm { output: RowOutput::F32, rotate: false, plain: false };
        Ok(self.normalised(&x, norm)?.worked(&self.gpu, form)?.values)
    }

    fn product(&self, x: &GpuInput, linear: &GpuLinear) -> Result<GpuTensor> {
        self.multiply(x, linear, Terms::default())
    }

    fn product_stream(&self, x: &GpuInput, linear: &GpuLinear) -> Result<GpuTensor> {
        self.multiply(x, linear, Terms { output: GpuDtype::F32, ..Terms::default() })
    }

    fn product_silu(&self, x: &GpuInput, linear: &GpuLinear) -> Result<GpuTensor> {
        self.multiply(x, linear, Terms { activation: Activation::Silu, ..Terms::default() })
    }

    fn product_gelu(&self, x: &GpuInput, linear: &GpuLinear) -> Result<GpuTensor> {
        self.multiply(x, linear, Terms { activation: Activation::GeluTanh, ..Terms::default() })
    }

    fn product_gated(
        &self,
        x: &GpuInput,
        linear: &GpuLinear,
        residual: &GpuTensor,
        Rows { all, first }: Rows<Self>,
    ) -> Result<GpuTensor> {
        let gate = &all.narrow(first, 1)?;
        let terms = Terms { residual: Some(residual), gate: Some(gate), output: GpuDtype::F32, ..Terms::default() };
        self.multiply(x, linear, terms)
    }

    fn product_added(&self, x: &GpuInput, linear: &GpuLinear, residual: &GpuTensor) -> Result<GpuTensor> {
        self.multiply(x, linear, Terms { residual: Some(residual), output: GpuDtype::F32, ..Terms::default() })
    }

    fn in_heads(&self, x: GpuTensor, heads: usize) -> Result<GpuTensor> {
        Self::in_heads_of(&x, heads)
    }

    fn norm_in_heads(&self, x: GpuTensor, norm: &GpuNorm, heads: usize) -> Result<GpuTensor> {
        rms_norm_rope_in_place(&self.gpu, Columns::all(&x), &norm.weight, norm.eps, None)?;
        Self::in_heads_of(&x, heads)
    }

    fn norm_rope_in_heads(
        &self,
        x: GpuTensor,
        norm: &GpuNorm,
        GpuRope { cos, sin }: &GpuRope,
        heads: usize,
    ) -> Result<GpuTensor> {
        rms_norm_rope_in_place(&self.gpu, Columns::all(&x), &norm.weight, norm.eps, Some(Rope { cos, sin }))?;
        Self::in_heads_of(&x, heads)
    }

    fn own_keys(&self, kv: [GpuTensor; 2]) -> Result<GpuKeys> {
        match self.attention {
            Attention::Bf16 => self.context_keys(kv),
            Attention::Int8 => {
                let [k, v] = [in_one_clip(&kv[0])?, in_one_clip(&kv[1])?];
                let sums = ValueSums::of(&self.gpu.facts().name);
                Ok(GpuKeys::Int8(Int8Keys::new(&self.gpu, Heads::of(&k)?, Heads::of(&v)?, sums)?))
            }
        }
    }

    fn context_keys(&self, [k, v]: [GpuTensor; 2]) -> Result<GpuKeys> {
        Ok(GpuKeys::Bf16([in_one_clip(&k)?, in_one_clip(&v)?]))
    }

    fn attention(
        &self,
        queries: &GpuTensor,
        keys: &GpuKeys,
        counts: Option<&GpuTensor>,
        _: Compute,
    ) -> Result<GpuTensor> {
        let &[tokens, heads, dim] = queries.shape() else { candle_core::bail!("queries {queries:?} are not in heads") };
        let clip = in_one_clip(queries)?;
        let (q, scale) = (Heads::of(&clip)?, (dim as f32).sqrt().recip());
        let attended = match (keys, counts) {
            (GpuKeys::Bf16([k, v]), counts) => attention(&self.gpu, [q, Heads::of(k)?, Heads::of(v)?], scale, counts)?,
            (GpuKeys::Int8(keys), None) => attention_int8(&self.gpu, q, keys, scale)?,
            (GpuKeys::Int8(_), Some(_)) => candle_core::bail!("counts of keys, and scores of 8 bits"),
        };
        Ok(attended.reshape(&[tokens, heads * dim])?)
    }

    fn attention_over_frames(&self, [q, k, v]: [GpuTensor; 3], heads: usize) -> Result<GpuTensor> {
        match q.shape() {
            &[_, _, width] if width == heads * FRAME_HEAD => {}
            other => candle_core::bail!("{heads} heads of {FRAME_HEAD} channels, and queries {other:?}"),
        }
        Ok(attention_over_frames(&self.gpu, [&q, &k, &v], (FRAME_HEAD as f32).sqrt().recip())?)
    }

    fn add(&self, x: &GpuTensor, y: GpuTensor) -> Result<GpuTensor> {
        gated_add_in_place(&self.gpu, &y, x, None)?;
        Ok(y)
    }

    fn add_scaled(&self, x: GpuTensor, y: GpuTensor, scale: f64) -> Result<GpuTensor> {
        let &[_, width] = x.shape() else { candle_core::bail!("{x:?} is no stream of tokens") };
        let bytes: Vec<u8> = std::iter::repeat_n((scale as f32).to_le_bytes(), width).flatten().collect();
        let scale = GpuTensor::upload_bytes(&self.gpu, &bytes, &[1, width], GpuDtype::F32)?;
        gated_add_in_place(&self.gpu, &x, &y, Some(&scale))?;
        Ok(x)
    }
}
