//! Runs of columns of a tensor.

use super::check_aligned;
use crate::cuda::GpuTensor;
use crate::cuda::error::{CudaError, Result};

/// Columns of a row-major tensor `[.., width]`: all of them, or one of several parts that lie behind each other.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    pub(super) tensor: &'a GpuTensor,
    pub(super) first: usize,
    pub(super) count: usize,
}

impl<'a> Columns<'a> {
    /// All columns.
    pub fn all(tensor: &'a GpuTensor) -> Self {
        Self { tensor, first: 0, count: tensor.rows().1 }
    }

    /// Columns `first..first + count`, multiples of 8.
    ///
    /// # Errors
    /// There are not so many.
    pub fn part(tensor: &'a GpuTensor, first: usize, count: usize) -> Result<Self> {
        let width = tensor.rows().1;
        match first.checked_add(count).is_some_and(|end| end <= width)
            && first.is_multiple_of(8)
            && count.is_multiple_of(8)
        {
            true => Ok(Self { tensor, first, count }),
            false => {
                let problem = format!("columns {first} to {first} + {count} of {tensor:?}; multiples of 8 are needed");
                CudaError::arguments("take columns", problem)
            }
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.tensor.rows().0
    }

    /// Numbers from row to row.
    pub(super) fn stride(&self) -> usize {
        self.tensor.rows().1
    }

    pub(super) fn address(&self) -> u64 {
        self.tensor.address() + (self.first * self.tensor.dtype().bytes()) as u64
    }

    /// The shape of a result with these columns only.
    pub(super) fn shape(&self) -> Vec<usize> {
        let mut shape = self.tensor.shape().to_vec();
        match shape.last_mut() {
            Some(last) => *last = self.count,
            None => shape.push(1),
        }
        shape
    }

    /// Whether kernels that take eight numbers at a time can read it.
    pub(super) fn check(&self, operation: &'static str) -> Result<()> {
        check_aligned(operation, self.tensor)?;
        match self.count.is_multiple_of(8) && self.stride().is_multiple_of(8) {
            true => Ok(()),
            false => CudaError::arguments(operation, format!("{} columns; a multiple of 8 is needed", self.count)),
        }
    }
}
