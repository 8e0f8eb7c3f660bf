//! RMS norm over the channels of `[B, C, ..]`, with SiLU in the same pass.

use candle_core::{Device, Result, Storage, Tensor};
use rayon::prelude::*;

use crate::exp::exp;
use crate::level::Level;

/// Neighbouring positions that one task takes: 2 KiB of each channel.
const POSITIONS: usize = 512;

/// `y[c] = gamma[c]·√C·x[c] / max(‖x‖₂, 1e-12)`, the norm over the channels of each position; then SiLU if asked for.
/// `x` `[B, C, ..]` f32, `gamma` `[C]` f32 → the shape of `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn channel_rms_norm(x: &Tensor, gamma: &Tensor, silu: bool) -> Result<Tensor> {
    if x.rank() < 2 || gamma.dims() != [x.dim(1)?] {
        candle_core::bail!("channel norm: {:?} gains for {:?}", gamma.dims(), x.dims());
    }
    match x.device() {
        Device::Cpu => on_host(x, gamma, silu, Level::detect()),
        _ => super::reference::channel_rms_norm(x, gamma, silu),
    }
}

/// The result's memory, written by tasks that do not overlap.
struct Output(*mut f32);
// SAFETY: tasks are disjoint, so no element is touched by two threads.
unsafe impl Sync for Output {}

pub(super) fn on_host(x: &Tensor, gamma: &Tensor, silu: bool, level: Level) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (batch, channels) = (x.dim(0)?, x.dim(1)?);
    let area = x.elem_count() / (batch * channels).max(1);
    let root = (channels as f32).sqrt();
    let gain: Vec<f32> = gamma.to_vec1::<f32>()?.iter().map(|g| g * root).collect();
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(cpu) = &*storage else {
        candle_core::bail!("channel norm: expected a tensor on the host");
    };
    let input = &cpu.as_slice::<f32>()?[layout.start_offset()..][..layout.shape().elem_count()];
    let mut out = vec![0f32; input.len()];
    let norm = Norm { input, output: Output(out.as_mut_ptr()), gain: &gain, area, silu };
    let tasks = batch * area.div_ceil(POSITIONS);
    (0..tasks).into_par_iter().for_each(|task| norm.run(task, level));
    drop(storage);
    Tensor::from_vec(out, x.shape(), x.device())
}

struct Norm<'a> {
    input: &'a [f32],
    output: Output,
    /// gamma·√C.
    gain: &'a [f32],
    /// Positions of a channel.
    area: usize,
    silu: bool,
}

impl Norm<'_> {
    fn run(&self, task: usize, level: Level) {
        match level {
            // SAFETY: `available` found the instructions.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { self.run_avx512(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { self.run_avx2(task) },
            // What the compiler makes of it is NEON where that is.
            _ => self.run_here(task),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn run_avx512(&self, task: usize) {
        self.run_here(task);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&self, task: usize) {
        self.run_here(task);
    }

    /// One run of positions, all channels; compiled once for each level.
    #[inline(always)]
    fn run_here(&self, task: usize) {
        let per_batch = self.area.div_ceil(POSITIONS);
        let start = task % per_batch * POSITIONS;
        let count = POSITIONS.min(self.area - start);
        let row = |c: usize| ((task / per_batch) * self.gain.len() + c) * self.area + start;
        let mut scale = [0f32; POSITIONS];
        let scale = &mut scale[..count];
        for c in 0..self.gain.len() {
            for (s, v) in scale.iter_mut().zip(&self.input[row(c)..][..count]) {
                *s += v * v;
            }
        }
        for s in scale.iter_mut() {
            *s = s.sqrt().max(1e-12).recip();
        }
        for (c, gain) in self.gain.iter().enumerate() {
            let input = &self.input[row(c)..][..count];
            // SAFETY: channel c of this task's positions, inside the result and nobody else's.
            let out = unsafe { std::slice::from_raw_parts_mut(self.output.0.add(row(c)), count) };
            for ((o, x), s) in out.iter_mut().zip(input).zip(scale.iter()) {
                let y = x * s * gain;
                *o = if self.silu { y / (1.0 + exp(-y)) } else { y };
            }
        }
    }
}
