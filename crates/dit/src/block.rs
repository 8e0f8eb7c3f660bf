//! One transformer block: modulated self-attention, cross-attention to text and image, modulated feed-forward.

use candle_core::{Result, Tensor};
use kernels::activation::gelu_tanh;
use kernels::norm::layer_norm;
use kernels::residual::gated_add;
use nn::{LayerNorm, Linear, RmsNorm, RopeTables, attention, merge_heads, split_heads};
use weights::Weights;

use crate::Config;

/// Context tokens after their embeddings: `text` `[1, S, D]`, `image` `[1, N, D]`.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub text: Tensor,
    pub image: Option<Tensor>,
}

struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    heads: usize,
}

impl SelfAttention {
    fn new(config: &Config, w: &Weights) -> Result<Self> {
        let d = config.dim;
        Ok(Self {
            q: Linear::new(d, d, &w.pp("q"))?,
            k: Linear::new(d, d, &w.pp("k"))?,
            v: Linear::new(d, d, &w.pp("v"))?,
            o: Linear::new(d, d, &w.pp("o"))?,
            norm_q: RmsNorm::new(d, config.eps, &w.pp("norm_q"))?,
            norm_k: RmsNorm::new(d, config.eps, &w.pp("norm_k"))?,
            heads: config.num_heads,
        })
    }

    /// `x` `[1, L, D]` → `[1, L, D]`; q and k are normalised over all of D, then rotated head by head.
    fn forward(&self, x: &Tensor, rope: &RopeTables) -> Result<Tensor> {
        let rotated = |t: Tensor| -> Result<Tensor> {
            let (batch, tokens, width) = t.dims3()?;
            rope.apply(&t.reshape((batch, tokens, self.heads, width / self.heads))?)?.transpose(1, 2)
        };
        let q = rotated(self.norm_q.forward(&self.q.forward(x)?)?)?;
        let k = rotated(self.norm_k.forward(&self.k.forward(x)?)?)?;
        let v = split_heads(&self.v.forward(x)?, self.heads)?;
        let scale = (q.dim(3)? as f64).sqrt().recip();
        self.o.forward(&merge_heads(&attention(&q, &k, &v, scale)?)?)
    }
}

struct ImageKeys {
    k: Linear,
    v: Linear,
    norm_k: RmsNorm,
}

struct CrossAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    image: Option<ImageKeys>,
    heads: usize,
}

impl CrossAttention {
    fn new(config: &Config, w: &Weights, with_image: bool) -> Result<Self> {
        let d = config.dim;
        let image = if with_image {
            Some(ImageKeys {
                k: Linear::new(d, d, &w.pp("k_img"))?,
                v: Linear::new(d, d, &w.pp("v_img"))?,
                norm_k: RmsNorm::new(d, config.eps, &w.pp("norm_k_img"))?,
            })
        } else {
            None
        };
        Ok(Self {
            q: Linear::new(d, d, &w.pp("q"))?,
            k: Linear::new(d, d, &w.pp("k"))?,
            v: Linear::new(d, d, &w.pp("v"))?,
            o: Linear::new(d, d, &w.pp("o"))?,
            norm_q: RmsNorm::new(d, config.eps, &w.pp("norm_q"))?,
            norm_k: RmsNorm::new(d, config.eps, &w.pp("norm_k"))?,
            image,
            heads: config.num_heads,
        })
    }

    /// `x` `[1, L, D]` → `[1, L, D]`: text and image are attended to separately with the same queries, and added.
    fn forward(&self, x: &Tensor, context: &Context) -> Result<Tensor> {
        let heads = |t: Tensor| split_heads(&t, self.heads);
        let q = heads(self.norm_q.forward(&self.q.forward(x)?)?)?;
        let scale = (q.dim(3)? as f64).sqrt().recip();
        let k = heads(self.norm_k.forward(&self.k.forward(&context.text)?)?)?;
        let v = heads(self.v.forward(&context.text)?)?;
        let mut attended = attention(&q, &k, &v, scale)?;
        if let (Some(image), Some(tokens)) = (&self.image, &context.image) {
            let k = heads(image.norm_k.forward(&image.k.forward(tokens)?)?)?;
            let v = heads(image.v.forward(tokens)?)?;
            attended = (attended + attention(&q, &k, &v, scale)?)?;
        }
        self.o.forward(&merge_heads(&attended)?)
    }
}

/// See the module. Built anew from its group's weights for every pass: it owns handles, not memory.
pub(crate) struct Block {
    modulation: Tensor,
    eps: f64,
    self_attn: SelfAttention,
    norm3: LayerNorm,
    cross_attn: CrossAttention,
    ffn_in: Linear,
    ffn_out: Linear,
}

impl Block {
    pub fn new(config: &Config, w: &Weights, with_image: bool) -> Result<Self> {
        Ok(Self {
            modulation: w.tensor((1, 6, config.dim), "modulation")?,
            eps: config.eps,
            self_attn: SelfAttention::new(config, &w.pp("self_attn"))?,
            norm3: LayerNorm::affine(config.dim, config.eps, &w.pp("norm3"))?,
            cross_attn: CrossAttention::new(config, &w.pp("cross_attn"), with_image)?,
            ffn_in: Linear::new(config.dim, config.ffn_dim, &w.pp("ffn.0"))?,
            ffn_out: Linear::new(config.ffn_dim, config.dim, &w.pp("ffn.2"))?,
        })
    }

    /// `x` `[1, L, D]` residual stream, `time` `[1, 6, D]` → `[1, L, D]`.
    pub fn forward(&self, x: &Tensor, time: &Tensor, context: &Context, rope: &RopeTables) -> Result<Tensor> {
        let m = (&self.modulation + time)?;
        let row = |i: usize| m.narrow(1, i, 1);
        let u = norm_modulate(x, &row(1)?, &row(0)?, self.eps)?;
        let attended = self.self_attn.forward(&u, rope)?;
        // What is no longer needed is let go at once: each of these is a whole residual stream.
        drop(u);
        let x = gated_add(x, &attended, &row(2)?)?;
        drop(attended);
        let x = (&x + self.cross_attn.forward(&self.norm3.forward(&x)?, context)?)?;
        let u = norm_modulate(&x, &row(4)?, &row(3)?, self.eps)?;
        let hidden = gelu_tanh(&self.ffn_in.forward(&u)?)?;
        drop(u);
        gated_add(&x, &self.ffn_out.forward(&hidden)?, &row(5)?)
    }
}

/// `LN(x)·(1 + scale) + shift` in one pass, LN without parameters; `x` `[1, L, D]`, `scale` and `shift` `[1, 1, D]`.
pub(crate) fn norm_modulate(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Tensor> {
    let gain = (scale + 1.0)?.flatten_all()?;
    layer_norm(x, Some(&gain), Some(&shift.flatten_all()?), eps)
}
