//! What is computed once instead of many times: the same results.

mod inputs;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use dit::{Chunking, Config, Dit, Inputs, no_tap};
use inputs::{inputs, waves};
use kernels::Compute;
use weights::{Computing, RandomWeights, Resident};

const LATENT: [usize; 3] = [3, 12, 16];

fn net(config: &Config, compute: Compute) -> Dit {
    let resident = Resident::new(Arc::new(RandomWeights::new(5)), Device::Cpu, None);
    Dit::new(config, Arc::new(Computing::new(Arc::new(resident), compute))).unwrap()
}

fn noise() -> Tensor {
    waves(&[16, LATENT[0], LATENT[1], LATENT[2]], 9.0)
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
        let given = inputs(&config, LATENT, words, 7.0);
        // The same rows given one by one: nothing is left to be padded.
        let text = given.text_embeds.as_ref().unwrap();
        let padded = text.pad_with_zeros(0, 0, config.text_len - words).unwrap();
        let padded = Inputs { text_embeds: Some(padded), ..given.clone() };
        let [one, each] = [given, padded].map(|given| {
            let cond = net.prepare(&given, &mut no_tap).unwrap();
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
        let prepare = || net.prepare(&inputs(&config, LATENT, 5, 7.0), &mut no_tap).unwrap();
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
    let cond = net.prepare(&inputs(&config, LATENT, 5, 7.0), &mut no_tap).unwrap();
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
        let cond = net.prepare(&inputs(&config, LATENT, 5, 7.0), &mut no_tap).unwrap();
        net.forward(&noise(), 400.0, &cond, &mut no_tap).unwrap()
    };
    let exact = run(Compute::F32);
    let apart = difference(&run(Compute::Bf16), &exact);
    // Eight bits of mantissa through a few layers; f32 where the instructions lack.
    let least = if kernels::instruction_set() == "AVX-512 BF16" { 1e-5 } else { 0.0 };
    assert!((least..2e-2).contains(&apart), "{apart:e}");
}
