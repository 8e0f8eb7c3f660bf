//! Attention in candle's operations, for any device: scores lie in memory, in pieces.

use candle_core::{DType, Device, Result, Tensor};

use super::{Attention, softmax};
use crate::norm::softmax_rows_in_place;
use crate::pieces;

/// Scores that may lie in memory at once: 64 MiB of f32.
const MAX_SCORES: usize = 16 << 20;

/// As [`Attention::apply`], in the numbers that the tensors have.
///
/// Queries are taken in pieces, so memory for scores is bounded for any length; a row of scores is always computed
/// as a whole. Of several pieces the result is a view of `[B, Lq, H, E]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, how: &Attention) -> Result<Tensor> {
    let (batch, heads, queries, _) = q.dims4()?;
    let keys = k.dim(2)?;
    let kt = k.contiguous()?.t()?;
    let v = v.contiguous()?;
    let mut out = None;
    for rows in pieces(queries, MAX_SCORES / (batch * heads * keys).max(1)) {
        // In candle, what is computed from a view is contiguous.
        let mut scores = (q.narrow(2, rows.start, rows.len())? * how.scale)?.matmul(&kt)?;
        if let Some(bias) = how.bias.scores(rows.clone(), [queries, keys])? {
            scores = scores.broadcast_add(&bias)?;
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

/// [`softmax`] in the memory of `x` where the device can.
fn softmax_in_place(x: Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) && x.dtype() == DType::F32 { softmax_rows_in_place(x) } else { softmax(&x) }
}
