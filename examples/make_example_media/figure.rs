//! A puppet in three dimensions: proportions and joint angles give joints, joints give keypoints.
//!
//! Axes: x to the picture's right (the puppet's left), y down with the floor at 0, z to the viewer; the unit is about
//! the puppet's height. Sides: 0 is the puppet's left.

use pose::WholeBody;

use crate::paint::P;

pub type V = [f64; 3];
type Turn = [V; 3];

const SIDE: [f64; 2] = [1.0, -1.0];

/// Lengths.
pub struct Body {
    /// Half width and half height of the head.
    pub head: P,
    pub neck: f64,
    pub torso: f64,
    /// Half widths.
    pub shoulder: f64,
    pub hip: f64,
    pub arm: P,
    pub hand: f64,
    pub leg: P,
    pub ankle: f64,
}

/// Angles of one arm in degrees: outwards from hanging (negative is inwards), and forwards.
#[derive(Clone, Copy)]
pub struct Arm {
    pub upper: P,
    pub fore: P,
}

/// A posture; angles in degrees, lengths in the body's unit.
#[derive(Clone, Copy)]
pub struct Posture {
    /// Where the pelvis is, and how much lower than on straight legs.
    pub x: f64,
    pub bend: f64,
    /// Pelvis, then chest against pelvis, about the vertical.
    pub turn: f64,
    pub twist: f64,
    /// Chest sideways.
    pub lean: f64,
    pub head_turn: f64,
    pub head_tilt: f64,
    pub arms: [Arm; 2],
    /// Sideways step and lift of each foot.
    pub feet: [P; 2],
    /// How far the mouth is open, 0 to 1.
    pub mouth: f64,
}

pub struct Joints {
    pub hips: [V; 2],
    pub knees: [V; 2],
    pub ankles: [V; 2],
    /// Big toe, small toe, heel.
    pub feet: [[V; 3]; 2],
    pub shoulders: [V; 2],
    pub elbows: [V; 2],
    pub hands: [[V; 21]; 2],
    pub neck: V,
    pub head: V,
    pub chest_turn: Turn,
    pub head_turn: Turn,
    pub head_radii: P,
    pub face: [V; 68],
}

pub fn add(a: V, b: V, scale: f64) -> V {
    [0, 1, 2].map(|i| a[i] + scale * b[i])
}

pub fn apply(turn: &Turn, v: V) -> V {
    turn.map(|row| row[0] * v[0] + row[1] * v[1] + row[2] * v[2])
}

fn cross(a: V, b: V) -> V {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn unit(v: V) -> V {
    let length = v.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-9);
    v.map(|x| x / length)
}

/// First about the line of sight (`roll`), then about the vertical (`yaw`), in degrees.
fn turned(yaw: f64, roll: f64) -> Turn {
    let ((s, c), (sr, cr)) = (yaw.to_radians().sin_cos(), roll.to_radians().sin_cos());
    [[c * cr, -c * sr, s], [sr, cr, 0.0], [-s * cr, s * sr, c]]
}

/// A limb's direction in the chest's frame.
fn direction(side: usize, [out, forward]: P) -> V {
    let ((so, co), (sf, cf)) = (out.to_radians().sin_cos(), forward.to_radians().sin_cos());
    [SIDE[side] * so * cf, co * cf, sf]
}

impl Body {
    pub fn joints(&self, p: &Posture) -> Joints {
        // The pelvis is as high as the leg that reaches furthest lets it be.
        let pelvis_turn = turned(p.turn, p.lean * -0.25);
        let feet_x = [0, 1].map(|i| SIDE[i] * self.hip * 1.15 + p.feet[i][0]);
        let reach = (self.leg[0] + self.leg[1]) * 0.999;
        let rise = [0, 1].map(|i| (reach.powi(2) - (feet_x[i] - p.x - SIDE[i] * self.hip).powi(2)).max(0.01).sqrt());
        let pelvis = [p.x, -self.ankle - rise[0].min(rise[1]) + p.bend, 0.0];
        let hips = SIDE.map(|s| add(pelvis, apply(&pelvis_turn, [s * self.hip, 0.0, 0.0]), 1.0));
        let ankles = [0, 1].map(|i| [feet_x[i], -self.ankle - p.feet[i][1], 0.0]);
        let knees = [0, 1].map(|i| self.knee(hips[i], ankles[i], turned(p.turn * 0.7 + SIDE[i] * 24.0, 0.0)));
        let feet = [0, 1].map(|i| {
            let turn = turned(p.turn * 0.5 + SIDE[i] * 28.0, 0.0);
            let (sole, length) = (self.ankle, self.ankle * 2.1);
            let toe = |across: f64, along: f64| {
                add(ankles[i], apply(&turn, [SIDE[i] * across * sole, sole * 0.85, along * length]), 1.0)
            };
            [toe(-0.3, 1.0), toe(0.5, 0.85), toe(0.0, -0.3)]
        });

        let chest_turn = turned(p.turn + p.twist, p.lean);
        let neck = add(pelvis, apply(&chest_turn, [0.0, -self.torso, 0.0]), 1.0);
        let shoulders = SIDE.map(|s| add(neck, apply(&chest_turn, [s * self.shoulder, 0.0, 0.0]), 1.0));
        let along = |i, angles| apply(&chest_turn, direction(i, angles));
        let elbows = [0, 1].map(|i| add(shoulders[i], along(i, p.arms[i].upper), self.arm[0]));
        let hands = [0, 1].map(|i| {
            let fore = along(i, p.arms[i].fore);
            self.fingers(i, add(elbows[i], fore, self.arm[1]), fore, &chest_turn)
        });
        let head_turn = turned(p.turn + p.twist + p.head_turn, p.lean * 0.5 + p.head_tilt);
        let head = add(neck, apply(&head_turn, [0.0, -self.neck - self.head[1], 0.0]), 1.0);
        let mut joints = Joints {
            hips,
            knees,
            ankles,
            feet,
            shoulders,
            elbows,
            hands,
            neck,
            head,
            chest_turn,
            head_turn,
            head_radii: self.head,
            face: [[0.0; 3]; 68],
        };
        joints.face = face(p.mouth).map(|[u, v]| joints.on_head(u, v));
        joints
    }

    /// Two bones between hip and ankle; the knee points to where `facing` turns the viewer's direction.
    fn knee(&self, hip: V, ankle: V, facing: Turn) -> V {
        let [upper, lower] = self.leg;
        let axis = unit(add(ankle, hip, -1.0));
        let length = add(ankle, hip, -1.0).iter().map(|x| x * x).sum::<f64>().sqrt().min(upper + lower);
        let along = (upper.powi(2) - lower.powi(2) + length.powi(2)) / (2.0 * length);
        let forward = apply(&facing, [0.0, 0.0, 1.0]);
        let shared = (0..3).map(|i| forward[i] * axis[i]).sum::<f64>();
        let bend = unit(add(forward, axis, -shared));
        add(add(hip, axis, along), bend, (upper.powi(2) - along.powi(2)).max(0.0).sqrt())
    }

    /// The hand's 21 points. A hanging hand shows its thumb side, a raised one its palm.
    fn fingers(&self, side: usize, wrist: V, fore: V, chest: &Turn) -> [V; 21] {
        let facing = apply(chest, [0.0, 0.0, 1.0]);
        let flat = unit(cross(fore, facing)).map(|x| x * SIDE[side]);
        let roll = (1.0 + fore[1]) / 2.0 * 40.0_f64.to_radians();
        let normal = cross(fore, flat).map(|x| x * -SIDE[side]);
        let thumb_side = unit(add(flat.map(|x| x * roll.cos()), normal, roll.sin()));
        let place = |along: f64, across: f64| add(add(wrist, fore, along * self.hand), thumb_side, across * self.hand);
        let mut points = [wrist; 21];
        // Where each finger begins (along, across), its spread in degrees, and its length.
        let fingers: [(P, f64, f64); 5] = [
            ([0.16, 0.16], 42.0, 0.50),
            ([0.48, 0.20], 12.0, 0.46),
            ([0.50, 0.06], 3.0, 0.52),
            ([0.47, -0.08], -6.0, 0.47),
            ([0.42, -0.20], -17.0, 0.37),
        ];
        for (f, ([along, across], spread, length)) in fingers.into_iter().enumerate() {
            let (sine, cosine) = f64::to_radians(spread).sin_cos();
            for (k, part) in [0.0, 0.45, 0.75, 1.0].into_iter().enumerate() {
                points[1 + 4 * f + k] = place(along + part * length * cosine, across + part * length * sine);
            }
        }
        points
    }
}

/// The 68 face points on the head seen from the front: u to the right, v down, the head's outline at radius 1.
fn face(mouth: f64) -> [P; 68] {
    let ring = |u: f64, v: f64, ru: f64, rv: f64, degrees: f64| {
        let (s, c) = degrees.to_radians().sin_cos();
        [u + ru * c, v - rv * s]
    };
    let smile = |[u, v]: P| [u, v - 1.1 * u * u];
    let mut points = [[0.0; 2]; 68];
    for (i, jaw) in points[..17].iter_mut().enumerate() {
        *jaw = ring(0.0, 0.05, 0.96, -0.93, 180.0 - i as f64 * 11.25);
    }
    for i in 0..5 {
        let u = -0.64 + 0.11 * i as f64;
        let v = -0.20 - 0.025 * i as f64 - 0.06 * (i as f64 * 45.0).to_radians().sin();
        (points[17 + i], points[26 - i]) = ([u, v], [-u, v]);
    }
    for i in 0..4 {
        points[27 + i] = [0.0, -0.02 + 0.09 * i as f64];
    }
    for i in 0..5 {
        points[31 + i] = [-0.13 + 0.065 * i as f64, 0.32 + 0.02 * (i as f64 * 45.0).to_radians().sin()];
    }
    for (i, degrees) in [180.0, 120.0, 60.0, 0.0, -60.0, -120.0].into_iter().enumerate() {
        points[36 + i] = ring(-0.38, 0.06, 0.15, 0.10, degrees);
        points[42 + i] = ring(0.38, 0.06, 0.15, 0.10, degrees);
    }
    for i in 0..12 {
        points[48 + i] = smile(ring(0.0, 0.60, 0.30, 0.06 + 0.12 * mouth, 180.0 - 30.0 * i as f64));
    }
    for i in 0..8 {
        points[60 + i] = smile(ring(0.0, 0.60, 0.25, 0.02 + 0.10 * mouth, 180.0 - 45.0 * i as f64));
    }
    points
}

impl Joints {
    /// The point of the head's surface that is seen at (u, v) from the front.
    pub fn on_head(&self, u: f64, v: f64) -> V {
        let [rx, ry] = self.head_radii;
        let depth = (1.0 - u * u - v * v).max(0.0).sqrt();
        add(self.head, apply(&self.head_turn, [u * rx, v * ry, depth * rx]), 1.0)
    }

    /// All 133 points as `project` sees them, rounded to a tenth of a pixel, each with full confidence.
    pub fn keypoints(&self, project: impl Fn(V) -> P) -> WholeBody {
        let eye = |first: usize| {
            let sum = self.face[first..first + 6].iter().fold([0.0; 3], |sum, p| add(sum, *p, 1.0));
            sum.map(|x| x / 6.0)
        };
        let ear = |side: f64| add(self.head, apply(&self.head_turn, [side * self.head_radii[0], 0.0, 0.0]), 1.0);
        let mut points = vec![self.face[30], eye(42), eye(36), ear(1.0), ear(-1.0)];
        let wrists = self.hands.map(|hand| hand[0]);
        for pair in [self.shoulders, self.elbows, wrists, self.hips, self.knees, self.ankles] {
            points.extend(pair);
        }
        points.extend(self.feet.iter().flatten());
        points.extend(self.face);
        points.extend(self.hands.iter().flatten());
        let rounded = |p: V| project(p).map(|x| (x * 10.0).round() / 10.0);
        WholeBody { points: std::array::from_fn(|i| rounded(points[i])), scores: [1.0; pose::WHOLE_BODY_POINTS] }
    }
}
