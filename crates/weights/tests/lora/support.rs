//! The small network of the fixtures, and LoRAs from code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use weights::lora::{Fitted, LoraError, LoraFile, Merged, Stack};
use weights::{Checkpoint, CheckpointSource, KeyMap, Manifest, TensorSource};

/// The part of diffusers' names that the fixtures have.
pub const NAMES: KeyMap = KeyMap::identity().rename(&[
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("blocks.*.attn1.to_q", "blocks.*.self_attn.q"),
    ("blocks.*.attn1.to_out.0", "blocks.*.self_attn.o"),
    ("blocks.*.attn2.to_k", "blocks.*.cross_attn.k"),
    ("blocks.*.ffn.net.0.proj", "blocks.*.ffn.0"),
    ("scale_shift_table", "head.modulation"),
    ("proj_out", "head.head"),
]);

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lora").join(name)
}

pub fn base() -> Checkpoint {
    Checkpoint::open(fixture("base.safetensors")).unwrap()
}

/// What a network asks for that has the tensors of a checkpoint: matrices as stored, all else as f32.
pub fn manifest_of(checkpoint: &Checkpoint) -> Manifest {
    Manifest::record(|w| {
        for entry in checkpoint.entries() {
            match entry.shape.len() {
                2 => drop(w.matrix(entry.shape.as_slice(), &entry.name)?),
                _ => drop(w.tensor(entry.shape.as_slice(), &entry.name)?),
            }
        }
        Ok(())
    })
    .unwrap()
}

/// A LoRA of these tensors, fitted to the fixtures' network.
pub fn fit(tensors: &[(&str, Tensor)]) -> Result<Fitted, LoraError> {
    fit_to(tensors, &manifest_of(&base()))
}

pub fn fit_to(tensors: &[(&str, Tensor)], manifest: &Manifest) -> Result<Fitted, LoraError> {
    LoraFile::read(file(tensors))?.fit(manifest, &NAMES, "the test network")
}

/// A checkpoint of these tensors.
pub fn file(tensors: &[(&str, Tensor)]) -> Checkpoint {
    let tensors: BTreeMap<String, Tensor> = tensors.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    weights::save_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
    Checkpoint::from_bytes("lora.safetensors", std::fs::read(path).unwrap()).unwrap()
}

pub fn merged(loras: Vec<(Fitted, f64)>) -> Merged {
    Merged::new(Arc::new(CheckpointSource(base())), Arc::new(Stack::new(loras)))
}

/// The tensor in the fixture's shape, and what it holds: its type and bits.
pub fn read(source: &dyn TensorSource, name: &str, dtype: Option<DType>) -> (DType, Vec<u32>) {
    let tensor = source.tensor(name, base().shape(name).unwrap(), dtype, &Device::Cpu).unwrap();
    (tensor.dtype(), bits(&tensor))
}

/// Values as bits of f32, to which every narrower type widens exactly.
pub fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Normal values from a seed.
pub fn randn(shape: &[usize], seed: u64) -> Tensor {
    use rand::SeedableRng;
    use rand_distr::{Distribution, StandardNormal};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(shape.iter().product()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}
