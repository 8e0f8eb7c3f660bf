//! The product of im2col's rows, a block at a time, with the weights.

use rayon::prelude::*;

use super::host::{Scratch, Work, panels_per_task, with_scratch};
use crate::gemm::{Buffer, CHUNK, Product, Rows, panel_columns, panel_width};
use crate::level::Level;
use crate::vector::{Task, Vector, copy, run_at};

/// Values of a row that are multiplied at a time: a panel of them, 64 KiB, passes through the second-level cache.
const BLOCK_K: usize = 512;
/// Rows of a block; with [`BLOCK_K`] they fill a quarter of a second-level cache.
const BLOCK_ROWS: usize = 112;
/// Output channels of a task; the sums of its rows then fill as much as the rows.
const TASK_CHANNELS: usize = 512;

/// `weight` `[O, I, k, k]` → panels `[k·k·I][channel]`.
pub(super) fn pack(weight: &[f32], [out_channels, in_channels, size]: [usize; 3], level: Level) -> Buffer {
    let (width, taps) = (panel_width(level), size * size);
    let k = taps * in_channels;
    let count = out_channels.next_multiple_of(width / 2) * k;
    let mut packed = Buffer::zeros(count);
    if count > 0 {
        packed.all_mut()[..count].par_chunks_mut(width * k).enumerate().for_each(|(p, panel)| {
            let columns = panel_columns(p, out_channels, width);
            for (o, row) in weight.chunks_exact(k).skip(p * width).take(columns).enumerate() {
                for (i, taps_of) in row.chunks_exact(taps).enumerate() {
                    for (tap, w) in taps_of.iter().enumerate() {
                        panel[(tap * in_channels + i) * columns + o] = *w;
                    }
                }
            }
        });
    }
    packed
}

pub(super) fn run(work: &Work) {
    let plan = &work.plan;
    let rows = plan.batch * plan.out_height * plan.out_width;
    let width = panel_width(work.packed.level);
    let panels = plan.out_channels.div_ceil(width);
    let blocks = rows.div_ceil(BLOCK_ROWS);
    let panels_at_once = panels_per_task(blocks, panels, TASK_CHANNELS / width);
    let across = panels.div_ceil(panels_at_once);
    (0..blocks * across).into_par_iter().for_each(|task| {
        let (block, part) = (task / across, task % across);
        let first_row = block * rows / blocks;
        let count = (block + 1) * rows / blocks - first_row;
        let first_panel = part * panels_at_once;
        let panels = first_panel..(first_panel + panels_at_once).min(panels);
        with_scratch(|scratch| {
            run_at(work.packed.level, Block { work, first_row, count, panels, scratch });
        });
    });
}

/// Some output pixels and some panels of output channels.
struct Block<'a> {
    work: &'a Work<'a>,
    first_row: usize,
    count: usize,
    panels: std::ops::Range<usize>,
    scratch: &'a mut Scratch,
}

impl Task for Block<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { work, first_row, count, panels, scratch } = self;
        let plan = &work.plan;
        let k = plan.size * plan.size * plan.in_channels;
        let width = 2 * V::LANES;
        let first_channel = panels.start * width;
        let pitch = panels.len() * width;
        let sums = scratch.sums.first(count * pitch);
        for first_k in (0..k.max(1)).step_by(BLOCK_K) {
            let block_k = BLOCK_K.min(k - first_k);
            let rows = Rows::new::<V>(count, block_k);
            let packed = scratch.rows.first(rows.floats());
            let row = scratch.row.first(BLOCK_K);
            // SAFETY: the instructions are the caller's.
            unsafe { im2col::<V>(work, first_row, first_k, block_k, &rows, packed, row) };
            for p in panels.clone() {
                let at = (p - panels.start) * width;
                let columns = panel_columns(p, plan.out_channels, width);
                let panel = &work.packed.weights.all()[p * width * k + first_k * columns..];
                let start = (first_k == 0).then(|| &work.packed.bias.all()[p * width..]);
                let sums = &mut sums[at..];
                // SAFETY: the instructions are there; the product checks its slices.
                unsafe { V::call(Product { rows, packed, k: block_k, panel, width: columns, start, sums, pitch }) };
            }
        }
        // SAFETY: the instructions are the caller's.
        unsafe { plan.activation.apply::<V>(sums) };
        for (i, sums) in sums.chunks_exact(pitch).enumerate() {
            // SAFETY: rows and panels of this task alone.
            unsafe { work.write::<V>(first_row + i, first_channel, sums) };
        }
    }
}

/// Values of a row of im2col's matrix that lie side by side in the input: channels of one pixel of one source, or those
/// of several pixels side by side.
struct Run {
    ky: usize,
    kx: usize,
    source: usize,
    channel: usize,
    count: usize,
}

/// Values `first_k..first_k + block_k` of a row: the taps' pixels, one after the other, each with all channels of all
/// parts.
fn runs(work: &Work, first_k: usize, block_k: usize) -> Vec<Run> {
    let (plan, mut runs, mut before) = (&work.plan, Vec::<Run>::new(), 0);
    let dense = work.sources.len() == 1 && work.sources[0].is_dense();
    for tap in 0..plan.size * plan.size {
        for (source, channels) in work.sources.iter().map(|s| s.channels).enumerate() {
            let (from, to) = (before.max(first_k), (before + channels).min(first_k + block_k));
            if from < to {
                let (ky, kx) = (tap / plan.size, tap % plan.size);
                match runs.last_mut() {
                    Some(run) if dense && run.ky == ky => run.count += to - from,
                    _ => runs.push(Run { ky, kx, source, channel: from - before, count: to - from }),
                }
            }
            before += channels;
        }
    }
    runs
}

/// Packs values `first_k..` of output pixels `first_row..`. `row` has room for them, filled to whole chunks.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn im2col<V: Vector>(
    work: &Work,
    first_row: usize,
    first_k: usize,
    block_k: usize,
    rows: &Rows,
    packed: &mut [f32],
    row: &mut [f32],
) {
    let plan = &work.plan;
    let (mut x, y) = (first_row % plan.out_width, first_row / plan.out_width);
    let (mut y, mut batch) = (y % plan.out_height, y / plan.out_height);
    let runs = runs(work, first_k, block_k);
    let row = &mut row[..rows.chunks * CHUNK];
    row[block_k..].fill(0.0);
    for r in 0..rows.count {
        let (at, step) = rows.place(r);
        let from;
        if let [Run { ky: 0, kx: 0, source, channel, count }] = runs[..]
            && plan.size == 1
            && count % CHUNK == 0
            && work.sources[source].gate(batch).is_none()
        {
            from = &work.sources[source].pixel(batch, y * plan.stride, x * plan.stride)[channel..][..count];
        } else {
            // SAFETY: the instructions are the caller's.
            unsafe { gather::<V>(work, &runs, [batch, y, x], row) };
            from = &*row;
        }
        for (i, chunk) in from.as_chunks::<CHUNK>().0.iter().enumerate() {
            packed[at + i * step..][..CHUNK].copy_from_slice(chunk);
        }
        x += 1;
        if x == plan.out_width {
            (x, y) = (0, y + 1);
        }
        if y == plan.out_height {
            (y, batch) = (0, batch + 1);
        }
    }
}

/// One row of im2col's matrix.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
unsafe fn gather<V: Vector>(work: &Work, runs: &[Run], [batch, y, x]: [usize; 3], mut row: &mut [f32]) {
    let plan = &work.plan;
    // Taps before the picture's edge wrap to something large.
    let (top, left) = ((y * plan.stride).wrapping_sub(plan.size / 2), (x * plan.stride).wrapping_sub(plan.size / 2));
    for run in runs {
        let (y, x) = (top.wrapping_add(run.ky), left.wrapping_add(run.kx));
        let (mut to, rest) = row.split_at_mut(run.count);
        row = rest;
        let source = &work.sources[run.source];
        let end = run.channel + run.count;
        if end > source.channels && y < plan.height {
            let pixels = end.div_ceil(source.channels);
            if x < plan.width && pixels <= plan.width - x {
                // SAFETY: the instructions are the caller's.
                unsafe { copy::<V>(&source.values(batch, y, x, end)[run.channel..], to) };
                continue;
            }
            let mut channel = run.channel;
            for i in 0..pixels {
                let (values, rest) = to.split_at_mut((source.channels - channel).min(to.len()));
                let x = x.wrapping_add(i);
                if x < plan.width {
                    values.copy_from_slice(&source.pixel(batch, y, x)[channel..][..values.len()]);
                } else {
                    values.fill(0.0);
                }
                (to, channel) = (rest, 0);
            }
            continue;
        }
        if y >= plan.height || x >= plan.width {
            to.fill(0.0);
            continue;
        }
        let pixel = &source.pixel(batch, y, x)[run.channel..][..run.count];
        match source.gate(batch) {
            Some(gate) => {
                for ((to, x), g) in to.iter_mut().zip(pixel).zip(&gate[run.channel..]) {
                    *to = x * g;
                }
            }
            // SAFETY: the instructions are the caller's.
            None => unsafe { copy::<V>(pixel, to) },
        }
    }
}
