//! Embeddings that are computed once per clip: time, text and image.

use candle_core::{DType, Device, Result, Tensor};
use nn::{LayerNorm, Linear};
use weights::Weights;

use crate::Config;

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

/// Of one timestep.
#[derive(Clone)]
pub(crate) struct TimeRows {
    /// `[1, D]`: what the head takes.
    pub e: Tensor,
    /// `[1, 6, D]`: its projection, which blocks take.
    pub blocks: Tensor,
}

/// Time embedding and its projection.
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
    pub fn forward(&self, timesteps: &[f64], device: &Device) -> Result<Vec<TimeRows>> {
        let half = self.freq_dim / 2;
        let angles = |timestep: f64| (0..half).map(move |j| timestep * 10_000f64.powf(-(j as f64) / half as f64));
        let row = |timestep: f64| angles(timestep).map(f64::cos).chain(angles(timestep).map(f64::sin));
        let values: Vec<f32> = timesteps.iter().flat_map(|t| row(*t)).map(|v| v as f32).collect();
        let sinusoids = Tensor::from_vec(values, (timesteps.len(), 2 * half), device)?;
        let e = self.mlp.forward(&sinusoids, Tensor::silu)?;
        let e0 = self.projection.forward(&e.silu()?)?;
        let of = |i| Ok(TimeRows { e: e.narrow(0, i, 1)?, blocks: e0.narrow(0, i, 1)?.reshape((1, 6, self.dim))? });
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
