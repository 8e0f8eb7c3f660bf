//! Convolutions over video, causal in time with explicit history, channels last.

use super::{address_of, blocks, check_aligned, check_dtype, int};
use crate::conv3d::{Geometry, Spatial};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

const NAME: &str = "conv3d";

/// Weights and bias of a convolution.
#[derive(Debug, Clone)]
pub struct GpuFilter {
    weight: GpuTensor,
    bias: GpuTensor,
    /// `[O, kT, k, k, I']`.
    dims: [usize; 5],
}

impl GpuFilter {
    /// Of `weight` `[O, kT, k, k, I']` bf16 (or `[O, k, k, I']` for one frame), which [`channels_last`](super::channels_last) makes of the
    /// host's `[O, I, kT, k, k]`, and `bias` `[O]` f32.
    ///
    /// # Errors
    /// Shapes that do not fit, kernels of more than three frames or an even size, channels that are no multiple of 8.
    pub fn new(weight: GpuTensor, bias: GpuTensor) -> Result<Self> {
        check_dtype(NAME, &weight, &[GpuDtype::Bf16])?;
        check_dtype(NAME, &bias, &[GpuDtype::F32])?;
        check_aligned(NAME, &weight)?;
        let dims = match *weight.shape() {
            [o, h, w, i] => [o, 1, h, w, i],
            [o, t, h, w, i] => [o, t, h, w, i],
            _ => return CudaError::arguments(NAME, format!("weights {weight:?} of a convolution")),
        };
        let [outputs, frames, height, width, inputs] = dims;
        let fits = (1..=3).contains(&frames) && height == width && height % 2 == 1 && inputs % 8 == 0 && inputs > 0;
        match fits && bias.shape() == [outputs] {
            true => Ok(Self { weight, bias, dims }),
            false => CudaError::arguments(NAME, format!("weights {weight:?} with bias {bias:?}")),
        }
    }

    /// Frames of the kernel, kT.
    pub fn frames(&self) -> usize {
        self.dims[1]
    }
}

/// The tensors of one convolution, bf16.
#[derive(Debug, Clone, Copy)]
pub struct ConvInput<'a> {
    /// `[B, T, H, W, I']`.
    pub x: &'a GpuTensor,
    /// Frames before `x`, oldest first, each `[B, 1, H, W, I']`; at most [`Geometry::frames_before`].
    pub history: &'a [GpuTensor],
    /// Added to the result, in its shape.
    pub residual: Option<&'a GpuTensor>,
}

/// How the result lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConvOutput {
    /// `[B, T', H', W', O]` bf16.
    ChannelsLast,
    /// `[B, 2·T', H', W', O/2]` bf16: of each frame the first half of the channels, then the second. O/2 is a multiple of 8.
    Pairs,
    /// `[B, O, T', H', W']` f32, for few channels and without a residual.
    Planes,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Conv3dParams {
    x: u64,
    history: [u64; 2],
    weight: u64,
    bias: u64,
    residual: u64,
    out: u64,
    planes: u64,
    batch: i32,
    frames: i32,
    height: i32,
    width: i32,
    in_channels: i32,
    out_channels: i32,
    out_frames: i32,
    out_height: i32,
    out_width: i32,
    kernel_frames: i32,
    kernel_size: i32,
    frames_before: i32,
    history_frames: i32,
    temporal_stride: i32,
    spatial: i32,
    split: i32,
}

// SAFETY: as in conv3d.cuh.
unsafe impl Params for Conv3dParams {}

/// A compiled shape: output channels of a block, shared bytes.
struct Shape(&'static str, usize, u32);

const SHAPES: [Shape; 3] =
    [Shape("sd_conv3d_n96", 96, 43_008), Shape("sd_conv3d_n64", 64, 36_864), Shape("sd_conv3d_n16", 16, 27_648)];
/// Positions of a block.
const POSITIONS: usize = 128;
const THREADS: u32 = 128;

impl Shape {
    /// That which computes the fewest channels in vain, and of equal ones the widest, which reads pixels least often.
    fn of(channels: usize, output: ConvOutput) -> &'static Self {
        let [_, _, narrow] = &SHAPES;
        match output {
            ConvOutput::Planes => narrow,
            _ => SHAPES.iter().min_by_key(|s| channels.next_multiple_of(s.1)).unwrap_or(narrow),
        }
    }
}

/// As [`conv3d`](crate::conv3d::conv3d()) of the host, in bf16 with sums in f32. `T' = (T + frames_before − kT)/temporal_stride + 1`.
///
/// # Errors
/// Shapes that do not fit, too few frames for one output, or there is no room.
pub fn conv3d(
    gpu: &Gpu,
    filter: &GpuFilter,
    geometry: Geometry,
    input: ConvInput,
    output: ConvOutput,
) -> Result<GpuTensor> {
    let ConvInput { x, history, residual } = input;
    let wrong = |problem: String| CudaError::arguments(NAME, problem);
    for tensor in [x].into_iter().chain(history).chain(residual) {
        check_dtype(NAME, tensor, &[GpuDtype::Bf16])?;
        check_aligned(NAME, tensor)?;
    }
    let [out_channels, kernel_frames, kernel_size, _, in_channels] = filter.dims;
    let &[batch, frames, height, width, channels] = x.shape() else {
        return wrong(format!("{x:?} where [B, T, H, W, C] is needed"));
    };
    let Geometry { frames_before, temporal_stride, spatial } = geometry;
    if channels != in_channels || (spatial == Spatial::Halve && kernel_size != 3) {
        return wrong(format!("{x:?}, {spatial:?}, with weights {:?}", filter.weight));
    }
    if frames_before >= kernel_frames || temporal_stride == 0 || frames_before + frames < kernel_frames {
        return wrong(format!("{frames} frames after {frames_before} for {kernel_frames} of the kernel"));
    }
    let frame = [batch, 1, height, width, channels];
    if history.len() > frames_before || history.iter().any(|h| h.shape() != frame) {
        return wrong(format!("history {history:?} of at most {frames_before} frames for {x:?}"));
    }
    let (out_height, out_width) = match spatial {
        Spatial::Same => (height, width),
        Spatial::Halve => (height / 2, width / 2),
        Spatial::Double => (2 * height, 2 * width),
    };
    let out_frames = (frames_before + frames - kernel_frames) / temporal_stride + 1;
    let (shape, dtype) = match output {
        ConvOutput::ChannelsLast => ([batch, out_frames, out_height, out_width, out_channels], GpuDtype::Bf16),
        ConvOutput::Pairs if out_channels % 16 == 0 => {
            ([batch, 2 * out_frames, out_height, out_width, out_channels / 2], GpuDtype::Bf16)
        }
        ConvOutput::Pairs => return wrong(format!("{out_channels} channels in two; a multiple of 16 is needed")),
        ConvOutput::Planes => ([batch, out_channels, out_frames, out_height, out_width], GpuDtype::F32),
    };
    if residual.is_some_and(|r| output == ConvOutput::Planes || r.shape() != shape) {
        return wrong(format!("residual {residual:?} for a result {shape:?}"));
    }
    let out = GpuTensor::empty(gpu, &shape, dtype)?;
    if out.elements() == 0 {
        return Ok(out);
    }
    let (out_address, planes) = match output {
        ConvOutput::Planes => (0, out.address()),
        _ => (out.address(), 0),
    };
    let mut before = history.iter().rev();
    let (last, first) = (before.next(), before.next());
    let params = Conv3dParams {
        x: x.address(),
        history: [first, last].map(address_of),
        weight: filter.weight.address(),
        bias: filter.bias.address(),
        residual: address_of(residual),
        out: out_address,
        planes,
        batch: int(NAME, batch)?,
        frames: int(NAME, frames)?,
        height: int(NAME, height)?,
        width: int(NAME, width)?,
        in_channels: int(NAME, in_channels)?,
        out_channels: int(NAME, out_channels)?,
        out_frames: int(NAME, out_frames)?,
        out_height: int(NAME, out_height)?,
        out_width: int(NAME, out_width)?,
        kernel_frames: int(NAME, kernel_frames)?,
        kernel_size: int(NAME, kernel_size)?,
        frames_before: int(NAME, frames_before)?,
        history_frames: int(NAME, history.len())?,
        temporal_stride: int(NAME, temporal_stride)?,
        spatial: spatial as i32,
        split: if output == ConvOutput::Pairs { 2 } else { 1 },
    };
    // The kernel counts positions of a picture in 32 bits.
    int(NAME, 4 * height * width)?;
    let Shape(kernel, columns, shared_bytes) = *Shape::of(out_channels, output);
    let positions = batch * out_frames * out_height * out_width;
    let launch = Launch {
        kernel,
        grid: [blocks(NAME, positions.div_ceil(POSITIONS))?, blocks(NAME, out_channels.div_ceil(columns))?, 1],
        block: [THREADS, 1, 1],
        shared_bytes,
    };
    // SAFETY: input, history and residual have the shapes that the kernel counts with, the result is as large as it is said, and all
    // are alive now.
    unsafe { gpu.launch(&launch, &params) }?;
    Ok(out)
}
