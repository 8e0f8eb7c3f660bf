//! Single kernels, and what they can do at most.

use std::sync::Arc;

use ::kernels::cuda::ops::{
    self, Columns, Heads, Int8Keys, Rounded, RowWork, Terms, ValueSums, input_form, linear_rounded, rows,
};
use ::kernels::cuda::{Capability, CudaError, Gpu, GpuDtype, GpuMatrix, GpuScales, GpuTensor, Stream};
use candle_core::{DType, Device};
use dit::Attention;
use weights::convert::Form;
use weights::{RandomWeights, TensorSource};

use super::{GpuPeaks, OpenGpu, Watched, repeat_rows};
use crate::run::{Failed, Ready};
use crate::weights::{ROWS, Repeated};

/// Random rows of bf16, which are repeated.
fn random_rows(gpu: &Gpu, name: &str, [rows, columns]: [usize; 2]) -> Result<GpuTensor, Failed> {
    let first = RandomWeights::new(2).tensor(name, &[rows.min(ROWS), columns], Some(DType::BF16), &Device::Cpu)?;
    // Of a variance of one, as what follows norms has.
    let first = (first * (columns as f64).sqrt())?;
    Ok(repeat_rows(gpu, &GpuTensor::upload(gpu, &first, GpuDtype::Bf16)?, rows)?)
}

/// A random matrix `[n, k]`.
fn matrix(gpu: &Gpu, [n, k]: [usize; 2], form: Form) -> Result<GpuMatrix, Failed> {
    let few = Repeated::new(form).matrix_of("blocks.0.ffn.0.weight", [n.min(ROWS), k])?;
    let row_bytes = few.bytes().len() / few.shape()[0].max(1);
    let bytes = GpuTensor::upload_bytes(gpu, few.bytes(), &[few.shape()[0], row_bytes], GpuDtype::U8)?;
    let scales = match GpuScales::upload(gpu, few.scales(), few.shape())? {
        GpuScales::Rows(few) => GpuScales::Rows(repeat_rows(gpu, &few, n)?),
        other => other,
    };
    let bytes = repeat_rows(gpu, &bytes, n)?.as_bytes();
    Ok(GpuMatrix::new(few.encoding(), [n, k], bytes, scales, few.rotation())?)
}

/// Inputs `[m, k]` in the form that a matrix takes.
fn inputs(gpu: &Gpu, m: usize, matrix: &GpuMatrix) -> Result<Rounded, Failed> {
    let x = random_rows(gpu, "inputs", [m, matrix.shape()[1]])?;
    let form = input_form(gpu, matrix)?;
    Ok(rows(gpu, Columns::all(&x), &RowWork { output: form.output, rotate: form.rotate, ..RowWork::default() })?)
}

/// One product with bf16 results; rounding the inputs is not in it.
pub(crate) fn product(open: &OpenGpu, [m, n, k]: [usize; 3], form: Form) -> Result<Ready, Failed> {
    let gpu = open.gpu().clone();
    let weight = matrix(&gpu, [n, k], form)?;
    let x = inputs(&gpu, m, &weight)?;
    let once = move || Ok(linear_rounded(&gpu, &x, &weight, &Terms::default()).map(drop)?);
    Ok(Ready::on_gpu(Box::new(once), 2.0 * m as f64 * n as f64 * k as f64, Watched::kernel(open)))
}

/// Attention of tokens to each other; keys are rounded in it where it is in 8 bits.
pub(crate) fn attention(
    open: &OpenGpu,
    [tokens, heads, dim]: [usize; 3],
    precision: Attention,
) -> Result<Ready, Failed> {
    let gpu = open.gpu().clone();
    let part =
        |name| random_rows(&gpu, name, [tokens, heads * dim])?.reshape(&[1, tokens, heads, dim]).map_err(Failed::from);
    let (q, k, v) = (part("q")?, part("k")?, part("v")?);
    let scale = (dim as f32).sqrt().recip();
    let once = move || {
        let [q, k, v] = [Heads::of(&q)?, Heads::of(&k)?, Heads::of(&v)?];
        match precision {
            Attention::Int8 => {
                let keys = Int8Keys::new(&gpu, k, v, ValueSums::of(&gpu.facts().name))?;
                ops::attention_int8(&gpu, q, &keys, scale).map(drop)?;
            }
            _ => ops::attention(&gpu, [q, k, v], scale, None).map(drop)?,
        }
        Ok(())
    };
    let flop = 4.0 * (tokens as f64).powi(2) * (heads * dim) as f64;
    Ok(Ready::on_gpu(Box::new(once), flop, Watched::kernel(open)))
}

/// Seconds of the fastest of so many turns of what a stream is given; first there are three that do not count.
fn fastest(stream: &Stream, turns: usize, turn: &mut dyn FnMut() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    const WARMUPS: usize = 3;
    let mut least = f64::INFINITY;
    for i in 0..WARMUPS + turns {
        let before = stream.record_time()?;
        turn()?;
        let after = stream.record_time()?;
        after.synchronise()?;
        if i >= WARMUPS {
            least = least.min(before.seconds_to(&after)?);
        }
    }
    // Clocks have steps.
    Ok(least.max(1e-9))
}

/// See [`GpuPeaks`]. An emulated GPU is asked for next to nothing.
pub(crate) fn probe(open: &OpenGpu) -> Result<GpuPeaks, CudaError> {
    let gpu = open.gpu();
    let (side, bytes, turns) = if open.is_emulated() { (64, 1 << 16, 1) } else { (8192, 1 << 30, 10) };
    let told = |failed: Failed| CudaError::Arguments { operation: "probe", problem: failed.to_string() };
    let rate = |name: &str| -> Result<f64, CudaError> {
        let weight = matrix(gpu, [side, side], name.parse().unwrap_or(Form::BF16)).map_err(told)?;
        let x = inputs(gpu, side, &weight).map_err(told)?;
        let mut turn = || linear_rounded(gpu, &x, &weight, &Terms::default()).map(drop);
        Ok(2.0 * (side as f64).powi(3) / fastest(gpu.compute(), turns, &mut turn)? / 1e12)
    };
    let bf16_tflops = rate("bf16")?;
    let int8_tops = rate("int8")?;
    let e4m3_tflops = (gpu.level() >= Capability(8, 9)).then(|| rate("fp8")).transpose()?;

    let [from, to] = [GpuTensor::zeros(gpu, &[bytes], GpuDtype::U8)?, GpuTensor::empty(gpu, &[bytes], GpuDtype::U8)?];
    let copy = fastest(gpu.compute(), turns, &mut || from.copy_to_rows(gpu, &to, 0))?;
    drop(to);
    let host = Arc::new(gpu.pinned().alloc(bytes)?);
    let mut there = gpu.pool().alloc(bytes)?;
    let copy_in = fastest(gpu.copies(), turns, &mut || gpu.copy_in(host.clone(), 0..bytes, &mut there))?;
    there.wait_for_others()?;
    drop(there);
    // The result's way to a tensor of the host is not in it: the copy is over before.
    let copy_out = fastest(gpu.copies(), turns, &mut || from.start_download(gpu).map(drop))?;
    let per_second = |bytes: usize, seconds: f64| bytes as f64 / seconds / 1e9;
    Ok(GpuPeaks {
        bf16_tflops,
        int8_tops,
        e4m3_tflops,
        copy_gb_s: per_second(2 * bytes, copy),
        in_gb_s: per_second(bytes, copy_in),
        out_gb_s: per_second(bytes, copy_out),
    })
}
