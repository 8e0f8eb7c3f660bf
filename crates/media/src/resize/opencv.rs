//! `cv2.resize` on 8-bit RGB: `INTER_LINEAR`, `INTER_CUBIC`, `INTER_AREA`.
//!
//! Linear is OpenCV's own fixed-point arithmetic (11-bit weights, two truncating shifts), so it is equal; cubic and area
//! are float, equal but for a rounding tie now and then.

use ::image::RgbImage;
use rayon::prelude::*;

use super::{Size, cubic_taps};

/// Keys' coefficient in OpenCV.
const A: f64 = -0.75;
/// One, in OpenCV's 11-bit fixed-point weights.
const ONE: f32 = 2048.0;

/// `cv2.resize(image, (to.width, to.height), interpolation=cv2.INTER_LINEAR)`: half-pixel centres, no antialiasing.
///
/// RGB, 8 bits a sample. A source or target side of zero gives a black picture of the target size.
pub fn linear_opencv(image: &RgbImage, to: Size) -> RgbImage {
    bilinear(image, to, half_pixel)
}

/// `cv2.resize(…, interpolation=cv2.INTER_CUBIC)`: a = −0.75, half-pixel centres, no antialiasing, clamped to 0..255.
///
/// RGB, 8 bits a sample. A source or target side of zero gives a black picture of the target size.
pub fn cubic_opencv(image: &RgbImage, to: Size) -> RgbImage {
    let from = Size::of(image);
    let Some(mut out) = blank(from, to) else {
        return RgbImage::new(to.width as u32, to.height as u32);
    };
    let columns = cubic_taps(from.width, to.width, A);
    let rows = cubic_taps(from.height, to.height, A);
    let stride = to.width * 3;
    let mut wide = vec![0f32; stride * from.height];
    wide.par_chunks_mut(stride).zip(image.as_raw().par_chunks(from.width * 3)).for_each(|(line, source)| {
        for (pixel, tap) in line.chunks_exact_mut(3).zip(&columns) {
            for (c, value) in pixel.iter_mut().enumerate() {
                *value = tap.weight.iter().zip(tap.index).map(|(w, i)| w * f32::from(source[i * 3 + c])).sum();
            }
        }
    });
    out.par_chunks_mut(stride).zip(&rows).for_each(|(line, tap)| {
        for (x, sample) in line.iter_mut().enumerate() {
            let sum: f32 = tap.weight.iter().zip(tap.index).map(|(w, i)| w * wide[i * stride + x]).sum();
            *sample = round(sum);
        }
    });
    out
}

/// `cv2.resize(…, interpolation=cv2.INTER_AREA)`: the mean over the source area of each pixel; where either side grows,
/// OpenCV falls back to a linear interpolation whose sample points differ from [`linear_opencv`]'s, and so do we.
///
/// RGB, 8 bits a sample. A source or target side of zero gives a black picture of the target size.
pub fn area_opencv(image: &RgbImage, to: Size) -> RgbImage {
    let from = Size::of(image);
    if to.width > from.width || to.height > from.height {
        return bilinear(image, to, area_point);
    }
    let Some(mut out) = blank(from, to) else {
        return RgbImage::new(to.width as u32, to.height as u32);
    };
    let columns = overlaps(from.width, to.width);
    let rows = overlaps(from.height, to.height);
    // Halving both sides is integer arithmetic in OpenCV, with ties upwards.
    let halves = from.width == 2 * to.width && from.height == 2 * to.height;
    let stride = to.width * 3;
    let mut wide = vec![0f32; stride * from.height];
    wide.par_chunks_mut(stride).zip(image.as_raw().par_chunks(from.width * 3)).for_each(|(line, source)| {
        for (pixel, (first, weights)) in line.chunks_exact_mut(3).zip(&columns) {
            for (c, value) in pixel.iter_mut().enumerate() {
                let samples = source[first * 3 + c..].iter().step_by(3);
                *value = weights.iter().zip(samples).map(|(w, &v)| w * f32::from(v)).sum();
            }
        }
    });
    out.par_chunks_mut(stride).zip(&rows).for_each(|(line, (first, weights))| {
        for (x, sample) in line.iter_mut().enumerate() {
            let sum: f32 = weights.iter().zip(*first..).map(|(w, i)| w * wide[i * stride + x]).sum();
            *sample = if halves { (sum + 0.5) as u8 } else { round(sum) };
        }
    });
    out
}

fn blank(from: Size, to: Size) -> Option<RgbImage> {
    (from.area() > 0 && to.area() > 0).then(|| RgbImage::new(to.width as u32, to.height as u32))
}

fn round(value: f32) -> u8 {
    value.round_ties_even().clamp(0.0, 255.0) as u8
}

/// For each output sample: the first source sample it covers, and the covered share of it and its followers.
fn overlaps(source: usize, target: usize) -> Vec<(usize, Vec<f32>)> {
    let scale = source as f64 / target as f64;
    (0..target)
        .map(|out| {
            let (start, end) = (out as f64 * scale, ((out + 1) as f64 * scale).min(source as f64));
            // A sliver under a thousandth is a rounding error of the product, not coverage; OpenCV drops it too.
            let first = (start + 1e-3).floor() as usize;
            let last = ((end - 1e-3).ceil() as usize).clamp(first + 1, source);
            let width = end - start;
            let weights =
                (first..last).map(|i| ((end.min((i + 1) as f64) - start.max(i as f64)) / width) as f32).collect();
            (first, weights)
        })
        .collect()
}

/// Two neighbours and their 11-bit weights.
struct LinearTap {
    index: [usize; 2],
    weight: [i32; 2],
}

/// The sample left of the point, and how far the point lies beyond it.
type Point = fn(out: usize, source: usize, target: usize) -> (i64, f32);

fn half_pixel(out: usize, source: usize, target: usize) -> (i64, f32) {
    let scale = 1.0 / (target as f64 / source as f64);
    let centre = ((out as f64 + 0.5) * scale - 0.5) as f32;
    (centre.floor() as i64, centre - centre.floor())
}

fn area_point(out: usize, source: usize, target: usize) -> (i64, f32) {
    let grow = target as f64 / source as f64;
    let base = (out as f64 * (1.0 / grow)).floor();
    let beyond = ((out + 1) as f64 - (base + 1.0) * grow) as f32;
    (base as i64, if beyond <= 0.0 { 0.0 } else { beyond - beyond.floor() })
}

fn linear_taps(source: usize, target: usize, point: Point, snap: bool) -> Vec<LinearTap> {
    let last = source as i64 - 1;
    (0..target)
        .map(|out| {
            let (mut base, mut t) = point(out, source, target);
            // Horizontally OpenCV puts the whole weight on the edge sample, vertically it splits it; the truncating
            // shifts below make that visible.
            if snap && (base < 0 || base >= last) {
                (base, t) = (base.clamp(0, last), 0.0);
            }
            let fixed = |w: f32| (w * ONE).round_ties_even() as i32;
            LinearTap { index: [base, base + 1].map(|i| i.clamp(0, last) as usize), weight: [fixed(1.0 - t), fixed(t)] }
        })
        .collect()
}

fn bilinear(image: &RgbImage, to: Size, point: Point) -> RgbImage {
    let from = Size::of(image);
    let Some(mut out) = blank(from, to) else {
        return RgbImage::new(to.width as u32, to.height as u32);
    };
    let columns = linear_taps(from.width, to.width, point, true);
    let rows = linear_taps(from.height, to.height, point, false);
    let stride = to.width * 3;
    let mut wide = vec![0i32; stride * from.height];
    wide.par_chunks_mut(stride).zip(image.as_raw().par_chunks(from.width * 3)).for_each(|(line, source)| {
        for (pixel, tap) in line.chunks_exact_mut(3).zip(&columns) {
            let [a, b] = tap.index.map(|i| i * 3);
            for (c, value) in pixel.iter_mut().enumerate() {
                *value = i32::from(source[a + c]) * tap.weight[0] + i32::from(source[b + c]) * tap.weight[1];
            }
        }
    });
    out.par_chunks_mut(stride).zip(&rows).for_each(|(line, tap)| {
        let [above, below] = tap.index.map(|i| &wide[i * stride..][..stride]);
        let [wa, wb] = tap.weight;
        for (sample, (&a, &b)) in line.iter_mut().zip(above.iter().zip(below)) {
            let sum = ((wa * (a >> 4)) >> 16) + ((wb * (b >> 4)) >> 16);
            *sample = ((sum + 2) >> 2).clamp(0, 255) as u8;
        }
    });
    out
}
