//! Winograd's F(4×4, 3×3): 36 products for 16 outputs instead of 144 (Lavin and Gray, "Fast Algorithms for Convolutional
//! Neural Networks", 2015).
//!
//! The points are 0, ±5/8, ±3/2 and ∞. With them one layer of 256 channels is off by 1.4e-6 in f32, with the common
//! 0, ±1, ±2 by 3.1e-6, and summed directly by 0.9e-6.

use std::ops::Range;

use rayon::prelude::*;

use super::host::{Scratch, Work, panels_per_task, with_scratch};
use super::plan::Source;
use crate::gemm::{Buffer, CHUNK, Product, Rows, panel_columns, panel_width};
use crate::level::Level;
use crate::vector::{Task, Vector, run_at};

/// Outputs of a tile along a side, and inputs under them.
const OUT: usize = 4;
const IN: usize = 6;
const FREQUENCIES: usize = IN * IN;
/// Finite points other than zero: ±A and ±B.
const A: f64 = 0.625;
const B: f64 = 1.5;

/// Floats of a block's transformed inputs and products, about what a second-level cache holds with the weights that
/// pass through.
const BLOCK_FLOATS: usize = 384 << 10;
/// Tiles of a block: enough that a weight is worth its way from memory, and no more than help.
const BLOCK_TILES: Range<usize> = 28..112;

/// `weight` `[O, I, 3, 3]` → panels `[frequency][I][channel]`.
pub(super) fn pack(weight: &[f32], [out_channels, in_channels]: [usize; 2], level: Level) -> Buffer {
    let width = panel_width(level);
    let count = out_channels.next_multiple_of(width / 2) * in_channels * FREQUENCIES;
    let mut packed = Buffer::zeros(count);
    if count > 0 {
        let panels = packed.all_mut()[..count].par_chunks_mut(width * in_channels * FREQUENCIES);
        panels.enumerate().for_each(|(p, panel)| {
            let columns = panel_columns(p, out_channels, width);
            let filters = weight.chunks_exact(9 * in_channels).skip(p * width).take(columns);
            for (o, filters) in filters.enumerate() {
                for (i, filter) in filters.as_chunks::<9>().0.iter().enumerate() {
                    for (f, u) in filter_points(filter).into_iter().enumerate() {
                        panel[(f * in_channels + i) * columns + o] = u;
                    }
                }
            }
        });
    }
    packed
}

/// `G·g·Gᵀ`.
fn filter_points(g: &[f32; 9]) -> [f32; FREQUENCIES] {
    // Row p of G is (1, p, p²) over the product of p's distances to the other finite points; ∞'s is (0, 0, 1).
    let (a2, b2) = (A * A, B * B);
    let (na, nb) = (2.0 * a2 * (a2 - b2), 2.0 * b2 * (b2 - a2));
    let points = |g: [f64; 3]| {
        let (a, b) = (g[0] + a2 * g[2], g[0] + b2 * g[2]);
        [g[0] / (a2 * b2), (a + A * g[1]) / na, (a - A * g[1]) / na, (b + B * g[1]) / nb, (b - B * g[1]) / nb, g[2]]
    };
    let columns: [[f64; IN]; 3] = std::array::from_fn(|x| points(std::array::from_fn(|y| f64::from(g[3 * y + x]))));
    let rows: [[f64; IN]; IN] = std::array::from_fn(|i| points(std::array::from_fn(|x| columns[x][i])));
    std::array::from_fn(|f| rows[f / IN][f % IN] as f32)
}

/// `Bᵀ·d`.
#[inline(always)]
unsafe fn input_points<V: Vector>(d: [V; IN]) -> [V; IN] {
    // SAFETY: arithmetic; the instructions are the caller's.
    unsafe {
        let (a2, b2) = (V::splat((A * A) as f32), V::splat((B * B) as f32));
        let (a, b) = (V::splat(A as f32), V::splat(B as f32));
        let (sum, product) = (V::splat((A * A + B * B) as f32), V::splat((A * A * B * B) as f32));
        // Even and odd parts of the polynomials that vanish at all points but one.
        let (even_a, odd_a) = (d[2].mul_sub_from(b2, d[4]), d[1].mul_sub_from(b2, d[3]));
        let (even_b, odd_b) = (d[2].mul_sub_from(a2, d[4]), d[1].mul_sub_from(a2, d[3]));
        [
            product.mul_add(d[0], d[2].mul_sub_from(sum, d[4])),
            a.mul_add(odd_a, even_a),
            a.mul_sub_from(odd_a, even_a),
            b.mul_add(odd_b, even_b),
            b.mul_sub_from(odd_b, even_b),
            product.mul_add(d[1], d[3].mul_sub_from(sum, d[5])),
        ]
    }
}

/// `Aᵀ·m`.
#[inline(always)]
unsafe fn output_sums<V: Vector>(m: [V; IN]) -> [V; OUT] {
    let powers = |p: f64| [p, p * p, p * p * p];
    // SAFETY: arithmetic; the instructions are the caller's.
    unsafe {
        let [a, a2, a3] = powers(A).map(|p| V::splat(p as f32));
        let [b, b2, b3] = powers(B).map(|p| V::splat(p as f32));
        let (plus_a, minus_a) = (m[1].add(m[2]), m[1].sub(m[2]));
        let (plus_b, minus_b) = (m[3].add(m[4]), m[3].sub(m[4]));
        [
            m[0].add(plus_a).add(plus_b),
            a.mul_add(minus_a, b.mul(minus_b)),
            a2.mul_add(plus_a, b2.mul(plus_b)),
            a3.mul_add(minus_a, b3.mul_add(minus_b, m[5])),
        ]
    }
}

pub(super) fn run(work: &Work) {
    let plan = &work.plan;
    let (down, across) = (plan.out_height.div_ceil(OUT), plan.out_width.div_ceil(OUT));
    let tiles = plan.batch * down * across;
    let width = panel_width(work.packed.level);
    let depth = plan.in_channels.next_multiple_of(CHUNK) + width;
    let most = (BLOCK_FLOATS / (FREQUENCIES * depth)).clamp(BLOCK_TILES.start, BLOCK_TILES.end);
    let blocks = tiles.div_ceil(most);
    let panels = plan.out_channels.div_ceil(width);
    let panels_at_once = panels_per_task(blocks, panels, panels);
    let parts = panels.div_ceil(panels_at_once);
    // A pixel outside the picture.
    let zeros = vec![0f32; work.sources.iter().map(|s| s.channels).max().unwrap_or(0)];
    let chunks = chunks(&work.sources);
    (0..blocks * parts).into_par_iter().for_each(|task| {
        let (block, part) = (task / parts, task % parts);
        let tiles = block * tiles / blocks..(block + 1) * tiles / blocks;
        let panels = part * panels_at_once..((part + 1) * panels_at_once).min(panels);
        let block = Block { work, zeros: &zeros, down, across, tiles, panels, chunks: &chunks };
        with_scratch(|scratch| run_at(work.packed.level, (&block, scratch)));
    });
}

/// Some tiles of the output and some panels of output channels.
struct Block<'a> {
    work: &'a Work<'a>,
    zeros: &'a [f32],
    /// Tiles of a picture.
    down: usize,
    across: usize,
    tiles: Range<usize>,
    panels: Range<usize>,
    /// What each chunk of channels is made of.
    chunks: &'a [Vec<Piece>],
}

/// Channels of one source.
#[derive(Clone, Copy)]
struct Piece {
    source: usize,
    from: usize,
    count: usize,
}

/// The channels of all sources, cut into chunks.
fn chunks(sources: &[Source]) -> Vec<Vec<Piece>> {
    let mut chunks: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for (source, channels) in sources.iter().map(|s| s.channels).enumerate() {
        let mut from = 0;
        while from < channels {
            if room == 0 {
                chunks.push(Vec::new());
                room = CHUNK;
            }
            let count = room.min(channels - from);
            if let Some(chunk) = chunks.last_mut() {
                chunk.push(Piece { source, from, count });
            }
            (from, room) = (from + count, room - count);
        }
    }
    chunks
}

impl Task for (&Block<'_>, &mut Scratch) {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (block, scratch) = self;
        let plan = &block.work.plan;
        let packed = block.work.packed;
        let (count, k, width) = (block.tiles.len(), plan.in_channels, 2 * V::LANES);
        let rows = Rows::new::<V>(count, k);
        // Odd numbers of cache lines, so that the frequencies of one tile do not fall into one set of a cache.
        let odd_lines = |floats: usize| (floats.div_ceil(CHUNK) | 1) * CHUNK;
        let (stride, sums_stride) = (odd_lines(rows.floats()), odd_lines(count * width));
        let points = scratch.rows.first(FREQUENCIES * stride);
        let sums = scratch.sums.first(FREQUENCIES * sums_stride);
        let tile = scratch.row.first((FREQUENCIES * CHUNK).max(OUT * OUT * width));
        // SAFETY: the instructions are the caller's; lengths as taken above.
        unsafe { block.transform_inputs::<V>(&rows, points, stride, tile) };
        for p in block.panels.clone() {
            let columns = panel_columns(p, plan.out_channels, width);
            let panel = &packed.weights.all()[p * width * k * FREQUENCIES..];
            for f in 0..FREQUENCIES {
                let product = Product {
                    rows,
                    packed: &points[f * stride..][..stride],
                    k,
                    panel: &panel[f * k * columns..],
                    width: columns,
                    start: Some(&[0.0; 32][..columns]),
                    sums: &mut sums[f * sums_stride..][..sums_stride],
                    pitch: columns,
                };
                // SAFETY: the instructions are there; the product checks its slices.
                unsafe { V::call(product) };
            }
            // SAFETY: as above; tiles and channels of this task alone.
            unsafe { block.transform_outputs::<V>(p * width, columns, sums, sums_stride, tile) };
        }
    }
}

impl Block<'_> {
    /// Picture, first row and first column of a tile's outputs.
    #[inline(always)]
    fn place(&self, tile: usize) -> [usize; 3] {
        let row = tile / self.across;
        [row / self.down, row % self.down * OUT, tile % self.across * OUT]
    }

    /// `points[frequency][tile][channel]` in the order of [`Rows`], `stride` from one frequency to the next. `mixed`
    /// holds one chunk of a tile's pixels.
    #[inline(always)]
    unsafe fn transform_inputs<V: Vector>(&self, rows: &Rows, points: &mut [f32], stride: usize, mixed: &mut [f32]) {
        let plan = &self.work.plan;
        let mixed = &mut mixed[..FREQUENCIES * CHUNK];
        let mut pixels = vec![[self.zeros.as_ptr(); FREQUENCIES]; self.work.sources.len()];
        for (t, tile) in self.tiles.clone().enumerate() {
            let [batch, y, x] = self.place(tile);
            for (source, pixels) in self.work.sources.iter().zip(&mut pixels) {
                for (f, pixel) in pixels.iter_mut().enumerate() {
                    // Pixels before the edge wrap to something large.
                    let (y, x) = ((y + f / IN).wrapping_sub(1), (x + f % IN).wrapping_sub(1));
                    let inside = y < plan.height && x < plan.width;
                    *pixel = if inside { source.pixel(batch, y, x) } else { self.zeros }.as_ptr();
                }
            }
            let (at, step) = rows.place(t);
            for (i, chunk) in self.chunks.iter().enumerate() {
                let to = points[at + i * step..].as_mut_ptr();
                // SAFETY: pixels and gates have the channels of their source, `points` all frequencies of the tile.
                unsafe {
                    if let [Piece { source, from, count, .. }] = *chunk.as_slice() {
                        let gate = self.work.sources[source].gate(batch).map(|g| g[from..].as_ptr());
                        transform_chunk::<V>(&pixels[source], from, gate, count, to, stride);
                        continue;
                    }
                    let mut count = 0;
                    for piece in chunk {
                        let gate = self.work.sources[piece.source].gate(batch).map(|g| &g[piece.from..][..piece.count]);
                        for (pixel, mixed) in pixels[piece.source].iter().zip(mixed.chunks_exact_mut(CHUNK)) {
                            let pixel = std::slice::from_raw_parts(pixel.add(piece.from), piece.count);
                            let mixed = &mut mixed[count..][..piece.count];
                            mixed.copy_from_slice(pixel);
                            for (x, g) in mixed.iter_mut().zip(gate.unwrap_or_default()) {
                                *x *= g;
                            }
                        }
                        count += piece.count;
                    }
                    let pixels = std::array::from_fn(|f| mixed[f * CHUNK..].as_ptr());
                    transform_chunk::<V>(&pixels, 0, None, count, to, stride);
                }
            }
        }
    }

    /// `sums[frequency][tile][column]` → the output's pixels. `tile` holds one tile's.
    #[inline(always)]
    unsafe fn transform_outputs<V: Vector>(
        &self,
        channel: usize,
        columns: usize,
        sums: &[f32],
        stride: usize,
        tile: &mut [f32],
    ) {
        let plan = &self.work.plan;
        let tile = &mut tile[..OUT * OUT * columns];
        let bias = &self.work.packed.bias.all()[channel..][..columns];
        for (t, index) in self.tiles.clone().enumerate() {
            for first in (0..columns).step_by(V::LANES) {
                let from = sums[t * columns + first..].as_ptr();
                // SAFETY: `sums` has all frequencies of the tile, `tile` all its outputs, `bias` the columns.
                unsafe {
                    let bias = V::load(bias[first..].as_ptr());
                    let mut middle = [[V::splat(0.0); IN]; OUT];
                    for j in 0..IN {
                        let m = std::array::from_fn(|i| V::load(from.add((i * IN + j) * stride)));
                        for (middle, y) in middle.iter_mut().zip(output_sums(m)) {
                            middle[j] = y;
                        }
                    }
                    for (i, middle) in middle.into_iter().enumerate() {
                        for (j, y) in output_sums(middle).into_iter().enumerate() {
                            y.add(bias).store(tile[(i * OUT + j) * columns + first..].as_mut_ptr());
                        }
                    }
                }
            }
            // SAFETY: the caller's.
            unsafe { plan.activation.apply::<V>(tile) };
            let [batch, y, x] = self.place(index);
            for i in 0..OUT.min(plan.out_height - y) {
                let pixel = (batch * plan.out_height + y + i) * plan.out_width + x;
                for j in 0..OUT.min(plan.out_width - x) {
                    // SAFETY: the caller's.
                    unsafe { self.work.write::<V>(pixel + j, channel, &tile[(i * OUT + j) * columns..][..columns]) };
                }
            }
        }
    }
}

/// Transforms `count` channels from `from` on of a tile's pixels; writes frequencies `stride` apart.
#[inline(always)]
unsafe fn transform_chunk<V: Vector>(
    pixels: &[*const f32; FREQUENCIES],
    from: usize,
    gate: Option<*const f32>,
    count: usize,
    to: *mut f32,
    stride: usize,
) {
    for first in (0..count).step_by(V::LANES) {
        let lanes = V::LANES.min(count - first);
        // SAFETY: the caller's.
        unsafe {
            let gate = gate.map(|g| V::load_part(g.add(first), lanes));
            let to = to.add(first);
            if lanes == V::LANES {
                transform_input::<V>(|f| V::load(pixels[f].add(from + first)), gate, to, stride);
            } else {
                transform_input::<V>(|f| V::load_part(pixels[f].add(from + first), lanes), gate, to, stride);
            }
        }
    }
}

/// `Bᵀ·d·B` of a vector of channels.
#[inline(always)]
unsafe fn transform_input<V: Vector>(d: impl Fn(usize) -> V, gate: Option<V>, to: *mut f32, stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let mut middle = [[V::splat(0.0); IN]; IN];
        for j in 0..IN {
            let mut column = std::array::from_fn(|i| d(i * IN + j));
            if let Some(gate) = gate {
                column = column.map(|x: V| x.mul(gate));
            }
            for (middle, point) in middle.iter_mut().zip(input_points(column)) {
                middle[j] = point;
            }
        }
        for (i, middle) in middle.into_iter().enumerate() {
            for (j, point) in input_points(middle).into_iter().enumerate() {
                point.store(to.add((i * IN + j) * stride));
            }
        }
    }
}
