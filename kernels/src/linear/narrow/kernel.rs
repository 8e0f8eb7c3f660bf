//! Products of words, sixteen lanes at a time: what the instructions do, and the loop that holds its sums in registers.

use std::arch::x86_64::*;

use super::weights;
use crate::gemm::{Buffer, CHUNK, Rows};
use crate::quant::View;

/// Numbers of 8 or 16 bits, several of which lie in a word of 32 bits and are multiplied and summed together.
///
/// # Safety
/// Every function needs the instructions of [`call`](Self::call), and pointers to as many numbers as it reads.
pub(super) trait Narrow {
    /// Numbers in a word.
    const NUMBERS: usize;
    /// Whether inputs are divided by a scale of their row. They are then without sign, 128 more than they are.
    const SCALED: bool;
    /// `sum + x·w` in every lane.
    unsafe fn dot(sum: __m512i, x: __m512i, w: __m512i) -> __m512i;
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i;
    /// Sums less what inputs are more than they are, which made `correction` of them, as floats.
    unsafe fn float(sums: __m512i, correction: i32) -> __m512;
    /// The sum of all lanes, likewise.
    unsafe fn total(sums: __m512i, correction: i32) -> f32;
    /// Sixteen words of inputs multiplied by `factor`, of which there are `count`, zeros after them.
    unsafe fn inputs(x: *const f32, count: usize, factor: f32) -> __m512i;
    /// Hands over words of a row of a matrix, `count` numbers from column `from` on, sixteen at a time with their index;
    /// zeros after them. Returns the correction for what they are multiplied with.
    unsafe fn weights(weight: View, part: Part, to: impl Sink) -> i32;
    /// Runs a task in a function that is compiled for the instructions.
    unsafe fn call(task: impl NarrowTask);
}

/// Where sixteen words at a time go. A closure would be compiled without the instructions.
pub(super) trait Sink {
    /// # Safety
    /// The machine has AVX-512.
    unsafe fn take(&mut self, chunk: usize, words: __m512i);
}

/// A part of a row of a matrix.
pub(super) struct Part<'a> {
    pub row: usize,
    /// Whole blocks.
    pub from: usize,
    pub count: usize,
    /// Where it may be decoded.
    pub span: &'a mut Buffer,
}

/// Arithmetic that is compiled for a kind's instructions. Mark `run` `#[inline(always)]`, and what it calls likewise.
pub(super) trait NarrowTask {
    /// # Safety
    /// The machine has the instructions of the kind, and what the task points at is there.
    unsafe fn run<N: Narrow>(self);
}

/// Pairs of bf16, summed in f32.
pub(super) struct Bf16;

/// Fours of bytes, summed in 32 bits.
pub(super) struct Int8;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn with_bf16(task: impl NarrowTask) {
    // SAFETY: the caller's.
    unsafe { task.run::<Bf16>() };
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn with_vnni(task: impl NarrowTask) {
    // SAFETY: the caller's.
    unsafe { task.run::<Int8>() };
}

/// 32 floats rounded to bf16, ties to even.
#[inline(always)]
pub(super) unsafe fn pair(first: __m512, second: __m512) -> __m512i {
    // SAFETY: the caller has the instructions; both types are 64 bytes.
    unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) }
}

/// The first `count` floats of 32, rounded to bf16, zeros after them.
#[inline(always)]
pub(super) unsafe fn rounded(from: *const f32, count: usize) -> __m512i {
    // SAFETY: the caller's: `count` floats are there.
    unsafe { pair(floats(from, count), floats(from.wrapping_add(CHUNK), count.saturating_sub(CHUNK))) }
}

/// The first `count` floats, zeros after them.
#[inline(always)]
pub(super) unsafe fn floats(from: *const f32, count: usize) -> __m512 {
    // SAFETY: the caller's: `count` floats are there.
    unsafe { if count >= CHUNK { _mm512_loadu_ps(from) } else { _mm512_maskz_loadu_ps((1 << count) - 1, from) } }
}

/// The first `count` floats of sixteen times `factor`, to the nearest whole numbers, zeros after them.
#[inline(always)]
unsafe fn bytes(x: *const f32, count: usize, factor: __m512) -> __m128i {
    // SAFETY: the caller's: `count` floats are there.
    unsafe { _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(floats(x, count), factor))) }
}

// SAFETY, for all blocks below: the instructions are the caller's, and slices are read and written inside.
impl Narrow for Bf16 {
    const NUMBERS: usize = 2;
    const SCALED: bool = false;

    #[inline(always)]
    unsafe fn dot(sum: __m512i, x: __m512i, w: __m512i) -> __m512i {
        unsafe {
            let (x, w) = (std::mem::transmute::<__m512i, __m512bh>(x), std::mem::transmute::<__m512i, __m512bh>(w));
            _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(sum), x, w))
        }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_castps_si512(_mm512_add_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b))) }
    }

    #[inline(always)]
    unsafe fn float(sums: __m512i, _: i32) -> __m512 {
        unsafe { _mm512_castsi512_ps(sums) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m512i, _: i32) -> f32 {
        unsafe { _mm512_reduce_add_ps(_mm512_castsi512_ps(sums)) }
    }

    #[inline(always)]
    unsafe fn inputs(x: *const f32, count: usize, _: f32) -> __m512i {
        unsafe { rounded(x, count) }
    }

    #[inline(always)]
    unsafe fn weights(weight: View, part: Part, mut to: impl Sink) -> i32 {
        unsafe { weights::to_bf16(weight, part, &mut to) };
        0
    }

    #[inline(always)]
    unsafe fn call(task: impl NarrowTask) {
        unsafe { with_bf16(task) };
    }
}

impl Narrow for Int8 {
    const NUMBERS: usize = 4;
    const SCALED: bool = true;

    #[inline(always)]
    unsafe fn dot(sum: __m512i, x: __m512i, w: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, x, w) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn float(sums: __m512i, correction: i32) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(correction))) }
    }

    #[inline(always)]
    unsafe fn total(sums: __m512i, correction: i32) -> f32 {
        unsafe { _mm512_reduce_add_epi32(sums).wrapping_sub(correction) as f32 }
    }

    #[inline(always)]
    unsafe fn inputs(x: *const f32, count: usize, factor: f32) -> __m512i {
        unsafe {
            let factor = _mm512_set1_ps(factor);
            let mut four = _mm512_setzero_si512();
            four = _mm512_inserti32x4::<0>(four, bytes(x, count, factor));
            four = _mm512_inserti32x4::<1>(four, bytes(x.wrapping_add(CHUNK), count.saturating_sub(CHUNK), factor));
            four = _mm512_inserti32x4::<2>(
                four,
                bytes(x.wrapping_add(2 * CHUNK), count.saturating_sub(2 * CHUNK), factor),
            );
            four = _mm512_inserti32x4::<3>(
                four,
                bytes(x.wrapping_add(3 * CHUNK), count.saturating_sub(3 * CHUNK), factor),
            );
            // 128 more, without sign.
            _mm512_xor_si512(four, _mm512_set1_epi8(-128))
        }
    }

    #[inline(always)]
    unsafe fn weights(weight: View, part: Part, to: impl Sink) -> i32 {
        unsafe {
            let mut sum = Summed { sums: _mm512_setzero_si512(), to };
            weights::bytes(weight, part, &mut sum);
            _mm512_reduce_add_epi32(sum.sums)
        }
    }

    #[inline(always)]
    unsafe fn call(task: impl NarrowTask) {
        unsafe { with_vnni(task) };
    }
}

/// Sums of bytes times 128, beside what else becomes of them.
struct Summed<S> {
    sums: __m512i,
    to: S,
}

impl<S: Sink> Sink for Summed<S> {
    #[inline(always)]
    unsafe fn take(&mut self, chunk: usize, words: __m512i) {
        unsafe {
            self.sums = _mm512_dpbusd_epi32(self.sums, _mm512_set1_epi8(-128), words);
            self.to.take(chunk, words);
        }
    }
}

/// Rows of a matrix in words with a panel of inputs: `sums[row][lane] = Σ rows[row][word]·panel[word][lane]`, to which
/// `sums` is added unless it is `fresh`.
pub(super) struct Block {
    pub rows: Rows,
    pub group: usize,
    /// `[group][chunk][row][16]`, [`Rows::floats`] words.
    pub packed: *const u32,
    /// `[word][width]`, words of whole chunks, with a width of one or two vectors.
    pub panel: *const u32,
    pub width: usize,
    /// Rows that are [`WIDTH`] apart.
    pub sums: *mut u32,
    pub fresh: bool,
}

/// Inputs of a panel: two vectors of lanes.
pub(super) const WIDTH: usize = 32;

impl Block {
    #[inline(always)]
    pub(super) unsafe fn run<N: Narrow>(&self) {
        let (first, rows) = self.rows.group(self.group);
        macro_rules! by_rows {
            ($($n:literal)*) => {
                match (rows, self.width) {
                    // SAFETY: the caller's.
                    $(($n, WIDTH) => unsafe { self.sum::<N, $n, 2>(first) },
                    ($n, _) => unsafe { self.sum::<N, $n, 1>(first) },)*
                    _ => unreachable!("groups have at most 14 rows"),
                }
            };
        }
        by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }

    #[inline(always)]
    #[allow(clippy::needless_range_loop)]
    unsafe fn sum<N: Narrow, const ROWS: usize, const VECTORS: usize>(&self, first: usize) {
        /// Words that are multiplied in one turn of the loop.
        const TURN: usize = 4;
        // Pointers wrap, so that builds with checks have none in the loop.
        let to = self.sums.wrapping_add(first * WIDTH);
        let place = |r: usize, v: usize| to.wrapping_add(r * WIDTH + v * CHUNK);
        // SAFETY: the caller's: rows, panel and sums are as long as they are read and written.
        unsafe {
            if !self.fresh {
                for r in 0..ROWS {
                    for v in 0..VECTORS {
                        _mm_prefetch::<_MM_HINT_T0>(place(r, v).cast());
                    }
                }
            }
            let mut sums = [[_mm512_setzero_si512(); VECTORS]; ROWS];
            let (mut rows, mut panel) = (self.packed.wrapping_add(first * self.rows.chunks * CHUNK), self.panel);
            for turn in 1..=self.rows.chunks * (CHUNK / TURN) {
                for k in 0..TURN {
                    let mut x = [_mm512_setzero_si512(); VECTORS];
                    for v in 0..VECTORS {
                        x[v] = _mm512_loadu_si512(panel.wrapping_add((k * VECTORS + v) * CHUNK).cast());
                    }
                    for r in 0..ROWS {
                        let w = _mm512_set1_epi32(rows.wrapping_add(r * CHUNK + k).cast::<i32>().read_unaligned());
                        for v in 0..VECTORS {
                            sums[r][v] = N::dot(sums[r][v], x[v], w);
                        }
                    }
                }
                panel = panel.wrapping_add(TURN * VECTORS * CHUNK);
                // At the end of a chunk, over those of the other rows.
                let whole = turn % (CHUNK / TURN) == 0;
                rows = rows.wrapping_add(if whole { TURN + (ROWS - 1) * CHUNK } else { TURN });
            }
            // Without a branch, which would send all sums through memory.
            let before = if self.fresh { 0 } else { u16::MAX };
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    let to: *mut i32 = place(r, v).cast();
                    let sum = N::add(_mm512_maskz_loadu_epi32(before, to), sums[r][v]);
                    _mm512_storeu_si512(to.cast(), sum);
                }
            }
        }
    }
}

/// Sixteen vectors of sixteen words, transposed.
#[inline(always)]
pub(super) unsafe fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: arithmetic; the instructions are the caller's.
    unsafe {
        let zero = _mm512_setzero_si512();
        let (mut pairs, mut fours, mut out) = ([zero; 16], [zero; 16], [zero; 16]);
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        // Four rows each: in every quarter, one column.
        for i in 0..4 {
            let [a, b, c, d] = [pairs[4 * i], pairs[4 * i + 1], pairs[4 * i + 2], pairs[4 * i + 3]];
            fours[4 * i] = _mm512_unpacklo_epi64(a, c);
            fours[4 * i + 1] = _mm512_unpackhi_epi64(a, c);
            fours[4 * i + 2] = _mm512_unpacklo_epi64(b, d);
            fours[4 * i + 3] = _mm512_unpackhi_epi64(b, d);
        }
        // Quarters of four vectors are a matrix of their own.
        for j in 0..4 {
            let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
            let (ab_even, ab_odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
            let (cd_even, cd_odd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
            out[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
            out[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
            out[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
            out[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
        }
        out
    }
}
