//! Before and after the person detector (YOLOX): letterbox in, boxes out.
//!
//! Sources: mmdet's YOLOX head and mmpose's greedy suppression (profile `official`), the ONNX demo of YOLOX (`onnx`).
//! Scores, boxes and overlaps are computed in f64 from the network's f32, which upstream does in f32.

use image::RgbImage;
use media::resize::{self, linear_opencv};

use crate::error::Network;
use crate::profile::{BoxScale, ChannelOrder, PersonRule, PoseProfile, SideRounding, Suppression};
use crate::sizes::Size;
use crate::{PoseError, Result};

/// Side of the input of every released detector in pixels.
pub const DETECTOR_SIDE: usize = 640;

/// Candidates that a detector of inputs of `side` pixels gives: one a cell of the grids of strides 8, 16 and 32; 8400 for
/// [`DETECTOR_SIDE`].
pub const fn candidates(side: usize) -> usize {
    let [a, b, c] = [side / STRIDES[0], side / STRIDES[1], side / STRIDES[2]];
    a * a + b * b + c * c
}

/// Pixels a cell, in the order of the network's output.
const STRIDES: [usize; 3] = [8, 16, 32];

/// Grey around the picture in the letterbox.
const PAD: f32 = 114.0;

/// Where a person is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PersonBox {
    /// Left edge in pixels. Edges may lie outside of the picture.
    pub x1: f64,
    /// Upper edge.
    pub y1: f64,
    /// Right edge.
    pub x2: f64,
    /// Lower edge.
    pub y2: f64,
    /// Objectness · person probability, 0 to 1. 0 for a box that nobody detected ([`PersonBox::whole`]).
    pub score: f64,
}

impl PersonBox {
    /// The whole of a picture, with score 0.
    pub fn whole(picture: Size) -> Self {
        Self { x1: 0.0, y1: 0.0, x2: f64::from(picture.width), y2: f64::from(picture.height), score: 0.0 }
    }

    /// The same box in a picture resized by the given factors.
    pub fn scaled(self, x: f64, y: f64) -> Self {
        Self { x1: self.x1 * x, y1: self.y1 * y, x2: self.x2 * x, y2: self.y2 * y, score: self.score }
    }

    /// Intersection over union with `other`; `one` is added to lengths (1 if corners are inclusive). NaN for two empty
    /// boxes.
    fn overlap(&self, other: &Self, one: f64) -> f64 {
        let area = |b: &Self| (b.x2 - b.x1 + one) * (b.y2 - b.y1 + one);
        let width = (self.x2.min(other.x2) - self.x1.max(other.x1) + one).max(0.0);
        let height = (self.y2.min(other.y2) - self.y1.max(other.y1) + one).max(0.0);
        let both = width * height;
        both / (area(self) + area(other) - both)
    }

    /// The first edge that f32 does not hold, as f32; within it no product of two lengths overflows f64.
    fn beyond_f32(&self) -> Option<f32> {
        [self.x1, self.y1, self.x2, self.y2].map(|v| v as f32).into_iter().find(|v| !v.is_finite())
    }

    /// Whether the box has an area, some of which lies in the picture.
    fn touches(&self, picture: Size) -> bool {
        let (width, height) = (f64::from(picture.width), f64::from(picture.height));
        self.x1 < self.x2.min(width) && self.y1 < self.y2.min(height) && self.x2 > 0.0 && self.y2 > 0.0
    }
}

impl Suppression {
    /// Sorts boxes by falling score (equal ones stay in order) and keeps those that overlap no better box too much.
    pub fn apply(&self, mut boxes: Vec<PersonBox>) -> Vec<PersonBox> {
        boxes.sort_by(|a, b| b.score.total_cmp(&a.score));
        let one = if self.inclusive_corners { 1.0 } else { 0.0 };
        let mut kept: Vec<PersonBox> = Vec::new();
        for candidate in boxes {
            if kept.iter().all(|better| better.overlap(&candidate, one) <= self.max_overlap) {
                kept.push(candidate);
            }
        }
        kept
    }
}

/// A picture's place in the detector's square input: scaled to fit, at the upper left, grey (114) elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Letterbox {
    picture: Size,
    side: usize,
    inner: Size,
    scale: [f64; 2],
}

impl Letterbox {
    /// The place of a picture of size `picture`, each side at least 1 pixel, in a square of `side` pixels, a multiple of 32.
    pub fn new(picture: Size, side: usize, profile: &PoseProfile) -> Self {
        let (width, height) = (f64::from(picture.width), f64::from(picture.height));
        let pixels = side;
        let side = side as f64;
        let fit = (side / width).min(side / height);
        let round = |length: f64| match profile.letterbox_rounding {
            SideRounding::Nearest => (length * fit + 0.5) as u32,
            SideRounding::Down => (length * fit) as u32,
        };
        // A side can only vanish in a picture that is hundreds of times longer than wide.
        let inner = Size::new(round(width), round(height));
        let inner = Size::new(inner.width.clamp(1, side as u32), inner.height.clamp(1, side as u32));
        let scale = match profile.box_scale {
            BoxScale::PerAxis => [f64::from(inner.width) / width, f64::from(inner.height) / height],
            BoxScale::Common => [fit; 2],
        };
        Self { picture, side: pixels, inner, scale }
    }

    /// Samples of the square.
    pub fn samples(&self) -> usize {
        self.side * self.side * 3
    }

    /// Size of the picture within the square.
    pub fn inner(&self) -> Size {
        self.inner
    }

    /// Writes [side, side, 3] (row, column, channel), values 0 to 255, into `out`, [`samples`](Self::samples) long. The
    /// picture is resized with OpenCV's fixed-point bilinear, pixel for pixel.
    pub fn write(&self, picture: &RgbImage, channels: ChannelOrder, out: &mut [f32]) {
        let (width, height) = (self.inner.width as usize, self.inner.height as usize);
        let resized = linear_opencv(picture, resize::Size::new(width, height));
        out.fill(PAD);
        let lines = out.chunks_exact_mut(self.side * 3).zip(resized.as_raw().chunks_exact(width * 3));
        for (line, source) in lines {
            for (pixel, rgb) in line.chunks_exact_mut(3).zip(source.chunks_exact(3)) {
                for (sample, channel) in pixel.iter_mut().zip(channels.samples()) {
                    *sample = f32::from(rgb[channel]);
                }
            }
        }
    }

    /// The people in a raw output of the detector, in pixels of the picture, best first.
    ///
    /// `raw` is [[`candidates`], 5 + classes]: dx, dy, dw, dh in cells, objectness logit, class logits with person first.
    /// Boxes without an area or wholly outside of the picture are dropped.
    ///
    /// # Errors
    /// [`PoseError::NetworkShape`] for another length, [`PoseError::NetworkNotFinite`] for NaN or an infinity anywhere in
    /// `raw`, or for a person whose box is beyond f32.
    pub fn people(&self, raw: &[f32], profile: &PoseProfile) -> Result<Vec<PersonBox>> {
        let network = Network::Detector;
        let rows = candidates(self.side);
        let columns = raw.len() / rows;
        if columns < 6 || raw.len() != columns * rows {
            let (found, expected) = (vec![raw.len()], format!("[1, {rows}, 5 + classes]"));
            return Err(PoseError::NetworkShape { network, found, expected });
        }
        if let Some(&value) = raw.iter().find(|v| !v.is_finite()) {
            return Err(PoseError::NetworkNotFinite { network, value: value.into() });
        }
        let mut people = Vec::new();
        for (row, (x, y, stride)) in raw.chunks_exact(columns).zip(cells(self.side)) {
            let Some(score) = person_score(row, profile) else { continue };
            let found = self.to_picture(row, [x, y], stride, score);
            if let Some(value) = found.beyond_f32() {
                return Err(PoseError::NetworkNotFinite { network, value: value.into() });
            }
            if found.touches(self.picture) {
                people.push(found);
            }
        }
        Ok(profile.suppressions.iter().fold(people, |people, pass| pass.apply(people)))
    }

    fn to_picture(self, row: &[f32], cell: [usize; 2], stride: usize, score: f64) -> PersonBox {
        let stride = stride as f64;
        let axis = |i: usize| {
            let centre = (f64::from(row[i]) + cell[i] as f64) * stride;
            let half = f64::from(row[i + 2]).exp() * stride / 2.0;
            [(centre - half) / self.scale[i], (centre + half) / self.scale[i]]
        };
        let ([x1, x2], [y1, y2]) = (axis(0), axis(1));
        PersonBox { x1, y1, x2, y2, score }
    }
}

/// Column, row and stride of every candidate, in the order of the network's output.
fn cells(side: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    STRIDES.into_iter().flat_map(move |stride| {
        let side = side / stride;
        (0..side * side).map(move |i| (i % side, i / side, stride))
    })
}

/// Objectness · person probability of a candidate that is a person by the profile's rule.
fn person_score(row: &[f32], profile: &PoseProfile) -> Option<f64> {
    let (&person, others) = row[5..].split_first()?;
    if profile.person_rule == PersonRule::BestClass && others.iter().any(|&other| other > person) {
        return None;
    }
    let score = sigmoid(row[4]) * sigmoid(person);
    (score > profile.person_score).then_some(score)
}

fn sigmoid(logit: f32) -> f64 {
    1.0 / (1.0 + (-f64::from(logit)).exp())
}
