use candle_core::{Device, Result, Tensor};
use kernels::cuda::Gpu;
use weights::Weights;

use crate::backend::Fetched;
use crate::encoder::{dims5, gathered, same_but_frames, statistics};
use crate::stack::{Flow, Half, half};
use crate::tile::{Canvas, Tile, Tiles};
use crate::{Config, layers};

/// Latents to pixels.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    half: Box<dyn Half>,
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
        Self::with(config, weights, None)
    }

    /// The same on a GPU, to whose memory `weights` brings them: frames there are bf16 with sums in f32, pixels f32. One video at a
    /// time.
    ///
    /// # Errors
    /// As there, [`VaeError::Gpu`](crate::VaeError::Gpu), and there is no room.
    pub fn on_gpu(config: &Config, weights: &Weights, gpu: &Gpu) -> Result<Self> {
        config.check_gpu()?;
        Self::with(config, weights, Some(gpu))
    }

    fn with(config: &Config, weights: &Weights, gpu: Option<&Gpu>) -> Result<Self> {
        config.check()?;
        let (mean, std) = statistics(config, weights)?;
        Ok(Self { config: config.clone(), half: half(&layers::decoder(config), gpu, weights)?, mean, std })
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Begins a video.
    pub fn stream(&self) -> DecoderStream<'_> {
        DecoderStream { decoder: self, flow: self.half.start(), chunk: None, frames: 0 }
    }

    /// `latents` `[B, 16, F, h, w]` f32, normalised → the video in chunks, one for each latent frame, computed as they
    /// are asked for: `[B, 3, 1, 8·h, 8·w]` first, then `[B, 3, 4, 8·h, 8·w]`. Pixels lie around [−1, 1] and are not
    /// clamped; [`clamp_pixels`] does that.
    ///
    /// # Errors
    /// [`VaeError`](crate::VaeError) when the shape does not fit.
    pub fn decode(&self, latents: &Tensor) -> Result<DecodedChunks<'_>> {
        dims5(latents, "the latents", self.config.z_dim)?;
        Ok(DecodedChunks { stream: self.stream(), latents: latents.clone(), next: 0, begun: None })
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

    pub(crate) fn denormalised(&self, latents: &Tensor) -> Result<Tensor> {
        latents.broadcast_mul(&self.std)?.broadcast_add(&self.mean)
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
    flow: Box<dyn Flow + 'a>,
    chunk: Option<Vec<usize>>,
    /// Frames that were handed out.
    frames: usize,
}

impl DecoderStream<'_> {
    /// The next latent frames `[B, 16, n, h, w]` f32, normalised, any n → their pixels `[B, 3, m, 8·h, 8·w]`, not
    /// clamped: one frame for the first latent frame, four for each later one.
    ///
    /// # Errors
    /// [`VaeError`](crate::VaeError) when the shape does not fit or a pixel is not finite. After an error the stream is of no use
    /// any more.
    pub fn push(&mut self, chunk: &Tensor) -> Result<Tensor> {
        let begun = self.begin(chunk)?;
        self.finish(begun)
    }

    /// Begins to compute a chunk.
    fn begin(&mut self, chunk: &Tensor) -> Result<Vec<Fetched>> {
        dims5(chunk, "the latent chunk", self.decoder.config.z_dim)?;
        same_but_frames(chunk, &mut self.chunk, "the latent chunk")?;
        self.flow.push(&self.decoder.denormalised(chunk)?)
    }

    fn finish(&mut self, begun: Vec<Fetched>) -> Result<Tensor> {
        gathered(&*self.flow, begun, "frame", &mut self.frames)
    }
}

/// The chunks of a video that is being decoded; see [`Decoder::decode`].
#[derive(Debug)]
pub struct DecodedChunks<'a> {
    stream: DecoderStream<'a>,
    latents: Tensor,
    next: usize,
    /// The next chunk, which a GPU computes while the caller has the one before.
    begun: Option<Vec<Fetched>>,
}

impl DecodedChunks<'_> {
    fn begin(&mut self) -> Result<Option<Vec<Fetched>>> {
        if self.next >= self.latents.dim(2)? {
            return Ok(None);
        }
        let latent = self.latents.narrow(2, self.next, 1)?;
        self.next += 1;
        self.stream.begin(&latent).map(Some)
    }

    fn chunk(&mut self) -> Result<Option<Tensor>> {
        let begun = match self.begun.take() {
            Some(begun) => Some(begun),
            None => self.begin()?,
        };
        let Some(begun) = begun else { return Ok(None) };
        if !self.stream.decoder.half.is_at_once() {
            self.begun = self.begin()?;
        }
        self.stream.finish(begun).map(Some)
    }
}

impl Iterator for DecodedChunks<'_> {
    type Item = Result<Tensor>;

    fn next(&mut self) -> Option<Self::Item> {
        self.chunk().transpose()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.latents.dims().get(2).copied().unwrap_or(0).saturating_sub(self.next);
        let left = left + usize::from(self.begun.is_some());
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
