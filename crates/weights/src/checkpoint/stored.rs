//! Matrices that can be read into memory as their file has them.

use bytes::Bytes;
use candle_core::{DType, Result};
use kernels::quant::{Encoding, QuantMatrix, Scales};
use safetensors::Dtype;

use super::Checkpoint;
use super::entry::{Part, Share, StoredType};
use super::finite::first_non_finite_code;
use super::load::{Place, as_matrix};
use super::map::{MappedFile, released_after_use};
use crate::WeightsError;

/// A matrix in a file: what it is, and where its numbers lie.
pub struct StoredMatrix {
    path: std::path::PathBuf,
    name: String,
    encoding: Encoding,
    shape: [usize; 2],
    scales: Scales,
    rotation: Option<usize>,
    /// Its numbers, row after row.
    runs: Vec<Bytes>,
}

impl Checkpoint {
    /// One tensor as the matrix `shape` = `[rows, columns]` that it is stored as, floats or quantised; nothing but scales is
    /// read. `None` when it is stored in a type that is no [`Encoding`], when `shape` has not two dimensions, or when it was
    /// joined from pieces that make no one matrix: then it is to be [loaded](Self::load).
    ///
    /// # Errors
    /// Unknown name, other shape, or a scale that is not finite.
    pub fn stored(&self, name: &str, shape: &[usize]) -> Result<Option<StoredMatrix>> {
        let entry = self.fitting(name, shape)?;
        let &[rows, columns] = shape else { return Ok(None) };
        let Some(first) = entry.parts.first() else { return Ok(None) };
        let Some(encoding) = encoding(first.dtype) else { return Ok(None) };
        let (mut place, mut all) = (Place { path: &self.path, name, seen: 0 }, Vec::new());
        for part in &entry.parts {
            let [mut part_rows, mut part_columns] = as_matrix(&part.shape);
            if entry.parts.len() == 1 {
                (part_rows, part_columns) = (rows, columns);
            }
            if part.dtype != first.dtype || part.rotation != first.rotation || part_columns != columns {
                return Ok(None);
            }
            all.push((part_rows, scales(part, part_columns, &place)?));
            place.seen += part.elements();
        }
        let scales = match all.as_mut_slice() {
            [(_, scales)] => std::mem::replace(scales, Scales::None),
            _ => match joined_scales(&all) {
                Some(scales) => scales,
                None => return Ok(None),
            },
        };
        Ok(Some(StoredMatrix {
            path: self.path.clone(),
            name: name.to_owned(),
            encoding,
            shape: [rows, columns],
            scales,
            rotation: first.rotation,
            runs: entry.parts.iter().map(Part::row_major).collect(),
        }))
    }
}

/// Floats that matrices are computed with, and quantised numbers.
fn encoding(stored: StoredType) -> Option<Encoding> {
    match stored {
        StoredType::Quantised(encoding) => Some(encoding),
        StoredType::Plain(Dtype::F32) => Some(Encoding::F32),
        StoredType::Plain(Dtype::F16) => Some(Encoding::F16),
        StoredType::Plain(Dtype::BF16) => Some(Encoding::BF16),
        StoredType::Plain(_) => None,
    }
}

/// What the numbers of a part are multiplied with.
pub(super) fn scales(part: &Part, columns: usize, place: &Place) -> Result<Scales> {
    let Some(stored) = &part.scales else { return Ok(Scales::None) };
    Ok(match stored.share {
        Share::Matrix => Scales::Matrix(place.scales(stored, 0)?.first().copied().unwrap_or(1.0)),
        Share::Row => Scales::Rows(place.scales(stored, columns)?),
        Share::Block(side) => Scales::Blocks { side, values: place.scales(stored, 0)? },
    })
}

/// The scales of matrices that follow one another, given the rows of each; `None` when blocks would begin inside of one.
fn joined_scales(pieces: &[(usize, Scales)]) -> Option<Scales> {
    if pieces.iter().all(|(_, scales)| *scales == Scales::None) {
        return Some(Scales::None);
    }
    if let Some((_, Scales::Blocks { side, .. })) = pieces.first() {
        let (_, before) = pieces.split_last()?;
        if before.iter().any(|(rows, _)| !rows.is_multiple_of(*side)) {
            return None;
        }
        let mut values = Vec::new();
        for (_, scales) in pieces {
            match scales {
                Scales::Blocks { side: other, values: more } if other == side => values.extend(more),
                _ => return None,
            }
        }
        return Some(Scales::Blocks { side: *side, values });
    }
    let mut values = Vec::new();
    for (rows, scales) in pieces {
        match scales {
            Scales::None => values.extend(std::iter::repeat_n(1.0, *rows)),
            Scales::Matrix(scale) => values.extend(std::iter::repeat_n(*scale, *rows)),
            Scales::Rows(scales) => values.extend(scales),
            Scales::Blocks { .. } => return None,
        }
    }
    Some(Scales::Rows(values))
}

impl StoredMatrix {
    /// How its numbers are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// What decoded numbers are multiplied with.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Group size of the Hadamard rotation of its rows.
    pub fn rotation(&self) -> Option<usize> {
        self.rotation
    }

    /// Bytes of its numbers, without their scales.
    pub fn bytes(&self) -> usize {
        self.runs.iter().map(Bytes::len).sum()
    }

    /// Its numbers into memory of [`bytes`](Self::bytes). Numbers of a file are read by calls of the system, so that what
    /// happens to it is an error. With `check`, they are looked through for ones that are not finite.
    ///
    /// # Errors
    /// The file cannot be read or has changed, or a number is not finite.
    ///
    /// # Panics
    /// `out` has another length.
    pub fn read_into(&self, out: &mut [u8], check: bool) -> Result<()> {
        assert_eq!(out.len(), self.bytes());
        let (mut left, mut seen) = (out, 0);
        for run in &self.runs {
            let (part, rest) = left.split_at_mut(run.len());
            match MappedFile::of(run) {
                Some((file, at)) => file.read_at(at, part).map_err(WeightsError::into_candle)?,
                None => part.copy_from_slice(run),
            }
            if check && let Some(element) = first_non_finite_code(part, self.encoding) {
                return Err(Place { path: &self.path, name: &self.name, seen }.not_finite(element));
            }
            (left, seen) = (rest, seen + run.len() / self.encoding.block_bytes() * self.encoding.block());
        }
        Ok(())
    }

    /// The matrix over numbers that were [read](Self::read_into).
    ///
    /// # Errors
    /// `bytes` are not as many, or sizes contradict each other.
    pub fn matrix(&self, bytes: Bytes) -> Result<QuantMatrix> {
        QuantMatrix::new(self.encoding, self.shape, bytes, self.scales.clone(), self.rotation)
            .map_err(|e| Place { path: &self.path, name: &self.name, seen: 0 }.impossible(&e))
    }

    /// The matrix over the file's map, whose pages are let go with it.
    ///
    /// # Errors
    /// As [`matrix`](Self::matrix), or a number is not finite.
    pub fn mapped(&self) -> Result<QuantMatrix> {
        let mut seen = 0;
        for run in &self.runs {
            if let Some(element) = first_non_finite_code(run, self.encoding) {
                return Err(Place { path: &self.path, name: &self.name, seen }.not_finite(element));
            }
            seen += run.len() / self.encoding.block_bytes() * self.encoding.block();
        }
        self.matrix(match self.runs.as_slice() {
            [run] => released_after_use(run.clone()),
            runs => Bytes::from(runs.concat()),
        })
    }

    /// Whether it is stored as floats.
    pub fn dtype(&self) -> Option<DType> {
        match self.encoding {
            Encoding::F32 => Some(DType::F32),
            Encoding::F16 => Some(DType::F16),
            Encoding::BF16 => Some(DType::BF16),
            _ => None,
        }
    }
}
