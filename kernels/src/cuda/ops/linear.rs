//! `y = residual + gate·activation(x·Wᵀ + b)` with weights in the form they are stored in.

use super::{
    Activation, Columns, Rounded, RowOutput, RowWork, address_of, blocks, check_aligned, check_dtype, dequantise,
    gated_add_in_place, int, map, rows,
};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{Capability, CudaError, Result};
use crate::cuda::tensor_map::{TensorMap, Tiles};
use crate::cuda::{Gpu, GpuDifference, GpuDtype, GpuMatrix, GpuScales, GpuTensor};
use crate::quant::Encoding;

const NAME: &str = "linear";

/// What [`linear`] does with the product. What is there is done in this order.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Added, `[out]` f32.
    pub bias: Option<&'a GpuTensor>,
    /// Then this, one of the first three.
    pub activation: Activation,
    /// Multiplied with, `[.., out]` f32: as many rows as divide those of `x`, each for as many neighbours.
    pub gate: Option<&'a GpuTensor>,
    /// Added, of the result's shape and kind. It may be what the result is written over.
    pub residual: Option<&'a GpuTensor>,
    /// What the result is: f32 or bf16.
    pub output: GpuDtype,
}

impl Default for Terms<'_> {
    /// The product as bf16.
    fn default() -> Self {
        Self { bias: None, activation: Activation::None, gate: None, residual: None, output: GpuDtype::Bf16 }
    }
}

/// What a matrix is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InputForm {
    /// What numbers are.
    pub output: RowOutput,
    /// Whether rows are rotated as the matrix is.
    pub rotate: bool,
    /// Whether bf16 is needed beside 8 bits, for what is added to the matrix.
    pub plain: bool,
}

/// In which numbers a matrix is multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Bf16,
    Int8,
    E4m3,
    /// In bf16, to which it is decoded some rows at a time.
    Decoded,
}

impl Way {
    fn of(gpu: &Gpu, weight: &GpuMatrix) -> Result<Self> {
        if !matches!(weight.rotation(), None | Some(256)) {
            let group = weight.rotation().unwrap_or_default();
            return CudaError::arguments(NAME, format!("a matrix rotated in groups of {group}; 256 is possible"));
        }
        let blocks = matches!(weight.scales(), GpuScales::Blocks { .. });
        Ok(match weight.encoding() {
            Encoding::BF16 => Self::Bf16,
            _ if weight.takes_bf16() => Self::Decoded,
            Encoding::I8 if !blocks => Self::Int8,
            Encoding::F8E4M3 if !blocks && gpu.level() >= Capability(8, 9) => Self::E4m3,
            _ => Self::Decoded,
        })
    }
}

/// How inputs are to be rounded for a matrix on this GPU, so that who makes them can do it at once.
///
/// # Errors
/// The matrix is rotated in groups other than of 256.
pub fn input_form(gpu: &Gpu, weight: &GpuMatrix) -> Result<InputForm> {
    let output = match Way::of(gpu, weight)? {
        Way::Bf16 | Way::Decoded => RowOutput::Bf16,
        Way::Int8 => RowOutput::Int8,
        Way::E4m3 => RowOutput::E4m3,
    };
    let rotate = weight.rotation().is_some();
    let plain = (output != RowOutput::Bf16 || rotate) && !weight.differences().is_empty();
    Ok(InputForm { output, rotate, plain })
}

/// `x` `[.., in]` f32 or bf16, `weight` `[out, in]` → `[.., out]`. `x` is rounded to what the matrix is multiplied with: bf16, or 8
/// bits with a scale a row. `in` is a multiple of 8, of 16 for matrices of 8 bits.
///
/// # Errors
/// Shapes that do not fit, a rotation that there is no kernel for, or there is no room.
pub fn linear(gpu: &Gpu, x: &GpuTensor, weight: &GpuMatrix, terms: &Terms) -> Result<GpuTensor> {
    let form = input_form(gpu, weight)?;
    if form.output == RowOutput::Bf16 && !form.rotate && x.dtype() == GpuDtype::Bf16 {
        return product(gpu, x, None, x, weight, terms);
    }
    let work = RowWork { output: form.output, rotate: form.rotate, plain: form.plain, ..RowWork::default() };
    linear_rounded(gpu, &rows(gpu, Columns::all(x), &work)?, weight, terms)
}

/// As [`linear`], with inputs that have the matrix's [`input_form`].
///
/// # Errors
/// As there, and inputs of another form.
pub fn linear_rounded(gpu: &Gpu, x: &Rounded, weight: &GpuMatrix, terms: &Terms) -> Result<GpuTensor> {
    let form = input_form(gpu, weight)?;
    let plain = x.plain.as_ref().unwrap_or(&x.values);
    if x.values.dtype() != form.output.dtype() || (form.plain && x.plain.is_none()) {
        return CudaError::arguments(NAME, format!("inputs {x:?}; {form:?} is needed"));
    }
    product(gpu, &x.values, x.scales.as_ref(), plain, weight, terms)
}

fn product(
    gpu: &Gpu,
    x: &GpuTensor,
    x_scale: Option<&GpuTensor>,
    plain: &GpuTensor,
    weight: &GpuMatrix,
    terms: &Terms,
) -> Result<GpuTensor> {
    let [out, inner] = weight.shape();
    let mut shape = x.shape().to_vec();
    match shape.last_mut() {
        Some(last) if *last == inner => *last = out,
        _ => return CudaError::arguments(NAME, format!("{x:?} where rows of {inner} are needed")),
    }
    if weight.differences().is_empty() {
        let y = GpuTensor::empty(gpu, &shape, terms.output)?;
        multiply(gpu, (x, x_scale), weight, terms, &y)?;
        return Ok(y);
    }
    // What is beside the matrix is added in f32 before anything else is done.
    let sum = GpuTensor::empty(gpu, &shape, GpuDtype::F32)?;
    let first = Terms { bias: terms.bias, output: GpuDtype::F32, ..Terms::default() };
    multiply(gpu, (x, x_scale), weight, &first, &sum)?;
    for difference in weight.differences() {
        add_difference(gpu, plain, difference, &sum)?;
    }
    let y = map(gpu, &sum, terms.activation, GpuDtype::F32)?;
    match (terms.residual, terms.gate) {
        (None, None) => map(gpu, &y, Activation::None, terms.output),
        (residual, gate) => {
            let zero;
            let residual = match residual {
                Some(residual) => residual,
                None => {
                    zero = GpuTensor::zeros(gpu, &shape, terms.output)?;
                    &zero
                }
            };
            let result = map(gpu, residual, Activation::None, terms.output)?;
            gated_add_in_place(gpu, &result, &y, gate)?;
            Ok(result)
        }
    }
}

/// The matrix itself with inputs and their scales.
fn multiply(
    gpu: &Gpu,
    (x, x_scale): (&GpuTensor, Option<&GpuTensor>),
    weight: &GpuMatrix,
    terms: &Terms,
    y: &GpuTensor,
) -> Result<()> {
    let [columns, inner] = weight.shape();
    let w_scale = match weight.scales() {
        GpuScales::Rows(scales) => Some(scales),
        GpuScales::None | GpuScales::Blocks { .. } => None,
    };
    let stored = Factors { kernel: &BF16, x, x_scale, w: weight.bytes(), w_scale, columns, inner };
    match Way::of(gpu, weight)? {
        Way::Bf16 => gemm(gpu, &stored, terms, y, 0),
        Way::Int8 => gemm(gpu, &Factors { kernel: &INT8, ..stored }, terms, y, 0),
        Way::E4m3 => gemm(gpu, &Factors { kernel: &E4M3, ..stored }, terms, y, 0),
        Way::Decoded => {
            let step = decoded_rows(inner);
            for first in (0..columns).step_by(step) {
                let w = &dequantise(gpu, weight, first, step.min(columns - first))?;
                gemm(gpu, &Factors { w, w_scale: None, columns: w.rows().0, ..stored }, terms, y, first)?;
            }
            Ok(())
        }
    }
}

/// Rows of a matrix that are decoded at a time.
fn decoded_rows(inner: usize) -> usize {
    /// What stays in the second-level cache of large GPUs, and keeps all of them busy.
    const DECODED_BYTES: usize = 32 << 20;
    (DECODED_BYTES / (2 * inner.max(1))).max(1).next_multiple_of(TILE)
}

/// Bytes that rows of a matrix `[out, in]` take while it is multiplied with, if it is decoded.
pub fn decoded_bytes([out, inner]: [usize; 2]) -> u64 {
    2 * inner as u64 * out.min(decoded_rows(inner)) as u64
}

/// Adds what a difference makes of `x` `[.., in]` bf16 to `sum` `[.., out]` f32.
fn add_difference(gpu: &Gpu, x: &GpuTensor, difference: &GpuDifference, sum: &GpuTensor) -> Result<()> {
    let (count, inner) = x.rows();
    let add = Terms { residual: Some(sum), output: GpuDtype::F32, ..Terms::default() };
    let of = |x, w, columns, inner| Factors { kernel: &BF16, x, x_scale: None, w, w_scale: None, columns, inner };
    match difference {
        GpuDifference::Whole { difference } => gemm(gpu, &of(x, difference, sum.rows().1, inner), &add, sum, 0),
        GpuDifference::LowRank { down, up, first_row } => {
            let rank = down.rows().0;
            let middle = GpuTensor::empty(gpu, &[count, rank], GpuDtype::Bf16)?;
            gemm(gpu, &of(x, down, rank, inner), &Terms::default(), &middle, 0)?;
            gemm(gpu, &of(&middle, up, up.rows().0, rank), &add, sum, *first_row)
        }
    }
}

/// Kernels for one form of numbers.
struct Product {
    /// For all GPUs.
    name: &'static str,
    /// For Hopper.
    hopper: &'static str,
    /// Rows and columns of a block's results there.
    hopper_tile: [usize; 2],
}

const BF16: Product = Product { name: "sd_gemm_bf16", hopper: "sd_gemm_sm90_bf16", hopper_tile: [128, 256] };
const INT8: Product = Product { name: "sd_gemm_int8", hopper: "sd_gemm_sm90_int8", hopper_tile: [128, 256] };
const E4M3: Product = Product { name: "sd_gemm_e4m3", hopper: "sd_gemm_sm90_e4m3", hopper_tile: [256, 128] };

/// What is multiplied.
#[derive(Clone, Copy)]
struct Factors<'a> {
    kernel: &'static Product,
    x: &'a GpuTensor,
    x_scale: Option<&'a GpuTensor>,
    w: &'a GpuTensor,
    w_scale: Option<&'a GpuTensor>,
    /// Rows of `w`: columns of the result.
    columns: usize,
    inner: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GemmParams {
    x: u64,
    w: u64,
    y: u64,
    x_scale: u64,
    w_scale: u64,
    bias: u64,
    gate: u64,
    residual: u64,
    x_stride: i64,
    w_stride: i64,
    y_stride: i64,
    gate_stride: i64,
    rows_of_gate: i32,
    m: i32,
    n: i32,
    k: i32,
    activation: i32,
    y_is_f32: i32,
}

// SAFETY: as in gemm.cuh.
unsafe impl Params for GemmParams {}

#[repr(C)]
#[derive(Clone, Copy)]
struct GemmSm90Params {
    x: TensorMap,
    w: TensorMap,
    product: GemmParams,
}

// SAFETY: as in gemm_sm90.cu.
unsafe impl Params for GemmSm90Params {}

/// Rows and columns of a block's results.
const TILE: usize = 128;

/// Gives the compute stream a product into columns of `y` from `first` on; the terms are those of all columns.
fn gemm(gpu: &Gpu, factors: &Factors, terms: &Terms, y: &GpuTensor, first: usize) -> Result<()> {
    let Factors { kernel, x, x_scale, w, w_scale, columns, inner } = *factors;
    let wrong = |problem: String| CudaError::arguments(NAME, problem);
    let ((count, _), (y_count, width)) = (x.rows(), y.rows());
    let step = if x.dtype() == GpuDtype::Bf16 { 8 } else { 16 };
    if !inner.is_multiple_of(step) || inner == 0 {
        return wrong(format!("{inner} inputs; a multiple of {step} is needed"));
    }
    check_dtype(NAME, y, &[GpuDtype::F32, GpuDtype::Bf16])?;
    for tensor in [x, w] {
        check_aligned(NAME, tensor)?;
    }
    // Pairs and chunks of results are stored at once.
    check_aligned(NAME, y)?;
    if !matches!(terms.activation, Activation::None | Activation::GeluTanh | Activation::Silu) {
        return wrong(format!("{:?} of a product; map does it", terms.activation));
    }
    if y_count != count
        || first + columns > width
        || (!first.is_multiple_of(8) && width.is_multiple_of(8))
        || terms.output != y.dtype()
    {
        return wrong(format!("columns {first} to {first} + {columns} of {y:?} from {x:?}"));
    }
    for (vector, length) in [(terms.bias, width), (w_scale, columns), (x_scale, count)] {
        if let Some(vector) = vector {
            check_dtype(NAME, vector, &[GpuDtype::F32])?;
            if vector.elements() != length {
                return wrong(format!("{vector:?} where {length} numbers are needed"));
            }
        }
    }
    let mut gates = 1;
    if let Some(gate) = terms.gate {
        check_dtype(NAME, gate, &[GpuDtype::F32])?;
        gates = gate.rows().0;
        if gate.rows().1 != width || gates == 0 || !count.is_multiple_of(gates) {
            return wrong(format!("gate {gate:?} for {y:?}"));
        }
    }
    if let Some(residual) = terms.residual
        && (residual.shape() != y.shape() || residual.dtype() != y.dtype())
    {
        return wrong(format!("residual {residual:?} for {y:?}"));
    }
    if count == 0 || columns == 0 {
        return Ok(());
    }
    let offset = (first * y.dtype().bytes()) as u64;
    let vector = |t: Option<&GpuTensor>| t.map_or(0, |t| t.address() + 4 * first as u64);
    let params = GemmParams {
        x: x.address(),
        w: w.address(),
        y: y.address() + offset,
        x_scale: address_of(x_scale),
        w_scale: address_of(w_scale),
        bias: vector(terms.bias),
        gate: vector(terms.gate),
        residual: terms.residual.map_or(0, |r| r.address() + offset),
        x_stride: inner as i64,
        w_stride: inner as i64,
        y_stride: width as i64,
        gate_stride: width as i64,
        rows_of_gate: int(NAME, count / gates)?,
        m: int(NAME, count)?,
        n: int(NAME, columns)?,
        k: int(NAME, inner)?,
        activation: terms.activation as i32,
        y_is_f32: i32::from(y.dtype() == GpuDtype::F32),
    };
    if gpu.is_hopper() {
        let [rows, across] = kernel.hopper_tile;
        let width = x.dtype().bytes();
        let map = |tensor: &GpuTensor, count, tile| {
            gpu.tensor_map(&Tiles {
                address: tensor.address(),
                dtype: x.dtype(),
                dims: &[inner, count],
                strides: &[inner * width],
                tile: &[(128 / width) as u32, tile],
            })
        };
        let params =
            GemmSm90Params { x: map(x, count, rows as u32)?, w: map(w, columns, across as u32)?, product: params };
        let tiles = count.div_ceil(rows) * columns.div_ceil(across);
        let at_once = tiles.min(gpu.facts().multiprocessors.max(1) as usize);
        let launch = Launch { shared_bytes: 196_672, ..Launch::row(kernel.hopper, blocks(NAME, at_once)?, 384) };
        // SAFETY: the maps are of the tensors, all sizes are theirs, and they are alive now.
        return unsafe { gpu.launch(&launch, &params) };
    }
    let tiles = blocks(NAME, count.div_ceil(TILE) * columns.div_ceil(TILE))?;
    let launch = Launch { shared_bytes: 49_152, ..Launch::row(kernel.name, tiles, 128) };
    // SAFETY: all sizes are those of the tensors, which are alive now.
    unsafe { gpu.launch(&launch, &params) }
}
