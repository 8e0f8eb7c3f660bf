//! 8-bit RGB pictures ↔ planes in [−1, 1], as the reference pipeline converts them.

use ::image::RgbImage;
use rayon::prelude::*;

use super::Size;
use crate::error::{MediaError, Result};

/// `[3, height, width]` in [−1, 1] from a picture: v/255, then (v − 0.5)/0.5, each rounded to f32 as torchvision does.
pub fn rgb_to_chw(image: &RgbImage) -> Vec<f32> {
    let area = Size::of(image).area();
    let mut planes = vec![0f32; 3 * area];
    if area == 0 {
        return planes;
    }
    let levels: Vec<f32> = (0..=255u8).map(|v| (f32::from(v) / 255.0 - 0.5) / 0.5).collect();
    planes.par_chunks_mut(area).enumerate().for_each(|(channel, plane)| {
        let samples = image.as_raw()[channel..].iter().step_by(3);
        plane.iter_mut().zip(samples).for_each(|(value, &v)| *value = levels[usize::from(v)]);
    });
    planes
}

/// A picture from `[3, height, width]`: clamped to [−1, 1], (v + 1)/2·255, truncated to 8 bits. NaN becomes 0.
///
/// # Errors
/// A buffer that does not hold three planes of the given size.
pub fn chw_to_rgb(planes: &[f32], size: Size) -> Result<RgbImage> {
    if planes.len() != 3 * size.area() {
        return Err(MediaError::BufferLength { found: planes.len(), expected: 3 * size.area() });
    }
    let mut image = RgbImage::new(size.width as u32, size.height as u32);
    if size.area() == 0 {
        return Ok(image);
    }
    let (r, rest) = planes.split_at(size.area());
    let (g, b) = rest.split_at(size.area());
    let to_u8 = |v: f32| ((v.clamp(-1.0, 1.0) + 1.0) / 2.0 * 255.0) as u8;
    image.par_chunks_mut(3).enumerate().for_each(|(i, pixel)| {
        pixel.copy_from_slice(&[to_u8(r[i]), to_u8(g[i]), to_u8(b[i])]);
    });
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_is_within_one_level_below() {
        let image = RgbImage::from_fn(256, 2, |x, y| ::image::Rgb([x as u8, (255 - x) as u8, (x / 2 + y) as u8]));
        let back = chw_to_rgb(&rgb_to_chw(&image), Size::of(&image)).unwrap();
        for (a, b) in image.as_raw().iter().zip(back.as_raw()) {
            assert!(a == b || *a == b + 1, "{a} became {b}");
        }
    }

    #[test]
    fn values_out_of_range_are_clamped() {
        let image = chw_to_rgb(&[-9.0, 9.0, f32::NAN], Size::new(1, 1)).unwrap();
        assert_eq!(image.as_raw(), &[0, 255, 0]);
        assert!(chw_to_rgb(&[0.0; 4], Size::new(1, 1)).is_err());
    }
}
