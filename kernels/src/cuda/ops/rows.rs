//! What is done with whole rows: normalised, modulated, rotated by position, rounded to 8 bits.

use super::{Columns, address_of, blocks, check_aligned, check_dtype, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

const NAME: &str = "normalise rows";
const THREADS: u32 = 128;

/// What a row is divided by.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Norm {
    /// Nothing.
    #[default]
    None,
    /// `(x − mean)/√(var + eps)`.
    Layer {
        /// Above 0.
        eps: f32,
    },
    /// `x/√(mean(x²) + eps)`.
    Rms {
        /// Above 0.
        eps: f32,
    },
}

/// `x·(offset + scale) + shift`, f32 of shape `[.., columns]`: as many rows as divide those of `x`, each for as many neighbours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Modulation<'a> {
    /// What rows are multiplied with; `None` for 1.
    pub scale: Option<&'a GpuTensor>,
    /// What is added to them.
    pub shift: Option<&'a GpuTensor>,
    /// 1 where scales are differences from 1, 0 for weights of a norm.
    pub offset: f32,
}

/// Rotary embedding: `[tokens, width / 2]` f32 each; row `r` has the angles of `r % tokens`, and heads lie behind each other.
#[derive(Debug, Clone, Copy)]
pub struct Rope<'a> {
    /// Cosines.
    pub cos: &'a GpuTensor,
    /// Sines.
    pub sin: &'a GpuTensor,
}

/// What rows are written as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RowOutput {
    /// f32.
    F32,
    /// bf16.
    #[default]
    Bf16,
    /// Whole numbers of 8 bits with a scale a row.
    Int8,
    /// Floats of 8 bits (e4m3) with a scale a row.
    E4m3,
}

impl RowOutput {
    pub(super) fn dtype(self) -> GpuDtype {
        match self {
            Self::F32 => GpuDtype::F32,
            Self::Bf16 => GpuDtype::Bf16,
            Self::Int8 => GpuDtype::I8,
            Self::E4m3 => GpuDtype::U8,
        }
    }
}

/// What [`rows`] does, in this order.
#[derive(Debug, Clone, Copy, Default)]
pub struct RowWork<'a> {
    /// First the norm,
    pub norm: Norm,
    /// then scale and shift,
    pub modulation: Modulation<'a>,
    /// then positions,
    pub rope: Option<Rope<'a>>,
    /// then the Hadamard rotation in groups of 256,
    pub rotate: bool,
    /// then this.
    pub output: RowOutput,
    /// Whether what is rounded is wanted as bf16 too, as it is before the Hadamard rotation.
    pub plain: bool,
}

/// Rows of 8 bits, or floats.
#[derive(Debug, Clone)]
pub struct Rounded {
    /// `[.., columns]`.
    pub values: GpuTensor,
    /// `[rows]` f32, of 8-bit rows: numbers are values times this.
    pub scales: Option<GpuTensor>,
    /// `[.., columns]` bf16, if it was asked for.
    pub plain: Option<GpuTensor>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RowParams {
    x: u64,
    y: u64,
    y_scale: u64,
    plain: u64,
    scale: u64,
    shift: u64,
    cos: u64,
    sin: u64,
    x_stride: i64,
    y_stride: i64,
    modulation_stride: i64,
    rows_of_modulation: i32,
    rope_rows: i32,
    head_width: i32,
    rows: i32,
    columns: i32,
    eps: f32,
    scale_offset: f32,
    rotate: i32,
    output: i32,
}

// SAFETY: as in norm.cu.
unsafe impl Params for RowParams {}

/// Does the work with rows of `x`, f32 or bf16, and gives new ones.
///
/// # Errors
/// Shapes that do not fit, rows of more than 14336 columns, or there is no room.
pub fn rows(gpu: &Gpu, x: Columns, work: &RowWork) -> Result<Rounded> {
    let shape = x.shape();
    let values = GpuTensor::empty(gpu, &shape, work.output.dtype())?;
    let eight_bits = matches!(work.output, RowOutput::Int8 | RowOutput::E4m3);
    let scales = eight_bits.then(|| GpuTensor::empty(gpu, &[x.rows()], GpuDtype::F32)).transpose()?;
    let plain = work.plain.then(|| GpuTensor::empty(gpu, &shape, GpuDtype::Bf16)).transpose()?;
    let out = Out {
        y: values.address(),
        stride: x.count,
        scales: address_of(scales.as_ref()),
        plain: address_of(plain.as_ref()),
    };
    launch(gpu, x, work, &out)?;
    Ok(Rounded { values, scales, plain })
}

/// Does the work with rows of `x` in their place: also for whoever else has them. The output is what `x` is.
///
/// # Errors
/// Shapes that do not fit, or another output is asked for.
pub fn rows_in_place(gpu: &Gpu, x: Columns, work: &RowWork) -> Result<()> {
    if work.output.dtype() != x.tensor.dtype() || work.plain {
        return CudaError::arguments(NAME, format!("{:?} in the place of {:?}", work.output, x.tensor));
    }
    launch(gpu, x, work, &Out { y: x.address(), stride: x.stride(), scales: 0, plain: 0 })
}

/// `norm(x)·(1 + scale) + shift` of a LayerNorm without weights: `scale` and `shift` f32, see [`Modulation`].
///
/// # Errors
/// As [`rows`].
pub fn layer_norm_modulate(
    gpu: &Gpu,
    x: &GpuTensor,
    [scale, shift]: [&GpuTensor; 2],
    eps: f32,
    output: RowOutput,
) -> Result<Rounded> {
    let modulation = Modulation { scale: Some(scale), shift: Some(shift), offset: 1.0 };
    rows(gpu, Columns::all(x), &RowWork { norm: Norm::Layer { eps }, modulation, output, ..RowWork::default() })
}

/// RMSNorm over all channels of a token and rotary embedding head by head, of bf16 in its place.
///
/// # Errors
/// As [`rows_in_place`].
pub fn rms_norm_rope_in_place(gpu: &Gpu, x: Columns, weight: &GpuTensor, eps: f32, rope: Option<Rope>) -> Result<()> {
    let modulation = Modulation { scale: Some(weight), ..Modulation::default() };
    rows_in_place(gpu, x, &RowWork { norm: Norm::Rms { eps }, modulation, rope, ..RowWork::default() })
}

struct Out {
    y: u64,
    stride: usize,
    scales: u64,
    plain: u64,
}

fn launch(gpu: &Gpu, x: Columns, work: &RowWork, out: &Out) -> Result<()> {
    let wrong = |problem: String| CudaError::arguments(NAME, problem);
    check_dtype(NAME, x.tensor, &[GpuDtype::F32, GpuDtype::Bf16])?;
    x.check(NAME)?;
    let (rows, columns) = (x.rows(), x.count);
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    if work.rotate && columns % 256 != 0 {
        return wrong(format!("{columns} columns to be rotated; a multiple of 256 is needed"));
    }
    let (kind, eps) = match work.norm {
        Norm::None => (0, 1.0),
        Norm::Layer { eps } => (1, eps),
        Norm::Rms { eps } => (2, eps),
    };
    if eps.is_nan() || eps <= 0.0 {
        return wrong(format!("eps {eps}; a positive number is needed"));
    }
    let sizes = [2048, 5120, 14_336];
    let Some(size) = sizes.iter().position(|most| columns <= *most) else {
        return wrong(format!("rows of {columns} columns; at most {} are possible", sizes[2]));
    };
    let kernel = KERNELS[kind][usize::from(x.tensor.dtype() == GpuDtype::Bf16)][size];

    let Modulation { scale, shift, offset } = work.modulation;
    let mut modulations = None;
    for tensor in [scale, shift].into_iter().flatten() {
        check_dtype(NAME, tensor, &[GpuDtype::F32])?;
        check_aligned(NAME, tensor)?;
        let (count, width) = tensor.rows();
        let fits = width == columns && count > 0 && rows % count == 0 && modulations.is_none_or(|n| n == count);
        if !fits {
            return wrong(format!("scale {scale:?} and shift {shift:?} for {rows} rows of {columns}"));
        }
        modulations = Some(count);
    }
    let (mut rope_rows, mut head_width) = (1, 8);
    if let Some(Rope { cos, sin }) = work.rope {
        for tensor in [cos, sin] {
            check_dtype(NAME, tensor, &[GpuDtype::F32])?;
            check_aligned(NAME, tensor)?;
        }
        let (tokens, half) = cos.rows();
        (rope_rows, head_width) = (tokens, 2 * half);
        let fits = cos.shape() == sin.shape() && half % 4 == 0 && half > 0 && columns % head_width == 0 && tokens > 0;
        if !fits || rows % tokens != 0 {
            return wrong(format!("angles {cos:?} and {sin:?} for {rows} rows of {columns}"));
        }
    }
    let params = RowParams {
        x: x.address(),
        y: out.y,
        y_scale: out.scales,
        plain: out.plain,
        scale: address_of(scale),
        shift: address_of(shift),
        cos: work.rope.map_or(0, |r| r.cos.address()),
        sin: work.rope.map_or(0, |r| r.sin.address()),
        x_stride: x.stride() as i64,
        y_stride: out.stride as i64,
        modulation_stride: columns as i64,
        rows_of_modulation: int(NAME, rows / modulations.unwrap_or(1))?,
        rope_rows: int(NAME, rope_rows)?,
        head_width: int(NAME, head_width)?,
        rows: int(NAME, rows)?,
        columns: int(NAME, columns)?,
        eps,
        scale_offset: offset,
        rotate: i32::from(work.rotate),
        output: work.output as i32,
    };
    // SAFETY: rows and tables are within their tensors, results as large as the rows, and all are alive now.
    unsafe { gpu.launch(&Launch::row(kernel, blocks(NAME, rows)?, THREADS), &params) }
}

/// By norm, by whether rows are bf16, by columns.
const KERNELS: [[[&str; 3]; 2]; 3] = [
    [
        ["sd_rows_f32_2k", "sd_rows_f32_5k", "sd_rows_f32_14k"],
        ["sd_rows_bf16_2k", "sd_rows_bf16_5k", "sd_rows_bf16_14k"],
    ],
    [
        ["sd_layer_norm_f32_2k", "sd_layer_norm_f32_5k", "sd_layer_norm_f32_14k"],
        ["sd_layer_norm_bf16_2k", "sd_layer_norm_bf16_5k", "sd_layer_norm_bf16_14k"],
    ],
    [
        ["sd_rms_norm_f32_2k", "sd_rms_norm_f32_5k", "sd_rms_norm_f32_14k"],
        ["sd_rms_norm_bf16_2k", "sd_rms_norm_bf16_5k", "sd_rms_norm_bf16_14k"],
    ],
];
