//! Many frames in one picture.

use ::image::{RgbImage, imageops};

/// Frames side by side, left to right and top to bottom, in `columns` columns (at least one). All cells have the size
/// of the first frame; larger frames are cut. Empty cells are black. No frames give a picture of 0×0.
pub fn contact_sheet(frames: &[RgbImage], columns: usize) -> RgbImage {
    let Some(first) = frames.first() else {
        return RgbImage::new(0, 0);
    };
    let columns = columns.clamp(1, frames.len());
    let (width, height) = first.dimensions();
    let rows = frames.len().div_ceil(columns);
    let mut sheet = RgbImage::new(width * columns as u32, height * rows as u32);
    for (i, frame) in frames.iter().enumerate() {
        let (x, y) = ((i % columns) as u32 * width, (i / columns) as u32 * height);
        let cell = imageops::crop_imm(frame, 0, 0, width.min(frame.width()), height.min(frame.height()));
        imageops::replace(&mut sheet, &cell.to_image(), i64::from(x), i64::from(y));
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_in_reading_order() {
        let frames: Vec<_> = (1..=5).map(|v| RgbImage::from_pixel(4, 3, ::image::Rgb([v; 3]))).collect();
        let sheet = contact_sheet(&frames, 2);
        assert_eq!(sheet.dimensions(), (8, 9));
        assert_eq!([sheet[(0, 0)][0], sheet[(7, 2)][0], sheet[(0, 3)][0], sheet[(4, 3)][0]], [1, 2, 3, 4]);
        assert_eq!([sheet[(3, 8)][0], sheet[(4, 8)][0]], [5, 0]);
        assert_eq!(contact_sheet(&[], 3).dimensions(), (0, 0));
    }
}
