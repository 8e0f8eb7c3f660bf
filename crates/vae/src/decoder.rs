use candle_core::{Device, Result, Tensor};
use weights::Weights;

use crate::encoder::{dims5, same_but_frames, statistics};
use crate::stack::{Stack, StackState};
use crate::tile::{Canvas, Tile, Tiles};
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

    /// As [`decode`](Self::decode), in tiles where `tile` does not cover the picture: then all tiles are computed here, one
    /// after the other, and the frames are held in half precision until they are asked for. `progress(done, of)` is called
    /// before the first and after every latent frame of every tile; an error from it stops the work and is returned.
    ///
    /// # Errors
    /// [`VaeError`](crate::VaeError) when the shape does not fit or tiles cannot be cut like this; whatever `progress` returns.
    pub fn decode_tiled(
        &self,
        latents: &Tensor,
        tile: Option<Tile>,
        progress: &mut dyn FnMut(usize, usize) -> Result<()>,
    ) -> Result<DecodedVideo<'_>> {
        let [b, _, latent_frames, h, w] = dims5(latents, "the latents", self.config.z_dim)?;
        let stride = self.config.spatial_stride();
        let tiles = Tiles::new(&self.config, h * stride, w * stride, tile)?;
        if tiles.len() == 1 {
            return Ok(DecodedVideo(Frames::Streamed(self.decode(latents)?)));
        }
        let step = self.config.temporal_stride();
        let frames = step * (latent_frames - 1) + 1;
        let all = tiles.len() * latent_frames;
        progress(0, all)?;
        let mut canvas = Canvas::new(&tiles, stride, 3 * b, frames);
        for index in 0..tiles.len() {
            let mut first = 0;
            for (t, chunk) in self.decode(&tiles.of_latents(index, latents)?)?.enumerate() {
                let chunk = chunk?;
                canvas.add(index, first, &chunk)?;
                first += chunk.dim(2)?;
                progress(index * latent_frames + t + 1, all)?;
            }
        }
        let shape = [b, frames, h * stride, w * stride];
        Ok(DecodedVideo(Frames::Held { canvas, shape, next: 0, step, device: latents.device().clone() }))
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

/// The chunks of a video, computed as they are asked for or put together from tiles before; see
/// [`Decoder::decode_tiled`].
#[derive(Debug)]
pub struct DecodedVideo<'a>(Frames<'a>);

#[derive(Debug)]
enum Frames<'a> {
    Streamed(DecodedChunks<'a>),
    Held {
        canvas: Canvas<half::f16>,
        /// `[B, T, H, W]`.
        shape: [usize; 4],
        next: usize,
        /// Frames of a chunk after the first.
        step: usize,
        device: Device,
    },
}

impl DecodedVideo<'_> {
    /// Whether chunks are computed as they are asked for.
    pub fn is_streamed(&self) -> bool {
        matches!(self.0, Frames::Streamed(_))
    }
}

impl Iterator for DecodedVideo<'_> {
    type Item = Result<Tensor>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Frames::Streamed(chunks) => chunks.next(),
            Frames::Held { canvas, shape: [b, frames, height, width], next, step, device } => {
                let count = if *next == 0 { 1 } else { *step }.min(*frames - *next);
                if count == 0 {
                    return None;
                }
                let values = canvas.frames(*next, count);
                *next += count;
                Some(Tensor::from_vec(values, (*b, 3, count, *height, *width), device))
            }
        }
    }
}
