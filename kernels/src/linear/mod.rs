//! `y = x·Wᵀ + b` with weights in any stored precision.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{DType, Result, Tensor};

/// Elements of a matrix that are widened to f32 at a time: a tile of 16 MiB, whatever the size of the matrix.
const TILE_ELEMENTS: usize = 4 << 20;

/// `x` `[.., in]` f32, `weight` `[out, in]` f32, bf16 or f16, `bias` `[out]` f32 → `[.., out]` f32.
///
/// Half-precision weights are widened in row tiles, never as a whole. Each output element is the same sum in the
/// same order whatever the tiling.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut().filter(|last| **last == in_features) else {
        candle_core::bail!("linear: input {:?} does not end in {in_features}", x.dims());
    };
    *last = out_features;
    let rows = x.reshape(((), in_features))?;
    let product = if weight.dtype() == DType::F32 {
        rows.matmul(&weight.t()?)?
    } else {
        let step = (TILE_ELEMENTS / in_features.max(1)).max(1);
        let mut tiles = Vec::with_capacity(out_features.div_ceil(step));
        for start in (0..out_features).step_by(step) {
            let tile = weight.narrow(0, start, step.min(out_features - start))?;
            tiles.push(rows.matmul(&tile.to_dtype(DType::F32)?.t()?)?);
        }
        if tiles.len() == 1 { tiles.remove(0) } else { Tensor::cat(&tiles, 1)? }
    };
    let product = match bias {
        Some(bias) => product.broadcast_add(bias)?,
        None => product,
    };
    product.reshape(shape)
}
