//! How large a person is and where, from the body's 17 keypoints.

use crate::keypoints::{COCO_BODY_POINTS, WholeBody};

/// Shoulders and hips, which move least.
const TORSO: [usize; 4] = [5, 6, 11, 12];
/// Lengths of an adult as parts of the height (NASA-STD-3000's 50th percentile, rounded): neck to middle of the hips,
/// shoulder joint to shoulder joint, nose to ankles.
const TORSO_OF_HEIGHT: f64 = 0.30;
const SHOULDERS_OF_HEIGHT: f64 = 0.22;
const NOSE_TO_ANKLES_OF_HEIGHT: f64 = 0.88;

/// An upright rectangle in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bounds {
    min: [f64; 2],
    max: [f64; 2],
}

impl Bounds {
    /// Around the body's keypoints that score above `threshold`; `None` if fewer than two do.
    pub fn of(person: &WholeBody, threshold: f64) -> Option<Self> {
        let seen: Vec<usize> = (0..COCO_BODY_POINTS).filter(|&i| person.is_seen(i, threshold)).collect();
        (seen.len() >= 2).then(|| Self::around(person, &seen))
    }

    /// Around the keypoints at `points`, at least one.
    pub fn around(person: &WholeBody, points: &[usize]) -> Self {
        let empty = Self { min: [f64::INFINITY; 2], max: [f64::NEG_INFINITY; 2] };
        points.iter().map(|&i| person.points[i]).fold(empty, |b, p| Self {
            min: [b.min[0].min(p[0]), b.min[1].min(p[1])],
            max: [b.max[0].max(p[0]), b.max[1].max(p[1])],
        })
    }

    /// Width and height.
    pub fn sides(&self) -> [f64; 2] {
        [self.max[0] - self.min[0], self.max[1] - self.min[1]]
    }

    pub fn area(&self) -> f64 {
        let [width, height] = self.sides();
        width * height
    }

    pub fn centre(&self) -> [f64; 2] {
        [0, 1].map(|axis| (self.min[axis] + self.max[axis]) / 2.0)
    }

    pub fn moved(&self, by: [f64; 2]) -> Self {
        let add = |p: [f64; 2]| [p[0] + by[0], p[1] + by[1]];
        Self { min: add(self.min), max: add(self.max) }
    }

    /// Shared area / joint area, 0..1; 0 for two rectangles without area.
    pub fn overlap(&self, other: &Self) -> f64 {
        let side = |axis: usize| (self.max[axis].min(other.max[axis]) - self.min[axis].max(other.min[axis])).max(0.0);
        let shared = side(0) * side(1);
        let joint = self.area() + other.area() - shared;
        if joint > 0.0 { shared / joint } else { 0.0 }
    }
}

/// Area of the box around the body in square pixels; 0 if hardly anything of it is seen.
pub(crate) fn area(person: &WholeBody, threshold: f64) -> f64 {
    Bounds::of(person, threshold).map_or(0.0, |b| b.area())
}

/// Middle of the shoulders if both are seen, else of the box around the body, else of all its keypoints.
pub(crate) fn centre(person: &WholeBody, threshold: f64) -> [f64; 2] {
    if let Some(neck) = neck(person, threshold) {
        return neck;
    }
    Bounds::of(person, threshold).map_or_else(
        || {
            [0, 1].map(|axis| {
                person.points[..COCO_BODY_POINTS].iter().map(|p| p[axis]).sum::<f64>() / COCO_BODY_POINTS as f64
            })
        },
        |b| b.centre(),
    )
}

/// Middle of the shoulders if both are seen.
pub(crate) fn neck(person: &WholeBody, threshold: f64) -> Option<[f64; 2]> {
    let seen = person.is_seen(5, threshold) && person.is_seen(6, threshold);
    seen.then(|| middle(person.points[5], person.points[6]))
}

/// Height in pixels that the person would have standing upright: the largest of what torso, shoulders and extent suggest,
/// since foreshortening and crouching only make lengths shorter. `None` if nothing of a length is seen.
pub(crate) fn height(person: &WholeBody, threshold: f64) -> Option<f64> {
    let p = &person.points;
    let hips = TORSO[2..].iter().all(|&i| person.is_seen(i, threshold)).then(|| middle(p[11], p[12]));
    let neck = neck(person, threshold);
    let torso = neck.zip(hips).map(|(a, b)| distance(a, b) / TORSO_OF_HEIGHT);
    let shoulders = neck.map(|_| distance(p[5], p[6]) / SHOULDERS_OF_HEIGHT);
    let extent = Bounds::of(person, threshold).map(|b| b.sides()[1] / NOSE_TO_ANKLES_OF_HEIGHT);
    let guesses = [torso, shoulders, extent].into_iter().flatten();
    guesses.filter(|h| h.is_finite() && *h > 0.0).max_by(f64::total_cmp)
}

/// Mean displacement of the torso's keypoints, or failing these the body's, that both people have in sight.
pub(crate) fn displacement(from: &WholeBody, to: &WholeBody, threshold: f64) -> Option<[f64; 2]> {
    let mean = |points: &mut dyn Iterator<Item = usize>| {
        let shared: Vec<usize> = points.filter(|&i| from.is_seen(i, threshold) && to.is_seen(i, threshold)).collect();
        let count = shared.len() as f64;
        let sum = |axis: usize| shared.iter().map(|&i| to.points[i][axis] - from.points[i][axis]).sum::<f64>();
        (!shared.is_empty()).then(|| [0, 1].map(|axis| sum(axis) / count))
    };
    mean(&mut TORSO.into_iter()).or_else(|| mean(&mut (0..COCO_BODY_POINTS)))
}

pub(crate) fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

fn middle(a: [f64; 2], b: [f64; 2]) -> [f64; 2] {
    [0, 1].map(|axis| (a[axis] + b[axis]) / 2.0)
}
