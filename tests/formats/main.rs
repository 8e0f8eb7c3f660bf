//! What each form of a checkpoint costs: a small SteadyDancer with normal random weights is written in it, read as a user's
//! file is, and run; its velocity is compared with that of the f32 weights. The table in docs/formats.md is what comes out.
//!
//! `cargo test --test formats -- --nocapture` prints the table.

mod whole;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use dit::{Config, Dit, Inputs, PoseInputs, manifest, no_tap};
use scheduler::noise;
use weights::convert::{ConvertPlan, Form, compare, convert};
use weights::{Checkpoint, CheckpointSource, RandomWeights, Resident, TensorSource, save_safetensors};

/// By which a figure of the table may be off, as a share: sums are in another order on other machines.
const TOLERANCE: f64 = 0.08;

/// Tokens of a prompt of the small network.
const TEXT_LEN: usize = 16;

/// Rows of whole blocks of 256, so that every form applies.
fn config() -> Config {
    Config { dim: 256, ffn_dim: 512, num_heads: 4, num_layers: 2, ..Config::tiny() }
}

fn inputs(config: &Config) -> (Tensor, Inputs) {
    let draw = |shape: &[usize], stream| noise(shape.to_vec(), 5, stream, &Device::Cpu).unwrap();
    let inputs = Inputs {
        text_embeds: Some(draw(&[9, config.text_dim], 1)),
        ref_image_embeds: Some(draw(&[1, 7, config.clip_dim], 2)),
        image_latents: Some(draw(&[20, 3, 8, 8], 3)),
        pose: Some(PoseInputs {
            pose_latents: draw(&[16, 3, 8, 8], 4),
            ref_latents: draw(&[36, 1, 8, 8], 5),
            pose_ref_latents: draw(&[16, 1, 8, 8], 6),
            pose_image_embeds: draw(&[1, 7, config.clip_dim], 7),
        }),
        vace: None,
    };
    (draw(&[16, 3, 8, 8], 8), inputs)
}

fn velocity(path: &Path, text_len: usize) -> Result<Tensor> {
    let checkpoint = Checkpoint::open(path).map_err(candle_core::Error::wrap)?;
    let names: Vec<String> = checkpoint.entries().map(|e| e.name.clone()).collect();
    let checkpoint = checkpoint.rename(&dit::keymap(names.iter().map(String::as_str)));
    let config = Config { text_len, num_heads: 4, ..Config::detect(|n| checkpoint.shape(n)).unwrap() };
    manifest(&config)?.check(&checkpoint, "the small SteadyDancer", |_| false).map_err(candle_core::Error::wrap)?;
    let weights = Resident::new(Arc::new(CheckpointSource(checkpoint)), Device::Cpu, None);
    let net = Dit::new(&config, Arc::new(weights))?;
    let (latents, inputs) = inputs(&config);
    let conditions = net.prepare(&inputs, &mut no_tap)?;
    net.forward(&latents, 700.0, &conditions, &mut no_tap)
}

fn error(got: &Tensor, want: &Tensor) -> Result<f64> {
    let norm = |t: &Tensor| t.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>().map(f64::sqrt);
    Ok(norm(&(got - want)?)? / norm(want)?)
}

/// The rows of the table in docs/formats.md: form → (bits a weight of a layer's matrix, error of these, error of the velocity).
fn documented() -> BTreeMap<String, [f64; 3]> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, numbers @ ..] = cells.as_slice() else { return None };
        let numbers: Vec<f64> = numbers.iter().filter_map(|n| n.parse().ok()).collect();
        Some((name.trim_matches('`').to_owned(), numbers.try_into().ok()?))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn the_documented_errors_are_those_of_today() {
    let dir = tempfile::tempdir().unwrap();
    let exact = dir.path().join("exact.safetensors");
    let config = config();
    let random = RandomWeights::new(11);
    let make = |spec: &weights::TensorSpec| {
        let tensor = random.tensor(&spec.name, &spec.shape, Some(DType::F32), &Device::Cpu).unwrap();
        // Random weights are numbers of bf16; these are f32's.
        let away = noise(spec.shape.clone(), spec.elements() as u64, 9, &Device::Cpu).unwrap();
        (spec.name.clone(), (tensor + (away * 1e-4).unwrap()).unwrap())
    };
    let tensors: BTreeMap<String, Tensor> = manifest(&config).unwrap().tensors().map(make).collect();
    save_safetensors(&exact, &tensors, &BTreeMap::new()).unwrap();
    let want = velocity(&exact, TEXT_LEN).unwrap();
    let checkpoint = Checkpoint::open(&exact).unwrap();
    let documented = documented();
    let mut wrong = Vec::new();
    for form in Form::ALL {
        let path = dir.path().join(format!("{form}.{}", form.extension()));
        let plan = ConvertPlan::new(&checkpoint, form, "wan").unwrap();
        convert(&checkpoint, &plan, &path, false, &mut |_| true).unwrap();
        let read = Checkpoint::open(&path).unwrap();
        let layer = |name: &str| name.starts_with("blocks.") && name.ends_with(".weight") && !name.contains("norm");
        let (mut bits, mut elements) = (0, 0);
        for entry in read.entries().filter(|e| layer(&e.name)) {
            bits += 8 * entry.stored_bytes();
            elements += entry.elements() as u64;
        }
        let found = compare(&checkpoint, &read, &mut |_, _| true).unwrap();
        let worst = found.tensors.iter().filter(|t| layer(&t.name)).map(|t| t.relative_error).fold(0.0, f64::max);
        let now = [bits as f64 / elements as f64, worst, error(&velocity(&path, TEXT_LEN).unwrap(), &want).unwrap()];
        println!("| `{form}` | {} | {:.2} | {:.1e} | {:.1e} |", form.about(), now[0], now[1], now[2]);
        let off = |then: &[f64; 3]| then.iter().zip(now).any(|(then, now)| (then - now).abs() > TOLERANCE * then.abs());
        if documented.get(form.name()).is_none_or(off) {
            wrong.push(form.name());
        }
    }
    assert!(wrong.is_empty(), "docs/formats.md has other figures, or none, for {wrong:?}");
}
