//! The causal 3D VAE of Wan 2.1: pixels `[B, 3, T, H, W]` in [−1, 1] ↔ normalised latents `[B, 16, F, h, w]` with
//! F = (T − 1)/4 + 1, h×w = H/8×W/8. A picture is a video of one frame.
//!
//! Source: the original release (`wan/modules/vae.py`); paper: *Wan: Open and Advanced Large-Scale Video Generative
//! Models* (2025), section on the spatio-temporal VAE.
//!
//! Every layer looks back at most two frames, so both directions run as streams: frames go in as they come, results
//! come out as soon as they are complete, and what is held between calls is two frames per convolution. The whole
//! video at once gives the same numbers; there is no seam. A caller stops by not pushing the next chunk.
//!
//! Both halves compute on the host in f32, or on a GPU ([`Encoder::on_gpu`], [`Decoder::on_gpu`]) in bf16 with sums in f32, where nobody
//! waits before a result is handed out, one chunk later than it was begun.
//!
//! What is held grows with the picture. Large pictures can go through in [tiles](Tiles), one tile after the other and each
//! through all of its frames: what layers remember is of one tile only, which is nearly all that there is to hold.

mod backend;
mod blocks;
mod config;
mod decoder;
mod encoder;
mod error;
mod history;
mod layers;
mod memory;
mod names;
mod stack;
#[cfg(test)]
mod tests;
mod tile;

use candle_core::{Result, Tensor};
use weights::{Manifest, Weights};

pub use config::Config;
pub use decoder::{DecodedChunks, DecodedVideo, Decoder, DecoderStream, clamp_pixels};
pub use encoder::{Encoder, EncoderStream};
pub use error::VaeError;
pub use memory::{GpuBytes, decode_activation_bytes, encode_activation_bytes, gpu_decode_bytes, gpu_encode_bytes};
pub use names::{Layout, keymap};
pub use tile::{LatentMosaic, Tile, Tiles};

/// Both halves. Each can be loaded alone as [`Encoder`] or [`Decoder`].
#[derive(Debug)]
pub struct Vae {
    /// Pixels to latents.
    pub encoder: Encoder,
    /// Latents to pixels.
    pub decoder: Decoder,
}

impl Vae {
    /// Reads both halves under the original names.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or the configuration contradicts itself.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        Ok(Self { encoder: Encoder::new(config, weights)?, decoder: Decoder::new(config, weights)? })
    }

    /// See [`Encoder::encode`].
    ///
    /// # Errors
    /// As there.
    pub fn encode(&self, video: &Tensor) -> Result<Tensor> {
        self.encoder.encode(video)
    }

    /// See [`Decoder::decode`].
    ///
    /// # Errors
    /// As there.
    pub fn decode(&self, latents: &Tensor) -> Result<DecodedChunks<'_>> {
        self.decoder.decode(latents)
    }
}

/// All tensors that the VAE needs, under the original names.
///
/// # Errors
/// The configuration contradicts itself.
pub fn manifest(config: &Config) -> Result<Manifest> {
    Manifest::record(|weights| Vae::new(config, weights))
}
