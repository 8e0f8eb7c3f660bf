//! Keys and values in the order in which the products read them.
//!
//! Keys come in tiles. A tile's keys are panels of two vectors of columns (of one, if that is enough for the last of
//! them), `[header and words of a key][column]`, and its values likewise, `[words of keys][channel]`.

use std::ops::Range;

use super::factors::{Kind, Scores, Weights, Work};
use crate::vector::Vector;

/// Keys that are taken together: sums of this many terms are made before they are added to those of other tiles.
const TILE: usize = 256;

/// Keys by which the last tile may be larger, rather than that a few make a tile of their own: CLIP has 257 tokens.
const MORE: usize = 64;

/// Most keys of a tile.
pub(super) const LARGEST_TILE: usize = TILE + MORE;

/// Elements of `[B, H, L, D]`, in any order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads<'a> {
    pub values: &'a [f32],
    pub strides: [usize; 4],
    /// D.
    pub width: usize,
}

impl<'a> Heads<'a> {
    /// Token `i` of a head; `space` serves where it is not contiguous.
    #[inline(always)]
    fn row<'b>(&self, [batch, head]: [usize; 2], i: usize, space: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        let [b, h, l, d] = self.strides;
        let from = &self.values[batch * b + head * h + i * l..];
        if d == 1 {
            return &from[..self.width];
        }
        let space = &mut space[..self.width];
        space.iter_mut().enumerate().for_each(|(c, x)| *x = from[c * d]);
        space
    }

    /// The mean of the tokens `0..count` of a head.
    pub fn mean(&self, at: [usize; 2], count: usize, mean: &mut [f32]) {
        let mut space = vec![0f32; 2 * self.width];
        let mut total = vec![0f64; self.width];
        let (part, space) = space.split_at_mut(self.width);
        for first in (0..count).step_by(TILE) {
            part.fill(0.0);
            for i in first..count.min(first + TILE) {
                part.iter_mut().zip(self.row(at, i, space)).for_each(|(p, x)| *p += x);
            }
            total.iter_mut().zip(&*part).for_each(|(t, p)| *t += f64::from(*p));
        }
        mean.iter_mut().zip(total).for_each(|(m, t)| *m = (t / count as f64) as f32);
    }
}

/// Sizes of one head, as a kind of factors wants them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Geometry {
    /// Lk.
    pub keys: usize,
    /// Channels of a query and a key, and of a value.
    pub widths: [usize; 2],
    pub lanes: usize,
    /// Rows of the kernel.
    pub rows: usize,
    /// Words of a key, and of its header.
    pub words: usize,
    pub header: usize,
    /// Keys in a word of weights.
    pub per_word: usize,
    pub centred: bool,
}

/// Where a tile of keys lies in its packed head, in words.
#[derive(Debug, Clone)]
pub(super) struct Tile {
    /// Which of the head's.
    pub tokens: Range<usize>,
    pub keys: Range<usize>,
    pub values: Range<usize>,
}

impl Geometry {
    pub fn new(kind: Kind, keys: usize, widths: [usize; 2]) -> Self {
        let mut geometry = Self { keys, widths, ..Self::default() };
        kind.run(Measure(&mut geometry));
        geometry
    }

    /// Columns of a panel.
    pub fn panel(&self) -> usize {
        2 * self.lanes
    }

    pub fn tiles(&self) -> usize {
        if self.keys <= LARGEST_TILE { self.keys.min(1) } else { (self.keys - MORE).div_ceil(TILE) }
    }

    /// Words of `count` keys, and of their values.
    fn tile_words(&self, count: usize) -> [usize; 2] {
        let keys = count.next_multiple_of(self.lanes) * (self.header + self.words);
        [keys, count.div_ceil(self.per_word) * self.widths[1].next_multiple_of(self.lanes)]
    }

    pub fn tile(&self, t: usize) -> Tile {
        let end = if t + 1 == self.tiles() { self.keys } else { (t + 1) * TILE };
        let tokens = t * TILE..end;
        let start = t * self.tile_words(TILE).iter().sum::<usize>();
        let [keys, values] = self.tile_words(tokens.len());
        Tile { tokens, keys: start..start + keys, values: start + keys..start + keys + values }
    }

    /// Words of a packed head.
    pub fn head_words(&self) -> usize {
        self.tiles().checked_sub(1).map_or(0, |last| self.tile(last).values.end)
    }

    /// Floats for one row of either, and words for a panel of keys or a row of values.
    pub fn packing_space(&self) -> [usize; 2] {
        let row = self.widths[0].max(self.widths[1]);
        [2 * row, (self.panel() * self.words).max(self.widths[1])]
    }
}

struct Measure<'a>(&'a mut Geometry);

impl Work for Measure<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, S: Scores<V>, W: Weights<V>>(self) {
        let geometry = self.0;
        geometry.lanes = V::LANES;
        geometry.rows = V::ROWS;
        geometry.words = geometry.widths[0].div_ceil(S::PER_WORD);
        geometry.header = S::HEADER;
        geometry.per_word = W::PER_WORD;
        geometry.centred = S::CENTRED;
    }
}

/// Packs a tile of one head.
pub(super) struct PackTile<'a> {
    pub geometry: &'a Geometry,
    pub tile: Tile,
    pub at: [usize; 2],
    pub keys: Heads<'a>,
    pub values: Heads<'a>,
    /// Of all keys, where they are centred.
    pub mean: &'a [f32],
    /// Of the tile, keys before values.
    pub packed: &'a mut [u32],
    /// See [`Geometry::packing_space`].
    pub floats: &'a mut [f32],
    pub words: &'a mut [u32],
}

impl Work for PackTile<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector, S: Scores<V>, W: Weights<V>>(self) {
        let Self { geometry, tile, at, keys, values, mean, packed, floats, words } = self;
        let (packed_keys, packed_values) = packed.split_at_mut(tile.keys.len());
        let panel = 2 * V::LANES;
        let half = floats.len() / 2;
        let (first, second) = floats.split_at_mut(half);

        let depth = geometry.words;
        for (p, packed) in packed_keys.chunks_mut(panel * (S::HEADER + depth)).enumerate() {
            let width = packed.len() / (S::HEADER + depth);
            for column in 0..width {
                let words = &mut words[column * depth..][..depth];
                let token = tile.tokens.start + p * panel + column;
                let mut header = [0; 2];
                if token < tile.tokens.end {
                    let mut row = keys.row(at, token, first);
                    if S::CENTRED {
                        let centred = &mut second[..row.len()];
                        centred.iter_mut().zip(row).zip(mean).for_each(|((c, x), m)| *c = x - m);
                        row = centred;
                    }
                    header = S::key(row, words);
                } else {
                    words.fill(0);
                }
                for (h, word) in header.iter().enumerate().take(S::HEADER) {
                    packed[h * width + column] = *word;
                }
            }
            for (k, packed) in packed[S::HEADER * width..].chunks_exact_mut(width).enumerate() {
                packed.iter_mut().enumerate().for_each(|(column, w)| *w = words[column * depth + k]);
            }
        }

        let channels = geometry.widths[1];
        let rows = tile.tokens.len().div_ceil(W::PER_WORD);
        let words = &mut words[..channels];
        for k in 0..rows {
            let token = tile.tokens.start + k * W::PER_WORD;
            let one = values.row(at, token, first);
            if W::PER_WORD == 2 && token + 1 < tile.tokens.end {
                W::values(&[one, values.row(at, token + 1, second)], words);
            } else {
                W::values(&[one], words);
            }
            for (p, words) in words.chunks(panel).enumerate() {
                let width = if words.len() <= V::LANES { V::LANES } else { panel };
                let packed = &mut packed_values[p * panel * rows + k * width..][..width];
                packed[..words.len()].copy_from_slice(words);
                packed[words.len()..].fill(0);
            }
        }
    }
}

/// Packs `count` queries as rows of the kernel, in groups of its rows: `[group][chunk][row][word of a chunk]`. Rows
/// that a group has beyond are zero.
pub(super) struct PackQueries<'a> {
    pub geometry: &'a Geometry,
    pub at: [usize; 2],
    pub queries: Heads<'a>,
    pub rows: Range<usize>,
    pub scale: f32,
    pub packed: &'a mut [u32],
    pub row_scales: &'a mut [f32],
    pub floats: &'a mut [f32],
    pub words: &'a mut [u32],
}

impl PackQueries<'_> {
    /// `sizes` are the rows of the groups.
    #[inline(always)]
    pub fn run<V: Vector, S: Scores<V>>(self, size: impl Fn(usize) -> usize) {
        use super::factors::CHUNK;
        let Self { geometry, at, queries, rows, scale, packed, row_scales, floats, words } = self;
        let chunks = geometry.words.div_ceil(CHUNK);
        let words = &mut words[..geometry.words];
        packed.fill(0);
        for (i, token) in rows.clone().enumerate() {
            row_scales[i] = S::query(queries.row(at, token, floats), scale, words);
            let group = i / V::ROWS;
            let size = size(rows.len() - group * V::ROWS);
            let packed = &mut packed[group * V::ROWS * chunks * CHUNK..];
            for (c, words) in words.chunks(CHUNK).enumerate() {
                packed[(c * size + i % V::ROWS) * CHUNK..][..words.len()].copy_from_slice(words);
            }
        }
    }
}
