//! Skeletons as the reference draws them.
//!
//! Source: SteadyDancer's `dwpose` drawing (ControlNet-aux), which calls OpenCV; [`raster`] repeats OpenCV's integer algorithms, so
//! that a drawn frame equals the reference's byte for byte. No anti-aliasing, no blending.

pub mod raster;

use image::{Rgb, RgbImage};

use self::raster::{MAX_COORDINATE, ellipse_polygon, fill_circle, fill_convex_polygon, line_of_width_2};
use crate::AlignedPose;
use crate::openpose::HAND_POINTS;
use crate::sizes::Size;

/// Half width of a limb in pixels, whatever the canvas size.
const STICK_HALF_WIDTH: i64 = 4;
/// Radius in pixels of the dots at joints.
const DOT_RADIUS: i64 = 4;
/// Limbs are dimmed by this factor (truncated); joints and hands are not.
const LIMB_BRIGHTNESS: f64 = 0.6;

/// The limbs, as pairs of OpenPose joints, in the order of drawing.
pub const LIMBS: [[usize; 2]; 17] = [
    [1, 2],
    [1, 5],
    [2, 3],
    [3, 4],
    [5, 6],
    [6, 7],
    [1, 8],
    [8, 9],
    [9, 10],
    [1, 11],
    [11, 12],
    [12, 13],
    [1, 0],
    [0, 14],
    [14, 16],
    [0, 15],
    [15, 17],
];

/// Colours of joints 0..18 and, as far as they go, of the limbs; red, green, blue as OpenPose shows them.
const COLOURS: [[u8; 3]; 18] = [
    [255, 0, 0],
    [255, 85, 0],
    [255, 170, 0],
    [255, 255, 0],
    [170, 255, 0],
    [85, 255, 0],
    [0, 255, 0],
    [0, 255, 85],
    [0, 255, 170],
    [0, 255, 255],
    [0, 170, 255],
    [0, 85, 255],
    [0, 0, 255],
    [85, 0, 255],
    [170, 0, 255],
    [255, 0, 255],
    [255, 0, 170],
    [255, 0, 85],
];

/// Colours of the hand's 20 edges: hue e/20, full saturation and value, rounded as OpenCV rounds a colour.
const HAND_COLOURS: [[u8; 3]; 20] = [
    [255, 0, 0],
    [255, 77, 0],
    [255, 153, 0],
    [255, 229, 0],
    [204, 255, 0],
    [128, 255, 0],
    [51, 255, 0],
    [0, 255, 25],
    [0, 255, 102],
    [0, 255, 179],
    [0, 255, 255],
    [0, 178, 255],
    [0, 102, 255],
    [0, 25, 255],
    [51, 0, 255],
    [128, 0, 255],
    [204, 0, 255],
    [255, 0, 230],
    [255, 0, 153],
    [255, 0, 77],
];

/// Colour of hand joints.
const HAND_DOT: [u8; 3] = [0, 0, 255];

/// Channel order of the drawn colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Palette {
    /// Red and blue swapped: what SteadyDancer was trained on and must see.
    #[default]
    SteadyDancer,
    /// As OpenPose, DWPose and ControlNet show skeletons; for other models and for people.
    OpenPose,
}

impl Palette {
    fn colour(self, [r, g, b]: [u8; 3]) -> Rgb<u8> {
        match self {
            Palette::SteadyDancer => Rgb([b, g, r]),
            Palette::OpenPose => Rgb([r, g, b]),
        }
    }

    fn dimmed(self, colour: [u8; 3]) -> Rgb<u8> {
        self.colour(colour.map(|c| (f64::from(c) * LIMB_BRIGHTNESS) as u8))
    }
}

/// Draws people on a black canvas of `size` pixels: all limbs, then all joints, then all hands; within each, people in
/// order, the last on top. Face and feet are never drawn.
///
/// A joint whose pixel coordinates are not finite or beyond ±[`MAX_COORDINATE`] is left out with its limbs.
pub fn draw_poses(poses: &[AlignedPose], size: Size, palette: Palette) -> RgbImage {
    let mut canvas = RgbImage::new(size.width, size.height);
    let scale = [f64::from(size.width), f64::from(size.height)];
    for (limb, colour) in LIMBS.iter().zip(COLOURS) {
        for pose in poses {
            if limb.iter().all(|&joint| pose.visible[joint]) {
                let ends = limb.map(|joint| scaled(pose.body[joint], scale));
                draw_limb(&mut canvas, ends, palette.dimmed(colour));
            }
        }
    }
    for (joint, colour) in COLOURS.into_iter().enumerate() {
        for pose in poses.iter().filter(|pose| pose.visible[joint]) {
            if let Some(at) = scaled(pose.body[joint], scale).map(truncated) {
                fill_circle(&mut canvas, at, DOT_RADIUS, palette.colour(colour));
            }
        }
    }
    for pose in poses {
        for hand in &pose.hands {
            draw_hand(&mut canvas, &hand.map(|p| scaled(p, scale)), palette);
        }
    }
    canvas
}

/// Fractions of the canvas → pixels; `None` if that is no place to draw at.
fn scaled(point: [f64; 2], scale: [f64; 2]) -> Option<[f64; 2]> {
    let pixels = [point[0] * scale[0], point[1] * scale[1]];
    let drawable = |v: &f64| v.abs() <= MAX_COORDINATE as f64; // false for NaN
    pixels.iter().all(drawable).then_some(pixels)
}

/// Towards zero, as Python's `int`.
fn truncated(point: [f64; 2]) -> [i64; 2] {
    point.map(|v| v as i64)
}

/// A limb is a thin filled ellipse whose long axis joins the two joints; its angle is cut to whole degrees.
fn draw_limb(canvas: &mut RgbImage, ends: [Option<[f64; 2]>; 2], colour: Rgb<u8>) {
    let [Some([x0, y0]), Some([x1, y1])] = ends else {
        return;
    };
    let centre = truncated([(x0 + x1) / 2.0, (y0 + y1) / 2.0]);
    let length = ((y0 - y1).powi(2) + (x0 - x1).powi(2)).sqrt();
    let angle = (y0 - y1).atan2(x0 - x1).to_degrees() as i64;
    let axes = [(length / 2.0) as i64, STICK_HALF_WIDTH];
    fill_convex_polygon(canvas, &ellipse_polygon(centre, axes, angle), colour);
}

/// 20 edges, then 21 dots. A point with a pixel coordinate below 1 counts as hidden.
fn draw_hand(canvas: &mut RgbImage, hand: &[Option<[f64; 2]>; HAND_POINTS], palette: Palette) {
    let points = hand.map(|point| point.map(truncated).filter(|p| p.iter().all(|&coordinate| coordinate >= 1)));
    for (edge, colour) in HAND_COLOURS.into_iter().enumerate() {
        // Five fingers of four edges, each from the wrist (0).
        let from = if edge % 4 == 0 { 0 } else { edge };
        if let (Some(from), Some(to)) = (points[from], points[edge + 1]) {
            line_of_width_2(canvas, from, to, palette.colour(colour));
        }
    }
    for at in points.into_iter().flatten() {
        fill_circle(canvas, at, DOT_RADIUS, palette.colour(HAND_DOT));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> AlignedPose {
        AlignedPose { body: [[0.5; 2]; 18], visible: [false; 18], hands: [[[-1.0; 2]; 21]; 2] }
    }

    #[test]
    fn hand_colours_are_the_hues() {
        for (e, colour) in HAND_COLOURS.iter().enumerate() {
            let hue = e as f64 / 20.0 * 6.0;
            let fraction = hue - hue.floor();
            let (down, up) = (1.0 - fraction, 1.0 - (1.0 - fraction));
            let rgb = match hue as u32 {
                0 => [1.0, up, 0.0],
                1 => [down, 1.0, 0.0],
                2 => [0.0, 1.0, up],
                3 => [0.0, down, 1.0],
                4 => [up, 0.0, 1.0],
                _ => [1.0, 0.0, down],
            };
            let rounded = rgb.map(|v: f64| (v * 255.0).round_ties_even() as u8);
            assert_eq!(*colour, rounded, "edge {e}");
        }
    }

    #[test]
    fn colours_as_on_the_shipped_example_frames() {
        let mut pose = nobody();
        pose.visible[1] = true;
        pose.visible[2] = true;
        pose.body[1] = [0.5, 0.2];
        pose.body[2] = [0.1, 0.2];
        pose.hands[0][3] = [0.5, 0.8];
        let canvas = draw_poses(&[pose.clone()], Size::new(100, 100), Palette::SteadyDancer);
        assert_eq!(canvas[(30, 20)], Rgb([0, 0, 153]), "neck to right shoulder: blue");
        assert_eq!(canvas[(50, 20)], Rgb([0, 85, 255]), "neck joint");
        assert_eq!(canvas[(50, 80)], Rgb([255, 0, 0]), "hand joint: red");
        let openpose = draw_poses(&[pose], Size::new(100, 100), Palette::OpenPose);
        for (a, b) in canvas.pixels().zip(openpose.pixels()) {
            assert_eq!([a[2], a[1], a[0]], b.0);
        }
    }

    #[test]
    fn nobody_is_black() {
        let canvas = draw_poses(&[nobody()], Size::new(40, 30), Palette::SteadyDancer);
        assert_eq!(canvas.dimensions(), (40, 30));
        assert!(canvas.as_raw().iter().all(|&b| b == 0));
        assert_eq!(canvas, draw_poses(&[], Size::new(40, 30), Palette::OpenPose));
    }
}
