//! Single rows of a stored matrix, as of an embedding table of gigabytes of which a prompt needs some hundred rows.

use candle_core::{DType, Device, Result, Tensor};

use super::decode::decode;
use super::entry::{Part, Share, StoredScales};
use super::load::{Place, floats, quantised_part};
use super::{Checkpoint, StoredType};

impl Checkpoint {
    /// The rows `ids` of the matrix `name` of `shape` `[rows, columns]`, rounded to `dtype` if that is given, `[ids, columns]`
    /// f32 on the host. No other row is read, or looked at for values that are not finite. `None` for a matrix that was joined
    /// from pieces or is stored column by column: then it is to be [loaded](Self::load).
    ///
    /// # Errors
    /// Unknown name, other shape, no such row, or a value or scale in it that is not finite.
    pub fn rows(&self, name: &str, shape: &[usize], ids: &[u32], dtype: Option<DType>) -> Result<Option<Tensor>> {
        let entry = self.fitting(name, shape)?;
        let (&[rows, columns], [part]) = (shape, entry.parts.as_slice()) else { return Ok(None) };
        let Some(row_bytes) = part.row_bytes(columns).filter(|_| part.strides.is_none()) else { return Ok(None) };
        let mut found = Vec::with_capacity(ids.len());
        for id in ids.iter().map(|id| *id as usize) {
            if id >= rows || (id + 1) * row_bytes > part.bytes.len() {
                candle_core::bail!("{}: row {id} of {name}, which has {rows} rows", self.path.display());
            }
            let place = Place { path: &self.path, name, seen: id * columns };
            let bytes = part.bytes.slice(id * row_bytes..(id + 1) * row_bytes);
            let row = Part { bytes, shape: vec![1, columns], scales: part.row_scales(id, columns), ..part.clone() };
            let row = match part.dtype {
                StoredType::Quantised(_) => {
                    decode(&quantised_part(&row, 1, columns, &place)?, DType::F32)?.reshape((1, columns))?
                }
                StoredType::Plain(_) => floats(&row, &place, dtype)?,
            };
            let row = if let Some(dtype) = dtype { row.to_dtype(dtype)? } else { row };
            found.push(row.to_dtype(DType::F32)?);
        }
        if found.is_empty() {
            return Tensor::zeros((0, columns), DType::F32, &Device::Cpu).map(Some);
        }
        Tensor::cat(&found, 0).map(Some)
    }
}

impl Part {
    /// Stored bytes of a row of `columns` numbers, if whole rows begin at whole bytes.
    fn row_bytes(&self, columns: usize) -> Option<usize> {
        match self.dtype {
            StoredType::Quantised(encoding) => encoding.row_bytes(columns),
            StoredType::Plain(dtype) => columns.checked_mul(dtype.bitsize()).filter(|n| n % 8 == 0).map(|n| n / 8),
        }
    }

    /// The scales that belong to one row.
    fn row_scales(&self, row: usize, columns: usize) -> Option<StoredScales> {
        let scales = self.scales.as_ref()?;
        let width = scales.dtype.size_in_bytes();
        let (first, count) = match scales.share {
            Share::Matrix => return Some(scales.clone()),
            Share::Row => (row, 1),
            Share::Block(side) => (row / side.max(1) * columns.div_ceil(side.max(1)), columns.div_ceil(side.max(1))),
        };
        let end = scales.bytes.len().min((first + count) * width);
        Some(StoredScales { bytes: scales.bytes.slice((first * width).min(end)..end), ..scales.clone() })
    }
}
