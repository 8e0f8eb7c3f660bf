//! The display matrix of a video stream: phones store frames lying on their side.

use ::image::{RgbImage, imageops};
use ffmpeg_next::Stream;
use ffmpeg_next::codec::packet::side_data;

/// How stored frames are turned to stand upright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orientation {
    /// Clockwise quarter turns, after the flip.
    quarter_turns: u8,
    /// Mirrored left to right first.
    flipped: bool,
}

impl Orientation {
    pub const UPRIGHT: Self = Self { quarter_turns: 0, flipped: false };

    /// From the stream's side data; anything but a multiple of 90° counts as upright.
    pub fn of(stream: &Stream) -> Self {
        let matrix = stream.side_data().find(|data| data.kind() == side_data::Type::DisplayMatrix);
        matrix.map_or(Self::UPRIGHT, |data| Self::from_matrix(data.data()))
    }

    /// Nine native-endian 16.16 numbers, rows first: x' = m0·x + m3·y, y' = m1·x + m4·y.
    fn from_matrix(bytes: &[u8]) -> Self {
        let element = |i: usize| -> i64 {
            let bytes = bytes.get(i * 4..i * 4 + 4).and_then(|b| b.try_into().ok());
            let fixed = bytes.map_or(0, i32::from_ne_bytes);
            (f64::from(fixed) / 65536.0).round() as i64
        };
        let (quarter_turns, flipped) = match (element(0), element(1), element(3), element(4)) {
            (0, 1, -1, 0) => (1, false),
            (-1, 0, 0, -1) => (2, false),
            (0, -1, 1, 0) => (3, false),
            (-1, 0, 0, 1) => (0, true),
            (0, -1, -1, 0) => (1, true),
            (1, 0, 0, -1) => (2, true),
            (0, 1, 1, 0) => (3, true),
            _ => (0, false),
        };
        Self { quarter_turns, flipped }
    }

    pub fn degrees(self) -> u32 {
        u32::from(self.quarter_turns) * 90
    }

    pub fn swaps_sides(self) -> bool {
        self.quarter_turns % 2 == 1
    }

    pub fn apply(self, mut frame: RgbImage) -> RgbImage {
        if self.flipped {
            imageops::flip_horizontal_in_place(&mut frame);
        }
        match self.quarter_turns {
            1 => imageops::rotate90(&frame),
            2 => {
                imageops::rotate180_in_place(&mut frame);
                frame
            }
            3 => imageops::rotate270(&frame),
            _ => frame,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 2×1 picture's left pixel must land where the matrix sends it.
    #[test]
    fn all_eight_matrices_turn_as_they_say() {
        for (a, b, c, d) in [
            (1, 0, 0, 1),
            (0, 1, -1, 0),
            (-1, 0, 0, -1),
            (0, -1, 1, 0),
            (-1, 0, 0, 1),
            (1, 0, 0, -1),
            (0, 1, 1, 0),
            (0, -1, -1, 0),
        ] {
            let fixed = [a, b, 0, c, d, 0, 0, 0, 1].map(|v: i32| (v * 65536).to_ne_bytes());
            let orientation = Orientation::from_matrix(fixed.as_flattened());
            let frame = RgbImage::from_fn(3, 2, |x, y| ::image::Rgb([x as u8, y as u8, 0]));
            let turned = orientation.apply(frame);
            assert_eq!(turned.width() == 2, orientation.swaps_sides());
            let (w, h) = (turned.width() as i32, turned.height() as i32);
            for (x, y) in [(0, 0), (2, 0), (2, 1)] {
                // About the centre, in half pixels, so that no translation is needed.
                let (cx, cy) = (2 * x - 2, 2 * y - 1);
                let to = ((a * cx + c * cy + w - 1) / 2, (b * cx + d * cy + h - 1) / 2);
                let pixel = turned.get_pixel(to.0 as u32, to.1 as u32);
                assert_eq!((pixel[0] as i32, pixel[1] as i32), (x, y), "{a} {b} {c} {d}");
            }
        }
    }
}
