//! Stored matrices as bf16.

use super::{blocks, check_aligned, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::{Gpu, GpuDtype, GpuMatrix, GpuScales, GpuTensor};
use crate::quant::Encoding;

const NAME: &str = "decode a matrix";
const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct DequantiseParams {
    w: u64,
    y: u64,
    scale: u64,
    row_bytes: i64,
    y_stride: i64,
    rows: i32,
    columns: i32,
    first_row: i32,
    block_side: i32,
    factor: f32,
}

// SAFETY: as in dequantise.cu.
unsafe impl Params for DequantiseParams {}

/// Rows `first..first + count` of a matrix as bf16 `[count, in]`, rotated as it is stored and without what is beside it. `in` is a
/// multiple of 8.
///
/// # Errors
/// There are not so many rows, or there is no room.
pub fn dequantise(gpu: &Gpu, matrix: &GpuMatrix, first: usize, count: usize) -> Result<GpuTensor> {
    let [rows, columns] = matrix.shape();
    let row_bytes = matrix.encoding().row_bytes(columns);
    let fits = first.checked_add(count).is_some_and(|end| end <= rows) && columns % 8 == 0;
    let Some(row_bytes) = row_bytes.filter(|_| fits) else {
        let problem = format!("{count} rows from {first} on of [{rows}, {columns}]; a multiple of 8 columns is needed");
        return CudaError::arguments(NAME, problem);
    };
    let Some(kernel) = kernel(matrix.encoding()) else {
        return CudaError::arguments(NAME, format!("{} is computed with as it is", matrix.encoding()));
    };
    let y = GpuTensor::empty(gpu, &[count, columns], GpuDtype::Bf16)?;
    if y.elements() == 0 {
        return Ok(y);
    }
    check_aligned(NAME, matrix.bytes())?;
    let (scale, block_side) = match matrix.scales() {
        GpuScales::None => (0, 0),
        GpuScales::Rows(scales) => (scales.narrow(first, count)?.address(), 0),
        GpuScales::Blocks { side, values } => (values.address(), *side),
    };
    let params = DequantiseParams {
        w: matrix.bytes().address() + (first * row_bytes) as u64,
        y: y.address(),
        scale,
        row_bytes: row_bytes as i64,
        y_stride: columns as i64,
        rows: int(NAME, count)?,
        columns: int(NAME, columns)?,
        first_row: int(NAME, first)?,
        block_side: int(NAME, block_side)?,
        factor: 1.0,
    };
    let launch = Launch::row(kernel, blocks(NAME, (y.elements() / 8).div_ceil(THREADS as usize))?, THREADS);
    // SAFETY: rows and scales are within the matrix, the result is as large as they are, and all are alive now.
    unsafe { gpu.launch(&launch, &params) }?;
    Ok(y)
}

fn kernel(encoding: Encoding) -> Option<&'static str> {
    Some(match encoding {
        Encoding::BF16 => return None,
        Encoding::F32 => "sd_dequantise_f32",
        Encoding::F16 => "sd_dequantise_f16",
        Encoding::F8E4M3 => "sd_dequantise_f8_e4m3",
        Encoding::F8E5M2 => "sd_dequantise_f8_e5m2",
        Encoding::I8 => "sd_dequantise_i8",
        Encoding::Q8_0 => "sd_dequantise_q8_0",
        Encoding::Q4_0 => "sd_dequantise_q4_0",
        Encoding::Q4_1 => "sd_dequantise_q4_1",
        Encoding::Q5_0 => "sd_dequantise_q5_0",
        Encoding::Q5_1 => "sd_dequantise_q5_1",
        Encoding::Q2K => "sd_dequantise_q2_k",
        Encoding::Q3K => "sd_dequantise_q3_k",
        Encoding::Q4K => "sd_dequantise_q4_k",
        Encoding::Q5K => "sd_dequantise_q5_k",
        Encoding::Q6K => "sd_dequantise_q6_k",
        Encoding::Iq4Nl => "sd_dequantise_iq4_nl",
        Encoding::Iq4Xs => "sd_dequantise_iq4_xs",
    })
}
