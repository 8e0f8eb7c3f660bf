//! Numbers of 8 and 16 bits to f32 and back, exactly and without branches, so that loops over them become vector code.

/// The f32 whose exponent field begins at bit 23 of `magnitude` and has `bias` less of a bias than f32's.
#[inline(always)]
fn widen(magnitude: u32, bias: u32) -> u32 {
    // With an exponent field of zero the leading one is not there: it is put in and subtracted again, which is exact.
    let one_more = f32::from_bits((bias + 1) << 23);
    let small = f32::from_bits(magnitude + ((bias + 1) << 23)) - one_more;
    if magnitude < 1 << 23 { small.to_bits() } else { magnitude + (bias << 23) }
}

/// IEEE 754's binary16.
#[inline(always)]
pub(super) fn f16(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff) << 13;
    let sign = u32::from(bits & 0x8000) << 16;
    let finite = widen(magnitude, 112);
    // The largest exponent field is that of infinity and NaN.
    f32::from_bits(sign | if magnitude < 31 << 23 { finite } else { magnitude + (224 << 23) })
}

/// The upper half of an f32.
#[inline(always)]
pub(super) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Two bytes of a block, little-endian, as a binary16.
#[inline(always)]
pub(super) fn f16_at(block: &[u8], at: usize) -> f32 {
    f16(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// See [`Encoding::F8E5M2`](super::Encoding::F8E5M2).
#[inline(always)]
pub(super) fn f8e5m2(byte: u8) -> f32 {
    f16(u16::from(byte) << 8)
}

/// See [`Encoding::F8E4M3`](super::Encoding::F8E4M3).
#[inline(always)]
pub(super) fn f8e4m3(byte: u8) -> f32 {
    let magnitude = u32::from(byte & 0x7f) << 20;
    let sign = u32::from(byte & 0x80) << 24;
    f32::from_bits(sign | if magnitude == 0x7f << 20 { 0x7fc0_0000 } else { widen(magnitude, 120) })
}

/// The nearest number with `MANTISSA` bits after the leading one and the exponent bias `127 - BIAS`, ties to even; above
/// `largest` that one. NaN becomes all ones.
#[inline(always)]
fn narrow<const MANTISSA: u32, const BIAS: u32>(x: f32, largest: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & 0x80;
    if x.is_nan() {
        return sign | 0x7f;
    }
    let magnitude = x.abs().min(largest);
    let drop = 23 - MANTISSA;
    // Adding a number whose last place is the format's smallest step rounds to whole steps.
    let step = f32::from_bits((BIAS + 1 + drop) << 23);
    let small = (magnitude + step).to_bits() - step.to_bits();
    let bits = magnitude.to_bits();
    let even = (bits >> drop) & 1;
    let rounded = (bits + (1 << (drop - 1)) - 1 + even) >> drop;
    let normal = rounded.wrapping_sub(BIAS << MANTISSA);
    sign | (if bits < (BIAS + 1) << 23 { small } else { normal }) as u8
}

/// Largest finite E4M3.
pub(super) const E4M3_MAX: f32 = 448.0;
/// Largest finite E5M2.
pub(super) const E5M2_MAX: f32 = 57344.0;

/// The nearest E4M3, ties to even, saturating.
#[inline(always)]
pub(super) fn to_f8e4m3(x: f32) -> u8 {
    narrow::<3, 120>(x, E4M3_MAX)
}

/// The nearest E5M2, ties to even, saturating.
#[inline(always)]
pub(super) fn to_f8e5m2(x: f32) -> u8 {
    narrow::<2, 112>(x, E5M2_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary16_is_what_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let (got, want) = (f16(bits), half::f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{bits:04x}: {got} {want}");
        }
    }

    #[test]
    fn eight_bit_floats_are_sign_exponent_and_mantissa() {
        for byte in 0..=255u8 {
            let sign = if byte < 128 { 1.0 } else { -1.0 };
            let value = |exponent: i32, mantissa: i32, bits: i32, bias: i32| {
                let fraction = f64::from(mantissa) / f64::from(1 << bits);
                let (leading, exponent) = if exponent == 0 { (0.0, 1) } else { (1.0, exponent) };
                (sign * (leading + fraction) * 2f64.powi(exponent - bias)) as f32
            };
            let (b, got) = (i32::from(byte & 0x7f), f8e4m3(byte));
            if b == 0x7f {
                assert!(got.is_nan());
            } else {
                assert_eq!(got.to_bits(), value(b >> 3, b & 7, 3, 7).to_bits(), "{byte:02x}");
                assert_eq!(to_f8e4m3(got), byte);
            }
            let got = f8e5m2(byte);
            if b < 0x7c {
                assert_eq!(got.to_bits(), value(b >> 2, b & 3, 2, 15).to_bits(), "{byte:02x}");
                assert_eq!(to_f8e5m2(got), byte);
            } else {
                assert!(!got.is_finite());
            }
        }
    }

    #[test]
    fn rounding_is_to_the_nearest_and_to_even_between_two() {
        let check = |narrow: fn(f32) -> u8, widen: fn(u8) -> f32, last: u8| {
            for byte in 0..last {
                let (low, high) = (widen(byte), widen(byte + 1));
                let middle = (low + high) / 2.0;
                assert_eq!(narrow(middle), byte + (byte & 1), "{middle}");
                assert_eq!(narrow(middle.next_down()), byte, "{middle}");
                assert_eq!(narrow(-middle.next_up()), 0x80 | (byte + 1), "{middle}");
            }
            assert_eq!([narrow(1e30), narrow(f32::NEG_INFINITY)], [last, 0x80 | last]);
            assert!(widen(narrow(f32::NAN)).is_nan());
        };
        check(to_f8e4m3, f8e4m3, 0x7e);
        check(to_f8e5m2, f8e5m2, 0x7b);
    }
}
