//! Trembling: second differences in time.

use image::RgbImage;

use super::Mask;

/// Temporal jitter in levels (0..=255 scale, so 0 to 1020), lower is better: the mean of `|Δ²output − Δ²truth|` over
/// inner frames, pixels and channels, where `Δ²x[t] = x[t−1] − 2·x[t] + x[t+1]`. Motion that the truth has too costs
/// nothing; flicker, and motion that comes in jerks, do.
///
/// `None` for fewer than three frames, or clips of different lengths or sizes.
pub fn jitter(frames: &[RgbImage], truth: &[RgbImage]) -> Option<f64> {
    if frames.len() != truth.len() || !of_one_size(frames.iter().chain(truth)) {
        return None;
    }
    let (mut sum, mut count) = (0u64, 0u64);
    for (a, b) in frames.windows(3).zip(truth.windows(3)) {
        for i in 0..a[1].len() {
            sum += u64::from((second(a, i) - second(b, i)).unsigned_abs());
            count += 1;
        }
    }
    (count > 0).then(|| sum as f64 / count as f64)
}

/// Flicker of what should be still, in levels (0 to 510), lower is better: the mean of `|Δ²output|` over the pixels
/// that belong to the background in three successive frames of `masks`, and channels. It needs a truth whose camera and
/// background are still.
///
/// `None` for fewer than three frames, no background, or clips of different lengths or sizes.
pub fn background_jitter(frames: &[RgbImage], masks: &[Mask]) -> Option<f64> {
    let fits = |(frame, mask): (&RgbImage, &Mask)| frame.len() == 3 * mask.len();
    if frames.len() != masks.len() || !of_one_size(frames.iter()) || !frames.iter().zip(masks).all(fits) {
        return None;
    }
    let (mut sum, mut count) = (0u64, 0u64);
    for (a, m) in frames.windows(3).zip(masks.windows(3)) {
        for p in (0..m[1].len()).filter(|p| m.iter().all(|mask| !mask[*p])) {
            sum += (3 * p..3 * p + 3).map(|i| u64::from(second(a, i).unsigned_abs())).sum::<u64>();
            count += 3;
        }
    }
    (count > 0).then(|| sum as f64 / count as f64)
}

fn second(frames: &[RgbImage], i: usize) -> i32 {
    let level = |t: usize| i32::from(frames[t].as_raw()[i]);
    level(0) - 2 * level(1) + level(2)
}

fn of_one_size<'a>(mut frames: impl Iterator<Item = &'a RgbImage>) -> bool {
    let first = frames.next().map(RgbImage::dimensions);
    frames.all(|f| Some(f.dimensions()) == first)
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn clip(levels: &[u8]) -> Vec<RgbImage> {
        levels.iter().map(|v| RgbImage::from_pixel(2, 1, Rgb([*v; 3]))).collect()
    }

    #[test]
    fn steady_motion_is_no_jitter_and_flicker_is() {
        let still = clip(&[50, 50, 50, 50]);
        assert_eq!(jitter(&clip(&[10, 30, 50, 70]), &still), Some(0.0));
        // Second differences −40, +40 of a flicker of 20 levels.
        assert_eq!(jitter(&clip(&[50, 70, 50, 70]), &still), Some(40.0));
        assert_eq!(jitter(&clip(&[50, 70, 50, 70]), &clip(&[0, 20, 0, 20])), Some(0.0));
        assert_eq!(jitter(&clip(&[0, 255, 0]), &clip(&[255, 0, 255])), Some(1020.0));
        assert_eq!(jitter(&clip(&[1, 2]), &clip(&[1, 2])), None);
        assert_eq!(jitter(&clip(&[1, 2, 3]), &still), None);
    }

    #[test]
    fn only_background_counts_as_background() {
        let mut frames = clip(&[50, 50, 50]);
        frames[1].put_pixel(0, 0, Rgb([60, 50, 50]));
        let masks = |figure: [bool; 2]| vec![vec![false; 2], figure.to_vec(), vec![false; 2]];
        assert_eq!(background_jitter(&frames, &masks([false, false])), Some(20.0 / 6.0));
        assert_eq!(background_jitter(&frames, &masks([true, false])), Some(0.0));
        assert_eq!(background_jitter(&frames, &masks([true, true])), None);
        assert_eq!(background_jitter(&frames, &[]), None);
    }
}
