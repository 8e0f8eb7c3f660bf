//! Pillow's `Image.resize(size, BICUBIC)` on 8-bit RGB, bit for bit.
//!
//! Antialiased: when shrinking, the kernel is stretched by the scale. Weights are fixed-point with 22 bits, each pass
//! rounds to 8 bits, horizontal first; a pass that changes nothing is skipped. Checked against Pillow 11.3 with the
//! fixture of `tests/reference/media/`.

use ::image::RgbImage;
use rayon::prelude::*;

use super::{Size, cubic};

/// 32 bits less 8 for the sample and 2 for the overshoot of the weights' sum.
const PRECISION: u32 = 22;
/// Keys' coefficient in Pillow.
const A: f64 = -0.5;
/// Half the width of the kernel at scale 1.
const SUPPORT: f64 = 2.0;

/// The consecutive source samples of one output sample.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

/// Resizes as Pillow's antialiased bicubic (a = −0.5) does, exactly.
///
/// RGB, 8 bits a sample. A source or target side of zero gives a black picture of the target size.
pub fn bicubic_pil(image: &RgbImage, to: Size) -> RgbImage {
    let from = Size::of(image);
    let mut out = RgbImage::new(to.width as u32, to.height as u32);
    if from.area() == 0 || to.area() == 0 {
        return out;
    }
    let wide = if to.width == from.width {
        image.as_raw().clone()
    } else {
        let taps = taps(from.width, to.width);
        let mut wide = vec![0u8; to.width * from.height * 3];
        wide.par_chunks_mut(to.width * 3).zip(image.as_raw().par_chunks(from.width * 3)).for_each(|(line, source)| {
            for (pixel, tap) in line.chunks_exact_mut(3).zip(&taps) {
                for (c, sample) in pixel.iter_mut().enumerate() {
                    let values = source[tap.first * 3 + c..].iter().step_by(3);
                    *sample = clip(tap.weights.iter().zip(values).map(|(w, &v)| w * i32::from(v)).sum());
                }
            }
        });
        wide
    };
    if to.height == from.height {
        out.copy_from_slice(&wide);
        return out;
    }
    let taps = taps(from.height, to.height);
    let stride = to.width * 3;
    out.par_chunks_mut(stride).zip(&taps).for_each(|(line, tap)| {
        let mut sums = vec![0i32; stride];
        for (weight, source) in tap.weights.iter().zip(wide[tap.first * stride..].chunks_exact(stride)) {
            for (sum, &v) in sums.iter_mut().zip(source) {
                *sum += weight * i32::from(v);
            }
        }
        for (sample, sum) in line.iter_mut().zip(sums) {
            *sample = clip(sum);
        }
    });
    out
}

fn clip(sum: i32) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

fn taps(source: usize, target: usize) -> Vec<Tap> {
    let scale = source as f64 / target as f64;
    let stretch = scale.max(1.0);
    let support = SUPPORT * stretch;
    (0..target)
        .map(|out| {
            let centre = (out as f64 + 0.5) * scale;
            let first = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(source);
            let raw: Vec<f64> = (first..end).map(|i| cubic((i as f64 - centre + 0.5) / stretch, A)).collect();
            let total: f64 = raw.iter().sum();
            // `round` halves away from zero, as Pillow's ±0.5 and truncation do.
            let weights = raw.iter().map(|w| (w / total * f64::from(1 << PRECISION)).round() as i32).collect();
            Tap { first, weights }
        })
        .collect()
}
