//! The definition: sums of products in f64, one output at a time.
//!
//! With [`Compute::Bf16`] both factors are rounded to bf16, to the nearest and ties to even, those of a rotated matrix as they
//! are rotated. A scale that all of a row has is no part of a factor: the sum is multiplied with it. With [`Compute::Int8`],
//! where the matrix is int8 with at most one scale a row, inputs are `q·s` with whole `q`: `s` is the largest magnitude of the
//! row's by 127, and `q` the nearest of `x/s`, ties to even.

use candle_core::{DType, Result, Tensor};

use super::matrix::Stored;
use super::rounding::{int8_scale, is_int8, scale_is_of_row};
use super::{Difference, Matrix};
use crate::Compute;
use crate::quant::{QuantError, QuantMatrix, Scales, decode};

/// See [`linear`](super::linear()); host only, and slow. It rounds as the matrix says, whether or not the machine has the instructions.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    let weight = weight.now()?;
    let (w, differences) = (Factor::new(&weight)?, differences(&weight)?);
    let b = match bias {
        Some(b) => b.to_dtype(DType::F64)?.to_vec1::<f64>()?,
        None => vec![0.0; out_features],
    };
    let rows = x.to_dtype(DType::F32)?.reshape(((), in_features))?.to_vec2::<f32>()?;
    let mut out = Vec::with_capacity(rows.len() * out_features);
    for row in &rows {
        let (rounded, scale) = w.round(row);
        let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        for (o, b) in b.iter().enumerate() {
            let beside = differences.as_ref().map_or(0.0, |d| dot(&row, &d[o]));
            out.push((b + dot(&rounded, &w.rows[o]) * scale * w.scales[o] + beside) as f32);
        }
    }
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = out_features;
    }
    Tensor::from_vec(out, shape, x.device())
}

fn dot(x: &[f64], w: &[f64]) -> f64 {
    x.iter().zip(w).map(|(x, w)| x * w).sum()
}

fn bf16(x: f32) -> f64 {
    half::bf16::from_f32(x).to_f64()
}

/// A matrix as it is multiplied with.
struct Factor {
    rows: Vec<Vec<f64>>,
    /// By which sums of a row are multiplied.
    scales: Vec<f64>,
    /// How inputs are rounded.
    compute: Compute,
    /// Groups in which inputs are rotated before.
    rotation: Option<usize>,
}

impl Factor {
    fn new(weight: &Matrix) -> Result<Self> {
        let (out_features, _) = weight.dims2()?;
        let rounded = |rows: Vec<Vec<f32>>| {
            let round = |x| if weight.compute() == Compute::F32 { f64::from(x) } else { bf16(x) };
            rows.into_iter().map(|row| row.into_iter().map(round).collect()).collect()
        };
        let all = |matrix: &QuantMatrix| (0..out_features).map(|row| decode::reference::row(matrix, row)).collect();
        let ones = vec![1.0; out_features];
        let matrix = match &weight.stored {
            Stored::Later(_) => return Self::new(&weight.now()?),
            Stored::Float(tensor) => {
                let rows = rounded(tensor.to_dtype(DType::F32)?.to_vec2()?);
                let compute = weight.compute().min(Compute::Bf16);
                return Ok(Self { rows, scales: ones, compute, rotation: None });
            }
            Stored::Quantised(matrix) => matrix,
        };
        if weight.compute() == Compute::F32 {
            return Ok(Self { rows: rounded(all(matrix)), scales: ones, compute: Compute::F32, rotation: None });
        }
        // As stored, without a rotation and without scales of rows.
        let (encoding, shape, rotation) = (matrix.encoding(), matrix.shape(), matrix.rotation());
        let of_row = scale_is_of_row(encoding, matrix.scales());
        let inner = if of_row { Scales::None } else { matrix.scales().clone() };
        let stored = QuantMatrix::new(encoding, shape, matrix.bytes().clone(), inner, None);
        let rows = rounded(all(&stored.map_err(QuantError::into_candle)?));
        let scales = match matrix.scales() {
            Scales::Matrix(scale) if of_row => vec![f64::from(*scale); out_features],
            Scales::Rows(scales) if of_row => scales.iter().copied().map(f64::from).collect(),
            _ => ones,
        };
        let int8 = weight.compute() == Compute::Int8 && is_int8(encoding, matrix.scales(), shape[1]);
        Ok(Self { rows, scales, compute: if int8 { Compute::Int8 } else { Compute::Bf16 }, rotation })
    }

    /// A row of inputs, and by what its sums are to be multiplied.
    fn round(&self, x: &[f32]) -> (Vec<f64>, f64) {
        let mut x = x.to_vec();
        if let Some(group) = self.rotation {
            x.chunks_mut(group).for_each(decode::reference::rotate);
        }
        match self.compute {
            Compute::F32 => (x.into_iter().map(f64::from).collect(), 1.0),
            Compute::Bf16 => (x.into_iter().map(bf16).collect(), 1.0),
            Compute::Int8 => {
                let larger = |a: f32, b: &f32| if b.is_nan() || b.abs() > a { b.abs() } else { a };
                let (scale, factor) = int8_scale(x.iter().fold(0.0, larger));
                (x.into_iter().map(|x| f64::from((x * factor).round_ties_even())).collect(), f64::from(scale))
            }
        }
    }
}

/// What is beside the matrix, summed.
fn differences(weight: &Matrix) -> Result<Option<Vec<Vec<f64>>>> {
    let (out_features, in_features) = weight.dims2()?;
    if weight.differences().is_empty() {
        return Ok(None);
    }
    let values = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec2::<f64>();
    let mut w = vec![vec![0.0; in_features]; out_features];
    for difference in weight.differences() {
        match difference {
            Difference::Whole { difference, factor } => {
                for (w, d) in w.iter_mut().flatten().zip(values(difference)?.iter().flatten()) {
                    *w += factor * d;
                }
            }
            Difference::LowRank { down, up, first_row, factor } => {
                let (down, up) = (values(down)?, values(up)?);
                for (w, up) in w[*first_row..].iter_mut().zip(&up) {
                    for (up, down) in up.iter().zip(&down) {
                        w.iter_mut().zip(down).for_each(|(w, down)| *w += factor * up * down);
                    }
                }
            }
        }
    }
    Ok(Some(w))
}
