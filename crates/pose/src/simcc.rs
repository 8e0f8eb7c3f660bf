//! Keypoints from SimCC logits: each axis is a classification over half-pixel bins.
//!
//! Sources: SimCC (Li et al., 2022, arXiv:2107.03332) and RTMPose's head in mmpose, with its flip test.

use crate::error::Network;
use crate::keypoints::{MIRRORED_POINTS, WHOLE_BODY_POINTS, WholeBody};
use crate::{PoseError, Result};

/// Bins a pixel of the crop.
pub const SPLIT: usize = 2;

/// The keypoint network's output for one crop.
#[derive(Clone, Copy, Debug)]
pub struct Simcc<'a> {
    x: &'a [f32],
    y: &'a [f32],
}

impl<'a> Simcc<'a> {
    /// Logits `x` [133, 2 · width] and `y` [133, 2 · height].
    ///
    /// # Errors
    /// [`PoseError::NetworkShape`] for other lengths, [`PoseError::NetworkNotFinite`] for NaN or an infinity.
    pub fn new(x: &'a [f32], y: &'a [f32]) -> Result<Self> {
        let network = Network::Keypoints;
        let rows = |axis: &[f32]| !axis.is_empty() && axis.len().is_multiple_of(WHOLE_BODY_POINTS);
        if !rows(x) || !rows(y) {
            let (found, expected) = (vec![x.len(), y.len()], "two tables of 133 rows".to_owned());
            return Err(PoseError::NetworkShape { network, found, expected });
        }
        if let Some(&value) = x.iter().chain(y).find(|v| !v.is_finite()) {
            return Err(PoseError::NetworkNotFinite { network, value: value.into() });
        }
        Ok(Self { x, y })
    }

    /// Keypoints in pixels of the crop, averaged with the output for the mirrored crop if there is one (flip test).
    ///
    /// A keypoint is at the first bin with the largest logit of each axis, its score the smaller of the two logits. At a
    /// score of 0 or less the place is bin −1 of both axes, which is half a pixel outside of the crop.
    pub fn decode(&self, mirrored: Option<&Simcc>) -> WholeBody {
        let mut person = WholeBody { points: [[0.0; 2]; WHOLE_BODY_POINTS], scores: [0.0; WHOLE_BODY_POINTS] };
        let points = person.points.iter_mut().zip(&mut person.scores);
        for (k, (point, score)) in points.enumerate() {
            let (x, y) = self.rows(k);
            let peaks = match mirrored.map(|m| m.rows(MIRRORED_POINTS[k])) {
                None => [peak(x.iter().copied()), peak(y.iter().copied())],
                Some((mx, my)) => [peak(x.iter().zip(mx.iter().rev()).map(mean)), peak(y.iter().zip(my).map(mean))],
            };
            let least = peaks[0].1.min(peaks[1].1);
            *score = least.into();
            let place = |bin: usize| if least > 0.0 { bin as f64 } else { -1.0 };
            *point = peaks.map(|(bin, _)| place(bin) / SPLIT as f64);
        }
        person
    }

    fn rows(&self, k: usize) -> (&'a [f32], &'a [f32]) {
        [self.x, self.y]
            .map(|axis| {
                let bins = axis.len() / WHOLE_BODY_POINTS;
                &axis[k * bins..][..bins]
            })
            .into()
    }
}

/// Halved before they are added: the same number as upstream's half of the sum, and it cannot overflow.
fn mean((a, b): (&f32, &f32)) -> f32 {
    a * 0.5 + b * 0.5
}

/// The first of the largest logits: its bin and value.
fn peak(logits: impl Iterator<Item = f32>) -> (usize, f32) {
    let keep_larger = |best: (usize, f32), next: (usize, f32)| if next.1 > best.1 { next } else { best };
    logits.enumerate().reduce(keep_larger).unwrap_or((0, f32::NEG_INFINITY))
}
