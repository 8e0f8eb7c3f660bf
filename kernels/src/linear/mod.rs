//! `y = x·Wᵀ + b` with weights in any stored precision.

mod epilogue;
mod float;
mod input;
mod matrix;
#[cfg(target_arch = "x86_64")]
mod narrow;
pub mod reference;
mod rounding;
#[cfg(test)]
mod tests;
mod tiles;

use candle_core::{Device, Result, Tensor};

use crate::level::{self, Level};
use crate::quant::View;
use crate::rows::with_f32;
use crate::{Compute, pieces};
use epilogue::Output;
#[cfg(target_arch = "x86_64")]
use input::Form;
use matrix::Stored;
#[cfg(target_arch = "x86_64")]
use narrow::Values;

pub use epilogue::Epilogue;
pub use input::Input;
pub use matrix::{Difference, LaterMatrix, Matrix};

/// Elements of a matrix that are widened to f32 at a time: a tile of 16 MiB, whatever the size of the matrix.
const TILE_ELEMENTS: usize = 4 << 20;

/// `x` `[.., in]` f32, `weight` `[out, in]`, `bias` `[out]` f32 → `[.., out]` f32.
///
/// On the host, products are computed in the numbers that [`Matrix::compute`] names where the machine has the instructions,
/// sums in f32 or whole. Weights of any precision are packed in tiles of less than 1 MiB a thread, beside at most 32 MiB of
/// repacked inputs; elsewhere they are widened in tiles of 16 MiB. Each output element is the same sum in the same order
/// whatever the tiling, the number of threads and the memory that the weights lie in; up to four rows of inputs are summed in
/// another order than more. Differences are added in f32 in their order, rows in pieces of at most 16 MiB.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    linear_with(x, weight, bias, Epilogue::None)
}

/// As [`linear`](linear()), and then the epilogue, which on the host is part of writing the result: the bits are those of
/// computing one after the other.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_with(x: &Tensor, weight: &Matrix, bias: Option<&Tensor>, epilogue: Epilogue) -> Result<Tensor> {
    linear_of(&x.clone().into(), weight, bias, epilogue)
}

/// As [`linear_with`], of inputs that may be shared with other products and normalised before.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear_of(x: &Input, weight: &Matrix, bias: Option<&Tensor>, epilogue: Epilogue) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let Some(last) = shape.last_mut().filter(|last| **last == in_features) else {
        candle_core::bail!("linear: input {:?} does not end in {in_features}", x.dims());
    };
    *last = out_features;
    if let Some(bias) = bias.filter(|b| b.dims() != [out_features]) {
        candle_core::bail!("linear: bias {:?} for {out_features} outputs", bias.dims());
    }
    epilogue.check(&shape)?;
    if let Stored::Later(_) = &weight.stored {
        return linear_of(x, &weight.now()?, bias, epilogue);
    }
    if weight.differences.is_empty() {
        let terms = Terms { bias, epilogue, compute: weight.compute() };
        return product(x, &weight.stored, &terms)?.reshape(shape);
    }
    let terms = Terms { bias, epilogue: Epilogue::None, compute: weight.compute() };
    let rows = in_rows(x.plain()?, in_features)?;
    let product = product(&rows.clone().into(), &weight.stored, &terms)?;
    epilogue.apply(add_differences(&rows, product, &weight.differences)?.reshape(shape)?)
}

/// `[.., in]` → `[rows, in]`, if there are no columns as well.
fn in_rows(x: &Tensor, in_features: usize) -> Result<Tensor> {
    let count: usize = x.dims().iter().rev().skip(1).product();
    x.reshape((count, in_features))
}

/// What belongs to a product.
#[derive(Default)]
struct Terms<'a> {
    bias: Option<&'a Tensor>,
    epilogue: Epilogue<'a>,
    compute: Compute,
}

/// `x` `[.., in]` with a matrix that is there → `[rows, out]`.
fn product(x: &Input, weight: &Stored, terms: &Terms) -> Result<Tensor> {
    match weight {
        Stored::Later(later) => candle_core::bail!("linear: {later:?} is not there"),
        Stored::Float(weight) => float::product(x, weight, terms),
        Stored::Quantised(weight) if matches!(x.device(), Device::Cpu) => on_host(x, weight.view(), terms),
        Stored::Quantised(weight) => {
            let [out_features, in_features] = weight.shape();
            let tile = |start, count| matrix::decoded(weight, start, count)?.to_device(x.device());
            let x = in_rows(x.plain()?, in_features)?;
            let product = float::in_tiles(&x, out_features, float::tile_rows(in_features), terms.bias, tile)?;
            terms.epilogue.apply(product)
        }
    }
}

/// A product to be computed on the host.
struct Job<'a> {
    /// Rows of inputs.
    count: usize,
    weight: View<'a>,
    output: Output<'a>,
}

/// `x` `[.., in]` with a matrix in the host's memory → `[rows, out]`.
fn on_host(x: &Input, weight: View, terms: &Terms) -> Result<Tensor> {
    let count: usize = x.dims().iter().rev().skip(1).product();
    let product = terms.epilogue.with(terms.bias, |output| {
        let job = Job { count, weight, output };
        Ok(match available(terms.compute, weight) {
            #[cfg(target_arch = "x86_64")]
            compute @ (Compute::Bf16 | Compute::Int8) => {
                match x.rounded(Form { compute, rotation: weight.rotation })? {
                    Some(rounded) => narrow::product(Values::Rounded(&rounded), compute, job),
                    None => with_f32(x.plain()?, |x| Ok(narrow::product(Values::Floats(x), compute, job)))?,
                }
            }
            _ => with_f32(x.plain()?, |x| Ok(tiles::product(x, job, Level::detect())))?,
        })
    })?;
    Tensor::from_vec(product, (count, weight.rows), &Device::Cpu)
}

/// The numbers that a matrix is multiplied in on this machine.
fn available(compute: Compute, weight: View) -> Compute {
    let int8 = rounding::is_int8(weight.encoding, weight.scales, weight.columns) && level::int8_products();
    match compute {
        _ if weight.columns == 0 => Compute::F32,
        Compute::Int8 if int8 => Compute::Int8,
        Compute::Int8 | Compute::Bf16 if level::bf16_products() => Compute::Bf16,
        _ => Compute::F32,
    }
}

/// Most bytes that [`linear`](linear()) takes on the host beside its argument and its result, whatever the weight is held as:
/// repacked inputs, and what each thread packs rows into. `shape` is the weight's `[out, in]`; differences take as much again.
pub fn workspace_bytes(rows: usize, [_, in_features]: [usize; 2], compute: Compute) -> u64 {
    let threads = rayon::current_num_threads();
    let wide = 4 * (tiles::packed_floats(rows, in_features) + threads * tiles::scratch_floats(rows, in_features));
    let bytes = match compute {
        Compute::F32 => wide,
        // Where instructions lack, f32 is what is computed in.
        #[cfg(target_arch = "x86_64")]
        Compute::Bf16 | Compute::Int8 if level::bf16_products() => narrow::workspace_bytes(rows, in_features, threads),
        #[cfg(target_arch = "x86_64")]
        Compute::Int8 if level::int8_products() => wide.max(narrow::workspace_bytes(rows, in_features, threads)),
        Compute::Bf16 | Compute::Int8 => wide,
    };
    bytes as u64
}

/// Adds what the differences make of `x` `[rows, in]` to `[rows, out]`.
fn add_differences(x: &Tensor, product: Tensor, differences: &[Difference]) -> Result<Tensor> {
    if differences.is_empty() {
        return Ok(product);
    }
    let (count, out_features) = product.dims2()?;
    let plain = Terms::default();
    for rows in pieces(count, TILE_ELEMENTS / out_features.max(x.dim(1)?).max(1)) {
        let x = x.narrow(0, rows.start, rows.len())?;
        let mut sum = product.narrow(0, rows.start, rows.len())?;
        for difference in differences {
            sum = match difference {
                Difference::Whole { difference, factor } => {
                    (sum + (float::product(&x.clone().into(), difference, &plain)? * *factor)?)?
                }
                Difference::LowRank { down, up, first_row, factor } => {
                    let inner = (float::product(&x.clone().into(), down, &plain)? * *factor)?;
                    float::add_at(&sum, &float::product(&inner.into(), up, &plain)?, 1, *first_row)?
                }
            };
        }
        product.slice_set(&sum.contiguous()?, 0, rows.start)?;
    }
    Ok(product)
}
