//! Inputs in words: rounded, and repacked for the kernel.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::kernel::{Narrow, NarrowTask, WIDTH, floats, transpose};
use super::words;
use crate::gemm::{Buffer, CHUNK};
use crate::level::Level;
use crate::linear::rounding::int8_scale;
use crate::quant::{Rotation, largest_group};
use crate::vector::run_at;

/// Inputs of a product.
#[derive(Clone, Copy)]
pub(super) enum Inputs<'a> {
    Floats(Floats<'a>),
    /// Rounded already.
    Words(Words<'a>),
}

impl Inputs<'_> {
    /// `count` rows from `first` on.
    pub(super) fn rows(self, first: usize, count: usize) -> Self {
        match self {
            Self::Floats(Floats { x, columns, rotation }) => {
                Self::Floats(Floats { x: &x[first * columns..][..count * columns], columns, rotation })
            }
            Self::Words(Words { words, scales }) => {
                let pitch = words.len() / scales.len().max(1);
                Self::Words(Words {
                    words: &words[first * pitch..][..count * pitch],
                    scales: &scales[first..][..count],
                })
            }
        }
    }
}

/// Rows of words as [`Round`] writes them, `[rows]` of whole chunks, and by what their sums are multiplied, `[rows]`.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub words: &'a [MaybeUninit<u32>],
    pub scales: &'a [f32],
}

/// Inputs `[rows, columns]`, rotated before if the matrix is.
#[derive(Clone, Copy)]
pub(super) struct Floats<'a> {
    pub x: &'a [f32],
    pub columns: usize,
    pub rotation: Option<usize>,
}

impl Floats<'_> {
    fn row(&self, row: usize) -> &[f32] {
        &self.x[row * self.columns..][..self.columns]
    }

    /// Scale and factor of a row.
    #[inline(always)]
    unsafe fn scale<N: Narrow>(&self, row: usize, span: &mut Buffer) -> (f32, f32) {
        if !N::SCALED {
            return (1.0, 1.0);
        }
        // SAFETY: the instructions are the caller's.
        unsafe {
            // As whole numbers, infinity is above all finite magnitudes, and NaN above that.
            let mut largest = _mm512_setzero_si512();
            for from in (0..self.columns).step_by(self.step::<N>()) {
                for x in self.part::<N>(row, from, span).chunks(CHUNK) {
                    let magnitudes = _mm512_abs_ps(floats(x.as_ptr(), x.len()));
                    largest = _mm512_max_epi32(largest, _mm512_castps_si512(magnitudes));
                }
            }
            int8_scale(f32::from_bits(_mm512_reduce_max_epi32(largest) as u32))
        }
    }

    /// Columns that are rotated at a time: whole groups, and whole chunks of words.
    #[inline(always)]
    fn step<N: Narrow>(&self) -> usize {
        self.rotation.map_or(self.columns, |group| group.max(CHUNK * N::NUMBERS)).max(1)
    }

    /// Most floats that packing rows of `columns` numbers takes, whatever the rotation: a step of as many rows as lie in a vector,
    /// one of which is copied twice.
    pub(super) fn rotated<N: Narrow>(columns: usize) -> usize {
        (CHUNK + 2) * largest_group(columns).max(CHUNK * N::NUMBERS)
    }

    /// Columns of a row from `from` on, a step of them.
    #[inline(always)]
    fn part<'b, N: Narrow>(&'b self, row: usize, from: usize, span: &'b mut Buffer) -> &'b [f32] {
        let x = &self.row(row)[from..];
        let x = &x[..x.len().min(self.step::<N>())];
        let Some(group) = self.rotation else { return x };
        let span = span.first(x.len());
        span.copy_from_slice(x);
        run_at(Level::Avx512, Rotation { x: span, group });
        span
    }
}

/// Rounds rows as they lie.
pub(super) struct Round<'a> {
    pub inputs: Floats<'a>,
    /// `[rows]` of whole chunks.
    pub words: &'a mut [MaybeUninit<u32>],
    /// `[rows]`.
    pub scales: &'a mut [f32],
}

impl NarrowTask for Round<'_> {
    #[inline(always)]
    unsafe fn run<N: Narrow>(self) {
        let Self { inputs, words: to, scales } = self;
        let (mut span, count) = (Buffer::new(), words::<N>(inputs.columns));
        for (row, scale) in scales.iter_mut().enumerate() {
            let to = &mut to[row * count..][..count];
            // SAFETY: the instructions are the caller's; numbers are read where they are.
            unsafe {
                let factor;
                (*scale, factor) = inputs.scale::<N>(row, &mut span);
                for from in (0..inputs.columns).step_by(inputs.step::<N>()) {
                    let to = to[from / N::NUMBERS..].as_chunks_mut::<CHUNK>().0;
                    let part = inputs.part::<N>(row, from, &mut span);
                    for (x, to) in part.chunks(CHUNK * N::NUMBERS).zip(to) {
                        _mm512_storeu_si512(to.as_mut_ptr().cast(), N::inputs(x.as_ptr(), x.len(), factor));
                    }
                }
            }
        }
    }
}

/// Inputs as the kernel's panels: `[panel][word][width]`, the last one half as wide if that is enough.
pub(super) struct Panels {
    words: Vec<MaybeUninit<Vector>>,
    /// `[rows]`, by which sums are multiplied, and zeros after them.
    pub scales: Vec<f32>,
    pub rows: usize,
    /// Of a row.
    pub count: usize,
}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Vector([u32; CHUNK]);

impl Panels {
    /// Memory for `rows` of `columns` numbers.
    pub(super) fn new<N: Narrow>(rows: usize, columns: usize) -> Self {
        let count = words::<N>(columns);
        let vectors = rows.div_ceil(CHUNK) * count;
        let mut words = Vec::with_capacity(vectors);
        // SAFETY: there is room for them, and they need not hold anything.
        unsafe { words.set_len(vectors) };
        Self { words, scales: vec![0.0; rows.next_multiple_of(WIDTH)], rows, count }
    }

    /// Repacks inputs of `rows` rows, rounded if they are not, at most as many as there is memory for.
    pub(super) fn pack<N: Narrow>(&mut self, inputs: Inputs, rows: usize) {
        self.rows = rows;
        let count = self.count;
        if count == 0 {
            return;
        }
        let panels = self.words.par_chunks_mut(WIDTH / CHUNK * count).zip(self.scales.par_chunks_mut(WIDTH));
        let panels = panels.enumerate().take(self.rows.div_ceil(WIDTH));
        panels.for_each_init(Buffer::new, |span, (p, (panel, scales))| {
            let there = WIDTH.min(rows - p * WIDTH);
            // SAFETY: whoever asks for a kind has its instructions.
            unsafe {
                match inputs {
                    Inputs::Floats(inputs) => N::call(Pack { inputs, first: p * WIDTH, there, panel, scales, span }),
                    Inputs::Words(inputs) => N::call(Repack { inputs, first: p * WIDTH, there, panel, scales }),
                }
            }
        });
    }

    pub(super) fn panels(&self) -> usize {
        self.rows.div_ceil(WIDTH)
    }

    /// Lanes of a panel.
    #[inline(always)]
    pub(super) fn width(&self, p: usize) -> usize {
        (self.rows - p * WIDTH).next_multiple_of(CHUNK).min(WIDTH)
    }

    /// A panel's words from the `from`th on.
    #[inline(always)]
    pub(super) fn panel(&self, p: usize, from: usize, count: usize) -> *const u32 {
        let vectors = self.width(p) / CHUNK;
        let panel = &self.words[p * (WIDTH / CHUNK) * self.count..][from * vectors..][..count * vectors];
        panel.as_ptr().cast()
    }
}

impl Panels {
    /// Asks for one of so many shares of a panel's words, if there is such a panel.
    #[inline(always)]
    pub(super) unsafe fn fetch(&self, p: usize, from: usize, count: usize, (share, shares): (usize, usize)) {
        if p < self.panels() {
            let (start, lines) = (self.panel(p, from, count), count * self.width(p) / CHUNK);
            for line in lines * share / shares..lines * (share + 1) / shares {
                // SAFETY: it reads nothing.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(start.wrapping_add(line * CHUNK).cast()) };
            }
        }
    }
}

/// One panel.
struct Pack<'a> {
    inputs: Floats<'a>,
    first: usize,
    /// Rows that there are.
    there: usize,
    panel: &'a mut [MaybeUninit<Vector>],
    scales: &'a mut [f32],
    span: &'a mut Buffer,
}

impl NarrowTask for Pack<'_> {
    #[inline(always)]
    unsafe fn run<N: Narrow>(self) {
        let Self { inputs, first, there, panel, scales, span } = self;
        let (columns, step) = (inputs.columns, inputs.step::<N>());
        let vectors = there.div_ceil(CHUNK);
        let mut rotated = Buffer::new();
        // SAFETY: the instructions are the caller's; numbers are read where they are, and whole vectors of the panel written.
        unsafe {
            for half in 0..vectors {
                let first = first + half * CHUNK;
                let there = (there - half * CHUNK).min(CHUNK);
                let mut factors = [0.0; CHUNK];
                for i in 0..there {
                    (scales[half * CHUNK + i], factors[i]) = inputs.scale::<N>(first + i, span);
                }
                for from in (0..columns).step_by(step) {
                    let part = step.min(columns - from);
                    // Rotated rows lie one after the other, others where they are.
                    let (base, pitch) = if inputs.rotation.is_some() {
                        let rotated = rotated.first(there * part);
                        for (i, to) in rotated.chunks_exact_mut(part).enumerate() {
                            to.copy_from_slice(inputs.part::<N>(first + i, from, span));
                        }
                        (rotated.as_ptr(), part)
                    } else {
                        (inputs.row(first).as_ptr(), columns)
                    };
                    for at in (0..part).step_by(CHUNK * N::NUMBERS) {
                        let count = (part - at).min(CHUNK * N::NUMBERS);
                        let mut rows = [_mm512_setzero_si512(); CHUNK];
                        for i in 0..there {
                            rows[i] = N::inputs(base.add(i * pitch + at), count, factors[i]);
                        }
                        let word = (from + at) / N::NUMBERS;
                        put(&mut panel[word * vectors..], rows, [half, vectors]);
                    }
                }
            }
        }
    }
}

/// Writes a chunk of words of sixteen rows, which are the `half`th of `vectors` of a panel's lanes.
#[inline(always)]
unsafe fn put(panel: &mut [MaybeUninit<Vector>], rows: [__m512i; CHUNK], [half, vectors]: [usize; 2]) {
    // SAFETY: the caller has the instructions; whole vectors are written.
    unsafe {
        for (to, x) in panel.chunks_exact_mut(vectors).zip(transpose(rows)) {
            _mm512_store_si512(to[half].as_mut_ptr().cast(), x);
        }
    }
}

/// One panel of rows that are rounded.
struct Repack<'a> {
    inputs: Words<'a>,
    first: usize,
    /// Rows that there are.
    there: usize,
    panel: &'a mut [MaybeUninit<Vector>],
    scales: &'a mut [f32],
}

impl NarrowTask for Repack<'_> {
    #[inline(always)]
    unsafe fn run<N: Narrow>(self) {
        let Self { inputs: Words { words, scales: from }, first, there, panel, scales } = self;
        let (count, vectors) = (words.len() / from.len(), there.div_ceil(CHUNK));
        let words = &words[first * count..][..there * count];
        scales[..there].copy_from_slice(&from[first..][..there]);
        for half in 0..vectors {
            let words = &words[half * CHUNK * count..];
            let there = (there - half * CHUNK).min(CHUNK);
            for at in (0..count).step_by(CHUNK) {
                // SAFETY: the instructions are the caller's; rows are whole chunks, which have been written.
                unsafe {
                    let mut rows = [_mm512_setzero_si512(); CHUNK];
                    for (i, row) in rows.iter_mut().enumerate().take(there) {
                        *row = _mm512_loadu_si512(words[i * count + at..][..CHUNK].as_ptr().cast());
                    }
                    put(&mut panel[at * vectors..], rows, [half, vectors]);
                }
            }
        }
    }
}
