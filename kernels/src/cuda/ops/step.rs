//! The two ends of a sampler's step, and the step itself.

use super::{address_of, blocks, check_dtype, int};
use crate::cuda::code::{Launch, Params};
use crate::cuda::error::{CudaError, Result};
use crate::cuda::{Gpu, GpuDtype, GpuTensor};

const THREADS: u32 = 256;
const MOST_TERMS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy)]
struct PatchParams {
    x: u64,
    y: u64,
    channels: i32,
    frames: i32,
    height: i32,
    width: i32,
    token_stride: i64,
    x_is_f32: i32,
}

// SAFETY: as in step.cu.
unsafe impl Params for PatchParams {}

/// Latents `[C, F, h, w]` f32, `h` and `w` even, into columns `first..first + 4·C` of `tokens` `[.., F·(h/2)·(w/2), columns]` bf16: the
/// patches of 1 x 2 x 2 as the patch embedding's weight has them, (channel, y, x).
///
/// # Errors
/// Shapes that do not fit.
pub fn patchify_into(gpu: &Gpu, latents: &GpuTensor, tokens: &GpuTensor, first: usize) -> Result<()> {
    const NAME: &str = "patchify";
    check_dtype(NAME, latents, &[GpuDtype::F32])?;
    check_dtype(NAME, tokens, &[GpuDtype::Bf16])?;
    let [channels, count, frames, height, width] = sizes(NAME, latents)?;
    let (rows, columns) = tokens.rows();
    if rows != count || first + 4 * channels > columns {
        return CudaError::arguments(NAME, format!("{latents:?} into columns from {first} on of {tokens:?}"));
    }
    let params = PatchParams {
        x: latents.address(),
        y: tokens.address() + 2 * first as u64,
        channels: int(NAME, channels)?,
        frames: int(NAME, frames)?,
        height: int(NAME, height)?,
        width: int(NAME, width)?,
        token_stride: columns as i64,
        x_is_f32: 1,
    };
    launch(gpu, "sd_patchify", latents.elements(), &params)
}

/// Tokens `[.., F·(h/2)·(w/2), 4·C]` f32 or bf16, columns (y, x, channel) as the head makes them → latents `shape` = `[C, F, h, w]` f32.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn unpatchify(gpu: &Gpu, tokens: &GpuTensor, shape: [usize; 4]) -> Result<GpuTensor> {
    const NAME: &str = "unpatchify";
    check_dtype(NAME, tokens, &[GpuDtype::F32, GpuDtype::Bf16])?;
    let latents = GpuTensor::empty(gpu, &shape, GpuDtype::F32)?;
    let [channels, count, frames, height, width] = sizes(NAME, &latents)?;
    if tokens.rows() != (count, 4 * channels) {
        return CudaError::arguments(NAME, format!("{tokens:?} to {shape:?}"));
    }
    let params = PatchParams {
        x: tokens.address(),
        y: latents.address(),
        channels: int(NAME, channels)?,
        frames: int(NAME, frames)?,
        height: int(NAME, height)?,
        width: int(NAME, width)?,
        token_stride: 4 * channels as i64,
        x_is_f32: i32::from(tokens.dtype() == GpuDtype::F32),
    };
    launch(gpu, "sd_unpatchify", latents.elements(), &params)?;
    Ok(latents)
}

/// Channels, tokens, frames, height and width of latents.
fn sizes(name: &'static str, latents: &GpuTensor) -> Result<[usize; 5]> {
    match latents.shape() {
        &[c, f, h, w] if h % 2 == 0 && w % 2 == 0 => Ok([c, f * (h / 2) * (w / 2), f, h, w]),
        _ => CudaError::arguments(name, format!("latents {latents:?} where [C, F, h, w] with even h and w is needed")),
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CombineParams {
    x: [u64; MOST_TERMS],
    y: u64,
    rounded: u64,
    n: i64,
    factor: [f32; MOST_TERMS],
    terms: i32,
}

// SAFETY: as in step.cu.
unsafe impl Params for CombineParams {}

/// `Σ factor·x` over at most eight f32 tensors of one shape, summed in their order: guidance, and linear steps of samplers.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn combine(gpu: &Gpu, terms: &[(f32, &GpuTensor)]) -> Result<GpuTensor> {
    let shape = terms.first().map_or(&[][..], |(_, x)| x.shape());
    let y = GpuTensor::empty(gpu, shape, GpuDtype::F32)?;
    combine_into(gpu, terms, &y, None)?;
    Ok(y)
}

/// As [`combine`], over the numbers of `y`, which may be one of the terms, and as bf16 over those of `rounded`.
///
/// # Errors
/// As there.
pub fn combine_into(gpu: &Gpu, terms: &[(f32, &GpuTensor)], y: &GpuTensor, rounded: Option<&GpuTensor>) -> Result<()> {
    const NAME: &str = "combine";
    if terms.is_empty() || terms.len() > MOST_TERMS {
        return CudaError::arguments(NAME, format!("{} terms; 1 to {MOST_TERMS} are possible", terms.len()));
    }
    for x in terms.iter().map(|(_, x)| *x).chain([y]) {
        check_dtype(NAME, x, &[GpuDtype::F32])?;
        if x.shape() != y.shape() {
            return CudaError::arguments(NAME, format!("{x:?} with {y:?}"));
        }
    }
    if let Some(rounded) = rounded {
        check_dtype(NAME, rounded, &[GpuDtype::Bf16])?;
        if rounded.shape() != y.shape() {
            return CudaError::arguments(NAME, format!("{rounded:?} for {y:?}"));
        }
    }
    let (mut x, mut factor) = ([0; MOST_TERMS], [0.0; MOST_TERMS]);
    for (i, (f, tensor)) in terms.iter().enumerate() {
        (x[i], factor[i]) = (tensor.address(), *f);
    }
    let n = y.elements();
    let params = CombineParams {
        x,
        y: y.address(),
        rounded: address_of(rounded),
        n: n as i64,
        factor,
        terms: terms.len() as i32,
    };
    launch(gpu, "sd_combine", n, &params)
}

/// A thread for each number.
fn launch(gpu: &Gpu, kernel: &'static str, numbers: usize, params: &impl Params) -> Result<()> {
    if numbers == 0 {
        return Ok(());
    }
    let launch = Launch::row(kernel, blocks(kernel, numbers.div_ceil(THREADS as usize))?, THREADS);
    // SAFETY: as many numbers as are counted, checked by the callers, and all are alive now.
    unsafe { gpu.launch(&launch, params) }
}
