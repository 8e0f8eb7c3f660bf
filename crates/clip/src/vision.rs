//! CLIP vision transformer (Radford et al. 2021; ViT-H/14 of open-clip's XLM-RoBERTa-large pair), as Wan 2.1 uses it:
//! the hidden state that enters the last block, every token, no final norm.
//!
//! Letters: B images, S side in pixels, p patch side, g = S/p, N = g²+1 tokens (the class token first), C width.

use std::sync::Arc;

use candle_core::{Result, Tensor};
use kernels::Compute;
use kernels::attention::Attention;
use kernels::residual::add_in_place;
use nn::{LayerNorm, Linear, merge_heads};
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
    fn forward(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => x.gelu_erf(),
            // sigmoid(z) = (tanh(z/2) + 1)/2
            Self::QuickGelu => x * (((x * (1.702 / 2.0))?.tanh()? + 1.0)? * 0.5)?,
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
        (0..config.num_layers - 1).try_for_each(|n| Block::new(config, &weights.pp(group(n))).map(drop))
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

struct Block {
    norm1: LayerNorm,
    to_qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    compute: Compute,
}

impl Block {
    fn new(config: &Config, weights: &Weights) -> Result<Self> {
        let Config { dim, mlp_ratio, eps, .. } = *config;
        let (attn, mlp) = (weights.pp("attn"), weights.pp("mlp"));
        Ok(Self {
            norm1: LayerNorm::affine(dim, eps, &weights.pp("norm1"))?,
            to_qkv: Linear::new(dim, 3 * dim, &attn.pp("to_qkv"))?,
            proj: Linear::new(dim, dim, &attn.pp("proj"))?,
            norm2: LayerNorm::affine(dim, eps, &weights.pp("norm2"))?,
            fc1: Linear::new(dim, mlp_ratio * dim, &mlp.pp("0"))?,
            fc2: Linear::new(mlp_ratio * dim, dim, &mlp.pp("2"))?,
            compute: weights.compute(),
        })
    }

    /// `x` `[B, N, C]` → `[B, N, C]`.
    fn forward(&self, config: &Config, x: &Tensor) -> Result<Tensor> {
        let Config { dim, num_heads, .. } = *config;
        let (batch, tokens, _) = x.dims3()?;
        // [B, N, 3·C] → three views of [B, H, N, C/H]
        let qkv = self.to_qkv.forward(&self.norm1.forward(x)?)?;
        let qkv = { qkv }.reshape((batch, tokens, 3, num_heads, dim / num_heads))?;
        let heads = |i: usize| qkv.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2);
        let scale = ((dim / num_heads) as f64).sqrt().recip();
        let span = tracing::info_span!(target: "steadydance", "attention", tokens).entered();
        let y = Attention::new(scale).compute(self.compute).apply(&heads(0)?, &heads(1)?, &heads(2)?)?;
        drop((qkv, span));
        let y = merge_heads(&{ y })?;
        let x = add_in_place(x, self.proj.forward(&{ y })?)?;
        let y = self.fc1.forward(&self.norm2.forward(&x)?)?;
        let y = config.activation.forward(&{ y })?;
        add_in_place(&x, self.fc2.forward(&y)?)
    }
}

/// The vision tower. It holds no weights: each block's are asked of the source when its turn comes, as group
/// `transformer.N`; what comes before the blocks is taken from the group of the empty name.
pub struct VisionTower {
    config: Config,
    source: Arc<dyn WeightSource>,
}

impl VisionTower {
    /// A tower over `source`, whose tensors have the canonical names of [`key_map`](crate::key_map).
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
        let blocks = self.config.num_layers - 1;
        progress(0, blocks)?;
        if blocks > 0 {
            self.source.prefetch(&group(0));
        }
        let mut x = Stem::new(&self.config, &self.source.group("")?)?.forward(&self.config, pixels)?;
        for layer in 0..blocks {
            if layer + 1 < blocks {
                self.source.prefetch(&group(layer + 1));
            }
            x = Block::new(&self.config, &self.source.group(&group(layer))?)?.forward(&self.config, &x)?;
            progress(layer + 1, blocks)?;
        }
        Ok(x)
    }
}
