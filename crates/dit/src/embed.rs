//! What stands before and after the blocks: patches, time, text and image embeddings, the head.

use candle_core::{DType, Device, Result, Tensor};
use kernels::linear::Epilogue;
use nn::{LayerNorm, Linear};
use weights::Weights;

use crate::Config;
use crate::block::norm_modulated;

/// Rows and columns of latent pixels that make one token.
pub(crate) const PATCH: usize = 2;

/// A Conv3d with kernel and stride (1, 2, 2), computed as a matrix product.
pub(crate) struct PatchEmbedding {
    linear: Linear,
    in_dim: usize,
}

impl PatchEmbedding {
    pub fn new(in_dim: usize, dim: usize, w: &Weights) -> Result<Self> {
        let weight = w.tensor((dim, in_dim, 1, PATCH, PATCH), "weight")?.reshape((dim, in_dim * PATCH * PATCH))?;
        Ok(Self { linear: Linear::from_tensors(weight, Some(w.tensor(dim, "bias")?)), in_dim })
    }

    /// `x` `[C, F, h, w]` → tokens `[1, F·(h/2)·(w/2), D]` in (t, y, x) order.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (c, f, h, w) = x.dims4()?;
        if c != self.in_dim || h % PATCH != 0 || w % PATCH != 0 {
            candle_core::bail!("patch embedding: {:?}, needs {} channels and even sides", x.dims(), self.in_dim);
        }
        // [C, F, y, q, x, r] → [F, y, x, C, q, r]: within a patch the channel is slowest.
        let patches = x.reshape(&[c, f, h / PATCH, PATCH, w / PATCH, PATCH][..])?.permute([1, 2, 4, 0, 3, 5])?;
        let tokens = f * (h / PATCH) * (w / PATCH);
        self.linear.forward(&patches.reshape((1, tokens, c * PATCH * PATCH))?)
    }
}

/// Linear, activation, Linear.
pub(crate) struct Mlp {
    first: Linear,
    second: Linear,
}

impl Mlp {
    pub fn new(input: usize, dim: usize, w: &Weights) -> Result<Self> {
        Ok(Self { first: Linear::new(input, dim, &w.pp("0"))?, second: Linear::new(dim, dim, &w.pp("2"))? })
    }

    fn forward(&self, x: &Tensor, activation: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        self.second.forward(&activation(&self.first.forward(x)?)?)
    }
}

/// Time embedding `e` `[1, D]` and its projection `e0` `[1, 6, D]`.
pub(crate) struct TimeEmbedding {
    mlp: Mlp,
    projection: Linear,
    freq_dim: usize,
    dim: usize,
}

impl TimeEmbedding {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        Ok(Self {
            mlp: Mlp::new(config.freq_dim, config.dim, &w.pp("time_embedding"))?,
            projection: Linear::new(config.dim, 6 * config.dim, &w.pp("time_projection.1"))?,
            freq_dim: config.freq_dim,
            dim: config.dim,
        })
    }

    /// Of one or several timesteps in 0..=1000; several share one reading of the weights.
    pub fn forward(&self, timesteps: &[f64], device: &Device) -> Result<Vec<(Tensor, Tensor)>> {
        let half = self.freq_dim / 2;
        let angles = |timestep: f64| (0..half).map(move |j| timestep * 10_000f64.powf(-(j as f64) / half as f64));
        let row = |timestep: f64| angles(timestep).map(f64::cos).chain(angles(timestep).map(f64::sin));
        let values: Vec<f32> = timesteps.iter().flat_map(|t| row(*t)).map(|v| v as f32).collect();
        let sinusoids = Tensor::from_vec(values, (timesteps.len(), 2 * half), device)?;
        let e = self.mlp.forward(&sinusoids, Tensor::silu)?;
        let e0 = self.projection.forward(&e.silu()?)?;
        let of = |i| Ok((e.narrow(0, i, 1)?, e0.narrow(0, i, 1)?.reshape((1, 6, self.dim))?));
        (0..timesteps.len()).map(of).collect()
    }
}

/// Text rows, zero-padded to S and embedded.
pub(crate) struct TextEmbedding {
    mlp: Mlp,
    text_len: usize,
    text_dim: usize,
}

impl TextEmbedding {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        Ok(Self {
            mlp: Mlp::new(config.text_dim, config.dim, &w.pp("text_embedding"))?,
            text_len: config.text_len,
            text_dim: config.text_dim,
        })
    }

    /// `text` `[n, text_dim]`, n ≤ S → `[1, S, D]`. Padding rows are zeros here and attended to like any other.
    pub fn forward(&self, text: &Tensor) -> Result<Tensor> {
        let (n, width) = text.dims2()?;
        if n > self.text_len || width != self.text_dim {
            candle_core::bail!("text embeds are {:?}; at most [{}, {}] fit", text.dims(), self.text_len, self.text_dim);
        }
        // Padding rows are alike: one is computed for all.
        let rows = (n + 1).min(self.text_len);
        let padded = text.to_dtype(DType::F32)?.pad_with_zeros(0, 0, rows - n)?.unsqueeze(0)?;
        let embedded = self.mlp.forward(&padded, Tensor::gelu)?;
        if rows == self.text_len {
            return Ok(embedded);
        }
        let padding = embedded.narrow(1, n, 1)?.broadcast_as((1, self.text_len - rows, embedded.dim(2)?))?;
        Tensor::cat(&[&embedded, &padding], 1)
    }
}

/// Image tokens to width D: LayerNorm, Linear, exact GELU, Linear, LayerNorm (epsilon 1e-5 here).
pub(crate) struct ImageEmbedding {
    norm_in: LayerNorm,
    first: Linear,
    second: Linear,
    norm_out: LayerNorm,
    positions: Option<Tensor>,
}

impl ImageEmbedding {
    const EPS: f64 = 1e-5;
    /// Tokens of the first and the last frame together.
    const FLF2V_TOKENS: usize = 514;

    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        let (c, d) = (config.clip_dim, config.dim);
        let flf2v = config.model_type == "flf2v";
        Ok(Self {
            norm_in: LayerNorm::affine(c, Self::EPS, &w.pp("proj.0"))?,
            first: Linear::new(c, c, &w.pp("proj.1"))?,
            second: Linear::new(c, d, &w.pp("proj.3"))?,
            norm_out: LayerNorm::affine(d, Self::EPS, &w.pp("proj.4"))?,
            positions: if flf2v { Some(w.tensor((1, Self::FLF2V_TOKENS, c), "emb_pos")?) } else { None },
        })
    }

    /// `image` `[B, N, clip_dim]` → `[1, B·N, D]`.
    pub fn forward(&self, image: &Tensor) -> Result<Tensor> {
        let (b, n, c) = image.dims3()?;
        let mut x = image.to_dtype(DType::F32)?.reshape((1, b * n, c))?;
        if let Some(positions) = &self.positions {
            x = x.broadcast_add(positions)?;
        }
        let hidden = self.first.forward(&self.norm_in.forward(&x)?)?.gelu_erf()?;
        self.norm_out.forward(&self.second.forward(&hidden)?)
    }
}

/// The last modulated LayerNorm and projection, and the way back to pixels.
pub(crate) struct Head {
    modulation: Tensor,
    eps: f64,
    projection: Linear,
    out_dim: usize,
}

impl Head {
    pub fn new(config: &Config, w: &Weights) -> Result<Self> {
        Ok(Self {
            modulation: w.tensor((1, 2, config.dim), "modulation")?,
            eps: config.eps,
            projection: Linear::new(config.dim, config.out_dim * PATCH * PATCH, &w.pp("head"))?,
            out_dim: config.out_dim,
        })
    }

    /// `x` `[1, L, D]`, `e` `[1, D]`, `grid` = (F, h/2, w/2) → `[C, F, h, w]`.
    pub fn forward(&self, x: &Tensor, e: &Tensor, grid: (usize, usize, usize)) -> Result<Tensor> {
        let m = self.modulation.broadcast_add(&e.unsqueeze(1)?)?;
        let u = norm_modulated(x, &m.narrow(1, 1, 1)?, &m.narrow(1, 0, 1)?, self.eps)?;
        let (f, y, x) = grid;
        // [F, y, x, q, r, C] → [C, F, y, q, x, r]: here the channel is fastest.
        self.projection
            .forward_of(&u, Epilogue::None)?
            .reshape(&[f, y, x, PATCH, PATCH, self.out_dim][..])?
            .permute([5, 0, 1, 3, 2, 4])?
            .reshape((self.out_dim, f, y * PATCH, x * PATCH))
    }
}
