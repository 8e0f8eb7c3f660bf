//! Size rules of the pose pipeline. Upstream works in f64 with Python's floor division and round-half-even.

use std::fmt;

use crate::{PoseError, Result};

/// Area of the pose canvas in pixels, whatever size the video has (1024 × 576).
pub const CANVAS_AREA: f64 = 589_824.0;

/// Canvas areas that are accepted.
pub const CANVAS_AREAS: std::ops::RangeInclusive<f64> = 4096.0..=16_777_216.0;

/// Short side of a picture when the detector sees it, in pixels.
pub const DETECT_SIDE: f64 = 1024.0;

/// Longest side of a picture or frame that is accepted, in pixels.
pub const MAX_SIDE: u32 = 65_535;

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
}

impl Size {
    /// A size of `width` × `height` pixels.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Width / height.
    pub fn aspect(self) -> f64 {
        f64::from(self.width) / f64::from(self.height)
    }

    /// Both sides doubled: SteadyDancer draws poses at twice the canvas size.
    pub const fn doubled(self) -> Self {
        Self::new(self.width * 2, self.height * 2)
    }

    /// # Errors
    /// [`PoseError::ImageSize`] if a side is 0 or above [`MAX_SIDE`].
    pub(crate) fn check(self, what: &'static str) -> Result<()> {
        let allowed = 1..=MAX_SIDE;
        if allowed.contains(&self.width) && allowed.contains(&self.height) {
            return Ok(());
        }
        Err(PoseError::ImageSize { what, width: self.width, height: self.height, max: MAX_SIDE })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The size to which upstream resizes the reference picture before anything else: the picture's aspect ratio, an area
/// near [`CANVAS_AREA`], sides that are multiples of 16. Poses are drawn at [`Size::doubled`] of it.
///
/// # Errors
/// [`PoseError::ImageSize`] for an empty or huge picture, [`PoseError::TooThin`] if a side would be 0.
pub fn canvas_base(reference: Size) -> Result<Size> {
    canvas_of_area(reference, CANVAS_AREA)
}

/// The same for another `area` in pixels: lines are as thick on every canvas, so a model that was trained on smaller
/// pictures has its own.
///
/// # Errors
/// As [`canvas_base`]; a picture is too thin for a small canvas earlier.
pub fn canvas_of_area(reference: Size, area: f64) -> Result<Size> {
    reference.check("reference picture")?;
    let aspect = f64::from(reference.height) / f64::from(reference.width);
    let side = |length: f64| ((length / 16.0).floor() * 16.0) as u32;
    let size = Size::new(side((area / aspect).sqrt()), side((area * aspect).sqrt()));
    if size.width == 0 || size.height == 0 {
        return Err(PoseError::TooThin { width: reference.width, height: reference.height });
    }
    Ok(size)
}

/// The size at which the detector sees a picture: short side 1024, each side rounded to a multiple of 64 (half to even),
/// so that the aspect ratio may change a little.
///
/// # Errors
/// [`PoseError::ImageSize`] for an empty or huge picture.
pub fn detect_size(image: Size) -> Result<Size> {
    image.check("picture")?;
    let scale = DETECT_SIDE / f64::from(image.width.min(image.height));
    let side = |length: u32| ((f64::from(length) * scale / 64.0).round_ties_even() * 64.0) as u32;
    Ok(Size::new(side(image.width), side(image.height)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canvas_follows_the_table_of_the_reference() {
        for (picture, canvas) in [
            ((832, 480), (1008, 576)),
            ((480, 832), (576, 1008)),
            ((1024, 576), (1024, 576)),
            ((1920, 1080), (1024, 576)),
            ((864, 1184), (656, 896)),
            ((768, 1344), (576, 1008)),
            ((500, 500), (768, 768)),
            ((7, 5), (896, 640)),
        ] {
            let size = canvas_base(Size::new(picture.0, picture.1)).unwrap();
            assert_eq!((size.width, size.height), canvas, "{picture:?}");
        }
    }

    #[test]
    fn other_areas_keep_the_aspect() {
        for (picture, area, canvas) in [
            ((160, 224), 65_536.0, (208, 288)),
            ((640, 896), 65_536.0, (208, 288)),
            ((192, 192), 65_536.0, (256, 256)),
            ((832, 480), CANVAS_AREA, (1008, 576)),
        ] {
            let size = canvas_of_area(Size::new(picture.0, picture.1), area).unwrap();
            assert_eq!((size.width, size.height), canvas, "{picture:?}");
        }
        let thin = canvas_of_area(Size::new(1, 300), 65_536.0);
        assert!(matches!(thin, Err(PoseError::TooThin { .. })), "{thin:?}");
    }

    #[test]
    fn detector_sees_multiples_of_64() {
        for (picture, seen) in [
            ((1280, 720), (1792, 1024)),
            ((576, 1024), (1024, 1792)),
            ((624, 928), (1024, 1536)),
            ((768, 768), (1024, 1024)),
        ] {
            let size = detect_size(Size::new(picture.0, picture.1)).unwrap();
            assert_eq!((size.width, size.height), seen, "{picture:?}");
        }
    }

    #[test]
    fn impossible_pictures_are_errors() {
        assert!(matches!(canvas_base(Size::new(0, 5)), Err(PoseError::ImageSize { .. })));
        assert!(matches!(canvas_base(Size::new(100_000, 100_000)), Err(PoseError::ImageSize { .. })));
        assert!(matches!(canvas_base(Size::new(1, 60_000)), Err(PoseError::TooThin { .. })));
        assert!(matches!(detect_size(Size::new(3, 0)), Err(PoseError::ImageSize { .. })));
    }
}
