//! Arithmetic of the networks, in operations of which a multiplication and an addition are two: what plans predict time from, and
//! what rates are reported in. And the plan of a transformer alone, for measuring it as clips are made with it.

use candle_core::Result;
use dit::Chunking;
use offload::{Machine, MemoryFlags, Phase, Residence, StagePlan};
use weights::Manifest;
use weights::convert::Form;

use crate::PipelineError;
use crate::needs::{ClipShape, transformer_activations, transformer_job};
use crate::predict::{encoder_flops, forward_flops, vae_flops};

/// One forward of a Wan transformer over a clip of this width, height and number of frames (spec performance §2.1).
pub fn transformer(config: &dit::Config, size: [usize; 3]) -> f64 {
    let appended = if config.is_steadydancer() { 2 } else { 0 };
    forward_flops(config, shape(size).tokens(appended))
}

/// UMT5 over one prompt: products with matrices; attention over so few tokens is next to nothing.
///
/// # Errors
/// Sizes that make no network.
pub fn text_encoder(config: &umt5::Config, tokens: usize) -> Result<f64> {
    Ok(encoder_flops(&umt5::manifest(config)?, "blocks", tokens as u64))
}

/// The vision tower over one picture.
///
/// # Errors
/// Sizes that make no network.
pub fn image_encoder(config: &clip::Config) -> Result<f64> {
    let manifest: Manifest = clip::manifest(config)?;
    Ok(encoder_flops(&manifest, "transformer", config.tokens() as u64))
}

/// Wan's VAE over a clip of this width, height and number of frames: encoding, and decoding.
///
/// # Errors
/// Sizes that make no network.
pub fn autoencoder(config: &vae::Config, size: [usize; 3]) -> Result<(f64, f64)> {
    Ok(vae_flops(&vae::manifest(config)?, shape(size), 1))
}

/// A transformer that is computed on its own.
#[derive(Debug, Clone, Copy)]
pub struct Transformer<'a> {
    /// Its sizes.
    pub config: &'a dit::Config,
    /// Width, height and frames of the clip.
    pub size: [usize; 3],
    /// In which its matrices are held.
    pub form: Form,
    /// Forwards that are made.
    pub forwards: usize,
    /// How tokens attend to each other.
    pub attention: dit::Attention,
}

/// How a transformer is computed on a GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct TransformerPlan {
    /// Memory and time, of one phase.
    pub stages: StagePlan,
    /// Where blocks are.
    pub residence: Residence,
    /// Tokens at a time.
    pub chunking: Chunking,
}

/// The plan by which the GPU of `machine`, which this program computes on, runs a transformer alone: that of a clip's loop, without
/// the other networks.
///
/// # Errors
/// Sizes that make no network, or memory that does not suffice.
pub fn transformer_plan(
    transformer: &Transformer,
    machine: &Machine,
    flags: &MemoryFlags,
) -> std::result::Result<TransformerPlan, PipelineError> {
    let Transformer { config, size, .. } = *transformer;
    let stages = offload::plan(&transformer_job(transformer, shape(size), machine)?, machine, flags)?;
    let residence = stages.phase(Phase::Denoise).map_or(Residence::WHOLE, Residence::of);
    let chunking = transformer_activations(&stages, config, shape(size));
    Ok(TransformerPlan { stages, residence, chunking })
}

fn shape([width, height, num_frames]: [usize; 3]) -> ClipShape {
    ClipShape { width, height, num_frames }
}
