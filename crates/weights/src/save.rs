//! Writing safetensors files, whole or sharded, complete or not at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, View};

use crate::WeightsError;

/// A tensor on its way into a file: bytes in the file's order, brought to the host when they are written.
pub struct SaveTensor(Tensor, Dtype);

impl SaveTensor {
    /// # Errors
    /// The element type has no safetensors name (only F64, F32, F16, BF16, I64 and U8 have one here).
    pub fn new(tensor: &Tensor) -> candle_core::Result<Self> {
        let dtype = match tensor.dtype() {
            DType::F64 => Dtype::F64,
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            DType::I64 => Dtype::I64,
            DType::U8 => Dtype::U8,
            other => candle_core::bail!("cannot save tensors of type {other:?}"),
        };
        Ok(Self(tensor.to_device(&Device::Cpu)?.contiguous()?, dtype))
    }

    fn bytes(&self) -> candle_core::Result<Vec<u8>> {
        fn flat<T: candle_core::WithDType, const W: usize>(
            tensor: &Tensor,
            to: impl Fn(T) -> [u8; W],
        ) -> candle_core::Result<Vec<u8>> {
            Ok(tensor.flatten_all()?.to_vec1::<T>()?.into_iter().flat_map(to).collect())
        }
        match self.0.dtype() {
            DType::F64 => flat(&self.0, f64::to_le_bytes),
            DType::F32 => flat(&self.0, f32::to_le_bytes),
            DType::F16 => flat(&self.0, half::f16::to_le_bytes),
            DType::BF16 => flat(&self.0, half::bf16::to_le_bytes),
            DType::I64 => flat(&self.0, i64::to_le_bytes),
            _ => self.0.flatten_all()?.to_vec1::<u8>(),
        }
    }
}

impl View for &SaveTensor {
    fn dtype(&self) -> Dtype {
        self.1
    }

    fn shape(&self) -> &[usize] {
        self.0.dims()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The types were checked in `new` and the tensor lies on the host: copying it out cannot fail.
        Cow::Owned(self.bytes().unwrap_or_default())
    }

    fn data_len(&self) -> usize {
        self.0.elem_count() * self.1.bitsize() / 8
    }
}

/// Writes `tensors` with `metadata` into `path`, which appears only when it is complete.
///
/// # Errors
/// A tensor's type cannot be stored, or the file cannot be written.
pub fn save_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    let failed = |e: std::io::Error| WeightsError::Write { path: path.to_owned(), source: e };
    let views = tensors
        .iter()
        .map(|(n, t)| Ok((n.as_str(), SaveTensor::new(t)?)))
        .collect::<candle_core::Result<Vec<_>>>()
        .map_err(|e| failed(std::io::Error::other(e.to_string())))?;
    let metadata: HashMap<String, String> = metadata.clone().into_iter().collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let part = path.with_extension("safetensors.part");
    let written = safetensors::serialize_to_file(views.iter().map(|(n, v)| (*n, v)), metadata, &part)
        .map_err(|e| failed(std::io::Error::other(e.to_string())))
        .and_then(|()| std::fs::rename(&part, path).map_err(failed));
    if written.is_err() {
        // Best effort: the error that is reported is the one that stopped the writing.
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Writes `tensors` as `count` shards `STEM-0000i-of-0000n.safetensors` with their index, as the hub does.
///
/// # Errors
/// As [`save_safetensors`].
pub fn save_sharded(
    folder: &Path,
    stem: &str,
    tensors: &BTreeMap<String, Tensor>,
    count: usize,
) -> Result<(), WeightsError> {
    let count = count.max(1);
    let per_shard = tensors.len().div_ceil(count).max(1);
    let mut weight_map = BTreeMap::new();
    let mut total = 0u64;
    let names: Vec<&String> = tensors.keys().collect();
    for (i, chunk) in names.chunks(per_shard).enumerate() {
        let file = format!("{stem}-{:05}-of-{count:05}.safetensors", i + 1);
        let part: BTreeMap<String, Tensor> = chunk.iter().map(|n| ((*n).clone(), tensors[*n].clone())).collect();
        for (name, tensor) in &part {
            weight_map.insert(name.clone(), file.clone());
            total += (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64;
        }
        save_safetensors(&folder.join(file), &part, &BTreeMap::new())?;
    }
    let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    let path = folder.join(format!("{stem}.safetensors.index.json"));
    std::fs::write(&path, format!("{index:#}\n")).map_err(|source| WeightsError::Write { path, source })
}
