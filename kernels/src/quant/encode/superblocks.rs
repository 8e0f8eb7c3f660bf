//! Blocks of 256 numbers, whose groups' scales are codes themselves. The layouts are those of
//! [`decode::reference`](crate::quant::decode::reference).

use super::blocks::{indices, inverse, put};
use super::search;

/// Scales of groups as codes `-half ..= half - 1` of one scale, which is written at `at`: the codes, and the scales that
/// will be read.
#[inline(always)]
fn signed_scales<const GROUPS: usize>(
    scales: [f32; GROUPS],
    half: f32,
    block: &mut [u8],
    at: usize,
) -> ([i8; GROUPS], [f32; GROUPS]) {
    let stored = put(block, at, search::extreme(&scales) / -half);
    let inverse = inverse(stored);
    let codes = scales.map(|s| search::round((s * inverse).clamp(-half, half - 1.0)));
    (codes.map(|c| c as i8), codes.map(|c| stored * c))
}

/// As [`signed_scales`], for codes `0 ..= most` of what is not negative.
#[inline(always)]
fn scales<const GROUPS: usize>(
    scales: [f32; GROUPS],
    most: f32,
    block: &mut [u8],
    at: usize,
) -> ([u8; GROUPS], [f32; GROUPS]) {
    let stored = put(block, at, search::extreme(&scales) / most);
    let inverse = inverse(stored);
    let codes = scales.map(|s| search::round((s * inverse).clamp(0.0, most)));
    (codes.map(|c| c as u8), codes.map(|c| stored * c))
}

/// Codes `0 .. 2·half` of the numbers for scales of groups of `256 / GROUPS`.
#[inline(always)]
fn signed_codes<const GROUPS: usize>(x: &[f32; 256], half: f32, scales: [f32; GROUPS]) -> [u8; 256] {
    let mut codes = [0; 256];
    let width = 256 / GROUPS;
    for ((x, codes), scale) in x.chunks_exact(width).zip(codes.chunks_exact_mut(width)).zip(scales) {
        let inverse = inverse(scale);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = (search::round((x * inverse).clamp(-half, half - 1.0)) + half) as u8;
        }
    }
    codes
}

/// Codes `0 ..= most` of the numbers for scales and minima of groups.
#[inline(always)]
fn codes<const GROUPS: usize>(x: &[f32; 256], most: f32, scales: [f32; GROUPS], minima: [f32; GROUPS]) -> [u8; 256] {
    let mut codes = [0; 256];
    let width = 256 / GROUPS;
    for (g, (x, codes)) in x.chunks_exact(width).zip(codes.chunks_exact_mut(width)).enumerate() {
        let inverse = inverse(scales[g]);
        for (code, x) in codes.iter_mut().zip(x) {
            *code = search::round(((x + minima[g]) * inverse).clamp(0.0, most)) as u8;
        }
    }
    codes
}

/// `shift(code)` of 128 numbers in 32 bytes each, at two bits a quarter.
#[inline(always)]
fn pack_two_bits(codes: &[u8; 256], shift: u32, bytes: &mut [u8]) {
    for (half, bytes) in bytes[..64].chunks_exact_mut(32).enumerate() {
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = (0..4).fold(0, |all, j| all | (((codes[128 * half + 32 * j + l] >> shift) & 3) << (2 * j)));
        }
    }
}

/// Bit `bit` of all numbers in 32 bytes, number `32·b + l` at bit `b` of byte `l`.
#[inline(always)]
fn pack_bit(codes: &[u8; 256], bit: u32, bytes: &mut [u8]) {
    for (l, byte) in bytes[..32].iter_mut().enumerate() {
        *byte = (0..8).fold(0, |all, b| all | (((codes[32 * b + l] >> bit) & 1) << b));
    }
}

/// Scales and minima of sixteen or eight groups.
#[inline(always)]
fn fit<const GROUPS: usize, const WIDTH: usize>(x: &[f32; 256], most: f32) -> ([f32; GROUPS], [f32; GROUPS]) {
    let (mut scales, mut minima) = ([0.0; GROUPS], [0.0; GROUPS]);
    for (g, x) in x.as_chunks::<WIDTH>().0.iter().enumerate() {
        (scales[g], minima[g]) = search::with_minimum(x, most);
    }
    (scales, minima)
}

#[inline(always)]
pub(super) fn q2_k(x: &[f32; 256], block: &mut [u8; 84]) {
    let (s, m) = fit::<16, 16>(x, 3.0);
    let (scale_codes, s) = scales(s, 15.0, block, 80);
    let (minimum_codes, m) = scales(m, 15.0, block, 82);
    for g in 0..16 {
        block[g] = scale_codes[g] | (minimum_codes[g] << 4);
    }
    pack_two_bits(&codes(x, 3.0, s, m), 0, &mut block[16..]);
}

#[inline(always)]
pub(super) fn q3_k(x: &[f32; 256], block: &mut [u8; 110]) {
    let mut s = [0.0; 16];
    for (s, x) in s.iter_mut().zip(x.as_chunks::<16>().0) {
        *s = search::symmetric(x, 4.0);
    }
    let (scale_codes, s) = signed_scales(s, 32.0, block, 108);
    block[96..108].fill(0);
    for (j, code) in scale_codes.iter().enumerate() {
        let code = (code + 32) as u8;
        block[96 + j % 8] |= (code & 15) << (4 * (j / 8));
        block[104 + j % 4] |= (code >> 4) << (2 * (j / 4));
    }
    let q = signed_codes(x, 4.0, s);
    pack_bit(&q, 2, block);
    pack_two_bits(&q, 0, &mut block[32..]);
}

/// What Q4_K and Q5_K begin with; scales and minima that will be read.
#[inline(always)]
fn six_bit_scales(x: &[f32; 256], most: f32, block: &mut [u8]) -> ([f32; 8], [f32; 8]) {
    let (s, m) = fit::<8, 32>(x, most);
    let (scale_codes, s) = scales(s, 63.0, block, 0);
    let (minimum_codes, m) = scales(m, 63.0, block, 2);
    for j in 0..4 {
        block[4 + j] = scale_codes[j] | ((scale_codes[j + 4] >> 4) << 6);
        block[8 + j] = minimum_codes[j] | ((minimum_codes[j + 4] >> 4) << 6);
        block[12 + j] = (scale_codes[j + 4] & 15) | ((minimum_codes[j + 4] & 15) << 4);
    }
    (s, m)
}

/// Low nibbles of pairs of groups of 32.
#[inline(always)]
fn pack_nibbles(codes: &[u8; 256], bytes: &mut [u8]) {
    for (codes, bytes) in codes.chunks_exact(64).zip(bytes[..128].chunks_exact_mut(32)) {
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = (codes[l] & 15) | (codes[32 + l] << 4);
        }
    }
}

#[inline(always)]
pub(super) fn q4_k(x: &[f32; 256], block: &mut [u8; 144]) {
    let (s, m) = six_bit_scales(x, 15.0, block);
    pack_nibbles(&codes(x, 15.0, s, m), &mut block[16..]);
}

#[inline(always)]
pub(super) fn q5_k(x: &[f32; 256], block: &mut [u8; 176]) {
    let (s, m) = six_bit_scales(x, 31.0, block);
    let q = codes(x, 31.0, s, m);
    pack_bit(&q, 4, &mut block[16..]);
    pack_nibbles(&q, &mut block[48..]);
}

#[inline(always)]
pub(super) fn q6_k(x: &[f32; 256], block: &mut [u8; 210]) {
    let mut s = [0.0; 16];
    for (s, x) in s.iter_mut().zip(x.as_chunks::<16>().0) {
        *s = search::symmetric(x, 32.0);
    }
    let (scale_codes, s) = signed_scales(s, 128.0, block, 208);
    for (byte, code) in block[192..208].iter_mut().zip(scale_codes) {
        *byte = code as u8;
    }
    let q = signed_codes(x, 32.0, s);
    for (half, bytes) in block[..128].chunks_exact_mut(64).enumerate() {
        for (l, byte) in bytes.iter_mut().enumerate() {
            *byte = (q[128 * half + l] & 15) | (q[128 * half + 64 + l] << 4);
        }
    }
    pack_two_bits(&q, 4, &mut block[128..]);
}

#[inline(always)]
pub(super) fn iq4_xs(x: &[f32; 256], block: &mut [u8; 136]) {
    let groups = x.as_chunks::<32>().0;
    let mut s = [0.0; 8];
    for (s, x) in s.iter_mut().zip(groups) {
        *s = search::of_levels(x);
    }
    let (scale_codes, s) = signed_scales(s, 32.0, block, 0);
    block[2..8].fill(0);
    for (g, code) in scale_codes.iter().enumerate() {
        let code = (code + 32) as u8;
        block[2 + g / 4] |= (code >> 4) << (2 * (g % 4));
        block[4 + g / 2] |= (code & 15) << (4 * (g % 2));
    }
    for (g, x) in groups.iter().enumerate() {
        let q = indices(x, s[g]);
        for i in 0..16 {
            block[8 + 16 * g + i] = q[i] | (q[16 + i] << 4);
        }
    }
}
