//! Row-parallel maps over contiguous f32 tensors on the host.

use candle_core::{Result, Storage, Tensor};
use rayon::prelude::*;

/// Rows that one task takes at a time: large enough that scheduling does not show.
const ROWS_PER_TASK: usize = 16;

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

/// `f(row index, input row, output row)` for every row of the last dimension; the output has the input's shape. A row
/// is always computed by one thread in one order, so results do not depend on the number of threads.
pub(crate) fn map_rows(x: &Tensor, f: impl Fn(usize, &[f32], &mut [f32]) + Sync) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?;
    let out = with_f32(x, |input| {
        let mut out = vec![0f32; input.len()];
        if width > 0 {
            out.par_chunks_mut(width * ROWS_PER_TASK).enumerate().for_each(|(task, rows)| {
                for (i, row) in rows.chunks_mut(width).enumerate() {
                    let r = task * ROWS_PER_TASK + i;
                    f(r, &input[r * width..(r + 1) * width], row);
                }
            });
        }
        Ok(out)
    })?;
    Tensor::from_vec(out, x.shape(), x.device())
}
