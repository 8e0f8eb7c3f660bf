//! The numbers that the two products of attention are computed in.
//!
//! Whatever they are, factors come in words of 32 bits: one f32, two bf16 or four bytes that are multiplied with as many of
//! the other side and summed. So one loop serves all of them.

use crate::level::Level;
use crate::vector::{Task, Vector, run_at};

#[cfg(target_arch = "x86_64")]
use super::x86;

/// Words of a row that lie side by side: a cache line.
pub(super) const CHUNK: usize = 16;

/// A product with sums of its own.
///
/// # Safety
/// Functions need the instructions, and pointers to as many words as they read or write.
pub(super) trait Factors<V: Vector> {
    /// Values in a word.
    const PER_WORD: usize;
    /// A word of as many columns as a vector has lanes, or one word in all lanes.
    type Words: Copy;
    type Sum: Copy;
    unsafe fn splat(from: *const u32) -> Self::Words;
    unsafe fn load(from: *const u32) -> Self::Words;
    unsafe fn zero() -> Self::Sum;
    unsafe fn mul_add(a: Self::Words, b: Self::Words, sum: Self::Sum) -> Self::Sum;
}

/// What scores are made with: queries as rows, keys as columns.
pub(super) trait Scores<V: Vector>: Factors<V> {
    /// Words of a column that precede its factors.
    const HEADER: usize;
    /// Whether keys come without their mean over all tokens.
    const CENTRED: bool;
    /// Sums at the start, and what scores are multiplied with, of columns whose headers begin here, `pitch` words apart.
    unsafe fn start(header: *const u32) -> Self::Sum;
    unsafe fn finish(sum: Self::Sum, header: *const u32, pitch: usize, row_scale: f32) -> V;
    /// The words of a query, times `scale`; returns `row_scale`.
    fn query(values: &[f32], scale: f32, words: &mut [u32]) -> f32;
    /// The words of a key, and its header.
    fn key(values: &[f32], words: &mut [u32]) -> [u32; 2];
}

/// What values are weighted with: weights as rows, channels as columns.
pub(super) trait Weights<V: Vector>: Factors<V> {
    unsafe fn result(sum: Self::Sum) -> V;
    /// Writes the weights of two vectors of keys, `column` and following, over the scores of a row that begins at `row`
    /// and whose chunks are `pitch` words apart.
    unsafe fn store(weights: [V; 2], row: *mut f32, column: usize, pitch: usize);
    /// One word of every channel, of as many keys as a word takes; of the last there may be fewer.
    fn values(rows: &[&[f32]], words: &mut [u32]);
}

/// Where column `c` of a row lies whose chunks are `pitch` words apart.
#[inline(always)]
pub(super) fn place(column: usize, pitch: usize) -> usize {
    column / CHUNK * pitch + column % CHUNK
}

/// f32 throughout.
pub(super) struct F32;

// SAFETY, for all blocks below: the caller's.
impl<V: Vector> Factors<V> for F32 {
    const PER_WORD: usize = 1;
    type Words = V;
    type Sum = V;
    #[inline(always)]
    unsafe fn splat(from: *const u32) -> V {
        unsafe { V::splat(*from.cast::<f32>()) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> V {
        unsafe { V::load(from.cast()) }
    }
    #[inline(always)]
    unsafe fn zero() -> V {
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn mul_add(a: V, b: V, sum: V) -> V {
        unsafe { a.mul_add(b, sum) }
    }
}

impl<V: Vector> Scores<V> for F32 {
    const HEADER: usize = 0;
    const CENTRED: bool = false;
    #[inline(always)]
    unsafe fn start(_: *const u32) -> V {
        unsafe { V::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn finish(sum: V, _: *const u32, _: usize, _: f32) -> V {
        sum
    }
    #[inline(always)]
    fn query(values: &[f32], scale: f32, words: &mut [u32]) -> f32 {
        words.iter_mut().zip(values).for_each(|(w, v)| *w = (v * scale).to_bits());
        1.0
    }
    #[inline(always)]
    fn key(values: &[f32], words: &mut [u32]) -> [u32; 2] {
        words.iter_mut().zip(values).for_each(|(w, v)| *w = v.to_bits());
        [0; 2]
    }
}

impl<V: Vector> Weights<V> for F32 {
    #[inline(always)]
    unsafe fn result(sum: V) -> V {
        sum
    }
    #[inline(always)]
    unsafe fn store([first, second]: [V; 2], row: *mut f32, column: usize, pitch: usize) {
        unsafe {
            first.store(row.add(place(column, pitch)));
            second.store(row.add(place(column + V::LANES, pitch)));
        }
    }
    #[inline(always)]
    fn values(rows: &[&[f32]], words: &mut [u32]) {
        words.iter_mut().zip(rows[0]).for_each(|(w, v)| *w = v.to_bits());
    }
}

/// Arithmetic that is compiled for each kind of factors. Mark `run` `#[inline(always)]`, and all in it that touches
/// vectors.
pub(super) trait Work {
    /// # Safety
    /// The machine has the instructions, and what the work points at is there.
    unsafe fn run<V: Vector, S: Scores<V>, W: Weights<V>>(self);
}

/// A kind of factors that this machine has the instructions of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32(Level),
    /// Scores and values with factors in bf16.
    #[cfg(target_arch = "x86_64")]
    Bf16,
    /// Scores with factors in int8, values with factors in bf16.
    #[cfg(target_arch = "x86_64")]
    Int8,
}

impl Kind {
    /// Runs work with what this kind needs.
    pub(super) fn run(self, work: impl Work) {
        match self {
            Self::F32(level) => run_at(level, Floats(work)),
            // SAFETY: `kind_of` found the instructions; work is made with slices and pointers that hold.
            #[cfg(target_arch = "x86_64")]
            Self::Bf16 => unsafe { x86::bf16(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Self::Int8 => unsafe { x86::int8(work) },
        }
    }
}

struct Floats<W>(W);

impl<W: Work> Task for Floats<W> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's.
        unsafe { self.0.run::<V, F32, F32>() };
    }
}
