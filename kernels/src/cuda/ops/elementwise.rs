//! What is done with every number by itself.

use super::{Columns, address_of, blocks, check_aligned, check_dtype, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

const THREADS: u32 = 256;
/// Numbers of a block: eight a thread.
const NUMBERS: usize = 8 * THREADS as usize;
const FLOATS: [GpuDtype; 2] = [GpuDtype::F32, GpuDtype::Bf16];

#[repr(C)]
#[derive(Clone, Copy)]
struct GatedAddParams {
    x: u64,
    y: u64,
    gate: u64,
    gate_stride: i64,
    rows_of_gate: i32,
    rows: i32,
    columns: i32,
    y_is_f32: i32,
}

// SAFETY: as in elementwise.cu.
unsafe impl Params for GatedAddParams {}

/// `x + y·gate` in the place of `x`, also for whoever else has it. `x` and `y` f32 or bf16 of one shape `[.., columns]`, columns
/// a multiple of 8; `gate` f32 `[.., columns]`, as many rows as divide those of `x`, each for as many neighbours; `None` for 1.
///
/// # Errors
/// Shapes that do not fit.
pub fn gated_add_in_place(gpu: &Gpu, x: &GpuTensor, y: &GpuTensor, gate: Option<&GpuTensor>) -> Result<()> {
    const NAME: &str = "add";
    for tensor in [x, y] {
        check_dtype(NAME, tensor, &FLOATS)?;
        check_aligned(NAME, tensor)?;
    }
    let (rows, columns) = x.rows();
    if x.shape() != y.shape() || columns % 8 != 0 {
        return CudaError::arguments(NAME, format!("{y:?} to {x:?}; one shape and a multiple of 8 columns are needed"));
    }
    if x.elements() == 0 {
        return Ok(());
    }
    let mut gates = 1;
    if let Some(gate) = gate {
        check_dtype(NAME, gate, &[GpuDtype::F32])?;
        check_aligned(NAME, gate)?;
        let (count, width) = gate.rows();
        if width != columns || count == 0 || rows % count != 0 {
            return CudaError::arguments(NAME, format!("gate {gate:?} for {x:?}"));
        }
        gates = count;
    }
    let params = GatedAddParams {
        x: x.address(),
        y: y.address(),
        gate: address_of(gate),
        gate_stride: columns as i64,
        rows_of_gate: int(NAME, rows / gates)?,
        rows: int(NAME, rows)?,
        columns: int(NAME, columns)?,
        y_is_f32: i32::from(y.dtype() == GpuDtype::F32),
    };
    let kernel = if x.dtype() == GpuDtype::F32 { "sd_gated_add_f32" } else { "sd_gated_add_bf16" };
    let launch = Launch::row(kernel, blocks(NAME, x.elements().div_ceil(NUMBERS))?, THREADS);
    // SAFETY: as many numbers as are counted, and all are alive now.
    unsafe { gpu.launch(&launch, &params) }
}

/// What [`map`] does with a number. The last two are not among what a [`linear`](super::linear) does with its product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing, but that it is rounded.
    None,
    /// GELU with the approximation by tanh.
    GeluTanh,
    /// `x·sigmoid(x)`.
    Silu,
    /// GELU by the error function.
    GeluErf,
    /// `x·sigmoid(1.702·x)`.
    GeluQuick,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MapParams {
    x: u64,
    y: u64,
    n: i64,
    operation: i32,
}

// SAFETY: as in elementwise.cu.
unsafe impl Params for MapParams {}

/// `activation(x)`, f32 or bf16 → f32 or bf16 of the same shape.
///
/// # Errors
/// Other numbers, or there is no room.
pub fn map(gpu: &Gpu, x: &GpuTensor, activation: Activation, dtype: GpuDtype) -> Result<GpuTensor> {
    const NAME: &str = "activate";
    check_dtype(NAME, x, &FLOATS)?;
    check_aligned(NAME, x)?;
    let y = GpuTensor::empty(gpu, x.shape(), dtype)?;
    check_dtype(NAME, &y, &FLOATS)?;
    let kernel = match (x.dtype(), dtype) {
        (GpuDtype::F32, GpuDtype::F32) => "sd_map_f32_f32",
        (GpuDtype::F32, _) => "sd_map_f32_bf16",
        (_, GpuDtype::F32) => "sd_map_bf16_f32",
        _ => "sd_map_bf16_bf16",
    };
    if x.elements() > 0 {
        let params = MapParams { x: x.address(), y: y.address(), n: x.elements() as i64, operation: activation as i32 };
        let launch = Launch::row(kernel, blocks(NAME, x.elements().div_ceil(NUMBERS))?, THREADS);
        // SAFETY: both have as many numbers, and are alive now.
        unsafe { gpu.launch(&launch, &params) }?;
    }
    Ok(y)
}

/// The same numbers, rounded to `dtype`.
///
/// # Errors
/// As [`map`].
pub fn convert(gpu: &Gpu, x: &GpuTensor, dtype: GpuDtype) -> Result<GpuTensor> {
    map(gpu, x, Activation::None, dtype)
}

/// `activation(x)` in the place of bf16 `x`: also for whoever else has it.
///
/// # Errors
/// Other numbers.
pub fn map_in_place(gpu: &Gpu, x: &GpuTensor, activation: Activation) -> Result<()> {
    const NAME: &str = "activate";
    check_dtype(NAME, x, &[GpuDtype::Bf16])?;
    check_aligned(NAME, x)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let params = MapParams { x: x.address(), y: x.address(), n: x.elements() as i64, operation: activation as i32 };
    let launch = Launch::row("sd_map_bf16_bf16", blocks(NAME, x.elements().div_ceil(NUMBERS))?, THREADS);
    // SAFETY: as many numbers as are counted, and they are alive now.
    unsafe { gpu.launch(&launch, &params) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GluParams {
    x: u64,
    gated: u64,
    y: u64,
    x_stride: i64,
    gated_stride: i64,
    y_stride: i64,
    rows: i32,
    columns: i32,
    operation: i32,
}

// SAFETY: as in elementwise.cu.
unsafe impl Params for GluParams {}

/// `activation(x)·gated` in the place of `x`: also for whoever else has it. Both bf16 columns of as many rows.
///
/// # Errors
/// Shapes that do not fit, or columns that are no multiple of 8.
pub fn glu_in_place(gpu: &Gpu, x: Columns, gated: Columns, activation: Activation) -> Result<()> {
    const NAME: &str = "gate";
    for columns in [&x, &gated] {
        check_dtype(NAME, columns.tensor, &[GpuDtype::Bf16])?;
        columns.check(NAME)?;
    }
    if (x.rows(), x.count) != (gated.rows(), gated.count) {
        return CudaError::arguments(NAME, format!("{x:?} with {gated:?}"));
    }
    let numbers = x.rows() * x.count;
    if numbers == 0 {
        return Ok(());
    }
    let params = GluParams {
        x: x.address(),
        gated: gated.address(),
        y: x.address(),
        x_stride: x.stride() as i64,
        gated_stride: gated.stride() as i64,
        y_stride: x.stride() as i64,
        rows: int(NAME, x.rows())?,
        columns: int(NAME, x.count)?,
        operation: activation as i32,
    };
    let launch = Launch::row("sd_glu_bf16", blocks(NAME, numbers.div_ceil(NUMBERS))?, THREADS);
    // SAFETY: the columns are within their tensors, of as many rows, and alive now.
    unsafe { gpu.launch(&launch, &params) }
}
