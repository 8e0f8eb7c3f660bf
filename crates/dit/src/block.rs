//! One transformer block: modulated self-attention, cross-attention to text and image, modulated feed-forward.
//!
//! What is no longer needed is let go at once, and what nobody else holds is written over: each of these tensors is a
//! whole residual stream. `memory.rs` counts what is alive at every point and must follow what is changed here.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor};
use kernels::attention::{Attention, Bias};
use kernels::linear::Epilogue;
use kernels::norm::layer_norm;
use kernels::residual::add_in_place;
use kernels::{Compute, pieces};
use nn::{LayerNorm, Linear, RmsNorm, RopeTables, merge_heads, split_heads};
use weights::Weights;

use crate::chunking::{Gathered, by_runs};
use crate::{Chunking, Config};

/// Context tokens after their embeddings.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// `[1, n, D]`. The last may stand for several that are alike.
    pub text: Tensor,
    /// `[n]`: what is added to the scores of the text tokens, ln of how many each stands for; `None` if each is one.
    pub counts: Option<Tensor>,
    /// `[1, N, D]`.
    pub image: Option<Tensor>,
    /// Keys and values of blocks that were made before, if they are kept.
    pub kept: Option<Arc<KeptContext>>,
}

impl Context {
    /// With the last `padding` text tokens, which are alike, as one that counts for all: the same attention.
    pub fn collapsed(self, padding: usize) -> Result<Self> {
        let tokens = self.text.dim(1)?;
        let alike = padding.min(tokens);
        if alike < 2 {
            return Ok(self);
        }
        let left = tokens - alike + 1;
        let mut counts = vec![0.0; left];
        counts[left - 1] = (alike as f64).ln() as f32;
        let counts = Some(Tensor::from_vec(counts, left, self.text.device())?);
        Ok(Self { text: self.text.narrow(1, 0, left)?.force_contiguous()?, counts, ..self })
    }
}

/// Keys and values of the context, block by block: they depend neither on the step nor on the latents.
#[derive(Debug, Default)]
pub(crate) struct KeptContext(Mutex<Vec<(usize, Arc<ContextKeys>)>>);

impl KeptContext {
    /// Those of a block, made now if they are not there.
    fn of(&self, block: usize, make: impl FnOnce() -> Result<ContextKeys>) -> Result<Arc<ContextKeys>> {
        let found = |all: &[(usize, Arc<ContextKeys>)]| all.iter().find(|(i, _)| *i == block).map(|(_, k)| k.clone());
        if let Some(keys) = found(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(keys);
        }
        let keys = Arc::new(make()?);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((block, keys.clone()));
        Ok(keys)
    }
}

/// Keys and values of the text, and of the image where there is one.
#[derive(Debug)]
struct ContextKeys {
    text: KeysValues,
    counts: Option<Tensor>,
    image: Option<KeysValues>,
}

/// What a block needs besides its tokens.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// `[1, 6, D]`.
    pub time: &'a Tensor,
    pub context: &'a Context,
    pub rope: &'a RopeTables,
    pub chunking: Chunking,
    /// Which block it is; side blocks are none of those whose context is kept.
    pub block: Option<usize>,
}

/// Keys and values, `[1, L, H, D/H]`.
#[derive(Debug)]
struct KeysValues {
    k: Tensor,
    v: Tensor,
}

impl KeysValues {
    /// `q` `[1, L, H, D/H]` attends to them, with `counts` as [`Context::counts`] → `[1, L, D]`.
    fn attended_by(&self, q: &Tensor, counts: Option<&Tensor>, compute: Compute) -> Result<Tensor> {
        let scale = (q.dim(3)? as f64).sqrt().recip();
        let attention = Attention::new(scale).bias(counts.map_or(Bias::None, Bias::Keys)).compute(compute);
        let heads = |t: &Tensor| t.transpose(1, 2);
        let (queries, keys) = (q.dim(1)?, self.k.dim(1)?);
        let _span = tracing::info_span!(target: "steadydance", "attention", queries, keys).entered();
        merge_heads(&attention.apply(&heads(q)?, &heads(&self.k)?, &heads(&self.v)?)?)
    }
}

struct SelfAttention {
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    norm_q: RmsNorm,
    norm_k: RmsNorm,
    heads: usize,
    compute: Compute,
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
            compute: w.compute(),
        })
    }

    /// `u` `[1, L, D]`, modulated.
    fn keys_values(&self, u: &Tensor, rope: &RopeTables) -> Result<KeysValues> {
        let k = rope.apply_after_norm(&self.norm_k, self.k.forward(u)?)?;
        Ok(KeysValues { k, v: in_heads(&self.v.forward(u)?, self.heads)? })
    }

    /// `u` `[1, L, D]`, modulated, attends to all; the result by `gate` and `x` `[1, L, D]` added.
    fn forward(&self, u: Tensor, all: &KeysValues, rope: &RopeTables, x: &Tensor, gate: &Tensor) -> Result<Tensor> {
        let q = rope.apply_after_norm(&self.norm_q, self.q.forward(&u)?)?;
        drop(u);
        let attended = all.attended_by(&q, None, self.compute)?;
        drop(q);
        self.o.forward_with(&attended, Epilogue::GatedResidual { residual: x, gate })
    }
}

/// `[1, L, D]` → `[1, L, H, D/H]`, a view.
fn in_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    split_heads(x, heads)?.transpose(1, 2)
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
    compute: Compute,
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
            compute: w.compute(),
        })
    }

    /// Keys and values of text and image for block `block`.
    fn keys_values(&self, context: &Context, block: Option<usize>) -> Result<Arc<ContextKeys>> {
        match (&context.kept, block) {
            (Some(kept), Some(block)) => kept.of(block, || self.make_keys_values(context)),
            _ => Ok(Arc::new(self.make_keys_values(context)?)),
        }
    }

    fn make_keys_values(&self, context: &Context) -> Result<ContextKeys> {
        let heads = |t: Tensor| in_heads(&t, self.heads);
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
        Ok(ContextKeys { text, counts: context.counts.clone(), image })
    }

    /// `u` `[1, L, D]` → `[1, L, D]`: text and image are attended to separately with the same queries, and added.
    fn forward(&self, u: Tensor, ContextKeys { text, counts, image }: &ContextKeys) -> Result<Tensor> {
        let q = in_heads(&self.norm_q.forward_in_place(self.q.forward(&u)?)?, self.heads)?;
        drop(u);
        let mut attended = text.attended_by(&q, counts.as_ref(), self.compute)?;
        if let Some(image) = image {
            attended = add_in_place(&image.attended_by(&q, None, self.compute)?, attended)?;
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
            let context = self.cross_attn.keys_values(pass.context, pass.block)?;
            return by_runs(tokens, most, |run| {
                let x = x.narrow(1, run.start, run.len())?;
                let x = self.attend(&x, &m, &all, &pass.rope.rows(run)?)?;
                let x = self.attend_to_context(&{ x }, &context)?;
                self.feed_forward(&x, &m)
            });
        }
        let attended = self.attend(&x, &m, &all, pass.rope)?;
        drop((x, all));
        let x = self.attend_to_context(&attended, &*self.cross_attn.keys_values(pass.context, pass.block)?)?;
        drop(attended);
        by_runs(tokens, pass.chunking.ffn_tokens(tokens), |run| {
            self.feed_forward(&x.narrow(1, run.start, run.len())?, &m)
        })
    }

    /// Keys and values of all tokens.
    fn keys_values(&self, x: &Tensor, m: &Tensor, pass: &Pass) -> Result<KeysValues> {
        let tokens = x.dim(1)?;
        let (mut k, mut v) = (Gathered::new(1, tokens), Gathered::new(1, tokens));
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
        self.self_attn.forward(self.modulated(x, m, 0)?, all, rope, x, &m.narrow(1, 2, 1)?)
    }

    /// Cross-attention, added.
    fn attend_to_context(&self, x: &Tensor, context: &ContextKeys) -> Result<Tensor> {
        add_in_place(x, self.cross_attn.forward(self.norm3.forward(x)?, context)?)
    }

    /// The feed-forward layer, added.
    fn feed_forward(&self, x: &Tensor, m: &Tensor) -> Result<Tensor> {
        let u = self.modulated(x, m, 3)?;
        let hidden = self.ffn_in.forward_with(&u, Epilogue::GeluTanh)?;
        drop(u);
        self.ffn_out.forward_with(&hidden, Epilogue::GatedResidual { residual: x, gate: &m.narrow(1, 5, 1)? })
    }

    /// `LN(x)` modulated by the rows of `m` `[1, 6, D]` from `first` on: shift, then scale.
    fn modulated(&self, x: &Tensor, m: &Tensor, first: usize) -> Result<Tensor> {
        norm_modulate(x, &m.narrow(1, first + 1, 1)?, &m.narrow(1, first, 1)?, self.eps)
    }
}

/// `LN(x)·(1 + scale) + shift` in one pass, LN without parameters; `x` `[1, L, D]`, `scale` and `shift` `[1, 1, D]`.
pub(crate) fn norm_modulate(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Tensor> {
    let _span = tracing::info_span!(target: "steadydance", "norm").entered();
    let gain = (scale + 1.0)?.flatten_all()?;
    layer_norm(x, Some(&gain), Some(&shift.flatten_all()?), eps)
}
