//! Predicted activation memory, from the same tables of layers that the network is built from.

use kernels::Compute;
use kernels::attention::AttentionShape;

use crate::layers::{Kind, Layer};
use crate::{Config, Tile, Tiles, VaeError, layers};

/// Bytes of what comes in and goes out, and of an activation on the host.
const F32: u64 = 4;
/// Bytes of an activation on a GPU.
const BF16: u64 = 2;
/// What convolutions and products repack for themselves.
const SCRATCH: u64 = 1 << 20;

/// Peak bytes of encoding one video of `[frames, height, width]` (multiples of 8), by an
/// [`EncoderStream`](crate::EncoderStream) whatever the size of its chunks, or [in tiles](crate::Tiles): the remembered frames
/// and the working set of the hungriest layer, for one tile; of several, their latents as well. Weights and the caller's
/// tensors are not in it. For a batch, multiply.
///
/// # Errors
/// [`VaeError`] for sizes that do not fit and tiles that cannot be cut like this.
pub fn encode_activation_bytes(config: &Config, clip: [usize; 3], tile: Option<Tile>) -> Result<u64, VaeError> {
    let [frames, height, width] = clip;
    let tiles = Tiles::new(config, height, width, tile)?;
    let [tile_height, tile_width] = tiles.tile_size();
    let stride = config.spatial_stride();
    let latent_frames = (frames.saturating_sub(1) / config.temporal_stride() + 1) as u64;
    let latents = |area: usize| config.z_dim as u64 * latent_frames * (area / stride / stride) as u64 * F32;
    // Put together in memory of their own, to which those of a tile are copied out and added.
    let mosaic = if tiles.len() > 1 { latents(height * width) + 2 * latents(tile_height * tile_width) } else { 0 };
    Ok(SCRATCH + peak(&layers::encoder(config), Place::Host, tile_height, tile_width) + mosaic)
}

/// As [`encode_activation_bytes`], of [`Decoder::decode_tiled`](crate::Decoder::decode_tiled), or a
/// [`DecoderStream`](crate::DecoderStream) that is given one latent frame at a time: with the frames of pixels that it hands
/// out, and with all frames in half precision where there are several tiles.
///
/// # Errors
/// As there.
pub fn decode_activation_bytes(config: &Config, clip: [usize; 3], tile: Option<Tile>) -> Result<u64, VaeError> {
    let [frames, height, width] = clip;
    let tiles = Tiles::new(config, height, width, tile)?;
    let [tile_height, tile_width] = tiles.tile_size();
    let chunk = |area| pixel_chunk(config, area);
    // The frames as they came and joined.
    let tile_peak =
        peak(&layers::decoder(config), Place::Host, tile_height, tile_width) + 2 * chunk(tile_height * tile_width);
    if tiles.len() == 1 {
        return Ok(SCRATCH + tile_peak);
    }
    let held = 3 * frames as u64 * (height * width) as u64 * 2;
    Ok(SCRATCH + held + tile_peak.max(chunk(height * width)))
}

/// Bytes of both memories while a GPU computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuBytes {
    /// What the GPU's pool takes beside the weights.
    pub device: u64,
    /// What the host has: frames on their way, pinned or not, and what tiles are put together in.
    pub host: u64,
}

/// As [`encode_activation_bytes`], of [`Encoder::on_gpu`](crate::Encoder::on_gpu).
///
/// # Errors
/// As there.
pub fn gpu_encode_bytes(config: &Config, clip: [usize; 3], tile: Option<Tile>) -> Result<GpuBytes, VaeError> {
    let [frames, height, width] = clip;
    let tiles = Tiles::new(config, height, width, tile)?;
    let [tile_height, tile_width] = tiles.tile_size();
    let stride = config.spatial_stride();
    let latent = |area: usize| config.z_dim as u64 * (area / stride / stride) as u64 * F32;
    let latent_frames = (frames.saturating_sub(1) / config.temporal_stride() + 1) as u64;
    // Moments of the last chunk and of this one.
    let coming = 2 * 2 * latent(tile_height * tile_width);
    let mosaic = if tiles.len() > 1 { latent_frames * latent(height * width) } else { 0 };
    Ok(GpuBytes {
        device: in_segments(peak(&layers::encoder(config), Place::Gpu, tile_height, tile_width) + coming),
        // Of the last chunk and of this one.
        host: SCRATCH
            + 2 * pixel_chunk(config, tile_height * tile_width)
            + 2 * latent_frames * latent(tile_height * tile_width)
            + coming
            + mosaic,
    })
}

/// As [`decode_activation_bytes`], of [`Decoder::on_gpu`](crate::Decoder::on_gpu).
///
/// # Errors
/// As there.
pub fn gpu_decode_bytes(config: &Config, clip: [usize; 3], tile: Option<Tile>) -> Result<GpuBytes, VaeError> {
    let [frames, height, width] = clip;
    let tiles = Tiles::new(config, height, width, tile)?;
    let [tile_height, tile_width] = tiles.tile_size();
    let chunk = pixel_chunk(config, tile_height * tile_width);
    // The frames of the last chunk and of this one, on their way to the host; there also as tensors, and joined.
    let coming = 2 * chunk;
    let held = if tiles.len() > 1 { 3 * frames as u64 * (height * width) as u64 * 2 } else { 0 };
    Ok(GpuBytes {
        device: in_segments(peak(&layers::decoder(config), Place::Gpu, tile_height, tile_width) + coming),
        host: SCRATCH + held + (coming + 2 * chunk).max(pixel_chunk(config, height * width)),
    })
}

/// The pixels of a latent frame, f32.
fn pixel_chunk(config: &Config, area: usize) -> u64 {
    3 * config.temporal_stride() as u64 * area as u64 * F32
}

/// What a pool takes of the driver for so much: what is let go of leaves gaps that are too small for what comes next, an eighth at
/// every size that was tried, and small frames share a segment.
fn in_segments(bytes: u64) -> u64 {
    const SEGMENT: u64 = 64 << 20;
    bytes + bytes / 6 + SEGMENT
}

/// Where layers compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    Gpu,
}

/// Input and output of a layer, one frame each.
struct Sizes {
    input: u64,
    output: u64,
    /// Pixels of the input.
    area: u64,
}

impl Sizes {
    fn new(layer: &Layer, place: Place, height: usize, width: usize) -> Self {
        let area = ((height / layer.shrink) * (width / layer.shrink)) as u64;
        let frame = |channels: usize| match place {
            Place::Host => channels as u64 * area * F32,
            Place::Gpu => channels.next_multiple_of(8) as u64 * area * BF16,
        };
        Self { input: frame(layer.in_channels), output: frame(layer.out_channels), area }
    }
}

fn peak(layers: &[Layer], place: Place, height: usize, width: usize) -> u64 {
    let sizes = |l: &Layer| Sizes::new(l, place, height, width);
    let held: u64 = layers.iter().map(|l| held(l, &sizes(l))).sum();
    let working = layers.iter().map(|l| working(l, place, &sizes(l))).max().unwrap_or(0);
    // A frame as it comes, and as the first layer takes it.
    let brought = layers.first().filter(|_| place == Place::Gpu);
    let brought = brought.map_or(0, |l| sizes(l).input + l.in_channels as u64 * sizes(l).area * F32);
    held + working.max(brought)
}

/// Bytes that stay between frames.
fn held(layer: &Layer, &Sizes { input, output, .. }: &Sizes) -> u64 {
    match layer.kind {
        Kind::Conv(1) | Kind::Attention | Kind::SpatialDown | Kind::SpatialUp => 0,
        Kind::Conv(_) | Kind::Head | Kind::TemporalDown => 2 * input,
        Kind::Residual => 2 * input + 2 * output,
        // Besides its history: the second frame of the pair waits, as part of the pair, while the first goes on.
        Kind::TemporalUp => 2 * input + 2 * output,
    }
}

/// Bytes alive while a frame is in the layer.
fn working(layer: &Layer, place: Place, &Sizes { input, output, area }: &Sizes) -> u64 {
    match (layer.kind, place) {
        (Kind::Conv(_), _) => input + output,
        (Kind::SpatialDown, _) => input + output / 4,
        (Kind::SpatialUp, _) => input + 4 * output,
        (Kind::TemporalDown, _) => input + output,
        (Kind::TemporalUp, _) => input + 2 * output,
        (Kind::Head, _) => 2 * input + output,
        (Kind::Residual, _) => {
            let shortcut = if layer.in_channels == layer.out_channels { 0 } else { output };
            (2 * input + output).max(input + 2 * output + shortcut)
        }
        // Input, what is normalised, q, k and v; or instead of the second what is attended to. Scores are in no memory.
        (Kind::Attention, Place::Gpu) => 5 * input,
        // Input, q, k and v as they come, and the product with what it takes to make; or the product in both orders and
        // the result.
        (Kind::Attention, Place::Host) => {
            let pixels = area as usize;
            let shape = AttentionShape {
                heads: 1,
                queries: pixels,
                keys: pixels,
                width: layer.in_channels,
                compute: Compute::F32,
            };
            (4 * input + shape.peak_bytes()).max(7 * input)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_network_remembers_what_the_reference_caches() {
        // The reference's caches at 832×480 in f32 are 3.52 and 2.09 GiB; the working set comes on top.
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let decode = gib(decode_activation_bytes(&Config::wan21(), [81, 480, 832], None).unwrap());
        let encode = gib(encode_activation_bytes(&Config::wan21(), [81, 480, 832], None).unwrap());
        assert!((3.6..4.6).contains(&decode), "{decode}");
        assert!((2.2..3.0).contains(&encode), "{encode}");
    }

    #[test]
    fn memory_grows_with_the_picture_only() {
        let config = Config::tiny();
        let sizes = [(64, 64), (64, 128), (480, 832), (720, 1280)];
        for pair in sizes.windows(2) {
            let at = |(h, w): (usize, usize)| {
                [encode_activation_bytes, decode_activation_bytes].map(|f| f(&config, [81, h, w], None).unwrap())
            };
            assert!(at(pair[0]).iter().zip(at(pair[1])).all(|(a, b)| *a < b));
        }
    }

    #[test]
    fn smaller_tiles_take_less_and_only_held_frames_grow_with_the_clip() {
        let config = Config::wan21();
        for f in [encode_activation_bytes, decode_activation_bytes] {
            let at = |frames, tile| f(&config, [frames, 720, 1280], tile).unwrap();
            let sizes = [None, Some(Tile::new(512)), Some(Tile::new(320)), Some(Tile::new(256))].map(|t| at(81, t));
            assert!(sizes.windows(2).all(|pair| pair[0] > pair[1]), "{sizes:?}");
            assert_eq!(at(81, None), at(161, None));
            assert_eq!(at(81, None), at(81, Some(Tile::new(1280))));
        }
        let decode = |frames| decode_activation_bytes(&config, [frames, 720, 1280], Some(Tile::new(256))).unwrap();
        assert_eq!(decode(161) - decode(81), 80 * 3 * 720 * 1280 * 2);
        assert!(encode_activation_bytes(&config, [81, 720, 1280], Some(Tile::new(100))).is_err());
    }
}
