//! The resamplers of the reference pipelines, each under the name of the library it equals.
//!
//! They are not interchangeable: an antialiased bicubic and an OpenCV one differ by up to 16 levels on the same picture.
//!
//! | function | equals | used for |
//! |---|---|---|
//! | [`bicubic_torch`] | `torch.nn.functional.interpolate(mode="bicubic")` | everything that goes into the VAE and CLIP |
//! | [`bicubic_pil`] | `PIL.Image.resize(BICUBIC)` | pose frames to the size of the reference picture |
//! | [`linear_opencv`], [`cubic_opencv`], [`area_opencv`] | `cv2.resize` | the pose detector's input |

mod opencv;
mod pil;
mod pixels;
mod torch;

pub use opencv::{area_opencv, cubic_opencv, linear_opencv};
pub use pil::bicubic_pil;
pub use pixels::{chw_to_rgb, rgb_to_chw};
pub use torch::{CLIP_MEAN, CLIP_STD, bicubic_torch, clip_pixels};

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
}

impl Size {
    /// Width first, as in `832x480`.
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }

    /// The size of a picture.
    pub fn of(image: &::image::RgbImage) -> Self {
        Self::new(image.width() as usize, image.height() as usize)
    }

    /// Number of pixels.
    pub fn area(self) -> usize {
        self.width * self.height
    }
}

/// Cubic convolution weights of the four samples around a point that lies `t` (0 ≤ t < 1) after the second of them.
/// `a` is Keys' coefficient: −0.75 in torch and OpenCV, −0.5 in Pillow.
fn cubic_weights(t: f64, a: f64) -> [f64; 4] {
    [cubic(t + 1.0, a), cubic(t, a), cubic(1.0 - t, a), cubic(2.0 - t, a)]
}

/// Keys' cubic convolution kernel (1981, eq. 4) at distance `x`.
fn cubic(x: f64, a: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

/// Four source positions, clamped to the edge, and their weights, for one output position.
#[derive(Debug, Clone, Copy)]
struct CubicTap {
    index: [usize; 4],
    weight: [f32; 4],
}

/// Half-pixel centres, edge clamped, no antialiasing, for `source` → `target` samples.
fn cubic_taps(source: usize, target: usize, a: f64) -> Vec<CubicTap> {
    let scale = source as f64 / target as f64;
    (0..target)
        .map(|out| {
            let centre = (out as f64 + 0.5) * scale - 0.5;
            let base = centre.floor();
            let index = [-1.0, 0.0, 1.0, 2.0].map(|k| (base + k).clamp(0.0, (source - 1) as f64) as usize);
            CubicTap { index, weight: cubic_weights(centre - base, a).map(|w| w as f32) }
        })
        .collect()
}
