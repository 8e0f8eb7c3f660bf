//! How alike two poses are, and what follows: the frame to measure, and whether the picture is mirrored.

use super::Aspects;
use super::joint::*;
use super::limbs::{LIMBS, LimbLengths, TORSO, quantile};
use crate::openpose::{BODY_POINTS, OpenPose};

/// Poses that share fewer visible joints are not compared.
const LEAST_SHARED: usize = 6;
/// A frame is only compared if it shows this part of the joints that the best frame shows: few joints are soon alike.
const LEAST_COVERAGE: f64 = 0.8;
/// Weight of implausible bone lengths beside the distance of the joints.
const BONES_WEIGHT: f64 = 0.25;
/// Beyond a factor of e a bone is simply wrong.
const LARGEST_LOG_RATIO: f64 = 1.0;

/// The mirrored motion must be nearer to the reference by this factor, and the motion itself must not be near.
const MIRROR_FACTOR: f64 = 0.6;
const NEAR: f64 = 0.2;
/// The nose is off the middle of the ears by this part of half their distance in a head turned by 37 degrees.
const TURNED: f64 = 0.6;
/// Shoulders further apart than this part of the torso's length face the camera, or away from it.
const BROAD: f64 = 0.25;
/// What holds for this part of the frames holds for the clip.
const MOSTLY: f64 = 0.6;

/// A body in coordinates of equal units, which joints show, and the lengths of its limbs.
struct Figure {
    points: [[f64; 2]; BODY_POINTS],
    visible: [bool; BODY_POINTS],
    limbs: LimbLengths,
}

impl Figure {
    fn new(pose: &OpenPose, aspect: f64) -> Self {
        let points = pose.body.map(|p| [p[0] * aspect, p[1]]);
        Self { limbs: LimbLengths::of_points(&points, &pose.visible), points, visible: pose.visible }
    }

    /// The joints at `shared`, about their mean, in units of their root mean square distance from it.
    fn normalised(&self, shared: &[usize]) -> Option<Vec<[f64; 2]>> {
        let count = shared.len() as f64;
        let mean = [0, 1].map(|axis| shared.iter().map(|&i| self.points[i][axis]).sum::<f64>() / count);
        let about = |i: &usize| [0, 1].map(|axis| self.points[*i][axis] - mean[axis]);
        let centred: Vec<[f64; 2]> = shared.iter().map(about).collect();
        let radius = (centred.iter().flatten().map(|v| v * v).sum::<f64>() / count).sqrt();
        let usable = radius.is_finite() && radius > 0.0;
        usable.then(|| centred.into_iter().map(|p| p.map(|v| v / radius)).collect())
    }

    /// Root mean square distance of the joints visible in both figures, each brought to mean 0 and size 1; 0 to 2.
    fn distance(&self, other: &Self) -> Option<f64> {
        let shared = self.shared(other);
        if shared.len() < LEAST_SHARED {
            return None;
        }
        let (a, b) = (self.normalised(&shared)?, other.normalised(&shared)?);
        let squares = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b) * (a - b));
        Some((squares.sum::<f64>() / shared.len() as f64).sqrt())
    }

    fn shared(&self, other: &Self) -> Vec<usize> {
        (0..BODY_POINTS).filter(|&i| self.visible[i] && other.visible[i]).collect()
    }

    /// Mean over the limbs of how far their ratio is from the usual one, in logarithms.
    fn bones(&self, other: &Self) -> f64 {
        let seen: Vec<usize> = (0..LIMBS).filter(|&i| self.limbs.seen[i] && other.limbs.seen[i]).collect();
        let ratio = |i: usize| self.limbs.lengths[i] / other.limbs.lengths[i];
        let Some(median) = quantile(seen.iter().map(|&i| ratio(i)), 0.5, 1) else {
            return LARGEST_LOG_RATIO;
        };
        let log = |&i: &usize| {
            let log = (ratio(i) / median).ln().abs();
            if log.is_nan() { LARGEST_LOG_RATIO } else { log.min(LARGEST_LOG_RATIO) }
        };
        seen.iter().map(log).sum::<f64>() / seen.len() as f64
    }

    /// −1 for a head turned to the picture's left, 1 to its right, 0 to the camera.
    fn turn(&self) -> Option<i8> {
        let x = |joint: usize| self.visible[joint].then_some(self.points[joint][0]);
        let nose = x(NOSE)?;
        let turn = match (x(RIGHT_EAR), x(LEFT_EAR)) {
            // From behind the ears show without the face, and a nose is a guess.
            (Some(right), Some(left)) => (nose - (right + left) / 2.0) / ((left - right) / 2.0).abs(),
            // The other ear is behind the head.
            (Some(ear), None) | (None, Some(ear)) => nose - ear,
            (None, None) => return None,
        };
        let one_ear = x(RIGHT_EAR).is_none() || x(LEFT_EAR).is_none();
        Some(if !one_ear && turn.abs() < TURNED || turn == 0.0 || turn.is_nan() {
            0
        } else if turn > 0.0 {
            1
        } else {
            -1
        })
    }

    /// 1 if the chest is to the camera, −1 if the back is, 0 from the side.
    fn front(&self) -> Option<i8> {
        if ![NECK, RIGHT_SHOULDER, LEFT_SHOULDER, RIGHT_HIP, LEFT_HIP].iter().all(|&i| self.visible[i]) {
            return None;
        }
        let breadth = (self.points[LEFT_SHOULDER][0] - self.points[RIGHT_SHOULDER][0]) / self.limbs.lengths[TORSO];
        Some(if breadth > BROAD {
            1
        } else if breadth < -BROAD {
            -1
        } else {
            0
        })
    }
}

/// Distance of shape between a driving pose and the reference: the root mean square distance of the joints visible in both,
/// after each pose is moved to mean 0 and scaled to size 1. 0 is the same shape; around 0.3 is a step with the arms down
/// against standing, above 0.8 hardly anything agrees. `None` if hardly any joints are shared.
pub fn shape_distance(reference: &OpenPose, pose: &OpenPose, aspects: Aspects) -> Option<f64> {
    Figure::new(reference, aspects.canvas).distance(&Figure::new(pose, aspects.drive))
}

/// The frame whose pose is most like the reference's, the first of equals: by [`shape_distance`] and, a quarter as much, by
/// how evenly the bones' lengths compare (a foreshortened limb is a bad measure). `None` if no frame can be compared.
pub fn nearest_frame(reference: &OpenPose, motion: &[Option<OpenPose>], aspects: Aspects) -> Option<usize> {
    let target = Figure::new(reference, aspects.canvas);
    let figures: Vec<(usize, Figure)> = motion
        .iter()
        .enumerate()
        .filter_map(|(i, pose)| Some((i, Figure::new(pose.as_ref()?, aspects.drive))))
        .collect();
    let most = figures.iter().map(|(_, figure)| target.shared(figure).len()).max().unwrap_or(0);
    let covered = figures.iter().filter(|(_, f)| target.shared(f).len() as f64 >= LEAST_COVERAGE * most as f64);
    let cost =
        covered.filter_map(|(i, figure)| Some((*i, target.distance(figure)? + BONES_WEIGHT * target.bones(figure))));
    cost.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(i, _)| i)
}

/// Which way the driving person faces, compared with the reference person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facing {
    /// The mirrored motion would fit the picture better: the heads are mostly turned to opposite sides, or (unless they are
    /// turned to the same side) no pose comes near the reference's while its mirror image does.
    pub mirrored: bool,
    /// One is seen from the front and the other mostly from behind.
    pub behind: bool,
}

/// Compares the reference with a motion, see [`Facing`].
pub fn facing(reference: &OpenPose, motion: &[Option<OpenPose>], aspects: Aspects) -> Facing {
    let target = Figure::new(reference, aspects.canvas);
    let figures = || motion.iter().flatten().map(|pose| Figure::new(pose, aspects.drive));
    let mostly = |signs: &[i8]| {
        [-1, 0, 1].into_iter().find(|sign| {
            let count = signs.iter().filter(|s| *s == sign).count();
            count > 0 && count as f64 >= MOSTLY * signs.len() as f64
        })
    };
    let turns: Vec<i8> = figures().filter_map(|f| f.turn()).collect();
    let fronts: Vec<i8> = figures().filter_map(|f| f.front()).collect();
    // −1 for opposite sides, 1 for the same side.
    let turn = target.turn().zip(mostly(&turns)).map_or(0, |(a, b)| a * b);
    let front = target.front().zip(mostly(&fronts)).map_or(0, |(a, b)| a * b);

    let nearest =
        |poses: &mut dyn Iterator<Item = Figure>| poses.filter_map(|f| target.distance(&f)).min_by(f64::total_cmp);
    let own = nearest(&mut figures());
    let swapped = nearest(&mut motion.iter().flatten().map(|pose| Figure::new(&pose.mirrored(), aspects.drive)));
    let mirror_is_nearer = own.zip(swapped).is_some_and(|(own, swapped)| own > NEAR && swapped < MIRROR_FACTOR * own);
    Facing { mirrored: turn < 0 || turn == 0 && mirror_is_nearer, behind: front < 0 }
}
