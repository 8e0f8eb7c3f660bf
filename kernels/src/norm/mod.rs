//! LayerNorm and RMSNorm over the last dimension, statistics in f32.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result, Tensor};

use crate::exp::exp;
use crate::rows::{RowKernel, map_rows, map_rows_in_place, max_of, sum_of};

/// `(x − mean)/√(var + eps)·weight + bias` over the last dimension `D`, biased variance. `x` `[.., D]` f32, `weight`
/// and `bias` `[D]` f32 or absent → the shape of `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    if !matches!(x.device(), Device::Cpu) {
        return reference::layer_norm(x, weight, bias, eps);
    }
    let kernel = LayerNorm { weight: vector(weight)?, bias: vector(bias)?, eps: eps as f32 };
    check_width(x.dim(candle_core::D::Minus1)?, &[kernel.weight.as_ref(), kernel.bias.as_ref()])?;
    map_rows(x, &kernel)
}

struct LayerNorm {
    weight: Option<Vec<f32>>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

impl RowKernel for LayerNorm {
    #[inline(always)]
    fn row(&self, _: usize, input: &[f32], out: &mut [f32]) {
        let n = input.len() as f32;
        let mean = sum_of(input, |v| v) / n;
        let var = sum_of(input, |v| (v - mean) * (v - mean)) / n;
        let scale = (var + self.eps).sqrt().recip();
        for (o, v) in out.iter_mut().zip(input) {
            *o = (v - mean) * scale;
        }
        if let Some(weight) = &self.weight {
            out.iter_mut().zip(weight).for_each(|(o, w)| *o *= w);
        }
        if let Some(bias) = &self.bias {
            out.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
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
}

impl RowKernel for RmsNorm {
    #[inline(always)]
    fn row(&self, _: usize, input: &[f32], out: &mut [f32]) {
        let mean_square = sum_of(input, |v| v * v) / input.len() as f32;
        let scale = (mean_square + self.eps).sqrt().recip();
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
