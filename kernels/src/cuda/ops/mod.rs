//! One function for each family of kernels: it checks shapes, makes room for the result, and gives the compute stream the call.
//!
//! Nothing here waits for the GPU. Floats are bf16 unless said otherwise, sums and statistics f32. Each kernel does what the
//! `reference` of its name in this crate says.

mod attention;

use super::error::{CudaError, Result};
use super::{GpuDtype, GpuTensor};

pub use attention::{Heads, attention};

/// A number that kernels take as 32 bits.
fn int(operation: &'static str, n: usize) -> Result<i32> {
    i32::try_from(n).or_else(|_| CudaError::arguments(operation, format!("{n} is more than kernels count to")))
}

/// As [`int`], for grids.
fn blocks(operation: &'static str, n: usize) -> Result<u32> {
    Ok(int(operation, n)?.unsigned_abs())
}

/// Whether a tensor is of one of these kinds.
fn check_dtype(operation: &'static str, tensor: &GpuTensor, allowed: &[GpuDtype]) -> Result<()> {
    match allowed.contains(&tensor.dtype()) {
        true => Ok(()),
        false => CudaError::arguments(operation, format!("{tensor:?} where {allowed:?} is needed")),
    }
}
