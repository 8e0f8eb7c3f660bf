//! One transformer block: modulated self-attention, cross-attention to text and image, modulated feed-forward.
//!
//! What is no longer needed is let go at once, and what nobody else holds is written over: each of these tensors is a
//! whole residual stream. `memory.rs` counts what is alive at every point and must follow what is changed here.

use candle_core::{Result, Tensor};
use kernels::activation::gelu_tanh_in_place;
use kernels::norm::layer_norm;
use kernels::pieces;
use kernels::residual::{add_in_place, gated_add_in_place};
use nn::{LayerNorm, Linear, RmsNorm, RopeTables, attention, merge_heads, split_heads};
use weights::Weights;

use crate::chunking::{Gathered, by_runs};
use crate::{Chunking, Config};

/// Context tokens after their embeddings: `text` `[1, S, D]`, `image` `[1, N, D]`.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub text: Tensor,
    pub image: Option<Tensor>,
}

/// What a block needs besides its tokens.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// `[1, 6, D]`.
    pub time: &'a Tensor,
    pub context: &'a Context,
    pub rope: &'a RopeTables,
    pub chunking: Chunking,
}

/// Keys and values, `[1, H, L, D/H]` and contiguous, as [`attention`] takes them without a copy.
struct KeysValues {
    k: Tensor,
    v: Tensor,
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

    /// Normalised over all of D, then rotated head by head: `[1, L, D]` → `[1, H, L, D/H]`, a view.
    fn rotated(&self, x: Tensor, norm: &RmsNorm, rope: &RopeTables) -> Result<Tensor> {
        let x = norm.forward_in_place(x)?;
        let (batch, tokens, width) = x.dims3()?;
        // A second handle to the same memory would not do for what is written over.
        let split = x.reshape((batch, tokens, self.heads, width / self.heads))?;
        drop(x);
        rope.apply_in_place(split)?.transpose(1, 2)
    }

    /// `u` `[1, L, D]`, modulated.
    fn keys_values(&self, u: &Tensor, rope: &RopeTables) -> Result<KeysValues> {
        let k = self.rotated(self.k.forward(u)?, &self.norm_k, rope)?.contiguous()?;
        let v = split_heads(&self.v.forward(u)?, self.heads)?.contiguous()?;
        Ok(KeysValues { k, v })
    }

    /// `u` `[1, L, D]`, modulated → `[1, L, D]`.
    fn forward(&self, u: Tensor, all: &KeysValues, rope: &RopeTables) -> Result<Tensor> {
        let q = self.rotated(self.q.forward(&u)?, &self.norm_q, rope)?;
        drop(u);
        let scale = (q.dim(3)? as f64).sqrt().recip();
        let attended = merge_heads(&attention(&q, &all.k, &all.v, scale)?)?;
        drop(q);
        self.o.forward(&attended)
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

    /// Keys and values of text and image.
    fn keys_values(&self, context: &Context) -> Result<(KeysValues, Option<KeysValues>)> {
        let heads = |t: Tensor| split_heads(&t, self.heads)?.contiguous();
        let text = KeysValues {
            k: heads(self.norm_k.forward_in_place(self.k.forward(&context.text)?)?)?,
            v: heads(self.v.forward(&context.text)?)?,
        };
        let image = match (&self.image, &context.image) {
            (Some(image), Some(tokens)) => Some(KeysValues {
                k: heads(image.norm_k.forward_in_place(image.k.forward(tokens)?)?)?,
                v: heads(image.v.forward(tokens)?)?,
            }),
            _ => None,
        };
        Ok((text, image))
    }

    /// `u` `[1, L, D]` → `[1, L, D]`: text and image are attended to separately with the same queries, and added.
    fn forward(&self, u: Tensor, (text, image): &(KeysValues, Option<KeysValues>)) -> Result<Tensor> {
        let q = split_heads(&self.norm_q.forward_in_place(self.q.forward(&u)?)?, self.heads)?;
        drop(u);
        let scale = (q.dim(3)? as f64).sqrt().recip();
        let mut attended = merge_heads(&attention(&q, &text.k, &text.v, scale)?)?;
        if let Some(image) = image {
            attended = add_in_place(&merge_heads(&attention(&q, &image.k, &image.v, scale)?)?, attended)?;
        }
        drop(q);
        self.o.forward(&attended)
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

    /// `x` `[1, L, D]` residual stream → `[1, L, D]`.
    pub fn forward(&self, x: Tensor, pass: &Pass) -> Result<Tensor> {
        let m = (&self.modulation + pass.time)?;
        let tokens = x.dim(1)?;
        let all = self.keys_values(&x, &m, pass)?;
        if let Chunking::Minimal { .. } = pass.chunking {
            let most = pass.chunking.attention_tokens(tokens);
            let context = self.cross_attn.keys_values(pass.context)?;
            return by_runs(tokens, most, |run| {
                let x = x.narrow(1, run.start, run.len())?;
                let x = self.attend(&x, &m, &all, &pass.rope.rows(run)?)?;
                let x = self.attend_to_context(&{ x }, &context)?;
                self.feed_forward(&x, &m)
            });
        }
        let attended = self.attend(&x, &m, &all, pass.rope)?;
        drop((x, all));
        let x = self.attend_to_context(&attended, &self.cross_attn.keys_values(pass.context)?)?;
        drop(attended);
        by_runs(tokens, pass.chunking.ffn_tokens(tokens), |run| {
            self.feed_forward(&x.narrow(1, run.start, run.len())?, &m)
        })
    }

    /// Keys and values of all tokens.
    fn keys_values(&self, x: &Tensor, m: &Tensor, pass: &Pass) -> Result<KeysValues> {
        let tokens = x.dim(1)?;
        let (mut k, mut v) = (Gathered::new(2, tokens), Gathered::new(2, tokens));
        for run in pieces(tokens, pass.chunking.attention_tokens(tokens)) {
            let u = self.modulated(&x.narrow(1, run.start, run.len())?, m, 0)?;
            let part = self.self_attn.keys_values(&u, &pass.rope.rows(run)?)?;
            k.push(part.k)?;
            v.push(part.v)?;
        }
        Ok(KeysValues { k: k.finish()?, v: v.finish()? })
    }

    /// Self-attention of the tokens `x` to `all`, added.
    fn attend(&self, x: &Tensor, m: &Tensor, all: &KeysValues, rope: &RopeTables) -> Result<Tensor> {
        let attended = self.self_attn.forward(self.modulated(x, m, 0)?, all, rope)?;
        gated_add_in_place(x, attended, &m.narrow(1, 2, 1)?)
    }

    /// Cross-attention, added.
    fn attend_to_context(&self, x: &Tensor, context: &(KeysValues, Option<KeysValues>)) -> Result<Tensor> {
        add_in_place(x, self.cross_attn.forward(self.norm3.forward(x)?, context)?)
    }

    /// The feed-forward layer, added.
    fn feed_forward(&self, x: &Tensor, m: &Tensor) -> Result<Tensor> {
        let u = self.modulated(x, m, 3)?;
        let hidden = self.ffn_in.forward(&u)?;
        drop(u);
        let out = self.ffn_out.forward(&gelu_tanh_in_place(hidden)?)?;
        gated_add_in_place(x, out, &m.narrow(1, 5, 1)?)
    }

    /// `LN(x)` modulated by the rows of `m` `[1, 6, D]` from `first` on: shift, then scale.
    fn modulated(&self, x: &Tensor, m: &Tensor, first: usize) -> Result<Tensor> {
        norm_modulate(x, &m.narrow(1, first + 1, 1)?, &m.narrow(1, first, 1)?, self.eps)
    }
}

/// `LN(x)·(1 + scale) + shift` in one pass, LN without parameters; `x` `[1, L, D]`, `scale` and `shift` `[1, 1, D]`.
pub(crate) fn norm_modulate(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Tensor> {
    let gain = (scale + 1.0)?.flatten_all()?;
    layer_norm(x, Some(&gain), Some(&shift.flatten_all()?), eps)
}
