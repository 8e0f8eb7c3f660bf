//! A contact sheet of one pair.

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use media::resize::{self, Size};

use crate::preview::canvas::{Canvas, DARK, SMALL_TEXT, WHITE};

/// Moments on a sheet.
const MOMENTS: usize = 5;
/// Pictures are at most so high.
const MOST_HEIGHT: u32 = 288;
/// Between pictures.
const GAP: u32 = 4;
/// Of the file, 1 to 100.
const QUALITY: u8 = 90;

/// Which of `count` frames a sheet shows: the first, the last, and evenly between.
pub(super) fn moments(count: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..MOMENTS).map(|i| i * count.saturating_sub(1) / (MOMENTS - 1)).collect();
    chosen.dedup();
    chosen
}

/// The pictures of a sheet; each row has one for every moment.
pub(super) struct Sheet<'a> {
    pub reference: &'a RgbImage,
    pub moments: &'a [usize],
    pub fps: f64,
    pub driving: Vec<RgbImage>,
    pub output: Vec<&'a RgbImage>,
    pub truth: Vec<&'a RgbImage>,
}

impl Sheet<'_> {
    /// The reference at the left, then driving clip, output and truth, one below the other, moment by moment. As JPEG.
    pub fn jpeg(&self) -> image::ImageResult<Vec<u8>> {
        let picture = self.picture();
        let mut bytes = Vec::new();
        let encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
        encoder.write_image(picture.as_raw(), picture.width(), picture.height(), ExtendedColorType::Rgb8)?;
        Ok(bytes)
    }

    fn picture(&self) -> RgbImage {
        let height = self.reference.height().clamp(1, MOST_HEIGHT);
        let reference = fitted(self.reference, height);
        let rows: [(&str, Vec<RgbImage>); 3] = [
            ("driving", self.driving.iter().map(|p| fitted(p, height)).collect()),
            ("output", self.output.iter().map(|p| fitted(p, height)).collect()),
            ("truth", self.truth.iter().map(|p| fitted(p, height)).collect()),
        ];
        let widths = rows.iter().flat_map(|(_, row)| row).chain([&reference]).map(RgbImage::width);
        let column = widths.max().unwrap_or(1) + GAP;
        let line = height + SMALL_TEXT + GAP;
        let mut canvas = Canvas::new(column * (self.moments.len() as u32 + 1) + GAP, 3 * line + GAP, DARK);
        let place = |column_index: usize, row: usize| {
            ((GAP + column * column_index as u32) as i32, (GAP + line * row as u32) as i32)
        };
        let (x, y) = place(0, 0);
        canvas.place(&reference, (x, y));
        canvas.text("reference", (x, y + height as i32), false, WHITE, false);
        for (r, (name, row)) in rows.iter().enumerate() {
            for (i, picture) in row.iter().enumerate() {
                let (x, y) = place(i + 1, r);
                canvas.place(picture, (x, y));
                let time = self.moments.get(i).map_or(0.0, |m| *m as f64 / self.fps);
                canvas.text(&format!("{name} {time:.2} s"), (x, y + height as i32), false, WHITE, false);
            }
        }
        canvas.0
    }
}

/// The picture at a height, in its own aspect.
fn fitted(picture: &RgbImage, height: u32) -> RgbImage {
    if picture.height() == height {
        return picture.clone();
    }
    let width = (f64::from(picture.width()) * f64::from(height) / f64::from(picture.height().max(1))).round();
    resize::area_opencv(picture, Size::new((width as usize).clamp(1, 8 * height as usize), height as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spread_and_each_is_shown_once() {
        assert_eq!(moments(33), [0, 8, 16, 24, 32]);
        assert_eq!((moments(1), moments(3)), (vec![0], vec![0, 1, 2]));
    }

    #[test]
    fn a_sheet_holds_every_picture() {
        let grey = |v, w, h| RgbImage::from_pixel(w, h, image::Rgb([v; 3]));
        let (reference, output, truth) = (grey(250, 40, 60), grey(200, 40, 60), grey(100, 40, 60));
        let sheet = Sheet {
            reference: &reference,
            moments: &[0, 1],
            fps: 16.0,
            driving: vec![grey(150, 60, 80); 2],
            output: vec![&output; 2],
            truth: vec![&truth; 2],
        };
        let picture = sheet.picture();
        let count = |v| picture.pixels().filter(|p| p.0 == [v; 3]).count();
        assert_eq!([count(250), count(200), count(150), count(100)], [40 * 60, 2 * 40 * 60, 2 * 45 * 60, 2 * 40 * 60]);
        assert_eq!(sheet.jpeg().unwrap()[..2], [0xff, 0xd8]);
    }
}
