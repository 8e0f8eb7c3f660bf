//! The two ends of a pass: latents to tokens, tokens to a velocity.

use candle_core::{Result, Tensor};
use kernels::linear::Matrix;
use weights::Weights;

use crate::Config;
use crate::backend::{Backend, Rows};

/// Rows and columns of latent pixels that make one token.
pub(crate) const PATCH: usize = 2;

/// A Conv3d with kernel and stride (1, 2, 2), computed as a matrix product.
pub(crate) struct PatchEmbedding<B: Backend> {
    linear: B::Linear,
    in_dim: usize,
}

impl<B: Backend> PatchEmbedding<B> {
    pub fn new(backend: &B, in_dim: usize, dim: usize, w: &Weights) -> Result<Self> {
        let weight = w.tensor((dim, in_dim, 1, PATCH, PATCH), "weight")?.reshape((dim, in_dim * PATCH * PATCH))?;
        Ok(Self { linear: backend.linear_of(weight.into(), w.tensor(dim, "bias")?)?, in_dim })
    }

    /// Latents whose channels lie behind each other, `[C, F, h, w]` together → tokens `[1, F·(h/2)·(w/2), D]` in (t, y, x) order.
    pub fn forward(&self, backend: &B, parts: &[&B::Latents]) -> Result<B::Activations> {
        let shapes = parts.iter().map(|part| backend.shape_of(part)).collect::<Result<Vec<_>>>()?;
        let channels: usize = shapes.iter().map(|[c, ..]| c).sum();
        let alike = shapes.iter().all(|[_, _, h, w]| h % PATCH == 0 && w % PATCH == 0)
            && shapes.windows(2).all(|two| two[0][1..] == two[1][1..]);
        if channels != self.in_dim || !alike {
            candle_core::bail!("patch embedding: {shapes:?}, needs {} channels and even sides", self.in_dim);
        }
        backend.product_stream(&backend.patches(parts)?, &self.linear)
    }
}

/// The last modulated LayerNorm and projection, and the way back to pixels.
pub(crate) struct Head<B: Backend> {
    modulation: Tensor,
    eps: f64,
    projection: B::Linear,
    out_dim: usize,
}

impl<B: Backend> Head<B> {
    pub fn new(backend: &B, config: &Config, w: &Weights) -> Result<Self> {
        let projection = w.pp("head");
        let outputs = config.out_dim * PATCH * PATCH;
        let weight: Matrix = projection.matrix((outputs, config.dim), "weight")?;
        Ok(Self {
            modulation: w.tensor((1, 2, config.dim), "modulation")?,
            eps: config.eps,
            projection: backend.linear_of(weight, projection.tensor(outputs, "bias")?)?,
            out_dim: config.out_dim,
        })
    }

    /// Shift and scale `[1, 2, D]` of a timestep's `e` `[1, D]`.
    pub fn rows(&self, backend: &B, e: &Tensor) -> Result<B::Modulation> {
        backend.modulation_of(&self.modulation.broadcast_add(&e.unsqueeze(1)?)?)
    }

    /// `x` `[1, L, D]`, `rows` as above, `grid` = (F, h/2, w/2) → `[C, F, h, w]`.
    pub fn forward(
        &self,
        backend: &B,
        x: &B::Activations,
        rows: &B::Modulation,
        (f, y, x_tokens): (usize, usize, usize),
    ) -> Result<B::Latents> {
        let u = backend.norm_modulated(x, Rows { all: rows, first: 0 }, self.eps)?;
        let tokens = backend.product_stream(&u, &self.projection)?;
        drop(u);
        backend.unpatched(tokens, [self.out_dim, f, y * PATCH, x_tokens * PATCH])
    }
}
