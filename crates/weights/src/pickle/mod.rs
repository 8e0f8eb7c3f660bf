//! What `torch.save` writes: which bytes of the file are which tensor.
//!
//! The pickle program inside is read by a machine that makes tensors and containers only and runs nothing.

mod legacy;
mod machine;
mod state;
mod values;

use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use bytes::Bytes;

use crate::WeightsError;
use crate::checkpoint::{Entry, Part, StoredType, Table, check_tensor};
use state::RawTensor;

pub(crate) use legacy::{MAGIC as LEGACY_MAGIC, read_legacy};

/// A state dict of a thousand tensors takes a quarter of a megabyte.
const MAX_PROGRAM_BYTES: usize = 16 << 20;

/// Reads the index of a zip archive. Its entries lie in it uncompressed.
pub(crate) fn read_zip(path: &Path, file: &Bytes) -> Result<Table, WeightsError> {
    let damaged = |problem: String| WeightsError::damaged(path, problem);
    let archive = Archive::open(file).map_err(damaged)?;
    let (folder, program) = archive.program().map_err(damaged)?;
    let left = machine::read(&program).map_err(|e| damaged(format!("its pickle cannot be read: {e}")))?;
    let raw = state::tensors(&left).map_err(|e| damaged(format!("of its pickle, {e}")))?;
    if archive.get(&format!("{folder}byteorder")).is_ok_and(|b| b.starts_with(b"big")) {
        return Err(damaged("its numbers are big-endian; save it anew on a little-endian machine".into()));
    }
    table(path, raw, |key| archive.get(&format!("{folder}data/{key}")))
}

/// The checked table of the tensors, given where storages lie.
fn table<'a>(
    path: &Path,
    raw: Vec<RawTensor<'a>>,
    storage: impl Fn(&str) -> Result<Bytes, String>,
) -> Result<Table, WeightsError> {
    let mut entries = Table::new();
    for tensor in raw {
        let name = tensor.name.to_owned();
        check_tensor(path, &name, &tensor.shape)?;
        let part = storage(tensor.storage)
            .and_then(|storage| part(&tensor, &storage))
            .map_err(|problem| WeightsError::damaged(path, format!("tensor {name} {problem}")))?;
        entries.insert(name.clone(), Entry::new(name, tensor.shape, part));
    }
    Ok(entries)
}

/// A tensor in its storage.
fn part(tensor: &RawTensor, storage: &Bytes) -> Result<Part, String> {
    let (shape, width) = (&tensor.shape, tensor.dtype.bitsize() / 8);
    let elements: usize = shape.iter().product();
    // What a dimension of one element would be strided by does not matter.
    let contiguous: Vec<usize> =
        shape.iter().rev().scan(1, |next, d| Some(std::mem::replace(next, *next * d))).collect();
    let strides = tensor.strides.iter().zip(contiguous.iter().rev()).zip(shape);
    let row_major = strides.clone().all(|((found, wanted), d)| *d == 1 || found == wanted);
    // One past the last element from the first on; saturates on overflow.
    let span = match elements {
        0 => 0,
        _ if row_major => elements,
        _ => strides.fold(1usize, |a, ((s, _), d)| a.saturating_add((d - 1).saturating_mul(*s))),
    };
    if elements > span {
        return Err("repeats stored elements".into());
    }
    let from = tensor.offset.saturating_mul(width);
    let to = from.saturating_add(span.saturating_mul(width));
    if span > 0 && to > storage.len() {
        return Err(format!("is larger than its storage {}", tensor.storage));
    }
    let bytes = if span == 0 { Bytes::new() } else { storage.slice(from..to) };
    let strides = (!row_major && elements > 0).then(|| tensor.strides.clone());
    Ok(Part { strides, ..Part::plain(bytes, StoredType::from(tensor.dtype), tensor.shape.clone()) })
}

/// A zip archive's directory over the file's map.
struct Archive<'a> {
    file: &'a Bytes,
    /// By name: first byte, size, whether it is stored as it is.
    places: HashMap<String, (u64, u64, bool)>,
}

impl<'a> Archive<'a> {
    fn open(file: &'a Bytes) -> Result<Self, String> {
        let mut zip = zip::ZipArchive::new(Cursor::new(file.as_ref()))
            .map_err(|e| format!("its zip directory cannot be read ({e})"))?;
        let mut places = HashMap::new();
        for i in 0..zip.len() {
            let item = zip.by_index_raw(i).map_err(|e| format!("zip entry {i}: {e}"))?;
            let stored = item.compression() == zip::CompressionMethod::Stored && item.compressed_size() == item.size();
            let name = item.name().map_err(|e| format!("zip entry {i}: {e}"))?.into_owned();
            let start = item.data_start().unwrap_or(u64::MAX);
            places.insert(name, (start, item.size(), stored));
        }
        Ok(Self { file, places })
    }

    fn get(&self, name: &str) -> Result<Bytes, String> {
        let Some(&(start, size, stored)) = self.places.get(name) else {
            return Err(format!("points at {name}, which is not in the archive"));
        };
        if !stored {
            return Err(format!("points at {name}, which is compressed; torch.save stores tensors uncompressed"));
        }
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(size).unwrap_or(usize::MAX));
        if end > self.file.len() {
            return Err(format!("points at {name}, which ends at byte {end} of a file of {}", self.file.len()));
        }
        Ok(self.file.slice(start..end))
    }

    /// The pickle, and the folder in the archive that it lies in.
    fn program(&self) -> Result<(&str, Bytes), String> {
        let mut folders: Vec<&str> = self
            .places
            .keys()
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .filter(|folder| folder.is_empty() || folder.ends_with('/'))
            .collect();
        folders.sort_unstable_by_key(|folder| (folder.len(), *folder));
        let Some(folder) = folders.first() else { return Err("it has no pickle (data.pkl)".into()) };
        let program = self.get(&format!("{folder}data.pkl")).map_err(|problem| format!("it {problem}"))?;
        match program.len() {
            1..=MAX_PROGRAM_BYTES => Ok((folder, program)),
            size => Err(format!("its pickle (data.pkl) has {size} bytes; 1 to {MAX_PROGRAM_BYTES} are allowed")),
        }
    }
}
