//! LayerNorm and RMSNorm over the last dimension, statistics in f32.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result, Tensor};

use crate::rows::map_rows;

/// `(x − mean)/√(var + eps)·weight + bias` over the last dimension `D`, biased variance. `x` `[.., D]` f32, `weight`
/// and `bias` `[D]` f32 or absent → the shape of `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn layer_norm(x: &Tensor, weight: Option<&Tensor>, bias: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    if !matches!(x.device(), Device::Cpu) {
        return reference::layer_norm(x, weight, bias, eps);
    }
    let (w, b) = (vector(weight)?, vector(bias)?);
    let width = x.dim(candle_core::D::Minus1)?;
    check_width(width, &[&w, &b])?;
    map_rows(x, |_, input, out| {
        let n = input.len() as f32;
        let mean = sum(input.iter().copied()) / n;
        let var = sum(input.iter().map(|v| (v - mean) * (v - mean))) / n;
        let scale = (var + eps as f32).sqrt().recip();
        for (i, (o, v)) in out.iter_mut().zip(input).enumerate() {
            let mut y = (v - mean) * scale;
            if let Some(w) = &w {
                y *= w[i];
            }
            if let Some(b) = &b {
                y += b[i];
            }
            *o = y;
        }
    })
}

/// `x/√(mean(x²) + eps)·weight` over the last dimension. `x` `[.., D]` f32, `weight` `[D]` f32 → the shape of `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !matches!(x.device(), Device::Cpu) {
        return reference::rms_norm(x, weight, eps);
    }
    let w = weight.to_vec1::<f32>()?;
    check_width(x.dim(candle_core::D::Minus1)?, &[&Some(w.clone())])?;
    map_rows(x, |_, input, out| {
        let mean_square = sum(input.iter().map(|v| v * v)) / input.len() as f32;
        let scale = (mean_square + eps as f32).sqrt().recip();
        for ((o, v), w) in out.iter_mut().zip(input).zip(&w) {
            *o = v * scale * w;
        }
    })
}

/// Softmax over the last dimension of an f32 tensor on the host.
pub(crate) fn softmax_rows(x: &Tensor) -> Result<Tensor> {
    map_rows(x, |_, input, out| {
        let max = input.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (o, v) in out.iter_mut().zip(input) {
            *o = (v - max).exp();
        }
        let scale = sum(out.iter().copied()).recip();
        out.iter_mut().for_each(|o| *o *= scale);
    })
}

/// Sums in sixteen lanes: fast, and more accurate than one running sum.
fn sum(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut lanes = [0f32; 16];
    for (i, v) in values.enumerate() {
        lanes[i % 16] += v;
    }
    lanes.iter().map(|v| f64::from(*v)).sum::<f64>() as f32
}

fn vector(t: Option<&Tensor>) -> Result<Option<Vec<f32>>> {
    t.map(Tensor::to_vec1::<f32>).transpose()
}

fn check_width(width: usize, vectors: &[&Option<Vec<f32>>]) -> Result<()> {
    for v in vectors.iter().copied().flatten() {
        if v.len() != width {
            candle_core::bail!("norm: {} gains for rows of {width}", v.len());
        }
    }
    Ok(())
}
