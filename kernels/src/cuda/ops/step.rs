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
    side: i32,
}

// SAFETY: as in step.cu.
unsafe impl Params for PatchParams {}

/// Latents `[C, F, h, w]` f32, `h` and `w` multiples of `side`, into columns `first..first + side²·C` of `tokens` `[.., F·(h/side)·(w/side),
/// columns]` bf16: patches of 1 x side x side as the patch embedding's weight has them, (channel, y, x); pixels where `side` is 1.
///
/// # Errors
/// Shapes that do not fit.
pub fn patchify_into(gpu: &Gpu, latents: &GpuTensor, tokens: &GpuTensor, first: usize, side: usize) -> Result<()> {
    const NAME: &str = "patchify";
    check_dtype(NAME, latents, &[GpuDtype::F32])?;
    check_dtype(NAME, tokens, &[GpuDtype::Bf16])?;
    let patches = Patches::of(NAME, latents, side)?;
    let (rows, columns) = tokens.rows();
    if rows != patches.tokens || first.checked_add(patches.columns).is_none_or(|end| end > columns) {
        return CudaError::arguments(NAME, format!("{latents:?} into columns from {first} on of {tokens:?}"));
    }
    let params = PatchParams {
        x: latents.address(),
        y: tokens.address() + 2 * first as u64,
        token_stride: columns as i64,
        x_is_f32: 1,
        ..patches.params
    };
    launch(gpu, "sd_patchify", latents.elements(), &params)
}

/// Tokens `[.., F·(h/side)·(w/side), side²·C]` f32 or bf16, columns (y, x, channel) as the head makes them → latents `shape` =
/// `[C, F, h, w]` f32.
///
/// # Errors
/// Shapes that do not fit, or there is no room.
pub fn unpatchify(gpu: &Gpu, tokens: &GpuTensor, shape: [usize; 4], side: usize) -> Result<GpuTensor> {
    const NAME: &str = "unpatchify";
    check_dtype(NAME, tokens, &[GpuDtype::F32, GpuDtype::Bf16])?;
    let latents = GpuTensor::empty(gpu, &shape, GpuDtype::F32)?;
    let patches = Patches::of(NAME, &latents, side)?;
    if tokens.rows() != (patches.tokens, patches.columns) {
        return CudaError::arguments(NAME, format!("{tokens:?} to {shape:?}"));
    }
    let params = PatchParams {
        x: tokens.address(),
        y: latents.address(),
        token_stride: patches.columns as i64,
        x_is_f32: i32::from(tokens.dtype() == GpuDtype::F32),
        ..patches.params
    };
    launch(gpu, "sd_unpatchify", latents.elements(), &params)?;
    Ok(latents)
}

/// How latents are cut.
struct Patches {
    tokens: usize,
    columns: usize,
    /// With their sizes.
    params: PatchParams,
}

impl Patches {
    fn of(name: &'static str, latents: &GpuTensor, side: usize) -> Result<Self> {
        match latents.shape() {
            &[c, f, h, w] if side > 0 && h % side == 0 && w % side == 0 => Ok(Self {
                tokens: f * (h / side) * (w / side),
                columns: side * side * c,
                params: PatchParams {
                    x: 0,
                    y: 0,
                    channels: int(name, c)?,
                    frames: int(name, f)?,
                    height: int(name, h)?,
                    width: int(name, w)?,
                    token_stride: 0,
                    x_is_f32: 0,
                    side: int(name, side)?,
                },
            }),
            _ => {
                let problem =
                    format!("latents {latents:?} where [C, F, h, w] with h and w in patches of {side} is needed");
                CudaError::arguments(name, problem)
            }
        }
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
