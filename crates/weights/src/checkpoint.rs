//! An opened checkpoint: a table of named tensors over memory-mapped bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use crate::hub::hexadecimal;
use crate::keymap::KeyMap;
use crate::{WeightsError, onnx, pickle};

/// How the bytes of a checkpoint are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One safetensors file.
    Safetensors,
    /// Several safetensors files with an index.
    SafetensorsSharded,
    /// A PyTorch zip archive (`torch.save`); only tensors are read, nothing in it is run.
    Pickle,
    /// What PyTorch wrote before its zip archives, and OpenMMLab's published files still are.
    LegacyPickle,
    /// An ONNX file; its initializers and constants.
    Onnx,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Safetensors => "safetensors",
            Format::SafetensorsSharded => "safetensors, sharded",
            Format::Pickle => "PyTorch zip (.pth)",
            Format::LegacyPickle => "PyTorch before zip (.pth)",
            Format::Onnx => "ONNX",
        })
    }
}

pub(crate) enum Bytes {
    Mapped(Mmap),
    /// A part of a map that lives on with it, or bytes of their own.
    Shared(bytes::Bytes),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Shared(bytes) => bytes,
        }
    }
}

/// A run of stored elements: where they lie and how they are strided.
#[derive(Clone)]
pub(crate) struct Part {
    pub bytes: Arc<Bytes>,
    /// First byte of element 0.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// `None` for row-major order.
    pub strides: Option<Vec<usize>>,
}

/// One tensor of a checkpoint.
#[derive(Clone)]
pub struct Entry {
    /// Name in the file, or the canonical name after [`Checkpoint::rename`].
    pub name: String,
    /// Stored element type.
    pub dtype: Dtype,
    /// Logical shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Stored pieces, concatenated along dimension 0 (more than one only after a renaming that joins tensors).
    pub(crate) parts: Vec<Part>,
}

impl Entry {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().fold(1usize, |a, d| a.saturating_mul(*d))
    }

    /// Whether elements of this type can be computed with.
    pub fn is_loadable(&self) -> bool {
        candle_dtype(self.dtype).is_some()
    }

    /// Stored size in bytes.
    pub fn stored_bytes(&self) -> u64 {
        (self.elements() as u64).saturating_mul(self.dtype.bitsize() as u64).div_ceil(8)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.name, self.dtype, self.shape)
    }
}

/// An opened checkpoint. Opening reads headers only; tensor bytes are paged in when a tensor is asked for.
#[derive(Clone)]
pub struct Checkpoint {
    path: PathBuf,
    format: Format,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a `.safetensors.index.json`, a `.pth`/`.pt` file, an `.onnx` file, or a folder that
    /// holds exactly one safetensors checkpoint.
    ///
    /// # Errors
    /// [`WeightsError`] for a missing path, a file of another kind, a damaged header, or missing shards.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let info = std::fs::metadata(path).map_err(|source| WeightsError::Open { path: path.to_owned(), source })?;
        if info.is_dir() {
            return Self::open_folder(path);
        }
        if !info.is_file() {
            let found = "a pipe or device, not a file".to_owned();
            return Err(WeightsError::NotACheckpoint { path: path.to_owned(), found });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.ends_with(".index.json") {
            return Self::open_index(path);
        }
        let bytes = map_file(path)?;
        if bytes.as_slice().starts_with(b"PK\x03\x04") {
            let stored = pickle::read_index(path)?;
            return Self::from_pickle(path, Arc::new(bytes), Format::Pickle, stored);
        }
        if bytes.as_slice().starts_with(pickle::LEGACY_MAGIC) {
            let stored = pickle::read_legacy_index(path, bytes.as_slice())?;
            return Self::from_pickle(path, Arc::new(bytes), Format::LegacyPickle, stored);
        }
        if onnx::is_onnx(path, bytes.as_slice()) {
            return Ok(onnx::parse(path, bytes::Bytes::from_owner(bytes))?.weights);
        }
        Self::from_safetensors(path, Arc::new(bytes))
    }

    /// Reads a safetensors file held in memory, or in the program itself. `label` stands where error messages name a file.
    ///
    /// # Errors
    /// [`WeightsError::Damaged`] when the header is not valid.
    pub fn from_bytes(label: &str, bytes: impl AsRef<[u8]> + Send + 'static) -> Result<Self, WeightsError> {
        Self::from_safetensors(Path::new(label), Arc::new(Bytes::Shared(bytes::Bytes::from_owner(bytes))))
    }

    fn open_folder(folder: &Path) -> Result<Self, WeightsError> {
        let open_error = |source| WeightsError::Open { path: folder.to_owned(), source };
        let mut names = Vec::new();
        for item in std::fs::read_dir(folder).map_err(open_error)? {
            names.push(item.map_err(open_error)?.path());
        }
        names.sort();
        let ending = |end: &str| -> Vec<&PathBuf> {
            names.iter().filter(|p| p.to_string_lossy().to_lowercase().ends_with(end)).collect()
        };
        let (indexes, singles) = (ending(".safetensors.index.json"), ending(".safetensors"));
        match (indexes.as_slice(), singles.as_slice()) {
            ([index], _) => Self::open_index(index),
            ([], [single]) => Self::open(single),
            ([], []) => Err(WeightsError::NotACheckpoint {
                path: folder.to_owned(),
                found: "a folder without a .safetensors file or index".into(),
            }),
            _ => Err(WeightsError::NotACheckpoint {
                path: folder.to_owned(),
                found: format!(
                    "a folder with {} index files and {} .safetensors files, so the choice is open; name the file",
                    indexes.len(),
                    singles.len()
                ),
            }),
        }
    }

    fn open_index(index: &Path) -> Result<Self, WeightsError> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        const MAX_INDEX_BYTES: u64 = 64 << 20;
        if std::fs::metadata(index).is_ok_and(|info| !info.is_file() || info.len() > MAX_INDEX_BYTES) {
            let problem = format!("an index is a file of at most {MAX_INDEX_BYTES} bytes");
            return Err(WeightsError::Damaged { path: index.to_owned(), problem });
        }
        let text =
            std::fs::read_to_string(index).map_err(|source| WeightsError::Open { path: index.to_owned(), source })?;
        let parsed: Index = serde_json::from_str(&text).map_err(|e| WeightsError::Damaged {
            path: index.to_owned(),
            problem: format!("the index is not the JSON of a shard index ({e})"),
        })?;
        let folder = index.parent().unwrap_or(Path::new("."));
        let shards: BTreeSet<&String> = parsed.weight_map.values().collect();
        let plain =
            |s: &str| Path::new(s).components().count() == 1 && !s.starts_with('.') && s.ends_with(".safetensors");
        if let Some(name) = shards.iter().find(|s| !plain(s)) {
            return Err(WeightsError::Damaged {
                path: index.to_owned(),
                problem: format!("shard name {name:?} is not the plain name of a .safetensors file"),
            });
        }
        let missing: Vec<_> = shards.iter().filter(|s| !folder.join(s.as_str()).is_file()).collect();
        if let Some(first) = missing.first() {
            return Err(WeightsError::MissingShards {
                index: index.to_owned(),
                count: missing.len(),
                first: first.to_string(),
            });
        }
        let mut merged = Self {
            path: index.to_owned(),
            format: Format::SafetensorsSharded,
            entries: BTreeMap::new(),
            metadata: BTreeMap::new(),
        };
        for shard in shards {
            let path = folder.join(shard);
            let part = Self::from_safetensors(&path, Arc::new(map_file(&path)?))?;
            merged.metadata.extend(part.metadata);
            for (name, entry) in part.entries {
                if merged.entries.insert(name.clone(), entry).is_some() {
                    return Err(WeightsError::Damaged {
                        path: index.to_owned(),
                        problem: format!("tensor {name} stands in two shards"),
                    });
                }
            }
        }
        if let Some((name, shard)) = parsed.weight_map.iter().find(|(n, _)| !merged.entries.contains_key(*n)) {
            return Err(WeightsError::Damaged {
                path: index.to_owned(),
                problem: format!("tensor {name} is not in {shard}, where the index says it is"),
            });
        }
        Ok(merged)
    }

    fn from_safetensors(path: &Path, bytes: Arc<Bytes>) -> Result<Self, WeightsError> {
        let (header_len, metadata) = SafeTensors::read_metadata(bytes.as_slice())
            .map_err(|error| explain_safetensors(path, bytes.as_slice(), error))?;
        let start = 8 + header_len;
        let mut entries = BTreeMap::new();
        for (name, info) in metadata.tensors() {
            check_shape(path, &name, &info.shape)?;
            let entry = Entry {
                name: name.clone(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                parts: vec![Part {
                    bytes: bytes.clone(),
                    offset: start + info.data_offsets.0,
                    shape: info.shape.clone(),
                    strides: None,
                }],
            };
            entries.insert(name, entry);
        }
        let metadata = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { path: path.to_owned(), format: Format::Safetensors, entries, metadata })
    }

    fn from_pickle(
        path: &Path,
        bytes: Arc<Bytes>,
        format: Format,
        tensors: Vec<pickle::StoredTensor>,
    ) -> Result<Self, WeightsError> {
        let file_len = bytes.as_slice().len();
        let mut entries = BTreeMap::new();
        for stored in tensors {
            check_shape(path, &stored.name, &stored.shape)?;
            if stored.strides.as_ref().is_some_and(|s| s.contains(&0)) {
                let problem = format!("tensor {} repeats stored elements (stride 0)", stored.name);
                return Err(WeightsError::Damaged { path: path.to_owned(), problem });
            }
            let end = stored.last_byte_end();
            if end > file_len {
                return Err(WeightsError::Damaged {
                    path: path.to_owned(),
                    problem: format!("tensor {} ends at byte {end} of a file of {file_len}", stored.name),
                });
            }
            let part = Part {
                bytes: bytes.clone(),
                offset: stored.offset,
                shape: stored.shape.clone(),
                strides: stored.strides,
            };
            let entry =
                Entry { name: stored.name.clone(), dtype: stored.dtype, shape: stored.shape, parts: vec![part] };
            entries.insert(stored.name, entry);
        }
        if entries.is_empty() {
            return Err(WeightsError::Damaged {
                path: path.to_owned(),
                problem: "the archive holds no state dict of tensors".into(),
            });
        }
        Ok(Self::from_entries(path, format, entries))
    }

    /// A table that a reader of some format has checked.
    pub(crate) fn from_entries(path: &Path, format: Format, entries: BTreeMap<String, Entry>) -> Self {
        Self { path: path.to_owned(), format, entries, metadata: BTreeMap::new() }
    }

    /// The values of a tensor of 64-bit integers.
    pub(crate) fn integers(&self, name: &str) -> Option<Vec<i64>> {
        let entry = self.entries.get(name).filter(|entry| entry.dtype == Dtype::I64)?;
        let [Part { bytes, offset, strides: None, .. }] = entry.parts.as_slice() else { return None };
        let raw = bytes.as_slice().get(*offset..)?.get(..entry.elements().checked_mul(8)?)?;
        Some(raw.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    /// The file or index that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it is packed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Free-text metadata of a safetensors header; empty for other formats.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// All tensors in the order of their names.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.entries.values()
    }

    /// The tensor of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Shape of the tensor of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|e| e.shape.as_slice())
    }

    /// Sum of the stored sizes in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.entries.values().map(Entry::stored_bytes).sum()
    }

    /// SHA-256 of all tensors with their names, types and shapes, as hexadecimal text: the same for the same contents,
    /// wherever the file is and however it is packed. Reads every byte.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        for entry in self.entries.values() {
            // Lengths, so that no two tables give the same stream of bytes.
            hasher.update((entry.name.len() as u64).to_le_bytes());
            hasher.update(format!("{}{}{:?}", entry.name, entry.dtype, entry.shape));
            hasher.update(entry.stored_bytes().to_le_bytes());
            for Part { bytes, offset, shape, strides } in &entry.parts {
                let stored = bytes.as_slice().get(*offset..).unwrap_or_default();
                let bits = shape.iter().product::<usize>().saturating_mul(entry.dtype.bitsize());
                match strides {
                    None => hasher.update(stored.get(..bits.div_ceil(8)).unwrap_or(stored)),
                    Some(strides) => hasher.update(gather(stored, shape, strides, entry.dtype.bitsize().div_ceil(8))),
                }
            }
        }
        hexadecimal(&hasher.finalize())
    }

    /// The same checkpoint under canonical names: see [`KeyMap`]. Names the map does not know stay as they are;
    /// tensors that the map drops (say, a text tower nobody needs) disappear.
    pub fn rename(mut self, map: &KeyMap) -> Self {
        self.entries = map.apply(self.entries);
        self
    }

    /// Reads one tensor as `dtype` (or as stored) on `device`.
    ///
    /// `shape` may differ from the stored one by dimensions of size 1 only.
    ///
    /// # Errors
    /// Unknown name, other shape, a stored type that cannot be computed with, or a value that is not finite.
    pub fn load(
        &self,
        name: &str,
        shape: &[usize],
        dtype: Option<DType>,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let Some(entry) = self.entries.get(name) else {
            candle_core::bail!("{}: tensor {name} is missing", self.path.display());
        };
        if !same_but_ones(&entry.shape, shape) {
            candle_core::bail!(
                "{}: tensor {name} has shape {:?}; the network needs {shape:?}",
                self.path.display(),
                entry.shape
            );
        }
        let stored = candle_dtype(entry.dtype).ok_or_else(|| {
            let (path, name) = (self.path.clone(), name.to_owned());
            WeightsError::DType { path, name, dtype: format!("{:?}", entry.dtype) }.into_candle()
        })?;
        let width = stored.size_in_bytes();
        let mut pieces = Vec::with_capacity(entry.parts.len());
        let mut seen = 0;
        for part in &entry.parts {
            let count: usize = part.shape.iter().product();
            let all = part.bytes.as_slice();
            let gathered;
            let raw = match &part.strides {
                None => &all[part.offset..part.offset + count * width],
                Some(strides) => {
                    gathered = gather(&all[part.offset..], &part.shape, strides, width);
                    &gathered[..]
                }
            };
            if let Some(element) = first_non_finite(raw, stored) {
                let (path, name) = (self.path.clone(), name.to_owned());
                return Err(WeightsError::NotFinite { path, name, element: seen + element }.into_candle());
            }
            seen += count;
            let piece = Tensor::from_raw_buffer(raw, stored, &part.shape, &Device::Cpu)?;
            pieces.push(match dtype {
                Some(dtype) => piece.to_dtype(dtype)?,
                None => piece,
            });
        }
        let tensor = if pieces.len() == 1 { pieces.remove(0) } else { Tensor::cat(&pieces, 0)? };
        tensor.reshape(shape)?.to_device(device)
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({}, {}, {} tensors)", self.path.display(), self.format, self.entries.len())
    }
}

/// Refuses shapes whose number of elements cannot be reckoned with, whatever zeros they hide behind.
pub(crate) fn check_shape(path: &Path, name: &str, shape: &[usize]) -> Result<(), WeightsError> {
    let product = shape.iter().map(|d| (*d).max(1)).fold(1usize, usize::saturating_mul);
    if product > isize::MAX as usize / 8 {
        let problem = format!("tensor {name} has the impossible shape {shape:?}");
        return Err(WeightsError::Damaged { path: path.to_owned(), problem });
    }
    Ok(())
}

/// Equal after removing dimensions of size 1.
pub(crate) fn same_but_ones(a: &[usize], b: &[usize]) -> bool {
    a.iter().filter(|d| **d != 1).eq(b.iter().filter(|d| **d != 1))
}

fn candle_dtype(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

pub(crate) fn map_file(path: &Path) -> Result<Bytes, WeightsError> {
    let open = |source| WeightsError::Open { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(open)?;
    if file.metadata().map_err(open)?.len() == 0 {
        return Err(WeightsError::Damaged { path: path.to_owned(), problem: "it has zero bytes".into() });
    }
    // SAFETY: the map is read-only and private to this process. If another process cuts the file short while it is
    // mapped, reads fault; weight files are not written while they are in use.
    let map = unsafe { Mmap::map(&file) }.map_err(open)?;
    Ok(Bytes::Mapped(map))
}

/// The library's word for what is wrong, in terms of this file.
fn explain_safetensors(path: &Path, bytes: &[u8], error: safetensors::SafeTensorError) -> WeightsError {
    use safetensors::SafeTensorError as E;
    let declared = bytes.get(..8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
    let looks_like_json = bytes.get(8) == Some(&b'{');
    let problem = match (&error, declared) {
        (E::HeaderTooSmall, _) => format!("it has {} bytes, less than a header's length field", bytes.len()),
        (E::HeaderTooLarge, Some(n)) => {
            format!("it says that its header has {n} bytes; the file has {} and 100000000 are allowed", bytes.len())
        }
        (E::InvalidHeaderLength, Some(n)) => {
            format!("it ends inside its header ({} bytes of {})", bytes.len(), n.saturating_add(8))
        }
        (E::MetadataIncompleteBuffer, _) => {
            format!("its size of {} bytes is not what the header asks for: cut short, or bytes added", bytes.len())
        }
        (E::InvalidOffset(name), _) => {
            format!("the byte ranges of its tensors overlap or leave gaps at {name}")
        }
        (E::TensorInvalidInfo, _) => "a tensor's byte range does not match its shape and type".into(),
        (other, _) => other.to_string(),
    };
    let is_checkpoint = looks_like_json
        || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"))
        || matches!(error, E::MetadataIncompleteBuffer | E::InvalidOffset(_) | E::TensorInvalidInfo);
    if is_checkpoint {
        WeightsError::Damaged { path: path.to_owned(), problem }
    } else {
        WeightsError::NotACheckpoint { path: path.to_owned(), found: problem }
    }
}

/// Copies a strided run of elements into row-major order. Bounds were checked when the file was opened.
fn gather(bytes: &[u8], shape: &[usize], strides: &[usize], width: usize) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * width);
    let mut index = vec![0usize; shape.len()];
    for _ in 0..count {
        let at: usize = index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>() * width;
        out.extend_from_slice(&bytes[at..at + width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

/// Index of the first element whose exponent bits are all ones (infinity or NaN).
fn first_non_finite(raw: &[u8], dtype: DType) -> Option<usize> {
    // Whole blocks are reduced without branches first: this runs at memory speed over gigabytes.
    fn scan<const W: usize>(raw: &[u8], bad: impl Fn([u8; W]) -> bool + Copy) -> Option<usize> {
        let block = 4096 * W;
        for (b, chunk) in raw.chunks(block).enumerate() {
            let any = chunk.chunks_exact(W).fold(false, |acc, e| acc | bad(e.try_into().unwrap_or([0; W])));
            if any {
                let inside = chunk.chunks_exact(W).position(|e| bad(e.try_into().unwrap_or([0; W])));
                return inside.map(|i| b * 4096 + i);
            }
        }
        None
    }
    match dtype {
        DType::F32 => scan::<4>(raw, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
        DType::BF16 => scan::<2>(raw, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
        DType::F16 => scan::<2>(raw, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        DType::F64 => scan::<8>(raw, |b| !f64::from_le_bytes(b).is_finite()),
        _ => None,
    }
}
