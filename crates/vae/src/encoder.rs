use candle_core::{Result, Tensor};
use kernels::cuda::Gpu;
use weights::Weights;

use crate::backend::Fetched;
use crate::stack::{Flow, Half, half};
use crate::tile::{LatentMosaic, Tile, Tiles};
use crate::{Config, VaeError, layers};

/// Pixels to latents.
#[derive(Debug)]
pub struct Encoder {
    config: Config,
    half: Box<dyn Half>,
    /// `[1, z, 1, 1, 1]`.
    mean: Tensor,
    std: Tensor,
}

impl Encoder {
    /// Reads `encoder.*` and `conv1.*`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen, or the configuration contradicts itself.
    pub fn new(config: &Config, weights: &Weights) -> Result<Self> {
        Self::with(config, weights, None)
    }

    /// The same on a GPU, to whose memory `weights` brings them: frames there are bf16 with sums in f32, latents f32. One video at a
    /// time.
    ///
    /// # Errors
    /// As there, [`VaeError::Gpu`], and there is no room.
    pub fn on_gpu(config: &Config, weights: &Weights, gpu: &Gpu) -> Result<Self> {
        config.check_gpu()?;
        Self::with(config, weights, Some(gpu))
    }

    fn with(config: &Config, weights: &Weights, gpu: Option<&Gpu>) -> Result<Self> {
        config.check()?;
        let (mean, std) = statistics(config, weights)?;
        Ok(Self { config: config.clone(), half: half(&layers::encoder(config), gpu, weights)?, mean, std })
    }

    /// The sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Begins a video.
    pub fn stream(&self) -> EncoderStream<'_> {
        EncoderStream { encoder: self, flow: self.half.start(), chunk: None, frames: 0, latents: 0, begun: Vec::new() }
    }

    /// `video` `[B, 3, T, H, W]` f32 in [−1, 1], T = 4·n+1, H and W multiples of 8 → the mean of the latent
    /// distribution, normalised, `[B, 16, (T − 1)/4 + 1, H/8, W/8]`. Nothing is drawn at random.
    ///
    /// # Errors
    /// [`VaeError`] when the shape does not fit.
    pub fn encode(&self, video: &Tensor) -> Result<Tensor> {
        let [_, _, frames, height, width] = dims5(video, "the video", 3)?;
        self.config.check_video(frames, height, width)?;
        self.encode_frames((0..frames).map(|t| video.narrow(2, t, 1)))
    }

    /// As [`encode`](Self::encode), in tiles where `tile` does not cover the picture.
    ///
    /// # Errors
    /// As there, and tiles that cannot be cut like this.
    pub fn encode_tiled(&self, video: &Tensor, tile: Option<Tile>) -> Result<Tensor> {
        let [_, _, frames, height, width] = dims5(video, "the video", 3)?;
        self.config.check_video(frames, height, width)?;
        let tiles = Tiles::new(&self.config, height, width, tile)?;
        let mut mosaic = LatentMosaic::new(&tiles);
        for index in 0..tiles.len() {
            let part = tiles.of_pixels(index, video)?;
            mosaic.add(index, self.encode_frames((0..frames).map(|t| part.narrow(2, t, 1)))?)?;
        }
        mosaic.finish()
    }

    /// As [`encode`](Self::encode), from chunks `[B, 3, n, H, W]` with any n that are fetched one after the other, so
    /// that the pixels of a long video are never held together. The number of frames is known, and checked, at the
    /// end only.
    ///
    /// # Errors
    /// [`VaeError`] when a shape or the number of frames does not fit; whatever the iterator returns.
    pub fn encode_frames(&self, chunks: impl IntoIterator<Item = Result<Tensor>>) -> Result<Tensor> {
        let mut stream = self.stream();
        let mut latents = Vec::new();
        for chunk in chunks {
            latents.extend(stream.push(&chunk?)?);
        }
        latents.extend(stream.finish()?);
        Tensor::cat(&latents, 2)
    }
}

/// One video on its way through the encoder.
#[derive(Debug)]
pub struct EncoderStream<'a> {
    encoder: &'a Encoder,
    flow: Box<dyn Flow + 'a>,
    chunk: Option<Vec<usize>>,
    frames: usize,
    /// Latent frames that were handed out.
    latents: usize,
    /// What is computed on a GPU while the caller makes the next chunk.
    begun: Vec<Fetched>,
}

impl EncoderStream<'_> {
    /// The next frames `[B, 3, n, H, W]` f32 in [−1, 1], any n → latent frames `[B, 16, m, H/8, W/8]`, if any are complete: one with
    /// frame 0 and one with every fourth frame after it. A GPU is still computing those that this chunk completes: they come with the
    /// next.
    ///
    /// # Errors
    /// [`VaeError`] when the shape does not fit or a latent is not finite. After an error the stream is of no use any more.
    pub fn push(&mut self, chunk: &Tensor) -> Result<Option<Tensor>> {
        let [_, _, frames, height, width] = dims5(chunk, "the video chunk", 3)?;
        self.encoder.config.check_size(height, width)?;
        same_but_frames(chunk, &mut self.chunk, "the video chunk")?;
        self.frames += frames;
        let begun = self.flow.push(chunk)?;
        let done = match self.encoder.half.is_at_once() {
            true => begun,
            false => std::mem::replace(&mut self.begun, begun),
        };
        self.normalised(done)
    }

    fn normalised(&mut self, done: Vec<Fetched>) -> Result<Option<Tensor>> {
        if done.is_empty() {
            return Ok(None);
        }
        let moments = gathered(&*self.flow, done, "latent frame", &mut self.latents)?;
        self.encoder.normalised(&moments).map(Some)
    }

    /// Ends the video → the latent frames that were not there before.
    ///
    /// # Errors
    /// [`VaeError::FrameCount`] when the last latent frame is not complete or there is none; as [`push`](Self::push).
    pub fn finish(mut self) -> Result<Option<Tensor>> {
        let config = &self.encoder.config;
        // The size was checked with each chunk; here only the number of frames is in question.
        config.check_video(self.frames, config.spatial_stride(), config.spatial_stride())?;
        let done = std::mem::take(&mut self.begun);
        self.normalised(done)
    }
}

/// Waits for frames and joins them, `[B, C, n, H, W]`; `count` of the same kind came before.
pub(crate) fn gathered(flow: &dyn Flow, done: Vec<Fetched>, what: &'static str, count: &mut usize) -> Result<Tensor> {
    let mut frames = Vec::with_capacity(done.len());
    for fetched in done {
        let frame = fetched.finish()?;
        *count += 1;
        // A sum is finite unless a number is not, or magnitudes reach 1e38, which is as wrong.
        if !frame.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(VaeError::NotFinite { what, number: *count, layer: flow.not_finite()? }.into());
        }
        frames.push(frame);
    }
    if frames.len() == 1 { Ok(frames.remove(0)) } else { Tensor::cat(&frames, 2) }
}

impl Encoder {
    /// Mean and log-variance `[B, 2·z, F, h, w]` → normalised mean.
    pub(crate) fn normalised(&self, moments: &Tensor) -> Result<Tensor> {
        let mean = moments.narrow(1, 0, self.config.z_dim)?;
        mean.broadcast_sub(&self.mean)?.broadcast_div(&self.std)
    }
}

/// Mean and standard deviation as `[1, z, 1, 1, 1]`.
pub(crate) fn statistics(config: &Config, weights: &Weights) -> Result<(Tensor, Tensor)> {
    let tensor = |values: &[f64]| {
        let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
        Tensor::from_vec(values, (1, config.z_dim, 1, 1, 1), weights.device())
    };
    Ok((tensor(&config.mean)?, tensor(&config.std)?))
}

/// The five dimensions of a tensor that must have `channels` channels and at least one frame.
pub(crate) fn dims5(x: &Tensor, what: &'static str, channels: usize) -> std::result::Result<[usize; 5], VaeError> {
    match *x.dims() {
        [b, c, t, h, w] if c == channels && b * t * h * w > 0 => Ok([b, c, t, h, w]),
        _ => Err(VaeError::Shape { what, found: x.dims().to_vec(), channels }),
    }
}

/// Checks that a chunk differs from the first one in its number of frames only.
pub(crate) fn same_but_frames(
    x: &Tensor,
    first: &mut Option<Vec<usize>>,
    what: &'static str,
) -> std::result::Result<(), VaeError> {
    let expected = first.get_or_insert_with(|| x.dims().to_vec());
    let same = x.dims().iter().zip(expected.iter()).enumerate().all(|(axis, (a, b))| axis == 2 || a == b);
    if same {
        return Ok(());
    }
    Err(VaeError::ChunkChanged { what, found: x.dims().to_vec(), expected: expected.clone() })
}
