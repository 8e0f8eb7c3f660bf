//! Predicted activation memory against what is really allocated. Alone in its binary, because it counts all of it.

use std::alloc::System;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use cap::Cap;
use clip::{Activation, Config, VisionTower, activation_bytes};
use kernels::Compute;
use testkit::peak;
use weights::{RandomWeights, Resident};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

#[test]
fn predictions_hold_and_are_not_wasteful() {
    let middle = Config { image_size: 224, dim: 480, num_heads: 4, num_layers: 3, ..Config::vit_h_14() };
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
        let (measured, predicted) = (peak(&ALLOCATOR, run), activation_bytes(config, images, Compute::F32));
        let ratio = predicted as f64 / measured as f64;
        println!("{images} pictures: measured {measured}, predicted {predicted} ({ratio:.3})");
        if !(1.0..=1.25).contains(&ratio) {
            wrong.push(format!("{images} of {config:?}: {ratio:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
