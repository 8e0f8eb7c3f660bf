//! Alignment: the driving person gets the reference person's limb lengths and place.
//!
//! Source: SteadyDancer's `pose_align.py`, from MusePose. All lengths are in "height 1" coordinates (x times the picture's
//! aspect ratio). Scales are measured once, on one driving frame against the reference, then applied to every frame.

use crate::openpose::{BODY_POINTS, HIDDEN, OpenPose};
use crate::{PoseError, Result};

/// OpenPose joints by name.
mod joint {
    pub const NOSE: usize = 0;
    pub const NECK: usize = 1;
    pub const RIGHT_SHOULDER: usize = 2;
    pub const RIGHT_ELBOW: usize = 3;
    pub const RIGHT_WRIST: usize = 4;
    pub const LEFT_SHOULDER: usize = 5;
    pub const LEFT_ELBOW: usize = 6;
    pub const LEFT_WRIST: usize = 7;
    pub const RIGHT_HIP: usize = 8;
    pub const RIGHT_KNEE: usize = 9;
    pub const RIGHT_ANKLE: usize = 10;
    pub const LEFT_HIP: usize = 11;
    pub const LEFT_KNEE: usize = 12;
    pub const LEFT_ANKLE: usize = 13;
    pub const RIGHT_EYE: usize = 14;
    pub const LEFT_EYE: usize = 15;
    pub const RIGHT_EAR: usize = 16;
    pub const LEFT_EAR: usize = 17;
}
use joint::*;

type Point = [f64; 2];

/// Reference length / driving length of each part of the body.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// A measured ratio that is not finite, not positive, or further from the median of all ratios than this factor is
    /// left out (one side of a pair) or replaced by the median. Normal results are those of [`ScaleGuard::Upstream`], bit for bit.
    Robust {
        /// Largest factor between a ratio and the median; above 1.
        max_deviation: f64,
    },
}

impl Default for ScaleGuard {
    fn default() -> Self {
        // Foreshortening changes a projected limb by 2 or 3; 8 is out of any body's reach.
        ScaleGuard::Robust { max_deviation: 8.0 }
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

/// A measured scale that was not usable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DegenerateScale {
    /// The field of [`Scales`].
    pub part: &'static str,
    /// The ratio or mean of ratios as measured.
    pub measured: f64,
    /// The scale that is used.
    pub used: f64,
}

/// Width / height of the two pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aspects {
    /// Of the driving frames themselves (not of the detector's resized copy).
    pub drive: f64,
    /// Of the pose canvas, which is the reference picture's up to rounding.
    pub canvas: f64,
}

/// One person on the pose canvas. Coordinates are fractions of the canvas's width and height, and may lie outside of 0..1.
#[derive(Clone, Debug, PartialEq)]
pub struct AlignedPose {
    /// OpenPose joints.
    pub body: [Point; BODY_POINTS],
    /// Whether each joint is drawn.
    pub visible: [bool; BODY_POINTS],
    /// Left and right hand; hidden points have negative coordinates in practice.
    pub hands: [[Point; 21]; 2],
}

/// The transform of a whole clip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alignment {
    scales: Scales,
    offset: Point,
    aspects: Aspects,
}

impl Alignment {
    /// Measures `first`, the person of one driving frame, against `reference`. Hidden joints count with the coordinates they
    /// have, as upstream. Also returns what the guard found.
    pub fn measure(
        reference: &OpenPose,
        first: &OpenPose,
        aspects: Aspects,
        guard: ScaleGuard,
    ) -> (Self, Vec<DegenerateScale>) {
        let reference = reference.body.map(|p| [p[0] * aspects.canvas, p[1]]);
        let first = first.body.map(|p| [p[0] * aspects.drive, p[1]]);
        let (scales, degenerate) = Ratios::measure(&reference, &first).scales(guard);
        let offset = [0, 1].map(|axis| reference[NECK][axis] - first[NECK][axis]);
        let alignment = Self { scales, offset, aspects };
        (alignment, degenerate)
    }

    /// For want of a reference person: limb lengths stay, the driving picture fills the canvas's height and is centred.
    pub fn centred(aspects: Aspects) -> Self {
        Self { scales: Scales::IDENTITY, offset: [(aspects.canvas - aspects.drive) / 2.0, 0.0], aspects }
    }

    /// The scales in use.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Moves a pose of a driving frame onto the canvas.
    pub fn apply(&self, pose: &OpenPose) -> AlignedPose {
        let Aspects { drive, canvas } = self.aspects;
        let old = pose.body.map(|p| [p[0] * drive, p[1]]);
        let hands = pose.hands.map(|hand| hand.map(|p| [p[0] * drive, p[1]]));
        let mut new = old;
        let s = &self.scales;

        new[NOSE] = scaled_about(old[NECK], s.neck, old[NOSE]);
        // A part first moves along with the joint it hangs on, then scales about that joint's new place.
        let carried = |new: &[Point; BODY_POINTS], from: usize, scale: f64, point: Point| {
            let moved = [0, 1].map(|axis| point[axis] - old[from][axis] + new[from][axis]);
            scaled_about(new[from], scale, moved)
        };
        for (to, scale) in
            [(RIGHT_EYE, s.face_left), (RIGHT_EAR, s.face_left), (LEFT_EYE, s.face_right), (LEFT_EAR, s.face_right)]
        {
            new[to] = carried(&new, NOSE, scale, old[to]);
        }
        for to in [RIGHT_SHOULDER, LEFT_SHOULDER] {
            new[to] = scaled_about(old[NECK], s.shoulder, old[to]);
        }
        for to in [RIGHT_HIP, LEFT_HIP] {
            new[to] = scaled_about(old[NECK], s.body, old[to]);
        }
        for (from, to, scale) in [
            (RIGHT_SHOULDER, RIGHT_ELBOW, s.arm_upper),
            (RIGHT_ELBOW, RIGHT_WRIST, s.arm_lower),
            (LEFT_SHOULDER, LEFT_ELBOW, s.arm_upper),
            (LEFT_ELBOW, LEFT_WRIST, s.arm_lower),
            (RIGHT_HIP, RIGHT_KNEE, s.leg_upper),
            (RIGHT_KNEE, RIGHT_ANKLE, s.leg_lower),
            (LEFT_HIP, LEFT_KNEE, s.leg_upper),
            (LEFT_KNEE, LEFT_ANKLE, s.leg_lower),
        ] {
            new[to] = carried(&new, from, scale, old[to]);
        }
        let wrists = [LEFT_WRIST, RIGHT_WRIST];
        let new_hands: [[Point; 21]; 2] =
            std::array::from_fn(|side| hands[side].map(|point| carried(&new, wrists[side], s.hand, point)));

        let place = |new: Point, original: Point| {
            std::array::from_fn(|axis| {
                let hidden = original[axis] == HIDDEN || new[axis].is_nan();
                let value = if hidden { HIDDEN } else { new[axis] } + self.offset[axis];
                if axis == 0 { value / canvas } else { value }
            })
        };
        AlignedPose {
            body: std::array::from_fn(|i| place(new[i], pose.body[i])),
            visible: pose.visible,
            hands: std::array::from_fn(|side| std::array::from_fn(|i| place(new_hands[side][i], pose.hands[side][i]))),
        }
    }
}

/// `point` scaled about `centre`, with the roundings of upstream, which builds OpenCV's rotation matrix for angle 0: its
/// centre is in single precision, and an infinite scale makes every coordinate NaN. That the rounding matters at all
/// shows in horizontal limbs, whose drawn angle is truncated from ±180° − ε or ±180°.
fn scaled_about(centre: Point, scale: f64, point: Point) -> Point {
    let sine = 0.0 * scale;
    let [cx, cy] = centre.map(|c| f64::from(c as f32));
    let shift = [(1.0 - scale) * cx - sine * cy, sine * cx + (1.0 - scale) * cy];
    [point[0] * scale + point[1] * sine + shift[0], point[1] * scale - point[0] * sine + shift[1]]
}

/// The measured ratios; a pair is the two sides of the body.
struct Ratios {
    singles: [(&'static str, f64); 5],
    pairs: [(&'static str, [f64; 2]); 4],
}

impl Ratios {
    fn measure(reference: &[Point; BODY_POINTS], first: &[Point; BODY_POINTS]) -> Self {
        let between = |a: Point, b: Point| ((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)).sqrt();
        let path = |pose: &[Point; BODY_POINTS], joints: &[usize]| {
            let steps = joints.windows(2);
            steps.map(|j| between(pose[j[0]], pose[j[1]])).sum::<f64>()
        };
        let torso = |pose: &[Point; BODY_POINTS]| {
            let hips = [0, 1].map(|axis| (pose[RIGHT_HIP][axis] + pose[LEFT_HIP][axis]) / 2.0);
            between(pose[NECK], hips)
        };
        let ratio = |joints: &[usize]| path(reference, joints) / path(first, joints);
        let pair = |right: [usize; 2], left: [usize; 2]| [ratio(&right), ratio(&left)];
        Self {
            singles: [
                ("neck", ratio(&[NOSE, NECK])),
                ("face_left", ratio(&[RIGHT_EAR, RIGHT_EYE, NOSE])),
                ("face_right", ratio(&[LEFT_EAR, LEFT_EYE, NOSE])),
                ("shoulder", ratio(&[RIGHT_SHOULDER, LEFT_SHOULDER])),
                ("body", torso(reference) / torso(first)),
            ],
            pairs: [
                ("arm_upper", pair([RIGHT_SHOULDER, RIGHT_ELBOW], [LEFT_SHOULDER, LEFT_ELBOW])),
                ("arm_lower", pair([RIGHT_ELBOW, RIGHT_WRIST], [LEFT_ELBOW, LEFT_WRIST])),
                ("leg_upper", pair([RIGHT_HIP, RIGHT_KNEE], [LEFT_HIP, LEFT_KNEE])),
                ("leg_lower", pair([RIGHT_KNEE, RIGHT_ANKLE], [LEFT_KNEE, LEFT_ANKLE])),
            ],
        }
    }

    /// Median of the finite positive ratios, 1 if there are none.
    fn median(&self) -> f64 {
        let singles = self.singles.iter().map(|s| s.1);
        let mut usable: Vec<f64> =
            singles.chain(self.pairs.iter().flat_map(|p| p.1)).filter(|r| r.is_finite() && *r > 0.0).collect();
        usable.sort_by(f64::total_cmp);
        usable.get(usable.len() / 2).copied().unwrap_or(1.0)
    }

    fn scales(&self, guard: ScaleGuard) -> (Scales, Vec<DegenerateScale>) {
        let median = self.median();
        let usable = |ratio: f64| match guard {
            ScaleGuard::Upstream => true,
            ScaleGuard::Robust { max_deviation } => {
                ratio.is_finite() && ratio > 0.0 && ratio / median <= max_deviation && median / ratio <= max_deviation
            }
        };
        // Upstream's only repair; under the robust guard there is nothing left to repair.
        let without_nan = |scale: f64| if scale.is_nan() { 1.0 } else { scale };
        let mut degenerate = Vec::new();
        let mut report = |part, measured: f64, used: f64| {
            let suspect = !(measured.is_finite() && measured > 0.0);
            if suspect || measured.to_bits() != used.to_bits() {
                degenerate.push(DegenerateScale { part, measured, used });
            }
        };
        let single = |ratio| if usable(ratio) { ratio } else { median };
        let pair = |[a, b]: [f64; 2]| match (usable(a), usable(b)) {
            (true, true) => (a + b) / 2.0,
            (true, false) => a,
            (false, true) => b,
            (false, false) => median,
        };
        let singles = self.singles.map(|(part, ratio)| {
            let used = without_nan(single(ratio));
            report(part, ratio, used);
            used
        });
        let means = self.pairs.map(|(_, pair_of)| pair(pair_of));
        let paired: [f64; 4] = std::array::from_fn(|i| {
            let (part, [a, b]) = self.pairs[i];
            let used = without_nan(means[i]);
            report(part, (a + b) / 2.0, used);
            used
        });
        let [neck, face_left, face_right, shoulder, body] = singles;
        let [arm_upper, arm_lower, leg_upper, leg_lower] = paired;
        let scales = Scales {
            neck,
            face_left,
            face_right,
            shoulder,
            arm_upper,
            arm_lower,
            // From the arms before their NaN repair, as upstream.
            hand: without_nan((means[0] + means[1]) / 2.0),
            body,
            leg_upper,
            leg_lower,
        };
        (scales, degenerate)
    }
}
