//! LayerNorm and RMSNorm over the last dimension, statistics in f32.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result, Tensor};

use crate::exp::exp;
use crate::rope::Angles;
use crate::rows::{RowKernel, VectorRowKernel, map_rows, map_rows_in_place, max_of, sum_of, with_f32};
use crate::vector::Vector;

/// `(x − mean)/√(var + eps)·weight + bias` over the last dimension `D`, biased variance. `x` `[.., D]` f32, `weight`
/// and `bias` `[D]` f32 or absent → the shape of `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    if !matches!(x.device(), Device::Cpu) {
        return reference::layer_norm(x, weight, bias, eps);
    }
    map_rows(x, &LayerNorm::new(x.dim(candle_core::D::Minus1)?, weight, bias, eps)?)
}

/// [`layer_norm`] of one row.
pub(crate) struct LayerNorm {
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl LayerNorm {
    /// Of rows of `width`.
    pub(crate) fn new(width: usize, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Self> {
        let kernel = Self { weight: vector(weight)?, bias: vector(bias)?, eps: eps as f32 };
        check_width(width, &[kernel.weight.as_ref(), kernel.bias.as_ref()])?;
        Ok(kernel)
    }
}

impl RowKernel for LayerNorm {
    #[inline(always)]
    fn row(&self, _: usize, input: &[f32], out: &mut [f32]) {
        let n = input.len() as f32;
        let mean = sum_of(input, |v| v) / n;
        let var = sum_of(input, |v| (v - mean) * (v - mean)) / n;
        let scale = (var + self.eps).sqrt().recip();
        let normal = out.iter_mut().zip(input.iter().map(|v| (v - mean) * scale));
        match (&self.weight, &self.bias) {
            (None, None) => normal.for_each(|(o, v)| *o = v),
            (Some(weight), None) => normal.zip(weight).for_each(|((o, v), w)| *o = v * w),
            (None, Some(bias)) => normal.zip(bias).for_each(|((o, v), b)| *o = v + b),
            (Some(weight), Some(bias)) => {
                normal.zip(weight.iter().zip(bias)).for_each(|((o, v), (w, b))| *o = v * w + b);
            }
        }
    }
}

/// `x/√(mean(x²) + eps)·weight` over the last dimension. `x` `[.., D]` f32, `weight` `[D]` f32 → the shape of `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !matches!(x.device(), Device::Cpu) {
        return reference::rms_norm(x, weight, eps);
    }
    map_rows(x, &RmsNorm::new(x, weight, eps)?)
}

/// As [`rms_norm`], with the result in the memory of `x` where the device can: nobody else may hold `x`.
///
/// # Errors
/// As there.
pub fn rms_norm_in_place(x: Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !matches!(x.device(), Device::Cpu) {
        return reference::rms_norm(&x, weight, eps);
    }
    let kernel = RmsNorm::new(&x, weight, eps)?;
    map_rows_in_place(x, &kernel)
}

/// [`rms_norm`] over all channels of a token, then [`rope`](crate::rope::rope()) head by head, in one pass and in the
/// memory of `x` where the device can: nobody else may hold `x`. `x` `[B, L, H·D]` f32, `weight` `[H·D]`, `cos` and `sin`
/// `[L, D/2]` f32 → `[B, L, H, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm_rope_in_place(x: Tensor, weight: &Tensor, eps: f64, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (batch, tokens, channels) = x.dims3()?;
    let width = 2 * cos.dim(candle_core::D::Minus1)?;
    if width == 0 || channels % width != 0 || cos.dims() != [tokens, width / 2] || sin.dims() != cos.dims() {
        candle_core::bail!("norm and rope: x {:?} with tables {:?} and {:?}", x.dims(), cos.dims(), sin.dims());
    }
    let heads = (batch, tokens, channels / width, width);
    if !matches!(x.device(), Device::Cpu) {
        return crate::rope::reference::rope(&reference::rms_norm(&x, weight, eps)?.reshape(heads)?, cos, sin);
    }
    let norm = RmsNorm::new(&x, weight, eps)?;
    let out = with_f32(cos, |cos| {
        with_f32(sin, |sin| map_rows_in_place(x, &RmsNormRope { norm, rope: Angles { cos, sin, tokens } }))
    })?;
    out.reshape(heads)
}

struct RmsNormRope<'a> {
    norm: RmsNorm,
    rope: Angles<'a>,
}

impl VectorRowKernel for RmsNormRope<'_> {
    #[inline(always)]
    unsafe fn row<V: Vector>(&self, index: usize, input: &[f32], out: &mut [f32]) {
        let scale = self.norm.scale(input);
        let weight = &self.norm.weight[..];
        let (cos, sin) = self.rope.of(index);
        let (width, lanes) = (2 * cos.len(), V::LANES);
        assert!(weight.len() == input.len() && out.len() == input.len());
        let whole = width / lanes * lanes;
        for first in (0..whole).step_by(lanes) {
            // SAFETY: the instructions are the caller's; whole vectors of a head, and as many angles.
            unsafe {
                let (c, s) = (V::load_twice(cos[first / 2..].as_ptr()), V::load_twice(sin[first / 2..].as_ptr()));
                for at in (first..input.len()).step_by(width) {
                    let x = V::load(input.as_ptr().add(at)).mul(V::splat(scale)).mul(V::load(weight.as_ptr().add(at)));
                    x.mul(c).sub_add(x.swap_pairs().mul(s)).store(out.as_mut_ptr().add(at));
                }
            }
        }
        for head in (0..input.len()).step_by(width) {
            for pair in whole / 2..cos.len() {
                let at = head + 2 * pair;
                let (re, im) = (input[at] * scale * weight[at], input[at + 1] * scale * weight[at + 1]);
                out[at] = re * cos[pair] - im * sin[pair];
                out[at + 1] = im * cos[pair] + re * sin[pair];
            }
        }
    }
}

struct RmsNorm {
    weight: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    fn new(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Self> {
        let kernel = Self { weight: weight.to_vec1::<f32>()?, eps: eps as f32 };
        check_width(x.dim(candle_core::D::Minus1)?, &[Some(&kernel.weight)])?;
        Ok(kernel)
    }

    /// What a row is multiplied with.
    #[inline(always)]
    fn scale(&self, row: &[f32]) -> f32 {
        let mean_square = sum_of(row, |v| v * v) / row.len() as f32;
        (mean_square + self.eps).sqrt().recip()
    }
}

impl RowKernel for RmsNorm {
    #[inline(always)]
    fn row(&self, _: usize, input: &[f32], out: &mut [f32]) {
        let scale = self.scale(input);
        for ((o, v), w) in out.iter_mut().zip(input).zip(&self.weight) {
            *o = v * scale * w;
        }
    }
}

/// Softmax over the last dimension of an f32 tensor on the host.
pub(crate) fn softmax_rows(x: &Tensor) -> Result<Tensor> {
    map_rows(x, &Softmax)
}

/// As [`softmax_rows`], in the memory of `x`.
pub(crate) fn softmax_rows_in_place(x: Tensor) -> Result<Tensor> {
    map_rows_in_place(x, &Softmax)
}

struct Softmax;

impl RowKernel for Softmax {
    #[inline(always)]
    fn row(&self, _: usize, input: &[f32], out: &mut [f32]) {
        let max = max_of(input);
        for (o, v) in out.iter_mut().zip(input) {
            *o = exp(v - max);
        }
        let scale = sum_of(out, |v| v).recip();
        out.iter_mut().for_each(|o| *o *= scale);
    }
}

fn vector(t: Option<&Tensor>) -> Result<Option<Vec<f32>>> {
    t.map(Tensor::to_vec1::<f32>).transpose()
}

fn check_width(width: usize, vectors: &[Option<&Vec<f32>>]) -> Result<()> {
    for v in vectors.iter().copied().flatten() {
        if v.len() != width {
            candle_core::bail!("norm: {} gains for rows of {width}", v.len());
        }
    }
    Ok(())
}
