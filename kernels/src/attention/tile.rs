//! A tile of queries against all keys of their head, with the softmax on the way.
//!
//! For each tile of keys and each group of queries: scores, weights in their place, and weighted values added to those of
//! the tiles before, which are scaled to the largest score so far. Scores are in powers of two. What happens to a query
//! does not depend on those beside it.

use std::ops::Range;

use super::factors::{CHUNK, Factors, Scores, Weights, Work, place};
use super::pack::{Geometry, Heads, LARGEST_TILE, PackQueries, Tile};
use crate::vector::Vector;

/// Queries that go through the keys of a head together, about: a multiple of a kernel's rows.
const QUERIES: usize = 96;

/// What a thread works in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// Queries of a tile.
    pub queries: usize,
    /// Floats of its parts, in the order of [`Parts`].
    lengths: [usize; 7],
}

/// [`Space`], cut.
pub(super) struct Parts<'a> {
    queries: &'a mut [f32],
    scores: &'a mut [f32],
    sums: &'a mut [f32],
    /// Of each query: what its scores are multiplied with and the largest so far, and the sum of weights in as many
    /// lanes as a vector has.
    rows: &'a mut [f32],
    totals: &'a mut [f32],
    pub floats: &'a mut [f32],
    pub words: &'a mut [f32],
}

impl Space {
    pub fn new(geometry: &Geometry) -> Self {
        let queries = QUERIES / geometry.rows * geometry.rows;
        let [floats, words] = geometry.packing_space();
        let lengths = [
            queries * geometry.words.next_multiple_of(CHUNK),
            geometry.rows * LARGEST_TILE,
            queries * geometry.widths[1].next_multiple_of(geometry.panel()),
            2 * queries,
            queries * geometry.lanes,
            floats,
            words,
        ];
        // Every part begins at a cache line.
        Self { queries, lengths: lengths.map(|n| n.next_multiple_of(CHUNK)) }
    }

    pub fn floats(&self) -> usize {
        self.lengths.iter().sum()
    }

    pub fn cut<'a>(&self, mut space: &'a mut [f32]) -> Parts<'a> {
        let [queries, scores, sums, rows, totals, floats, words] = self.lengths.map(|n| {
            let (part, rest) = std::mem::take(&mut space).split_at_mut(n);
            space = rest;
            part
        });
        Parts { queries, scores, sums, rows, totals, floats, words }
    }
}

/// Floats as the words that they are.
pub(super) fn words(floats: &mut [f32]) -> &mut [u32] {
    // SAFETY: both have the same size and alignment, and all bits are allowed.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), floats.len()) }
}

/// What is added to scaled scores: rows of Lk floats, one for each query of a head, which may overlap; the same one for all where
/// `pitch` is zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct BiasRows<'a> {
    pub values: &'a [f32],
    /// Where the first query's row begins.
    pub start: usize,
    /// Floats from one query's row to the next, backwards where negative.
    pub pitch: isize,
}

/// Where results go: `[B, Lq, H, D]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Out {
    pub start: *mut f32,
    /// Floats from one query to the next.
    pub pitch: usize,
}

// SAFETY: every task writes the rows of its own queries and head.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// Queries of one head.
pub(super) struct Attend<'a> {
    pub geometry: &'a Geometry,
    pub at: [usize; 2],
    pub queries: Heads<'a>,
    pub rows: Range<usize>,
    /// For scores in powers of two.
    pub scale: f32,
    pub bias: Option<BiasRows<'a>>,
    /// Keys and values of the head.
    pub packed: &'a [u32],
    pub parts: Parts<'a>,
    /// Of the head's first query.
    pub out: Out,
}

/// Rows for which there is a kernel: all that one has registers for, and fewer for what is left.
#[inline(always)]
const fn compiled(rows: usize, most: usize) -> bool {
    rows == most || (rows < most && (rows == 2 || rows == 4 || rows == 8))
}

/// Rows of the group that begins where `left` queries are left.
#[inline(always)]
fn group_rows<V: Vector>(left: usize) -> usize {
    (left.min(V::ROWS)..V::ROWS).find(|n| compiled(*n, V::ROWS)).unwrap_or(V::ROWS)
}

impl Work for Attend<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, S: Scores<V>, W: Weights<V>>(self) {
        let Self { geometry, at, queries, rows, scale, bias, packed, parts, out } = self;
        let count = rows.len();
        let columns = geometry.widths[1].next_multiple_of(2 * V::LANES);
        let depth = geometry.words.next_multiple_of(CHUNK);
        let padded = count.next_multiple_of(V::ROWS);
        let (row_scales, largest) = parts.rows.split_at_mut(parts.rows.len() / 2);
        assert!(parts.queries.len() >= padded * depth && parts.sums.len() >= padded * columns);
        assert!(largest.len() >= padded && parts.totals.len() >= padded * V::LANES);
        assert!(parts.scores.len() >= V::ROWS * LARGEST_TILE && packed.len() >= geometry.head_words());
        PackQueries {
            geometry,
            at,
            queries,
            rows: rows.clone(),
            scale,
            packed: words(parts.queries),
            row_scales,
            floats: parts.floats,
            words: words(parts.words),
        }
        .run::<V, S>(group_rows::<V>);
        largest.fill(f32::NEG_INFINITY);
        parts.totals.fill(0.0);
        parts.sums.fill(0.0);

        for t in 0..geometry.tiles() {
            let tile = geometry.tile(t);
            for first in (0..count).step_by(V::ROWS) {
                let group = Group {
                    geometry,
                    keys: packed[tile.keys.clone()].as_ptr(),
                    values: packed[tile.values.clone()].as_ptr(),
                    count: tile.tokens.len(),
                    queries: parts.queries[first * depth..].as_ptr().cast(),
                    row_scales: row_scales[first..].as_ptr(),
                    largest: largest[first..].as_mut_ptr(),
                    totals: parts.totals[first * V::LANES..].as_mut_ptr(),
                    scores: parts.scores.as_mut_ptr(),
                    sums: parts.sums[first * columns..].as_mut_ptr(),
                    bias: bias.map(|b| b.of(rows.start + first..rows.end, &tile)),
                };
                macro_rules! by_rows {
                    ($($n:literal)*) => {
                        match group_rows::<V>(count - first) {
                            // SAFETY: the instructions are the caller's; the lengths were checked.
                            $($n if compiled($n, V::ROWS) => unsafe { group.run::<V, S, W, $n>() },)*
                            _ => unreachable!("groups have at most {} rows", V::ROWS),
                        }
                    };
                }
                by_rows!(2 4 6 8 10 14);
            }
        }

        let channels = geometry.widths[1];
        for i in 0..count {
            let first = i / V::ROWS * V::ROWS;
            let (group, pitch) = (first * columns, group_rows::<V>(count - first) * 2 * V::LANES);
            // SAFETY: lengths as checked; the row of the result is this task's alone.
            unsafe {
                let total = V::load(parts.totals[i * V::LANES..].as_ptr()).total();
                let inverse = V::splat(1.0 / total);
                let to = out.start.add((rows.start + i) * out.pitch);
                for c in (0..channels).step_by(V::LANES) {
                    let panel = c / (2 * V::LANES);
                    let at = group + panel * pitch + (i - first) * 2 * V::LANES + c % (2 * V::LANES);
                    let mean = V::load(parts.sums[at..].as_ptr()).mul(inverse);
                    mean.store_part(to.add(c), V::LANES.min(channels - c));
                }
            }
        }
    }
}

impl<'a> BiasRows<'a> {
    /// The rows of some queries for a tile of keys, from which reading begins.
    #[inline(always)]
    fn of(&self, queries: Range<usize>, tile: &Tile) -> (*const f32, isize, usize) {
        let row = |query: usize| self.start.wrapping_add_signed(query as isize * self.pitch);
        let rows = [row(queries.start), row(queries.end - 1)];
        assert!(rows.iter().all(|row| *row <= self.values.len() && row + tile.tokens.end <= self.values.len()));
        (self.values[rows[0] + tile.tokens.start..].as_ptr(), self.pitch, queries.len())
    }
}

/// A group of queries and a tile of keys.
struct Group<'a> {
    geometry: &'a Geometry,
    keys: *const u32,
    values: *const u32,
    /// Keys.
    count: usize,
    /// `[chunk][row][word]`.
    queries: *const u32,
    row_scales: *const f32,
    largest: *mut f32,
    /// `[row][lane]`.
    totals: *mut f32,
    /// `[chunk][row][score]`; then weights.
    scores: *mut f32,
    /// `[panel][row][channel]`.
    sums: *mut f32,
    /// The first row, the step to the next, and how many there are.
    bias: Option<(*const f32, isize, usize)>,
}

impl Group<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, S: Scores<V>, W: Weights<V>, const ROWS: usize>(&self) {
        let mut decay = [0f32; ROWS];
        // SAFETY: the caller's.
        unsafe {
            self.score::<V, S, ROWS>();
            for (r, decay) in decay.iter_mut().enumerate() {
                *decay = self.weigh::<V, W, ROWS>(r);
            }
            self.add_values::<V, W, ROWS>(&decay);
        }
    }

    /// Scores of all keys, and −∞ where weights are computed beyond.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn score<V: Vector, S: Scores<V>, const ROWS: usize>(&self) {
        let (panel, depth) = (2 * V::LANES, self.geometry.words);
        let mut keys = self.keys;
        // SAFETY: the caller's.
        unsafe {
            for first in (0..self.count).step_by(panel) {
                macro_rules! block {
                    ($vectors:literal) => {{
                        let width = $vectors * V::LANES;
                        let mut start = [S::zero(); $vectors];
                        for v in 0..$vectors {
                            start[v] = S::start(keys.add(v * V::LANES));
                        }
                        let factors = keys.add(S::HEADER * width);
                        let sums = product::<V, S, ROWS, $vectors>(self.queries, depth, factors, start);
                        for r in 0..ROWS {
                            let row_scale = *self.row_scales.add(r);
                            for v in 0..$vectors {
                                let score = S::finish(sums[r][v], keys.add(v * V::LANES), width, row_scale);
                                let column = first + v * V::LANES;
                                score.store(self.scores.add(r * CHUNK + place(column, ROWS * CHUNK)));
                            }
                        }
                        keys = keys.add(width * (S::HEADER + depth));
                    }};
                }
                if self.count - first <= V::LANES { block!(1) } else { block!(2) }
            }
            for column in self.count..self.count.next_multiple_of(panel) {
                for r in 0..ROWS {
                    *self.scores.add(r * CHUNK + place(column, ROWS * CHUNK)) = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// Weights of a query in place of its scores; returns what earlier sums are worth.
    #[inline(always)]
    unsafe fn weigh<V: Vector, W: Weights<V>, const ROWS: usize>(&self, r: usize) -> f32 {
        let (pitch, panel) = (ROWS * CHUNK, 2 * V::LANES);
        // SAFETY: the caller's.
        unsafe {
            let row = self.scores.add(r * CHUNK);
            if let Some((bias, step, rows)) = self.bias {
                // Rows that are only there to fill a group take the last bias.
                let bias = bias.offset(r.min(rows - 1) as isize * step);
                for column in (0..self.count).step_by(V::LANES) {
                    let at = row.add(place(column, pitch));
                    let bias = V::load_part(bias.add(column), V::LANES.min(self.count - column));
                    bias.mul_add(V::splat(std::f32::consts::LOG2_E), V::load(at)).store(at);
                }
            }
            let mut most = [V::splat(f32::NEG_INFINITY); 2];
            for column in (0..self.count).step_by(panel) {
                for (i, most) in most.iter_mut().enumerate() {
                    *most = V::load(row.add(place(column + i * V::LANES, pitch))).max(*most);
                }
            }
            let old = *self.largest.add(r);
            let largest = most[0].max(most[1]).largest().max(old);
            *self.largest.add(r) = largest;
            // Where all keys so far are masked, differences would be no numbers.
            let zero = if largest == f32::NEG_INFINITY { 0.0 } else { largest };
            let decay = V::splat(old - zero).exp2();

            let zero = V::splat(zero);
            let mut total = [V::splat(0.0); 2];
            for column in (0..self.count).step_by(panel) {
                let mut weights = [V::splat(0.0); 2];
                for i in 0..2 {
                    weights[i] = V::load(row.add(place(column + i * V::LANES, pitch))).sub(zero).exp2();
                    total[i] = total[i].add(weights[i]);
                }
                W::store(weights, row, column, pitch);
            }
            let totals = self.totals.add(r * V::LANES);
            V::load(totals).mul_add(decay, total[0].add(total[1])).store(totals);
            decay.first()
        }
    }

    /// Adds the values by their weights.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn add_values<V: Vector, W: Weights<V>, const ROWS: usize>(&self, decay: &[f32; ROWS]) {
        let (panel, channels) = (2 * V::LANES, self.geometry.widths[1]);
        let depth = self.count.div_ceil(W::PER_WORD);
        let (mut values, mut to) = (self.values, self.sums);
        // SAFETY: the caller's.
        unsafe {
            for first in (0..channels).step_by(panel) {
                macro_rules! block {
                    ($vectors:literal) => {{
                        let start = [W::zero(); $vectors];
                        let sums = product::<V, W, ROWS, $vectors>(self.scores.cast(), depth, values, start);
                        for r in 0..ROWS {
                            for v in 0..$vectors {
                                let at = to.add(r * panel + v * V::LANES);
                                V::load(at).mul_add(V::splat(decay[r]), W::result(sums[r][v])).store(at);
                            }
                        }
                    }};
                }
                if channels - first <= V::LANES {
                    block!(1)
                } else {
                    block!(2)
                }
                values = values.wrapping_add(panel * depth);
                to = to.wrapping_add(ROWS * panel);
            }
        }
    }
}

/// Sums over `depth` words of rows (`[chunk][row][word]`) with a panel of columns (`[word][column]`), in their order.
#[inline(always)]
#[allow(clippy::needless_range_loop)]
unsafe fn product<V: Vector, F: Factors<V>, const ROWS: usize, const VECTORS: usize>(
    rows: *const u32,
    depth: usize,
    panel: *const u32,
    start: [F::Sum; VECTORS],
) -> [[F::Sum; VECTORS]; ROWS] {
    let (mut rows, mut panel) = (rows, panel);
    let mut sums = [start; ROWS];
    // One loop over all chunks: with two nested ones the sums do not stay in registers.
    for k in 1..=depth {
        // SAFETY: the caller's: rows and panel have as many words.
        unsafe {
            let mut columns = [F::load(panel); VECTORS];
            for v in 1..VECTORS {
                columns[v] = F::load(panel.wrapping_add(v * V::LANES));
            }
            for r in 0..ROWS {
                let x = F::splat(rows.wrapping_add(r * CHUNK));
                for v in 0..VECTORS {
                    sums[r][v] = F::mul_add(x, columns[v], sums[r][v]);
                }
            }
        }
        panel = panel.wrapping_add(VECTORS * V::LANES);
        rows = rows.wrapping_add(if k % CHUNK == 0 { 1 + (ROWS - 1) * CHUNK } else { 1 });
    }
    sums
}
