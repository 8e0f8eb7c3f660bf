//! Registers of AVX-512 and AVX2.

use std::arch::x86_64::*;

use super::{Task, Vector};

/// # Safety
/// As [`Task::run`].
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512(task: impl Task) {
    // SAFETY: the caller's.
    unsafe { task.run::<__m512>() };
}

/// # Safety
/// As [`Task::run`].
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2(task: impl Task) {
    // SAFETY: the caller's.
    unsafe { task.run::<__m256>() };
}

// SAFETY, for all blocks below: the trait's functions may only be called where the instructions are, with pointers
// to as many floats as they read or write.
impl Vector for __m512 {
    const LANES: usize = 16;
    const ROWS: usize = 14;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        unsafe { _mm512_maskz_loadu_ps(((1u32 << count) - 1) as u16, from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm512_storeu_ps(to, self) };
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        unsafe { _mm512_mask_storeu_ps(to, ((1u32 << count) - 1) as u16, self) };
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { _mm512_add_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { _mm512_sub_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { _mm512_mul_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm512_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn mul_sub_from(self, b: Self, c: Self) -> Self {
        unsafe { _mm512_fnmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { _mm512_max_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn zero_below(self, x: Self, low: f32) -> Self {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(low)), self) }
    }
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        unsafe {
            // The instructions round to whole numbers and scale beyond the normal numbers: 2⁻¹⁶⁰ is zero.
            let x = _mm512_max_ps(_mm512_set1_ps(-160.0), self);
            let n = _mm512_roundscale_ps::<0>(x);
            _mm512_scalef_ps(super::exp2_of_fraction(_mm512_sub_ps(x, n)), n)
        }
    }
    #[inline(always)]
    unsafe fn load_twice(from: *const f32) -> Self {
        unsafe {
            let lanes = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
            _mm512_permutexvar_ps(lanes, _mm512_castps256_ps512(_mm256_loadu_ps(from)))
        }
    }
    #[inline(always)]
    unsafe fn swap_pairs(self) -> Self {
        unsafe { _mm512_permute_ps::<0b10_11_00_01>(self) }
    }
    #[inline(always)]
    unsafe fn sub_add(self, b: Self) -> Self {
        // A product with one is exact.
        unsafe { _mm512_fmaddsub_ps(self, _mm512_set1_ps(1.0), b) }
    }
    #[inline(always)]
    unsafe fn clamp(self, low: f32, high: f32) -> Self {
        // Where one operand is NaN, the instructions give the second.
        unsafe { _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), self)) }
    }
    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        unsafe { _mm512_scalef_ps(self, n) }
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        unsafe {
            // One step of Newton's method doubles the fourteen bits.
            let guess = _mm512_rcp14_ps(self);
            let error = _mm512_fnmadd_ps(self, guess, _mm512_set1_ps(1.0));
            _mm512_fmadd_ps(guess, error, guess)
        }
    }
    type Ints = __m512i;
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn bits(bits: u32, from: u32) -> __m512i {
        unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let by = _mm512_add_epi32(lanes, _mm512_set1_epi32(from as i32));
            _mm512_and_si512(_mm512_srlv_epi32(_mm512_set1_epi32(bits as i32), by), _mm512_set1_epi32(1))
        }
    }
    #[inline(always)]
    unsafe fn shift_left(x: __m512i, by: u32) -> __m512i {
        unsafe { _mm512_sll_epi32(x, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_right(x: __m512i, by: u32) -> __m512i {
        unsafe { _mm512_srl_epi32(x, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn and(x: __m512i, mask: i32) -> __m512i {
        unsafe { _mm512_and_si512(x, _mm512_set1_epi32(mask)) }
    }
    #[inline(always)]
    unsafe fn or(x: __m512i, y: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(x, y) }
    }
    #[inline(always)]
    unsafe fn float(x: __m512i) -> Self {
        unsafe { _mm512_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn pick(table: &[f32; 16], index: __m512i) -> Self {
        unsafe { _mm512_permutexvar_ps(index, _mm512_loadu_ps(table.as_ptr())) }
    }
    #[inline(always)]
    unsafe fn call(task: impl Task) {
        unsafe { avx512(task) };
    }
}

/// Lanes below `count`.
#[inline(always)]
unsafe fn mask(count: usize) -> __m256i {
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
    }
}

impl Vector for __m256 {
    const LANES: usize = 8;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        unsafe { _mm256_maskload_ps(from, mask(count)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        unsafe { _mm256_storeu_ps(to, self) };
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        unsafe { _mm256_maskstore_ps(to, mask(count), self) };
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        unsafe { _mm256_add_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        unsafe { _mm256_sub_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        unsafe { _mm256_mul_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        unsafe { _mm256_fmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn mul_sub_from(self, b: Self, c: Self) -> Self {
        unsafe { _mm256_fnmadd_ps(self, b, c) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        unsafe { _mm256_max_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn zero_below(self, x: Self, low: f32) -> Self {
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(low)), self) }
    }
    #[inline(always)]
    unsafe fn load_twice(from: *const f32) -> Self {
        unsafe {
            let lanes = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
            _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), lanes)
        }
    }
    #[inline(always)]
    unsafe fn swap_pairs(self) -> Self {
        unsafe { _mm256_permute_ps::<0b10_11_00_01>(self) }
    }
    #[inline(always)]
    unsafe fn sub_add(self, b: Self) -> Self {
        unsafe { _mm256_addsub_ps(self, b) }
    }
    #[inline(always)]
    unsafe fn clamp(self, low: f32, high: f32) -> Self {
        // As above.
        unsafe { _mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), self)) }
    }
    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(self, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), self) }
    }
    type Ints = __m256i;
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> __m256i {
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())) }
    }
    #[inline(always)]
    unsafe fn bits(bits: u32, from: u32) -> __m256i {
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let by = _mm256_add_epi32(lanes, _mm256_set1_epi32(from as i32));
            _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(bits as i32), by), _mm256_set1_epi32(1))
        }
    }
    #[inline(always)]
    unsafe fn shift_left(x: __m256i, by: u32) -> __m256i {
        unsafe { _mm256_sll_epi32(x, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn shift_right(x: __m256i, by: u32) -> __m256i {
        unsafe { _mm256_srl_epi32(x, _mm_cvtsi32_si128(by as i32)) }
    }
    #[inline(always)]
    unsafe fn and(x: __m256i, mask: i32) -> __m256i {
        unsafe { _mm256_and_si256(x, _mm256_set1_epi32(mask)) }
    }
    #[inline(always)]
    unsafe fn or(x: __m256i, y: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(x, y) }
    }
    #[inline(always)]
    unsafe fn float(x: __m256i) -> Self {
        unsafe { _mm256_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn pick(table: &[f32; 16], index: __m256i) -> Self {
        unsafe {
            let low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), index);
            let high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr().add(8)), index);
            // The sign of a lane chooses: bit 3 of the index, moved there.
            _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
        }
    }
    #[inline(always)]
    unsafe fn call(task: impl Task) {
        unsafe { avx2(task) };
    }
}
