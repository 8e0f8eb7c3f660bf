//! Likeness of pictures, pixel by pixel: PSNR and SSIM.

use image::RgbImage;

use super::Mask;

/// What PSNR is for equal pictures, whose error is zero: 8-bit pictures that differ at all are far below it, and means
/// stay numbers.
pub const PSNR_CAP_DB: f64 = 100.0;

/// Peak signal-to-noise ratio in dB, `10·log10(255² / MSE)`, at most [`PSNR_CAP_DB`]. The mean square error is pooled
/// over all frames, the three channels of sRGB levels 0..=255, and with `masks` over the figure's pixels only. Higher
/// is better.
///
/// `None` when there is nothing to compare: no frames or no figure, or clips of different lengths or sizes.
pub fn psnr(frames: &[RgbImage], truth: &[RgbImage], masks: Option<&[Mask]>) -> Option<f64> {
    if frames.len() != truth.len() || masks.is_some_and(|m| m.len() != frames.len()) {
        return None;
    }
    let (mut sum, mut count) = (0u64, 0u64);
    for (i, (frame, truth)) in frames.iter().zip(truth).enumerate() {
        let mask = masks.map(|m| m[i].as_slice());
        if frame.dimensions() != truth.dimensions() || mask.is_some_and(|m| m.len() * 3 != frame.len()) {
            return None;
        }
        for (p, (a, b)) in frame.chunks_exact(3).zip(truth.chunks_exact(3)).enumerate() {
            if mask.is_none_or(|m| m[p]) {
                sum += a.iter().zip(b).map(|(a, b)| u64::from(a.abs_diff(*b)).pow(2)).sum::<u64>();
                count += 3;
            }
        }
    }
    let mse = sum as f64 / count as f64;
    (count > 0).then(|| (10.0 * (255.0 * 255.0 / mse).log10()).min(PSNR_CAP_DB))
}

/// Side of SSIM's window in pixels.
const WINDOW: usize = 11;
/// Standard deviation of SSIM's window in pixels.
const SIGMA: f64 = 1.5;
/// SSIM's constants (K1·L)² and (K2·L)².
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
/// See [`C1`].
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// The structural similarity of two pictures at every place where the whole window fits.
struct SsimMap {
    /// −1..=1, row by row; the first value is that of the picture's pixel (5, 5).
    values: Vec<f64>,
    width: usize,
}

/// Mean structural similarity, −1..=1, 1 for equal clips. Higher is better.
///
/// Wang, Bovik, Sheikh, Simoncelli: "Image quality assessment: from error visibility to structural similarity" (2004):
/// Gaussian window of 11×11 with σ = 1.5 (weights sum to one, so variances are not Bessel-corrected), K1 = 0.01,
/// K2 = 0.03, L = 255, on BT.601 luma 0..=255, at the places where the whole window lies in the picture. The mean is
/// over these places of each frame, with `masks` over those whose middle is a figure's pixel, then over frames that
/// have any.
///
/// `None` when there is nothing to compare: no frames, no figure, pictures smaller than the window, or clips of
/// different lengths or sizes.
pub fn ssim(frames: &[RgbImage], truth: &[RgbImage], masks: Option<&[Mask]>) -> Option<f64> {
    if frames.len() != truth.len() || masks.is_some_and(|m| m.len() != frames.len()) {
        return None;
    }
    let mut means = Vec::new();
    for (i, (frame, truth)) in frames.iter().zip(truth).enumerate() {
        let mask = masks.map(|m| m[i].as_slice());
        if mask.is_some_and(|m| m.len() * 3 != frame.len()) {
            return None;
        }
        means.extend(ssim_map(frame, truth)?.mean(mask, frame.width() as usize));
    }
    mean(&means)
}

impl SsimMap {
    fn mean(&self, mask: Option<&[bool]>, picture_width: usize) -> Option<f64> {
        let Some(mask) = mask else { return mean(&self.values) };
        let half = WINDOW / 2;
        let inside = |i: usize| mask[(i / self.width + half) * picture_width + i % self.width + half];
        let chosen: Vec<f64> = (0..self.values.len()).filter(|i| inside(*i)).map(|i| self.values[i]).collect();
        mean(&chosen)
    }
}

fn ssim_map(a: &RgbImage, b: &RgbImage) -> Option<SsimMap> {
    let (width, height) = (a.width() as usize, a.height() as usize);
    if a.dimensions() != b.dimensions() || width < WINDOW || height < WINDOW {
        return None;
    }
    let (a, b) = (luma(a), luma(b));
    let product = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a * b).collect() };
    let blurred = |plane: &[f64]| blur(plane, width, height);
    let (mean_a, mean_b) = (blurred(&a), blurred(&b));
    let (aa, bb, ab) = (blurred(&product(&a, &a)), blurred(&product(&b, &b)), blurred(&product(&a, &b)));
    let values = (0..mean_a.len()).map(|i| {
        let (ma, mb) = (mean_a[i], mean_b[i]);
        let (var_a, var_b, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (var_a + var_b + C2))
    });
    Some(SsimMap { values: values.collect(), width: width + 1 - WINDOW })
}

/// BT.601 luma of sRGB levels, 0..=255.
fn luma(picture: &RgbImage) -> Vec<f64> {
    let of = |p: &[u8]| 0.299 * f64::from(p[0]) + 0.587 * f64::from(p[1]) + 0.114 * f64::from(p[2]);
    picture.chunks_exact(3).map(of).collect()
}

/// The plane under SSIM's window, where it fits: `width + 1 − 11` by `height + 1 − 11`.
fn blur(plane: &[f64], width: usize, height: usize) -> Vec<f64> {
    let taps: [f64; WINDOW] =
        std::array::from_fn(|i| (-(i as f64 - (WINDOW / 2) as f64).powi(2) / (2.0 * SIGMA * SIGMA)).exp());
    let total: f64 = taps.iter().sum();
    let taps = taps.map(|t| t / total);
    let columns = width + 1 - WINDOW;
    let mut rows = Vec::with_capacity(columns * height);
    for row in plane.chunks_exact(width) {
        rows.extend(row.windows(WINDOW).map(|w| w.iter().zip(taps).map(|(v, t)| v * t).sum::<f64>()));
    }
    let mut out = vec![0.0; columns * (height + 1 - WINDOW)];
    for (y, out) in out.chunks_exact_mut(columns).enumerate() {
        for (row, tap) in rows.chunks_exact(columns).skip(y).zip(taps) {
            out.iter_mut().zip(row).for_each(|(o, v)| *o += v * tap);
        }
    }
    out
}

/// The arithmetic mean; none of nothing.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
