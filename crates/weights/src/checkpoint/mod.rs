//! An opened checkpoint: a table of named tensors over memory-mapped bytes.

mod decode;
mod entry;
mod finite;
mod floats;
mod load;
mod map;
mod rows;
mod safetensors;
mod shards;
mod stored;
mod tiles;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};

pub use entry::{Entry, StoredType};
pub(crate) use entry::{Part, Share, StoredScales, check_tensor, same_but_ones};
pub(crate) use map::map_file;
pub use stored::StoredMatrix;
pub(crate) use tiles::TILE_BYTES;

use crate::flavour::{self, Flavour};
use crate::hub::hexadecimal;
use crate::keymap::KeyMap;
use crate::{WeightsError, gguf, onnx, pickle};

/// How the bytes of a checkpoint are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One safetensors file.
    Safetensors,
    /// Several safetensors files with an index.
    SafetensorsSharded,
    /// A GGUF file, version 2 or 3.
    Gguf,
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
            Format::Gguf => "GGUF",
            Format::Pickle => "PyTorch zip (.pth)",
            Format::LegacyPickle => "PyTorch before zip (.pth)",
            Format::Onnx => "ONNX",
        })
    }
}

/// Tensors by their names.
pub(crate) type Table = BTreeMap<String, Entry>;

/// What a reader found in a file, before tensors that belong together are put together.
#[derive(Default)]
pub(crate) struct Contents {
    pub entries: Table,
    pub metadata: BTreeMap<String, String>,
    /// Texts of `_quantization_metadata`, one from each shard that has it.
    pub descriptions: Vec<String>,
}

/// An opened checkpoint. Opening reads headers only; tensor bytes are paged in when a tensor is asked for.
#[derive(Clone)]
pub struct Checkpoint {
    path: PathBuf,
    /// Shards that the index names.
    shards: Vec<PathBuf>,
    format: Format,
    flavour: Flavour,
    entries: Table,
    metadata: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a `.safetensors` file, a `.safetensors.index.json`, a `.gguf` file, a `.pth`/`.pt` file, an `.onnx` file,
    /// or a folder that holds exactly one checkpoint.
    ///
    /// # Errors
    /// [`WeightsError`] for a missing path, a file of another kind, a damaged header, missing shards, or quantised
    /// tensors whose scales do not belong to them.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        let info = std::fs::metadata(path).map_err(|source| WeightsError::Open { path: path.to_owned(), source })?;
        if info.is_dir() {
            return Self::open(shards::choose(path)?);
        }
        if !info.is_file() {
            let found = "a pipe or device, not a file".to_owned();
            return Err(WeightsError::NotACheckpoint { path: path.to_owned(), found });
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.ends_with(".index.json") {
            return shards::open_index(path);
        }
        Self::read(path, map_file(path)?)
    }

    /// Reads a file of any format that is held in memory, or in the program itself. `label` stands where error messages
    /// name a file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(label: &str, bytes: impl AsRef<[u8]> + Send + 'static) -> Result<Self, WeightsError> {
        Self::read(Path::new(label), Bytes::from_owner(bytes))
    }

    fn read(path: &Path, bytes: Bytes) -> Result<Self, WeightsError> {
        if bytes.starts_with(b"PK\x03\x04") {
            let entries = pickle::read_zip(path, &bytes)?;
            return Self::grouped(path, Format::Pickle, Contents { entries, ..Contents::default() });
        }
        if bytes.starts_with(pickle::LEGACY_MAGIC) {
            let entries = pickle::read_legacy(path, &bytes)?;
            return Self::grouped(path, Format::LegacyPickle, Contents { entries, ..Contents::default() });
        }
        if bytes.starts_with(gguf::MAGIC) {
            return Self::grouped(path, Format::Gguf, gguf::read(path, &bytes)?);
        }
        if onnx::is_onnx(path, &bytes) {
            return Ok(onnx::parse(path, bytes)?.weights);
        }
        let (entries, mut metadata) = safetensors::read(path, &bytes)?;
        let descriptions = metadata.remove(flavour::METADATA).into_iter().collect();
        Self::grouped(path, Format::Safetensors, Contents { entries, metadata, descriptions })
    }

    /// The checkpoint of what a reader found, every quantised tensor with what belongs to it.
    fn grouped(path: &Path, format: Format, contents: Contents) -> Result<Self, WeightsError> {
        let Contents { entries, metadata, descriptions } = contents;
        let (entries, flavour) = flavour::group(path, entries, &descriptions)?;
        Ok(Self { path: path.to_owned(), shards: Vec::new(), format, flavour, entries, metadata })
    }

    /// A table that a reader of some format has checked, of tensors that stand for themselves.
    pub(crate) fn from_entries(path: &Path, format: Format, entries: Table) -> Self {
        Self {
            path: path.to_owned(),
            shards: Vec::new(),
            format,
            flavour: Flavour::Floats,
            entries,
            metadata: BTreeMap::new(),
        }
    }

    /// The values of a tensor of 64-bit integers.
    pub(crate) fn integers(&self, name: &str) -> Option<Vec<i64>> {
        let entry = self.entries.get(name)?;
        let [part @ Part { strides: None, .. }] = entry.parts.as_slice() else { return None };
        let integers = part.dtype == StoredType::Plain(::safetensors::Dtype::I64);
        integers.then(|| part.bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
    }

    /// The file or index that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, or the index and every shard.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.path()).chain(self.shards.iter().map(PathBuf::as_path))
    }

    /// How it is packed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whose way of quantising its tensors follow; that of most of them where a file mixes several.
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// Free text that a safetensors header has, or keys and values of a GGUF file that are words or numbers
    /// (`general.architecture`); empty for other formats.
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

    /// SHA-256 of all tensors with their names, types, shapes and scales, as hexadecimal text: the same for the same
    /// contents, wherever the file is and however it is packed. Reads every byte.
    pub fn sha256(&self) -> String {
        let mut hasher = Sha256::new();
        for entry in self.entries.values() {
            // Lengths, so that no two tables give the same stream of bytes.
            hasher.update((entry.name.len() as u64).to_le_bytes());
            hasher.update(format!("{}{}{:?}", entry.name, entry.dtype, entry.shape));
            hasher.update(entry.stored_bytes().to_le_bytes());
            for part in &entry.parts {
                hasher.update(part.row_major());
                if let Some(scales) = &part.scales {
                    hasher.update(format!("{:?}{:?}{:?}", scales.share, scales.dtype, part.rotation));
                    hasher.update(&scales.bytes);
                }
            }
        }
        hexadecimal(&hasher.finalize())
    }

    /// A hash of the table and of each tensor's first bytes, as hexadecimal text: tells files apart at once, whatever their
    /// size, but not those that mean to be taken for one another; [`sha256`](Self::sha256) does.
    pub fn sketch(&self) -> String {
        const BYTES: usize = 64;
        let mut hasher = Sha256::new();
        for entry in self.entries.values() {
            hasher.update(format!("{} {} {:?} {};", entry.name, entry.dtype, entry.shape, entry.stored_bytes()));
            for part in &entry.parts {
                hasher.update(&part.bytes[..part.bytes.len().min(BYTES)]);
                hasher.update(part.scales.as_ref().map_or(&[][..], |s| &s.bytes[..s.bytes.len().min(BYTES)]));
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
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({}, {}, {} tensors)", self.path.display(), self.format, self.entries.len())
    }
}
