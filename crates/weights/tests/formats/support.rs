use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use weights::Checkpoint;

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/formats").join(name)
}

pub fn open(name: &str) -> Checkpoint {
    Checkpoint::open(path(name)).unwrap()
}

/// What the writer says that a file decodes to.
pub fn expected(name: &str) -> Checkpoint {
    open(&format!("{name}.expected.safetensors"))
}

pub fn values(checkpoint: &Checkpoint, name: &str, dtype: DType) -> Vec<f32> {
    let shape = checkpoint.shape(name).unwrap().to_vec();
    let tensor = checkpoint.load(name, &shape, Some(dtype), &Device::Cpu).unwrap();
    assert_eq!((tensor.dtype(), tensor.dims()), (dtype, shape.as_slice()));
    flat(&tensor)
}

pub fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The stored bytes of a tensor of a safetensors file.
pub fn raw(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let file = std::fs::read(checkpoint.path()).unwrap();
    safetensors::SafeTensors::deserialize(&file).unwrap().tensor(name).unwrap().data().to_vec()
}

/// A safetensors file in memory: names, types, shapes, bytes.
pub fn file(tensors: &[(&str, &str, &[usize], &[u8])], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    if !metadata.is_empty() {
        let words = metadata.iter().map(|(k, v)| (k.to_string(), serde_json::Value::from(*v)));
        header.insert("__metadata__".into(), words.collect());
    }
    for (name, dtype, shape, bytes) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        let info = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
        header.insert(name.to_string(), info);
        data.extend_from_slice(bytes);
    }
    let header = serde_json::Value::Object(header).to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}
