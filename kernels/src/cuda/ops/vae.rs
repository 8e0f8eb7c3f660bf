//! What stands beside the VAE's convolutions.

use super::{blocks, check_aligned, check_dtype, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct NormParams {
    x: u64,
    y: u64,
    gain: u64,
    positions: i64,
    channels: i32,
    silu: i32,
}

// SAFETY: as in vae_norm.cu.
unsafe impl Params for NormParams {}

/// RMS norm over the channels of `x` `[.., C]` bf16 without an epsilon inside the root, times `gain` `[C]` f32, with or without SiLU
/// behind it. C is a multiple of 8, at most 1024. As [`channel_rms_norm`](crate::conv3d::channel_rms_norm) of the host.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn channel_norm(gpu: &Gpu, x: &GpuTensor, gain: &GpuTensor, silu: bool) -> Result<GpuTensor> {
    const NAME: &str = "normalise channels";
    check_dtype(NAME, x, &[GpuDtype::Bf16])?;
    check_dtype(NAME, gain, &[GpuDtype::F32])?;
    check_aligned(NAME, x)?;
    check_aligned(NAME, gain)?;
    let (positions, channels) = x.rows();
    if gain.shape() != [channels] || channels % 8 != 0 || !(8..=1024).contains(&channels) {
        let problem = format!("{x:?} with gain {gain:?}; 8, 16, … 1024 channels are possible");
        return CudaError::arguments(NAME, problem);
    }
    let y = GpuTensor::empty(gpu, x.shape(), GpuDtype::Bf16)?;
    if positions == 0 {
        return Ok(y);
    }
    let params = NormParams {
        x: x.address(),
        y: y.address(),
        gain: gain.address(),
        positions: positions as i64,
        channels: int(NAME, channels)?,
        silu: i32::from(silu),
    };
    let lanes = (channels / 8).next_power_of_two().min(32);
    let launch = Launch::row("sd_vae_norm", blocks(NAME, (positions * lanes).div_ceil(THREADS as usize))?, THREADS);
    // SAFETY: as many numbers as are counted, and all are alive now.
    unsafe { gpu.launch(&launch, &params) }?;
    Ok(y)
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PlanesParams {
    planes: u64,
    pixels: u64,
    area: i64,
    channels: i32,
    width: i32,
}

// SAFETY: as in vae_norm.cu.
unsafe impl Params for PlanesParams {}

/// `[B, C, ..]` f32 → `[B, .., C']` bf16 with C filled up by zeros to a multiple of 8: pictures, and weights of convolutions.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn channels_last(gpu: &Gpu, planes: &GpuTensor) -> Result<GpuTensor> {
    const NAME: &str = "put channels last";
    check_dtype(NAME, planes, &[GpuDtype::F32])?;
    let &[batch, channels, ref rest @ ..] = planes.shape() else {
        return CudaError::arguments(NAME, format!("{planes:?} where [B, C, ..] is needed"));
    };
    let (area, width) = (rest.iter().product::<usize>(), channels.next_multiple_of(8));
    let shape: Vec<usize> = [batch].into_iter().chain(rest.iter().copied()).chain([width]).collect();
    let pixels = GpuTensor::empty(gpu, &shape, GpuDtype::Bf16)?;
    if pixels.elements() == 0 {
        return Ok(pixels);
    }
    let params = PlanesParams {
        planes: planes.address(),
        pixels: pixels.address(),
        area: area as i64,
        channels: int(NAME, channels)?,
        width: int(NAME, width)?,
    };
    if batch > usize::from(u16::MAX) {
        return CudaError::arguments(NAME, format!("{planes:?}; at most {} are possible", u16::MAX));
    }
    let grid = [blocks(NAME, area.div_ceil(THREADS as usize))?, blocks(NAME, batch)?, 1];
    let launch = Launch { kernel: "sd_vae_to_pixels", grid, block: [THREADS, 1, 1], shared_bytes: 0 };
    // SAFETY: as many numbers as are counted, and all are alive now.
    unsafe { gpu.launch(&launch, &params) }?;
    Ok(pixels)
}
