//! From limb lengths to scales, and what to do with those that cannot be right.

use serde::Serialize;

use super::limbs::{LIMBS, LimbLengths, quantile};
use crate::{PoseError, Result};

/// Reference length / driving length of each part of the body.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scales {
    /// Neck to nose.
    pub neck: f64,
    /// Nose over right eye to right ear, which upstream calls the left of the face.
    pub face_left: f64,
    /// Nose over left eye to left ear.
    pub face_right: f64,
    /// Shoulder to shoulder.
    pub shoulder: f64,
    /// Shoulder to elbow, mean of both sides.
    pub arm_upper: f64,
    /// Elbow to wrist, mean of both sides.
    pub arm_lower: f64,
    /// Mean of the two arm scales; upstream never measures fingers.
    pub hand: f64,
    /// Neck to the middle of the hips.
    pub body: f64,
    /// Hip to knee, mean of both sides.
    pub leg_upper: f64,
    /// Knee to ankle, mean of both sides.
    pub leg_lower: f64,
}

impl Scales {
    /// Every part keeps its length.
    pub const IDENTITY: Self = Self {
        neck: 1.0,
        face_left: 1.0,
        face_right: 1.0,
        shoulder: 1.0,
        arm_upper: 1.0,
        arm_lower: 1.0,
        hand: 1.0,
        body: 1.0,
        leg_upper: 1.0,
        leg_lower: 1.0,
    };
}

/// What to do with a scale that cannot be right, as when a limb points at the camera in the measured frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScaleGuard {
    /// As upstream: NaN (0/0) becomes 1, infinities stay and hide what depends on them.
    Upstream,
    /// A ratio counts if all joints of the limb are visible in both pictures, and if it is finite, positive, and within
    /// this factor of the median of those that count. Of a pair whose sides differ by more than a third, one is
    /// foreshortened and the one nearer to the median counts. What is left without a ratio gets the median, and no scale
    /// ends up beyond half or twice the median (a lowered head makes the neck look short, and its ratio explode).
    ///
    /// [`Alignment::measure_clip`](super::Alignment::measure_clip) also sees through limbs that are foreshortened in the
    /// measured frame. What other frames confirm may be more than twice the median (the large head of a drawn figure), but
    /// not less than half of it, for they cannot tell whether the reference is foreshortened.
    ///
    /// Normal results are those of [`ScaleGuard::Upstream`], bit for bit.
    Robust {
        /// Largest factor between a ratio and the median; above 1.
        max_deviation: f64,
    },
}

/// Foreshortening changes a projected limb by 2 or 3; 8 is out of any body's reach.
const DEFAULT_DEVIATION: f64 = 8.0;

impl Default for ScaleGuard {
    fn default() -> Self {
        ScaleGuard::Robust { max_deviation: DEFAULT_DEVIATION }
    }
}

impl ScaleGuard {
    /// # Errors
    /// [`PoseError::Setting`] if `max_deviation` is not above 1.
    pub fn validate(self) -> Result<()> {
        match self {
            ScaleGuard::Robust { max_deviation } if max_deviation.is_nan() || max_deviation <= 1.0 => {
                Err(PoseError::Setting {
                    name: "max_deviation",
                    found: max_deviation,
                    allowed: "a factor above 1 (8 is usual)",
                })
            }
            _ => Ok(()),
        }
    }
}

/// A measured scale that was not usable. Under [`ScaleGuard::Upstream`] it is used all the same, save for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DegenerateScale {
    /// The field of [`Scales`].
    pub part: &'static str,
    /// The ratio or mean of ratios as measured.
    pub measured: f64,
    /// The scale that is used.
    pub used: f64,
    /// Both pictures show the part, yet there is nothing better than a guess: the median of all scales, a limit about it, or
    /// (under [`ScaleGuard::Upstream`]) the useless measurement. Otherwise another frame or the other side tells, or
    /// the part is not to be seen anyway.
    pub guessed: bool,
}

/// The two sides of a pair may differ by this factor.
const SIDES_DIFFER: f64 = 4.0 / 3.0;
/// No scale differs from the median by more than this factor: people do not, nor do most drawn figures.
const SCALES_DIFFER: f64 = 2.0;
/// A limb that is shorter or longer than in the clip by this factor is foreshortened (by 32 degrees) or misplaced, and a
/// head turned.
const UNUSUAL: f64 = 1.18;

/// The fields of [`Scales`] that are measured, and their limbs.
const PARTS: [(&str, &[usize]); 9] = [
    ("neck", &[0]),
    ("face_left", &[1]),
    ("face_right", &[2]),
    ("shoulder", &[3]),
    ("body", &[4]),
    ("arm_upper", &[5, 6]),
    ("arm_lower", &[7, 8]),
    ("leg_upper", &[9, 10]),
    ("leg_lower", &[11, 12]),
];

/// Reference length / driving length by limb.
#[derive(Clone, Copy)]
struct Ratios {
    values: [f64; LIMBS],
    /// Whether there is anything to the value.
    known: [bool; LIMBS],
    /// Whether other frames show the driving person's limb as long as the value has it.
    confirmed: [bool; LIMBS],
}

/// The scales of one driving frame against the reference. `clip` has the lengths that the limbs would have in that frame
/// if none were foreshortened, as far as they are known; only the robust guard looks at them.
pub(super) fn measure(
    reference: &LimbLengths,
    first: &LimbLengths,
    clip: &[Option<f64>; LIMBS],
    guard: ScaleGuard,
) -> (Scales, Vec<DegenerateScale>) {
    let plain = Ratios {
        values: std::array::from_fn(|i| reference.lengths[i] / first.lengths[i]),
        known: std::array::from_fn(|i| reference.seen[i] && first.seen[i]),
        confirmed: [false; LIMBS],
    };
    let measured: [f64; 9] = std::array::from_fn(|part| plain.upstream(part));
    let robust = |max_deviation| {
        let ratios = plain.with_clip(reference, first, clip);
        let median = ratios.median();
        let scales: [(f64, bool); 9] = std::array::from_fn(|part| ratios.robust(part, median, max_deviation));
        scales
    };
    // What differs between the two is what to report; upstream's only repair is NaN, and it takes the hands' scale from the
    // arms' before it.
    let (before_repair, sound) = match guard {
        ScaleGuard::Upstream => (measured, robust(DEFAULT_DEVIATION).map(|(scale, _)| (scale, true))),
        ScaleGuard::Robust { max_deviation } => {
            let sound = robust(max_deviation);
            (sound.map(|(scale, _)| scale), sound)
        }
    };
    let without_nan = |scale: f64| if scale.is_nan() { 1.0 } else { scale };
    let used = before_repair.map(without_nan);
    let suspect = |part: usize| {
        let length = measured[part];
        !(length.is_finite() && length > 0.0) || length.to_bits() != sound[part].0.to_bits()
    };
    let degenerate = (0..PARTS.len()).filter(|&part| suspect(part)).map(|part| DegenerateScale {
        part: PARTS[part].0,
        measured: measured[part],
        used: used[part],
        guessed: sound[part].1
            && PARTS[part].1.iter().any(|&i| reference.seen[i] && (first.seen[i] || clip[i].is_some())),
    });
    let [neck, face_left, face_right, shoulder, body, arm_upper, arm_lower, leg_upper, leg_lower] = used;
    let hand = without_nan((before_repair[5] + before_repair[6]) / 2.0);
    let scales =
        Scales { neck, face_left, face_right, shoulder, arm_upper, arm_lower, hand, body, leg_upper, leg_lower };
    (scales, degenerate.collect())
}

impl Ratios {
    /// Replaces the ratios of limbs that are hidden or foreshortened in the measured frame by those of the clip. But the
    /// reference is a single picture and may be foreshortened as well, in which case like is best compared with like; so
    /// of the two ratios of an unusual limb the one nearer to the median is taken.
    fn with_clip(&self, reference: &LimbLengths, first: &LimbLengths, clip: &[Option<f64>; LIMBS]) -> Self {
        let mut ratios = *self;
        let mut over_clip = *self;
        for limb in (0..LIMBS).filter(|&limb| reference.seen[limb]) {
            if let Some(length) = clip[limb] {
                (over_clip.values[limb], over_clip.known[limb]) = (reference.lengths[limb] / length, true);
            }
        }
        let median = over_clip.median();
        for limb in (0..LIMBS).filter(|&limb| reference.seen[limb]) {
            let Some(length) = clip[limb] else {
                continue;
            };
            let in_clip = over_clip.values[limb];
            let unusual = off(first.lengths[limb], length) > UNUSUAL;
            if !first.seen[limb] || unusual && off(in_clip, median) < off(self.values[limb], median) {
                (ratios.values[limb], ratios.known[limb], ratios.confirmed[limb]) = (in_clip, true, true);
            } else {
                ratios.confirmed[limb] = !unusual;
            }
        }
        ratios
    }

    /// Of the ratios that count, 1 if there are none.
    fn median(&self) -> f64 {
        let known = self.values.iter().zip(self.known).filter(|(_, known)| *known);
        quantile(known.map(|(value, _)| *value), 0.5, 1).unwrap_or(1.0)
    }

    fn upstream(&self, part: usize) -> f64 {
        match PARTS[part].1 {
            [right, left] => (self.values[*right] + self.values[*left]) / 2.0,
            [one, ..] => self.values[*one],
            [] => 1.0,
        }
    }

    /// The scale of a part, and whether it is a guess.
    fn robust(&self, part: usize, median: f64, max_deviation: f64) -> (f64, bool) {
        let usable = |limb: &&usize| {
            let ratio = self.values[**limb];
            self.known[**limb] && ratio.is_finite() && ratio > 0.0 && off(ratio, median) <= max_deviation
        };
        let limbs: Vec<usize> = PARTS[part].1.iter().filter(usable).copied().collect();
        let ratios: Vec<f64> = limbs.iter().map(|&limb| self.values[limb]).collect();
        let scale = match ratios[..] {
            [a, b] if a.max(b) <= SIDES_DIFFER * a.min(b) => (a + b) / 2.0,
            [a, b] => {
                if off(a, median) <= off(b, median) {
                    a
                } else {
                    b
                }
            }
            [one] => one,
            _ => median,
        };
        let confirmed = limbs.iter().all(|&limb| self.confirmed[limb]);
        let most = if confirmed { scale } else { scale.min(median * SCALES_DIFFER) };
        let limited = most.max(median / SCALES_DIFFER);
        (limited, ratios.is_empty() || limited != scale)
    }
}

/// The factor, at least 1, between two positive ratios; infinite if one of them is zero or infinite.
fn off(a: f64, b: f64) -> f64 {
    (a / b).max(b / a)
}
