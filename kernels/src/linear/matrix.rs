//! What a Linear multiplies with.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use super::{TILE_ELEMENTS, float};
use crate::Compute;
use crate::quant::{QuantError, QuantMatrix};

/// A matrix `[out, in]`, f32, bf16, f16 or quantised, the numbers that the host multiplies it in, and differences that are
/// applied beside it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub(super) stored: Stored,
    pub(super) differences: Vec<Difference>,
    compute: Compute,
}

/// The matrix itself.
#[derive(Debug, Clone)]
pub(super) enum Stored {
    Float(Tensor),
    Quantised(Arc<QuantMatrix>),
    Later(Arc<dyn LaterMatrix>),
}

/// A matrix that is brought when it is multiplied with, and let go of after that.
pub trait LaterMatrix: fmt::Debug + Send + Sync {
    /// `[out, in]`.
    fn shape(&self) -> [usize; 2];

    /// Bytes that it takes while it is there.
    fn bytes(&self) -> u64;

    /// Brings it. It is not itself one that comes later.
    ///
    /// # Errors
    /// It cannot be read, or there is no room.
    fn load(&self) -> Result<Matrix>;
}

/// What is added to a matrix without changing it, say a LoRA's share. Tensors are f32, bf16 or f16.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Difference {
    /// `factor · up · down`, for the rows from `first_row` on.
    LowRank {
        /// `[rank, in]`.
        down: Tensor,
        /// `[rows, rank]`.
        up: Tensor,
        /// The first row that is changed.
        first_row: usize,
        /// By which the product is multiplied.
        factor: f64,
    },
    /// `factor · difference`.
    Whole {
        /// `[out, in]`.
        difference: Tensor,
        /// By which it is multiplied.
        factor: f64,
    },
}

impl Difference {
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        match self {
            Self::LowRank { down, up, .. } => [Some(down), Some(up)],
            Self::Whole { difference, .. } => [Some(difference), None],
        }
        .into_iter()
        .flatten()
    }

    /// Whether it can be added to a matrix of this shape.
    fn fits(&self, rows: usize, columns: usize) -> Result<bool> {
        Ok(match self {
            Self::LowRank { down, up, first_row, .. } => {
                let ((rank, inner), (outer, up_rank)) = (down.dims2()?, up.dims2()?);
                inner == columns && rank == up_rank && first_row.checked_add(outer).is_some_and(|end| end <= rows)
            }
            Self::Whole { difference, .. } => difference.dims2()? == (rows, columns),
        })
    }

    /// What is to be added to `count` rows from `first` on: the first of them that is changed, and `[.., in]` f32.
    fn rows(&self, first: usize, count: usize) -> Result<Option<(usize, Tensor)>> {
        let wide = |t: &Tensor| t.to_dtype(DType::F32);
        match self {
            Self::Whole { difference, factor } => {
                Ok(Some((first, (wide(&difference.narrow(0, first, count)?)? * *factor)?)))
            }
            Self::LowRank { down, up, first_row, factor } => {
                let from = first.max(*first_row);
                let to = (first + count).min(first_row + up.dim(0)?);
                if from >= to {
                    return Ok(None);
                }
                let up = wide(&up.narrow(0, from - first_row, to - from)?)?;
                Ok(Some((from, (up.matmul(&wide(down)?)? * *factor)?)))
            }
        }
    }
}

impl From<Tensor> for Matrix {
    fn from(tensor: Tensor) -> Self {
        Self { stored: Stored::Float(tensor), differences: Vec::new(), compute: Compute::F32 }
    }
}

impl From<QuantMatrix> for Matrix {
    fn from(matrix: QuantMatrix) -> Self {
        Self { stored: Stored::Quantised(Arc::new(matrix)), differences: Vec::new(), compute: Compute::F32 }
    }
}

impl Matrix {
    /// One that is brought when it is multiplied with.
    pub fn later(matrix: Arc<dyn LaterMatrix>) -> Self {
        Self { stored: Stored::Later(matrix), differences: Vec::new(), compute: Compute::F32 }
    }

    /// Itself with its numbers, which are brought if they are not there.
    ///
    /// # Errors
    /// As [`LaterMatrix::load`].
    pub fn now(&self) -> Result<Self> {
        let Stored::Later(later) = &self.stored else { return Ok(self.clone()) };
        let loaded = later.load()?;
        if matches!(loaded.stored, Stored::Later(_)) {
            candle_core::bail!("{later:?} gives a matrix that comes later again");
        }
        let mut differences = self.differences.iter().cloned();
        Ok(differences.try_fold(loaded, Self::with)?.with_compute(self.compute))
    }

    /// In which numbers the host multiplies with it; [`Compute::F32`] unless [`with_compute`](Self::with_compute) said otherwise.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The same, multiplied with in these numbers on the host. What is beside it is multiplied in f32 still.
    pub fn with_compute(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// `(out, in)`.
    ///
    /// # Errors
    /// It was made of a tensor that is no matrix.
    pub fn dims2(&self) -> Result<(usize, usize)> {
        match &self.stored {
            Stored::Float(tensor) => tensor.dims2(),
            Stored::Quantised(matrix) => Ok(matrix.shape().into()),
            Stored::Later(later) => Ok(later.shape().into()),
        }
    }

    /// The matrix itself if its numbers are in the host's memory as they are stored, without differences.
    pub fn quantised(&self) -> Option<&QuantMatrix> {
        match &self.stored {
            Stored::Quantised(matrix) => Some(matrix),
            Stored::Float(_) | Stored::Later(_) => None,
        }
    }

    /// The matrix itself if it is a tensor of floats, without differences.
    pub fn float(&self) -> Option<&Tensor> {
        match &self.stored {
            Stored::Float(tensor) => Some(tensor),
            Stored::Quantised(_) | Stored::Later(_) => None,
        }
    }

    /// What is applied beside it, in order.
    pub fn differences(&self) -> &[Difference] {
        &self.differences
    }

    /// The same with one more difference beside it.
    ///
    /// # Errors
    /// The difference is none of a matrix of this shape.
    pub fn with(mut self, difference: Difference) -> Result<Self> {
        let (rows, columns) = self.dims2()?;
        if !difference.fits(rows, columns)? {
            let shapes: Vec<&[usize]> = difference.tensors().map(Tensor::dims).collect();
            candle_core::bail!("linear: a difference of {shapes:?} does not fit a matrix of [{rows}, {columns}]");
        }
        self.differences.push(difference);
        Ok(self)
    }

    /// Bytes that it takes, scales and differences included.
    pub fn stored_bytes(&self) -> u64 {
        let of = |t: &Tensor| (t.elem_count() * t.dtype().size_in_bytes()) as u64;
        let own = match &self.stored {
            Stored::Float(tensor) => of(tensor),
            Stored::Quantised(matrix) => matrix.stored_bytes(),
            Stored::Later(later) => later.bytes(),
        };
        own + self.differences.iter().flat_map(Difference::tensors).map(of).sum::<u64>()
    }

    /// All of it as `dtype`, differences added in f32 and rounded once.
    ///
    /// # Errors
    /// It is no matrix, or the device fails.
    pub fn to_tensor(&self, dtype: DType) -> Result<Tensor> {
        match (&self.stored, self.differences.as_slice()) {
            (Stored::Float(tensor), []) => tensor.to_dtype(dtype),
            (Stored::Later(_), _) => self.now()?.to_tensor(dtype),
            _ => {
                let (rows, columns) = self.dims2()?;
                let out = Tensor::zeros((rows, columns), dtype, &self.device())?;
                let step = (TILE_ELEMENTS / columns.max(1)).max(1);
                for first in (0..rows).step_by(step) {
                    let tile = self.rows(first, step.min(rows - first))?;
                    out.slice_set(&tile.to_dtype(dtype)?.contiguous()?, 0, first)?;
                }
                Ok(out)
            }
        }
    }

    /// The rows of these indices, as from an embedding table, `[ids, in]` f32. Only they are decoded.
    ///
    /// # Errors
    /// There is no such row.
    pub fn select(&self, ids: &[u32]) -> Result<Tensor> {
        let (rows, columns) = self.dims2()?;
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            candle_core::bail!("row {id} of a matrix of {rows} rows");
        }
        match (&self.stored, self.differences.as_slice()) {
            (Stored::Float(tensor), []) => {
                tensor.index_select(&Tensor::new(ids, tensor.device())?, 0)?.to_dtype(DType::F32)
            }
            (Stored::Later(_), _) => self.now()?.select(ids),
            _ => {
                let found = ids.iter().map(|id| self.rows(*id as usize, 1)).collect::<Result<Vec<_>>>()?;
                if found.is_empty() {
                    return Tensor::zeros((0, columns), DType::F32, &self.device());
                }
                Tensor::cat(&found, 0)
            }
        }
    }

    fn device(&self) -> Device {
        match &self.stored {
            Stored::Float(tensor) => tensor.device().clone(),
            Stored::Quantised(_) | Stored::Later(_) => Device::Cpu,
        }
    }

    /// `count` rows from `first` on with their differences, `[count, in]` f32.
    fn rows(&self, first: usize, count: usize) -> Result<Tensor> {
        let mut tile = match &self.stored {
            Stored::Float(tensor) => tensor.narrow(0, first, count)?.to_dtype(DType::F32)?,
            Stored::Quantised(matrix) => decoded(matrix, first, count)?,
            Stored::Later(_) => return self.now()?.rows(first, count),
        };
        for difference in &self.differences {
            let Some((from, rows)) = difference.rows(first, count)? else { continue };
            tile = float::add_at(&tile, &rows, 0, from - first)?;
        }
        Ok(tile)
    }
}

/// Rows of a quantised matrix, f32 on the host.
pub(super) fn decoded(matrix: &QuantMatrix, first: usize, count: usize) -> Result<Tensor> {
    let [_, columns] = matrix.shape();
    let mut values = vec![0.0; count * columns];
    matrix.decode_rows(first, count, &mut values).map_err(QuantError::into_candle)?;
    Tensor::from_vec(values, (count, columns), &Device::Cpu)
}
