//! Quality profiles: the only switch that changes the picture.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A named size, length and number of steps (spec memory_and_avatars §4.6): what a first guide for small cards proposed,
/// snapped to what the model allows. None is needed for memory; small ones bound the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QualityProfile {
    /// 96 × 96, 5 frames, 10 steps.
    Emergency,
    /// 128 × 128, 9 frames, 15 steps.
    UltraMinimal,
    /// 256 × 256, 17 frames, 20 steps.
    UltraLow,
    /// 384 × 384, 33 frames, 25 steps.
    Low,
    /// 512 × 512, 65 frames, 30 steps.
    Balanced,
    /// 704 × 704, 129 frames, 35 steps.
    High,
    /// 1024 × 1024, 257 frames, 50 steps.
    Maximum,
}

/// What a profile asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// Side of a square of the clip's area, in pixels; a multiple of 16.
    pub side: usize,
    /// Frames, 4n+1.
    pub num_frames: usize,
    /// Sampler steps.
    pub steps: usize,
}

/// Side, frames and steps as they were proposed, before snapping.
const PROPOSED: [(QualityProfile, &str, [usize; 3]); 7] = [
    (QualityProfile::Emergency, "emergency", [96, 4, 10]),
    (QualityProfile::UltraMinimal, "ultra-minimal", [128, 8, 15]),
    (QualityProfile::UltraLow, "ultra-low", [256, 16, 20]),
    (QualityProfile::Low, "low", [384, 32, 25]),
    (QualityProfile::Balanced, "balanced", [512, 64, 30]),
    (QualityProfile::High, "high", [704, 128, 35]),
    (QualityProfile::Maximum, "maximum", [1024, 256, 50]),
];

impl QualityProfile {
    /// All, the smallest first.
    pub const ALL: [QualityProfile; 7] =
        [Self::Emergency, Self::UltraMinimal, Self::UltraLow, Self::Low, Self::Balanced, Self::High, Self::Maximum];

    fn row(self) -> (&'static str, [usize; 3]) {
        let row = PROPOSED.iter().find(|row| row.0 == self);
        row.map_or(("", [0; 3]), |row| (row.1, row.2))
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The largest profile that asks for fewer pixels in all than a clip of this size (width, height) and length has, and for
    /// no longer one; `None` if there is no smaller one.
    pub fn below(size: [usize; 2], num_frames: usize) -> Option<Self> {
        let pixels = size[0].saturating_mul(size[1]).saturating_mul(num_frames);
        let is_below = |profile: &Self| {
            let Quality { side, num_frames: frames, .. } = profile.quality();
            side * side * frames < pixels && frames <= num_frames
        };
        Self::ALL.into_iter().rev().find(is_below)
    }

    /// What it asks for, in numbers that the model allows.
    pub fn quality(self) -> Quality {
        let [side, frames, steps] = self.row().1;
        Quality { side: snap_side(side), num_frames: snap_frames(frames), steps }
    }
}

/// The nearest multiple of 16, at least 32.
pub fn snap_side(side: usize) -> usize {
    (side.saturating_add(8) / 16 * 16).max(32)
}

/// The least 4n+1 that is not below.
pub fn snap_frames(frames: usize) -> usize {
    frames.saturating_sub(1).div_ceil(4) * 4 + 1
}

impl fmt::Display for QualityProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for QualityProfile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(&text.replace('_', "-")));
        let known = || Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| format!("quality profile {text:?} is unknown; expected one of {}", known()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_the_specified_table() {
        let rows: Vec<_> = QualityProfile::ALL
            .iter()
            .map(|p| {
                let q = p.quality();
                (p.name(), q.side, q.num_frames, q.steps)
            })
            .collect();
        assert_eq!(
            rows,
            [
                ("emergency", 96, 5, 10),
                ("ultra-minimal", 128, 9, 15),
                ("ultra-low", 256, 17, 20),
                ("low", 384, 33, 25),
                ("balanced", 512, 65, 30),
                ("high", 704, 129, 35),
                ("maximum", 1024, 257, 50),
            ]
        );
        for profile in QualityProfile::ALL {
            assert_eq!(profile.name().to_uppercase().parse(), Ok(profile));
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.name());
        }
        assert!("best".parse::<QualityProfile>().unwrap_err().contains("maximum"));
    }

    #[test]
    fn numbers_are_snapped_to_what_the_model_allows() {
        for side in [0usize, 1, 40, 100, 101, 480, 4000] {
            assert!(snap_side(side).is_multiple_of(16) && snap_side(side) >= 32);
        }
        assert_eq!([0, 1, 2, 24, 25, 128].map(snap_frames), [1, 1, 5, 25, 25, 129]);
    }
}
