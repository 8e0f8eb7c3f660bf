//! Predicted activation memory, from the same tables of layers that the network is built from.

use crate::layers::{Kind, Layer};
use crate::{Config, layers};

/// Bytes of an activation.
const F32: u64 = 4;
/// Scores of the attention that lie in memory at once, twice (before and after the softmax).
const SCORES: u64 = 2 * (64 << 20);

/// Peak bytes of an [`EncoderStream`](crate::EncoderStream) for one video of `height`×`width` pixels (multiples of 8),
/// whatever its length and the size of the chunks: the remembered frames and the working set of the hungriest layer.
/// Weights and the caller's tensors are not in it, nor the kernels' scratch (some MiB per thread). For a batch,
/// multiply.
pub fn encode_activation_bytes(config: &Config, height: usize, width: usize) -> u64 {
    peak(&layers::encoder(config), height, width)
}

/// As [`encode_activation_bytes`], of a [`DecoderStream`](crate::DecoderStream) that is given one latent frame at a
/// time, with the four frames of pixels that it hands out.
pub fn decode_activation_bytes(config: &Config, height: usize, width: usize) -> u64 {
    // The frames as they came and joined.
    let pixels = 2 * 3 * config.temporal_stride() as u64 * (height * width) as u64 * F32;
    peak(&layers::decoder(config), height, width) + pixels
}

fn peak(layers: &[Layer], height: usize, width: usize) -> u64 {
    let held: u64 = layers.iter().map(|l| held(l, area(l, height, width))).sum();
    let working = layers.iter().map(|l| working(l, area(l, height, width))).max().unwrap_or(0);
    held + working
}

fn area(layer: &Layer, height: usize, width: usize) -> u64 {
    ((height / layer.shrink) * (width / layer.shrink)) as u64
}

/// Bytes that stay between frames.
fn held(layer: &Layer, area: u64) -> u64 {
    let (input, output) = (layer.in_channels as u64 * area * F32, layer.out_channels as u64 * area * F32);
    match layer.kind {
        Kind::Conv(1) | Kind::Attention | Kind::SpatialDown | Kind::SpatialUp => 0,
        Kind::Conv(_) | Kind::Head | Kind::TemporalDown => 2 * input,
        Kind::Residual => 2 * input + 2 * output,
        // Besides its history: the second frame of the pair waits, as part of the pair, while the first goes on.
        Kind::TemporalUp => 2 * input + 2 * output,
    }
}

/// Bytes alive while a frame is in the layer.
fn working(layer: &Layer, area: u64) -> u64 {
    let (input, output) = (layer.in_channels as u64 * area * F32, layer.out_channels as u64 * area * F32);
    match layer.kind {
        Kind::Conv(_) => input + output,
        Kind::SpatialDown => input + output / 4,
        Kind::SpatialUp => input + 4 * output,
        Kind::TemporalDown => input + output,
        Kind::TemporalUp => input + 2 * output,
        Kind::Head => 2 * input + output,
        Kind::Residual => {
            let shortcut = if layer.in_channels == layer.out_channels { 0 } else { output };
            (2 * input + output).max(input + 2 * output + shortcut)
        }
        // Input, its norm, q, k and v as they come and in the order that the product wants, the result twice.
        Kind::Attention => 10 * input + SCORES.min(2 * area * area * F32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_network_remembers_what_the_reference_caches() {
        // The reference's caches at 832×480 in f32 are 3.52 and 2.09 GiB; the working set comes on top.
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let decode = gib(decode_activation_bytes(&Config::wan21(), 480, 832));
        let encode = gib(encode_activation_bytes(&Config::wan21(), 480, 832));
        assert!((3.6..4.6).contains(&decode), "{decode}");
        assert!((2.2..3.0).contains(&encode), "{encode}");
    }

    #[test]
    fn memory_grows_with_the_picture_only() {
        let config = Config::tiny();
        let sizes = [(64, 64), (64, 128), (480, 832), (720, 1280)];
        for pair in sizes.windows(2) {
            let at = |(h, w): (usize, usize)| {
                [encode_activation_bytes(&config, h, w), decode_activation_bytes(&config, h, w)]
            };
            assert!(at(pair[0]).iter().zip(at(pair[1])).all(|(a, b)| *a < b));
        }
    }
}
