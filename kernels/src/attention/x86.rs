//! Products of bf16 and of bytes in AVX-512.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::factors::{CHUNK, Factors, Scores, Weights, Work};

/// # Safety
/// As [`Work::run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn bf16(work: impl Work) {
    // SAFETY: the caller's.
    unsafe { work.run::<__m512, Bf16, Bf16>() };
}

/// # Safety
/// As [`Work::run`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub(super) unsafe fn int8(work: impl Work) {
    // SAFETY: the caller's.
    unsafe { work.run::<__m512, Int8, Bf16>() };
}

/// The bits of the nearest bf16, ties to even; NaN stays.
#[inline(always)]
fn nearest(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { rounded }
}

/// Words of pairs of values; a last one without a partner stands beside zero.
#[inline(always)]
fn pairs(values: &[f32], scale: f32, words: &mut [u32]) {
    for (word, pair) in words.iter_mut().zip(values.chunks(2)) {
        let second = pair.get(1).map_or(0.0, |v| v * scale);
        *word = nearest(pair[0] * scale) | nearest(second) << 16;
    }
}

/// Pairs of bf16, summed in f32.
pub(super) struct Bf16;

// SAFETY, for all blocks below: the caller's.
impl Factors<__m512> for Bf16 {
    const PER_WORD: usize = 2;
    type Words = __m512bh;
    type Sum = __m512;
    #[inline(always)]
    unsafe fn splat(from: *const u32) -> __m512bh {
        unsafe { transmute(_mm512_set1_epi32(*from.cast::<i32>())) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512bh {
        unsafe { transmute(_mm512_loadu_si512(from.cast())) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512bh, b: __m512bh, sum: __m512) -> __m512 {
        unsafe { _mm512_dpbf16_ps(sum, a, b) }
    }
}

impl Scores<__m512> for Bf16 {
    const HEADER: usize = 0;
    const CENTRED: bool = false;
    #[inline(always)]
    unsafe fn start(_: *const u32) -> __m512 {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn finish(sum: __m512, _: *const u32, _: usize, _: f32) -> __m512 {
        sum
    }
    #[inline(always)]
    fn query(values: &[f32], scale: f32, words: &mut [u32]) -> f32 {
        pairs(values, scale, words);
        1.0
    }
    #[inline(always)]
    fn key(values: &[f32], words: &mut [u32]) -> [u32; 2] {
        pairs(values, 1.0, words);
        [0; 2]
    }
}

impl Weights<__m512> for Bf16 {
    #[inline(always)]
    unsafe fn result(sum: __m512) -> __m512 {
        sum
    }
    #[inline(always)]
    unsafe fn store([first, second]: [__m512; 2], row: *mut f32, column: usize, pitch: usize) {
        // Two vectors of f32 become a chunk of words.
        unsafe {
            let words: __m512i = transmute(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(row.add(column / (2 * CHUNK) * pitch).cast(), words);
        }
    }
    #[inline(always)]
    fn values(rows: &[&[f32]], words: &mut [u32]) {
        match rows {
            [a, b] => {
                for ((word, a), b) in words.iter_mut().zip(*a).zip(*b) {
                    *word = nearest(*a) | nearest(*b) << 16;
                }
            }
            _ => words.iter_mut().zip(rows[0]).for_each(|(word, a)| *word = nearest(*a)),
        }
    }
}

/// Quads of bytes, those of queries raised by 128 to have no sign, summed in i32.
pub(super) struct Int8;

/// What a quad of queries is that are all zero.
const RAISED: u32 = 0x8080_8080;

/// The largest magnitude of values; NaN or infinite where one of them is.
#[inline(always)]
fn magnitude(values: &[f32]) -> f32 {
    // Magnitudes are in the order of their bits.
    f32::from_bits(values.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0))
}

/// Values as whole numbers of −127 to 127, four a word from `base`, and what one of them is worth: NaN where there is a
/// value that is not finite.
#[inline(always)]
fn quantise(values: &[f32], words: &mut [u32], base: u32) -> (f32, i32) {
    let largest = magnitude(values);
    // Below it the quotient would not be finite, and the scores are nothing.
    let inverse = if largest > 1e-30 { 127.0 / largest } else { 0.0 };
    let mut total = 0;
    for (word, quad) in words.iter_mut().zip(values.chunks(4)) {
        *word = base;
        for (i, v) in quad.iter().enumerate() {
            // Saturates, and NaN is zero: the worth says it.
            let number = (v * inverse).round_ties_even() as i8;
            total += i32::from(number);
            *word ^= u32::from(number as u8) << (8 * i);
        }
    }
    (if largest.is_finite() { largest / 127.0 } else { f32::NAN }, total)
}

impl Factors<__m512> for Int8 {
    const PER_WORD: usize = 4;
    type Words = __m512i;
    type Sum = __m512i;
    #[inline(always)]
    unsafe fn splat(from: *const u32) -> __m512i {
        unsafe { _mm512_set1_epi32(*from.cast::<i32>()) }
    }
    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512i, b: __m512i, sum: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, a, b) }
    }
}

impl Scores<__m512> for Int8 {
    const HEADER: usize = 2;
    const CENTRED: bool = true;
    #[inline(always)]
    unsafe fn start(header: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(header.cast()) }
    }
    #[inline(always)]
    unsafe fn finish(sum: __m512i, header: *const u32, pitch: usize, row_scale: f32) -> __m512 {
        unsafe {
            let worth = _mm512_mul_ps(_mm512_loadu_ps(header.add(pitch).cast()), _mm512_set1_ps(row_scale));
            _mm512_mul_ps(_mm512_cvtepi32_ps(sum), worth)
        }
    }
    #[inline(always)]
    fn query(values: &[f32], scale: f32, words: &mut [u32]) -> f32 {
        quantise(values, words, RAISED).0 * scale
    }
    #[inline(always)]
    fn key(values: &[f32], words: &mut [u32]) -> [u32; 2] {
        let (worth, total) = quantise(values, words, 0);
        // What the raised queries count too much.
        [(-128 * total) as u32, worth.to_bits()]
    }
}
