//! UMT5 encoder (Chung et al. 2023, "UniMax"; T5 v1.1 layers with a relative position bias of its own in every
//! layer), as Wan 2.1 runs it: only the encoder, only over the valid tokens, nothing padded.
//!
//! Letters: N tokens of one prompt, C width (4096), A attention width, H heads, F feed-forward width.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::Compute;
use kernels::attention::{Attention, Bias};
use kernels::linear::Epilogue;
use nn::{Linear, RmsNorm, merge_heads, split_heads};
use serde::{Deserialize, Serialize};
use weights::{Manifest, WeightSource, Weights};

use crate::position;

/// The most tokens of a prompt, `</s>` included.
pub const MAX_TOKENS: usize = 512;

/// Added to the mean square in every norm.
const EPS: f64 = 1e-6;

/// Sizes of a UMT5 encoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Rows of the embedding table.
    pub vocab: usize,
    /// Width of the residual stream and of the output.
    pub dim: usize,
    /// Width of queries, keys and values over all heads.
    pub dim_attn: usize,
    /// Width inside the gated feed-forward.
    pub dim_ffn: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Layers.
    pub num_layers: usize,
    /// Relative position buckets, both directions together.
    pub num_buckets: usize,
    /// One position table for all layers (as mT5 has it) instead of one for each.
    #[serde(default)]
    pub shared_pos: bool,
}

impl Config {
    /// `google/umt5-xxl`, the text encoder of Wan 2.1: 5,680,910,336 parameters.
    pub fn xxl() -> Self {
        Self {
            vocab: 256_384,
            dim: 4096,
            dim_attn: 4096,
            dim_ffn: 10_240,
            num_heads: 64,
            num_layers: 24,
            num_buckets: 32,
            shared_pos: false,
        }
    }

    /// A few thousand parameters, for tests and the demo model.
    pub fn tiny() -> Self {
        Self {
            vocab: 928,
            dim: 32,
            dim_attn: 32,
            dim_ffn: 64,
            num_heads: 2,
            num_layers: 2,
            num_buckets: 32,
            shared_pos: false,
        }
    }

    /// Reads the sizes off a checkpoint: `shape` gives the shape of a tensor by its canonical name, say
    /// `|name| checkpoint.shape(name)`.
    ///
    /// # Errors
    /// A tensor that tells a size is missing or has not two dimensions, or the sizes are no UMT5 encoder's.
    pub fn detect<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Result<Self> {
        let matrix = |name: &str| match shape(name) {
            Some([rows, columns]) => Ok((*rows, *columns)),
            Some(other) => candle_core::bail!("no UMT5 encoder: {name} has shape {other:?}; expected a matrix"),
            None => candle_core::bail!("no UMT5 encoder: tensor {name} is missing"),
        };
        let (vocab, dim) = matrix("token_embedding.weight")?;
        let (dim_attn, _) = matrix("blocks.0.attn.q.weight")?;
        let (dim_ffn, _) = matrix("blocks.0.ffn.gate.0.weight")?;
        let shared_pos = shape("pos_embedding.embedding.weight").is_some();
        let position = if shared_pos { "pos_embedding" } else { "blocks.0.pos_embedding" };
        let (num_buckets, num_heads) = matrix(&format!("{position}.embedding.weight"))?;
        let num_layers = (0..).take_while(|n| shape(&format!("blocks.{n}.norm1.weight")).is_some()).count();
        let config = Self { vocab, dim, dim_attn, dim_ffn, num_heads, num_layers, num_buckets, shared_pos };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let sizes = [self.vocab, self.dim, self.dim_attn, self.dim_ffn, self.num_heads, self.num_layers];
        if sizes.contains(&0) || self.num_buckets < 4 {
            candle_core::bail!("UMT5: all sizes must be positive and num_buckets at least 4; found {self:?}");
        }
        if !self.dim_attn.is_multiple_of(self.num_heads) {
            candle_core::bail!("UMT5: dim_attn is {}, no multiple of the {} heads", self.dim_attn, self.num_heads);
        }
        Ok(())
    }
}

/// What [`Encoder`] needs of a checkpoint: for [`Config::xxl`] 242 tensors.
///
/// # Errors
/// The config is not valid.
pub fn manifest(config: &Config) -> Result<Manifest> {
    config.check()?;
    Manifest::record(|weights| {
        weights.matrix((config.vocab, config.dim), EMBEDDING)?;
        if config.shared_pos {
            position_table(config, weights)?;
        }
        for layer in 0..config.num_layers {
            Block::new(config, &weights.pp(group(layer)))?;
        }
        RmsNorm::new(config.dim, EPS, &weights.pp("norm"))
    })
}

/// Name of the embedding table, of which single rows are asked for and never all.
pub const EMBEDDING: &str = "token_embedding.weight";

fn group(layer: usize) -> String {
    format!("blocks.{layer}")
}

/// `[num_buckets, H]`.
fn position_table(config: &Config, weights: &Weights) -> Result<Tensor> {
    weights.tensor((config.num_buckets, config.num_heads), "pos_embedding.embedding.weight")
}

struct Block {
    norm1: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// `[num_buckets, H]`; `None` where all layers share one.
    positions: Option<Tensor>,
    norm2: RmsNorm,
    gate: Linear,
    fc1: Linear,
    fc2: Linear,
    num_heads: usize,
    compute: Compute,
}

impl Block {
    fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let Config { dim, dim_attn, dim_ffn, .. } = *config;
        let (attn, ffn) = (weights.pp("attn"), weights.pp("ffn"));
        Ok(Self {
            norm1: RmsNorm::new(dim, EPS, &weights.pp("norm1"))?,
            q: Linear::no_bias(dim, dim_attn, &attn.pp("q"))?,
            k: Linear::no_bias(dim, dim_attn, &attn.pp("k"))?,
            v: Linear::no_bias(dim, dim_attn, &attn.pp("v"))?,
            o: Linear::no_bias(dim_attn, dim, &attn.pp("o"))?,
            positions: if config.shared_pos { None } else { Some(position_table(config, weights)?) },
            norm2: RmsNorm::new(dim, EPS, &weights.pp("norm2"))?,
            gate: Linear::no_bias(dim, dim_ffn, &ffn.pp("gate.0"))?,
            fc1: Linear::no_bias(dim, dim_ffn, &ffn.pp("fc1"))?,
            fc2: Linear::no_bias(dim_ffn, dim, &ffn.pp("fc2"))?,
            num_heads: config.num_heads,
            compute: weights.compute(),
        })
    }

    /// `x` `[1, N, C]` and `buckets` `[2·N − 1]` → `[1, N, C]`.
    fn forward(&self, x: &Tensor, buckets: &Tensor, shared: Option<&Tensor>) -> Result<Tensor> {
        let tokens = x.dim(1)?;
        let Some(table) = self.positions.as_ref().or(shared) else {
            candle_core::bail!("UMT5: no position table");
        };
        // [num_buckets, H] → [H, 2·N − 1]
        let bias = table.t()?.contiguous()?.index_select(buckets, 1)?;
        let y = self.norm1.forward(x)?;
        let heads = |linear: &Linear| split_heads(&linear.forward(&y)?, self.num_heads);
        let (q, k, v) = (heads(&self.q)?, heads(&self.k)?, heads(&self.v)?);
        drop(y);
        // T5 folds 1/√width into its weights: the scale is one.
        let span = tracing::info_span!(target: "steadydance", "attention", tokens).entered();
        let attention = Attention::new(1.0).bias(Bias::Offsets(&bias)).compute(self.compute);
        let y = merge_heads(&attention.apply(&q, &k, &v)?)?;
        drop(span);
        drop((q, k, v));
        let x = self.o.forward_with(&{ y }, Epilogue::Residual(x))?;
        let y = self.norm2.forward(&x)?;
        let gate = self.gate.forward_with(&y, Epilogue::GeluTanh)?;
        let inner = self.fc1.forward_with(&{ y }, Epilogue::Times(&{ gate }))?;
        self.fc2.forward_with(&inner, Epilogue::Residual(&x))
    }
}

/// The encoder. It holds no weights: each layer's are asked of the source when its turn comes, as group `blocks.N`;
/// the embedding table, the last norm (and a shared position table) come from the group of the empty name.
pub struct Encoder {
    config: Config,
    source: Arc<dyn WeightSource>,
}

impl Encoder {
    /// An encoder over `source`, whose tensors have the canonical names of [`key_map`](crate::key_map).
    ///
    /// # Errors
    /// The config is not valid.
    pub fn new(config: &Config, source: Arc<dyn WeightSource>) -> Result<Self> {
        config.check()?;
        Ok(Self { config: config.clone(), source })
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Token ids of one prompt, `</s>` last, no padding → `[1, N, dim]` f32.
    ///
    /// # Errors
    /// No ids, more than [`MAX_TOKENS`], an id outside the vocabulary, or weights that are missing or misshapen.
    pub fn encode(&self, ids: &[u32]) -> Result<Tensor> {
        let mut all = self.encode_all(&[ids], &mut |_, _| Ok(()))?;
        Ok(all.remove(0))
    }

    /// Several prompts, each by itself, with every layer's weights brought in once for all of them; one `[1, N, dim]`
    /// f32 for each, bit-identical to [`encode`](Self::encode). `progress(done, of)` is called before the first and
    /// after each layer; an error from it stops the work and is returned.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), and whatever `progress` returns.
    pub fn encode_all(
        &self,
        prompts: &[&[u32]],
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        prompts.iter().try_for_each(|ids| self.check_ids(ids))?;
        let layers = self.config.num_layers;
        progress(0, layers)?;
        self.source.prefetch(&group(0));
        let (mut states, buckets, shared) = self.embed(prompts)?;
        for layer in 0..layers {
            if layer + 1 < layers {
                self.source.prefetch(&group(layer + 1));
            }
            let block = Block::new(&self.config, &self.source.group(&group(layer))?)?;
            for (x, buckets) in states.iter_mut().zip(&buckets) {
                *x = block.forward(x, buckets, shared.as_ref())?;
            }
            progress(layer + 1, layers)?;
        }
        let norm = RmsNorm::new(self.config.dim, EPS, &self.source.group("")?.pp("norm"))?;
        states.iter().map(|x| norm.forward(x)).collect()
    }

    /// Embedding rows `[1, N, C]` f32 and buckets `[2·N − 1]` of each prompt, and the shared position table if there is
    /// one. Of the table, 2 GB, only the rows of the prompts are asked for.
    fn embed(&self, prompts: &[&[u32]]) -> Result<(Vec<Tensor>, Vec<Tensor>, Option<Tensor>)> {
        let weights = self.source.group("")?;
        let device = weights.device();
        let mut states = Vec::with_capacity(prompts.len());
        let mut buckets = Vec::with_capacity(prompts.len());
        for ids in prompts {
            states.push(weights.rows((self.config.vocab, self.config.dim), EMBEDDING, ids)?.unsqueeze(0)?);
            buckets.push(position::buckets(ids.len(), self.config.num_buckets, device)?);
        }
        let shared = if self.config.shared_pos { Some(position_table(&self.config, &weights)?) } else { None };
        Ok((states, buckets, shared))
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            candle_core::bail!("UMT5: no token ids; even an empty prompt has one, </s>");
        }
        if ids.len() > MAX_TOKENS {
            candle_core::bail!("UMT5: {} token ids; at most {MAX_TOKENS} are allowed, truncate them", ids.len());
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.vocab) {
            candle_core::bail!(
                "UMT5: token id {id}; the embedding table has {} rows, so the tokenizer is another model's",
                self.config.vocab
            );
        }
        Ok(())
    }
}
