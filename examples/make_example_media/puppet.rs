//! How a puppet looks: its parts as shapes, painted from the furthest to the nearest.

use image::RgbImage;

use crate::figure::{Joints, V, add, apply};
use crate::paint::{Brush, Colour, P, Piece, chain, ellipse, fill};

pub struct Look {
    pub skin: Colour,
    pub hair: Colour,
    pub shirt: Colour,
    /// Stripe on the chest and cuffs.
    pub trim: Colour,
    pub trousers: Colour,
    pub shoes: Colour,
    /// Thickness of limbs, in the body's unit.
    pub limb: f64,
    /// Whether hair falls to the chin.
    pub long_hair: bool,
}

/// Where a puppet stands in a picture.
#[derive(Clone, Copy)]
pub struct Camera {
    /// Pixel of the floor under the puppet's origin.
    pub floor: P,
    /// Pixels a unit.
    pub scale: f64,
}

impl Camera {
    /// Parallel lines stay parallel; the camera looks a little downwards.
    pub fn project(&self, [x, y, z]: V) -> P {
        [self.floor[0] + self.scale * x, self.floor[1] + self.scale * (y + 0.16 * z)]
    }
}

struct Painter<'a> {
    image: &'a mut RgbImage,
    joints: &'a Joints,
    look: &'a Look,
    camera: Camera,
}

enum Part {
    Torso,
    Head,
    Leg(usize),
    Arm(usize),
}

pub fn paint(image: &mut RgbImage, joints: &Joints, look: &Look, camera: Camera) {
    let mut painter = Painter { image, joints, look, camera };
    painter.shadow();
    // Nearness of each part; the torso is at 0, and arms hang a little in front of it.
    let limb = |a: V, b: V| (a[2] + b[2]) / 2.0;
    let mut parts = vec![(0.0, Part::Torso), (0.05, Part::Head)];
    for side in [0, 1] {
        let leg = limb(joints.hips[side], joints.feet[side][0]);
        let arm = limb(joints.elbows[side], joints.hands[side][0]);
        parts.extend([(leg - 0.3, Part::Leg(side)), (arm + 0.02, Part::Arm(side))]);
    }
    parts.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (_, part) in parts {
        match part {
            Part::Torso => painter.torso(),
            Part::Head => painter.head(),
            Part::Leg(side) => painter.leg(side),
            Part::Arm(side) => painter.arm(side),
        }
    }
}

impl Painter<'_> {
    fn at(&self, v: V) -> P {
        self.camera.project(v)
    }

    fn px(&self, length: f64) -> f64 {
        length * self.camera.scale
    }

    fn fill(&mut self, pieces: &[Piece], colour: Colour) {
        let line = self.px(0.0035).max(0.7);
        fill(self.image, pieces, &Brush { colour, line, soft: self.px(0.022), alpha: 1.0 });
    }

    fn flat(&mut self, pieces: &[Piece], colour: Colour) {
        fill(self.image, pieces, &Brush { colour, line: 0.0, soft: 0.0, alpha: 1.0 });
    }

    fn shadow(&mut self) {
        let feet = self.joints.ankles.map(|a| self.at([a[0], 0.0, 0.0]));
        let centre = [(feet[0][0] + feet[1][0]) / 2.0, feet[0][1] + self.px(0.012)];
        let half = (feet[0][0] - feet[1][0]).abs() / 2.0 + self.px(0.10);
        for grow in [1.0, 0.85, 0.7, 0.55] {
            let shape = [ellipse(centre, [half * grow, self.px(0.042) * grow], 0.0)];
            fill(self.image, &shape, &Brush { colour: [40.0, 30.0, 50.0], line: 0.0, soft: 0.0, alpha: 0.10 });
        }
    }

    fn leg(&mut self, side: usize) {
        let (j, look) = (self.joints, self.look);
        let [toe, small_toe, heel] = j.feet[side].map(|p| self.at(add(p, [0.0, -0.5 * look.limb, 0.0], 1.0)));
        let sole = vec![toe, small_toe, heel, self.at(j.ankles[side])];
        self.fill(&[Piece::Polygon(sole, self.px(look.limb * 0.66))], look.shoes);
        let joints = [j.hips[side], j.knees[side], j.ankles[side]].map(|p| self.at(p));
        let mut trousers = chain(&joints, self.px(look.limb * 1.35), self.px(look.limb * 0.9));
        let middle = self.at(add(add(j.hips[0], j.hips[1], 1.0).map(|x| x / 2.0), [0.0, -0.02, 0.0], 1.0));
        trousers.push(Piece::Capsule(joints[0], middle, self.px(look.limb * 1.4), self.px(look.limb * 1.2)));
        self.fill(&trousers, look.trousers);
    }

    fn torso(&mut self) {
        let (j, look) = (self.joints, self.look);
        let neck = [self.at(add(j.neck, [0.0, -0.005, 0.0], 1.0)), self.at(j.head)];
        self.fill(&[Piece::Capsule(neck[0], neck[1], self.px(look.limb * 0.9), self.px(look.limb * 0.8))], look.skin);
        let round = look.limb * 1.15;
        let inset = |end: V, other: V, share: f64| add(end, add(other, end, -1.0), share);
        let tops = [0, 1].map(|i| add(inset(j.shoulders[i], j.shoulders[1 - i], 0.1), [0.0, 0.022, 0.0], 1.0));
        let hips = [0, 1].map(|i| add(j.hips[i], [0.0, -0.025, 0.0], 1.0));
        let outline = [tops[0], hips[0], hips[1], tops[1]].map(|p| self.at(p)).to_vec();
        self.fill(&[Piece::Polygon(outline, self.px(round))], look.shirt);
        // The stripe lies on the front of the chest, so that it shows which way the chest turns.
        let across = (j.shoulders[0][0] - j.shoulders[1][0]).abs() / 2.0 + round * 0.5;
        let on_chest = |u: f64, down: f64| {
            let ahead = apply(&j.chest_turn, [0.0, down, 0.07 * (1.0 - u * u)]);
            self.at(add(add(j.neck, ahead, 1.0), [u * across, 0.0, 0.0], 1.0))
        };
        let stripe: Vec<P> = (-4..=4).map(|i| on_chest(f64::from(i) / 4.0 * 0.8, 0.105)).collect();
        let collar = [on_chest(-0.36, 0.0), on_chest(0.0, 0.035), on_chest(0.36, 0.0)];
        self.flat(&chain(&stripe, self.px(0.013), self.px(0.013)), look.trim);
        self.flat(&chain(&collar, self.px(0.009), self.px(0.009)), look.trim);
    }

    fn arm(&mut self, side: usize) {
        let (j, look) = (self.joints, self.look);
        let hand = j.hands[side].map(|p| self.at(p));
        let thick = self.px(look.limb * 0.27);
        let palm = vec![hand[0], hand[2], hand[5], hand[9], hand[13], hand[17]];
        let mut pieces = vec![Piece::Polygon(palm, thick)];
        pieces.extend((0..5).flat_map(|f| chain(&hand[1 + 4 * f..5 + 4 * f], thick, thick * 0.85)));
        self.fill(&pieces, look.skin);
        let [shoulder, elbow] = [j.shoulders[side], j.elbows[side]];
        let from = self.at(add(shoulder, [0.0, 0.02, 0.0], 1.0));
        let (thick, thin) = (self.px(look.limb * 0.98), self.px(look.limb * 0.72));
        self.fill(&chain(&[from, self.at(elbow), hand[0]], thick, thin), look.shirt);
        // Without an outline between them, shirt and sleeve are one piece.
        let inner = self.at(add(add(shoulder, j.neck, 0.25).map(|x| x / 1.25), [0.0, 0.034, 0.0], 1.0));
        self.flat(&[Piece::Capsule(from, inner, thick * 0.8, thick * 0.8)], look.shirt);
        let elbow = self.at(elbow);
        let along = [hand[0][0] - elbow[0], hand[0][1] - elbow[1]];
        let length = along[0].hypot(along[1]).max(1.0);
        let along = along.map(|x| x / length * thin);
        let corner = |ahead: f64, across: f64| {
            [hand[0][0] + ahead * along[0] - across * along[1], hand[0][1] + ahead * along[1] + across * along[0]]
        };
        let cuff = vec![corner(0.2, 0.8), corner(0.2, -0.8), corner(0.75, -0.8), corner(0.75, 0.8)];
        self.fill(&[Piece::Polygon(cuff, thin * 0.22)], look.trim);
    }

    fn head(&mut self) {
        let (j, look) = (self.joints, self.look);
        let ([rx, ry], roll) = (j.head_radii, j.head_turn[1][0].asin());
        let on = |u: f64, v: f64| self.at(j.on_head(u, v));
        let inside = |v: V| self.at(add(j.head, apply(&j.head_turn, v), 1.0));
        let (middle, back) = (self.at(j.head), inside([0.0, -0.12 * ry, -0.25 * rx]));
        let mut hair = vec![ellipse(back, [self.px(rx * 1.14), self.px(ry * 1.06)], roll)];
        if look.long_hair {
            let ends = [1.0, -1.0].map(|s| inside([s * 0.86 * rx, 0.78 * ry, -0.2 * rx]));
            let tops = [-1.0, 1.0].map(|s| inside([s * 0.95 * rx, -0.1 * ry, -0.2 * rx]));
            hair.push(Piece::Polygon([ends, tops].concat(), self.px(rx * 0.2)));
        }
        let ears = [1.0, -1.0].map(|s| inside([s * rx, 0.02, 0.0]));
        let skull = ellipse(middle, [self.px(rx), self.px(ry)], roll);
        // The fringe ends on a wavy line on the forehead and joins the silhouette above it.
        let mut fringe: Vec<P> = (-8..=8)
            .map(|i| f64::from(i) / 8.0)
            .map(|u| on(u * 0.97, -0.60 + 0.30 * (u.abs() - 0.25).abs() + if look.long_hair { 0.0 } else { -0.06 }))
            .collect();
        let ends = [fringe[16], fringe[0]];
        let angle = |p: P| (p[1] - middle[1]).atan2(p[0] - middle[0]);
        let (first, last) = (angle(ends[0]), angle(ends[1]));
        let last = if last > first { last - std::f64::consts::TAU } else { last };
        fringe.extend((0..=16).map(|i| {
            let (s, c) = (first + (last - first) * f64::from(i) / 16.0 - roll).sin_cos();
            let [x, y] = [c * self.px(rx * 1.16), s * self.px(ry * 1.2)];
            [middle[0] + x * roll.cos() - y * roll.sin(), middle[1] + x * roll.sin() + y * roll.cos()]
        }));
        let face = j.face.map(|p| self.at(p));
        let cheeks = [-0.52, 0.52].map(|u| ellipse(on(u, 0.36), [self.px(rx * 0.17), self.px(rx * 0.12)], roll));
        let sparkle = [-0.38, 0.38].map(|u| on(u + 0.06, 0.0));
        let eyes = [-0.38, 0.38].map(|u| on(u, 0.06));

        self.fill(&hair, look.hair.map(|c| c * 0.82));
        self.fill(&ears.map(|p| ellipse(p, [self.px(rx * 0.2), self.px(rx * 0.25)], 0.0)), look.skin);
        self.fill(&[skull], look.skin);
        let blush = Brush { colour: [240.0, 120.0, 110.0], line: 0.0, soft: 0.0, alpha: 0.35 };
        cheeks.iter().for_each(|cheek| fill(self.image, std::slice::from_ref(cheek), &blush));
        self.fill(&[Piece::Polygon(fringe, self.px(0.004))], look.hair);
        let dark = [45.0, 32.0, 40.0];
        for (eye, light) in eyes.into_iter().zip(sparkle) {
            self.flat(&[ellipse(eye, [self.px(rx * 0.135), self.px(rx * 0.18)], roll)], dark);
            self.flat(&[ellipse(light, [self.px(rx * 0.05); 2], 0.0)], [255.0; 3]);
        }
        let (brow, lip) = (self.px(rx * 0.035), self.px(rx * 0.03));
        self.flat(&chain(&face[17..22], brow, brow), look.hair.map(|c| c * 0.7));
        self.flat(&chain(&face[22..27], brow, brow), look.hair.map(|c| c * 0.7));
        self.flat(&chain(&face[31..36], brow, brow), look.skin.map(|c| c * 0.72));
        self.flat(&[Piece::Polygon(face[48..60].to_vec(), lip)], [170.0, 60.0, 60.0]);
        self.flat(&[Piece::Polygon(face[60..64].to_vec(), lip * 0.5)], [250.0, 245.0, 240.0]);
    }
}
