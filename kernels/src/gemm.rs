//! The product of packed rows with packed weights.
//!
//! Rows are packed in groups of at most as many as the kernel holds sums of, and within a group in chunks of sixteen
//! values: `[group][chunk][row][16]`. Whatever makes rows can store whole vectors of channels, and the kernel reads
//! all rows of a group at constant offsets from one address. Weights are packed in panels of two vectors of output
//! channels: `[k][channel]`.

use crate::level::Level;
use crate::vector::{Task, Vector};

/// Values of a row that lie side by side: a cache line.
pub(crate) const CHUNK: usize = 16;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; CHUNK]);

/// Floats that begin at a cache line, so that no vector lies across two.
#[derive(Debug)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn zeros(count: usize) -> Self {
        Self(vec![Line([0.0; CHUNK]); count.div_ceil(CHUNK)])
    }

    /// The first `count` floats, which hold what the last use left there. The buffer only grows.
    pub(crate) fn first(&mut self, count: usize) -> &mut [f32] {
        let lines = count.div_ceil(CHUNK);
        if self.0.len() < lines {
            // What it holds is not needed: nothing is copied.
            self.0 = Vec::new();
            self.0.resize(lines, Line([0.0; CHUNK]));
        }
        &mut self.all_mut()[..count]
    }

    pub(crate) fn all(&self) -> &[f32] {
        // SAFETY: a line is sixteen floats and nothing else.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * CHUNK) }
    }

    pub(crate) fn all_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * CHUNK) }
    }
}

/// Output channels of a panel.
pub(crate) fn panel_width(level: Level) -> usize {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 32,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 16,
        #[cfg(target_arch = "aarch64")]
        Level::Neon => 8,
        Level::Portable => 8,
    }
}

/// Columns of panel `p`: half a panel if that is enough for what is left.
#[inline(always)]
pub(crate) fn panel_columns(p: usize, out_channels: usize, width: usize) -> usize {
    if out_channels - p * width <= width / 2 { width / 2 } else { width }
}

/// Rows split into groups whose sizes differ by at most one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub count: usize,
    groups: usize,
    /// Chunks of a row.
    pub chunks: usize,
}

impl Rows {
    /// `count` rows of `k` values.
    pub(crate) fn new<V: Vector>(count: usize, k: usize) -> Self {
        Self { count, groups: count.div_ceil(V::ROWS), chunks: k.div_ceil(CHUNK) }
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// First row and rows of a group.
    #[inline(always)]
    pub(crate) fn group(&self, g: usize) -> (usize, usize) {
        let (rows, more) = (self.count / self.groups, self.count % self.groups);
        (g * rows + g.min(more), rows + usize::from(g < more))
    }

    /// Where a row's first chunk lies, and the step to its next one.
    #[inline(always)]
    pub(crate) fn place(&self, row: usize) -> (usize, usize) {
        let (rows, more) = (self.count / self.groups, self.count % self.groups);
        let g = if row < more * (rows + 1) { row / (rows + 1) } else { (row - more) / rows };
        let (first, rows) = self.group(g);
        ((first * self.chunks + row - first) * CHUNK, rows * CHUNK)
    }

    /// Floats of all rows.
    pub(crate) fn floats(&self) -> usize {
        self.count * self.chunks * CHUNK
    }
}

/// `sums[row][column] = start[column] + Σ_k rows[row][k]·panel[k][column]` for one panel, in the order of k.
pub(crate) struct Product<'a> {
    pub rows: Rows,
    /// [`Rows::floats`].
    pub packed: &'a [f32],
    pub k: usize,
    /// `[k][width]`, with a width of one or two vectors.
    pub panel: &'a [f32],
    pub width: usize,
    /// `[width]`; if there is none, the product is added to `sums`.
    pub start: Option<&'a [f32]>,
    /// Rows that are `pitch` apart.
    pub sums: &'a mut [f32],
    pub pitch: usize,
}

impl Task for Product<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        assert!(self.width == V::LANES || self.width == 2 * V::LANES);
        assert!(self.packed.len() >= self.rows.floats() && self.k <= self.rows.chunks * CHUNK);
        assert!(self.panel.len() >= self.k * self.width && self.start.is_none_or(|s| s.len() >= self.width));
        assert!(self.rows.count == 0 || self.sums.len() >= (self.rows.count - 1) * self.pitch + self.width);
        for g in 0..self.rows.groups {
            let (first, rows) = self.rows.group(g);
            // SAFETY: the lengths were checked.
            unsafe {
                let kernel = Kernel {
                    rows: self.packed.as_ptr().add(first * self.rows.chunks * CHUNK),
                    k: self.k,
                    panel: self.panel.as_ptr(),
                    start: self.start.map_or(std::ptr::null(), <[f32]>::as_ptr),
                    sums: self.sums.as_mut_ptr().add(first * self.pitch),
                    pitch: self.pitch,
                };
                if self.width == V::LANES { kernel.run::<V, 1>(rows) } else { kernel.run::<V, 2>(rows) }
            }
        }
    }
}

/// One group of rows and one panel.
struct Kernel {
    rows: *const f32,
    k: usize,
    panel: *const f32,
    /// Null: added to `sums`.
    start: *const f32,
    sums: *mut f32,
    pitch: usize,
}

impl Kernel {
    #[inline(always)]
    unsafe fn run<V: Vector, const VECTORS: usize>(&self, rows: usize) {
        macro_rules! by_rows {
            ($($n:literal)*) => {
                match rows {
                    // SAFETY: the caller's.
                    $($n if $n <= V::ROWS => unsafe { self.block::<V, $n, VECTORS>() },)*
                    _ => unreachable!("groups have at most {} rows", V::ROWS),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn block<V: Vector, const ROWS: usize, const VECTORS: usize>(&self) {
        // SAFETY: the caller's: rows, panel and sums are as long as they are read and written.
        unsafe {
            let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
            // One loop over all chunks: with two nested ones the sums do not stay in registers.
            let (mut rows, mut panel) = (self.rows, self.panel);
            for k in 1..=self.k {
                let mut w = [V::splat(0.0); VECTORS];
                for v in 0..VECTORS {
                    w[v] = V::load(panel.add(v * V::LANES));
                }
                for r in 0..ROWS {
                    let x = V::splat(*rows.add(r * CHUNK));
                    for v in 0..VECTORS {
                        sums[r][v] = x.mul_add(w[v], sums[r][v]);
                    }
                }
                panel = panel.wrapping_add(VECTORS * V::LANES);
                rows = rows.wrapping_add(if k % CHUNK == 0 { 1 + (ROWS - 1) * CHUNK } else { 1 });
            }
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    let to = self.sums.add(r * self.pitch + v * V::LANES);
                    let start = if self.start.is_null() { to } else { self.start.cast_mut().add(v * V::LANES) };
                    V::load(start).add(sums[r][v]).store(to);
                }
            }
        }
    }
}
