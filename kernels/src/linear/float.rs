//! Products with float matrices, by candle.

use candle_core::{DType, Result, Tensor};

use super::TILE_ELEMENTS;

/// `x` `[rows, in]` f32 times `weight` `[out, in]` f32, bf16 or f16, transposed → `[rows, out]` f32.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if weight.dtype() == DType::F32 {
        return x.matmul(&weight.t()?);
    }
    let (out_features, in_features) = weight.dims2()?;
    let step = (TILE_ELEMENTS / in_features.max(1)).max(1);
    in_tiles(x, out_features, step, |start, count| weight.narrow(0, start, count)?.to_dtype(DType::F32))
}

/// `x` times rows that come in tiles of `step`.
pub(super) fn in_tiles(
    x: &Tensor,
    out_features: usize,
    step: usize,
    tile: impl Fn(usize, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let starts = (0..out_features).step_by(step);
    let product = |start| x.matmul(&tile(start, step.min(out_features - start))?.t()?);
    let mut tiles = starts.map(product).collect::<Result<Vec<_>>>()?;
    if tiles.len() == 1 { Ok(tiles.remove(0)) } else { Tensor::cat(&tiles, 1) }
}

/// `x` with `more` added to it from index `first` of dimension `dim` on.
pub(super) fn add_at(x: &Tensor, more: &Tensor, dim: usize, first: usize) -> Result<Tensor> {
    let (all, count) = (x.dim(dim)?, more.dim(dim)?);
    if count == all {
        return x + more;
    }
    let mut parts = Vec::with_capacity(3);
    if first > 0 {
        parts.push(x.narrow(dim, 0, first)?);
    }
    parts.push((x.narrow(dim, first, count)? + more)?);
    if first + count < all {
        parts.push(x.narrow(dim, first + count, all - first - count)?);
    }
    Tensor::cat(&parts, dim)
}
