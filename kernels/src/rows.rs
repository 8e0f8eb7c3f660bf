//! Row-parallel maps over contiguous f32 tensors on the host.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::level::Level;

/// Elements that one task takes at a time, rounded up to whole rows: large enough that scheduling does not show.
const TASK_ELEMENTS: usize = 16 << 10;

/// Runs `f` with the tensor's elements as one row-major slice.
pub(crate) fn with_f32<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else {
        candle_core::bail!("expected a tensor on the host");
    };
    let all = cpu.as_slice::<f32>()?;
    let start = layout.start_offset();
    f(&all[start..start + layout.shape().elem_count()])
}

/// What happens to one row. Mark the method `#[inline(always)]`: it is compiled once for each instruction set.
pub(crate) trait RowKernel: Sync {
    /// `out` has the length of `input`.
    fn row(&self, index: usize, input: &[f32], out: &mut [f32]);
}

/// Runs the kernel over every row of the last dimension; the output has the input's shape. A row is always computed by
/// one thread in one order, so results do not depend on the number of threads.
pub(crate) fn map_rows(x: &Tensor, kernel: &impl RowKernel) -> Result<Tensor> {
    map_rows_at(x, kernel, Level::detect())
}

/// As [`map_rows`], with a given instruction set.
pub(crate) fn map_rows_at(x: &Tensor, kernel: &impl RowKernel, level: Level) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?;
    let out = with_f32(x, |input| {
        let mut out = vec![0f32; input.len()];
        if width > 0 {
            let rows = TASK_ELEMENTS.div_ceil(width);
            out.par_chunks_mut(width * rows).enumerate().for_each(|(task, out)| {
                let first = task * rows;
                let input = &input[first * width..][..out.len()];
                run(kernel, first, width, input, out, level);
            });
        }
        Ok(out)
    })?;
    Tensor::from_vec(out, x.shape(), x.device())
}

/// As [`map_rows`], with the result in the memory of `x`, which nobody else may hold.
pub(crate) fn map_rows_in_place(x: Tensor, kernel: &impl RowKernel) -> Result<Tensor> {
    if !x.is_contiguous() {
        return map_rows(&x, kernel);
    }
    let width = x.dim(candle_core::D::Minus1)?;
    if width > 0 {
        x.inplace_op1(&InPlace { kernel, width })?;
    }
    Ok(x)
}

struct InPlace<'a, K> {
    kernel: &'a K,
    width: usize,
}

impl<K: RowKernel> InplaceOp1 for InPlace<'_, K> {
    fn name(&self) -> &'static str {
        "rows in place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(all) = storage else {
            candle_core::bail!("expected f32");
        };
        let values = &mut all[layout.start_offset()..][..layout.shape().elem_count()];
        let (width, level) = (self.width, Level::detect());
        let rows = TASK_ELEMENTS.div_ceil(width);
        // A kernel reads rows that it does not write: each task's are copied, into memory that stays in the cache.
        values.par_chunks_mut(width * rows).enumerate().for_each_init(Vec::new, |copy, (task, out)| {
            copy.clear();
            copy.extend_from_slice(out);
            run(self.kernel, task * rows, width, copy, out, level);
        });
        Ok(())
    }
}

fn run(kernel: &impl RowKernel, first: usize, width: usize, input: &[f32], out: &mut [f32], level: Level) {
    match level {
        // SAFETY: `Level::available` found the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { run_avx512(kernel, first, width, input, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { run_avx2(kernel, first, width, input, out) },
        Level::Portable => run_here(kernel, first, width, input, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512(kernel: &impl RowKernel, first: usize, width: usize, input: &[f32], out: &mut [f32]) {
    run_here(kernel, first, width, input, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2(kernel: &impl RowKernel, first: usize, width: usize, input: &[f32], out: &mut [f32]) {
    run_here(kernel, first, width, input, out);
}

#[inline(always)]
fn run_here(kernel: &impl RowKernel, first: usize, width: usize, input: &[f32], out: &mut [f32]) {
    for (i, (input, out)) in input.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
        kernel.row(first + i, input, out);
    }
}

/// Sum in sixteen lanes: vector code, and more accurate than one running sum.
#[inline(always)]
pub(crate) fn sum_of(values: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = values.chunks_exact(16);
    for (lane, v) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = f(*v);
    }
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f(*v);
        }
    }
    lanes.iter().map(|v| f64::from(*v)).sum::<f64>() as f32
}

/// Largest value, in sixteen lanes.
#[inline(always)]
pub(crate) fn max_of(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = values.chunks_exact(16);
    for (lane, v) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = *v;
    }
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane = if *v > *lane { *v } else { *lane };
        }
    }
    lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}
