//! A small painter: rounded shapes given by their signed distance in pixels, with an outline and soft light from above.

use image::{Rgb, RgbImage};

pub type P = [f64; 2];
pub type Colour = [f64; 3];

/// Direction to the light in the picture.
const LIGHT: P = [-0.45, -0.89];

/// A piece of a shape.
pub enum Piece {
    /// From a to b with a radius at each end.
    Capsule(P, P, f64, f64),
    /// A closed polygon, swollen by a radius.
    Polygon(Vec<P>, f64),
}

pub struct Brush {
    pub colour: Colour,
    /// Width of the darker outline in pixels.
    pub line: f64,
    /// Depth in pixels to which the rim is shaded; 0 is flat.
    pub soft: f64,
    pub alpha: f64,
}

pub fn ellipse(centre: P, radii: P, angle: f64) -> Piece {
    let (sine, cosine) = angle.sin_cos();
    let point = |i: usize| {
        let (s, c) = (i as f64 / 40.0 * std::f64::consts::TAU).sin_cos();
        let [x, y] = [c * radii[0], s * radii[1]];
        [centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine]
    };
    Piece::Polygon((0..40).map(point).collect(), 0.0)
}

pub fn chain(points: &[P], from: f64, to: f64) -> Vec<Piece> {
    let radius = |i: usize| from + (to - from) * i as f64 / (points.len() - 1) as f64;
    points.windows(2).enumerate().map(|(i, w)| Piece::Capsule(w[0], w[1], radius(i), radius(i + 1))).collect()
}

fn to_segment(p: P, a: P, b: P) -> (f64, f64) {
    let [d, e] = [[b[0] - a[0], b[1] - a[1]], [p[0] - a[0], p[1] - a[1]]];
    let t = ((d[0] * e[0] + d[1] * e[1]) / (d[0] * d[0] + d[1] * d[1]).max(1e-9)).clamp(0.0, 1.0);
    ((e[0] - t * d[0]).hypot(e[1] - t * d[1]), t)
}

impl Piece {
    fn distance(&self, p: P) -> f64 {
        match self {
            Self::Capsule(a, b, ra, rb) => {
                let (distance, t) = to_segment(p, *a, *b);
                distance - (ra + t * (rb - ra))
            }
            Self::Polygon(points, round) => {
                let (mut nearest, mut inside) = (f64::MAX, false);
                for (i, &a) in points.iter().enumerate() {
                    let b = points[(i + 1) % points.len()];
                    nearest = nearest.min(to_segment(p, a, b).0);
                    let crosses = (a[1] > p[1]) != (b[1] > p[1]);
                    inside ^= crosses && p[0] < a[0] + (p[1] - a[1]) / (b[1] - a[1]) * (b[0] - a[0]);
                }
                if inside { -nearest - round } else { nearest - round }
            }
        }
    }

    fn bounds(&self) -> [f64; 4] {
        let (points, r): (&[P], f64) = match self {
            Self::Capsule(a, b, ra, rb) => (&[*a, *b], ra.max(*rb)),
            Self::Polygon(points, round) => (points, *round),
        };
        points.iter().fold([f64::MAX, f64::MAX, f64::MIN, f64::MIN], |o, p| {
            [o[0].min(p[0] - r), o[1].min(p[1] - r), o[2].max(p[0] + r), o[3].max(p[1] + r)]
        })
    }
}

/// Fills the union of the pieces.
pub fn fill(image: &mut RgbImage, pieces: &[Piece], brush: &Brush) {
    let distance = |p: P| pieces.iter().map(|piece| piece.distance(p)).fold(f64::MAX, f64::min);
    let boxes = pieces.iter().map(Piece::bounds);
    let all = boxes.reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]).unwrap_or_default();
    let margin = brush.line + 1.0;
    let clamp = |v: f64, limit: u32| v.clamp(0.0, f64::from(limit)) as u32;
    let (xs, ys) = ([all[0] - margin, all[2] + margin + 1.0], [all[1] - margin, all[3] + margin + 1.0]);
    for y in clamp(ys[0], image.height())..clamp(ys[1], image.height()) {
        for x in clamp(xs[0], image.width())..clamp(xs[1], image.width()) {
            let p = [f64::from(x) + 0.5, f64::from(y) + 0.5];
            let d = distance(p);
            let covered = (0.5 - (d - brush.line)).clamp(0.0, 1.0) * brush.alpha;
            if covered == 0.0 {
                continue;
            }
            let mut light = 0.0;
            if brush.soft > 0.0 {
                let slope = [distance([p[0] + 0.7, p[1]]) - d, distance([p[0], p[1] + 0.7]) - d];
                light = (slope[0] * LIGHT[0] + slope[1] * LIGHT[1]) / 0.7 * 0.2 * (d.min(0.0) / brush.soft).exp();
            }
            // The rim is dark where there is an outline, else the shape's own colour.
            let inner = if brush.line > 0.0 { (0.5 - d).clamp(0.0, 1.0) } else { 1.0 };
            let shade = inner * (1.0 + light) + (1.0 - inner) * 0.5;
            let Rgb(below) = image[(x, y)];
            image[(x, y)] = Rgb(std::array::from_fn(|c| {
                let above = (brush.colour[c] * shade).min(255.0);
                (f64::from(below[c]) + (above - f64::from(below[c])) * covered).round() as u8
            }));
        }
    }
}

/// A wall with a string of paper flags, a floor from `horizon` (0..1 of the height) on, and a round rug around `spot`.
pub fn room(size: [u32; 2], wall: [Colour; 2], floor: Colour, horizon: f64, spot: P) -> RgbImage {
    let [width, height] = size;
    let mix = |a: Colour, b: Colour, t: f64| [0, 1, 2].map(|c| a[c] + (b[c] - a[c]) * t);
    let mut image = RgbImage::from_fn(width, height, |_, y| {
        let v = (f64::from(y) + 0.5) / f64::from(height);
        let edge = ((v - horizon) * f64::from(height) / 2.0 + 0.5).clamp(0.0, 1.0);
        let far = mix(wall[0], wall[1], v / horizon);
        let near = mix(floor.map(|c| c * 0.9), floor, (v - horizon) / (1.0 - horizon));
        Rgb(mix(far, near, edge).map(|c| c.round() as u8))
    });
    let [w, h] = [f64::from(width), f64::from(height)];
    let brush = |colour, alpha| Brush { colour, line: 0.0, soft: 0.0, alpha };
    let skirting = [[0.0, h * horizon], [w, h * horizon]];
    fill(&mut image, &chain(&skirting, h * 0.009, h * 0.009), &brush(wall[1].map(|c| (c * 1.06).min(255.0)), 1.0));
    for (grow, colour) in [(1.0, mix(floor, [255.0; 3], 0.35)), (0.86, mix(wall[0], floor, 0.25))] {
        let rug = ellipse(spot, [w * 0.40 * grow, h * 0.062 * grow], 0.0);
        fill(&mut image, &[rug], &brush(colour, 1.0));
    }
    let sag = |u: f64| [u * w, h * (0.035 + 0.24 * u * (1.0 - u))];
    let colours = [[238.0, 122.0, 104.0], [250.0, 206.0, 104.0], [122.0, 190.0, 150.0], [112.0, 160.0, 214.0]];
    for (i, colour) in (0..9).zip(colours.into_iter().cycle()) {
        let [from, to] = [0.17, 0.83].map(|share| sag((f64::from(i) + share) / 9.0));
        let tip = [(from[0] + to[0]) / 2.0, (from[1] + to[1]) / 2.0 + w * 0.085];
        fill(&mut image, &[Piece::Polygon(vec![from, to, tip], 0.5)], &brush(mix(colour, wall[0], 0.25), 1.0));
    }
    let string: Vec<P> = (0..=18).map(|i| sag(f64::from(i) / 18.0)).collect();
    fill(&mut image, &chain(&string, 0.8, 0.8), &brush([150.0, 130.0, 120.0], 0.8));
    image
}
