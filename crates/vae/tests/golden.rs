//! Against the reference implementations. Without a folder of golden cases there is nothing to compare and the tests
//! say so.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use testkit::Case;
use vae::{Config, Layout, Vae, clamp_pixels, keymap};
use weights::{TensorMap, Weights};

/// The case's network, and the configuration read off its tensors.
fn network(case: &Case, config: &Config) -> (Vae, Config) {
    let map = keymap();
    let tensors: HashMap<String, Tensor> =
        case.weights.iter().filter_map(|(name, t)| Some((map.canonical(name)?, t.clone()))).collect();
    let detected = Config::detect(|name| tensors.get(name).map(|t| t.dims().to_vec())).unwrap();
    let manifest = vae::manifest(config).unwrap();
    assert_eq!(tensors.len(), manifest.tensors().len(), "{:?}", case.path);
    let weights = Weights::new(Arc::new(TensorMap(tensors)), Device::Cpu, None);
    (Vae::new(config, &weights).unwrap(), detected)
}

fn with_batch(x: Tensor) -> Tensor {
    if x.rank() == 4 { x.unsqueeze(0).unwrap() } else { x }
}

fn cases(component: &str) -> Vec<Case> {
    let cases = testkit::golden_cases(component);
    if cases.is_empty() {
        eprintln!("no {component} cases in {:?}: nothing compared", testkit::golden_dir());
    }
    cases
}

#[test]
fn original_layout() {
    for case in cases("vae.wan21") {
        let config: Config = serde_json::from_value(case.config.clone()).unwrap();
        let (vae, detected) = network(&case, &config);
        assert_eq!(detected, config);
        assert_eq!(Layout::detect(case.weights.keys().map(String::as_str)), Some(Layout::Original));
        let encoded = vae.encode(&with_batch(case.input("video").unwrap())).unwrap();
        let decoded = vae.decoder.decode_all(&with_batch(case.input("latents").unwrap())).unwrap();
        let errors = [case.compare("encoded", &encoded).unwrap(), case.compare("decoded", &decoded).unwrap()];
        println!("{}: encoded {:.2e}, decoded {:.2e}", case.path.display(), errors[0], errors[1]);
    }
}

#[test]
fn diffusers_layout() {
    for case in cases("vae.diffusers") {
        let config: Config = serde_json::from_value(case.config.clone()).unwrap();
        let (vae, detected) = network(&case, &config.raw_latents());
        assert_eq!(detected.raw_latents(), vae.encoder.config().clone());
        assert_eq!(Layout::detect(case.weights.keys().map(String::as_str)), Some(Layout::Diffusers));
        let encoded = vae.encode(&with_batch(case.input("video").unwrap())).unwrap();
        let decoded = vae.decoder.decode_all(&with_batch(case.input("latents").unwrap())).unwrap();
        let decoded = clamp_pixels(&decoded).unwrap();
        let errors = [case.compare("latent_mean", &encoded).unwrap(), case.compare("decoded", &decoded).unwrap()];
        println!("{}: latent_mean {:.2e}, decoded {:.2e}", case.path.display(), errors[0], errors[1]);
    }
}
