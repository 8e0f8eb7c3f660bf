//! Writes the files of the embedded demo model into a folder: every component at toy size with seeded random weights,
//! in the formats of the real ones. The same seed gives the same bytes.
//!
//! `cargo run --example make_demo_model -- models/demo TOKENIZER.json`

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};
use weights::{Manifest, RandomWeights, TensorSource, save_safetensors};

const SEED: u64 = 20_261_121;

fn write(folder: &Path, name: &str, manifest: &Manifest) -> anyhow::Result<u64> {
    let source = Arc::new(RandomWeights::new(SEED));
    let mut tensors = BTreeMap::new();
    for spec in manifest.tensors() {
        tensors.insert(spec.name.clone(), source.tensor(&spec.name, &spec.shape, Some(DType::BF16), &Device::Cpu)?);
    }
    let metadata =
        BTreeMap::from([("note".to_owned(), "steadydance demo model, untrained: seeded random weights".to_owned())]);
    save_safetensors(&folder.join(format!("{name}.safetensors")), &tensors, &metadata)?;
    Ok(manifest.parameters())
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(folder), Some(tokenizer)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: make_demo_model FOLDER TOKENIZER.json");
    };
    let folder = Path::new(&folder);
    let vocabulary = umt5::Tokenizer::from_file(&tokenizer)?.vocab_size();
    let text = umt5::Config { vocab: vocabulary.next_multiple_of(64), ..umt5::Config::tiny() };
    let image = clip::Config::tiny();
    let vae = vae::Config::tiny();
    let dit = dit::Config { text_dim: text.dim, clip_dim: image.dim, text_len: 512, ..dit::Config::tiny() };
    let mut parameters = 0;
    parameters += write(folder, "dit", &dit::manifest(&dit)?)?;
    parameters += write(folder, "vae", &vae::manifest(&vae)?)?;
    parameters += write(folder, "umt5", &umt5::manifest(&text)?)?;
    parameters += write(folder, "clip", &clip::manifest(&image)?)?;
    let sizes = serde_json::json!({ "dit": dit, "vae": vae, "umt5": text, "clip": image });
    std::fs::write(folder.join("steadydance.json"), format!("{sizes:#}\n"))?;
    std::fs::copy(&tokenizer, folder.join("tokenizer.json"))?;
    println!("{parameters} parameters written to {}", folder.display());
    Ok(())
}
