//! The exponential that loops can be vectorised over.

/// eˣ to 2 units in the last place, written so that loops over it become vector code: 2ⁿ·eʳ with |r| ≤ ½·ln 2 and
/// Taylor's series of eʳ to the seventh power. Below −87 it stays at e⁻⁸⁷, above 88 at e⁸⁸.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5·2²³: adding and subtracting it rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first short enough that n·HIGH is exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * HIGH - n * LOW;
    let mut sum = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = sum * r + c;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    sum * power
}

#[cfg(test)]
mod tests {
    #[test]
    fn exp_is_close_everywhere() {
        let mut worst = 0f64;
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(super::exp(x)) - want) / want).abs());
        }
        assert!(worst < 3e-7, "{worst:e}");
        assert!(super::exp(-1e30) < 2e-38 && super::exp(f32::NAN).is_nan());
    }
}
