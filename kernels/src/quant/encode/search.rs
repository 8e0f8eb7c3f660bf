//! Scales and minima with the least squared error.

use std::hint::black_box;
use std::ops::RangeInclusive;

use crate::quant::decode::reference::LEVELS;

/// The nearest whole number, ties to even, for |x| < 2²².
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    (x + ROUND) - ROUND
}

/// Steps of a search, of which the compiler shall not make as many copies of the search.
#[inline(always)]
fn not_unrolled(steps: RangeInclusive<i32>) -> RangeInclusive<i32> {
    black_box(*steps.start())..=*steps.end()
}

/// The value of largest magnitude, with its sign; the first of several.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |most, x| if x.abs() > most.abs() { *x } else { most })
}

/// The scale `s` for which `s·q(x)` is nearest to `x`, where `q` maps `x·inverse` to codes, over inverses that put the
/// extreme value within `steps` steps of one of `ends`.
#[inline(always)]
fn best_scale<const N: usize>(x: &[f32; N], ends: [f32; 2], steps: i32, step: f32, q: impl Fn(f32) -> f32) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < f32::MIN_POSITIVE {
        return 0.0;
    }
    let (mut best, mut scale) = (0.0, 0.0);
    for end in ends {
        for i in not_unrolled(-steps..=steps) {
            let inverse = (end + i as f32 * step) / extreme;
            let (mut xq, mut qq) = ([0.0f32; 16], [0.0f32; 16]);
            for x in x.as_chunks::<16>().0 {
                for i in 0..16 {
                    let code = q(x[i] * inverse);
                    xq[i] += x[i] * code;
                    qq[i] += code * code;
                }
            }
            let (xq, qq) = (xq.iter().sum::<f32>(), qq.iter().sum::<f32>());
            // What the squared error is smaller by than that of zeros.
            if qq > 0.0 && xq * xq > best * qq {
                best = xq * xq / qq;
                scale = xq / qq;
            }
        }
    }
    scale
}

/// For codes `-half ..= half - 1`; may be negative, as the extreme value may be either.
#[inline(always)]
pub(super) fn symmetric<const N: usize>(x: &[f32; N], half: f32) -> f32 {
    best_scale(x, [-half, half - 1.0], 9, 0.1, |x| round(x.clamp(-half, half - 1.0)))
}

/// For the sixteen levels.
#[inline(always)]
pub(super) fn of_levels(x: &[f32; 32]) -> f32 {
    best_scale(x, [f32::from(LEVELS[0]), f32::from(LEVELS[15])], 7, 1.0, |x| level(x).0)
}

/// The nearest of the sixteen levels, and its index.
#[inline(always)]
pub(super) fn level(x: f32) -> (f32, u32) {
    let (mut value, mut index) = (f32::from(LEVELS[0]), 0);
    for pair in LEVELS.windows(2) {
        let (low, high) = (f32::from(pair[0]), f32::from(pair[1]));
        let above = x > (low + high) / 2.0;
        value = if above { high } else { value };
        index += u32::from(above);
    }
    (value, index)
}

/// Scale and minimum, neither negative, for which `scale·q − minimum` with codes `0 ..= most` is nearest to `x`.
#[inline(always)]
pub(super) fn with_minimum<const N: usize>(x: &[f32; N], most: f32) -> (f32, f32) {
    let low = x.iter().fold(0.0f32, |a, b| if *b < a { *b } else { a });
    let high = x.iter().fold(0.0f32, |a, b| if *b > a { *b } else { a });
    let range = high - low;
    if range < f32::MIN_POSITIVE {
        return (0.0, 0.0);
    }
    let mut best = (f32::INFINITY, range / most, -low);
    for step in not_unrolled(-10..=10) {
        let inverse = (most + step as f32 * 0.1) / range;
        let (mut q1, mut q2, mut xq, mut x1) = ([0.0f32; 16], [0.0f32; 16], [0.0f32; 16], [0.0f32; 16]);
        let code = |x: f32| round(((x - low) * inverse).clamp(0.0, most));
        for x in x.as_chunks::<16>().0 {
            for i in 0..16 {
                let q = code(x[i]);
                q1[i] += q;
                q2[i] += q * q;
                xq[i] += x[i] * q;
                x1[i] += x[i];
            }
        }
        let [q1, q2, xq, x1] = [q1, q2, xq, x1].map(|lanes| lanes.iter().sum::<f32>());
        // The straight line through codes and values.
        let determinant = N as f32 * q2 - q1 * q1;
        if determinant <= 0.0 {
            continue;
        }
        let (mut scale, mut offset) = ((N as f32 * xq - x1 * q1) / determinant, (q2 * x1 - q1 * xq) / determinant);
        if offset > 0.0 {
            (scale, offset) = (xq / q2, 0.0);
        }
        let mut errors = [0.0f32; 16];
        for x in x.as_chunks::<16>().0 {
            for i in 0..16 {
                let error = scale * code(x[i]) + offset - x[i];
                errors[i] += error * error;
            }
        }
        let error = errors.iter().sum::<f32>();
        if error < best.0 && scale > 0.0 {
            best = (error, scale, -offset);
        }
    }
    (best.1, best.2)
}
