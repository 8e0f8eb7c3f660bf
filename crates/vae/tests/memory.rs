//! Predicted activation memory against what is really allocated. Alone in its binary, because it counts all of it.

use std::alloc::System;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use cap::Cap;
use testkit::peak;
use vae::{Config, LatentMosaic, Tile, Tiles, Vae, decode_activation_bytes, encode_activation_bytes};
use weights::{RandomWeights, Weights};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fn zeros(channels: usize, frames: usize, height: usize, width: usize) -> Tensor {
    Tensor::zeros((1, channels, frames, height, width), DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn predictions_hold_and_are_not_wasteful() {
    let config = Config { dim: 16, ..Config::tiny() };
    let source = Arc::new(RandomWeights::new(1));
    let vae = Vae::new(&config, &Weights::new(source, Device::Cpu, None)).unwrap();
    let mut wrong = Vec::new();
    for (height, width, tile) in
        [(256, 384, None), (256, 384, Some(Tile::new(128))), (256, 256, Some(Tile { size: 192, overlap: 32 }))]
    {
        let frame = zeros(3, 1, height, width);
        let frames = 13;
        let latents = zeros(16, 4, height / 8, width / 8);
        let tiles = Tiles::new(&config, height, width, tile).unwrap();
        let encode = || {
            let mut mosaic = LatentMosaic::new(&tiles);
            for index in 0..tiles.len() {
                let part = tiles.of_pixels(index, &frame).unwrap();
                mosaic.add(index, vae.encoder.encode_frames((0..frames).map(|_| Ok(part.clone()))).unwrap()).unwrap();
            }
            mosaic.finish().unwrap();
        };
        let decode = || {
            for chunk in vae.decoder.decode_tiled(&latents, tile, &mut |_, _| Ok(())).unwrap() {
                chunk.unwrap();
            }
        };
        // The first use brings the weights into the kernels' order and makes the threads' scratch.
        encode();
        decode();
        let clip = [frames, height, width];
        for (what, measured, predicted) in [
            ("encode", peak(&ALLOCATOR, encode), encode_activation_bytes(&config, clip, tile).unwrap()),
            ("decode", peak(&ALLOCATOR, decode), decode_activation_bytes(&config, clip, tile).unwrap()),
        ] {
            let ratio = predicted as f64 / measured as f64;
            println!("{what} {clip:?} {tile:?}: measured {measured}, predicted {predicted} ({ratio:.3})");
            if !(1.0..=1.25).contains(&ratio) {
                wrong.push(format!("{what} {clip:?} {tile:?}: {ratio:.3}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
