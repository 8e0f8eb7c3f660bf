//! Predicted activation memory against what is really allocated. Alone in its binary, because it counts all of it.

use std::alloc::System;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use cap::Cap;
use vae::{Config, Vae, decode_activation_bytes, encode_activation_bytes};
use weights::{RandomWeights, Weights};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Highest number of bytes above what was allocated before. The highest since the program began, so what is measured
/// must grow from call to call.
fn peak(f: impl FnOnce()) -> u64 {
    let (before, earlier) = (ALLOCATOR.allocated(), ALLOCATOR.max_allocated());
    f();
    assert!(ALLOCATOR.max_allocated() > earlier, "an earlier peak hides this one");
    (ALLOCATOR.max_allocated() - before) as u64
}

#[test]
fn predictions_hold_and_are_not_wasteful() {
    let config = Config { dim: 16, ..Config::tiny() };
    let source = Arc::new(RandomWeights::new(1));
    let vae = Vae::new(&config, &Weights::new(source, Device::Cpu, None)).unwrap();
    // The first use brings the weights into the kernels' order and makes the threads' scratch.
    let (height, width) = (256, 384);
    let frame = Tensor::zeros((1, 3, 1, height, width), DType::F32, &Device::Cpu).unwrap();
    let latent = Tensor::zeros((1, 16, 1, height / 8, width / 8), DType::F32, &Device::Cpu).unwrap();
    vae.encode(&frame).unwrap();
    vae.decoder.decode_all(&latent).unwrap();

    let mut encoder = vae.encoder.stream();
    let encode = peak(|| {
        for _ in 0..13 {
            encoder.push(&frame).unwrap();
        }
    });
    drop(encoder);
    let mut decoder = vae.decoder.stream();
    let decode = peak(|| {
        for _ in 0..4 {
            decoder.push(&latent).unwrap();
        }
    });
    for (what, measured, predicted) in [
        ("encode", encode, encode_activation_bytes(&config, height, width)),
        ("decode", decode, decode_activation_bytes(&config, height, width)),
    ] {
        println!("{what}: measured {measured}, predicted {predicted}");
        assert!(
            predicted >= measured && predicted <= 2 * measured,
            "{what}: {measured} measured, {predicted} predicted"
        );
    }
}
