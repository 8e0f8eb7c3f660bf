//! Frame rates as exact fractions.

use serde::{Deserialize, Serialize};

use crate::error::{MediaError, Result};

/// Frames a second, as a fraction: 30000/1001 stays 30000/1001.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameRate {
    numerator: u32,
    denominator: u32,
}

impl FrameRate {
    /// The highest accepted rate, in frames a second.
    pub const MAX: f64 = 1000.0;
    /// 16 frames a second, the rate of the Wan models.
    pub const SIXTEEN: Self = Self { numerator: 16, denominator: 1 };

    /// `numerator`/`denominator` frames a second.
    ///
    /// # Errors
    /// Zero, or more than 1000 frames a second.
    pub fn new(numerator: u32, denominator: u32) -> Result<Self> {
        let fps = f64::from(numerator) / f64::from(denominator);
        let fits = numerator <= 1_000_000 && denominator <= 1_000_000;
        if !(fps > 0.0 && fps <= Self::MAX && fits) {
            return Err(MediaError::FrameRate { fps, max: Self::MAX });
        }
        let shared = gcd(numerator, denominator);
        Ok(Self { numerator: numerator / shared, denominator: denominator / shared })
    }

    /// The fraction meant by a decimal: whole rates and the NTSC family (29.97 → 30000/1001) exactly, others to a
    /// thousandth.
    ///
    /// # Errors
    /// Not a number, not above 0, or more than 1000 frames a second.
    pub fn from_f64(fps: f64) -> Result<Self> {
        if !(fps > 0.0005 && fps <= Self::MAX) {
            return Err(MediaError::FrameRate { fps, max: Self::MAX });
        }
        let whole = fps.round();
        if (fps - whole).abs() < 1e-6 {
            return Self::new(whole as u32, 1);
        }
        let ntsc = (fps * 1.001).round();
        if (fps - ntsc / 1.001).abs() < 0.005 && [24.0, 30.0, 48.0, 60.0, 120.0].contains(&ntsc) {
            return Self::new(ntsc as u32 * 1000, 1001);
        }
        Self::new((fps * 1000.0).round() as u32, 1000)
    }

    /// Frames a second.
    pub fn as_f64(self) -> f64 {
        f64::from(self.numerator) / f64::from(self.denominator)
    }

    /// Numerator of the reduced fraction.
    pub fn numerator(self) -> u32 {
        self.numerator
    }

    /// Denominator of the reduced fraction.
    pub fn denominator(self) -> u32 {
        self.denominator
    }

    /// Ticks a second and ticks a frame of a clock in which every frame time is whole, and a tick at most 0.1 ms.
    pub(crate) fn clock(self) -> (u32, u32) {
        let fine = 10_000u32.div_ceil(self.numerator);
        (self.numerator * fine, self.denominator * fine)
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::FrameRate;

    #[test]
    fn decimals_become_the_fraction_meant() {
        let pair = |fps| {
            let rate = FrameRate::from_f64(fps).unwrap();
            (rate.numerator(), rate.denominator())
        };
        assert_eq!(pair(16.0), (16, 1));
        assert_eq!(pair(29.97), (30000, 1001));
        assert_eq!(pair(23.976), (24000, 1001));
        assert_eq!(pair(12.5), (25, 2));
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(FrameRate::from_f64(bad).is_err(), "{bad}");
        }
        assert_eq!(FrameRate::new(30000, 1001).unwrap().clock(), (30000, 1001));
        assert_eq!(FrameRate::new(16, 1).unwrap().clock(), (10000, 625));
    }
}
