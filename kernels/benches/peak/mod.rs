//! What the processor can do: one instruction over and over on registers, and copying.

use std::time::Instant;

use kernels::Compute;
use rayon::ThreadPool;

/// Billions of operations a second that the products of attention in `compute` could have, all threads of a pool
/// together. Scores in int8 with values in bf16 count as one half of each.
pub fn gflops(pool: &ThreadPool, compute: Compute) -> f64 {
    match compute {
        Compute::F32 => rate(pool, Instruction::F32),
        Compute::Bf16 => rate(pool, Instruction::Bf16),
        Compute::Int8 => 2.0 / (rate(pool, Instruction::Int8).recip() + rate(pool, Instruction::Bf16).recip()),
    }
}

#[derive(Clone, Copy)]
enum Instruction {
    F32,
    Bf16,
    Int8,
}

const ROUNDS: usize = 20_000_000;
const SUMS: usize = 24;

fn rate(pool: &ThreadPool, instruction: Instruction) -> f64 {
    let mut best = f64::INFINITY;
    let mut operations = 0.0;
    for _ in 0..20 {
        let start = Instant::now();
        operations = pool.broadcast(|_| run(instruction)).into_iter().sum();
        best = best.min(start.elapsed().as_secs_f64());
    }
    operations / best / 1e9
}

/// Returns how many operations that were.
#[cfg(target_arch = "x86_64")]
fn run(instruction: Instruction) -> f64 {
    use std::arch::is_x86_feature_detected as has;
    let bf16 = has!("avx512bf16") && has!("avx512f");
    match instruction {
        // SAFETY: the instructions are there.
        Instruction::Bf16 if bf16 => unsafe { x86::bf16() },
        // SAFETY: as above.
        Instruction::Int8 if bf16 && has!("avx512vnni") => unsafe { x86::int8() },
        // SAFETY: as above.
        _ if has!("avx512f") => unsafe { x86::avx512() },
        // SAFETY: as above.
        _ if has!("avx2") && has!("fma") => unsafe { x86::avx2() },
        _ => plain(),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn run(_: Instruction) -> f64 {
    plain()
}

/// Whatever the compiler makes of products of eight lanes.
fn plain() -> f64 {
    let mut sums = [[0f32; 8]; 8];
    for _ in 0..ROUNDS / 8 {
        sums.iter_mut().flatten().for_each(|s| *s = std::hint::black_box(1.0f32).mul_add(0.5, *s));
    }
    std::hint::black_box(sums);
    (ROUNDS / 8 * 64 * 2) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{ROUNDS, SUMS};

    macro_rules! probe {
        ($name:ident, $features:literal, $sum:ty, $zero:expr, $factor:expr, $step:expr, $count:expr, $operations:expr) => {
            #[target_feature(enable = $features)]
            pub fn $name() -> f64 {
                let mut sums: [$sum; $count] = [$zero; $count];
                let (a, b) = (black_box($factor), black_box($factor));
                let rounds = ROUNDS / $count;
                for _ in 0..rounds {
                    for sum in &mut sums {
                        *sum = $step(*sum, a, b);
                    }
                }
                black_box(sums);
                (rounds * $count * $operations) as f64
            }
        };
    }

    probe!(
        avx512,
        "avx512f",
        __m512,
        _mm512_setzero_ps(),
        _mm512_set1_ps(0.5),
        |s, a, b| _mm512_fmadd_ps(a, b, s),
        SUMS,
        32
    );
    probe!(
        avx2,
        "avx2,fma",
        __m256,
        _mm256_setzero_ps(),
        _mm256_set1_ps(0.5),
        |s, a, b| _mm256_fmadd_ps(a, b, s),
        12,
        16
    );
    probe!(
        bf16,
        "avx512f,avx512bf16",
        __m512,
        _mm512_setzero_ps(),
        // SAFETY: the same bits.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi16(0x3f00)) },
        |s, a, b| _mm512_dpbf16_ps(s, a, b),
        SUMS,
        64
    );
    probe!(
        int8,
        "avx512f,avx512vnni",
        __m512i,
        _mm512_setzero_si512(),
        _mm512_set1_epi8(3),
        |s, a, b| _mm512_dpbusd_epi32(s, a, b),
        SUMS,
        128
    );
}
