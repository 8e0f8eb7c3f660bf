//! The diffusion transformers, under original and under diffusers' names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use dit::{Config, Dit, Inputs, PoseInputs, VaceInputs};
use testkit::Case;
use weights::{Resident, TensorMap};

use crate::checks::{Checks, Report, count, number, overlaid, without_batch};

fn build(config: &Config, tensors: HashMap<String, Tensor>) -> candle_core::Result<Dit> {
    Dit::new(config, Arc::new(Resident::new(Arc::new(TensorMap(tensors)), Device::Cpu, None)))
}

/// Runs one forward and collects everything that the taps saw.
fn forward(
    net: &Dit,
    latents: &Tensor,
    timestep: f64,
    inputs: &Inputs,
) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let mut seen = BTreeMap::new();
    let mut tap = |name: &str, t: &Tensor| {
        seen.insert(name.to_owned(), t.clone());
        Ok(())
    };
    let cond = net.prepare(inputs, &mut tap)?;
    net.forward(latents, timestep, &cond, &mut tap)?;
    Ok(seen)
}

/// The sizes that the case gives; those that it leaves out are read off the weights.
pub fn config(given: &serde_json::Value, tensors: &HashMap<String, Tensor>) -> anyhow::Result<Config> {
    let detected =
        Config::detect(|name| tensors.get(name).map(Tensor::dims)).context("the weights are no Wan DiT's")?;
    overlaid(&detected, given)
}

/// What the taps see before the blocks, in that order.
const STEM: [&str; 6] =
    ["text_embedding", "condition_temporal", "condition_spatial", "condition_aligned", "patch_fuse", "time_projection"];

pub fn original(case: &Case) -> anyhow::Result<Report> {
    let seen = run_original(case)?;
    let blocks = (0..case.outputs.len()).map(|i| format!("block_{i}"));
    let mut checks = Checks::new(case);
    for name in STEM.map(str::to_owned).into_iter().chain(blocks) {
        let stage = format!("stage.{name}");
        if checks.has(&stage) {
            checks.output(&stage, seen.get(&name).with_context(|| format!("the network has no stage {name}"))?)?;
        }
    }
    checks.output("velocity", seen.get("velocity").context("no velocity")?)?;
    checks.finish()
}

/// The one timestep of a case.
fn timestep(case: &Case, name: &str) -> anyhow::Result<f64> {
    let all = case.input(name)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
    all.first().copied().with_context(|| format!("input {name} is empty"))
}

fn run_original(case: &Case) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let config = config(&case.config, &case.weights)?;
    let net = build(&config, case.weights.clone())?;
    let optional = |name: &str| case.inputs.get(name).cloned();
    // A case may carry the batch dimension that the network does without.
    let latents_of = |name: &str| without_batch(&case.input(name)?, 4);
    let pose = match optional("condition") {
        Some(pose_latents) => Some(PoseInputs {
            pose_latents: without_batch(&pose_latents, 4)?,
            ref_latents: latents_of("ref_x")?,
            pose_ref_latents: latents_of("ref_c")?,
            pose_image_embeds: case.input("clip_fea_c")?,
        }),
        None => None,
    };
    let vace = match optional("vace_context") {
        Some(context) => {
            let scale = number(&case.config, "vace_context_scale").unwrap_or(1.0);
            Some(VaceInputs { context: without_batch(&context, 4)?, scale })
        }
        None => None,
    };
    let inputs = Inputs {
        text_embeds: Some(without_batch(&case.input("context")?, 2)?),
        ref_image_embeds: optional("clip_fea_x").or(optional("clip_fea")),
        image_latents: optional("y").map(|y| without_batch(&y, 4)).transpose()?,
        pose,
        vace,
    };
    let latents = latents_of("x")?;
    let mut seen = forward(&net, &latents, timestep(case, "t")?, &inputs)?;
    // The reference keeps these with other axes.
    let (_, frames, h, w) = latents.dims4()?;
    if let Some(t) = seen.get("condition_temporal") {
        let t = t.transpose(0, 1)?.unsqueeze(0)?;
        seen.insert("condition_temporal".into(), t);
    }
    if let Some(t) = seen.get("condition_aligned") {
        let t = t.transpose(0, 1)?.unsqueeze(0)?;
        seen.insert("condition_aligned".into(), t);
    }
    if let Some(t) = seen.get("patch_fuse") {
        let t = t.transpose(1, 2)?.reshape((1, config.dim, frames, h / 2, w / 2))?;
        seen.insert("patch_fuse".into(), t);
    }
    if let Some(t) = seen.get("time_projection") {
        let t = t.flatten_from(1)?;
        seen.insert("time_projection".into(), t);
    }
    Ok(seen)
}

pub fn diffusers(case: &Case) -> anyhow::Result<Report> {
    let map = dit::keymap(case.weights.keys().map(String::as_str));
    let renamed: HashMap<String, Tensor> =
        case.weights.iter().filter_map(|(n, t)| Some((map.canonical(n)?, t.clone()))).collect();
    let text = without_batch(&case.input("encoder_hidden_states")?, 2)?;
    let detected = config(&serde_json::Value::Null, &renamed)?;
    let config = Config {
        num_heads: count(&case.config, "num_attention_heads")?,
        eps: number(&case.config, "eps").unwrap_or(detected.eps),
        text_len: text.dim(0)?,
        ..detected
    };
    let net = build(&config, renamed)?;
    // diffusers takes noise and image latents already stacked.
    let stacked = without_batch(&case.input("hidden_states")?, 4)?;
    let latents = stacked.narrow(0, 0, config.out_dim)?.contiguous()?;
    let rest = config.in_dim - config.out_dim;
    let image_latents = if rest > 0 { Some(stacked.narrow(0, config.out_dim, rest)?.contiguous()?) } else { None };
    let inputs = Inputs {
        text_embeds: Some(text),
        ref_image_embeds: case.inputs.get("encoder_hidden_states_image").cloned(),
        image_latents,
        ..Inputs::default()
    };
    let seen = forward(&net, &latents, timestep(case, "timestep")?, &inputs)?;
    let mut checks = Checks::new(case);
    checks.output("sample", seen.get("velocity").context("no velocity")?)?;
    checks.finish()
}
