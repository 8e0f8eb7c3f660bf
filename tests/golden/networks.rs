//! The diffusion transformers, under original and under diffusers' names.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use dit::{Config, Dit, Inputs, PoseInputs, VaceInputs};
use testkit::Case;
use weights::{Resident, TensorMap};

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

pub fn original(case: &Case) -> Result<String, String> {
    let outputs = run_original(case).map_err(|e| e.to_string())?;
    let order = [
        "text_embedding",
        "condition_temporal",
        "condition_spatial",
        "condition_aligned",
        "patch_fuse",
        "time_projection",
    ];
    let blocks: Vec<String> = (0..outputs.len()).map(|i| format!("block_{i}")).collect();
    let names: Vec<String> = order.iter().map(|s| s.to_string()).chain(blocks).map(|s| format!("stage.{s}")).collect();
    let mut stages: Vec<(&str, &Tensor)> = names
        .iter()
        .filter(|n| case.outputs.contains_key(*n))
        .filter_map(|n| Some((n.as_str(), outputs.get(n.trim_start_matches("stage."))?)))
        .collect();
    let staged = case.outputs.keys().filter(|k| k.starts_with("stage.")).count();
    if stages.len() != staged {
        return Err(format!("{staged} stages in the case, {} of them known", stages.len()));
    }
    stages.push(("velocity", outputs.get("velocity").ok_or("no velocity")?));
    crate::in_order(case, &stages)
}

fn run_original(case: &Case) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let config: Config = serde_json::from_value(case.config.clone()).map_err(candle_core::Error::wrap)?;
    let net = build(&config, case.weights.clone())?;
    let optional = |name: &str| case.inputs.get(name).cloned();
    let pose = match optional("condition") {
        Some(pose_latents) => Some(PoseInputs {
            pose_latents,
            ref_latents: case.input("ref_x")?,
            pose_ref_latents: case.input("ref_c")?,
            pose_image_embeds: case.input("clip_fea_c")?,
        }),
        None => None,
    };
    let scale = case.config.get("vace_context_scale").and_then(|v| v.as_f64()).unwrap_or(1.0);
    let inputs = Inputs {
        text_embeds: Some(case.input("context")?),
        ref_image_embeds: optional("clip_fea_x").or(optional("clip_fea")),
        image_latents: optional("y"),
        pose,
        vace: optional("vace_context").map(|context| VaceInputs { context, scale }),
    };
    let latents = case.input("x")?;
    let timestep = f64::from(case.input("t")?.to_vec1::<f32>()?[0]);
    let mut seen = forward(&net, &latents, timestep, &inputs)?;
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

pub fn diffusers(case: &Case) -> Result<String, String> {
    let velocity = run_diffusers(case).map_err(|e| e.to_string())?;
    crate::in_order(case, &[("sample", &velocity)])
}

fn run_diffusers(case: &Case) -> candle_core::Result<Tensor> {
    let c = &case.config;
    let number = |key: &str| -> candle_core::Result<usize> {
        c[key].as_u64().map(|v| v as usize).ok_or_else(|| candle_core::Error::msg(format!("config has no {key}")))
    };
    let (heads, head_dim) = (number("num_attention_heads")?, number("attention_head_dim")?);
    let hidden = case.input("hidden_states")?;
    let text = case.input("encoder_hidden_states")?.squeeze(0)?;
    let image = case.inputs.get("encoder_hidden_states_image").cloned();
    let config = Config {
        model_type: if image.is_some() { "i2v".into() } else { "t2v".into() },
        in_dim: number("in_channels")?,
        out_dim: number("out_channels")?,
        dim: heads * head_dim,
        ffn_dim: number("ffn_dim")?,
        freq_dim: number("freq_dim")?,
        num_heads: heads,
        num_layers: number("num_layers")?,
        text_dim: number("text_dim")?,
        text_len: text.dim(0)?,
        clip_dim: c["image_dim"].as_u64().unwrap_or(1280) as usize,
        in_dim_c: None,
        ..Config::wan_t2v_14b()
    };
    let map = dit::keymap(case.weights.keys().map(String::as_str));
    let renamed: HashMap<String, Tensor> =
        case.weights.iter().filter_map(|(n, t)| Some((map.canonical(n)?, t.clone()))).collect();
    let net = build(&config, renamed)?;
    // diffusers takes noise and image latents already stacked.
    let stacked = hidden.squeeze(0)?;
    let latents = stacked.narrow(0, 0, config.out_dim)?.contiguous()?;
    let rest = config.in_dim - config.out_dim;
    let image_latents = if rest > 0 { Some(stacked.narrow(0, config.out_dim, rest)?.contiguous()?) } else { None };
    let inputs = Inputs { text_embeds: Some(text), ref_image_embeds: image, image_latents, ..Inputs::default() };
    let timestep = f64::from(case.input("timestep")?.to_vec1::<f32>()?[0]);
    let mut seen = forward(&net, &latents, timestep, &inputs)?;
    seen.remove("velocity").ok_or_else(|| candle_core::Error::msg("no velocity"))
}
