//! CLIP vision transformer (Radford et al. 2021; ViT-H/14 of open-clip's XLM-RoBERTa-large pair), as Wan 2.1 uses it:
//! the hidden state that enters the last block, every token, no final norm.
//!
//! Letters: B images, S side in pixels, p patch side, g = S/p, N = g²+1 tokens (the class token first), C width.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::Compute;
use kernels::cuda::Gpu;
use nn::backend::{Backend, Gelu, Host, OnGpu, SelfAttention};
use nn::{LayerNorm, Linear};
use serde::{Deserialize, Serialize};
use weights::{Manifest, WeightSource, Weights};

/// What stands between the two layers of a block's feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Activation {
    /// `x·Φ(x)`, by the error function.
    Gelu,
    /// `x·sigmoid(1.702·x)`, of OpenAI's first models.
    QuickGelu,
}

impl Activation {
    fn gelu(self) -> Gelu {
        match self {
            Self::Gelu => Gelu::Erf,
            Self::QuickGelu => Gelu::Quick,
        }
    }
}

/// Sizes of a vision tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of the residual stream and of the output.
    pub dim: usize,
    /// Width of the feed-forward over `dim`.
    pub mlp_ratio: usize,
    /// Width of the joint space with text; of no effect here, where the projection is not used.
    pub out_dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Blocks of the whole tower; all but the last are run.
    pub num_layers: usize,
    /// Activation of the feed-forward.
    pub activation: Activation,
    /// Added to the variance in every norm.
    pub eps: f64,
}

impl Config {
    /// ViT-H/14 at 224 pixels, the image encoder of Wan 2.1: 632,076,800 parameters with the parts not used here.
    pub fn vit_h_14() -> Self {
        Self {
            image_size: 224,
            patch_size: 14,
            dim: 1280,
            mlp_ratio: 4,
            out_dim: 1024,
            num_heads: 16,
            num_layers: 32,
            activation: Activation::Gelu,
            eps: 1e-5,
        }
    }

    /// A few thousand parameters, for tests and the demo model.
    pub fn tiny() -> Self {
        Self { image_size: 56, dim: 48, out_dim: 32, num_heads: 4, num_layers: 3, ..Self::vit_h_14() }
    }

    /// Reads the sizes off a checkpoint: `shape` gives the shape of a tensor by its canonical name, say
    /// `|name| checkpoint.shape(name)`.
    ///
    /// Shapes do not tell the number of heads, nor whether a last block was left out of the file. So this knows the
    /// towers of [`vit_h_14`](Self::vit_h_14) and [`tiny`](Self::tiny) by their width, and no others.
    ///
    /// # Errors
    /// A tensor that tells a size is missing or misshapen, or the width is another tower's.
    pub fn detect<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Result<Self> {
        let of = |name: &str| match shape(name) {
            Some(found) => Ok(found),
            None => candle_core::bail!("no CLIP vision tower: tensor {name} is missing"),
        };
        let patch = of("patch_embedding.weight")?;
        let &[dim, 3, patch_size, across] = patch else {
            candle_core::bail!("no CLIP vision tower: patch_embedding.weight is {patch:?}; expected [C, 3, p, p]");
        };
        let known = [Self::vit_h_14(), Self::tiny()].into_iter().find(|known| known.dim == dim);
        let Some(known) = known.filter(|_| patch_size == across) else {
            candle_core::bail!(
                "CLIP vision tower with patch_embedding.weight {patch:?} is not known; expected ViT-H/14's [1280, 3, 14, 14]"
            );
        };
        let tokens: usize = of("pos_embedding")?.iter().product::<usize>() / dim;
        let side = tokens.saturating_sub(1).isqrt();
        let wide = of("transformer.0.mlp.0.weight")?.first().copied().unwrap_or(0);
        let found = Self { image_size: side * patch_size, patch_size, mlp_ratio: wide / dim, ..known };
        found.check()?;
        if side * side + 1 != tokens {
            candle_core::bail!(
                "no CLIP vision tower: {tokens} positions are not a square of patches and a class token"
            );
        }
        Ok(found)
    }

    /// Tensors that a checkpoint of this tower may hold beyond the [`manifest`]: the last block, the norm after it
    /// and the projection into the joint space. Names are canonical.
    pub fn ignored(&self, name: &str) -> bool {
        let block = name.strip_prefix("transformer.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        block.is_some_and(|block| block + 1 == self.num_layers)
            || name.starts_with("post_norm.")
            || matches!(name, "head" | "visual_projection.weight" | "vision_model.embeddings.position_ids")
    }

    /// Tokens of one image: its patches and the class token.
    pub fn tokens(&self) -> usize {
        let side = self.image_size / self.patch_size.max(1);
        side * side + 1
    }

    /// Why blocks of these sizes cannot be computed on a GPU, in words; `None` where they can.
    pub fn gpu_problem(&self) -> Option<String> {
        let Self { dim, num_heads, mlp_ratio, .. } = *self;
        let (head, wide) = (dim / num_heads.max(1), dim * mlp_ratio);
        let fits = head.is_multiple_of(8) && head <= 128 && wide <= 14_336;
        (!fits).then(|| {
            format!("the GPU's kernels are for heads of 8, 16, … 128 channels and widths up to 14336; this image encoder has heads of {head} and widths {dim} and {wide}")
        })
    }

    fn check(&self) -> Result<()> {
        let Self { image_size, patch_size, dim, num_heads, num_layers, mlp_ratio, .. } = *self;
        if [image_size, patch_size, dim, num_heads, num_layers, mlp_ratio].contains(&0) {
            candle_core::bail!("CLIP: all sizes must be positive; found {self:?}");
        }
        if !dim.is_multiple_of(num_heads) || !image_size.is_multiple_of(patch_size) {
            candle_core::bail!(
                "CLIP: dim {dim} must be a multiple of num_heads {num_heads}, and image_size {image_size} of patch_size {patch_size}"
            );
        }
        Ok(())
    }
}

/// What [`VisionTower`] needs of a checkpoint: everything up to the last block, which is not run.
///
/// # Errors
/// The config is not valid.
pub fn manifest(config: &Config) -> Result<Manifest> {
    config.check()?;
    Manifest::record(|weights| {
        Stem::new(config, weights)?;
        (0..config.num_layers - 1).try_for_each(|n| Block::new(config, &weights.pp(group(n)), &Host).map(drop))
    })
}

fn group(layer: usize) -> String {
    format!("transformer.{layer}")
}

/// What comes before the blocks.
struct Stem {
    /// `[C, 3·p·p]`: the convolution's stride is its kernel, so it is one product.
    patch: Linear,
    /// `[1, 1, C]`.
    class: Tensor,
    /// `[1, N, C]`.
    positions: Tensor,
    norm: LayerNorm,
}

impl Stem {
    fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let Config { dim, patch_size: p, .. } = *config;
        let patch = weights.tensor((dim, 3, p, p), "patch_embedding.weight")?;
        Ok(Self {
            patch: Linear::from_tensors(patch.reshape((dim, 3 * p * p))?, None),
            class: weights.tensor((1, 1, dim), "cls_embedding")?,
            positions: weights.tensor((1, config.tokens(), dim), "pos_embedding")?,
            norm: LayerNorm::affine(dim, config.eps, &weights.pp("pre_norm"))?,
        })
    }

    /// `pixels` `[B, 3, S, S]` → `[B, N, C]`.
    fn forward(&self, config: &Config, pixels: &Tensor) -> Result<Tensor> {
        let (batch, p) = (pixels.dim(0)?, config.patch_size);
        let g = config.image_size / p;
        // [B, 3, g, p, g, p] → [B, g, g, 3, p, p] → [B, g·g, 3·p·p]
        let patches = pixels.reshape(&[batch, 3, g, p, g, p][..])?.permute([0, 2, 4, 1, 3, 5])?;
        let patches = self.patch.forward(&patches.reshape((batch, g * g, 3 * p * p))?)?;
        let class = self.class.expand((batch, 1, config.dim))?;
        let tokens = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions)?;
        self.norm.forward(&tokens)
    }
}

struct Block<B: Backend> {
    norm1: B::LayerNorm,
    to_qkv: B::Linear,
    proj: B::Linear,
    norm2: B::LayerNorm,
    fc1: B::Linear,
    fc2: B::Linear,
    compute: Compute,
}

impl<B: Backend> Block<B> {
    fn new(config: &Config, weights: &Weights, on: &B) -> Result<Self> {
        let Config { dim, mlp_ratio, eps, .. } = *config;
        let (attn, mlp) = (weights.pp("attn"), weights.pp("mlp"));
        let linear = |shape, w: &Weights| on.linear(shape, true, w);
        Ok(Self {
            norm1: on.layer_norm(dim, eps, &weights.pp("norm1"))?,
            to_qkv: linear([3 * dim, dim], &attn.pp("to_qkv"))?,
            proj: linear([dim, dim], &attn.pp("proj"))?,
            norm2: on.layer_norm(dim, eps, &weights.pp("norm2"))?,
            fc1: linear([mlp_ratio * dim, dim], &mlp.pp("0"))?,
            fc2: linear([dim, mlp_ratio * dim], &mlp.pp("2"))?,
            compute: weights.compute(),
        })
    }

    /// `x` `[B, N, C]` → `[B, N, C]`.
    fn forward(&self, on: &B, config: &Config, x: &B::Activations) -> Result<B::Activations> {
        let Config { dim, num_heads: heads, .. } = *config;
        let qkv = on.product(&on.layer_normed(x, &self.norm1)?, &self.to_qkv)?;
        let scale = ((dim / heads) as f64).sqrt().recip();
        let y = on.attention_of_thirds(qkv, SelfAttention { heads, scale, offsets: None, compute: self.compute })?;
        let x = on.product_added(on.input(y)?, &self.proj, x)?;
        let y = on.product(&on.layer_normed(&x, &self.norm2)?, &self.fc1)?;
        let y = on.gelu(y, config.activation.gelu())?;
        on.product_added(on.input(y)?, &self.fc2, &x)
    }
}

/// The vision tower. It holds no weights: each block's are asked of the source when its turn comes, as group
/// `transformer.N`; what comes before the blocks is taken from the group of the empty name.
pub struct VisionTower {
    config: Config,
    source: Arc<dyn WeightSource>,
    gpu: Option<Gpu>,
}

impl VisionTower {
    /// A tower over `source`, whose tensors have the canonical names of [`key_map`](crate::key_map).
    ///
    /// # Errors
    /// The config is not valid.
    pub fn new(config: &Config, source: Arc<dyn WeightSource>) -> Result<Self> {
        config.check()?;
        Ok(Self { config: config.clone(), source, gpu: None })
    }

    /// The same with its blocks computed on this GPU, to whose memory the source brings them. The patch embedding, half a percent
    /// of the arithmetic, stays on the host in f32. For [`Config::gpu_problem`] there must be none.
    pub fn on_gpu(self, gpu: Gpu) -> Self {
        Self { gpu: Some(gpu), ..self }
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// `pixels` `[B, 3, S, S]` f32, S = `image_size`, values in [0, 1] less CLIP's channel means and divided by its
    /// deviations → hidden state after all blocks but the last, `[B, N, C]` f32 (Wan: `[B, 257, 1280]`).
    ///
    /// # Errors
    /// Pixels of another shape, or weights that are missing or misshapen.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        self.forward_with(pixels, &mut |_, _| Ok(()))
    }

    /// As [`forward`](Self::forward); `progress(done, of)` is called before the first and after each block, and an
    /// error from it stops the work and is returned.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and whatever `progress` returns.
    pub fn forward_with(
        &self,
        pixels: &Tensor,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Tensor> {
        let side = self.config.image_size;
        match pixels.dims() {
            [batch, 3, height, width] if *batch > 0 && *height == side && *width == side => {}
            other => candle_core::bail!("CLIP: pixels are {other:?}; expected [B, 3, {side}, {side}]"),
        }
        match &self.gpu {
            Some(gpu) => self.blocks(&OnGpu::new(gpu.clone()), pixels, progress),
            None => self.blocks(&Host, pixels, progress),
        }
    }

    fn blocks<B: Backend>(
        &self,
        on: &B,
        pixels: &Tensor,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<Tensor> {
        let blocks = self.config.num_layers - 1;
        progress(0, blocks)?;
        if blocks > 0 {
            self.source.prefetch(&group(0));
        }
        let mut x = on.bring(Stem::new(&self.config, &self.source.group("")?)?.forward(&self.config, pixels)?)?;
        for layer in 0..blocks {
            if layer + 1 < blocks {
                self.source.prefetch(&group(layer + 1));
            }
            let block = Block::new(&self.config, &self.source.group(&group(layer))?, on)?;
            x = block.forward(on, &self.config, &x)?;
            progress(layer + 1, blocks)?;
        }
        on.fetch(&x)
    }
}
