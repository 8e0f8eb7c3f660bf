//! Rows of tables.

use super::{blocks, check_dtype, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

const NAME: &str = "look up";
const THREADS: usize = 256;

/// Numbers of rows, in a GPU's memory.
#[derive(Debug, Clone)]
pub struct Indices {
    /// 32 bits each.
    bytes: GpuTensor,
    count: usize,
    /// Rows that a table must have.
    rows: usize,
}

impl Indices {
    /// These.
    ///
    /// # Errors
    /// There is no room.
    pub fn upload(gpu: &Gpu, indices: &[u32]) -> Result<Self> {
        let bytes: Vec<u8> = indices.iter().flat_map(|i| i.to_le_bytes()).collect();
        let rows = indices.iter().max().map_or(0, |most| *most as usize + 1);
        let bytes = GpuTensor::upload_bytes(gpu, &bytes, &[bytes.len()], GpuDtype::U8)?;
        Ok(Self { bytes, count: indices.len(), rows })
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct LookUpParams {
    x: u64,
    index: u64,
    y: u64,
    columns: i32,
    n: i32,
}

// SAFETY: as in elementwise.cu.
unsafe impl Params for LookUpParams {}

/// Rows of a table `[R, C]` f32, standing: `[C, n]` f32, of which column `i` is row `indices[i]`.
///
/// # Errors
/// The table has not so many rows, or there is no room.
pub fn look_up(gpu: &Gpu, table: &GpuTensor, indices: &Indices) -> Result<GpuTensor> {
    check_dtype(NAME, table, &[GpuDtype::F32])?;
    let &[rows, columns] = table.shape() else {
        return CudaError::arguments(NAME, format!("{table:?} where [rows, columns] is needed"));
    };
    if indices.rows > rows {
        return CudaError::arguments(NAME, format!("row {} of {table:?}", indices.rows - 1));
    }
    let y = GpuTensor::empty(gpu, &[columns, indices.count], GpuDtype::F32)?;
    if y.elements() == 0 {
        return Ok(y);
    }
    int(NAME, y.elements())?;
    let params = LookUpParams {
        x: table.address(),
        index: indices.bytes.address(),
        y: y.address(),
        columns: int(NAME, columns)?,
        n: int(NAME, indices.count)?,
    };
    let launch = Launch::row("sd_look_up", blocks(NAME, y.elements().div_ceil(THREADS))?, THREADS as u32);
    // SAFETY: every index is a row of the table, the result is as large as it is said, and all are alive now.
    unsafe { gpu.launch(&launch, &params) }?;
    Ok(y)
}
