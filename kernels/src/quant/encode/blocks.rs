//! Blocks of 32 numbers with f16 scales.

use half::f16;

use super::search;

/// Encodes whole blocks.
#[inline(always)]
pub(super) fn each<const NUMBERS: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; NUMBERS], &mut [u8; BYTES]),
) {
    for (x, block) in values.as_chunks::<NUMBERS>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        encode(x, block);
    }
}

/// Writes a scale as binary16; gives back what will be read.
#[inline(always)]
pub(super) fn put(block: &mut [u8], at: usize, scale: f32) -> f32 {
    let stored = f16::from_f32(scale);
    block[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

/// 1/x, and 0 for what has no finite inverse.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Scale max|x|/127; halves are rounded away from zero.
#[inline(always)]
pub(super) fn q8_0(x: &[f32; 32], block: &mut [u8; 34]) {
    let scale = search::extreme(x).abs() / 127.0;
    let inverse = inverse(scale);
    put(block, 0, scale);
    for (byte, x) in block[2..].iter_mut().zip(x) {
        let x = x * inverse;
        let whole = x.abs().trunc();
        let rounded = whole + if x.abs() - whole >= 0.5 { 1.0 } else { 0.0 };
        *byte = rounded.copysign(x) as i32 as u8;
    }
}

/// Codes to nibbles, the first sixteen to the low ones; their fifth bits.
#[inline(always)]
fn pack(codes: &[u8; 32], bytes: &mut [u8]) -> u32 {
    for (i, byte) in bytes[..16].iter_mut().enumerate() {
        *byte = (codes[i] & 15) | (codes[i + 16] << 4);
    }
    codes.iter().enumerate().fold(0, |bits, (i, code)| bits | (u32::from(code >> 4) << i))
}

/// The extreme value gets the lowest code; others are rounded, halves up.
#[inline(always)]
fn signed(x: &[f32; 32], half: f32, block: &mut [u8]) -> [u8; 32] {
    let scale = search::extreme(x) / -half;
    let inverse = inverse(scale);
    put(block, 0, scale);
    std::array::from_fn(|i| (x[i] * inverse + (half + 0.5)).min(2.0 * half - 1.0) as u8)
}

#[inline(always)]
pub(super) fn q4_0(x: &[f32; 32], block: &mut [u8; 18]) {
    let codes = signed(x, 8.0, block);
    pack(&codes, &mut block[2..]);
}

#[inline(always)]
pub(super) fn q5_0(x: &[f32; 32], block: &mut [u8; 22]) {
    let codes = signed(x, 16.0, block);
    let fifth = pack(&codes, &mut block[6..]);
    block[2..6].copy_from_slice(&fifth.to_le_bytes());
}

/// The lowest value gets code 0, the highest the last.
#[inline(always)]
fn from_minimum(x: &[f32; 32], most: f32, block: &mut [u8]) -> [u8; 32] {
    let low = x.iter().fold(f32::INFINITY, |a, b| if *b < a { *b } else { a });
    let high = x.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
    let scale = (high - low) / most;
    let inverse = inverse(scale);
    put(block, 0, scale);
    put(block, 2, low);
    std::array::from_fn(|i| ((x[i] - low) * inverse + 0.5).min(most) as u8)
}

#[inline(always)]
pub(super) fn q4_1(x: &[f32; 32], block: &mut [u8; 20]) {
    let codes = from_minimum(x, 15.0, block);
    pack(&codes, &mut block[4..]);
}

#[inline(always)]
pub(super) fn q5_1(x: &[f32; 32], block: &mut [u8; 24]) {
    let codes = from_minimum(x, 31.0, block);
    let fifth = pack(&codes, &mut block[8..]);
    block[4..8].copy_from_slice(&fifth.to_le_bytes());
}

#[inline(always)]
pub(super) fn iq4_nl(x: &[f32; 32], block: &mut [u8; 18]) {
    let scale = put(block, 0, search::of_levels(x));
    pack(&indices(x, scale), &mut block[2..]);
}

/// Indices of the nearest levels.
#[inline(always)]
pub(super) fn indices(x: &[f32; 32], scale: f32) -> [u8; 32] {
    let inverse = inverse(scale);
    std::array::from_fn(|i| search::level(x[i] * inverse).1 as u8)
}
