//! The definition: sums of products in f64, one output at a time.

use candle_core::{DType, Result, Tensor};

use super::matrix::Stored;
use super::{Difference, Matrix};
use crate::quant::decode;

/// See [`linear`](super::linear()); host only, and slow.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Matrix, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    let w = matrix(weight)?;
    let b = match bias {
        Some(b) => b.to_dtype(DType::F64)?.to_vec1::<f64>()?,
        None => vec![0.0; out_features],
    };
    let rows = x.to_dtype(DType::F64)?.reshape(((), in_features))?.to_vec2::<f64>()?;
    let mut out = Vec::with_capacity(rows.len() * out_features);
    for row in &rows {
        for (w, b) in w.iter().zip(&b) {
            out.push((b + row.iter().zip(w).map(|(x, w)| x * w).sum::<f64>()) as f32);
        }
    }
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = out_features;
    }
    Tensor::from_vec(out, shape, x.device())
}

/// The matrix with its differences.
fn matrix(weight: &Matrix) -> Result<Vec<Vec<f64>>> {
    let values = |t: &Tensor| t.to_dtype(DType::F64)?.to_vec2::<f64>();
    let mut w = match &weight.stored {
        Stored::Later(_) => return matrix(&weight.now()?),
        Stored::Float(tensor) => values(tensor)?,
        Stored::Quantised(matrix) => {
            let row = |row| decode::reference::row(matrix, row).into_iter().map(f64::from).collect();
            (0..matrix.shape()[0]).map(row).collect()
        }
    };
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
    Ok(w)
}
