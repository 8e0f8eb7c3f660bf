//! Convolutional networks over pictures: what surrounds their matrix products. Channels lie last, and are a multiple of 8; those that
//! fill up are zeros.

use super::{Activation, blocks, check_aligned, check_dtype, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

const THREADS: usize = 256;

/// `[batch, height, width, channels]` of bf16 pictures.
fn pictures(operation: &'static str, x: &GpuTensor) -> Result<[usize; 4]> {
    check_dtype(operation, x, &[GpuDtype::Bf16])?;
    check_aligned(operation, x)?;
    match x.shape() {
        &[batch, height, width, channels] if channels % 8 == 0 => Ok([batch, height, width, channels]),
        _ => {
            CudaError::arguments(operation, format!("{x:?} where [B, H, W, C] with a multiple of 8 channels is needed"))
        }
    }
}

/// A thread for each chunk of eight numbers.
fn launch(gpu: &Gpu, kernel: &'static str, numbers: usize, params: &impl Params) -> Result<()> {
    if numbers == 0 {
        return Ok(());
    }
    int(kernel, numbers / 8)?;
    let launch = Launch::row(kernel, blocks(kernel, (numbers / 8).div_ceil(THREADS))?, THREADS as u32);
    // SAFETY: as many numbers as are counted, checked by the callers, and all are alive now.
    unsafe { gpu.launch(&launch, params) }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PictureParams {
    x: u64,
    y: u64,
    batch: i32,
    height: i32,
    width: i32,
    focus: i32,
}

// SAFETY: as in pictures.cu.
unsafe impl Params for PictureParams {}

/// `x` `[B, H, W, 3]` f32 → `[B, H, W, 8]` bf16; with `focus` `[B, H/2, W/2, 16]`, the pixels of a square side by side: (row, column)
/// (0, 0), (1, 0), (0, 1), (1, 1).
///
/// # Errors
/// Another shape, odd sides with `focus`, or there is no room.
pub fn picture(gpu: &Gpu, x: &GpuTensor, focus: bool) -> Result<GpuTensor> {
    const NAME: &str = "take a picture";
    check_dtype(NAME, x, &[GpuDtype::F32])?;
    let side = if focus { 2 } else { 1 };
    let &[batch, height, width, 3] = x.shape() else {
        return CudaError::arguments(NAME, format!("{x:?} where [B, H, W, 3] is needed"));
    };
    if height % side != 0 || width % side != 0 {
        return CudaError::arguments(NAME, format!("squares of {x:?}"));
    }
    let y = GpuTensor::empty(gpu, &[batch, height / side, width / side, 8 * side], GpuDtype::Bf16)?;
    let params = PictureParams {
        x: x.address(),
        y: y.address(),
        batch: int(NAME, batch)?,
        height: int(NAME, height)?,
        width: int(NAME, width)?,
        focus: i32::from(focus),
    };
    launch(gpu, "sd_picture", y.elements(), &params)?;
    Ok(y)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct WindowsParams {
    x: u64,
    y: u64,
    batch: i32,
    height: i32,
    width: i32,
    chunks: i32,
    out_height: i32,
    out_width: i32,
    kernel: i32,
    stride: i32,
}

// SAFETY: as in pictures.cu.
unsafe impl Params for WindowsParams {}

/// Windows of `x` `[B, H, W, C]` bf16 at every `stride`-th pixel, zeros outside: `[B, ⌈H/stride⌉, ⌈W/stride⌉, kernel²·C]`, (row, column,
/// channel). A convolution is the product of these with its weights `[O, kernel²·C]`.
///
/// # Errors
/// Another shape, an even kernel, a stride of 0, or there is no room.
pub fn windows(gpu: &Gpu, x: &GpuTensor, kernel: usize, stride: usize) -> Result<GpuTensor> {
    const NAME: &str = "take windows";
    let [batch, height, width, channels] = pictures(NAME, x)?;
    if kernel.is_multiple_of(2) || stride == 0 {
        return CudaError::arguments(NAME, format!("windows of {kernel} at every {stride}"));
    }
    let (out_height, out_width) = (height.div_ceil(stride), width.div_ceil(stride));
    let y = GpuTensor::empty(gpu, &[batch, out_height, out_width, kernel * kernel * channels], GpuDtype::Bf16)?;
    let params = WindowsParams {
        x: x.address(),
        y: y.address(),
        batch: int(NAME, batch)?,
        height: int(NAME, height)?,
        width: int(NAME, width)?,
        chunks: int(NAME, channels / 8)?,
        out_height: int(NAME, out_height)?,
        out_width: int(NAME, out_width)?,
        kernel: int(NAME, kernel)?,
        stride: int(NAME, stride)?,
    };
    launch(gpu, "sd_windows", y.elements(), &params)?;
    Ok(y)
}

/// Channels beside others.
#[derive(Debug, Clone, Copy)]
pub struct JoinPart<'a> {
    /// `[B, H, W, C]` bf16, with `doubled` half of H and W.
    pub x: &'a GpuTensor,
    /// Every pixel is repeated 2×2.
    pub doubled: bool,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct JoinParams {
    x: u64,
    y: u64,
    gate: u64,
    y_stride: i64,
    gate_stride: i64,
    batch: i32,
    height: i32,
    width: i32,
    chunks: i32,
    doubled: i32,
}

// SAFETY: as in pictures.cu.
unsafe impl Params for JoinParams {}

/// The parts' channels side by side, `[B, H, W, ΣC]` bf16, and those times `clamp((gate + 3)/6, 0, 1)` of `gates` `[B, ΣC]` f32.
///
/// # Errors
/// No parts, shapes that do not fit, or there is no room.
pub fn join(gpu: &Gpu, parts: &[JoinPart], gates: Option<&GpuTensor>) -> Result<GpuTensor> {
    const NAME: &str = "join";
    let mut shapes = Vec::with_capacity(parts.len());
    for JoinPart { x, doubled } in parts {
        let factor = if *doubled { 2 } else { 1 };
        let [batch, height, width, channels] = pictures(NAME, x)?;
        shapes.push(([batch, factor * height, factor * width], channels));
    }
    let Some((first, _)) = shapes.first() else { return CudaError::arguments(NAME, "no pictures") };
    let [batch, height, width] = *first;
    let all: usize = shapes.iter().map(|(_, channels)| channels).sum();
    if shapes.iter().any(|(sides, _)| sides != first) {
        return CudaError::arguments(NAME, format!("{parts:?} side by side"));
    }
    if let Some(gates) = gates {
        check_dtype(NAME, gates, &[GpuDtype::F32])?;
        check_aligned(NAME, gates)?;
        if gates.shape() != [batch, all] {
            return CudaError::arguments(NAME, format!("gates {gates:?} for {batch} pictures of {all} channels"));
        }
    }
    let y = GpuTensor::empty(gpu, &[batch, height, width, all], GpuDtype::Bf16)?;
    let mut before = 0;
    for (JoinPart { x, doubled }, (_, channels)) in parts.iter().zip(&shapes) {
        let params = JoinParams {
            x: x.address(),
            y: y.address() + 2 * before as u64,
            gate: gates.map_or(0, |g| g.address() + 4 * before as u64),
            y_stride: all as i64,
            gate_stride: all as i64,
            batch: int(NAME, batch)?,
            height: int(NAME, height)?,
            width: int(NAME, width)?,
            chunks: int(NAME, channels / 8)?,
            doubled: i32::from(*doubled),
        };
        launch(gpu, "sd_join", batch * height * width * channels, &params)?;
        before += channels;
    }
    Ok(y)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AloneParams {
    x: u64,
    y: u64,
    weight: u64,
    bias: u64,
    batch: i32,
    height: i32,
    width: i32,
    chunks: i32,
    kernel: i32,
    activation: i32,
}

// SAFETY: as in pictures.cu.
unsafe impl Params for AloneParams {}

fn alone(
    gpu: &Gpu,
    name: &'static str,
    x: &GpuTensor,
    kernel: usize,
    filter: Option<(&DepthwiseWeights, Activation)>,
) -> Result<GpuTensor> {
    let [batch, height, width, channels] = pictures(name, x)?;
    if kernel.is_multiple_of(2) {
        return CudaError::arguments(name, format!("windows of {kernel}; an odd side is needed"));
    }
    let y = GpuTensor::empty(gpu, x.shape(), GpuDtype::Bf16)?;
    let params = AloneParams {
        x: x.address(),
        y: y.address(),
        weight: filter.map_or(0, |(f, _)| f.weight.address()),
        bias: filter.map_or(0, |(f, _)| f.bias.address()),
        batch: int(name, batch)?,
        height: int(name, height)?,
        width: int(name, width)?,
        chunks: int(name, channels / 8)?,
        kernel: int(name, kernel)?,
        activation: filter.map_or(Activation::None, |(_, activation)| activation) as i32,
    };
    launch(gpu, name, y.elements(), &params)?;
    Ok(y)
}

/// Largest value of each channel of `x` `[B, H, W, C]` bf16 under a window of `size` × `size` (odd) at every pixel, which ends at the
/// picture's edge. A window that holds NaN gives NaN.
///
/// # Errors
/// Another shape, an even size, or there is no room.
pub fn max_pool(gpu: &Gpu, x: &GpuTensor, size: usize) -> Result<GpuTensor> {
    alone(gpu, "sd_max_pool", x, size, None)
}

/// Weights of a convolution of every channel alone.
#[derive(Debug, Clone)]
pub struct DepthwiseWeights {
    weight: GpuTensor,
    bias: GpuTensor,
    kernel: usize,
    channels: usize,
}

impl DepthwiseWeights {
    /// `weight` `[k, k, C]` with k odd, and `bias` `[C]`, both f32.
    ///
    /// # Errors
    /// Other shapes.
    pub fn new(weight: GpuTensor, bias: GpuTensor) -> Result<Self> {
        const NAME: &str = "take weights";
        for tensor in [&weight, &bias] {
            check_dtype(NAME, tensor, &[GpuDtype::F32])?;
            check_aligned(NAME, tensor)?;
        }
        match *weight.shape() {
            [kernel, across, channels] if kernel == across && kernel % 2 == 1 && bias.shape() == [channels] => {
                Ok(Self { weight, bias, kernel, channels })
            }
            _ => CudaError::arguments(NAME, format!("weights {weight:?} with bias {bias:?}")),
        }
    }
}

/// `activation(x ∗ weight + bias)` of every channel alone, zeros outside, one of the first three activations; `x` `[B, H, W, C]` bf16 →
/// the same shape.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn depthwise(gpu: &Gpu, x: &GpuTensor, filter: &DepthwiseWeights, activation: Activation) -> Result<GpuTensor> {
    const NAME: &str = "sd_depthwise";
    let known = matches!(activation, Activation::None | Activation::GeluTanh | Activation::Silu);
    if x.shape().last() != Some(&filter.channels) || !known {
        return CudaError::arguments(NAME, format!("{activation:?} of {x:?} with {filter:?}"));
    }
    alone(gpu, NAME, x, filter.kernel, Some((filter, activation)))
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MeanParams {
    x: u64,
    y: u64,
    y_stride: i64,
    pixels: i32,
    chunks: i32,
}

// SAFETY: as in pictures.cu.
unsafe impl Params for MeanParams {}

/// Means of the channels of all parts over their pixels: each `[B, H, W, C]` bf16 → `[B, ΣC]` bf16, side by side.
///
/// # Errors
/// No parts, shapes that do not fit, or there is no room.
pub fn means(gpu: &Gpu, parts: &[&GpuTensor]) -> Result<GpuTensor> {
    const NAME: &str = "sd_mean";
    const THREADS: u32 = 128;
    let shapes = parts.iter().map(|x| pictures(NAME, x)).collect::<Result<Vec<_>>>()?;
    let Some(&[batch, ..]) = shapes.first() else { return CudaError::arguments(NAME, "no pictures") };
    let all: usize = shapes.iter().map(|[.., channels]| channels).sum();
    if shapes.iter().any(|[b, height, width, _]| *b != batch || height * width == 0) {
        return CudaError::arguments(NAME, format!("means of {parts:?}"));
    }
    let y = GpuTensor::empty(gpu, &[batch, all], GpuDtype::Bf16)?;
    let mut before = 0;
    for (x, [_, height, width, channels]) in parts.iter().zip(&shapes) {
        let params = MeanParams {
            x: x.address(),
            y: y.address() + 2 * before as u64,
            y_stride: all as i64,
            pixels: int(NAME, height * width)?,
            chunks: int(NAME, channels / 8)?,
        };
        before += channels;
        if batch * channels == 0 {
            continue;
        }
        let grid = [blocks(NAME, channels / 8)?, blocks(NAME, batch)?, 1];
        let launch = Launch { kernel: NAME, grid, block: [THREADS, 1, 1], shared_bytes: 0 };
        // SAFETY: as many numbers as are counted, the result is as large as they are, and all are alive now.
        unsafe { gpu.launch(&launch, &params) }?;
    }
    Ok(y)
}
