//! From stored bytes to tensors and quantised matrices.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use kernels::quant::QuantMatrix;

use super::Checkpoint;
use super::decode::decode;
use super::entry::{Entry, Part, StoredScales, StoredType};
use super::finite::first_non_finite_code;
use super::map::released_after_use;
use super::stored::scales;
use crate::WeightsError;

impl Checkpoint {
    /// Reads one tensor as `dtype` on `device`; with `None`, floats as they are stored and quantised ones decoded to f32.
    ///
    /// `shape` may differ from the stored one as [`Entry::fits`] allows.
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
        let entry = self.fitting(name, shape)?;
        let quantised = entry.parts.iter().any(|p| matches!(p.dtype, StoredType::Quantised(_)));
        let dtype = dtype.or(quantised.then_some(DType::F32));
        let mut pieces = Vec::with_capacity(entry.parts.len());
        let mut seen = 0;
        for part in &entry.parts {
            let place = Place { path: &self.path, name, seen };
            let piece = match part.dtype {
                StoredType::Quantised(_) => {
                    let [rows, columns] = as_matrix(&part.shape);
                    decode(&quantised_part(part, rows, columns, &place)?, dtype.unwrap_or(DType::F32))
                        .map_err(|e| candle_core::Error::msg(format!("{}: tensor {name}: {e}", self.path.display())))?
                        .reshape(part.shape.as_slice())?
                }
                StoredType::Plain(_) => floats(part, &place, dtype)?,
            };
            seen += part.elements();
            pieces.push(piece);
        }
        let tensor = if pieces.len() == 1 { pieces.remove(0) } else { Tensor::cat(&pieces, 0)? };
        tensor.reshape(shape)?.to_device(device)
    }

    /// One tensor as the quantised matrix `shape` = `[rows, columns]` that it is stored as; its bytes stay in the file's
    /// map. `None` when it is stored as floats, when `shape` has not two dimensions, or when it was joined from pieces that
    /// make no one matrix: then it is to be [loaded](Self::load).
    ///
    /// # Errors
    /// Unknown name, other shape, or a value or scale that is not finite.
    pub fn matrix(&self, name: &str, shape: &[usize]) -> candle_core::Result<Option<QuantMatrix>> {
        match self.stored(name, shape)? {
            Some(stored) if stored.dtype().is_none() => stored.mapped().map(Some),
            _ => Ok(None),
        }
    }

    /// The scale that a quantised tensor's inputs are divided by where multiplications are done in 8 bits; `None` when the
    /// file has none. Not needed to multiply with decoded weights.
    ///
    /// # Errors
    /// Unknown name, or a scale that is not finite.
    pub fn input_scale(&self, name: &str) -> candle_core::Result<Option<f32>> {
        let entry = self.known(name)?;
        let place = Place { path: &self.path, name, seen: 0 };
        let Some(scales) = &entry.input_scale else { return Ok(None) };
        Ok(place.scales(scales, 0)?.first().copied())
    }

    pub(super) fn known(&self, name: &str) -> candle_core::Result<&Entry> {
        match self.entries.get(name) {
            Some(entry) => Ok(entry),
            None => candle_core::bail!("{}: tensor {name} is missing", self.path.display()),
        }
    }

    pub(super) fn fitting(&self, name: &str, shape: &[usize]) -> candle_core::Result<&Entry> {
        let entry = self.known(name)?;
        if !entry.fits(shape) {
            let (path, found) = (self.path.display(), &entry.shape);
            candle_core::bail!("{path}: tensor {name} has shape {found:?}; the network needs {shape:?}");
        }
        Ok(entry)
    }
}

/// What error messages tell.
pub(super) struct Place<'a> {
    pub path: &'a Path,
    pub name: &'a str,
    /// Elements of the tensor before this part.
    pub seen: usize,
}

impl Place<'_> {
    pub fn not_finite(&self, element: usize) -> candle_core::Error {
        let (path, name) = (self.path.to_owned(), self.name.to_owned());
        WeightsError::NotFinite { path, name, element: self.seen + element }.into_candle()
    }

    pub fn impossible(&self, error: &kernels::quant::QuantError) -> candle_core::Error {
        let problem = format!("tensor {}: {error}", self.name);
        WeightsError::damaged(self.path, problem).into_candle()
    }

    /// The scales as f32; `stride` is how many elements lie between the first elements of two of them.
    pub fn scales(&self, scales: &StoredScales, stride: usize) -> candle_core::Result<Vec<f32>> {
        let raw = scales.bytes.as_ref();
        let values: Vec<f32> = match scales.dtype {
            DType::F16 => raw.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            DType::BF16 => raw.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            DType::F64 => raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            _ => raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        match values.iter().position(|v| !v.is_finite()) {
            Some(i) => Err(self.not_finite(i * stride)),
            None => Ok(values),
        }
    }
}

/// The matrix that a tensor of any rank is when its first dimension are the rows; one row below rank 2.
pub(super) fn as_matrix(shape: &[usize]) -> [usize; 2] {
    match shape {
        [] => [1, 1],
        [columns] => [1, *columns],
        [rows, rest @ ..] => [*rows, rest.iter().product()],
    }
}

pub(super) fn quantised_part(
    part: &Part,
    rows: usize,
    columns: usize,
    place: &Place,
) -> candle_core::Result<QuantMatrix> {
    let StoredType::Quantised(encoding) = part.dtype else {
        candle_core::bail!("tensor {} is stored as {}, not as a quantised matrix", place.name, part.dtype);
    };
    let bytes = released_after_use(part.row_major());
    if let Some(element) = first_non_finite_code(&bytes, encoding) {
        return Err(place.not_finite(element));
    }
    QuantMatrix::new(encoding, [rows, columns], bytes, scales(part, columns, place)?, part.rotation)
        .map_err(|e| place.impossible(&e))
}

pub(super) fn floats(part: &Part, place: &Place, dtype: Option<DType>) -> candle_core::Result<Tensor> {
    let stored = part.dtype.float().ok_or_else(|| {
        let (path, name) = (place.path.to_owned(), place.name.to_owned());
        WeightsError::DType { path, name, dtype: part.dtype.to_string() }.into_candle()
    })?;
    let raw = part.row_major();
    super::floats::floats(&raw, stored, dtype.unwrap_or(stored), &part.shape).map_err(|e| match e {
        Ok(element) => place.not_finite(element),
        Err(error) => error,
    })
}
