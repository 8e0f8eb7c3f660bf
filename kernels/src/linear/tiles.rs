//! Products on the host: a few rows of the matrix are decoded at a time into memory that stays in a core's
//! cache, and multiplied there.
//!
//! A matrix whose rows were rotated is not rotated back: the Hadamard matrix is symmetric and orthonormal, so that
//! x·(W·H)ᵀ = (x·H)·Wᵀ, and there are fewer inputs than weights to rotate, or they are packed anyway.

use rayon::prelude::*;

use super::Job;
use super::epilogue::{Finishing, Place};
use crate::gemm::{Buffer, CHUNK, Product, Rows, panel_columns, panel_width};
use crate::level::Level;
use crate::quant::{Rotation, View, largest_group};
use crate::vector::{Task, Vector, run_at};

/// Rows of inputs with which decoding takes longer than multiplying: they are multiplied as they are.
const FEW: usize = 4;
/// Numbers of a matrix row that are decoded at a time: whole blocks.
const SPAN: usize = 512;
/// Inputs that are repacked at a time: 32 MiB. With less, rows would be decoded more often than pays.
const PACKED: usize = 8 << 20;
/// Most inputs for which a thread holds sums at once.
const MOST_ROWS: usize = 1024;
/// Rows of the matrix that a task takes where inputs are few.
const TASK_ROWS: usize = 32;

/// `x` times the transposed matrix, both in f32.
pub(super) fn product(x: &[f32], job: Job, level: Level) -> Vec<f32> {
    let Job { count, weight, output } = job;
    let View { rows: out_features, columns: in_features, .. } = weight;
    let mut out = Vec::with_capacity(count * out_features);
    if count * out_features == 0 {
        return out;
    }
    let place = output.place(&mut out, [count, out_features]);
    if count <= FEW {
        few(x, count, weight, &place, level);
    } else {
        let width = panel_width(level);
        let step = step(count, in_features, width);
        let mut packed = Buffer::zeros(step.min(count.next_multiple_of(width)) * in_features);
        for first in (0..count).step_by(step) {
            let rows = step.min(count - first);
            let x = &x[first * in_features..][..rows * in_features];
            let source = Source { x, rows, columns: in_features, rotation: weight.rotation, level };
            let panels = Panels::pack(&source, width, &mut packed);
            many(&panels, weight, &At { place: &place, first }, level);
        }
    }
    // SAFETY: every element of every row has been written.
    unsafe { out.set_len(count * out_features) };
    out
}

/// Rows of inputs that are repacked at a time.
fn step(count: usize, in_features: usize, width: usize) -> usize {
    let step = (PACKED / in_features.max(1)).min(MOST_ROWS).next_multiple_of(width).max(width);
    count.div_ceil(count.div_ceil(step)).next_multiple_of(width)
}

/// Numbers that a thread holds for `count` rows of inputs: groups of columns of a panel, whatever the rotation; then decoded rows,
/// a span before that, and sums; and a little for the allocator.
pub(super) fn scratch_floats(count: usize, in_features: usize) -> usize {
    const MARGIN: usize = 4 << 10;
    let level = Level::detect();
    let sums = count.min(MOST_ROWS).next_multiple_of(panel_width(level));
    let groups = panel_width(level) * largest_group(in_features).max(CHUNK);
    groups.max(tile_rows(level) * (SPAN + sums) + SPAN) + MARGIN
}

/// Floats of repacked inputs.
pub(super) fn packed_floats(count: usize, in_features: usize) -> usize {
    if count <= FEW { 0 } else { step(count, in_features, panel_width(Level::detect())) * in_features }
}

/// Each row of the matrix is decoded once and multiplied with all inputs.
fn few(x: &[f32], count: usize, weight: View, out: &Place, level: Level) {
    let out_features = weight.rows;
    let mut rotated = Vec::new();
    let x = match weight.rotation {
        None => x,
        Some(group) => {
            rotated.extend_from_slice(x);
            run_at(level, Rotation { x: &mut rotated, group });
            &rotated
        }
    };
    // [out][count]
    let mut sums = vec![0.0; count * out_features];
    sums.par_chunks_mut(TASK_ROWS * count).enumerate().for_each_init(Buffer::new, |decoded, (task, sums)| {
        for (i, sums) in sums.chunks_exact_mut(count).enumerate() {
            run_at(level, Dot { x, weight, row: task * TASK_ROWS + i, decoded: decoded.first(SPAN), sums });
        }
    });
    let mut line = vec![0.0; out_features];
    for m in 0..count {
        line.iter_mut().zip(sums[m..].iter().step_by(count)).for_each(|(o, s)| *o = *s);
        run_at(level, Finishing { place: out, row: m, first: 0, sums: &mut line });
    }
}

/// One row of the matrix with up to [`FEW`] rows of inputs.
struct Dot<'a> {
    x: &'a [f32],
    weight: View<'a>,
    row: usize,
    /// A span.
    decoded: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Task for Dot<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        const WAYS: usize = 4;
        let columns = self.weight.columns;
        let span = self.decoded.len();
        // SAFETY: the instructions are the caller's; no more is read than the slices hold.
        unsafe {
            let mut sums = [[V::splat(0.0); WAYS]; FEW];
            for from in (0..columns).step_by(span) {
                let decoded = &mut self.decoded[..span.min(columns - from)];
                V::call(self.weight.rotated_span(self.row, from, decoded));
                for (x, sums) in self.x.chunks_exact(columns).zip(&mut sums) {
                    let x = &x[from..][..decoded.len()];
                    let mut i = 0;
                    while i + WAYS * V::LANES <= x.len() {
                        for (way, sum) in sums.iter_mut().enumerate() {
                            let at = i + way * V::LANES;
                            *sum = V::load(x.as_ptr().add(at)).mul_add(V::load(decoded.as_ptr().add(at)), *sum);
                        }
                        i += WAYS * V::LANES;
                    }
                    while i < x.len() {
                        let count = (x.len() - i).min(V::LANES);
                        let (x, w) = (x.as_ptr().add(i), decoded.as_ptr().add(i));
                        sums[0] = V::load_part(x, count).mul_add(V::load_part(w, count), sums[0]);
                        i += count;
                    }
                }
            }
            for (out, [a, b, c, d]) in self.sums.iter_mut().zip(sums) {
                let mut lanes = [0.0; CHUNK];
                a.add(b).add(c.add(d)).store(lanes.as_mut_ptr());
                *out = lanes.iter().sum();
            }
        }
    }
}

/// Inputs as the matrix kernel's panels: `[panel][in][width]`, the last one half as wide if that is enough.
struct Panels<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    width: usize,
}

/// Inputs `[rows, columns]` to be packed, rotated before if the matrix is.
struct Source<'a> {
    x: &'a [f32],
    rows: usize,
    columns: usize,
    rotation: Option<usize>,
    level: Level,
}

impl<'a> Panels<'a> {
    fn pack(source: &Source, width: usize, buffer: &'a mut Buffer) -> Self {
        let &Source { x, rows, columns, rotation, level } = source;
        let values = &mut buffer.all_mut()[..rows.next_multiple_of(width) * columns];
        // A few columns at a time, so that lines of the panel are whole before they leave the cache.
        let step = rotation.unwrap_or(CHUNK).max(CHUNK);
        values.par_chunks_mut(width * columns.max(1)).enumerate().for_each_init(Buffer::new, |group, (p, panel)| {
            let wide = panel_columns(p, rows, width);
            let there = wide.min(rows - p * width);
            let x = &x[p * width * columns..][..there * columns];
            for from in (0..columns).step_by(step) {
                let count = step.min(columns - from);
                let group = group.first(there * count);
                for (to, x) in group.chunks_exact_mut(count).zip(x.chunks_exact(columns)) {
                    to.copy_from_slice(&x[from..][..count]);
                }
                if let Some(rotation) = rotation {
                    run_at(level, Rotation { x: group, group: rotation });
                }
                for k in 0..count {
                    let line = &mut panel[(from + k) * wide..][..wide];
                    for (v, x) in line.iter_mut().zip(group[k..].iter().step_by(count)) {
                        *v = *x;
                    }
                    line[there..].fill(0.0);
                }
            }
        });
        Self { values, rows, columns, width }
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(self.width)
    }

    /// Columns from `from` on of a panel, and its width.
    fn part(&self, p: usize, from: usize, count: usize) -> (&[f32], usize) {
        let wide = panel_columns(p, self.rows, self.width);
        let panel = &self.values[p * self.width * self.columns..];
        (&panel[from * wide..][..count * wide], wide)
    }
}

/// Where the results of repacked inputs belong.
struct At<'a> {
    place: &'a Place<'a>,
    /// The first of these inputs among all.
    first: usize,
}

/// Decoded rows in the kernel's order, a span before that, and sums.
struct Scratch {
    rows: Buffer,
    span: Buffer,
    sums: Buffer,
}

/// Rows of the matrix are split among tasks, each of which goes through the columns span by span.
fn many(panels: &Panels, weight: View, out: &At, level: Level) {
    let out_features = weight.rows;
    let tasks = out_features.div_ceil(tile_rows(level));
    let scratch = || Scratch { rows: Buffer::new(), span: Buffer::new(), sums: Buffer::new() };
    (0..tasks).into_par_iter().for_each_init(scratch, |scratch, task| {
        let first = task * tile_rows(level);
        let rows = tile_rows(level).min(out_features - first);
        run_at(level, Tile { panels, weight, first, rows, scratch, out });
    });
}

/// The most that [`tile_rows`] may say.
const MOST_TILE_ROWS: usize = 64;

/// Rows of the matrix that a task decodes: some groups of the kernel's.
fn tile_rows(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 56,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 48,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => 48,
        Level::Portable => 40,
    }
}

struct Tile<'a> {
    panels: &'a Panels<'a>,
    weight: View<'a>,
    first: usize,
    rows: usize,
    scratch: &'a mut Scratch,
    out: &'a At<'a>,
}

impl Task for Tile<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { panels, weight, first, rows, scratch, out } = self;
        let columns = weight.columns;
        let pitch = panels.width;
        let sums = scratch.sums.first(panels.count() * rows * pitch);
        sums.fill(0.0);
        for from in (0..columns).step_by(SPAN) {
            let count = SPAN.min(columns - from);
            let layout = Rows::new::<V>(rows, count);
            let packed = scratch.rows.first(layout.floats());
            let decoded = scratch.span.first(count);
            for row in 0..rows {
                // SAFETY: the instructions are the caller's.
                unsafe { V::call(weight.rotated_span(first + row, from, decoded)) };
                let (place, step) = layout.place(row);
                for (chunk, values) in decoded.chunks(CHUNK).enumerate() {
                    packed[place + chunk * step..][..values.len()].copy_from_slice(values);
                }
            }
            for p in 0..panels.count() {
                let (panel, width) = panels.part(p, from, count);
                let sums = &mut sums[p * rows * pitch..][..rows * pitch];
                let product = Product { rows: layout, packed, k: count, panel, width, start: None, sums, pitch };
                // SAFETY: as above.
                unsafe { V::call(product) };
            }
        }
        let mut line = [0.0; MOST_TILE_ROWS];
        let line = &mut line[..rows];
        for m in 0..panels.rows {
            let sums = &sums[m / pitch * rows * pitch + m % pitch..];
            line.iter_mut().zip(sums.iter().step_by(pitch)).for_each(|(o, sum)| *o = *sum);
            // SAFETY: as above.
            unsafe { out.place.finish::<V>(out.first + m, first, line) };
        }
    }
}
