//! Vectors of f32 for each instruction set, and the door through which code compiled for one is entered.

use crate::level::Level;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

/// Arithmetic that is compiled once for each instruction set. Mark `run` `#[inline(always)]`, and likewise everything
/// in it that touches vectors.
pub(crate) trait Task {
    /// # Safety
    /// The machine has the instructions of `V`, and what the task points at is there.
    unsafe fn run<V: Vector>(self);
}

/// Runs a task with the instructions of a level.
pub(crate) fn run_at(level: Level, task: impl Task) {
    match level {
        // SAFETY: `Level::available` found the instructions; tasks are made with slices and pointers that hold.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::avx512(task) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2(task) },
        // SAFETY: every such machine has the instructions; as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { task.run::<std::arch::aarch64::float32x4_t>() },
        // SAFETY: as above.
        Level::Portable => unsafe { task.run::<Lanes>() },
    }
}

/// A register of f32.
///
/// # Safety
/// Every function needs the instructions of the level, and pointers to as many floats as it reads or writes.
pub(crate) trait Vector: Copy {
    /// Floats in a vector; divides [`CHUNK`](crate::gemm::CHUNK).
    const LANES: usize;
    /// Rows of the matrix kernel: twice as many vectors are its sums.
    const ROWS: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count` lanes, at most all; the others are zero.
    unsafe fn load_part(from: *const f32, count: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The first `count` lanes, at most all.
    unsafe fn store_part(self, to: *mut f32, count: usize);
    unsafe fn add(self, b: Self) -> Self;
    unsafe fn sub(self, b: Self) -> Self;
    unsafe fn mul(self, b: Self) -> Self;
    /// self·b + c
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
    /// c − self·b
    unsafe fn mul_sub_from(self, b: Self, c: Self) -> Self;
    /// The larger of both; `b` where either is NaN.
    unsafe fn max(self, b: Self) -> Self;
    /// Zero in the lanes where `x` is below `low`, and otherwise this.
    unsafe fn zero_below(self, x: Self, low: f32) -> Self;
    /// Half as many floats as there are lanes, each in two lanes side by side.
    unsafe fn load_twice(from: *const f32) -> Self;
    /// Lanes 2j and 2j + 1 change places.
    unsafe fn swap_pairs(self) -> Self;
    /// self − b in even lanes, self + b in odd ones.
    unsafe fn sub_add(self, b: Self) -> Self;
    /// Lanes below `low` become it, those above `high` that; NaN stays.
    unsafe fn clamp(self, low: f32, high: f32) -> Self;
    /// self·2ⁿ for whole n of −126 to 127.
    unsafe fn scale(self, n: Self) -> Self;
    /// 1/self to one unit in the last place or two, where neither is subnormal.
    unsafe fn reciprocal(self) -> Self;
    /// Whole numbers, one a lane.
    type Ints: Copy;
    /// Bytes without sign.
    unsafe fn bytes(from: *const u8) -> Self::Ints;
    /// Bytes with sign.
    unsafe fn signed_bytes(from: *const u8) -> Self::Ints;
    /// Bit `from` + lane of these, below 32.
    unsafe fn bits(bits: u32, from: u32) -> Self::Ints;
    unsafe fn shift_left(x: Self::Ints, by: u32) -> Self::Ints;
    unsafe fn shift_right(x: Self::Ints, by: u32) -> Self::Ints;
    unsafe fn and(x: Self::Ints, mask: i32) -> Self::Ints;
    unsafe fn or(x: Self::Ints, y: Self::Ints) -> Self::Ints;
    unsafe fn float(x: Self::Ints) -> Self;
    /// The floats of these indices, all below 16.
    unsafe fn pick(table: &[f32; 16], index: Self::Ints) -> Self;
    /// Runs a task without copying its code to this place.
    unsafe fn call(task: impl Task);

    /// 2ˣ to one unit in the last place for x ≤ 127, and nothing or less than 2⁻¹²⁶ for x below −126. NaN stays.
    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // 1.5·2²³: adding and subtracting it rounds to a whole number.
        const ROUND: f32 = 12_582_912.0;
        // SAFETY: arithmetic; the instructions are the caller's.
        unsafe {
            let x = self.clamp(-126.0, 127.0);
            let n = x.add(Self::splat(ROUND)).sub(Self::splat(ROUND));
            exp2_of_fraction(x.sub(n)).scale(n).zero_below(self, -126.0)
        }
    }

    /// The first lane.
    #[inline(always)]
    unsafe fn first(self) -> f32 {
        let mut lanes = [0f32; 16];
        // SAFETY: there are at most sixteen lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes[0]
    }

    /// The largest lane; NaN counts for nothing beside a number.
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        // SAFETY: there are at most sixteen lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        lanes[..Self::LANES].iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }

    /// The sum of all lanes, halves added to each other until one number is left.
    #[inline(always)]
    unsafe fn total(self) -> f32 {
        let mut lanes = [0f32; 16];
        // SAFETY: as above.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut count = Self::LANES;
        while count > 1 {
            count /= 2;
            for i in 0..count {
                lanes[i] += lanes[i + count];
            }
        }
        lanes[0]
    }

    /// `x/(1 + e⁻ˣ)`.
    #[inline(always)]
    unsafe fn silu(self) -> Self {
        // SAFETY: as above.
        unsafe { self.mul(self.logistic()) }
    }

    /// `1/(1 + e⁻ˣ)`, with the exponential as in [`exp`](crate::exp::exp) but products fused.
    #[inline(always)]
    unsafe fn logistic(self) -> Self {
        // 1.5·2²³: adding and subtracting it rounds to a whole number.
        const ROUND: f32 = 12_582_912.0;
        // SAFETY: arithmetic; the instructions are the caller's.
        unsafe {
            // Up to here the reciprocal is a normal number.
            let y = self.mul(Self::splat(-1.0)).clamp(-87.0, 87.0);
            let n = y.mul_add(Self::splat(std::f32::consts::LOG2_E), Self::splat(ROUND)).sub(Self::splat(ROUND));
            // ln 2 in two parts, the first short enough that its product with n is exact.
            let r = n.mul_sub_from(Self::splat(0.693_359_4), y);
            let r = n.mul_add(Self::splat(2.121_944_4e-4), r);
            let mut sum = Self::splat(1.0 / 5040.0);
            for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                sum = sum.mul_add(r, Self::splat(c));
            }
            Self::splat(1.0).add(sum.scale(n)).reciprocal()
        }
    }
}

/// 2ʳ for |r| ≤ ½: the polynomial of the sixth degree whose largest relative error, 2·10⁻⁹, is least.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
pub(crate) unsafe fn exp2_of_fraction<V: Vector>(r: V) -> V {
    const POWERS: [f32; 6] =
        [1.339_993_1e-3, 9.618_489e-3, 5.550_328_6e-2, 2.402_264_6e-1, std::f32::consts::LN_2, 1.0];
    // SAFETY: arithmetic; the instructions are the caller's.
    unsafe {
        let mut sum = V::splat(1.534_581_2e-4);
        for c in POWERS {
            sum = sum.mul_add(r, V::splat(c));
        }
        sum
    }
}

/// `to = from` without a call.
///
/// # Safety
/// As [`Task::run`].
#[inline(always)]
pub(crate) unsafe fn copy<V: Vector>(from: &[f32], to: &mut [f32]) {
    let count = from.len().min(to.len());
    let (from, to, mut i) = (from.as_ptr(), to.as_mut_ptr(), 0);
    // SAFETY: no more than there is of either.
    unsafe {
        while i + V::LANES <= count {
            V::load(from.add(i)).store(to.add(i));
            i += V::LANES;
        }
        if i < count {
            V::load_part(from.add(i), count - i).store_part(to.add(i), count - i);
        }
    }
}

/// Lanes that the compiler turns into whatever the machine has.
#[derive(Clone, Copy)]
pub(crate) struct Lanes([f32; 4]);

impl Lanes {
    #[inline(always)]
    fn each(self, b: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], b.0[i])))
    }
}

impl Vector for Lanes {
    const LANES: usize = 4;
    const ROWS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: four floats are there.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self {
        // SAFETY: `count` floats are there.
        Self(std::array::from_fn(|i| if i < count { unsafe { *from.add(i) } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: four floats are there.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) };
    }
    #[inline(always)]
    unsafe fn store_part(self, to: *mut f32, count: usize) {
        for (i, x) in self.0.iter().enumerate().take(count) {
            // SAFETY: `count` floats are there.
            unsafe { *to.add(i) = *x };
        }
    }
    #[inline(always)]
    unsafe fn add(self, b: Self) -> Self {
        self.each(b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, b: Self) -> Self {
        self.each(b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, b: Self) -> Self {
        self.each(b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, b: Self, c: Self) -> Self {
        // Where it is no instruction, a fused product would be a call.
        Self(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    unsafe fn mul_sub_from(self, b: Self, c: Self) -> Self {
        // SAFETY: arithmetic only.
        unsafe { Self(self.0.map(|a| -a)).mul_add(b, c) }
    }
    #[inline(always)]
    unsafe fn max(self, b: Self) -> Self {
        self.each(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn zero_below(self, x: Self, low: f32) -> Self {
        self.each(x, |a, x| if x < low { 0.0 } else { a })
    }
    #[inline(always)]
    unsafe fn load_twice(from: *const f32) -> Self {
        // SAFETY: two floats are there.
        let [a, b] = unsafe { from.cast::<[f32; 2]>().read_unaligned() };
        Self([a, a, b, b])
    }
    #[inline(always)]
    unsafe fn swap_pairs(self) -> Self {
        let [a, b, c, d] = self.0;
        Self([b, a, d, c])
    }
    #[inline(always)]
    unsafe fn sub_add(self, b: Self) -> Self {
        Self(std::array::from_fn(|i| if i % 2 == 0 { self.0[i] - b.0[i] } else { self.0[i] + b.0[i] }))
    }
    #[inline(always)]
    unsafe fn clamp(self, low: f32, high: f32) -> Self {
        Self(self.0.map(|x| x.clamp(low, high)))
    }
    #[inline(always)]
    unsafe fn scale(self, n: Self) -> Self {
        self.each(n, |x, n| x * f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn reciprocal(self) -> Self {
        Self(self.0.map(|x| 1.0 / x))
    }
    type Ints = [i32; 4];
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> [i32; 4] {
        // SAFETY: four bytes are there.
        unsafe { from.cast::<[u8; 4]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn signed_bytes(from: *const u8) -> [i32; 4] {
        // SAFETY: four bytes are there.
        unsafe { from.cast::<[i8; 4]>().read() }.map(i32::from)
    }
    #[inline(always)]
    unsafe fn bits(bits: u32, from: u32) -> [i32; 4] {
        std::array::from_fn(|i| (bits >> ((from + i as u32) & 31)) as i32 & 1)
    }
    #[inline(always)]
    unsafe fn shift_left(x: [i32; 4], by: u32) -> [i32; 4] {
        x.map(|x| x << by)
    }
    #[inline(always)]
    unsafe fn shift_right(x: [i32; 4], by: u32) -> [i32; 4] {
        x.map(|x| x >> by)
    }
    #[inline(always)]
    unsafe fn and(x: [i32; 4], mask: i32) -> [i32; 4] {
        x.map(|x| x & mask)
    }
    #[inline(always)]
    unsafe fn or(x: [i32; 4], y: [i32; 4]) -> [i32; 4] {
        std::array::from_fn(|i| x[i] | y[i])
    }
    #[inline(always)]
    unsafe fn float(x: [i32; 4]) -> Self {
        Self(x.map(|x| x as f32))
    }
    #[inline(always)]
    unsafe fn pick(table: &[f32; 16], index: [i32; 4]) -> Self {
        Self(index.map(|i| table[i as usize & 15]))
    }
    #[inline(never)]
    unsafe fn call(task: impl Task) {
        // SAFETY: the caller's.
        unsafe { task.run::<Self>() };
    }
}

#[cfg(test)]
mod tests {
    use super::{Task, Vector, run_at};
    use crate::level::Level;

    struct Silu<'a>(&'a mut [f32]);

    impl Task for Silu<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            for x in self.0.chunks_exact_mut(V::LANES) {
                // SAFETY: whole vectors.
                unsafe { V::load(x.as_ptr()).silu().store(x.as_mut_ptr()) };
            }
        }
    }

    #[test]
    fn silu_is_close_everywhere() {
        for level in Level::available() {
            let inputs: Vec<f32> = (-86_992..1_000_000).map(|i| i as f32 / 1000.0).collect();
            let mut got = inputs.clone();
            run_at(level, Silu(&mut got));
            let whole = inputs.len() / 16 * 16;
            for (x, got) in inputs.iter().zip(got).take(whole) {
                let want = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
                assert!((f64::from(got) - want).abs() <= 5e-7 * want.abs(), "{level:?}: {got:e} for {x}, not {want:e}");
            }
            let mut edges = [f32::NAN, f32::INFINITY, -1e30, -90.0].repeat(4);
            run_at(level, Silu(&mut edges));
            assert!(edges[0].is_nan() && edges[1] == f32::INFINITY && edges[3].abs() < 1e-35, "{level:?}: {edges:?}");
        }
    }
}
