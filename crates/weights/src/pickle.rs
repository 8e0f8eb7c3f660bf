//! The index of a `torch.save` archive: which bytes of the (uncompressed) zip are which tensor.
//!
//! The pickle program inside is interpreted by candle, which knows tensors and containers only and runs nothing.

use std::collections::HashMap;
use std::panic::UnwindSafe;
use std::path::Path;

use candle_core::DType;
use candle_core::pickle::TensorInfo;
use safetensors::Dtype;

use crate::WeightsError;

mod legacy;

pub(crate) use legacy::{MAGIC as LEGACY_MAGIC, read_legacy_index};

/// A state dict of a thousand tensors takes a quarter of a megabyte.
const MAX_PROGRAM_BYTES: usize = 2 << 20;
/// The interpreter's values are dropped recursively: deep enough for the deepest nesting of the largest program.
const STACK_BYTES: usize = 1 << 30;

/// A state dict may stand alone or under one of two customary keys.
const KEYS: [Option<&str>; 3] = [None, Some("state_dict"), Some("model_state")];

/// One stored tensor: absolute file offset of element 0, shape and strides in elements.
pub(crate) struct StoredTensor {
    pub name: String,
    pub dtype: Dtype,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Option<Vec<usize>>,
}

impl StoredTensor {
    /// One past the last byte that the tensor touches; saturates on overflow.
    pub fn last_byte_end(&self) -> usize {
        let width = self.dtype.bitsize() / 8;
        // Saturates before a zero can hide that the product of the others overflows.
        let product = self.shape.iter().map(|d| (*d).max(1)).fold(1usize, usize::saturating_mul);
        let last = match &self.strides {
            _ if product == usize::MAX => usize::MAX,
            _ if self.shape.contains(&0) => 0,
            None => product,
            Some(strides) => {
                self.shape.iter().zip(strides).fold(1usize, |a, (d, s)| a.saturating_add((d - 1).saturating_mul(*s)))
            }
        };
        self.offset.saturating_add(last.saturating_mul(width))
    }
}

pub(crate) fn read_index(path: &Path) -> Result<Vec<StoredTensor>, WeightsError> {
    let damaged = |problem: String| WeightsError::Damaged { path: path.to_owned(), problem };
    let starts = zip_starts(path)?;
    let program = starts.iter().filter(|(name, _)| name.ends_with("data.pkl")).map(|(_, (_, _, size))| *size).max();
    if program.is_none_or(|size| size > MAX_PROGRAM_BYTES) {
        let found = program.map_or("none".to_owned(), |size| format!("{size} bytes"));
        return Err(damaged(format!("its pickle (data.pkl) has {found}; 1 to {MAX_PROGRAM_BYTES} bytes are allowed")));
    }
    let mut infos = Vec::new();
    for key in KEYS {
        let read = interpret(|| candle_core::pickle::read_pth_tensor_info(path, false, key));
        infos = match read.map_err(damaged)? {
            Ok(infos) => infos,
            // Under a key there may be nothing; only the plain reading says what is wrong.
            Err(_) if key.is_some() => Vec::new(),
            Err(e) => return Err(damaged(format!("its pickle cannot be read ({})", first_line(&e)))),
        };
        if !infos.is_empty() {
            break;
        }
    }
    let mut out = Vec::with_capacity(infos.len());
    for info in infos {
        let Some(&(start, compressed, size)) = starts.get(&info.path) else {
            return Err(damaged(format!("tensor {} points at {}, which is not in the archive", info.name, info.path)));
        };
        if compressed {
            return Err(damaged(format!("{} is compressed; torch.save stores tensors uncompressed", info.path)));
        }
        out.push(stored(info, start, size).map_err(damaged)?);
    }
    Ok(out)
}

/// A tensor in the storage of `size` bytes that begins at byte `start` of the file.
fn stored(info: TensorInfo, start: usize, size: usize) -> Result<StoredTensor, String> {
    let dtype = match info.dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F64 => Dtype::F64,
        DType::I64 => Dtype::I64,
        DType::U8 => Dtype::U8,
        other => return Err(format!("tensor {} has the type {other:?}", info.name)),
    };
    // candle gives the start offset in bytes here, strides in elements.
    let layout = &info.layout;
    let strides = (!layout.is_contiguous()).then(|| layout.stride().to_vec());
    let offset = start.saturating_add(layout.start_offset());
    let stored = StoredTensor { name: info.name, dtype, offset, shape: layout.dims().to_vec(), strides };
    if stored.last_byte_end() > start.saturating_add(size) {
        return Err(format!("tensor {} is larger than its storage {}", stored.name, info.path));
    }
    Ok(stored)
}

/// Runs candle's interpreter, which panics on some malformed programs. It works on values of its own, so nothing is left
/// half done.
fn interpret<T: Send>(
    read: impl FnOnce() -> candle_core::Result<T> + Send + UnwindSafe,
) -> Result<candle_core::Result<T>, String> {
    let done = std::thread::scope(|scope| {
        let caught = || std::panic::catch_unwind(read);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, caught);
        thread.map(|t| t.join().and_then(|done| done))
    });
    match done.map_err(|e| format!("no memory to read its pickle ({e})"))? {
        Ok(result) => Ok(result),
        Err(_) => Err("its pickle is malformed".to_owned()),
    }
}

/// Entry name → (first byte of the data, is it compressed, size in bytes).
fn zip_starts(path: &Path) -> Result<HashMap<String, (usize, bool, usize)>, WeightsError> {
    let damaged = |problem: String| WeightsError::Damaged { path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(|source| WeightsError::Open { path: path.to_owned(), source })?;
    let mut zip = zip::ZipArchive::new(std::io::BufReader::new(file))
        .map_err(|e| damaged(format!("its zip directory cannot be read ({e})")))?;
    let mut starts = HashMap::new();
    for i in 0..zip.len() {
        let item = zip.by_index_raw(i).map_err(|e| damaged(format!("zip entry {i}: {e}")))?;
        let start = item.data_start().unwrap_or(u64::MAX) as usize;
        let stored = item.compression() == zip::CompressionMethod::Stored;
        let name = item.name().map_err(|e| damaged(format!("zip entry {i}: {e}")))?.into_owned();
        starts.insert(name, (start, !stored, item.size() as usize));
    }
    Ok(starts)
}

fn first_line(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}
