//! A person's part of the picture as the keypoint network wants it, and the way back.
//!
//! Source: mmpose's top-down affine transform without rotation, which is a scale and a shift.

use image::RgbImage;

use crate::detector::PersonBox;
use crate::profile::ChannelOrder;
use crate::sizes::Size;

/// The input of the released keypoint network in pixels.
pub const CROP: Size = Size::new(288, 384);

/// Room around the box: the crop is this many times as large.
const PADDING: f64 = 1.25;

/// Mean and standard deviation by place in the pixel. They are ImageNet's for R, G, B, whatever the channels hold.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const DEVIATION: [f32; 3] = [58.395, 57.12, 57.375];

/// The rectangle of a picture that fills a crop: centred on the box, 1.25 times as large, grown to the crop's aspect (3:4).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropWindow {
    /// x and y in pixels of the picture.
    pub centre: [f64; 2],
    /// Width and height in pixels of the picture.
    pub size: [f64; 2],
    /// Pixels of the crop.
    pub crop: Size,
}

impl CropWindow {
    /// The window of a box, which must have an area, for crops of the size `crop`.
    pub fn around(person: &PersonBox, crop: Size) -> Self {
        let aspect = crop.aspect();
        let (width, height) = ((person.x2 - person.x1) * PADDING, (person.y2 - person.y1) * PADDING);
        let size = if width > height * aspect { [width, width / aspect] } else { [height * aspect, height] };
        Self { centre: [(person.x1 + person.x2) / 2.0, (person.y1 + person.y2) / 2.0], size, crop }
    }

    /// A point of the crop (pixels, pixel 0 at 0) in pixels of the picture.
    pub fn to_picture(&self, point: [f64; 2]) -> [f64; 2] {
        let sides = [self.crop.width, self.crop.height].map(f64::from);
        std::array::from_fn(|i| point[i] / sides[i] * self.size[i] + self.centre[i] - self.size[i] / 2.0)
    }

    /// A point of the picture in pixels of the crop: the inverse of [`CropWindow::to_picture`].
    pub fn to_crop(&self, point: [f64; 2]) -> [f64; 2] {
        let sides = [self.crop.width, self.crop.height].map(f64::from);
        std::array::from_fn(|i| (point[i] - self.centre[i] + self.size[i] / 2.0) / self.size[i] * sides[i])
    }

    /// Samples of the crop.
    pub fn samples(&self) -> usize {
        self.crop.width as usize * self.crop.height as usize * 3
    }

    /// Writes the normalised crop, [height, width, 3] (row, column, channel), into `out`, [`samples`](Self::samples) long.
    ///
    /// Samples are bilinear without a half-pixel shift, 0 beyond the picture's edge, and rounded to whole levels before
    /// they are normalised. Positions and weights are exact, as OpenCV 5's `warpAffine` has them (equal to it but for a
    /// rounding tie); OpenCV 4 rounded positions to 1/32 pixel, which can move a sample by two levels.
    pub fn write(&self, picture: &RgbImage, channels: ChannelOrder, out: &mut [f32]) {
        let samples = picture.as_raw();
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let column = |x: u32| Tap::at(self.to_picture([f64::from(x), 0.0])[0], width);
        let columns: Vec<Tap> = (0..self.crop.width).map(column).collect();
        let level =
            |row: usize, column: usize, channel: usize| f64::from(samples[(row * width + column) * 3 + channel]);
        for (y, line) in out.chunks_exact_mut(columns.len() * 3).enumerate() {
            let row = Tap::at(self.to_picture([0.0, y as f64])[1], height);
            for (column, pixel) in columns.iter().zip(line.chunks_exact_mut(3)) {
                for (place, (sample, channel)) in pixel.iter_mut().zip(channels.samples()).enumerate() {
                    let along = |row| column.mix(|column| level(row, column, channel));
                    let value = row.mix(along).round_ties_even() as u8;
                    *sample = (f32::from(value) - MEAN[place]) / DEVIATION[place];
                }
            }
        }
    }
}

/// Writes the mirror image (left ↔ right) of a crop, both [height, width, 3]; `width` is at least 1.
pub fn mirror(crop: &[f32], width: usize, out: &mut [f32]) {
    let lines = crop.chunks_exact(width * 3).zip(out.chunks_exact_mut(width * 3));
    for (line, mirrored) in lines {
        for (from, to) in line.chunks_exact(3).rev().zip(mirrored.chunks_exact_mut(3)) {
            to.copy_from_slice(from);
        }
    }
}

/// Two neighbouring samples of one axis and their weights; a neighbour beyond the edge weighs nothing.
#[derive(Clone, Copy)]
struct Tap {
    index: [usize; 2],
    weight: [f64; 2],
}

impl Tap {
    fn at(position: f64, length: usize) -> Self {
        // Two samples beyond either edge nothing changes any more, and every position fits an index.
        let position = position.clamp(-2.0, length as f64 + 1.0);
        let base = position.floor();
        let t = position - base;
        let neighbours = [(base as i64, 1.0 - t), (base as i64 + 1, t)];
        let inside = |i: i64| (0..length as i64).contains(&i);
        Self {
            index: neighbours.map(|(i, _)| if inside(i) { i as usize } else { 0 }),
            weight: neighbours.map(|(i, w)| if inside(i) { w } else { 0.0 }),
        }
    }

    fn mix(&self, sample: impl Fn(usize) -> f64) -> f64 {
        sample(self.index[0]) * self.weight[0] + sample(self.index[1]) * self.weight[1]
    }
}
