//! The One-Euro filter (Casiez, Roussel and Vogel, CHI 2012), run over a whole motion in both directions.

use std::f64::consts::TAU;

/// Cutoff in Hz at rest for strengths towards 0 and for strength 1.
const WEAKEST_CUTOFF: f64 = 8.0;
const STRONGEST_CUTOFF: f64 = 0.5;

/// A low pass whose cutoff rises with speed: slow motion, where jitter shows, is smoothed; fast motion is left alone.
///
/// Speeds are in body heights a second, so that neither the picture's size nor the person's matters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneEuro {
    /// Cutoff at rest, Hz.
    pub min_cutoff: f64,
    /// Rise of the cutoff with speed, Hz per height/s.
    pub beta: f64,
    /// Cutoff of the low pass over the speed itself, Hz.
    pub d_cutoff: f64,
}

impl OneEuro {
    /// The filter of a strength: `min_cutoff` falls from 8 Hz (towards 0) to 0.5 Hz (at 1) in equal ratios; `beta` is 30 Hz
    /// per height/s and `d_cutoff` 2 Hz throughout: at 16 frames a second and strength 0.5 a joint at rest trembles 0.6 times
    /// as much, while a swing of 2 Hz keeps 94 % of its amplitude. `None` for 0 and below: off.
    pub fn with_strength(strength: f64) -> Option<Self> {
        let min_cutoff = WEAKEST_CUTOFF * (STRONGEST_CUTOFF / WEAKEST_CUTOFF).powf(strength.min(1.0));
        (strength > 0.0).then_some(Self { min_cutoff, beta: 30.0, d_cutoff: 2.0 })
    }

    /// The filtered places of one point, seen in every frame. `height` is the person's, in the units of the points.
    ///
    /// The mean of a pass forwards and one backwards: the delays of the two cancel. (For a first-order low pass H the mean
    /// of both directions is Re H = |H|², which is what a pass forwards over the result of one backwards gives.) Points that
    /// do not move stay exactly.
    pub fn zero_phase(&self, points: &[[f64; 2]], height: f64, fps: f64) -> Vec<[f64; 2]> {
        let forwards = self.pass(points.iter(), height, fps);
        let backwards = self.pass(points.iter().rev(), height, fps);
        let mean = |(a, b): (&[f64; 2], &[f64; 2])| [0, 1].map(|axis| (a[axis] + b[axis]) / 2.0);
        forwards.iter().zip(backwards.iter().rev()).map(mean).collect()
    }

    /// The filter as published, which follows a motion with a delay.
    fn pass<'a>(&self, points: impl Iterator<Item = &'a [f64; 2]>, height: f64, fps: f64) -> Vec<[f64; 2]> {
        let weight = |cutoff: f64| 1.0 / (1.0 + fps / (TAU * cutoff));
        let mut speed = [0.0; 2];
        let mut last: Option<[f64; 2]> = None;
        let step = |&point: &[f64; 2]| {
            let place = last.map_or(point, |last| {
                let w = weight(self.d_cutoff);
                speed = [0, 1].map(|axis| {
                    let now = (point[axis] - last[axis]) * fps / height;
                    speed[axis] + w * (now - speed[axis])
                });
                let w = weight(self.min_cutoff + self.beta * speed[0].hypot(speed[1]));
                [0, 1].map(|axis| last[axis] + w * (point[axis] - last[axis]))
            });
            last = Some(place);
            place
        };
        points.map(step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FPS: f64 = 16.0;

    /// Frames by which the filtered sway of 1 Hz is behind.
    fn lag(filter: impl Fn(&[[f64; 2]]) -> Vec<[f64; 2]>) -> f64 {
        let angle = |i: usize| TAU * i as f64 / FPS;
        let sway: Vec<[f64; 2]> = (0..320).map(|i| [0.03 * angle(i).sin(), 0.0]).collect();
        let out = filter(&sway);
        let sum = |f: fn(f64) -> f64| (80..240).map(|i| out[i][0] * f(angle(i))).sum::<f64>();
        -sum(f64::cos).atan2(sum(f64::sin)) * FPS / TAU
    }

    #[test]
    fn two_directions_cancel_the_delay_of_one() {
        let filter = OneEuro::with_strength(0.5).unwrap();
        let forwards = lag(|points| filter.pass(points.iter(), 1.0, FPS));
        let both = lag(|points| filter.zero_phase(points, 1.0, FPS));
        assert!(forwards > 0.3, "{forwards} frames");
        assert!(both.abs() < 0.01, "{both} frames");
    }

    #[test]
    fn strength_0_is_off() {
        assert_eq!(OneEuro::with_strength(0.0), None);
        assert_eq!(OneEuro::with_strength(f64::NAN), None);
        assert_eq!(OneEuro::with_strength(1.0).unwrap().min_cutoff, STRONGEST_CUTOFF);
    }
}
