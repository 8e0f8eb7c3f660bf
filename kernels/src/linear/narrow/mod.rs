//! Products in bf16 and int8 on the host. Inputs are rounded and repacked once; a few rows of the matrix are packed at a time
//! into memory that stays in a core's cache: as they are where they are stored so, else decoded and rounded there.
//!
//! Inputs lie side by side in the lanes of a vector and numbers of the matrix are spread over all lanes, so that a row of the
//! matrix is packed by copying, and an input's sums do not depend on its neighbours. Rotated matrices are multiplied with
//! rotated inputs, as in [`tiles`](super::tiles).

mod few;
mod inputs;
mod kernel;
mod tile;
mod weights;

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::Job;
use super::input::{Form, Rounded};
use super::rounding::scale_is_of_row;
use crate::Compute;
use crate::gemm::CHUNK;
use crate::level::Level;
use crate::norm::LayerNorm;
use crate::quant::{Scales, View};
use crate::rows::{Input, Rows};
use crate::vector::run_at;
use inputs::{Floats, Inputs, Panels, Round, Words};
use kernel::{Bf16, Int8, Narrow, WIDTH};
use tile::{Scratch, TILE_ROWS, Tile};

/// Rows of inputs with which packing rows of the matrix takes longer than multiplying: they are multiplied as they lie.
const FEW: usize = 4;
/// Most inputs that are repacked at a time: a thread holds sums of as many.
const MOST_ROWS: usize = 1024;
/// Most bytes of repacked inputs, which all threads go through for every tile: what a shared cache may hold.
const PACKED_BYTES: usize = 16 << 20;

/// What a matrix is multiplied with, `[count, in]`.
pub(super) enum Values<'a> {
    Floats(&'a [f32]),
    /// Likewise rounded already.
    Rounded(&'a Rounded),
}

/// `x` times the transposed matrix: both rounded to bf16, or `x` rounded to int8 by row and the matrix int8 with at most one scale a
/// row; needs the instructions.
pub(super) fn product(x: Values, compute: Compute, job: Job) -> Vec<f32> {
    match compute {
        Compute::Int8 => product_in::<Int8>(x, job),
        Compute::F32 | Compute::Bf16 => product_in::<Bf16>(x, job),
    }
}

/// Most bytes of memory that a [`product`] takes with `threads`.
pub(super) fn workspace_bytes(rows: usize, columns: usize, threads: usize) -> usize {
    bytes::<Bf16>(rows, columns, threads).max(bytes::<Int8>(rows, columns, threads))
}

fn bytes<N: Narrow>(rows: usize, columns: usize, threads: usize) -> usize {
    // A little for the allocator, and for scales.
    const MARGIN: usize = 64 << 10;
    let packed = if rows <= FEW { rows } else { step::<N>(rows, columns).min(rows).next_multiple_of(CHUNK) };
    let sums = if rows <= FEW { 0 } else { packed };
    4 * (packed * words::<N>(columns) + threads * (Floats::rotated::<N>(columns) + Scratch::words(sums)))
        + threads * MARGIN
}

/// Words of a row: whole chunks.
fn words<N: Narrow>(columns: usize) -> usize {
    columns.div_ceil(N::NUMBERS).next_multiple_of(CHUNK)
}

/// Inputs that are repacked at a time.
fn step<N: Narrow>(count: usize, columns: usize) -> usize {
    let most = (PACKED_BYTES / 4 / words::<N>(columns).max(1)).clamp(WIDTH, MOST_ROWS) / WIDTH * WIDTH;
    count.div_ceil(count.div_ceil(most).max(1)).next_multiple_of(WIDTH)
}

/// A matrix without the scales that its sums can be multiplied with, and those.
#[derive(Clone, Copy)]
struct Factored<'a> {
    weight: View<'a>,
    scales: &'a Scales,
}

impl<'a> Factored<'a> {
    fn new(weight: View<'a>) -> Self {
        if !scale_is_of_row(weight.encoding, weight.scales) {
            return Self { weight, scales: &Scales::None };
        }
        Self { weight: View { scales: &Scales::None, ..weight }, scales: weight.scales }
    }

    #[inline(always)]
    fn scale(&self, row: usize) -> f32 {
        match self.scales {
            Scales::Matrix(scale) => *scale,
            Scales::Rows(scales) => scales[row],
            Scales::None | Scales::Blocks { .. } => 1.0,
        }
    }
}

fn product_in<N: Narrow>(x: Values, job: Job) -> Vec<f32> {
    let Job { count, weight, output } = job;
    let View { rows: out_features, columns, rotation, .. } = weight;
    let inputs = match x {
        Values::Floats(x) => Inputs::Floats(Floats { x, columns, rotation }),
        Values::Rounded(Rounded { words, scales }) => Inputs::Words(Words { words, scales }),
    };
    let mut out = Vec::with_capacity(count * out_features);
    if count * out_features == 0 {
        return out;
    }
    let place = output.place(&mut out, [count, out_features]);
    let weight = Factored::new(weight);
    if count <= FEW {
        few::product::<N>(inputs, count, weight, &place);
    } else {
        let step = step::<N>(count, columns);
        let mut panels = Panels::new::<N>(step.min(count), columns);
        for first in (0..count).step_by(step) {
            let rows = step.min(count - first);
            panels.pack::<N>(inputs.rows(first, rows), rows);
            let rows = tile_rows(out_features);
            draw(out_features.div_ceil(rows), Scratch::new, |scratch, task, next| {
                let tile = |task: usize| (task * rows, rows.min(out_features.saturating_sub(task * rows)));
                let task =
                    Tile { panels: &panels, weight, tile: tile(task), next: tile(next), scratch, first, out: &place };
                // SAFETY: whoever asks for a kind has its instructions.
                unsafe { N::call(task) };
            });
        }
    }
    // SAFETY: every element of every row has been written.
    unsafe { out.set_len(count * out_features) };
    out
}

/// Numbers that are normalised at a time before they are rounded, made whole rows: they stay in a core's cache.
const NORMED: usize = 16 << 10;

/// Rows `[rows, columns]` of `x` normalised and rounded in one pass; needs the instructions of what they are rounded to.
pub(super) fn normed(x: &[f32], columns: usize, norm: &LayerNorm, form: Form) -> Rounded {
    match form.compute {
        Compute::Int8 => normed_in::<Int8>(x, columns, norm, form.rotation),
        Compute::F32 | Compute::Bf16 => normed_in::<Bf16>(x, columns, norm, form.rotation),
    }
}

fn normed_in<N: Narrow>(x: &[f32], columns: usize, norm: &LayerNorm, rotation: Option<usize>) -> Rounded {
    let (rows, pitch) = (x.len() / columns.max(1), words::<N>(columns));
    let mut words = Vec::with_capacity(rows * pitch);
    // SAFETY: there is room for them, and they need not hold anything.
    unsafe { words.set_len(rows * pitch) };
    let mut scales = vec![0.0; rows];
    let task = NORMED.div_ceil(columns.max(1)).max(1);
    let tasks = x.par_chunks(task * columns.max(1)).zip(words.par_chunks_mut(task * pitch.max(1)));
    tasks.zip(scales.par_chunks_mut(task)).for_each_init(Vec::new, |normed, ((x, words), scales)| {
        normed.resize(x.len(), 0.0);
        let rows = Rows { kernel: norm, first: 0, width: columns, input: Input::Apart(x), out: normed };
        run_at(Level::detect(), rows);
        let inputs = Floats { x: normed, columns, rotation };
        // SAFETY: whoever asks for a kind has its instructions.
        unsafe { N::call(Round { inputs, words, scales }) };
    });
    Rounded { words, scales }
}

/// Rows of the matrix that a task takes: so many that no thread waits long for the last one.
fn tile_rows(out_features: usize) -> usize {
    /// Tasks of a thread where there are enough rows.
    const TASKS: usize = 4;
    let threads = rayon::current_num_threads();
    let fewest = threads * TASKS.min(out_features.div_ceil(threads * SMALL_TILE)).max(1);
    let tasks = out_features.div_ceil(TILE_ROWS).max(fewest);
    out_features.div_ceil(tasks.next_multiple_of(threads)).max(1)
}

/// Rows of the matrix below which a task costs more than it saves.
const SMALL_TILE: usize = 28;

/// Runs tasks on all threads, each of which draws the next one when it has done one; `run` is told which one comes next if
/// nobody is faster.
fn draw<S>(tasks: usize, scratch: impl Fn() -> S + Sync, run: impl Fn(&mut S, usize, usize) + Sync) {
    let drawn = AtomicUsize::new(0);
    let threads = rayon::current_num_threads().min(tasks);
    (0..threads).into_par_iter().with_max_len(1).for_each(|_| {
        let mut scratch = scratch();
        loop {
            let task = drawn.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            run(&mut scratch, task, drawn.load(Ordering::Relaxed));
        }
    });
}
