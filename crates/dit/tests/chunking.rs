//! Runs of tokens, and several branches in one pass, give the bits of everything together and of each by itself.

mod inputs;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};
use dit::{Chunking, Conditioning, Config, Dit, VaceConfig, no_tap};
use inputs::{inputs, waves};
use kernels::quant::{Encoding, encode};
use weights::{Matrix, RandomWeights, Resident, TensorSource, WeightSource, Weights};

/// Random weights whose matrices are held as `kind` says.
struct Held {
    random: RandomWeights,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Float(DType),
    Quantised(Encoding),
}

impl TensorSource for Held {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.random.tensor(name, shape, dtype, device)
    }

    fn matrix(&self, name: &str, shape: &[usize], _: Option<DType>, device: &Device) -> Result<Matrix> {
        let (dtype, encoding) = match self.kind {
            Kind::Float(dtype) => (dtype, None),
            Kind::Quantised(encoding) => (DType::F32, Some(encoding)),
        };
        let float = self.random.matrix(name, shape, Some(dtype), device)?;
        match (encoding, float.float()) {
            (Some(encoding), Some(t)) => {
                let values = t.flatten_all()?.to_vec1::<f32>()?;
                let quantised = encode(&values, [shape[0], shape[1]], encoding.into()).map_err(|e| e.into_candle())?;
                Ok(quantised.into())
            }
            _ => Ok(float),
        }
    }
}

fn network(config: &Config, kind: Kind) -> Dit {
    let held = Held { random: RandomWeights::new(5), kind };
    Dit::new(config, Arc::new(Resident::new(Arc::new(held), Device::Cpu, None))).unwrap()
}

const LATENT: [usize; 4] = [16, 3, 20, 24];

fn prepared(net: &Dit, phase: f32) -> Conditioning {
    net.prepare(&inputs(net.config(), [LATENT[1], LATENT[2], LATENT[3]], 11, phase), &mut no_tap).unwrap()
}

/// A WAN with VACE's side branch, small.
fn tiny_vace() -> Config {
    let vace = Some(VaceConfig { vace_layers: vec![0, 2], vace_in_dim: 96 });
    Config { model_type: "vace".into(), in_dim: 16, in_dim_c: None, num_layers: 3, vace, ..Config::tiny() }
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn runs_of_tokens_give_the_same_bits() {
    let chunkings = [
        Chunking::FeedForward { tokens: 1 },
        Chunking::FeedForward { tokens: 200 },
        Chunking::Minimal { tokens: 1 },
        Chunking::Minimal { tokens: 300 },
        Chunking::Minimal { tokens: 100_000 },
    ];
    // Heads of 128 channels as in every published model, and of 64.
    let wide = Config { dim: 256, ffn_dim: 768, ..Config::tiny() };
    let kinds = [
        Kind::Float(DType::F32),
        Kind::Float(DType::BF16),
        Kind::Quantised(Encoding::Q8_0),
        Kind::Quantised(Encoding::F8E4M3),
    ];
    for config in [Config::tiny(), wide, tiny_vace()] {
        for kind in kinds {
            let net = network(&config, kind);
            let cond = prepared(&net, 0.5);
            let noise = waves(&LATENT, 9.0);
            let want = bits(&net.forward(&noise, 700.0, &cond, &mut no_tap).unwrap());
            for chunking in chunkings {
                let got = net.forward_branches(&noise, 700.0, &[&cond], chunking, &mut no_tap).unwrap();
                assert!(bits(&got[0]) == want, "{} {kind:?} {chunking:?}", config.label());
            }
        }
    }
}

#[test]
fn what_taps_keep_is_not_written_over() {
    let net = network(&tiny_vace(), Kind::Float(DType::BF16));
    let (cond, noise) = (prepared(&net, 0.5), waves(&LATENT, 9.0));
    for chunking in [Chunking::Whole, Chunking::Minimal { tokens: 150 }] {
        let mut kept: Vec<(String, Tensor, Vec<u32>)> = Vec::new();
        net.forward_branches(&noise, 3.0, &[&cond], chunking, &mut |name, t| {
            kept.push((name.to_owned(), t.clone(), bits(t)));
            Ok(())
        })
        .unwrap();
        assert!(kept.iter().any(|(name, ..)| name == "block_2"));
        for (name, tensor, then) in &kept {
            assert!(bits(tensor) == *then, "{name} with {chunking:?}");
        }
    }
}

/// Counts how often each group is asked for.
struct Counting {
    inner: Weights,
    seen: Mutex<BTreeMap<String, usize>>,
}

impl WeightSource for Counting {
    fn group(&self, group: &str) -> Result<Weights> {
        *self.seen.lock().unwrap().entry(group.to_owned()).or_default() += 1;
        Ok(self.inner.pp(group))
    }
}

#[test]
fn branches_share_each_groups_weights_and_are_what_they_are_alone() {
    for config in [Config { num_layers: 3, ..Config::tiny() }, tiny_vace()] {
        let inner = Weights::new(Arc::new(RandomWeights::new(8)), Device::Cpu, None);
        let source = Arc::new(Counting { inner, seen: Mutex::default() });
        let net = Dit::new(&config, source.clone()).unwrap();
        let conds = [0.1, 2.0, 5.5].map(|phase| prepared(&net, phase));
        let noise = waves(&LATENT, 9.0);
        let alone: Vec<Tensor> = conds.iter().map(|c| net.forward(&noise, 40.0, c, &mut no_tap).unwrap()).collect();
        assert_ne!(bits(&alone[0]), bits(&alone[1]));
        for chunking in [Chunking::Whole, Chunking::Minimal { tokens: 130 }] {
            source.seen.lock().unwrap().clear();
            let branches: Vec<&Conditioning> = conds.iter().collect();
            let mut taps = BTreeMap::<String, usize>::new();
            let together = net
                .forward_branches(&noise, 40.0, &branches, chunking, &mut |name, _| {
                    *taps.entry(name.to_owned()).or_default() += 1;
                    Ok(())
                })
                .unwrap();
            assert_eq!(together.len(), 3);
            for (together, alone) in together.iter().zip(&alone) {
                assert!(bits(together) == bits(alone), "{chunking:?}");
            }
            let seen = source.seen.lock().unwrap();
            let groups = config.num_layers + config.vace.as_ref().map_or(0, |v| v.vace_layers.len());
            assert!(seen.len() == groups && seen.values().all(|n| *n == 1), "{seen:?}");
            assert!((0..3).all(|i| taps[&format!("block_{i}")] == 3) && taps["time_projection"] == 1, "{taps:?}");
        }
        assert!(net.forward_branches(&noise, 40.0, &[], Chunking::Whole, &mut no_tap).unwrap().is_empty());
    }
}

#[test]
fn branches_of_different_lengths_are_refused() {
    let net = network(&Config::tiny(), Kind::Float(DType::F32));
    let (cond, noise) = (prepared(&net, 0.5), waves(&LATENT, 9.0));
    let mut other = inputs(net.config(), [LATENT[1], LATENT[2], LATENT[3]], 11, 0.7);
    if let Some(pose) = &mut other.pose {
        let [_, _, h, w] = LATENT;
        pose.ref_latents = waves(&[36, 2, h, w], 0.1);
    }
    let other = net.prepare(&other, &mut no_tap).unwrap();
    let result = net.forward_branches(&noise, 1.0, &[&cond, &other], Chunking::Whole, &mut no_tap);
    assert!(result.unwrap_err().to_string().contains("different numbers of tokens"));
}
