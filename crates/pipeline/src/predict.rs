//! Predictions for phases: arithmetic of all of them, and activations on a GPU. From sizes alone, until measured.

use offload::{How, Way};
use weights::Manifest;

use crate::needs::ClipShape;

/// Bytes of a number in bf16 or f16, in which a GPU computes.
const HALF: f64 = 2.0;
/// Parameters of Wan 2.1's VAE, from which the figures of a pixel come.
const VAE_PARAMETERS: f64 = 126.9e6;
/// Arithmetic of Wan 2.1's VAE, in FLOP a pixel of a frame: 275 TFLOP to decode and 164 to encode 480x832x81 (spec
/// memory_and_avatars §4.4).
const DECODE_FLOPS: f64 = 275e12 / (480.0 * 832.0 * 81.0);
const ENCODE_FLOPS: f64 = 164e12 / (480.0 * 832.0 * 81.0);
/// Bytes a pixel that the VAE has alive on a GPU, in f32 and in bf16; independent of the number of frames (§4.1).
const DECODE_BYTES: [f64; 2] = [18_900.0, 10_200.0];
const ENCODE_BYTES: [f64; 2] = [15_100.0, 7_600.0];
/// Workspace of its convolutions: 0.5 GiB at 480x832, less for less (§4.1).
const VAE_WORKSPACE: f64 = 0.5 * (1u64 << 30) as f64;
const WORKSPACE_PIXELS: f64 = 480.0 * 832.0;
/// Arithmetic of the pose networks for a frame: YOLOX-L at 640 px and DWPose-L at 384 x 288.
pub(crate) const POSE_FLOPS: f64 = 1.6e11;

/// One forward of a Wan transformer over `tokens` L (spec performance §2.1): products of blocks, self-attention over all
/// tokens, cross-attention over text and image tokens, patch embedding and head.
pub(crate) fn forward_flops(c: &dit::Config, tokens: usize) -> f64 {
    let (l, d, f) = (tokens as f64, c.dim as f64, c.ffn_dim as f64);
    let image_tokens = if c.model_type == "t2v" || c.model_type == "vace" { 0.0 } else { 257.0 };
    let context = c.text_len as f64 + image_tokens;
    let block = 2.0 * l * (4.0 * d * d + 2.0 * d * d + 2.0 * d * f) + 2.0 * (2.0 * context) * d * d;
    let attention = 4.0 * l * l * d + 4.0 * l * context * d;
    let ends = 2.0 * l * (4.0 * c.in_dim as f64 * d + 4.0 * c.out_dim as f64 * d);
    c.num_layers as f64 * (block + attention) + ends
}

/// Every parameter that `prefix` begins meets every token once.
pub(crate) fn encoder_flops(manifest: &Manifest, prefix: &str, tokens: u64) -> f64 {
    2.0 * manifest.under(prefix).parameters() as f64 * tokens as f64
}

/// The VAE over so many clips of this shape.
pub(crate) fn vae_flops(manifest: &Manifest, clip: ClipShape, encodes: usize) -> (f64, f64) {
    let pixels = (clip.width * clip.height) as f64 * clip.num_frames as f64;
    let scale = manifest.parameters() as f64 / VAE_PARAMETERS;
    (ENCODE_FLOPS * pixels * scale * encodes as f64, DECODE_FLOPS * pixels * scale)
}

/// Activations of a transformer's block on a GPU with fused kernels and flash attention, in units U = L · D in 16 bits
/// (spec memory_and_avatars §4.1): with its feed-forward whole 8.9 U at the 14B model's widths, in 8 pieces 6.9 U, all but
/// the residual stream, keys, values and the attended values in pieces 4.1 U. `extra` is what comes besides.
pub(crate) fn transformer_ways(c: &dit::Config, tokens: usize, extra: u64) -> Vec<Way> {
    let unit = tokens as f64 * c.dim as f64 * HALF;
    let whole = (3.5 + 2.0 * c.ffn_dim as f64 / c.dim as f64).max(6.9);
    let way = |how, units: f64, time_factor| {
        let bytes = (unit * units) as u64 + extra;
        Way { how, bytes, host_bytes: 0, time_factor, exact: true }
    };
    // Pieces fill the units a little worse: estimates.
    vec![way(How::Whole, whole, 1.0), way(How::FfnChunks(8), 6.9, 1.02), way(How::TokenChunks, 4.1, 1.1)]
}

/// Which side of the VAE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VaeSide {
    Encode,
    Decode,
}

/// Activations of the VAE on a GPU, whole and in tiles that overlap by a quarter. `scale` is how this VAE's activations
/// compare with Wan 2.1's.
pub(crate) fn vae_ways(side: VaeSide, clip: ClipShape, is_half: bool, scale: f64) -> Vec<Way> {
    let per_pixel = match side {
        VaeSide::Encode => ENCODE_BYTES[usize::from(is_half)],
        VaeSide::Decode => DECODE_BYTES[usize::from(is_half)],
    };
    let bytes = |pixels: f64| {
        let workspace = VAE_WORKSPACE * (pixels / WORKSPACE_PIXELS).min(1.0);
        ((pixels * per_pixel + workspace) * scale) as u64
    };
    let whole = Way::whole(bytes((clip.width * clip.height) as f64));
    // The sides of the tiles that are left after the overlap, and what is computed twice.
    let tile = |side: usize, stride: f64| {
        let time_factor = (side as f64 / stride).powi(2);
        let pixels = (side.min(clip.width) * side.min(clip.height)) as f64;
        Way { how: How::Tiles(side as u32), bytes: bytes(pixels), host_bytes: 0, time_factor, exact: false }
    };
    let tiles = [tile(512, 448.0), tile(320, 256.0), tile(256, 192.0)];
    let smaller = tiles.into_iter().filter(|t| t.bytes < whole.bytes);
    std::iter::once(whole.clone()).chain(smaller).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_cost_what_the_specification_counts() {
        let pflop = |config: &dit::Config, tokens| forward_flops(config, tokens) / 1e15;
        let dancer = dit::Config::steadydancer_14b();
        for (tokens, want) in [(35_880, 1.938), (52_992, 3.604), (82_800, 7.651)] {
            let got = pflop(&dancer, tokens);
            assert!((got / want - 1.0).abs() < 0.005, "{tokens}: {got}");
        }
    }

    #[test]
    fn activations_are_the_specified_ones() {
        let gib = |ways: &[Way]| ways.iter().map(|w| w.bytes as f64 / f64::from(1 << 30)).collect::<Vec<_>>();
        let dit = gib(&transformer_ways(&dit::Config::steadydancer_14b(), 35_880, 0));
        for (got, want) in dit.iter().zip([3.05, 2.4, 1.4]) {
            assert!((got - want).abs() < 0.06, "{dit:?}");
        }
        let clip = ClipShape { width: 832, height: 480, num_frames: 81 };
        let decode = gib(&vae_ways(VaeSide::Decode, clip, false, 1.0));
        assert!((decode[0] - 7.5).abs() < 0.1 && (decode[3] - 1.24).abs() < 0.02, "{decode:?}");
        assert!((gib(&vae_ways(VaeSide::Encode, clip, true, 1.0))[0] - 3.4).abs() < 0.1);
        // A picture that one tile covers is not cut.
        let small = ClipShape { width: 96, height: 96, num_frames: 5 };
        assert_eq!(vae_ways(VaeSide::Decode, small, false, 1.0).len(), 1);
    }
}
