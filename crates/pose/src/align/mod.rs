//! Alignment: the driving person gets the reference person's limb lengths and place.
//!
//! Source: SteadyDancer's `pose_align.py`, from MusePose. All lengths are in "height 1" coordinates (x times the picture's
//! aspect ratio). Scales are measured once, on one driving frame against the reference, then applied to every frame.

pub(crate) mod joint;
mod likeness;
pub(crate) mod limbs;
pub(crate) mod scales;

use joint::*;
use limbs::{LIMBS, LimbLengths};

pub use likeness::{Facing, facing, nearest_frame, shape_distance};
pub use scales::{DegenerateScale, ScaleGuard, Scales};

use crate::openpose::{BODY_POINTS, HIDDEN, OpenPose};

type Point = [f64; 2];

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
    /// Measures `first`, the person of one driving frame, against `reference`. Under [`ScaleGuard::Upstream`] hidden joints
    /// count with the coordinates they have. Also returns what the guard found.
    pub fn measure(
        reference: &OpenPose,
        first: &OpenPose,
        aspects: Aspects,
        guard: ScaleGuard,
    ) -> (Self, Vec<DegenerateScale>) {
        Self::with_lengths(reference, first, &[None; LIMBS], aspects, guard)
    }

    /// As [`Alignment::measure`] for frame `at` of a motion, but the robust guard takes the lengths of limbs that are hidden
    /// or foreshortened in that frame from the frames that show them at full length. `None` if the frame has nobody.
    pub fn measure_clip(
        reference: &OpenPose,
        motion: &[Option<OpenPose>],
        at: usize,
        aspects: Aspects,
        guard: ScaleGuard,
    ) -> Option<(Self, Vec<DegenerateScale>)> {
        let first = motion.get(at)?.as_ref()?;
        let lengths: Vec<Option<LimbLengths>> =
            motion.iter().map(|pose| pose.as_ref().map(|pose| LimbLengths::of(pose, aspects.drive))).collect();
        Some(Self::with_lengths(reference, first, &limbs::unforeshortened(&lengths, at), aspects, guard))
    }

    fn with_lengths(
        reference: &OpenPose,
        first: &OpenPose,
        clip: &[Option<f64>; LIMBS],
        aspects: Aspects,
        guard: ScaleGuard,
    ) -> (Self, Vec<DegenerateScale>) {
        let target = LimbLengths::of(reference, aspects.canvas);
        let (scales, degenerate) = scales::measure(&target, &LimbLengths::of(first, aspects.drive), clip, guard);
        let height_1 = |pose: &OpenPose, aspect: f64| [pose.body[NECK][0] * aspect, pose.body[NECK][1]];
        let (to, from) = (height_1(reference, aspects.canvas), height_1(first, aspects.drive));
        let offset = [0, 1].map(|axis| to[axis] - from[axis]);
        (Self { scales, offset, aspects }, degenerate)
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
