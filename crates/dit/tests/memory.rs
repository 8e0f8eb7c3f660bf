//! Predicted activation memory against what is really allocated. Alone in its binary, because it counts all of it.

mod inputs;

use std::alloc::System;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use cap::Cap;
use dit::{Attention, Chunking, Config, Dit, Inputs, PassShape, VaceConfig, activation_bytes, no_tap};
use inputs::{inputs, waves};
use kernels::Compute;
use kernels::quant::{Encoding, encode};
use testkit::peak;
use weights::{Computing, Matrix, RandomWeights, Resident, TensorSource};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Random weights whose matrices are quantised: what is repacked to multiply with them is more than what is widened of others.
struct Quantised(RandomWeights);

impl TensorSource for Quantised {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.0.tensor(name, shape, dtype, device)
    }

    fn matrix(&self, name: &str, shape: &[usize], _: Option<DType>, device: &Device) -> Result<Matrix> {
        let values = self.0.tensor(name, shape, Some(DType::F32), device)?.flatten_all()?.to_vec1::<f32>()?;
        let quantised = encode(&values, [shape[0], shape[1]], Encoding::Q8_0.into());
        Ok(quantised.map_err(|e| e.into_candle())?.into())
    }
}

/// Of a prompt.
const WORDS: usize = 20;

#[test]
fn predictions_hold_and_are_not_wasteful() {
    let middle = Config { text_len: 512, dim: 384, ffn_dim: 1024, num_heads: 3, num_layers: 1, ..Config::tiny() };
    let tall = Config { ffn_dim: 6144, dim: 256, num_heads: 2, ..middle.clone() };
    let vace = Some(VaceConfig { vace_layers: vec![0], vace_in_dim: 96 });
    let side = Config { model_type: "vace".into(), in_dim: 16, in_dim_c: None, vace, ..middle.clone() };
    let plain = Config { model_type: "t2v".into(), in_dim: 16, in_dim_c: None, ..middle.clone() };
    let (large, small) = ([5, 24, 32], [3, 16, 24]);
    let runs = [
        Chunking::Whole,
        Chunking::FeedForward { tokens: 512 },
        Chunking::Minimal { tokens: 1024 },
        Chunking::Minimal { tokens: 256 },
    ];
    let mut worst = Vec::new();
    for (what, config, latent, branches) in [
        ("tiny", &Config::tiny(), large, 1),
        ("middle", &middle, large, 1),
        ("middle", &middle, small, 1),
        ("middle", &middle, large, 3),
        ("tall", &tall, large, 1),
        ("tall", &tall, small, 2),
        ("vace", &side, large, 1),
        ("plain", &plain, large, 2),
    ] {
        let random = RandomWeights::new(1);
        let (source, compute) = match what {
            "tall" => (Resident::new(Arc::new(Quantised(random)), Device::Cpu, None), Compute::F32),
            "middle" => (Resident::new(Arc::new(random), Device::Cpu, Some(DType::BF16)), Compute::Bf16),
            _ => (Resident::new(Arc::new(random), Device::Cpu, Some(DType::BF16)), Compute::F32),
        };
        let net = Dit::new(config, Arc::new(Computing::new(Arc::new(source), compute))).unwrap();
        let conditions: Vec<Inputs> = (0..branches).map(|i| inputs(config, latent, WORDS, 10.0 * i as f32)).collect();
        let [f, h, w] = latent;
        let noise = waves(&[16, f, h, w], 99.0);
        let run = |chunking| {
            let prepared: Vec<_> = conditions.iter().map(|c| net.prepare(c, &mut no_tap).unwrap()).collect();
            let all: Vec<_> = prepared.iter().collect();
            net.forward_branches(&noise, 500.0, &all, chunking, &mut no_tap).unwrap();
        };
        // The first use reads the weights and makes the threads' scratch.
        run(Chunking::Minimal { tokens: 256 });
        for chunking in runs {
            let measured = peak(&ALLOCATOR, || run(chunking));
            let shape = PassShape {
                latent,
                image_tokens: 257,
                text_tokens: WORDS + 1,
                conditions: branches,
                branches,
                chunking,
                compute,
                attention: Attention::default(),
            };
            let predicted = activation_bytes(config, &shape);
            let ratio = predicted as f64 / measured as f64;
            println!(
                "{what} {latent:?} x{branches} {chunking:?}: measured {measured}, predicted {predicted} ({ratio:.3})"
            );
            // What threads keep from call to call is predicted and was there before.
            let scratch = predicted.saturating_sub(measured) <= 5 << 19;
            if ratio < 1.0 || (ratio > 1.25 && !scratch) {
                worst.push(format!("{what} {latent:?} x{branches} {chunking:?}: {ratio:.3}"));
            }
        }
    }
    assert!(worst.is_empty(), "{worst:#?}");
}
