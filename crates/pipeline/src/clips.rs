//! Clips through the VAE, a few frames at a time.

use std::sync::Arc;

use candle_core::Tensor;
use kernels::cuda::Gpu;
use vae::{Decoder, Encoder, LatentMosaic, Tile, Tiles, clamp_pixels};
use weights::WeightSource;

use crate::PipelineError;
use crate::progress::Progress;

/// Pixel frames that go into the encoder at once: what makes one latent frame.
const CHUNK: usize = crate::geometry::LATENT_FRAMES;

/// On the GPU to whose memory `source` brings weights, if it is one.
pub(crate) fn encoder(
    config: &vae::Config,
    source: Arc<dyn WeightSource>,
    gpu: Option<&Gpu>,
) -> candle_core::Result<Encoder> {
    let weights = source.group("")?;
    match gpu {
        Some(gpu) => Encoder::on_gpu(config, &weights, gpu),
        None => Encoder::new(config, &weights),
    }
}

/// As [`encoder`].
pub(crate) fn decoder(
    config: &vae::Config,
    source: Arc<dyn WeightSource>,
    gpu: Option<&Gpu>,
) -> candle_core::Result<Decoder> {
    let weights = source.group("")?;
    match gpu {
        Some(gpu) => Decoder::on_gpu(config, &weights, gpu),
        None => Decoder::new(config, &weights),
    }
}

/// The first `count` frames of what `clip` begins, each `[3, H, W]` in −1..=1 → `[16, F, h, w]`, tile by tile: the clip is
/// begun anew for each, and at most four frames are held.
pub(crate) fn encode<I>(
    net: &Encoder,
    tiles: &Tiles,
    mut clip: impl FnMut() -> Result<I, PipelineError>,
    count: usize,
    progress: &mut Progress,
) -> Result<Tensor, PipelineError>
where
    I: Iterator<Item = Result<Tensor, PipelineError>>,
{
    let explain = |e| PipelineError::from_compute("VAE encoder".into(), e);
    let mut mosaic = LatentMosaic::new(tiles);
    for index in 0..tiles.len() {
        let part = |frame: Tensor| tiles.of_pixels(index, &frame).and_then(|t| t.force_contiguous()).map_err(explain);
        let frames = clip()?.map(|frame| if tiles.len() == 1 { frame } else { part(frame?) });
        mosaic.add(index, encode_tile(net, frames, count, progress)?).map_err(explain)?;
    }
    mosaic.finish().and_then(|t| t.squeeze(0)).map_err(explain)
}

/// The first `count` of `frames` → `[1, 16, F, h, w]`.
fn encode_tile(
    net: &Encoder,
    mut frames: impl Iterator<Item = Result<Tensor, PipelineError>>,
    count: usize,
    progress: &mut Progress,
) -> Result<Tensor, PipelineError> {
    let mut stream = net.stream();
    let mut latents = Vec::new();
    let mut taken = 0;
    while taken < count {
        let size = if taken == 0 { 1 } else { CHUNK.min(count - taken) };
        let chunk = frames.by_ref().take(size).collect::<Result<Vec<_>, _>>()?;
        let explain = |e| PipelineError::from_compute(format!("VAE encoder, frame {}", taken + 1), e);
        if chunk.len() < size {
            return Err(explain(candle_core::Error::Msg(format!(
                "the clip ended after {} frames",
                taken + chunk.len()
            ))));
        }
        let chunk = Tensor::stack(&chunk, 1).and_then(|c| c.unsqueeze(0)).map_err(explain)?;
        latents.extend(stream.push(&chunk).map_err(explain)?);
        taken += size;
        progress.advance(size)?;
    }
    let explain = |e| PipelineError::from_compute("VAE encoder".into(), e);
    latents.extend(stream.finish().map_err(explain)?);
    Tensor::cat(&latents, 2).map_err(explain)
}

/// `latents` `[16, F, h, w]` → `[3, n, H, W]` in −1..=1, chunk after chunk to `sink`. Where the tile does not cover the
/// picture, progress is made before the first chunk, one unit for each of a tile's latent frames.
pub(crate) fn decode(
    net: &Decoder,
    latents: &Tensor,
    tile: Option<Tile>,
    progress: &mut Progress,
    sink: &mut dyn FnMut(&Tensor, &mut Progress) -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    let explain = |e| PipelineError::from_compute("VAE decoder".into(), e);
    let latents = latents.unsqueeze(0).map_err(explain)?;
    let video = net.decode_tiled(&latents, tile, &mut |done, _| {
        progress.set(done).map_err(|_| candle_core::Error::Msg("cancelled".into()))
    });
    for chunk in video.map_err(|e| progress.explain(|| "VAE decoder".into(), e))? {
        let chunk = chunk.and_then(|c| clamp_pixels(&c)?.squeeze(0)).map_err(explain)?;
        sink(&chunk, progress)?;
    }
    Ok(())
}
