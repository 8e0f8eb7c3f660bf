//! One transformer block: modulated self-attention, cross-attention to text and image, modulated feed-forward.
//!
//! What is no longer needed is let go at once, and what nobody else holds is written over: each of these tensors is a
//! whole residual stream. `memory.rs` counts what is alive at every point and must follow what is changed here.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Result, Tensor};
use kernels::linear::Input;
use kernels::{Compute, pieces};
use weights::Weights;

use crate::backend::{Backend, Host, Rows};
use crate::chunking::{Gathered, by_runs};
use crate::{Chunking, Config};

/// Context tokens after their embeddings.
pub(crate) struct Context<B: Backend + ?Sized> {
    /// `[1, n, D]`. The last may stand for several that are alike.
    pub text: B::Activations,
    /// `[n]`: what is added to the scores of the text tokens, ln of how many each stands for; `None` if each is one.
    pub counts: Option<B::Activations>,
    /// `[1, N, D]`.
    pub image: Option<B::Activations>,
    /// Keys and values of blocks that were made before, if they are kept.
    pub kept: Option<KeptContext<B>>,
}

impl Context<Host> {
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
pub(crate) struct KeptContext<B: Backend + ?Sized>(Mutex<Vec<KeptBlock<B>>>);

/// A block, and its keys and values.
type KeptBlock<B> = (usize, Arc<ContextKeys<B>>);

impl<B: Backend + ?Sized> Default for KeptContext<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B: Backend> KeptContext<B> {
    /// Those of a block, made now if they are not there.
    fn of(&self, block: usize, make: impl FnOnce() -> Result<ContextKeys<B>>) -> Result<Arc<ContextKeys<B>>> {
        let found = |all: &[KeptBlock<B>]| all.iter().find(|(i, _)| *i == block).map(|(_, k)| k.clone());
        if let Some(keys) = found(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(keys);
        }
        let keys = Arc::new(make()?);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((block, keys.clone()));
        Ok(keys)
    }
}

/// Keys and values of the text, and of the image where there is one.
struct ContextKeys<B: Backend + ?Sized> {
    text: B::Keys,
    counts: Option<B::Activations>,
    image: Option<B::Keys>,
}

/// What a block needs besides its tokens.
pub(crate) struct Pass<'a, B: Backend> {
    /// `[1, 6, D]`.
    pub time: &'a B::Modulation,
    pub context: &'a Context<B>,
    pub rope: &'a B::Rope,
    pub chunking: Chunking,
    /// Which block it is; side blocks are none of those whose context is kept.
    pub block: Option<usize>,
}

struct SelfAttention<B: Backend> {
    q: B::Linear,
    k: B::Linear,
    v: B::Linear,
    o: B::Linear,
    norm_q: B::RmsNorm,
    norm_k: B::RmsNorm,
}

impl<B: Backend> SelfAttention<B> {
    fn new(backend: &B, config: &Config, w: &Weights) -> Result<Self> {
        let linear = |name| backend.linear([config.dim; 2], &w.pp(name));
        let norm = |name| backend.rms_norm(config.dim, config.eps, &w.pp(name));
        Ok(Self {
            q: linear("q")?,
            k: linear("k")?,
            v: linear("v")?,
            o: linear("o")?,
            norm_q: norm("norm_q")?,
            norm_k: norm("norm_k")?,
        })
    }
}

struct ImageKeys<B: Backend> {
    k: B::Linear,
    v: B::Linear,
    norm_k: B::RmsNorm,
}

/// What attention to the context needs beside what attention to all tokens does.
struct CrossAttention<B: Backend> {
    text: SelfAttention<B>,
    image: Option<ImageKeys<B>>,
}

impl<B: Backend> CrossAttention<B> {
    fn new(backend: &B, config: &Config, w: &Weights, with_image: bool) -> Result<Self> {
        let linear = |name| backend.linear([config.dim; 2], &w.pp(name));
        let image = if with_image {
            Some(ImageKeys {
                k: linear("k_img")?,
                v: linear("v_img")?,
                norm_k: backend.rms_norm(config.dim, config.eps, &w.pp("norm_k_img"))?,
            })
        } else {
            None
        };
        Ok(Self { text: SelfAttention::new(backend, config, w)?, image })
    }
}

/// See the module. Built anew from its group's weights for every pass: it owns handles, not memory.
pub(crate) struct Block<'b, B: Backend> {
    backend: &'b B,
    modulation: B::Modulation,
    eps: f64,
    heads: usize,
    compute: Compute,
    self_attn: SelfAttention<B>,
    norm3: B::LayerNorm,
    cross_attn: CrossAttention<B>,
    ffn_in: B::Linear,
    ffn_out: B::Linear,
}

impl<'b, B: Backend> Block<'b, B> {
    pub fn new(backend: &'b B, config: &Config, w: &Weights, with_image: bool) -> Result<Self> {
        let [dim, ffn] = [config.dim, config.ffn_dim];
        Ok(Self {
            backend,
            modulation: backend.modulation(dim, w)?,
            eps: config.eps,
            heads: config.num_heads,
            compute: w.compute(),
            self_attn: SelfAttention::new(backend, config, &w.pp("self_attn"))?,
            norm3: backend.layer_norm(dim, config.eps, &w.pp("norm3"))?,
            cross_attn: CrossAttention::new(backend, config, &w.pp("cross_attn"), with_image)?,
            ffn_in: backend.linear([ffn, dim], &w.pp("ffn.0"))?,
            ffn_out: backend.linear([dim, ffn], &w.pp("ffn.2"))?,
        })
    }

    /// `x` `[1, L, D]` residual stream → `[1, L, D]`.
    pub fn forward(&self, x: B::Activations, pass: &Pass<B>) -> Result<B::Activations> {
        let backend = self.backend;
        let m = backend.modulate(&self.modulation, pass.time)?;
        let tokens = backend.tokens(&x)?;
        let all = self.keys_values(&x, &m, pass)?;
        if let Chunking::Minimal { .. } = pass.chunking {
            let most = pass.chunking.attention_tokens(tokens);
            let context = self.context_keys(pass)?;
            return by_runs(backend, [tokens, most], |run| {
                let x = backend.run(&x, run.clone())?;
                let x = self.attend(&x, &m, &all, &backend.rope_run(pass.rope, run)?)?;
                let x = self.attend_to_context(&{ x }, &context)?;
                self.feed_forward(&x, &m)
            });
        }
        let attended = self.attend(&x, &m, &all, pass.rope)?;
        drop((x, all));
        let x = self.attend_to_context(&attended, &*self.context_keys(pass)?)?;
        drop(attended);
        by_runs(backend, [tokens, pass.chunking.ffn_tokens(tokens)], |run| {
            self.feed_forward(&backend.run(&x, run)?, &m)
        })
    }

    /// Keys and values of all tokens.
    fn keys_values(&self, x: &B::Activations, m: &B::Modulation, pass: &Pass<B>) -> Result<B::Keys> {
        let (backend, net) = (self.backend, &self.self_attn);
        let tokens = backend.tokens(x)?;
        let (mut k, mut v) = (Gathered::new(backend, tokens), Gathered::new(backend, tokens));
        for run in pieces(tokens, pass.chunking.attention_tokens(tokens)) {
            let u = self.modulated(&backend.run(x, run.clone())?, m, 0)?;
            let keys = backend.product(&u, &net.k)?;
            let keys = backend.norm_rope_in_heads(keys, &net.norm_k, &backend.rope_run(pass.rope, run)?, self.heads)?;
            let values = backend.in_heads(backend.product(&u, &net.v)?, self.heads)?;
            drop(u);
            k.push(keys)?;
            v.push(values)?;
        }
        backend.own_keys([k.finish()?, v.finish()?])
    }

    /// Self-attention of the tokens `x` to `all`, added.
    fn attend(&self, x: &B::Activations, m: &B::Modulation, all: &B::Keys, rope: &B::Rope) -> Result<B::Activations> {
        let (backend, net) = (self.backend, &self.self_attn);
        let u = self.modulated(x, m, 0)?;
        let q = backend.norm_rope_in_heads(backend.product(&u, &net.q)?, &net.norm_q, rope, self.heads)?;
        drop(u);
        let attended = backend.attention(&q, all, None, self.compute)?;
        drop(q);
        backend.product_gated(&backend.input(attended)?, &net.o, x, Rows { all: m, first: 2 })
    }

    /// Keys and values of text and image.
    fn context_keys(&self, pass: &Pass<B>) -> Result<Arc<ContextKeys<B>>> {
        match (&pass.context.kept, pass.block) {
            (Some(kept), Some(block)) => kept.of(block, || self.make_context_keys(pass.context)),
            _ => Ok(Arc::new(self.make_context_keys(pass.context)?)),
        }
    }

    fn make_context_keys(&self, context: &Context<B>) -> Result<ContextKeys<B>> {
        let (backend, heads) = (self.backend, self.heads);
        let make = |tokens: &B::Activations, k: &B::Linear, v: &B::Linear, norm_k: &B::RmsNorm| {
            let tokens = backend.input(tokens.clone())?;
            let k = backend.norm_in_heads(backend.product(&tokens, k)?, norm_k, heads)?;
            backend.context_keys([k, backend.in_heads(backend.product(&tokens, v)?, heads)?])
        };
        let CrossAttention { text, image } = &self.cross_attn;
        let text = make(&context.text, &text.k, &text.v, &text.norm_k)?;
        let image = match (image, &context.image) {
            (Some(image), Some(tokens)) => Some(make(tokens, &image.k, &image.v, &image.norm_k)?),
            _ => None,
        };
        Ok(ContextKeys { text, counts: context.counts.clone(), image })
    }

    /// Cross-attention, added: text and image are attended to separately with the same queries, and summed.
    fn attend_to_context(
        &self,
        x: &B::Activations,
        ContextKeys { text, counts, image }: &ContextKeys<B>,
    ) -> Result<B::Activations> {
        let (backend, net) = (self.backend, &self.cross_attn.text);
        let u = backend.normalised(x, &self.norm3)?;
        let q = backend.norm_in_heads(backend.product(&u, &net.q)?, &net.norm_q, self.heads)?;
        drop(u);
        let mut attended = backend.attention(&q, text, counts.as_ref(), self.compute)?;
        if let Some(image) = image {
            attended = backend.add(&backend.attention(&q, image, None, self.compute)?, attended)?;
        }
        drop(q);
        backend.product_added(&backend.input(attended)?, &net.o, x)
    }

    /// The feed-forward layer, added.
    fn feed_forward(&self, x: &B::Activations, m: &B::Modulation) -> Result<B::Activations> {
        let backend = self.backend;
        let u = self.modulated(x, m, 3)?;
        let hidden = backend.product_gelu(&u, &self.ffn_in)?;
        drop(u);
        backend.product_gated(&backend.input(hidden)?, &self.ffn_out, x, Rows { all: m, first: 5 })
    }

    /// `LN(x)` modulated by the rows of `m` `[1, 6, D]` from `first` on: shift, then scale.
    fn modulated(&self, x: &B::Activations, m: &B::Modulation, first: usize) -> Result<B::Input> {
        self.backend.norm_modulated(x, Rows { all: m, first }, self.eps)
    }
}

/// `LN(x)·(1 + scale) + shift` as inputs of layers, LN without parameters; `x` `[1, L, D]`, `scale` and `shift` `[1, 1, D]`.
pub(crate) fn norm_modulated(x: &Tensor, scale: &Tensor, shift: &Tensor, eps: f64) -> Result<Input> {
    let gain = (scale + 1.0)?.flatten_all()?;
    Input::normed(x.clone(), Some(&gain), Some(&shift.flatten_all()?), eps)
}
