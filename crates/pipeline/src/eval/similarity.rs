//! Similarity transforms of the plane, fitted by least squares, and pictures moved by them.

use image::{Rgb, RgbImage};

/// A point and where it shall go.
pub type PointPair = ([f64; 2], [f64; 2]);

/// Rotation, scale and translation: `p ↦ s·R(θ)·p + t`, no reflection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Similarity {
    /// `s·cos θ` and `s·sin θ`.
    pub turn: [f64; 2],
    /// Translation t.
    pub shift: [f64; 2],
}

impl Similarity {
    /// What leaves everything in its place.
    pub const IDENTITY: Self = Self { turn: [1.0, 0.0], shift: [0.0, 0.0] };

    /// The similarity that takes `from` nearest to `to`, in the sum of squared distances: Umeyama, "Least-squares
    /// estimation of transformation parameters between two point patterns" (1991), which in the plane, where points are
    /// complex numbers, is the quotient of a covariance and a variance.
    ///
    /// One pair of points, or coinciding ones, give the translation alone; no pair gives `None`, as do coordinates that
    /// are not finite.
    pub fn fit(pairs: &[PointPair]) -> Option<Self> {
        let count = pairs.len() as f64;
        let mean = |of: fn(&PointPair) -> [f64; 2]| {
            [0, 1].map(|axis| pairs.iter().map(|pair| of(pair)[axis]).sum::<f64>() / count)
        };
        let (from, to) = (mean(|p| p.0), mean(|p| p.1));
        let (mut covariance, mut variance) = ([0.0; 2], 0.0);
        for (p, q) in pairs {
            let (px, py, qx, qy) = (p[0] - from[0], p[1] - from[1], q[0] - to[0], q[1] - to[1]);
            covariance[0] += px * qx + py * qy;
            covariance[1] += px * qy - py * qx;
            variance += px * px + py * py;
        }
        let turn = if variance > 1e-9 { covariance.map(|c| c / variance) } else { Self::IDENTITY.turn };
        let moved = Self { turn, shift: [0.0; 2] }.apply(from);
        let fitted = Self { turn, shift: [to[0] - moved[0], to[1] - moved[1]] };
        fitted.turn.iter().chain(&fitted.shift).all(|v| v.is_finite()).then_some(fitted)
    }

    /// Where a point goes.
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let ([c, s], [tx, ty]) = (self.turn, self.shift);
        [c * x - s * y + tx, s * x + c * y + ty]
    }

    /// The way back; `None` for a scale of zero.
    pub fn inverse(&self) -> Option<Self> {
        let ([c, s], [tx, ty]) = (self.turn, self.shift);
        let square = c * c + s * s;
        let turn = [c / square, -s / square];
        let [x, y] = Self { turn, shift: [0.0; 2] }.apply([tx, ty]);
        (square > 1e-12).then_some(Self { turn, shift: [-x, -y] })
    }

    /// The picture moved by this transform, of the same size: bilinear between pixel centres (the middle of the first
    /// is (0.5, 0.5)); beyond the edges the nearest pixel continues. A scale of zero leaves it as it is.
    pub fn warp(&self, picture: &RgbImage) -> RgbImage {
        let Some(back) = self.inverse() else { return picture.clone() };
        let (width, height) = picture.dimensions();
        let [last_x, last_y] = [width, height].map(|side| f64::from(side.saturating_sub(1)));
        RgbImage::from_fn(width, height, |x, y| {
            let [u, v] = back.apply([f64::from(x) + 0.5, f64::from(y) + 0.5]);
            let (u, v) = ((u - 0.5).clamp(0.0, last_x), (v - 0.5).clamp(0.0, last_y));
            let (x0, y0) = (u.floor(), v.floor());
            let (fx, fy) = (u - x0, v - y0);
            let (x0, y0) = (x0 as u32, y0 as u32);
            let (x1, y1) = ((x0 + 1).min(width - 1), (y0 + 1).min(height - 1));
            Rgb(std::array::from_fn(|c| {
                let at = |x, y| f64::from(picture.get_pixel(x, y)[c]);
                let top = at(x0, y0) * (1.0 - fx) + at(x1, y0) * fx;
                let bottom = at(x0, y1) * (1.0 - fx) + at(x1, y1) * fx;
                (top * (1.0 - fy) + bottom * fy).round() as u8
            }))
        })
    }
}
