//! On a GPU. Nothing here waits for it but [`fetch`](Backend::fetch).

use candle_core::{Result, Tensor};
use kernels::cuda::ops::{
    Activation, Columns, Heads, Indices, InputForm, Modulation, Norm, Rounded, RowOutput, RowWork, Terms, attention,
    attention_with_offsets, glu_in_place, input_form, linear_rounded, look_up, map_in_place, rows,
};
use kernels::cuda::{Gpu, GpuDtype, GpuMatrix, GpuTensor};
use weights::Weights;

use super::{Backend, Gelu, SelfAttention};

/// See the module.
#[derive(Clone)]
pub struct OnGpu {
    gpu: Gpu,
}

impl OnGpu {
    /// On this one.
    pub fn new(gpu: Gpu) -> Self {
        Self { gpu }
    }

    fn multiply(&self, x: &GpuInput, linear: &GpuLinear, terms: Terms) -> Result<GpuTensor> {
        // Asked for here and let go of at the end: it may have the place of others.
        let matrix = linear.matrix()?;
        let rounded = x.rounded(&self.gpu, input_form(&self.gpu, &matrix)?)?;
        Ok(linear_rounded(&self.gpu, &rounded, &matrix, &Terms { bias: linear.bias.as_ref(), ..terms })?)
    }

    /// Each of `[B, N, H, D]`.
    fn attend(&self, heads: [Heads; 3], with: SelfAttention<GpuTensor>) -> Result<GpuTensor> {
        let scale = with.scale as f32;
        let attended = match with.offsets {
            Some(offsets) => attention_with_offsets(&self.gpu, heads, scale, offsets)?,
            None => attention(&self.gpu, heads, scale, None)?,
        };
        let &[batch, tokens, heads, dim] = attended.shape() else { candle_core::bail!("{attended:?} is in no heads") };
        Ok(attended.reshape(&[batch, tokens, heads * dim])?)
    }
}

/// A matrix, and a bias f32. The matrix is asked for when it is multiplied with.
pub struct GpuLinear {
    weights: Weights,
    shape: [usize; 2],
    bias: Option<GpuTensor>,
}

impl GpuLinear {
    fn matrix(&self) -> Result<GpuMatrix> {
        Ok(self.weights.gpu_matrix((self.shape[0], self.shape[1]), "weight")?.with_bf16_inputs())
    }
}

/// A gain, and a bias, `[C]` f32.
pub struct GpuNorm {
    weight: GpuTensor,
    bias: Option<GpuTensor>,
    eps: f32,
}

/// Rows, normalised and rounded to bf16.
pub struct GpuInput(GpuTensor);

impl GpuInput {
    /// As a matrix takes them: matrices that are rotated take them rotated.
    fn rounded(&self, gpu: &Gpu, form: InputForm) -> Result<Rounded> {
        let InputForm { output, rotate, plain } = form;
        if output == RowOutput::Bf16 && !rotate {
            return Ok(Rounded { values: self.0.clone(), scales: None, plain: None });
        }
        Ok(rows(gpu, Columns::all(&self.0), &RowWork { rotate, output, plain, ..RowWork::default() })?)
    }
}

/// `heads` of `[B, N, C]`, as far as they divide it.
fn in_heads(x: &GpuTensor, heads: usize) -> Result<GpuTensor> {
    match x.shape() {
        &[batch, tokens, width] if heads > 0 && width % heads == 0 => {
            Ok(x.reshape(&[batch, tokens, heads, width / heads])?)
        }
        other => candle_core::bail!("{heads} heads of {other:?}"),
    }
}

fn activation(gelu: Gelu) -> Activation {
    match gelu {
        Gelu::Tanh => Activation::GeluTanh,
        Gelu::Erf => Activation::GeluErf,
        Gelu::Quick => Activation::GeluQuick,
    }
}

impl Backend for OnGpu {
    type Activations = GpuTensor;
    type Input = GpuInput;
    type Linear = GpuLinear;
    type RmsNorm = GpuNorm;
    type LayerNorm = GpuNorm;
    type Table = GpuTensor;
    type Rows = Indices;
    /// `[H, 2·N − 1]`.
    type Offsets = GpuTensor;

    fn linear(&self, shape: [usize; 2], biased: bool, w: &Weights) -> Result<GpuLinear> {
        let bias = biased.then(|| w.gpu_tensor(shape[0], "bias")).transpose()?;
        Ok(GpuLinear { weights: w.clone(), shape, bias })
    }

    fn rms_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<GpuNorm> {
        Ok(GpuNorm { weight: w.gpu_tensor(dim, "weight")?, bias: None, eps: eps as f32 })
    }

    fn layer_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<GpuNorm> {
        let bias = Some(w.gpu_tensor(dim, "bias")?);
        Ok(GpuNorm { weight: w.gpu_tensor(dim, "weight")?, bias, eps: eps as f32 })
    }

    fn table(&self, [rows, heads]: [usize; 2], name: &str, w: &Weights) -> Result<GpuTensor> {
        w.gpu_tensor((rows, heads), name)
    }

    fn bring(&self, x: Tensor) -> Result<GpuTensor> {
        Ok(GpuTensor::upload(&self.gpu, &x, GpuDtype::F32)?)
    }

    fn fetch(&self, x: &GpuTensor) -> Result<Tensor> {
        Ok(x.download(&self.gpu)?)
    }

    fn rows(&self, numbers: &[u32]) -> Result<Indices> {
        Ok(Indices::upload(&self.gpu, numbers)?)
    }

    fn offsets(&self, table: &GpuTensor, rows: &Indices) -> Result<GpuTensor> {
        Ok(look_up(&self.gpu, table, rows)?)
    }

    fn rms_normed(&self, x: &GpuTensor, norm: &GpuNorm) -> Result<GpuInput> {
        self.normed(x, norm, Norm::Rms { eps: norm.eps })
    }

    fn layer_normed(&self, x: &GpuTensor, norm: &GpuNorm) -> Result<GpuInput> {
        self.normed(x, norm, Norm::Layer { eps: norm.eps })
    }

    fn input(&self, x: GpuTensor) -> Result<GpuInput> {
        Ok(GpuInput(x))
    }

    fn product(&self, x: &GpuInput, linear: &GpuLinear) -> Result<GpuTensor> {
        self.multiply(x, linear, Terms::default())
    }

    fn product_added(&self, x: GpuInput, linear: &GpuLinear, residual: &GpuTensor) -> Result<GpuTensor> {
        self.multiply(&x, linear, Terms { residual: Some(residual), output: GpuDtype::F32, ..Terms::default() })
    }

    fn gated_product(&self, x: GpuInput, [gate, linear]: [&GpuLinear; 2], gelu: Gelu) -> Result<GpuTensor> {
        let gate = self.product(&x, gate)?;
        let y = self.product(&x, linear)?;
        glu_in_place(&self.gpu, Columns::all(&gate), Columns::all(&y), activation(gelu))?;
        Ok(gate)
    }

    fn gelu(&self, x: GpuTensor, gelu: Gelu) -> Result<GpuTensor> {
        map_in_place(&self.gpu, &x, activation(gelu))?;
        Ok(x)
    }

    fn attention(&self, parts: [GpuTensor; 3], with: SelfAttention<GpuTensor>) -> Result<GpuTensor> {
        let [q, k, v] = parts.map(|x| in_heads(&x, with.heads));
        let (q, k, v) = (q?, k?, v?);
        self.attend([Heads::of(&q)?, Heads::of(&k)?, Heads::of(&v)?], with)
    }

    fn attention_of_thirds(&self, all: GpuTensor, with: SelfAttention<GpuTensor>) -> Result<GpuTensor> {
        let width = all.shape().last().copied().unwrap_or(0) / 3;
        let third = |i: usize| Heads::part(&all, i * width, with.heads, width / with.heads.max(1));
        self.attend([third(0)?, third(1)?, third(2)?], with)
    }
}

impl OnGpu {
    /// Rounded to bf16 at once.
    fn normed(&self, x: &GpuTensor, GpuNorm { weight, bias, .. }: &GpuNorm, norm: Norm) -> Result<GpuInput> {
        let modulation = Modulation { scale: Some(weight), shift: bias.as_ref(), offset: 0.0 };
        Ok(GpuInput(rows(&self.gpu, Columns::all(x), &RowWork { norm, modulation, ..RowWork::default() })?.values))
    }
}
