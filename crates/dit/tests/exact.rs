//! What is computed once instead of many times: the same results.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use dit::{Chunking, Config, Dit, Inputs, PoseInputs, no_tap};
use kernels::Compute;
use weights::{Computing, RandomWeights, Resident};

const LATENT: [usize; 3] = [3, 12, 16];

fn net(config: &Config, compute: Compute) -> Dit {
    let resident = Resident::new(Arc::new(RandomWeights::new(5)), Device::Cpu, None);
    Dit::new(config, Arc::new(Computing::new(Arc::new(resident), compute))).unwrap()
}

fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.37 + seed as f32).sin()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn inputs(config: &Config, text: Tensor) -> Inputs {
    let [f, h, w] = LATENT;
    Inputs {
        text_embeds: Some(text),
        ref_image_embeds: Some(numbers(&[1, 257, config.clip_dim], 1)),
        image_latents: Some(numbers(&[20, f, h, w], 2)),
        pose: Some(PoseInputs {
            pose_latents: numbers(&[16, f, h, w], 3),
            ref_latents: numbers(&[36, 1, h, w], 4),
            pose_ref_latents: numbers(&[16, 1, h, w], 5),
            pose_image_embeds: numbers(&[1, 257, config.clip_dim], 6),
        }),
        vace: None,
    }
}

fn noise() -> Tensor {
    numbers(&[16, LATENT[0], LATENT[1], LATENT[2]], 9)
}

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let norm = |x: Vec<f64>| x.iter().map(|v| v * v).sum::<f64>().sqrt();
    let (a, b): (Vec<f32>, Vec<f32>) = (values(a), values(b));
    let apart = a.iter().zip(&b).map(|(a, b)| f64::from(a - b)).collect();
    norm(apart) / norm(b.into_iter().map(f64::from).collect())
}

#[test]
fn padding_counts_as_if_every_row_were_there() {
    let config = Config::tiny();
    let net = net(&config, Compute::F32);
    for words in [1, config.text_len / 3, config.text_len - 2, config.text_len - 1] {
        let text = numbers(&[words, config.text_dim], 7);
        // The same rows given one by one: nothing is left to be padded.
        let padded = text.pad_with_zeros(0, 0, config.text_len - words).unwrap();
        let [one, each] = [text, padded].map(|text| {
            let cond = net.prepare(&inputs(&config, text), &mut no_tap).unwrap();
            net.forward(&noise(), 400.0, &cond, &mut no_tap).unwrap()
        });
        let apart = difference(&one, &each);
        assert!(apart < 2e-6, "{words} words: {apart:e}");
    }
}

#[test]
fn what_is_kept_of_the_context_changes_no_bit() {
    let config = Config::tiny();
    for compute in [Compute::F32, Compute::Bf16] {
        let net = net(&config, compute);
        let prepare = || net.prepare(&inputs(&config, numbers(&[5, config.text_dim], 7)), &mut no_tap).unwrap();
        let kept = prepare();
        let run = |cond: &dit::Conditioning, chunking| {
            values(&net.forward_branches(&noise(), 400.0, &[cond], chunking, &mut no_tap).unwrap()[0])
        };
        let first = run(&kept, Chunking::Whole);
        for chunking in [Chunking::Whole, Chunking::FeedForward { tokens: 64 }, Chunking::Minimal { tokens: 64 }] {
            assert!(run(&kept, chunking) == first, "{compute:?} {chunking:?}");
            assert!(run(&prepare(), chunking) == first, "{compute:?} {chunking:?}, made anew");
        }
    }
}

#[test]
fn timesteps_together_are_those_one_by_one() {
    let config = Config::tiny();
    let net = net(&config, Compute::F32);
    let cond = net.prepare(&inputs(&config, numbers(&[5, config.text_dim], 7)), &mut no_tap).unwrap();
    let times: Vec<f64> = (0..12).map(|i| 1000.0 - 83.0 * f64::from(i)).collect();
    let run = |t| net.forward(&noise(), t, &cond, &mut no_tap).unwrap();
    let alone: Vec<Tensor> = times.iter().map(|t| run(*t)).collect();
    net.embed_times(&times).unwrap();
    for (t, alone) in times.iter().zip(&alone) {
        let apart = difference(&run(*t), alone);
        assert!(apart < 2e-6, "{t}: {apart:e}");
    }
    // One that was not announced is embedded by itself.
    assert!(values(&run(333.0)) != values(&alone[0]));
}

#[test]
fn fewer_bits_cost_what_they_should() {
    let config = Config::tiny();
    let run = |compute| {
        let net = net(&config, compute);
        let cond = net.prepare(&inputs(&config, numbers(&[5, config.text_dim], 7)), &mut no_tap).unwrap();
        net.forward(&noise(), 400.0, &cond, &mut no_tap).unwrap()
    };
    let exact = run(Compute::F32);
    let apart = difference(&run(Compute::Bf16), &exact);
    // Eight bits of mantissa through a few layers; nothing at all where the instructions lack.
    assert!(apart < 2e-2, "{apart:e}");
}
