//! What all algorithms share on the host: packed weights, the result's memory, and what follows the sums.

use std::cell::RefCell;

use candle_core::{Result, Tensor};

use super::plan::{Plan, Slice, Source, in_rows};
use super::{Activation, Input, direct, winograd};
use crate::gemm::Buffer;
use crate::level::Level;
use crate::vector::{Vector, copy};

/// Tasks for each thread below which they are made smaller.
const TASKS_PER_THREAD: usize = 4;

/// How sums are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// The product of im2col's rows, which are made block by block, with the weights.
    Direct,
    /// Winograd's F(4×4, 3×3).
    Winograd,
}

impl Algorithm {
    /// The faster one for a filter `[O, I, k, k]`.
    pub(super) fn of([out_channels, in_channels, size, _]: [usize; 4], stride: usize) -> Self {
        // Transforms cost as much as products with about eight channels.
        if size == 3 && stride == 1 && in_channels >= 8 && out_channels >= 8 { Self::Winograd } else { Self::Direct }
    }
}

/// Weights in the order in which an algorithm reads them.
#[derive(Debug)]
pub(super) struct Packed {
    pub algorithm: Algorithm,
    pub level: Level,
    /// Panels of output channels: `[panel][k][channel]`, for Winograd's `[panel][frequency][k][channel]`. The last panel
    /// may be half as wide.
    pub weights: Buffer,
    /// Filled with zeros to whole panels.
    pub bias: Buffer,
}

impl Packed {
    pub(super) fn new(weight: &Tensor, bias: &Tensor, algorithm: Algorithm, level: Level) -> Result<Self> {
        let (out_channels, in_channels, size, _) = weight.dims4()?;
        let weight = weight.flatten_all()?.to_vec1::<f32>()?;
        let weights = match algorithm {
            Algorithm::Direct => direct::pack(&weight, [out_channels, in_channels, size], level),
            Algorithm::Winograd => winograd::pack(&weight, [out_channels, in_channels], level),
        };
        let bias = bias.to_vec1::<f32>()?;
        let mut padded = Buffer::zeros(out_channels + 64);
        padded.all_mut()[..out_channels].copy_from_slice(&bias);
        Ok(Self { algorithm, level, weights, bias: padded })
    }
}

/// One convolution.
pub(super) struct Work<'a> {
    pub plan: Plan,
    pub packed: &'a Packed,
    pub sources: Vec<Source<'a>>,
    residual: Option<&'a [f32]>,
    output: Output,
}

/// The result's memory, of which every task writes pixels and channels of its own.
struct Output(*mut f32);
// SAFETY: tasks do not overlap, so no element is touched by two threads.
unsafe impl Sync for Output {}

pub(super) fn conv2d(packed: &Packed, plan: Plan, input: &Input) -> Result<Tensor> {
    let mut tensors = Vec::with_capacity(2 * input.parts.len() + 1);
    for part in input.parts {
        tensors.push(in_rows(part.x)?);
    }
    for gate in input.parts.iter().filter_map(|p| p.gate).chain(input.residual) {
        tensors.push(gate.contiguous()?);
    }
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let slices = guards.iter().map(Slice::new).collect::<Result<Vec<_>>>()?;
    let (pictures, others) = slices.split_at(input.parts.len());
    let mut others = others.iter();
    let mut sources = Vec::with_capacity(pictures.len());
    for (part, x) in input.parts.iter().zip(pictures) {
        sources.push(Source::new(x, part.doubled, part.gate.and_then(|_| others.next()))?);
    }
    let residual = others.next().map(|r| r.data);

    let dims = plan.out_dims();
    let count = dims.iter().product();
    // Zeros would be written to memory that is about to be written anyway.
    let mut out: Vec<f32> = Vec::with_capacity(count);
    if count > 0 {
        let work = Work { plan, packed, sources, residual, output: Output(out.as_mut_ptr()) };
        match packed.algorithm {
            Algorithm::Direct => direct::run(&work),
            Algorithm::Winograd => winograd::run(&work),
        }
    }
    // SAFETY: the tasks of either algorithm cover all pixels and channels.
    unsafe { out.set_len(count) };
    Tensor::from_vec(out, &dims, input.parts[0].x.device())
}

impl Work<'_> {
    /// Writes `activation(sums) + residual` as channels of a pixel of the output, counted over pictures, rows, columns.
    ///
    /// # Safety
    /// As [`Task::run`](crate::vector::Task::run); the pixel and these channels belong to the calling task alone.
    #[inline(always)]
    pub(super) unsafe fn write<V: Vector>(&self, pixel: usize, channel: usize, values: &[f32]) {
        let channels = self.plan.out_channels;
        let count = values.len().min(channels - channel);
        let at = pixel * channels + channel;
        debug_assert!(at + count <= self.plan.out_dims().iter().product());
        // SAFETY: within the output, and the caller's alone.
        let out = unsafe { std::slice::from_raw_parts_mut(self.output.0.add(at), count) };
        match self.residual {
            Some(residual) => {
                for ((out, value), r) in out.iter_mut().zip(values).zip(&residual[at..]) {
                    *out = value + r;
                }
            }
            // SAFETY: the instructions are the caller's.
            None => unsafe { copy::<V>(values, out) },
        }
    }
}

impl Activation {
    /// In place.
    ///
    /// # Safety
    /// As [`Task::run`](crate::vector::Task::run).
    #[inline(always)]
    pub(super) unsafe fn apply<V: Vector>(self, values: &mut [f32]) {
        if self == Self::Identity {
            return;
        }
        let count = values.len();
        let (whole, values) = (count - count % V::LANES, values.as_mut_ptr());
        // SAFETY: within the values.
        unsafe {
            for i in (0..whole).step_by(V::LANES) {
                V::load(values.add(i)).silu().store(values.add(i));
            }
            if whole < count {
                V::load_part(values.add(whole), count - whole).silu().store_part(values.add(whole), count - whole);
            }
        }
    }
}

/// Memory of a thread, kept because a task may take less time than fresh pages do.
pub(super) struct Scratch {
    pub rows: Buffer,
    pub sums: Buffer,
    pub row: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { rows: Buffer::new(), sums: Buffer::new(), row: Buffer::new() }) };
}

pub(super) fn with_scratch(f: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(f);
}

/// Cuts `blocks` of rows times `panels` into tasks: how many panels one task takes, so that no thread is left without
/// work. Results do not depend on it.
pub(super) fn panels_per_task(blocks: usize, panels: usize, most: usize) -> usize {
    let wanted = (TASKS_PER_THREAD * rayon::current_num_threads()).div_ceil(blocks.max(1));
    panels.div_ceil(wanted.max(panels.div_ceil(most.max(1)))).max(1)
}
