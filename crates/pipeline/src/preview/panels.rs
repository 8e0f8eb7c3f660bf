//! One frame of the overlay video: what was found in the driving frame, and what becomes of it.

use image::{RgbImage, imageops};
use media::resize::{self, Size};
use pose::{AlignedPose, Palette, Shown, draw_poses};

use super::canvas::{Canvas, Colour, DARK, GREEN, GREY, LARGE_TEXT, RED, SMALL_TEXT, WHITE, YELLOW, dimmed, overlay};

/// Height of the panels in pixels, unless they would be wider than [`MAX_WIDTH`] together.
const PANEL_HEIGHT: u32 = 480;
/// Width of all panels together.
const MAX_WIDTH: u32 = 1920;
/// Longer and thinner pictures are squeezed.
const MAX_ASPECT: f64 = 5.0;
/// Pixels between panels.
const GAP: u32 = 4;
/// Height of the line above the panels.
const HEADER: u32 = LARGE_TEXT + 8;
/// Brightness of the reference under its skeleton.
const REFERENCE_PERCENT: u16 = 70;

/// The colour of where a pose comes from.
pub(crate) fn colour(shown: Shown) -> Colour {
    match shown {
        Shown::Seen => GREEN,
        Shown::Interpolated | Shown::Held => YELLOW,
        Shown::Nothing => RED,
    }
}

/// The word for it.
pub(crate) fn word(shown: Shown) -> &'static str {
    match shown {
        Shown::Seen => "found",
        Shown::Interpolated => "interpolated",
        Shown::Held => "held",
        Shown::Nothing => "nobody",
    }
}

/// One frame as the previews show it.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    /// The people who drive, in fractions of the driving frame.
    pub found: Vec<AlignedPose>,
    /// The same on the pose canvas.
    pub aligned: Vec<AlignedPose>,
    /// Left, top, width, height of everybody who was found, in fractions of the driving frame.
    pub boxes: Vec<[f64; 4]>,
    pub status: Shown,
}

/// The layout of the panels and what stays the same in all of them.
pub(crate) struct Panels {
    driving: Size,
    canvas: Size,
    /// The reference with its skeleton's ground dimmed, at the size of its panel.
    reference: Option<RgbImage>,
}

impl Panels {
    /// For driving frames and pose canvases of the given `[width, height]`.
    pub fn new(driving: [u32; 2], canvas: [u32; 2], reference: Option<&RgbImage>) -> Self {
        let aspect = |[w, h]: [u32; 2]| (f64::from(w) / f64::from(h.max(1))).clamp(1.0 / MAX_ASPECT, MAX_ASPECT);
        let widths = aspect(driving) + 2.0 * aspect(canvas);
        let room = f64::from(MAX_WIDTH - 2 * GAP);
        let height = f64::from(PANEL_HEIGHT).min(room / widths).max(64.0);
        let panel = |size| Size::new(even(height * aspect(size)), even(height));
        let canvas = panel(canvas);
        let reference = reference.map(|picture| dimmed(&resize::area_opencv(picture, canvas), REFERENCE_PERCENT));
        Self { driving: panel(driving), canvas, reference }
    }

    /// What a driving frame that is not at hand is shown as.
    pub fn black(&self) -> RgbImage {
        RgbImage::new(self.driving.width as u32, self.driving.height as u32)
    }

    /// Width and height of the frames, even numbers.
    pub fn size(&self) -> (u32, u32) {
        let width = self.driving.width + 2 * self.canvas.width;
        (width as u32 + 2 * GAP, self.driving.height as u32 + HEADER)
    }

    /// The driving frame with what was found in it.
    pub fn found(&self, frame: &RgbImage, shown: &Scene) -> RgbImage {
        let mut canvas = Canvas(shrunk(frame, self.driving));
        let (width, height) = canvas.0.dimensions();
        for b in &shown.boxes {
            let [x, y, w, h] =
                [b[0] * f64::from(width), b[1] * f64::from(height), b[2] * f64::from(width), b[3] * f64::from(height)];
            canvas.frame((x as i32, y as i32), (w as u32, h as u32), GREY, 1);
        }
        overlay(&mut canvas.0, &skeletons(&shown.found, width, height));
        canvas.0
    }

    /// The aligned skeleton over the reference, or over black.
    pub fn fitted(&self, shown: &Scene) -> RgbImage {
        let (width, height) = (self.canvas.width as u32, self.canvas.height as u32);
        let mut picture = self.reference.clone().unwrap_or_else(|| RgbImage::new(width, height));
        overlay(&mut picture, &skeletons(&shown.aligned, width, height));
        picture
    }

    /// All panels with a line of text: found, fitted, and the pose as the network sees it.
    pub fn frame(&self, frame: &RgbImage, index: usize, time_s: f64, shown: &Scene) -> RgbImage {
        let (width, height) = self.size();
        let mut canvas = Canvas::new(width, height, DARK);
        canvas.text(&format!("frame {index}  {time_s:.2} s"), (8, 4), true, WHITE, false);
        canvas.text(
            word(shown.status),
            (width as i32 - 8 - 10 * word(shown.status).len() as i32, 4),
            true,
            colour(shown.status),
            false,
        );
        let top = HEADER as i32;
        canvas.place(&self.found(frame, shown), (0, top));
        let second = self.driving.width as i32 + GAP as i32;
        canvas.place(&self.fitted(shown), (second, top));
        let third = second + self.canvas.width as i32 + GAP as i32;
        let (w, h) = (self.canvas.width as u32, self.canvas.height as u32);
        canvas.place(&draw_poses(&shown.aligned, pose::Size::new(w, h), Palette::SteadyDancer), (third, top));
        let bottom = height as i32 - SMALL_TEXT as i32 - 4;
        let fitted = if self.reference.is_some() { "fitted to the reference" } else { "centred (no reference)" };
        for (x, text) in [(0, "found in the video"), (second, fitted), (third, "what the network sees")] {
            canvas.text(text, (x + 6, bottom), false, WHITE, true);
        }
        canvas.0
    }
}

fn even(length: f64) -> usize {
    ((length / 2.0).round() as usize * 2).max(2)
}

/// Skeletons in the colours that people know.
fn skeletons(poses: &[AlignedPose], width: u32, height: u32) -> RgbImage {
    draw_poses(poses, pose::Size::new(width, height), Palette::OpenPose)
}

fn shrunk(frame: &RgbImage, to: Size) -> RgbImage {
    if frame.width() as usize >= to.width && frame.height() as usize >= to.height {
        resize::area_opencv(frame, to)
    } else {
        imageops::resize(frame, to.width as u32, to.height as u32, imageops::FilterType::Triangle)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use image::Rgb;

    /// A person whose joints lie on a diagonal from (0.2, 0.2) to (0.8, 0.8).
    pub fn person() -> AlignedPose {
        let at = |i: usize, n: usize| [0.2 + 0.6 * i as f64 / n as f64; 2];
        AlignedPose {
            body: std::array::from_fn(|i| at(i, 17)),
            visible: [true; 18],
            hands: std::array::from_fn(|_| std::array::from_fn(|i| at(i, 20))),
        }
    }

    pub fn shown(status: Shown) -> Scene {
        Scene { found: vec![person()], aligned: vec![person()], boxes: vec![[0.1, 0.1, 0.8, 0.8]], status }
    }

    #[test]
    fn panels_are_even_and_bounded_whatever_the_aspects() {
        for (driving, canvas) in
            [([720, 1280], [576, 1008]), ([3840, 2160], [1024, 576]), ([10, 4000], [5000, 16]), ([1, 1], [1, 1])]
        {
            let panels = Panels::new(driving, canvas, None);
            let (width, height) = panels.size();
            assert!(width % 2 == 0 && height % 2 == 0, "{width}x{height}");
            assert!(width <= MAX_WIDTH + 8 && height <= PANEL_HEIGHT + HEADER, "{width}x{height}");
            let picture = panels.frame(&RgbImage::new(driving[0], driving[1]), 3, 0.5, &shown(Shown::Held));
            assert_eq!(picture.dimensions(), (width, height));
        }
    }

    #[test]
    fn each_panel_shows_its_part() {
        let reference = RgbImage::from_pixel(60, 100, Rgb([200, 100, 50]));
        let panels = Panels::new([60, 100], [60, 100], Some(&reference));
        let frame = RgbImage::from_pixel(60, 100, Rgb([10, 20, 30]));
        let one = shown(Shown::Seen);
        let (found, fitted) = (panels.found(&frame, &one), panels.fitted(&one));
        assert_eq!(found[(1, 1)].0, [10, 20, 30]);
        assert_eq!(fitted[(1, 1)].0, [140, 70, 35]);
        for picture in [&found, &fitted] {
            let middle = picture[(picture.width() / 2, picture.height() / 2)].0;
            assert!(middle != [10, 20, 30] && middle != [140, 70, 35], "{middle:?}");
        }
        let nobody = Scene { found: vec![], aligned: vec![], boxes: vec![], status: Shown::Nothing };
        assert!(panels.found(&frame, &nobody).pixels().all(|p| p.0 == [10, 20, 30]));
    }
}
