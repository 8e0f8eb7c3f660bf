//! The definition: sums of products in f64, one output at a time.

use candle_core::{DType, Result, Tensor};

/// See [`linear`](super::linear()); host only, and slow.
///
/// # Errors
/// Shapes that do not fit.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (out_features, in_features) = weight.dims2()?;
    let w = weight.to_dtype(DType::F64)?.to_vec2::<f64>()?;
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
