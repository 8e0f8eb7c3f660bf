//! The head of RTMPose: one token a keypoint, a gated attention unit over the tokens, and a classification of each
//! token's column and row (SimCC).
//!
//! Source: mmpose's `RTMCCHead` and `RTMCCBlock`; papers: *RTMPose: Real-Time Multi-Person Pose Estimation based on
//! MMPose* (Jiang et al. 2023), *Transformer Quality in Linear Time* (Hua et al. 2022), *SimCC* (Li et al. 2022).
//!
//! Letters: B pictures, K keypoints, M features of the last map (its pixels), C width of a token, E = 2·C, S width of
//! queries and keys.

use candle_core::{Result, Tensor};
use kernels::linear::{Matrix, linear};
use weights::Weights;

/// Least length that a token is divided by.
pub(super) const NORM_EPS: f64 = 1e-5;

/// Sizes of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dims {
    pub features: usize,
    pub hidden: usize,
    pub expanded: usize,
    pub attention: usize,
    pub columns: usize,
    pub rows: usize,
}

/// The head behind its convolution.
#[derive(Debug, Clone)]
pub(super) struct Head {
    dims: Dims,
    mlp_norm: ScaleNorm,
    /// `[C, M]`.
    mlp: Matrix,
    norm: ScaleNorm,
    /// `[2·E + S, C]`.
    uv: Matrix,
    /// `[2, S]`: of the query, of the key.
    gamma: Tensor,
    /// `[2, S]`.
    beta: Tensor,
    /// `[C, E]`.
    o: Matrix,
    /// `[C]`.
    res_scale: Tensor,
    /// `[columns, C]`.
    cls_x: Matrix,
    /// `[rows, C]`.
    cls_y: Matrix,
}

impl Head {
    /// Under mmpose's names below `head`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(dims: Dims, weights: &Weights) -> Result<Self> {
        let Dims { features, hidden, expanded, attention, columns, rows } = dims;
        let gau = weights.pp("gau");
        Ok(Self {
            dims,
            mlp_norm: ScaleNorm::new(features, &weights.pp("mlp.0"))?,
            mlp: weights.tensor((hidden, features), "mlp.1.weight")?.into(),
            norm: ScaleNorm::new(hidden, &gau.pp("ln"))?,
            uv: gau.tensor((2 * expanded + attention, hidden), "uv.weight")?.into(),
            gamma: gau.tensor((2, attention), "gamma")?,
            beta: gau.tensor((2, attention), "beta")?,
            o: gau.tensor((hidden, expanded), "o.weight")?.into(),
            res_scale: gau.tensor(hidden, "res_scale.scale")?,
            cls_x: weights.tensor((columns, hidden), "cls_x.weight")?.into(),
            cls_y: weights.tensor((rows, hidden), "cls_y.weight")?.into(),
        })
    }

    /// `maps` `[B, h, w, K]` with h·w = M → `[B, K, columns]`, `[B, K, rows]`.
    ///
    /// # Errors
    /// Maps of another shape.
    pub fn forward(&self, maps: &Tensor) -> Result<(Tensor, Tensor)> {
        let tokens = maps.flatten(1, 2)?.transpose(1, 2)?.contiguous()?;
        let x = linear(&self.mlp_norm.forward(&tokens)?, &self.mlp, None)?;
        let x = self.attend(&x)?;
        Ok((linear(&x, &self.cls_x, None)?, linear(&x, &self.cls_y, None)?))
    }

    /// The gated attention unit, `x` `[B, K, C]` → the same shape.
    fn attend(&self, x: &Tensor) -> Result<Tensor> {
        let Dims { expanded, attention, .. } = self.dims;
        let uv = linear(&self.norm.forward(x)?, &self.uv, None)?.silu()?;
        let u = uv.narrow(2, 0, expanded)?;
        let v = uv.narrow(2, expanded, expanded)?.contiguous()?;
        let base = uv.narrow(2, 2 * expanded, attention)?;
        let of = |i: usize| base.broadcast_mul(&self.gamma.get(i)?)?.broadcast_add(&self.beta.get(i)?);
        let (query, key) = (of(0)?, of(1)?);
        // relu(q·kᵀ/√S)², [B, K, K]
        let kernel = (query.matmul(&key.t()?)? / (attention as f64).sqrt())?.relu()?.sqr()?;
        let main = linear(&(u * kernel.matmul(&v)?)?, &self.o, None)?;
        x.broadcast_mul(&self.res_scale)? + main
    }
}

/// Divides a token by its length over √width; one learned factor for all. Source: Nguyen and Salazar 2019.
#[derive(Debug, Clone)]
struct ScaleNorm {
    /// `[1]`.
    g: Tensor,
    width: usize,
}

impl ScaleNorm {
    fn new(width: usize, weights: &Weights) -> Result<Self> {
        Ok(Self { g: weights.tensor(1, "g")?, width })
    }

    /// `[B, K, width]` → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let length = (x.sqr()?.sum_keepdim(2)?.sqrt()? * (self.width as f64).powf(-0.5))?;
        x.broadcast_div(&length.maximum(NORM_EPS)?)?.broadcast_mul(&self.g)
    }
}
