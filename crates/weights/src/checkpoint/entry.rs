//! What a checkpoint stores under a name: floats, or numbers in 8 bits and less with what belongs to them.

use std::fmt;
use std::path::Path;

use bytes::Bytes;
use candle_core::DType;
use kernels::quant::Encoding;
use safetensors::Dtype;

use crate::WeightsError;

/// How the numbers of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// One after another, each for itself.
    Plain(Dtype),
    /// In 8 bits and less; decoded when they are loaded as floats.
    Quantised(Encoding),
}

impl StoredType {
    /// Whether numbers of this type can be computed with.
    pub fn is_loadable(self) -> bool {
        matches!(self, Self::Quantised(_)) || self.float().is_some()
    }

    /// Bits that a number takes, rounded up; scales beside it are not counted.
    pub fn bitsize(self) -> usize {
        match self {
            Self::Plain(dtype) => dtype.bitsize(),
            Self::Quantised(encoding) => (8 * encoding.block_bytes()).div_ceil(encoding.block()),
        }
    }

    pub(crate) fn float(self) -> Option<DType> {
        match self {
            Self::Plain(Dtype::F32) => Some(DType::F32),
            Self::Plain(Dtype::F16) => Some(DType::F16),
            Self::Plain(Dtype::BF16) => Some(DType::BF16),
            Self::Plain(Dtype::F64) => Some(DType::F64),
            _ => None,
        }
    }
}

impl From<Dtype> for StoredType {
    /// 8-bit floats need nothing else to be decoded; 8-bit integers mean nothing without their scales.
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F8_E4M3 => Self::Quantised(Encoding::F8E4M3),
            Dtype::F8_E5M2 => Self::Quantised(Encoding::F8E5M2),
            other => Self::Plain(other),
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => dtype.fmt(f),
            Self::Quantised(encoding) => encoding.fmt(f),
        }
    }
}

/// Which numbers of a matrix share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Matrix,
    Row,
    /// Blocks of so many rows and columns.
    Block(usize),
}

/// Scales as the file has them; read when the matrix is taken.
#[derive(Clone)]
pub(crate) struct StoredScales {
    pub share: Share,
    /// F32, F16, BF16 or F64.
    pub dtype: DType,
    pub bytes: Bytes,
}

/// A run of stored numbers.
#[derive(Clone)]
pub(crate) struct Part {
    /// From element 0 to the last.
    pub bytes: Bytes,
    pub dtype: StoredType,
    pub shape: Vec<usize>,
    /// In elements; `None` for row-major order.
    pub strides: Option<Vec<usize>>,
    pub scales: Option<StoredScales>,
    /// Group size of the rotation of its rows.
    pub rotation: Option<usize>,
}

impl Part {
    /// Row-major numbers without scales.
    pub fn plain(bytes: Bytes, dtype: StoredType, shape: Vec<usize>) -> Self {
        Self { bytes, dtype, shape, strides: None, scales: None, rotation: None }
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of the numbers without their scales.
    fn number_bytes(&self) -> usize {
        match (&self.strides, self.dtype) {
            (None, _) | (_, StoredType::Quantised(_)) => self.bytes.len(),
            (Some(_), StoredType::Plain(dtype)) => self.elements().saturating_mul(dtype.bitsize()) / 8,
        }
    }

    /// The numbers in row-major order: shared, or copied together where strides lie between them.
    pub fn row_major(&self) -> Bytes {
        let Some(strides) = &self.strides else { return self.bytes.clone() };
        let width = match self.dtype {
            StoredType::Plain(dtype) => dtype.bitsize() / 8,
            StoredType::Quantised(_) => 1,
        };
        Bytes::from(gather(&self.bytes, &self.shape, strides, width))
    }
}

/// One tensor of a checkpoint.
#[derive(Clone)]
pub struct Entry {
    /// Name in the file, or the canonical name after [`Checkpoint::rename`](crate::Checkpoint::rename). Tensors that
    /// belong to a quantised one (scales, descriptions) are part of its entry and have none of their own.
    pub name: String,
    /// Stored element type; of the first piece, where pieces of several types were joined.
    pub dtype: StoredType,
    /// Logical shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Stored pieces, concatenated along dimension 0 (more than one only after a renaming that joins tensors).
    pub(crate) parts: Vec<Part>,
    /// Whether neighbouring dimensions may be stored as one, as GGUF's writers do.
    pub(crate) merges: bool,
    /// The scale of its inputs, for multiplications in 8 bits.
    pub(crate) input_scale: Option<StoredScales>,
}

impl Entry {
    pub(crate) fn new(name: String, shape: Vec<usize>, part: Part) -> Self {
        Self { name, dtype: part.dtype, shape, parts: vec![part], merges: false, input_scale: None }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().fold(1usize, |a, d| a.saturating_mul(*d))
    }

    /// Whether it can be computed with: floats, or a form that is decoded.
    pub fn is_loadable(&self) -> bool {
        self.parts.iter().all(|part| part.dtype.is_loadable())
    }

    /// How it is quantised; `None` for floats, for other types, and where pieces of several forms were joined.
    pub fn encoding(&self) -> Option<Encoding> {
        match self.dtype {
            StoredType::Quantised(encoding) if self.parts.iter().all(|p| p.dtype == self.dtype) => Some(encoding),
            _ => None,
        }
    }

    /// Stored size in bytes, scales included.
    pub fn stored_bytes(&self) -> u64 {
        let bytes = |part: &Part| (part.number_bytes() + part.scales.as_ref().map_or(0, |s| s.bytes.len())) as u64;
        self.parts.iter().map(bytes).sum()
    }

    /// Whether it can stand for a tensor of `shape`: equal but for dimensions of size 1, or (GGUF) for neighbouring
    /// dimensions that are stored as one.
    pub fn fits(&self, shape: &[usize]) -> bool {
        same_but_ones(&self.shape, shape) || (self.merges && merges_into(&self.shape, shape))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?}", self.name, self.dtype, self.shape)
    }
}

/// Refuses names that would not stand in a line of text, and shapes whose number of elements cannot be reckoned with,
/// whatever zeros they hide behind.
pub(crate) fn check_tensor(path: &Path, name: &str, shape: &[usize]) -> Result<(), WeightsError> {
    if name.contains(char::is_control) {
        let problem = format!("the name of its tensor {name} has control characters");
        return Err(WeightsError::damaged(path, problem));
    }
    let product = shape.iter().map(|d| (*d).max(1)).fold(1usize, usize::saturating_mul);
    if product > isize::MAX as usize / 8 {
        let problem = format!("tensor {name} has the impossible shape {shape:?}");
        return Err(WeightsError::damaged(path, problem));
    }
    Ok(())
}

/// Equal after removing dimensions of size 1.
pub(crate) fn same_but_ones(a: &[usize], b: &[usize]) -> bool {
    a.iter().filter(|d| **d != 1).eq(b.iter().filter(|d| **d != 1))
}

/// Whether `stored` is `wanted` with some neighbouring dimensions multiplied together.
fn merges_into(stored: &[usize], wanted: &[usize]) -> bool {
    fn sizes(shape: &[usize]) -> Vec<usize> {
        let product = |size: &mut usize, d: &usize| {
            *size = size.saturating_mul(*d);
            Some(*size)
        };
        let mut sizes: Vec<usize> = shape.iter().rev().scan(1, product).filter(|size| *size != 1).collect();
        sizes.dedup();
        sizes
    }
    let (stored, wanted) = (sizes(stored), sizes(wanted));
    stored.last() == wanted.last() && stored.iter().all(|size| wanted.contains(size))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_dimensions_may_be_stored_as_one() {
        // Patch embeddings as stable-diffusion.cpp, ComfyUI-GGUF and a plain Linear have them.
        let wanted = [5120, 36, 1, 2, 2];
        for stored in [vec![5120 * 36, 1, 2, 2], vec![5120, 144], vec![5120, 36, 2, 2], vec![5120 * 144]] {
            assert!(merges_into(&stored, &wanted), "{stored:?}");
        }
        for stored in [vec![36, 5120, 1, 2, 2], vec![144, 5120], vec![5120, 36, 4, 2], vec![5120, 36]] {
            assert!(!merges_into(&stored, &wanted), "{stored:?}");
        }
        assert!(merges_into(&[], &[1, 1]));
        assert!(merges_into(&[6, 8], &[1, 6, 8]));
        assert!(!merges_into(&[8, 6], &[1, 6, 8]));
    }
}
