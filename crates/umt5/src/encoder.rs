//! UMT5 encoder (Chung et al. 2023, "UniMax"; T5 v1.1 layers with a relative position bias of its own in every
//! layer), as Wan 2.1 runs it: only the encoder, only over the valid tokens, nothing padded.
//!
//! Letters: N tokens of one prompt, C width (4096), A attention width, H heads, F feed-forward width.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::Compute;
use kernels::cuda::Gpu;
use nn::RmsNorm;
use nn::backend::{Backend, Gelu, Host, OnGpu, SelfAttention};
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

    /// Why layers of these sizes cannot be computed on a GPU, in words; `None` where they can.
    pub fn gpu_problem(&self) -> Option<String> {
        let Self { dim, dim_attn, dim_ffn, num_heads, .. } = *self;
        let head = dim_attn / num_heads.max(1);
        let fits = head.is_multiple_of(8) && head <= 128;
        let widths = [dim, dim_attn, dim_ffn];
        (!fits || widths.iter().any(|w| !w.is_multiple_of(8) || *w > 14_336)).then(|| {
            format!("the GPU's kernels are for heads of 8, 16, … 128 channels and widths of 8, 16, … 14336; this text encoder has heads of {head} and widths {dim}, {dim_attn} and {dim_ffn}")
        })
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
            position_table(config, weights, &Host)?;
        }
        for layer in 0..config.num_layers {
            Block::new(config, &weights.pp(group(layer)), &Host)?;
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
fn position_table<B: Backend>(config: &Config, weights: &Weights, on: &B) -> Result<B::Table> {
    on.table([config.num_buckets, config.num_heads], "pos_embedding.embedding.weight", weights)
}

struct Block<B: Backend> {
    norm1: B::RmsNorm,
    q: B::Linear,
    k: B::Linear,
    v: B::Linear,
    o: B::Linear,
    /// `[num_buckets, H]`; `None` where all layers share one.
    positions: Option<B::Table>,
    norm2: B::RmsNorm,
    gate: B::Linear,
    fc1: B::Linear,
    fc2: B::Linear,
    num_heads: usize,
    compute: Compute,
}

impl<B: Backend> Block<B> {
    fn new(config: &Config, weights: &Weights, on: &B) -> Result<Self> {
        let Config { dim, dim_attn, dim_ffn, .. } = *config;
        let (attn, ffn) = (weights.pp("attn"), weights.pp("ffn"));
        let linear = |shape, w: &Weights| on.linear(shape, false, w);
        Ok(Self {
            norm1: on.rms_norm(dim, EPS, &weights.pp("norm1"))?,
            q: linear([dim_attn, dim], &attn.pp("q"))?,
            k: linear([dim_attn, dim], &attn.pp("k"))?,
            v: linear([dim_attn, dim], &attn.pp("v"))?,
            o: linear([dim, dim_attn], &attn.pp("o"))?,
            positions: if config.shared_pos { None } else { Some(position_table(config, weights, on)?) },
            norm2: on.rms_norm(dim, EPS, &weights.pp("norm2"))?,
            gate: linear([dim_ffn, dim], &ffn.pp("gate.0"))?,
            fc1: linear([dim_ffn, dim], &ffn.pp("fc1"))?,
            fc2: linear([dim, dim_ffn], &ffn.pp("fc2"))?,
            num_heads: config.num_heads,
            compute: weights.compute(),
        })
    }

    /// `x` `[1, N, C]` and `buckets`, `2·N − 1` of them → `[1, N, C]`.
    fn forward(
        &self,
        on: &B,
        x: &B::Activations,
        buckets: &B::Rows,
        shared: Option<&B::Table>,
    ) -> Result<B::Activations> {
        let Some(table) = self.positions.as_ref().or(shared) else {
            candle_core::bail!("UMT5: no position table");
        };
        let offsets = on.offsets(table, buckets)?;
        let y = on.rms_normed(x, &self.norm1)?;
        let parts = [on.product(&y, &self.q)?, on.product(&y, &self.k)?, on.product(&y, &self.v)?];
        drop(y);
        // T5 folds 1/√width into its weights: the scale is one.
        let attention =
            SelfAttention { heads: self.num_heads, scale: 1.0, offsets: Some(&offsets), compute: self.compute };
        let y = on.attention(parts, attention)?;
        let x = on.product_added(on.input(y)?, &self.o, x)?;
        let inner = on.gated_product(on.rms_normed(&x, &self.norm2)?, [&self.gate, &self.fc1], Gelu::Tanh)?;
        on.product_added(on.input(inner)?, &self.fc2, &x)
    }
}

/// The encoder. It holds no weights: each layer's are asked of the source when its turn comes, as group `blocks.N`;
/// the embedding table, the last norm (and a shared position table) come from the group of the empty name.
pub struct Encoder {
    config: Config,
    source: Arc<dyn WeightSource>,
    gpu: Option<Gpu>,
}

impl Encoder {
    /// An encoder over `source`, whose tensors have the canonical names of [`key_map`](crate::key_map).
    ///
    /// # Errors
    /// The config is not valid.
    pub fn new(config: &Config, source: Arc<dyn WeightSource>) -> Result<Self> {
        config.check()?;
        Ok(Self { config: config.clone(), source, gpu: None })
    }

    /// The same with its layers computed on this GPU, to whose memory the source brings them. The embedding and the last norm stay
    /// on the host. For [`Config::gpu_problem`] there must be none.
    pub fn on_gpu(self, gpu: Gpu) -> Self {
        Self { gpu: Some(gpu), ..self }
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
        let states = match &self.gpu {
            Some(gpu) => self.layers(&OnGpu::new(gpu.clone()), prompts, progress)?,
            None => self.layers(&Host, prompts, progress)?,
        };
        let norm = RmsNorm::new(self.config.dim, EPS, &self.source.group("")?.pp("norm"))?;
        states.iter().map(|x| norm.forward(x)).collect()
    }

    /// What comes out of the last layer, `[1, N, C]` f32 of each prompt. Of the embedding table, 2 GB, only the rows of the prompts
    /// are asked for.
    fn layers<B: Backend>(
        &self,
        on: &B,
        prompts: &[&[u32]],
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let Config { vocab, dim, num_buckets, num_layers: layers, .. } = self.config;
        progress(0, layers)?;
        self.source.prefetch(&group(0));
        let weights = self.source.group("")?;
        let mut states = Vec::with_capacity(prompts.len());
        for ids in prompts {
            let rows = weights.rows((vocab, dim), EMBEDDING, ids)?.unsqueeze(0)?;
            states.push((on.bring(rows)?, on.rows(&position::buckets(ids.len(), num_buckets))?));
        }
        let shared = if self.config.shared_pos { Some(position_table(&self.config, &weights, on)?) } else { None };
        for layer in 0..layers {
            if layer + 1 < layers {
                self.source.prefetch(&group(layer + 1));
            }
            let block = Block::new(&self.config, &self.source.group(&group(layer))?, on)?;
            for (x, buckets) in &mut states {
                *x = block.forward(on, x, buckets, shared.as_ref())?;
            }
            progress(layer + 1, layers)?;
        }
        states.iter().map(|(x, _)| on.fetch(x)).collect()
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
