//! The definition: what one number of a block is, from the layouts that ggml documents.

use crate::quant::number::{f8e4m3, f8e5m2, f16_at};
use crate::quant::{Encoding, QuantMatrix};

/// The sixteen levels of [`Encoding::Iq4Nl`] and [`Encoding::Iq4Xs`].
pub(crate) const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Number `i` of a block.
///
/// # Panics
/// The block is shorter than [`Encoding::block_bytes`], or `i` is not below [`Encoding::block`].
pub fn number(encoding: Encoding, block: &[u8], i: usize) -> f32 {
    // In blocks of 32, number i is a nibble of byte i mod 16: the low one of the first sixteen numbers.
    let nibble = |bytes: &[u8]| (bytes[i % 16] >> (4 * (i / 16))) & 15;
    let fifth_bit = |bytes: &[u8]| ((bytes[i / 8] >> (i % 8)) & 1) << 4;
    match encoding {
        Encoding::F32 => f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        Encoding::F16 => half::f16::from_le_bytes([block[0], block[1]]).to_f32(),
        Encoding::BF16 => half::bf16::from_le_bytes([block[0], block[1]]).to_f32(),
        Encoding::F8E4M3 => f8e4m3(block[0]),
        Encoding::F8E5M2 => f8e5m2(block[0]),
        Encoding::I8 => f32::from(block[0] as i8),
        // Scale, numbers.
        Encoding::Q8_0 => f32::from(block[2 + i] as i8) * f16_at(block, 0),
        // Scale, nibbles.
        Encoding::Q4_0 => f16_at(block, 0) * (f32::from(nibble(&block[2..])) - 8.0),
        // Scale, minimum, nibbles.
        Encoding::Q4_1 => f16_at(block, 0) * f32::from(nibble(&block[4..])) + f16_at(block, 2),
        // Scale, fifth bits, nibbles.
        Encoding::Q5_0 => f16_at(block, 0) * (f32::from(nibble(&block[6..]) | fifth_bit(&block[2..])) - 16.0),
        // Scale, minimum, fifth bits, nibbles.
        Encoding::Q5_1 => f16_at(block, 0) * f32::from(nibble(&block[8..]) | fifth_bit(&block[4..])) + f16_at(block, 2),
        Encoding::Q2K => {
            // 16 groups' scale and minimum in a byte, 2-bit numbers, scale of scales, scale of minima.
            let group = block[i / 16];
            let scale = f16_at(block, 80) * f32::from(group & 15);
            let minimum = f16_at(block, 82) * f32::from(group >> 4);
            scale * f32::from(two_bits(&block[16..], i)) - minimum
        }
        Encoding::Q3K => {
            // Third bits, 2-bit numbers, 6-bit scales of 16 groups, scale of scales. A third bit that is set is no 4 less.
            let third = (block[i % 32] >> (i / 32)) & 1;
            let scale = f16_at(block, 108) * f32::from(six_bits(&block[96..], i / 16) as i8 - 32);
            scale * (f32::from(two_bits(&block[32..], i)) - if third == 1 { 0.0 } else { 4.0 })
        }
        Encoding::Q4K => {
            // Scale of scales, scale of minima, 6-bit scales and minima of 8 groups, nibbles.
            let (scale, minimum) = scale_and_minimum(&block[4..], i / 32);
            let q = (block[16 + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 15;
            f16_at(block, 0) * f32::from(scale) * f32::from(q) - f16_at(block, 2) * f32::from(minimum)
        }
        Encoding::Q5K => {
            // As Q4_K, with fifth bits before the nibbles.
            let (scale, minimum) = scale_and_minimum(&block[4..], i / 32);
            let low = (block[48 + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 15;
            let q = low | (((block[16 + i % 32] >> (i / 32)) & 1) << 4);
            f16_at(block, 0) * f32::from(scale) * f32::from(q) - f16_at(block, 2) * f32::from(minimum)
        }
        Encoding::Q6K => {
            // Low nibbles, high two bits, 8-bit scales of 16 groups, scale of scales.
            let low = (block[64 * (i / 128) + i % 64] >> (4 * (i / 64 % 2))) & 15;
            let q = low | (two_bits(&block[128..], i) << 4);
            f16_at(block, 208) * f32::from(block[192 + i / 16] as i8) * (f32::from(q) - 32.0)
        }
        Encoding::Iq4Nl => f16_at(block, 0) * f32::from(LEVELS[usize::from(nibble(&block[2..]))]),
        Encoding::Iq4Xs => {
            // Scale of scales, high two bits and low nibbles of 8 groups' scales, nibbles.
            let group = i / 32;
            let high = (u16::from_le_bytes([block[2], block[3]]) >> (2 * group)) as u8 & 3;
            let low = (block[4 + group / 2] >> (4 * (group % 2))) & 15;
            let scale = f16_at(block, 0) * f32::from((low | (high << 4)) as i8 - 32);
            let index = (block[8 + 16 * group + i % 16] >> (4 * (i / 16 % 2))) & 15;
            scale * f32::from(LEVELS[usize::from(index)])
        }
    }
}

/// 2-bit number `i` of 256: 32 bytes hold 128 numbers, a quarter of them at each pair of bits.
fn two_bits(bytes: &[u8], i: usize) -> u8 {
    (bytes[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3
}

/// Scale `j` of 16 in Q3_K: low nibbles in the first eight bytes, high two bits in the last four.
fn six_bits(bytes: &[u8], j: usize) -> u8 {
    ((bytes[j % 8] >> (4 * (j / 8))) & 15) | (((bytes[8 + j % 4] >> (2 * (j / 4))) & 3) << 4)
}

/// Scale and minimum `j` of 8 in Q4_K and Q5_K: six bits each of the first four, whose upper two bits are those of the
/// last four; their nibbles lie together in the last four bytes.
fn scale_and_minimum(bytes: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (bytes[j] & 63, bytes[4 + j] & 63)
    } else {
        let last = bytes[4 + j];
        ((last & 15) | ((bytes[j - 4] >> 6) << 4), (last >> 4) | ((bytes[j] >> 6) << 4))
    }
}

/// `H·x/√n` in place for a power of four `n`. `H` is the regular Hadamard matrix: the Kronecker power of
/// `[[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]`, symmetric, with rows that sum to `√n`. Four numbers at a
/// quarter of the distance each time, then the factor.
///
/// Source: ConvRot (arXiv 2512.03673), as comfy-kitchen computes it.
pub fn rotate(x: &mut [f32]) {
    let n = x.len();
    let mut distance = n / 4;
    while distance > 0 {
        for i in (0..n).filter(|i| (i / distance).is_multiple_of(4)) {
            let [a, b, c, d] = std::array::from_fn(|k| x[i + k * distance]);
            let (sum, difference, other_sum, other) = (a + b, a - b, c + d, c - d);
            x[i] = sum + other;
            x[i + distance] = sum - other;
            x[i + 2 * distance] = difference + other_sum;
            x[i + 3 * distance] = other_sum - difference;
        }
        distance /= 4;
    }
    let factor = (1.0 / (n as f64).sqrt()) as f32;
    x.iter_mut().for_each(|x| *x *= factor);
}

/// A row of a matrix: numbers, times scales, rotated back.
///
/// # Panics
/// There is no such row.
pub fn row(matrix: &QuantMatrix, row: usize) -> Vec<f32> {
    let [_, columns] = matrix.shape();
    let (encoding, row_bytes) = (matrix.encoding(), matrix.view().row_bytes());
    let bytes = &matrix.bytes()[row * row_bytes..][..row_bytes];
    let value = |column: usize| {
        let block = &bytes[column / encoding.block() * encoding.block_bytes()..];
        number(encoding, block, column % encoding.block()) * matrix.view().scale(row, column)
    };
    let mut out: Vec<f32> = (0..columns).map(value).collect();
    if let Some(group) = matrix.rotation() {
        out.chunks_mut(group).for_each(rotate);
    }
    out
}
