//! Row-parallel maps over contiguous f32 tensors on the host.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::level::Level;
use crate::vector::{Task, Vector, run_at};

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

/// As [`RowKernel`], with vectors at hand.
pub(crate) trait VectorRowKernel: Sync {
    /// `out` has the length of `input`.
    ///
    /// # Safety
    /// The machine has the instructions of `V`.
    unsafe fn row<V: Vector>(&self, index: usize, input: &[f32], out: &mut [f32]);
}

impl<K: RowKernel> VectorRowKernel for K {
    #[inline(always)]
    unsafe fn row<V: Vector>(&self, index: usize, input: &[f32], out: &mut [f32]) {
        RowKernel::row(self, index, input, out);
    }
}

/// Runs the kernel over every row of the last dimension; the output has the input's shape. A row is always computed by
/// one thread in one order, so results do not depend on the number of threads.
pub(crate) fn map_rows(x: &Tensor, kernel: &impl VectorRowKernel) -> Result<Tensor> {
    map_rows_at(x, kernel, Level::detect())
}

/// As [`map_rows`], with a given instruction set.
pub(crate) fn map_rows_at(x: &Tensor, kernel: &impl VectorRowKernel, level: Level) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?;
    let out = with_f32(x, |input| {
        let mut out = vec![0f32; input.len()];
        if width > 0 {
            let rows = TASK_ELEMENTS.div_ceil(width);
            out.par_chunks_mut(width * rows).enumerate().for_each(|(task, out)| {
                let first = task * rows;
                let input = &input[first * width..][..out.len()];
                run_at(level, Rows { kernel, first, width, input: Input::Apart(input), out });
            });
        }
        Ok(out)
    })?;
    Tensor::from_vec(out, x.shape(), x.device())
}

/// As [`map_rows`], with the result in the memory of `x`, which nobody else may hold.
pub(crate) fn map_rows_in_place(x: Tensor, kernel: &impl VectorRowKernel) -> Result<Tensor> {
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

impl<K: VectorRowKernel> InplaceOp1 for InPlace<'_, K> {
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
        values.par_chunks_mut(width * rows).enumerate().for_each_init(
            || vec![0f32; width],
            |copy, (task, out)| {
                let (kernel, first, input) = (self.kernel, task * rows, Input::Copied(copy));
                run_at(level, Rows { kernel, first, width, input, out });
            },
        );
        Ok(())
    }
}

/// Rows that a kernel reads. They are never those that it writes.
pub(crate) enum Input<'a> {
    Apart(&'a [f32]),
    /// Those that it writes over, one after the other copied here, where they stay in the cache.
    Copied(&'a mut [f32]),
}

/// Rows that lie behind each other.
pub(crate) struct Rows<'a, K> {
    pub kernel: &'a K,
    /// Index of the first.
    pub first: usize,
    pub width: usize,
    pub input: Input<'a>,
    pub out: &'a mut [f32],
}

impl<K: VectorRowKernel> Task for Rows<'_, K> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let rows = self.out.chunks_exact_mut(self.width).enumerate();
        match self.input {
            Input::Apart(input) => {
                for ((i, out), input) in rows.zip(input.chunks_exact(self.width)) {
                    // SAFETY: the caller's.
                    unsafe { self.kernel.row::<V>(self.first + i, input, out) };
                }
            }
            Input::Copied(copy) => {
                for (i, out) in rows {
                    copy.copy_from_slice(out);
                    // SAFETY: the caller's.
                    unsafe { self.kernel.row::<V>(self.first + i, copy, out) };
                }
            }
        }
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
