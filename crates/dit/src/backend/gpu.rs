//! On a GPU. Nothing here waits for it but [`fetch`](Backend::fetch).
//!
//! Tensors there have no dimension for the one clip: `[L, D]`, and `[L, H, D/H]` in heads. Residual streams are f32, anything else
//! that is computed bf16.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use candle_core::{Device, Result, Tensor};
use kernels::Compute;
use kernels::cuda::ops::{
    Activation, Columns, Heads, InputForm, Modulation, Norm, Rope, Rounded, RowOutput, RowWork, Terms, attention,
    convert, gated_add_in_place, input_form, linear_rounded, rms_norm_rope_in_place, rows,
};
use kernels::cuda::{Gpu, GpuDtype, GpuMatrix, GpuTensor};
use nn::RopeTables;
use weights::Weights;

use super::{Backend, Rows};
use crate::Conditioning;
use crate::block::{Context, KeysValues};

/// See the module.
pub(crate) struct OnGpu {
    gpu: Gpu,
    /// Angles of the last grid.
    rope: Mutex<Option<(RopeKey, GpuRope)>>,
}

/// Channels of a head, and tokens along (t, y, x).
type RopeKey = (usize, (usize, usize, usize));

impl OnGpu {
    pub fn new(gpu: Gpu) -> Self {
        Self { gpu, rope: Mutex::default() }
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

/// A matrix and its bias. The matrix is asked for when it is multiplied with.
pub(crate) struct GpuLinear {
    weights: Weights,
    shape: [usize; 2],
    bias: GpuTensor,
}

impl GpuLinear {
    fn matrix(&self) -> Result<GpuMatrix> {
        self.weights.gpu_matrix((self.shape[0], self.shape[1]), "weight")
    }
}

/// A gain and bias, `[D]` f32.
pub(crate) struct GpuNorm {
    weight: GpuTensor,
    bias: Option<GpuTensor>,
    eps: f32,
}

/// `[L, D/2H]` f32 each.
#[derive(Clone)]
pub(crate) struct GpuRope {
    cos: GpuTensor,
    sin: GpuTensor,
}

/// Rows with what is to be done with them. It is done when a matrix tells what form it takes, and once for all of that form.
pub(crate) struct GpuInput {
    x: GpuTensor,
    norm: Norm,
    /// Scale, shift, and what is added to the scale.
    modulation: Option<(GpuTensor, GpuTensor, f32)>,
    made: RefCell<Vec<(InputForm, Rounded)>>,
}

impl GpuInput {
    fn new(x: GpuTensor, norm: Norm, modulation: Option<(GpuTensor, GpuTensor, f32)>) -> Self {
        Self { x, norm, modulation, made: RefCell::default() }
    }

    fn rounded(&self, gpu: &Gpu, form: InputForm) -> Result<Rounded> {
        let mut made = self.made.borrow_mut();
        if let Some((_, rounded)) = made.iter().find(|(f, _)| *f == form) {
            return Ok(rounded.clone());
        }
        let as_it_is = self.norm == Norm::None && self.modulation.is_none() && self.x.dtype() == GpuDtype::Bf16;
        let rounded = if as_it_is && form.output == RowOutput::Bf16 && !form.rotate {
            Rounded { values: self.x.clone(), scales: None, plain: None }
        } else {
            let modulation = match &self.modulation {
                Some((scale, shift, offset)) => Modulation { scale: Some(scale), shift: Some(shift), offset: *offset },
                None => Modulation::default(),
            };
            let InputForm { output, rotate, plain } = form;
            rows(
                gpu,
                Columns::all(&self.x),
                &RowWork { norm: self.norm, modulation, rope: None, rotate, output, plain },
            )?
        };
        made.push((form, rounded.clone()));
        Ok(rounded)
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

    fn linear(&self, shape: [usize; 2], w: &Weights) -> Result<GpuLinear> {
        Ok(GpuLinear { weights: w.clone(), shape, bias: w.gpu_tensor(shape[0], "bias")? })
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

    fn bring(&self, x: Tensor) -> Result<GpuTensor> {
        self.upload(&x)
    }

    fn fetch(&self, x: &GpuTensor) -> Result<Tensor> {
        x.download(&self.gpu)?.unsqueeze(0)
    }

    fn time(&self, rows: &Tensor) -> Result<GpuTensor> {
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

    fn context<'a>(&self, condition: &'a Conditioning) -> Result<&'a Context<Self>> {
        if let Some(there) = condition.on_gpu.get() {
            return Ok(there);
        }
        let Context { text, counts, image, kept } = &condition.context;
        let counts = match counts {
            // For all heads and queries.
            Some(counts) => Some(GpuTensor::upload(&self.gpu, &counts.reshape((1, 1, ()))?, GpuDtype::F32)?),
            None => None,
        };
        let image = image.as_ref().map(|image| self.upload(image)).transpose()?;
        let kept = kept.as_ref().map(|_| Default::default());
        let there = Context { text: self.upload(text)?, counts, image, kept };
        Ok(condition.on_gpu.get_or_init(|| there))
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

    fn product(&self, x: &GpuInput, linear: &GpuLinear) -> Result<GpuTensor> {
        self.multiply(x, linear, Terms::default())
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

    fn attention(
        &self,
        queries: &GpuTensor,
        KeysValues { k, v }: &KeysValues<Self>,
        counts: Option<&GpuTensor>,
        _: Compute,
    ) -> Result<GpuTensor> {
        let &[tokens, heads, dim] = queries.shape() else { candle_core::bail!("queries {queries:?} are not in heads") };
        let clip = |x: &GpuTensor| x.reshape(&[1, x.shape().first().copied().unwrap_or(0), heads, dim]);
        let (q, k, v) = (clip(queries)?, clip(k)?, clip(v)?);
        let scale = (dim as f32).sqrt().recip();
        let attended = attention(&self.gpu, [Heads::of(&q)?, Heads::of(&k)?, Heads::of(&v)?], scale, counts)?;
        Ok(attended.reshape(&[tokens, heads * dim])?)
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
