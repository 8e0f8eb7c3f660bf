//! What this machine can do at most: the figures that rates of kernels are fractions of.

use std::hint::black_box;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::level::Level;
use crate::vector::{Task, Vector, run_at};

/// Rates of all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Peak {
    /// Fused products of f32, in 10⁹ multiplications and additions a second.
    pub f32_gflops: f64,
    /// Products of pairs of bf16; `None` if they may not be used.
    pub bf16_gflops: Option<f64>,
    /// Products of bytes; `None` if they may not be used.
    pub int8_gops: Option<f64>,
    /// Reading memory, in 10⁹ bytes a second.
    pub read_gb_s: f64,
    /// Copying memory, in 10⁹ bytes a second that are read and written once.
    pub copy_gb_s: f64,
    /// Threads of the pool that it was measured in.
    pub threads: usize,
}

/// How long each rate of arithmetic is measured: so many windows, of which each thread's best counts, so that little of what
/// else the machine does shows.
const WINDOWS: usize = 40;
/// Length of a window.
const WINDOW: Duration = Duration::from_millis(2);
/// Bytes that are read, and twice as many as are copied: several times what most caches hold.
const BYTES: usize = 256 << 20;
/// Passes over memory, the fastest of which counts.
const PASSES: usize = 4;

/// Measures on all threads of the current pool: arithmetic between registers, and memory beyond the caches. It takes less than
/// a second and 256 MiB.
pub fn probe() -> Peak {
    let level = Level::detect();
    let (read_gb_s, copy_gb_s) = memory();
    Peak {
        f32_gflops: rate(|turns| {
            let mut operations = 0;
            run_at(level, Products { turns, operations: &mut operations });
            operations
        }),
        bf16_gflops: x86::bf16().map(rate),
        int8_gops: x86::int8().map(rate),
        read_gb_s,
        copy_gb_s,
        threads: rayon::current_num_threads(),
    }
}

/// 10⁹ operations a second of `work`, which says how many so many turns are.
fn rate(work: impl Fn(usize) -> usize + Sync) -> f64 {
    const TURNS: usize = 2_000;
    let window = || {
        let (start, mut operations) = (Instant::now(), 0);
        while start.elapsed() < WINDOW {
            operations += work(TURNS);
        }
        operations as f64 / start.elapsed().as_secs_f64()
    };
    let per_thread = rayon::broadcast(|_| (0..WINDOWS).map(|_| window()).fold(0.0, f64::max));
    per_thread.iter().sum::<f64>() / 1e9
}

/// Sums of fused products, independent of each other.
struct Products<'a> {
    turns: usize,
    operations: &'a mut usize,
}

impl Task for Products<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        /// With two a turn of the clock, more than an instruction takes.
        const SUMS: usize = 12;
        // SAFETY: arithmetic; the instructions are the caller's.
        unsafe {
            let (a, b) = (V::splat(black_box(0.999)), V::splat(black_box(0.001)));
            let mut sums = [V::splat(1.0); SUMS];
            for _ in 0..self.turns {
                for sum in &mut sums {
                    *sum = sum.mul_add(a, b);
                }
            }
            let mut lanes = [0.0f32; crate::gemm::CHUNK];
            sums.into_iter().reduce(|a, b| a.add(b)).unwrap_or(a).store(lanes.as_mut_ptr());
            black_box(lanes);
        }
        *self.operations = 2 * self.turns * SUMS * V::LANES;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use crate::level;

    const SUMS: usize = 24;

    /// Turns of products of pairs of bf16.
    pub(super) fn bf16() -> Option<impl Fn(usize) -> usize> {
        #[target_feature(enable = "avx512f,avx512bf16")]
        fn run(turns: usize) -> usize {
            // SAFETY: both types are 64 bytes of any bits.
            let pair = |x: i32| unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(x)) };
            // 1 and 2⁻²⁰.
            let (a, b) = (pair(black_box(0x3f80_3f80)), pair(black_box(0x3580_3580)));
            let mut sums = [_mm512_setzero_ps(); SUMS];
            for _ in 0..turns {
                for sum in &mut sums {
                    *sum = _mm512_dpbf16_ps(*sum, a, b);
                }
            }
            black_box(sums);
            2 * turns * SUMS * 32
        }
        // SAFETY: the machine has the instructions.
        level::bf16_products().then_some(|turns| unsafe { run(turns) })
    }

    /// Turns of products of bytes.
    pub(super) fn int8() -> Option<impl Fn(usize) -> usize> {
        #[target_feature(enable = "avx512f,avx512vnni")]
        fn run(turns: usize) -> usize {
            let (a, b) = (_mm512_set1_epi32(black_box(0x0102_0304)), _mm512_set1_epi32(black_box(0x04fd_02ff)));
            let mut sums = [_mm512_setzero_si512(); SUMS];
            for _ in 0..turns {
                for sum in &mut sums {
                    *sum = _mm512_dpbusd_epi32(*sum, a, b);
                }
            }
            black_box(sums);
            2 * turns * SUMS * 64
        }
        // SAFETY: the machine has the instructions.
        level::int8_products().then_some(|turns| unsafe { run(turns) })
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    pub(super) fn bf16() -> Option<fn(usize) -> usize> {
        None
    }
    pub(super) fn int8() -> Option<fn(usize) -> usize> {
        None
    }
}

/// 10⁹ bytes a second read and copied; zeros where there is no memory for it.
fn memory() -> (f64, f64) {
    const PART: usize = 1 << 20;
    let mut all = Vec::<u64>::new();
    if all.try_reserve_exact(BYTES / 8).is_err() {
        return (0.0, 0.0);
    }
    all.resize(BYTES / 8, 1);
    let fastest = |mut pass: Box<dyn FnMut() + '_>| {
        let seconds = |pass: &mut dyn FnMut()| {
            let start = Instant::now();
            pass();
            start.elapsed().as_secs_f64()
        };
        (0..PASSES).map(|_| seconds(&mut *pass)).fold(f64::INFINITY, f64::min)
    };
    let read = fastest(Box::new(|| {
        black_box(all.par_chunks(PART / 8).map(|part| part.iter().fold(0u64, |a, b| a ^ b)).reduce(|| 0, |a, b| a ^ b));
    }));
    let (from, to) = all.split_at_mut(BYTES / 16);
    let copy = fastest(Box::new(|| {
        to.par_chunks_mut(PART / 8).zip(from.par_chunks(PART / 8)).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&*to);
    }));
    (BYTES as f64 / read / 1e9, BYTES as f64 / 2.0 / copy / 1e9)
}

#[cfg(test)]
mod tests {
    use crate::level;

    #[test]
    fn every_rate_is_there_that_the_machine_has() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let peak = pool.install(super::probe);
        assert_eq!(peak.threads, 2);
        assert_eq!(peak.bf16_gflops.is_some(), level::bf16_products());
        assert_eq!(peak.int8_gops.is_some(), level::int8_products());
        let rates =
            [Some(peak.f32_gflops), peak.bf16_gflops, peak.int8_gops, Some(peak.read_gb_s), Some(peak.copy_gb_s)];
        assert!(rates.into_iter().flatten().all(|rate| rate.is_finite() && rate > 0.0), "{peak:?}");
    }
}
