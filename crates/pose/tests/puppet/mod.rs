//! A person of known proportions who moves in three dimensions, seen from far away: the truth that estimates are held to.

// Every test binary compiles its own copy and none uses all of it.
#![allow(dead_code)]

use pose::{FrameKeypoints, PoseClip, ReferenceKeypoints, WholeBody};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Pictures are this wide and high.
pub const WIDTH: u32 = 1280;
pub const HEIGHT: u32 = 720;

type Vector = [f64; 3];

/// Lengths as factors of a usual adult's.
#[derive(Clone, Copy, Debug)]
pub struct Bones {
    pub neck: f64,
    pub shoulder: f64,
    pub torso: f64,
    pub arm_upper: f64,
    pub arm_lower: f64,
    pub leg_upper: f64,
    pub leg_lower: f64,
}

impl Bones {
    pub const USUAL: Self =
        Self { neck: 1.0, shoulder: 1.0, torso: 1.0, arm_upper: 1.0, arm_lower: 1.0, leg_upper: 1.0, leg_lower: 1.0 };

    /// People differ by up to 15 %.
    pub fn random(random: &mut Random) -> Self {
        let mut factor = || random.between(0.85, 1.15);
        Self {
            neck: factor(),
            shoulder: factor(),
            torso: factor(),
            arm_upper: factor(),
            arm_lower: factor(),
            leg_upper: factor(),
            leg_lower: factor(),
        }
    }
}

/// Directions are unit vectors: x to the person's left, y down, z ahead (to the camera if `yaw` is 0).
#[derive(Clone, Copy, Debug)]
pub struct Puppet {
    pub bones: Bones,
    /// Pixels from crown to sole.
    pub height: f64,
    /// Place of the neck in pixels.
    pub neck: [f64; 2],
    /// Radians; positive turns the face to the picture's right.
    pub yaw: f64,
    /// Radians; positive lowers the head.
    pub nod: f64,
    /// Upper arm and forearm, left then right.
    pub arms: [[Vector; 2]; 2],
    /// Thigh and shin, left then right.
    pub legs: [[Vector; 2]; 2],
}

const DOWN: Vector = [0.0, 1.0, 0.0];

/// A limb that leans out by `side` (to its own side) and ahead by `ahead`, in radians from straight down.
pub fn limb(left: bool, side: f64, ahead: f64) -> Vector {
    let x = side.sin() * ahead.cos();
    [if left { x } else { -x }, side.cos() * ahead.cos(), ahead.sin()]
}

impl Puppet {
    /// Stands with the arms a little away from the body.
    pub fn standing(height: f64, neck: [f64; 2]) -> Self {
        let arm = |left| [limb(left, 0.3, 0.0), limb(left, 0.2, 0.0)];
        Self {
            bones: Bones::USUAL,
            height,
            neck,
            yaw: 0.0,
            nod: 0.0,
            arms: [arm(true), arm(false)],
            legs: [[DOWN; 2]; 2],
        }
    }

    /// Arms and legs swing, each in its own rhythm, about where they are in [`Puppet::standing`]; `t` in seconds.
    pub fn dancing(mut self, t: f64, rhythm: f64) -> Self {
        let swing = |f: f64, phase: f64| (6.3 * f * rhythm * t + phase).sin();
        for (side, left) in [true, false].into_iter().enumerate() {
            let shift = side as f64 * 2.0;
            self.arms[side] = [
                limb(left, 0.9 + 0.7 * swing(0.5, shift), 0.5 * swing(0.37, shift)),
                limb(left, 1.1 + 1.0 * swing(0.9, shift + 1.0), 0.6 * swing(0.53, shift)),
            ];
            self.legs[side] = [
                limb(left, 0.15 + 0.1 * swing(0.6, shift), 0.3 * swing(0.6, 3.0 * side as f64)),
                limb(left, 0.1 * swing(0.6, shift), -0.2 + 0.2 * swing(0.6, 3.0 * side as f64)),
            ];
        }
        self.neck[0] += 0.05 * self.height * swing(0.5, 0.0);
        self.yaw += 0.5 * swing(0.21, 0.3);
        self.nod += 0.15 * swing(0.4, 0.0);
        self
    }

    /// The keypoints as a perfect detector finds them: score 0.9 throughout.
    pub fn keypoints(&self) -> WholeBody {
        let (sin, cos) = self.yaw.sin_cos();
        // Turn about the vertical, drop the depth, measure in pixels.
        let put = |from: [f64; 2], [x, y, z]: Vector, length: f64| {
            let flat = [x * cos + z * sin, y];
            [0, 1].map(|axis| from[axis] + flat[axis] * length * self.height)
        };
        let b = &self.bones;
        let neck = self.neck;
        let mut body = WholeBody { points: [neck; 133], scores: [0.9; 133] };
        let p = &mut body.points;
        let side = |x: f64| [x, 0.0, 0.0];
        (p[5], p[6]) = (put(neck, side(1.0), 0.11 * b.shoulder), put(neck, side(-1.0), 0.11 * b.shoulder));
        let hips = put(neck, DOWN, 0.3 * b.torso);
        (p[11], p[12]) = (put(hips, side(1.0), 0.07), put(hips, side(-1.0), 0.07));
        let (up, ahead) = (self.nod.cos(), self.nod.sin());
        p[0] = put(neck, [0.0, -up, ahead], 0.12 * b.neck);
        for (x, eye, ear) in [(1.0, 1, 3), (-1.0, 2, 4)] {
            p[eye] = put(p[0], [0.02 * x, -0.02, -0.005], 1.0);
            p[ear] = put(p[eye], [0.025 * x, 0.01, -0.05], 1.0);
        }
        for (side, [shoulder, elbow, wrist, hand]) in [[5, 7, 9, 91], [6, 8, 10, 112]].into_iter().enumerate() {
            p[elbow] = put(p[shoulder], self.arms[side][0], 0.17 * b.arm_upper);
            p[wrist] = put(p[elbow], self.arms[side][1], 0.15 * b.arm_lower);
            for point in 0..21 {
                p[hand + point] = put(p[wrist], self.arms[side][1], 0.004 * point as f64);
            }
        }
        for (side, [hip, knee, ankle]) in [[11, 13, 15], [12, 14, 16]].into_iter().enumerate() {
            p[knee] = put(p[hip], self.legs[side][0], 0.24 * b.leg_upper);
            p[ankle] = put(p[knee], self.legs[side][1], 0.24 * b.leg_lower);
        }
        body
    }
}

/// A clip of the given people a frame, without a reference.
pub fn clip(fps: f64, frames: Vec<Vec<WholeBody>>) -> PoseClip {
    let frames = frames.into_iter().map(|people| FrameKeypoints { people }).collect();
    PoseClip { width: WIDTH, height: HEIGHT, fps, frames, reference: None }
}

pub fn reference(people: Vec<WholeBody>) -> Option<ReferenceKeypoints> {
    Some(ReferenceKeypoints { width: WIDTH, height: HEIGHT, people })
}

/// Random numbers of a seed.
pub struct Random(ChaCha20Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normally distributed (nearly: a sum of twelve), mean 0, standard deviation 1.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.between(-0.5, 0.5)).sum()
    }

    /// The person with independent errors of `deviation` pixels.
    pub fn noisy(&mut self, person: &WholeBody, deviation: f64) -> WholeBody {
        let mut person = person.clone();
        for point in &mut person.points {
            *point = point.map(|v| v + deviation * self.normal());
        }
        person
    }
}
