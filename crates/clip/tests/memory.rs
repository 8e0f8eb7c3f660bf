//! Predicted activation memory against what is really allocated. Alone in its binary, because it counts all of it.

use std::alloc::System;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use cap::Cap;
use clip::{Activation, Config, VisionTower, activation_bytes};
use weights::{RandomWeights, Resident};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Highest number of bytes above what was allocated before.
fn peak(f: impl FnOnce()) -> u64 {
    // The allocator keeps the highest number ever: memory that is never touched brings the present one up to it.
    let (now, highest) = (ALLOCATOR.allocated(), ALLOCATOR.max_allocated());
    let ballast = Vec::<u8>::with_capacity(highest - now);
    let before = ALLOCATOR.max_allocated();
    f();
    drop(ballast);
    (ALLOCATOR.max_allocated() - before) as u64
}

#[test]
fn predictions_hold_and_are_not_wasteful() {
    let middle = Config { image_size: 224, dim: 320, num_heads: 4, num_layers: 3, ..Config::vit_h_14() };
    let narrow = Config { mlp_ratio: 2, num_heads: 10, ..middle.clone() };
    let quick = Config { activation: Activation::QuickGelu, ..middle.clone() };
    let mut wrong = Vec::new();
    for (config, images) in [(&middle, 1), (&middle, 3), (&narrow, 2), (&quick, 1)] {
        let source = Resident::new(Arc::new(RandomWeights::new(1)), Device::Cpu, Some(DType::BF16));
        let tower = VisionTower::new(config, Arc::new(source)).unwrap();
        let side = config.image_size;
        let pixels = Tensor::zeros((images, 3, side, side), DType::F32, &Device::Cpu).unwrap();
        let run = || drop(tower.forward(&pixels).unwrap());
        // The first use reads the weights and makes the threads' scratch.
        run();
        let (measured, predicted) = (peak(run), activation_bytes(config, images));
        let ratio = predicted as f64 / measured as f64;
        println!("{images} pictures: measured {measured}, predicted {predicted} ({ratio:.3})");
        if !(1.0..=1.25).contains(&ratio) {
            wrong.push(format!("{images} of {config:?}: {ratio:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn probe() {
    let numbers = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (rows, out, inn) in [(771, 1280, 320), (771, 320, 1280), (771, 960, 320), (257, 1280, 320), (257, 320, 1280)] {
        let x = numbers(&[rows, inn]);
        let b = numbers(&[out]);
        for dtype in [DType::F32, DType::BF16] {
            let w = numbers(&[out, inn]).to_dtype(dtype).unwrap().into();
            let run = || drop(kernels::linear::linear(&x, &w, Some(&b)).unwrap());
            run();
            let p = peak(run);
            println!("linear {rows} {out} {inn} {dtype:?}: {} beyond out {}", p, p as i64 - (rows * out * 4) as i64);
        }
    }
    let y = numbers(&[3, 257, 1280]);
    println!("gelu {} of {}", peak(|| drop(y.gelu_erf().unwrap())), 3 * 257 * 1280 * 4);
    let (q, k, v) = (numbers(&[3, 4, 257, 80]), numbers(&[3, 4, 257, 80]), numbers(&[3, 4, 257, 80]));
    println!("attention {} piece {}", peak(|| drop(nn::attention(&q, &k, &v, 0.1).unwrap())), 3 * 4 * 257 * 80 * 4);
}
