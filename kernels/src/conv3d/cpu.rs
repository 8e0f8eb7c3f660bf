//! Implicit GEMM on the host: a tile of the output is summed straight from a zero-padded copy of the input under it,
//! read at one offset per tap, so that no im2col matrix exists. Memory beside input and output is a few hundred KiB
//! and one row of sums per output channel and tile, per thread.

use std::cell::RefCell;

use candle_core::{Result, Storage, Tensor};
use rayon::prelude::*;

use super::simd::{Block, POSITION_QUANTUM, READ_SLACK};
use super::{Input, Plan, Spatial};
use crate::level::Level;

/// Positions of a tile: sums of 96 channels then fill 400 KiB, about what stays in a core's second-level cache.
const TILE_POSITIONS: usize = 1024;
/// Width of a tile that has neighbours, chosen so that the padded row is 128 floats.
const TILE_COLUMNS: usize = 126;
/// Floats of packed input at a time: 256 KiB.
const PACKED_INPUT: usize = 64 << 10;
/// Tasks for each thread below which tiles are made smaller.
const TASKS_PER_THREAD: usize = 3;

/// Weights in the order of the inner loop: `[group of output channels][input channel][tap][output channel]`, short
/// groups filled with zeros.
#[derive(Debug)]
pub(super) struct Packed {
    group: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Packed {
    /// `weight` `[O, I, kT, kH, kW]`, `bias` `[O]`.
    pub(super) fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let out_channels = weight.dim(0)?;
        let group = if out_channels > 4 { 8 } else { 4 };
        let inner = weight.elem_count() / out_channels;
        let plain = weight.flatten_all()?.to_vec1::<f32>()?;
        let mut weights = vec![0f32; out_channels.div_ceil(group) * group * inner];
        for (o, row) in plain.chunks_exact(inner).enumerate() {
            let base = (o / group) * group * inner + o % group;
            for (k, w) in row.iter().enumerate() {
                weights[base + k * group] = *w;
            }
        }
        Ok(Self { group, weights, bias: bias.to_vec1()? })
    }
}

/// One frame of the input, all batches and channels.
#[derive(Clone, Copy)]
struct Frame<'a> {
    data: &'a [f32],
    channel_stride: usize,
    offset: usize,
}

/// A rectangle of one output frame.
#[derive(Clone, Copy)]
struct Tile {
    batch: usize,
    frame: usize,
    y: usize,
    x: usize,
    rows: usize,
    columns: usize,
}

/// The result's memory, written by tiles that do not overlap.
struct Output(*mut f32);
// SAFETY: tiles are disjoint, so no element is touched by two threads.
unsafe impl Sync for Output {}

thread_local! {
    /// Packed input and sums, kept because a tile may take less time than fresh pages do.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

pub(super) fn conv3d(packed: &Packed, plan: &Plan, input: &Input, level: Level) -> Result<Tensor> {
    let device = input.x.device();
    let dims = plan.out_dims();
    let tensors: Vec<Tensor> = input
        .history
        .iter()
        .chain(std::iter::once(input.x))
        .chain(input.residual)
        .map(Tensor::contiguous)
        .collect::<Result<_>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = Vec::with_capacity(guards.len());
    for (storage, layout) in &guards {
        let Storage::Cpu(cpu) = &**storage else {
            candle_core::bail!("conv3d: expected tensors on the host");
        };
        slices.push(&cpu.as_slice::<f32>()?[layout.start_offset()..][..layout.shape().elem_count()]);
    }

    let area = plan.height * plan.width;
    let zeros = plan.geometry.frames_before - input.history.len();
    let mut frames: Vec<Option<Frame>> = vec![None; zeros];
    for data in &slices[..input.history.len()] {
        frames.push(Some(Frame { data, channel_stride: area, offset: 0 }));
    }
    let data = slices[input.history.len()];
    for t in 0..plan.frames {
        frames.push(Some(Frame { data, channel_stride: plan.frames * area, offset: t * area }));
    }
    let residual = input.residual.map(|_| slices[slices.len() - 1]);

    let mut out = vec![0f32; dims.iter().product()];
    let work = Work { packed, plan: flat_plan(plan), frames, residual, output: Output(out.as_mut_ptr()), level };
    let tiles = work.tiles();
    tiles.into_par_iter().for_each(|tile| SCRATCH.with_borrow_mut(|(a, b)| work.tile(tile, a, b)));
    Tensor::from_vec(out, &dims, device)
}

/// Without neighbours a frame is one long row.
fn flat_plan(plan: &Plan) -> Plan {
    let mut flat = *plan;
    if plan.filter[3..] == [1, 1] && plan.geometry.spatial == Spatial::Same {
        (flat.height, flat.width) = (1, plan.height * plan.width);
        (flat.out_height, flat.out_width) = (1, flat.width);
    }
    flat
}

struct Work<'a> {
    packed: &'a Packed,
    plan: Plan,
    frames: Vec<Option<Frame<'a>>>,
    residual: Option<&'a [f32]>,
    output: Output,
    level: Level,
}

impl Work<'_> {
    fn tiles(&self) -> Vec<Tile> {
        let plan = &self.plan;
        let (height, width) = (plan.out_height, plan.out_width);
        let widest = if plan.filter[4] == 1 { TILE_POSITIONS } else { TILE_COLUMNS };
        let across = width.div_ceil(widest);
        let mut down = height.div_ceil((TILE_POSITIONS / width.div_ceil(across.max(1)).max(1)).max(1));
        let wanted = TASKS_PER_THREAD * rayon::current_num_threads();
        while down < height && plan.batch * plan.out_frames * across * down < wanted {
            down = (2 * down).min(height);
        }
        let (rows, columns) = (height.div_ceil(down.max(1)).max(1), width.div_ceil(across.max(1)).max(1));
        let mut tiles = Vec::new();
        for batch in 0..plan.batch {
            for frame in 0..plan.out_frames {
                for y in (0..height).step_by(rows) {
                    for x in (0..width).step_by(columns) {
                        let (rows, columns) = (rows.min(height - y), columns.min(width - x));
                        tiles.push(Tile { batch, frame, y, x, rows, columns });
                    }
                }
            }
        }
        tiles
    }

    /// Computes one tile and writes it.
    fn tile(&self, tile: Tile, input: &mut Vec<f32>, sums: &mut Vec<f32>) {
        let plan = &self.plan;
        let [out_channels, in_channels, kt, kh, kw] = plan.filter;
        let group = self.packed.group;
        let first = tile.frame * plan.geometry.temporal_stride;
        let seen = &self.frames[first..first + kt];
        // Zero frames stand in front only; their taps are left out.
        let zeros = seen.iter().take_while(|f| f.is_none()).count();
        let seen: Vec<Frame> = seen.iter().flatten().copied().collect();

        let padded = Padded::new(plan, &tile);
        let channel_stride = seen.len() * padded.size();
        let mut taps = Vec::with_capacity(seen.len() * kh * kw);
        for t in 0..seen.len() {
            for ky in 0..kh {
                for kx in 0..kw {
                    taps.push(t * padded.size() + padded.tap(ky, kx));
                }
            }
        }
        let positions = ((tile.rows - 1) * padded.pitch + tile.columns).next_multiple_of(POSITION_QUANTUM);
        let groups = out_channels.div_ceil(group);
        sums.clear();
        for o in 0..groups * group {
            let bias = self.packed.bias.get(o).copied().unwrap_or(0.0);
            sums.resize((o + 1) * positions, bias);
        }
        let block_channels = (PACKED_INPUT / channel_stride.max(1)).clamp(1, in_channels);
        let length = block_channels * channel_stride + positions + READ_SLACK;
        if input.len() < length {
            input.resize(length, 0.0);
        }
        let weight_taps = kt * kh * kw;
        debug_assert_eq!(weight_taps - zeros * kh * kw, taps.len());
        for c in (0..in_channels).step_by(block_channels) {
            let channels = block_channels.min(in_channels - c);
            for (i, planes) in input[..channels * channel_stride].chunks_exact_mut(channel_stride).enumerate() {
                for (frame, plane) in seen.iter().zip(planes.chunks_exact_mut(padded.size())) {
                    let start = frame.offset + (tile.batch * in_channels + c + i) * frame.channel_stride;
                    padded.fill(plane, &frame.data[start..][..plan.height * plan.width]);
                }
            }
            for g in 0..groups {
                Block {
                    input,
                    channels,
                    channel_stride,
                    taps: &taps,
                    weights: &self.packed.weights[(g * in_channels + c) * weight_taps * group..],
                    weight_taps,
                    group,
                    sums: &mut sums[g * group * positions..][..group * positions],
                }
                .run(self.level);
            }
        }
        for (o, sums) in sums.chunks_exact(positions).take(out_channels).enumerate() {
            let plane = (tile.batch * out_channels + o) * plan.out_frames + tile.frame;
            for row in 0..tile.rows {
                let at = (plane * plan.out_height + tile.y + row) * plan.out_width + tile.x;
                let sums = &sums[row * padded.pitch..][..tile.columns];
                // SAFETY: a row of this tile, which lies in the result and belongs to no other tile.
                let out = unsafe { std::slice::from_raw_parts_mut(self.output.0.add(at), tile.columns) };
                match self.residual {
                    Some(residual) => {
                        for ((out, sum), r) in out.iter_mut().zip(sums).zip(&residual[at..]) {
                            *out = sum + r;
                        }
                    }
                    None => out.copy_from_slice(sums),
                }
            }
        }
    }
}

/// The zero-padded copy of one input plane under a tile: rows of `pitch` floats, of which position p and tap (ky, kx)
/// together address `p + tap(ky, kx)`.
struct Padded {
    spatial: Spatial,
    height: usize,
    width: usize,
    /// First row and column needed, in the coordinates that the kernel moves in.
    top: isize,
    left: isize,
    rows: usize,
    pitch: usize,
}

impl Padded {
    fn new(plan: &Plan, tile: &Tile) -> Self {
        let [.., kh, kw] = plan.filter;
        let spatial = plan.geometry.spatial;
        let (height, width) = (plan.height, plan.width);
        if spatial == Spatial::Halve {
            let (top, left) = (2 * tile.y as isize, 2 * tile.x as isize);
            return Self { spatial, height, width, top, left, rows: tile.rows + 1, pitch: tile.columns + 1 };
        }
        let (top, left) = (tile.y as isize - (kh / 2) as isize, tile.x as isize - (kw / 2) as isize);
        Self { spatial, height, width, top, left, rows: tile.rows + kh - 1, pitch: tile.columns + kw - 1 }
    }

    /// Floats of a plane.
    fn size(&self) -> usize {
        let phases = if self.spatial == Spatial::Halve { 4 } else { 1 };
        phases * self.rows * self.pitch
    }

    fn tap(&self, ky: usize, kx: usize) -> usize {
        match self.spatial {
            // Rows and columns are kept apart by parity, so that a stride of two becomes one.
            Spatial::Halve => (ky % 2 * 2 + kx % 2) * self.rows * self.pitch + ky / 2 * self.pitch + kx / 2,
            Spatial::Same | Spatial::Double => ky * self.pitch + kx,
        }
    }

    fn fill(&self, plane: &mut [f32], source: &[f32]) {
        match self.spatial {
            Spatial::Same => {
                for (r, row) in plane.chunks_exact_mut(self.pitch).enumerate() {
                    match self.source_row(source, self.top + r as isize) {
                        Some(from) => copy_padded(row, from, self.left),
                        None => row.fill(0.0),
                    }
                }
            }
            Spatial::Double => {
                for (r, row) in plane.chunks_exact_mut(self.pitch).enumerate() {
                    match self.source_row(source, (self.top + r as isize).div_euclid(2)) {
                        Some(from) => copy_doubled(row, from, self.left),
                        None => row.fill(0.0),
                    }
                }
            }
            Spatial::Halve => {
                for (phase, part) in plane.chunks_exact_mut(self.rows * self.pitch).enumerate() {
                    for (r, row) in part.chunks_exact_mut(self.pitch).enumerate() {
                        match self.source_row(source, self.top + (2 * r + phase / 2) as isize) {
                            Some(from) => {
                                let start = self.left.unsigned_abs() + phase % 2;
                                let mut from = from.iter().skip(start).step_by(2);
                                row.fill_with(|| from.next().copied().unwrap_or(0.0));
                            }
                            None => row.fill(0.0),
                        }
                    }
                }
            }
        }
    }

    fn source_row<'a>(&self, source: &'a [f32], y: isize) -> Option<&'a [f32]> {
        let y = usize::try_from(y).ok().filter(|y| *y < self.height)?;
        Some(&source[y * self.width..][..self.width])
    }
}

/// `row[i] = from[left + i]`, zero outside `from`.
fn copy_padded(row: &mut [f32], from: &[f32], left: isize) {
    let before = left.min(0).unsigned_abs().min(row.len());
    let start = left.max(0).unsigned_abs().min(from.len());
    let count = (row.len() - before).min(from.len() - start);
    row[..before].fill(0.0);
    row[before..before + count].copy_from_slice(&from[start..start + count]);
    row[before + count..].fill(0.0);
}

/// `row[i] = from[⌊(left + i)/2⌋]`, zero outside `from`.
fn copy_doubled(row: &mut [f32], from: &[f32], left: isize) {
    let at = |x: isize| usize::try_from(x).ok().and_then(|x| from.get(x)).copied().unwrap_or(0.0);
    let mut source = left.div_euclid(2);
    // An odd start sees the second copy of its pixel only.
    let single = (left.rem_euclid(2) as usize).min(row.len());
    let (head, pairs) = row.split_at_mut(single);
    if single == 1 {
        head.fill(at(source));
        source += 1;
    }
    // Whole pairs: zeros before the row, the row, zeros behind it.
    let before = source.min(0).unsigned_abs().min(pairs.len() / 2);
    let start = source.max(0).unsigned_abs().min(from.len());
    let mut values = std::iter::repeat_n(0.0, before).chain(from[start..].iter().copied());
    let (whole, rest) = pairs.as_chunks_mut::<2>();
    whole.fill_with(|| [values.next().unwrap_or(0.0); 2]);
    rest.fill(values.next().unwrap_or(0.0));
}
