//! The VAE, under original and under diffusers' names.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{Device, Tensor};
use testkit::Case;
use vae::{Config, Vae, clamp_pixels};
use weights::{TensorMap, Weights};

use crate::checks::{Checks, Report};

/// Encodes to the normalised mean and decodes without clamping.
pub fn wan21(case: &Case) -> Result<Report> {
    run(case, "encoded", |config| config, Ok)
}

/// Latents are not normalised here, pixels are clamped.
pub fn diffusers(case: &Case) -> Result<Report> {
    run(case, "latent_mean", Config::raw_latents, |decoded| Ok(clamp_pixels(&decoded)?))
}

fn run(
    case: &Case,
    encoded: &str,
    adapt: impl Fn(Config) -> Config,
    last: impl Fn(Tensor) -> Result<Tensor>,
) -> Result<Report> {
    let config = adapt(serde_json::from_value(case.config.clone())?);
    let map = vae::keymap();
    let tensors = case.weights.iter().filter_map(|(name, t)| Some((map.canonical(name)?, t.clone()))).collect();
    let vae = Vae::new(&config, &Weights::new(Arc::new(TensorMap(tensors)), Device::Cpu, None))?;
    let input = |name: &str| -> Result<Tensor> {
        let x = case.input(name)?;
        Ok(if x.rank() == 4 { x.unsqueeze(0)? } else { x })
    };
    let mut checks = Checks::new(case);
    if checks.has(encoded) {
        checks.output(encoded, &vae.encode(&input("video")?)?)?;
    }
    if checks.has("decoded") {
        checks.output("decoded", &last(vae.decoder.decode_all(&input("latents")?)?)?)?;
    }
    checks.finish()
}
