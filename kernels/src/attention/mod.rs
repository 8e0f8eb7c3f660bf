//! Softmax attention without a mask.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{D, DType, Device, Result, Tensor};

use crate::norm::{softmax_rows, softmax_rows_in_place};
use crate::{largest_piece, pieces};

/// Scores that may lie in memory at once: 64 MiB of f32.
const MAX_SCORES: usize = 16 << 20;

/// `softmax(scale·q·kᵀ)·v` for `q` `[B, H, Lq, D]`, `k` and `v` `[B, H, Lk, D]`, all f32 → `[B, H, Lq, D]`.
///
/// Queries are taken in pieces, so memory for scores is bounded for any length; a row of scores is always computed
/// as a whole, so the pieces do not change the result. Of several pieces the result is a view of `[B, Lq, H, D]`.
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
    let kt = k.contiguous()?.t()?;
    let v = v.contiguous()?;
    let mut out = None;
    for rows in pieces(queries, most_queries(batch * heads, keys)) {
        // In candle, what is computed from a view is contiguous.
        let mut scores = (q.narrow(2, rows.start, rows.len())? * scale)?.matmul(&kt)?;
        if let Some(bias) = bias {
            scores = scores.broadcast_add(&bias.narrow(1, rows.start, rows.len())?)?;
        }
        let piece = softmax_in_place(scores)?.matmul(&v)?;
        if rows.len() == queries {
            return Ok(piece);
        }
        let out = match &out {
            Some(out) => out,
            // Heads lie inside of tokens, which is how they are wanted next.
            None => out.insert(Tensor::zeros((batch, queries, heads, v.dim(3)?), piece.dtype(), piece.device())?),
        };
        out.slice_set(&piece.transpose(1, 2)?.contiguous()?, 1, rows.start)?;
    }
    match out {
        Some(out) => out.transpose(1, 2),
        None => Tensor::zeros((batch, heads, queries, v.dim(3)?), q.dtype(), q.device()),
    }
}

/// Queries that are taken at once.
fn most_queries(heads: usize, keys: usize) -> usize {
    MAX_SCORES / (heads * keys).max(1)
}

/// Sizes of one call of [`attention`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Heads of all members of the batch, B·H.
    pub heads: usize,
    /// Lq.
    pub queries: usize,
    /// Lk.
    pub keys: usize,
    /// Channels of a head.
    pub width: usize,
    /// Whether a bias is added.
    pub biased: bool,
}

impl AttentionShape {
    /// Most bytes that the call takes on the host beside its arguments, the result among them, where `k` and `v` are
    /// contiguous.
    pub fn peak_bytes(&self) -> u64 {
        let rows = largest_piece(self.queries, most_queries(self.heads, self.keys));
        let [scores, piece] = [self.keys, self.width].map(|n| (self.heads * rows * n) as u64);
        let out = if rows < self.queries { (self.heads * self.queries * self.width) as u64 } else { 0 };
        // Scores before and after the bias; with the piece of queries or of the result; and that in both orders.
        let biased = if self.biased { 2 * scores } else { 0 };
        4 * (out + biased.max(scores + piece).max(if out > 0 { 2 * piece } else { 0 }))
    }
}

/// [`softmax`] in the memory of `x` where the device can.
fn softmax_in_place(x: Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32 { softmax_rows_in_place(x) } else { softmax(&x) }
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
