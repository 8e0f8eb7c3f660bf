//! Rows of a matrix in words, sixteen at a time.

use std::arch::x86_64::*;

use super::kernel::{Part, Sink, pair, rounded};
use super::tile::LINE;
use crate::gemm::CHUNK;
use crate::level::Level;
use crate::quant::{Encoding, Scales, View};
use crate::vector::run_at;

/// The stored bytes of a part.
#[inline(always)]
fn stored<'a>(weight: View<'a>, part: &Part) -> &'a [u8] {
    let (block, bytes) = (weight.encoding.block(), weight.encoding.block_bytes());
    &weight.bytes[part.row * weight.row_bytes() + part.from / block * bytes..][..part.count / block * bytes]
}

/// Lanes below `count`.
#[inline(always)]
fn mask(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// What lies in memory, zeros after it.
#[inline(always)]
unsafe fn lines(stored: &[u8], to: &mut impl Sink) {
    let (whole, rest) = stored.as_chunks::<LINE>();
    for (i, line) in whole.iter().enumerate() {
        // SAFETY: the instructions are the caller's, and no more is read than there is.
        unsafe { to.take(i, _mm512_loadu_si512(line.as_ptr().cast())) };
    }
    if !rest.is_empty() {
        // SAFETY: as above.
        unsafe { to.take(whole.len(), _mm512_maskz_loadu_epi8(mask(rest.len()), rest.as_ptr().cast())) };
    }
}

/// Bytes as they are, 64 at a time.
///
/// # Safety
/// As [`Narrow::weights`](super::kernel::Narrow::weights); the encoding has one byte a number.
#[inline(always)]
pub(super) unsafe fn bytes(weight: View, part: Part, to: &mut impl Sink) {
    // SAFETY: the instructions are the caller's.
    unsafe { lines(stored(weight, &part), to) };
}

/// Numbers rounded to bf16, 32 at a time. Those that are bf16 stay as they are, and what has 8 bits or less without a scale
/// loses nothing.
///
/// # Safety
/// As [`Narrow::weights`](super::kernel::Narrow::weights).
#[inline(always)]
pub(super) unsafe fn to_bf16(weight: View, part: Part, to: &mut impl Sink) {
    /// Numbers of sixteen words.
    const NUMBERS: usize = 2 * CHUNK;
    let stored = stored(weight, &part);
    let plain = *weight.scales == Scales::None;
    // SAFETY, for all blocks below: the instructions are the caller's, and no more is read than there is.
    match weight.encoding {
        Encoding::BF16 if plain => {
            unsafe { lines(stored, to) };
        }
        Encoding::F32 if plain => {
            for (i, bytes) in stored.chunks(4 * NUMBERS).enumerate() {
                let (from, count) = (bytes.as_ptr().cast::<f32>(), bytes.len() / 4);
                unsafe { to.take(i, rounded(from, count)) };
            }
        }
        Encoding::F16 if plain => {
            for (i, bytes) in stored.chunks(2 * NUMBERS).enumerate() {
                unsafe {
                    let all = _mm512_maskz_loadu_epi8(mask(bytes.len()), bytes.as_ptr().cast());
                    let first = _mm512_cvtph_ps(_mm512_castsi512_si256(all));
                    to.take(i, pair(first, _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(all))));
                }
            }
        }
        Encoding::I8 if plain => {
            for (i, bytes) in stored.chunks(NUMBERS).enumerate() {
                unsafe {
                    let all = _mm256_maskz_loadu_epi8(mask(bytes.len()) as u32, bytes.as_ptr().cast());
                    let first = _mm512_cvtepi8_epi32(_mm256_castsi256_si128(all));
                    let second = _mm512_cvtepi8_epi32(_mm256_extracti128_si256::<1>(all));
                    to.take(i, pair(_mm512_cvtepi32_ps(first), _mm512_cvtepi32_ps(second)));
                }
            }
        }
        _ => {
            let Part { row, from, count, span } = part;
            let decoded = span.first(count);
            run_at(Level::Avx512, weight.rotated_span(row, from, decoded));
            for (i, x) in decoded.chunks(NUMBERS).enumerate() {
                unsafe { to.take(i, rounded(x.as_ptr(), x.len())) };
            }
        }
    }
}
