//! The definition, query by query in f64.

use candle_core::{DType, Result, Tensor};

/// See [`attention_with_bias`](super::attention_with_bias); host only, and slow.
///
/// # Errors
/// Shapes that do not fit.
pub fn attention_with_bias(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, bias: Option<&Tensor>) -> Result<Tensor> {
    let (batch, heads, queries, _) = q.dims4()?;
    let width = v.dim(3)?;
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten(0, 1)?.to_vec3::<f64>();
    let (q3, k3, v3) = (flat(q)?, flat(k)?, flat(v)?);
    let bias = bias.map(|b| b.to_dtype(DType::F64)?.to_vec3::<f64>()).transpose()?;
    let mut out = Vec::with_capacity(batch * heads * queries * width);
    for (bh, ((q, k), v)) in q3.iter().zip(&k3).zip(&v3).enumerate() {
        for (i, q) in q.iter().enumerate() {
            let mut scores: Vec<f64> =
                k.iter().map(|k| scale * q.iter().zip(k).map(|(a, b)| a * b).sum::<f64>()).collect();
            if let Some(bias) = &bias {
                scores.iter_mut().zip(&bias[bh % heads][i]).for_each(|(s, b)| *s += b);
            }
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..width {
                let sum: f64 = weights.iter().zip(v).map(|(w, v)| w * v[d]).sum();
                out.push((sum / total) as f32);
            }
        }
    }
    Tensor::from_vec(out, (batch, heads, queries, width), q.device())
}
