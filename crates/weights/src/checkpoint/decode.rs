//! Quantised matrices as floats.

use candle_core::{DType, Result, Tensor};
use half::{bf16, f16};
use kernels::quant::QuantMatrix;
use rayon::prelude::*;

/// Numbers that are decoded at a time: they stay in the cache until they are rounded.
const TILE: usize = 1 << 14;

/// All numbers of a matrix as `dtype` (F32, BF16, F16 or F64), a flat tensor.
pub(super) fn decode(matrix: &QuantMatrix, dtype: DType) -> Result<Tensor> {
    match dtype {
        DType::F32 => convert(matrix, |v| v),
        DType::BF16 => convert(matrix, bf16::from_f32),
        DType::F16 => convert(matrix, f16::from_f32),
        DType::F64 => convert(matrix, f64::from),
        other => candle_core::bail!("a {} matrix cannot be read as {other:?}", matrix.encoding()),
    }
}

fn convert<T: candle_core::WithDType>(matrix: &QuantMatrix, round: impl Fn(f32) -> T + Sync) -> Result<Tensor> {
    let [rows, columns] = matrix.shape();
    let mut out = vec![T::zero(); rows * columns];
    let tile_rows = (TILE / columns.max(1)).max(1);
    // A matrix without columns has nothing to decode.
    let tiles = out.par_chunks_mut(tile_rows * columns.max(1)).enumerate();
    tiles.try_for_each_init(Vec::new, |tile, (i, out)| {
        tile.resize(out.len(), 0f32);
        matrix.decode_rows(i * tile_rows, out.len() / columns, tile).map_err(candle_core::Error::wrap)?;
        out.iter_mut().zip(tile.iter()).for_each(|(out, v)| *out = round(*v));
        Ok::<_, candle_core::Error>(())
    })?;
    Tensor::from_vec(out, rows * columns, &candle_core::Device::Cpu)
}
