//! `y = x·Wᵀ + b` with weights in any stored precision.

mod float;
mod matrix;
pub mod reference;
#[cfg(test)]
mod tests;
mod tiles;

use candle_core::{DType, Device, Result, Tensor};

use crate::level::Level;
use crate::pieces;
use crate::quant::View;
use crate::rows::with_f32;
use matrix::Stored;

pub use matrix::{Difference, LaterMatrix, Matrix};

/// Elements of a matrix that are widened to f32 at a time: a tile of 16 MiB, whatever the size of the matrix.
const TILE_ELEMENTS: usize = 4 << 20;

/// `x` `[.., in]` f32, `weight` `[out, in]`, `bias` `[out]` f32 → `[.., out]` f32.
///
/// On the host, weights of any precision are widened in tiles of less than 1 MiB a thread, beside at most 32 MiB of repacked
/// inputs; elsewhere in tiles of 16 MiB. Each output element is the same sum in the same order whatever the tiling, the number of
/// threads and the memory that the weights lie in; up to four rows of inputs are summed in another order than more.
/// Differences are added in f32 in their order, rows in pieces of at most 16 MiB.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut().filter(|last| **last == in_features) else {
        candle_core::bail!("linear: input {:?} does not end in {in_features}", x.dims());
    };
    *last = out_features;
    if let Some(bias) = bias.filter(|b| b.dims() != [out_features]) {
        candle_core::bail!("linear: bias {:?} for {out_features} outputs", bias.dims());
    }
    let count: usize = shape.iter().rev().skip(1).product();
    let rows = x.reshape((count, in_features))?;
    let product = match &weight.stored {
        Stored::Later(_) => return linear(x, &weight.now()?, bias),
        Stored::Float(weight) => float::product(&rows, weight, bias)?,
        Stored::Quantised(weight) if matches!(x.device(), Device::Cpu) => on_host(&rows, weight.view(), bias)?,
        Stored::Quantised(weight) => {
            let tile = |start, count| matrix::decoded(weight, start, count)?.to_device(x.device());
            float::in_tiles(&rows, out_features, float::tile_rows(in_features), bias, tile)?
        }
    };
    add_differences(&rows, product, &weight.differences)?.reshape(shape)
}

/// `x` `[rows, in]` f32 with a matrix in the host's memory.
fn on_host(x: &Tensor, weight: View, bias: Option<&Tensor>) -> Result<Tensor> {
    let count = x.dim(0)?;
    let bias = bias.map(|b| b.to_dtype(DType::F32)?.to_vec1::<f32>()).transpose()?;
    let product = with_f32(x, |x| Ok(tiles::product(x, count, weight, bias.as_deref(), Level::detect())))?;
    Tensor::from_vec(product, (count, weight.rows), &Device::Cpu)
}

/// Most bytes that [`linear`] takes on the host beside its argument and its result, whatever the weight is held as: repacked
/// inputs, and what each thread decodes rows into. `shape` is the weight's `[out, in]`; differences take as much again.
pub fn workspace_bytes(rows: usize, [_, in_features]: [usize; 2]) -> u64 {
    let scratch = rayon::current_num_threads() * tiles::scratch_floats(rows);
    4 * (tiles::packed_floats(rows, in_features) + scratch) as u64
}

/// Adds what the differences make of `x` `[rows, in]` to `[rows, out]`.
fn add_differences(x: &Tensor, product: Tensor, differences: &[Difference]) -> Result<Tensor> {
    if differences.is_empty() {
        return Ok(product);
    }
    let (count, out_features) = product.dims2()?;
    for rows in pieces(count, TILE_ELEMENTS / out_features.max(x.dim(1)?).max(1)) {
        let x = x.narrow(0, rows.start, rows.len())?;
        let mut sum = product.narrow(0, rows.start, rows.len())?;
        for difference in differences {
            sum = match difference {
                Difference::Whole { difference, factor } => (sum + (float::product(&x, difference, None)? * *factor)?)?,
                Difference::LowRank { down, up, first_row, factor } => {
                    let inner = (float::product(&x, down, None)? * *factor)?;
                    float::add_at(&sum, &float::product(&inner, up, None)?, 1, *first_row)?
                }
            };
        }
        product.slice_set(&sum.contiguous()?, 0, rows.start)?;
    }
    Ok(product)
}
