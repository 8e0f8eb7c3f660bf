//! Softmax attention without a mask.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::norm::softmax_rows;

/// Scores that may lie in memory at once: 64 MiB of f32.
const MAX_SCORES: usize = 16 << 20;

/// `softmax(scale·q·kᵀ)·v` for `q` `[B, H, Lq, D]`, `k` and `v` `[B, H, Lk, D]`, all f32 → `[B, H, Lq, D]`.
///
/// Queries are taken in chunks, so memory for scores is bounded for any length; a row of scores is always computed
/// as a whole, so the chunking does not change the result.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    attention_with_bias(q, k, v, scale, None)
}

/// As [`attention`], with `bias` `[H, Lq, Lk]` added to the scaled scores.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention_with_bias(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
    let (batch, heads, queries, _) = q.dims4()?;
    let keys = k.dim(2)?;
    if k.dims()[..2] != [batch, heads] || v.dims()[..3] != [batch, heads, keys] {
        candle_core::bail!("attention: q {:?}, k {:?}, v {:?} do not fit", q.dims(), k.dims(), v.dims());
    }
    let q = (q.contiguous()? * scale)?;
    let kt = k.contiguous()?.t()?;
    let v = v.contiguous()?;
    let chunk = (MAX_SCORES / (batch * heads * keys).max(1)).max(1);
    let mut outputs = Vec::with_capacity(queries.div_ceil(chunk));
    for start in (0..queries).step_by(chunk) {
        let count = chunk.min(queries - start);
        let mut scores = q.narrow(2, start, count)?.contiguous()?.matmul(&kt)?;
        if let Some(bias) = bias {
            scores = scores.broadcast_add(&bias.narrow(1, start, count)?)?;
        }
        outputs.push(softmax(&scores)?.matmul(&v)?);
    }
    if outputs.len() == 1 { Ok(outputs.remove(0)) } else { Tensor::cat(&outputs, 2) }
}

/// Softmax over the last dimension, f32.
///
/// # Errors
/// Fails only where the device does.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32 {
        return softmax_rows(x);
    }
    let e = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}
