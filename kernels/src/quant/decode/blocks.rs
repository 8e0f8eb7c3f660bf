//! Whole blocks to f32, a vector of numbers at a time. What they compute is in [`reference`](super::reference), in the same
//! order of operations, so that results are the same to the bit.

use super::reference::LEVELS;
use crate::quant::number::f16_at;
use crate::vector::Vector;

/// Decodes blocks of `BYTES` to `NUMBERS` each.
#[inline(always)]
pub(super) fn each<const BYTES: usize, const NUMBERS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; NUMBERS]),
) {
    for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<NUMBERS>().0) {
        decode(block, out);
    }
}

/// `out[i ..] = value(i)` for each vector of numbers.
///
/// # Safety
/// As [`Task::run`](crate::vector::Task::run); the length is a multiple of sixteen, which all vectors' lengths divide.
#[inline(always)]
unsafe fn fill<V: Vector>(out: &mut [f32], value: impl Fn(usize) -> V) {
    debug_assert!(out.len().is_multiple_of(16));
    for i in (0..out.len()).step_by(V::LANES) {
        // SAFETY: a whole vector is left.
        unsafe { value(i).store(out.as_mut_ptr().add(i)) };
    }
}

// SAFETY, for all blocks below: the functions may only be called where the instructions of `V` are. Each reads at offsets
// inside of its block, which `inside` asserts for constants and the compiler then drops.

/// Pointer to `count` bytes of a block from `at` on.
#[inline(always)]
fn inside(block: &[u8], at: usize, count: usize) -> *const u8 {
    block[at..at + count].as_ptr()
}

#[inline(always)]
pub(super) unsafe fn q8_0<V: Vector>(block: &[u8; 34], out: &mut [f32; 32]) {
    let bytes = inside(block, 2, 32);
    unsafe {
        let scale = V::splat(f16_at(block, 0));
        fill(out, |i| V::float(V::signed_bytes(bytes.add(i))).mul(scale));
    }
}

/// Sixteen bytes of nibbles, the low ones first.
#[inline(always)]
unsafe fn nibbles<V: Vector>(bytes: *const u8, out: &mut [f32; 32], value: impl Fn(V::Ints) -> V) {
    let (low, high) = out.split_at_mut(16);
    unsafe {
        fill(low, |i| value(V::and(V::bytes(bytes.add(i)), 15)));
        fill(high, |i| value(V::shift_right(V::bytes(bytes.add(i)), 4)));
    }
}

#[inline(always)]
pub(super) unsafe fn q4_0<V: Vector>(block: &[u8; 18], out: &mut [f32; 32]) {
    unsafe {
        let (scale, half) = (V::splat(f16_at(block, 0)), V::splat(8.0));
        nibbles(inside(block, 2, 16), out, |q| scale.mul(V::float(q).sub(half)));
    }
}

#[inline(always)]
pub(super) unsafe fn q4_1<V: Vector>(block: &[u8; 20], out: &mut [f32; 32]) {
    unsafe {
        let (scale, minimum) = (V::splat(f16_at(block, 0)), V::splat(f16_at(block, 2)));
        nibbles(inside(block, 4, 16), out, |q| scale.mul(V::float(q)).add(minimum));
    }
}

/// As [`nibbles`], with the fifth bits of all numbers in their order.
#[inline(always)]
unsafe fn five_bits<V: Vector>(fifth: [u8; 4], bytes: *const u8, out: &mut [f32; 32], value: impl Fn(V::Ints) -> V) {
    let fifth = u32::from_le_bytes(fifth);
    let (low, high) = out.split_at_mut(16);
    unsafe {
        let with_fifth = |q, from: usize| V::or(q, V::shift_left(V::bits(fifth, from as u32), 4));
        fill(low, |i| value(with_fifth(V::and(V::bytes(bytes.add(i)), 15), i)));
        fill(high, |i| value(with_fifth(V::shift_right(V::bytes(bytes.add(i)), 4), i + 16)));
    }
}

#[inline(always)]
pub(super) unsafe fn q5_0<V: Vector>(block: &[u8; 22], out: &mut [f32; 32]) {
    let fifth = [block[2], block[3], block[4], block[5]];
    unsafe {
        let (scale, half) = (V::splat(f16_at(block, 0)), V::splat(16.0));
        five_bits(fifth, inside(block, 6, 16), out, |q| scale.mul(V::float(q).sub(half)));
    }
}

#[inline(always)]
pub(super) unsafe fn q5_1<V: Vector>(block: &[u8; 24], out: &mut [f32; 32]) {
    let fifth = [block[4], block[5], block[6], block[7]];
    unsafe {
        let (scale, minimum) = (V::splat(f16_at(block, 0)), V::splat(f16_at(block, 2)));
        five_bits(fifth, inside(block, 8, 16), out, |q| scale.mul(V::float(q)).add(minimum));
    }
}

/// Indices into the sixteen levels.
#[inline(always)]
unsafe fn levels<V: Vector>(scale: f32, bytes: *const u8, out: &mut [f32; 32]) {
    let table = LEVELS.map(f32::from);
    unsafe {
        let scale = V::splat(scale);
        nibbles(bytes, out, |q| scale.mul(V::pick(&table, q)));
    }
}

#[inline(always)]
pub(super) unsafe fn iq4_nl<V: Vector>(block: &[u8; 18], out: &mut [f32; 32]) {
    unsafe { levels::<V>(f16_at(block, 0), inside(block, 2, 16), out) };
}

#[inline(always)]
pub(super) unsafe fn iq4_xs<V: Vector>(block: &[u8; 136], out: &mut [f32; 256]) {
    let scale = f16_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = (block[4 + g / 2] >> (4 * (g % 2))) & 15;
        let group = (low | (((high >> (2 * g)) as u8 & 3) << 4)) as i8 - 32;
        unsafe { levels::<V>(scale * f32::from(group), inside(block, 8 + 16 * g, 16), out) };
    }
}

#[inline(always)]
pub(super) unsafe fn q2_k<V: Vector>(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scale, minimum) = (f16_at(block, 80), f16_at(block, 82));
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, minimum) = (scale * f32::from(block[g] & 15), minimum * f32::from(block[g] >> 4));
        let (bytes, shift) = (inside(block, 16 + 32 * (g / 8) + 16 * (g % 2), 16), 2 * (g as u32 / 2 % 4));
        unsafe {
            let (scale, minimum) = (V::splat(scale), V::splat(minimum));
            fill(out, |i| {
                let q = V::and(V::shift_right(V::bytes(bytes.add(i)), shift), 3);
                scale.mul(V::float(q)).sub(minimum)
            });
        }
    }
}

#[inline(always)]
pub(super) unsafe fn q3_k<V: Vector>(block: &[u8; 110], out: &mut [f32; 256]) {
    let scale = f16_at(block, 108);
    let scales = &block[96..108];
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let code = ((scales[g % 8] >> (g / 8 * 4)) & 15) | (((scales[8 + g % 4] >> (g / 4 * 2)) & 3) << 4);
        let scale = scale * f32::from(code as i8 - 32);
        let third = inside(block, 16 * (g % 2), 16);
        let low = inside(block, 32 + 32 * (g / 8) + 16 * (g % 2), 16);
        let g = g as u32;
        unsafe {
            let (scale, four) = (V::splat(scale), V::splat(4.0));
            fill(out, |i| {
                let third = V::and(V::shift_right(V::bytes(third.add(i)), g / 2), 1);
                let q = V::and(V::shift_right(V::bytes(low.add(i)), 2 * (g / 2 % 4)), 3);
                scale.mul(V::float(V::or(q, V::shift_left(third, 2))).sub(four))
            });
        }
    }
}

/// 6-bit scales and minima of eight groups, times theirs.
#[inline(always)]
fn scales_and_minima(block: &[u8]) -> [(f32, f32); 8] {
    let (scale, minimum) = (f16_at(block, 0), f16_at(block, 2));
    let bytes = &block[4..16];
    std::array::from_fn(|j| {
        let (s, m) = match j.checked_sub(4) {
            None => (bytes[j] & 63, bytes[4 + j] & 63),
            Some(first) => {
                let last = bytes[4 + j];
                ((last & 15) | ((bytes[first] >> 6) << 4), (last >> 4) | ((bytes[j] >> 6) << 4))
            }
        };
        (scale * f32::from(s), minimum * f32::from(m))
    })
}

#[inline(always)]
pub(super) unsafe fn q4_k<V: Vector>(block: &[u8; 144], out: &mut [f32; 256]) {
    let groups = scales_and_minima(block);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (bytes, shift) = (inside(block, 16 + 32 * (g / 2), 32), 4 * (g as u32 % 2));
        unsafe {
            let (scale, minimum) = (V::splat(groups[g].0), V::splat(groups[g].1));
            fill(out, |i| {
                let q = V::and(V::shift_right(V::bytes(bytes.add(i)), shift), 15);
                scale.mul(V::float(q)).sub(minimum)
            });
        }
    }
}

#[inline(always)]
pub(super) unsafe fn q5_k<V: Vector>(block: &[u8; 176], out: &mut [f32; 256]) {
    let groups = scales_and_minima(block);
    let fifth = inside(block, 16, 32);
    for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let bytes = inside(block, 48 + 32 * (g / 2), 32);
        unsafe {
            let (scale, minimum) = (V::splat(groups[g].0), V::splat(groups[g].1));
            let g = g as u32;
            fill(out, |i| {
                let fifth = V::and(V::shift_right(V::bytes(fifth.add(i)), g), 1);
                let q = V::and(V::shift_right(V::bytes(bytes.add(i)), 4 * (g % 2)), 15);
                scale.mul(V::float(V::or(q, V::shift_left(fifth, 4)))).sub(minimum)
            });
        }
    }
}

#[inline(always)]
pub(super) unsafe fn q6_k<V: Vector>(block: &[u8; 210], out: &mut [f32; 256]) {
    let scale = f16_at(block, 208);
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = scale * f32::from(block[192 + g] as i8);
        let low = inside(block, 64 * (g / 8) + 16 * (g % 4), 16);
        let high = inside(block, 128 + 32 * (g / 8) + 16 * (g % 2), 16);
        let g = g as u32;
        unsafe {
            let (scale, half) = (V::splat(scale), V::splat(32.0));
            fill(out, |i| {
                let low = V::and(V::shift_right(V::bytes(low.add(i)), 4 * (g / 4 % 2)), 15);
                let high = V::and(V::shift_right(V::bytes(high.add(i)), 2 * (g / 2 % 4)), 3);
                scale.mul(V::float(V::or(low, V::shift_left(high, 4))).sub(half))
            });
        }
    }
}
