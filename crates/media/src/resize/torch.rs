//! `torch.nn.functional.interpolate(mode="bicubic", align_corners=False, antialias=False)` and CLIP's pre-processing.

use rayon::prelude::*;

use super::{CubicTap, Size, cubic_taps};
use crate::error::{MediaError, Result};

/// Keys' coefficient in torch.
const A: f64 = -0.75;

/// CLIP's channel means (R, G, B), in [0, 1].
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// CLIP's channel deviations (R, G, B), in [0, 1].
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Resizes planes as torch's bicubic does: a = −0.75, half-pixel centres, no antialiasing, **no clamping**, so that
/// values overshoot at edges by up to about a fifth of the step.
///
/// `planes` is `[C, from.height, from.width]`, any number of channels C and any value range; the result is
/// `[C, to.height, to.width]`.
///
/// # Errors
/// A buffer that is not a whole number of planes, or a size of zero.
pub fn bicubic_torch(planes: &[f32], from: Size, to: Size) -> Result<Vec<f32>> {
    if from.area() == 0 || to.area() == 0 || !planes.len().is_multiple_of(from.area()) {
        return Err(MediaError::BufferLength { found: planes.len(), expected: from.area() });
    }
    let columns = cubic_taps(from.width, to.width, A);
    let rows = cubic_taps(from.height, to.height, A);
    let channels = planes.len() / from.area();

    let mut wide = vec![0f32; channels * from.height * to.width];
    wide.par_chunks_mut(to.width).zip(planes.par_chunks(from.width)).for_each(|(out, line)| {
        for (value, tap) in out.iter_mut().zip(&columns) {
            *value = weigh(tap, |i| line[i]);
        }
    });

    let mut resized = vec![0f32; channels * to.area()];
    resized.par_chunks_mut(to.width).enumerate().for_each(|(line, out)| {
        let (channel, y) = (line / to.height, line % to.height);
        let plane = &wide[channel * from.height * to.width..][..from.height * to.width];
        for (x, value) in out.iter_mut().enumerate() {
            *value = weigh(&rows[y], |i| plane[i * to.width + x]);
        }
    });
    Ok(resized)
}

fn weigh(tap: &CubicTap, at: impl Fn(usize) -> f32) -> f32 {
    tap.weight.iter().zip(tap.index).map(|(w, i)| w * at(i)).sum()
}

/// CLIP's input from a picture in [−1, 1]: torch bicubic straight to `side`×`side` (the aspect is squashed, nothing is
/// cropped), ·0.5+0.5, then (v − mean) / std per channel. As in Wan's `clip.py`.
///
/// `planes` is `[3, from.height, from.width]` in [−1, 1] at the picture's original size; the result is
/// `[3, side, side]`.
///
/// # Errors
/// A buffer that does not hold three planes of the given size.
pub fn clip_pixels(planes: &[f32], from: Size, side: usize) -> Result<Vec<f32>> {
    if planes.len() != 3 * from.area() {
        return Err(MediaError::BufferLength { found: planes.len(), expected: 3 * from.area() });
    }
    let mut pixels = bicubic_torch(planes, from, Size::new(side, side))?;
    for (plane, (mean, std)) in pixels.chunks_mut(side * side).zip(CLIP_MEAN.iter().zip(CLIP_STD)) {
        plane.iter_mut().for_each(|v| *v = (*v * 0.5 + 0.5 - mean) / std);
    }
    Ok(pixels)
}
