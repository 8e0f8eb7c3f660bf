//! Registers of NEON, which every 64-bit ARM has.

use std::arch::aarch64::*;

use super::{Task, Vector};

// SAFETY, for all blocks below: the instructions are always there, and pointers are to as many floats as are read or written.
impl Vector for float32x4_t {
    const LANES: usize = 4;
    // Twice as many sums and three more of 32 registers.
    const ROWS: usize = 12;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { vld1q_f32(from) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        let mut lanes = [0f32; 4];
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { vst1q_f32(to, self) };
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        let mut lanes = [0f32; 4];
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), self);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { vaddq_f32(self, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { vsubq_f32(self, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { vmulq_f32(self, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { vfmaq_f32(c, self, b) }
    }
    #[inline(always)]
    unsafe fn mul_sub_from(self, b: Self, c: Self) -> Self {
        unsafe { vfmsq_f32(c, self, b) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        // The instruction for the larger gives NaN where either is.
        unsafe { vbslq_f32(vcgtq_f32(self, b), self, b) }
    }
    #[inline(always)]
    unsafe fn zero_below(self, x: Self, low: f32) -> Self {
        unsafe { vbslq_f32(vcltq_f32(x, vdupq_n_f32(low)), vdupq_n_f32(0.0), self) }
    }
    #[inline(always)]
    unsafe fn load_twice(from: *const f32) -> Self {
        unsafe {
            let two = vld1_f32(from);
            vcombine_f32(vzip1_f32(two, two), vzip2_f32(two, two))
        }
    }
    #[inline(always)]
    unsafe fn swap_pairs(self) -> Self {
        unsafe { vrev64q_f32(self) }
    }
    #[inline(always)]
    unsafe fn sub_add(self, b: Self) -> Self {
        const SIGNS: [u32; 4] = [1 << 31, 0, 1 << 31, 0];
        unsafe {
            let b = veorq_u32(vreinterpretq_u32_f32(b), vld1q_u32(SIGNS.as_ptr()));
            vaddq_f32(self, vreinterpretq_f32_u32(b))
        }
    }
    #[inline(always)]
    unsafe fn clamp(self, low: f32, high: f32) -> Self {
        // Both keep NaN.
        unsafe { vminq_f32(vmaxq_f32(self, vdupq_n_f32(low)), vdupq_n_f32(high)) }
    }
    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(self, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        unsafe { vdivq_f32(vdupq_n_f32(1.0), self) }
    }
    type Ints = int32x4_t;
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> int32x4_t {
        unsafe {
            let four = vcreate_u8(u64::from(from.cast::<u32>().read_unaligned()));
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four))))
        }
    }
    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> int32x4_t {
        unsafe {
            let four = vcreate_s8(u64::from(from.cast::<u32>().read_unaligned()));
            vmovl_s16(vget_low_s16(vmovl_s8(four)))
        }
    }
    #[inline(always)]
    unsafe fn bits(bits: u32, from: u32) -> int32x4_t {
        const LANES: [i32; 4] = [0, 1, 2, 3];
        unsafe {
            // Shifts by less than nothing go to the right.
            let by = vnegq_s32(vaddq_s32(vld1q_s32(LANES.as_ptr()), vdupq_n_s32(from as i32)));
            vreinterpretq_s32_u32(vandq_u32(vshlq_u32(vdupq_n_u32(bits), by), vdupq_n_u32(1)))
        }
    }
    #[inline(always)]
    unsafe fn shift_left(x: int32x4_t, by: u32) -> int32x4_t {
        unsafe { vshlq_s32(x, vdupq_n_s32(by as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_right(x: int32x4_t, by: u32) -> int32x4_t {
        unsafe {
            let by = vdupq_n_s32(-(by as i32));
            vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(x), by))
        }
    }
    #[inline(always)]
    unsafe fn and(x: int32x4_t, mask: i32) -> int32x4_t {
        unsafe { vandq_s32(x, vdupq_n_s32(mask)) }
    }
    #[inline(always)]
    unsafe fn or(x: int32x4_t, y: int32x4_t) -> int32x4_t {
        unsafe { vorrq_s32(x, y) }
    }
    #[inline(always)]
    unsafe fn float(x: int32x4_t) -> Self {
        unsafe { vcvtq_f32_s32(x) }
    }
    #[inline(always)]
    unsafe fn pick(table: &[f32; 16], index: int32x4_t) -> Self {
        unsafe {
            // Of each float its four bytes: 4·index + 0, 1, 2, 3.
            let first = vmulq_s32(index, vdupq_n_s32(0x0404_0404));
            let bytes = vreinterpretq_u8_s32(vaddq_s32(first, vdupq_n_s32(0x0302_0100)));
            let table = vld1q_u8_x4(table.as_ptr().cast());
            vreinterpretq_f32_u8(vqtbl4q_u8(table, bytes))
        }
    }
    #[inline(never)]
    unsafe fn call(task: impl Task) {
        unsafe { task.run::<Self>() };
    }
}
