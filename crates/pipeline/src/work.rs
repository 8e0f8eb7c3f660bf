//! Arithmetic of the networks, in operations of which a multiplication and an addition are two: what plans predict time from, and
//! what rates are reported in.

use candle_core::Result;
use weights::Manifest;

use crate::needs::ClipShape;
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

fn shape([width, height, num_frames]: [usize; 3]) -> ClipShape {
    ClipShape { width, height, num_frames }
}
