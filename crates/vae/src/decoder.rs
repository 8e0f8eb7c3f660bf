use candle_core::{Result, Tensor};
use weights::Weights;

use crate::encoder::{dims5, same_but_frames, statistics};
use crate::stack::{Stack, StackState};
use crate::{Config, layers};

/// Latents to pixels.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    stack: Stack,
    /// `[1, z, 1, 1, 1]`.
    mean: Tensor,
    std: Tensor,
}

impl Decoder {
    /// Reads `decoder.*` and `conv2.*`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or the configuration contradicts itself.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        config.check()?;
        let (mean, std) = statistics(config, weights)?;
        Ok(Self { config: config.clone(), stack: Stack::new(&layers::decoder(config), weights)?, mean, std })
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Begins a video.
    pub fn stream(&self) -> DecoderStream<'_> {
        DecoderStream { decoder: self, state: self.stack.start(), chunk: None }
    }

    /// `latents` `[B, 16, F, h, w]` f32, normalised → the video in chunks, one for each latent frame, computed as they
    /// are asked for: `[B, 3, 1, 8·h, 8·w]` first, then `[B, 3, 4, 8·h, 8·w]`. Pixels lie around [−1, 1] and are not
    /// clamped; [`clamp_pixels`] does that.
    ///
    /// # Errors
    /// [`VaeError`](crate::VaeError) when the shape does not fit.
    pub fn decode(&self, latents: &Tensor) -> Result<DecodedChunks<'_>> {
        dims5(latents, "the latents", self.config.z_dim)?;
        Ok(DecodedChunks { stream: self.stream(), latents: latents.clone(), next: 0 })
    }

    /// All chunks of [`decode`](Self::decode) together, `[B, 3, 4·(F − 1) + 1, 8·h, 8·w]`.
    ///
    /// # Errors
    /// As there.
    pub fn decode_all(&self, latents: &Tensor) -> Result<Tensor> {
        Tensor::cat(&self.decode(latents)?.collect::<Result<Vec<_>>>()?, 2)
    }

    fn denormalised(&self, latents: &Tensor) -> Result<Tensor> {
        latents.broadcast_mul(&self.std)?.broadcast_add(&self.mean)
    }

    #[cfg(test)]
    pub(crate) fn decode_whole(&self, latents: &Tensor) -> Result<Tensor> {
        let out = self.stack.push_whole(&self.denormalised(latents)?, &mut self.stack.start())?;
        out.ok_or_else(|| candle_core::Error::msg("no frame"))
    }
}

/// Pixels brought into [−1, 1], in any shape: the last step of the reference's decoder.
///
/// # Errors
/// Fails only where the device does.
pub fn clamp_pixels(pixels: &Tensor) -> Result<Tensor> {
    pixels.clamp(-1f32, 1f32)
}

/// One video on its way through the decoder.
#[derive(Debug)]
pub struct DecoderStream<'a> {
    decoder: &'a Decoder,
    state: StackState,
    chunk: Option<Vec<usize>>,
}

impl DecoderStream<'_> {
    /// The next latent frames `[B, 16, n, h, w]` f32, normalised, any n → their pixels `[B, 3, m, 8·h, 8·w]`, not
    /// clamped: one frame for the first latent frame, four for each later one.
    ///
    /// # Errors
    /// [`VaeError`](crate::VaeError) when the shape does not fit. After an error the stream is of no use any more.
    pub fn push(&mut self, chunk: &Tensor) -> Result<Tensor> {
        dims5(chunk, "the latent chunk", self.decoder.config.z_dim)?;
        same_but_frames(chunk, &mut self.chunk, "the latent chunk")?;
        let mut done = Vec::new();
        self.decoder.stack.push(&self.decoder.denormalised(chunk)?, &mut self.state, &mut done)?;
        Tensor::cat(&done, 2)
    }
}

/// The chunks of a video that is being decoded; see [`Decoder::decode`].
#[derive(Debug)]
pub struct DecodedChunks<'a> {
    stream: DecoderStream<'a>,
    latents: Tensor,
    next: usize,
}

impl DecodedChunks<'_> {
    fn chunk(&mut self) -> Result<Option<Tensor>> {
        if self.next >= self.latents.dim(2)? {
            return Ok(None);
        }
        let latent = self.latents.narrow(2, self.next, 1)?;
        self.next += 1;
        self.stream.push(&latent).map(Some)
    }
}

impl Iterator for DecodedChunks<'_> {
    type Item = Result<Tensor>;

    fn next(&mut self) -> Option<Self::Item> {
        self.chunk().transpose()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.latents.dims().get(2).copied().unwrap_or(0).saturating_sub(self.next);
        (left, Some(left))
    }
}

impl ExactSizeIterator for DecodedChunks<'_> {}
