//! The dance: a posture for every beat, smooth curves between them, and a bounce on top.

use std::f64::consts::{PI, TAU};

use crate::figure::{Arm, Posture};

pub const BEATS_PER_SECOND: f64 = 2.0;
/// The dance ends as it begins.
pub const BEATS: usize = 12;

/// Numbers of a posture in the order of [`posture`].
type Row = [f64; 17];

/// x, bend, turn, twist, lean, head turn, head tilt | left arm: upper out, forward, fore out, forward | right arm | steps
/// of left and right foot. The second half of the dance is the first in the mirror.
const FIRST_HALF: [Row; 7] = [
    [0.00, 0.002, 0., 0., 0., 0., 0., 16., 0., 9., 8., 16., 0., 9., 8., 0.00, 0.00],
    [0.06, 0.050, 12., 10., 6., 8., 4., 72., 10., 96., 18., 30., 15., -32., 40., 0.13, 0.00],
    [0.11, 0.015, -14., -10., -3., -8., -4., 30., 15., -34., 42., 70., 10., 98., 18., 0.13, 0.11],
    [0.05, 0.060, 0., 0., 0., 0., 0., 128., 8., 158., 12., 128., 8., 158., 12., 0.13, -0.03],
    [0.09, 0.030, 24., 10., 11., -10., 6., 112., 8., 150., 12., 140., 8., 206., 14., 0.13, -0.03],
    [0.02, 0.110, -22., -8., -8., 14., -6., 58., -12., -52., 14., 118., 14., 172., 18., 0.10, -0.06],
    [0.00, 0.020, 0., 0., 0., 0., 0., 80., 6., 84., 10., 80., 6., 84., 10., 0.00, 0.00],
];

fn mirrored(row: &Row) -> Row {
    let mut other = *row;
    for i in [0, 2, 3, 4, 5, 6] {
        other[i] = -row[i];
    }
    other[7..11].copy_from_slice(&row[11..15]);
    other[11..15].copy_from_slice(&row[7..11]);
    [other[15], other[16]] = [-row[16], -row[15]];
    other
}

fn row(beat: isize) -> Row {
    match beat.clamp(0, BEATS as isize) as usize {
        beat @ 0..=6 => FIRST_HALF[beat],
        12 => FIRST_HALF[0],
        beat => mirrored(&FIRST_HALF[beat - 6]),
    }
}

/// The dancer `beat` beats after the start. Beats before the first and after the last show the puppet at rest.
pub fn posture(beat: f64) -> Posture {
    let whole = beat.floor();
    let t = beat - whole;
    let [before, from, to, after] = [-1, 0, 1, 2].map(|k| row(whole as isize + k));
    // Cubic through the beats' numbers, with the slopes of their neighbours.
    let curve = |i: usize| {
        let slopes = [(to[i] - before[i]) / 2.0, (after[i] - from[i]) / 2.0];
        let (t2, t3) = (t * t, t * t * t);
        (2.0 * t3 - 3.0 * t2 + 1.0) * from[i]
            + (t3 - 2.0 * t2 + t) * slopes[0]
            + (3.0 * t2 - 2.0 * t3) * to[i]
            + (t3 - t2) * slopes[1]
    };
    // Feet that stand do not slide, and feet that move are lifted.
    let foot = |i: usize| {
        let distance = to[i] - from[i];
        [from[i] + distance * t * t * (3.0 - 2.0 * t), 0.35 * distance.abs() * (PI * t).sin().powi(2)]
    };
    // The bounce is silent at both ends, so that the first frame is a plain standing figure.
    let loudness = beat.clamp(0.0, 1.0) * (BEATS as f64 - beat).clamp(0.0, 1.0);
    let wave = |phase: f64| loudness * (TAU * (beat + phase)).sin();
    let arm = |first: usize, phase: f64| Arm {
        upper: [curve(first), curve(first + 1)],
        fore: [curve(first + 2) + 9.0 * wave(phase), curve(first + 3)],
    };
    Posture {
        x: curve(0),
        bend: curve(1).max(0.002) + 0.012 * (loudness + wave(-0.25)),
        turn: curve(2),
        twist: curve(3),
        lean: curve(4),
        head_turn: curve(5),
        head_tilt: curve(6) + 3.0 * wave(0.1),
        arms: [arm(7, 0.0), arm(11, 0.5)],
        feet: [foot(15), foot(16)],
        mouth: 0.35 + 0.25 * wave(0.0),
    }
}

/// Sound samples of the dance's music, −1 to 1: a drum on every beat and a tune of three bars.
pub fn music(rate: u32, seconds: f64) -> Vec<f64> {
    // Semitones above C4, one every half beat.
    const TUNE: [i32; 24] = [0, 4, 7, 4, 9, 7, 4, 7, 5, 9, 12, 9, 7, 4, 5, 2, 4, 7, 11, 7, 12, 7, 4, 0];
    let sample = |n: usize| {
        let beat = n as f64 / f64::from(rate) * BEATS_PER_SECOND;
        let (t, u) = (beat.fract() / BEATS_PER_SECOND, (beat * 2.0).fract() / 2.0 / BEATS_PER_SECOND);
        let drum = (TAU * (90.0 * t - 60.0 * t * t)).sin() * (-18.0 * t).exp();
        let pitch = 261.63 * 2f64.powf(f64::from(TUNE[(beat * 2.0) as usize % TUNE.len()]) / 12.0);
        let pluck = (1.0 - (-400.0 * u).exp()) * (-9.0 * u).exp();
        let tone = (TAU * pitch * u).sin() + 0.35 * (2.0 * TAU * pitch * u).sin();
        0.5 * drum + 0.25 * pluck * tone
    };
    (0..(f64::from(rate) * seconds) as usize).map(sample).collect()
}
