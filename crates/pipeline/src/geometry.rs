//! Sizes and crops: from the size that was asked for and the reference's to the clip's (spec steadydancer §2.1).

use image::{RgbImage, imageops};

use crate::{AnimateRequest, SizeRule};

/// Pixels of a latent pixel's side.
pub(crate) const LATENT: usize = 8;
/// Pixel frames of a latent frame, the first apart.
pub(crate) const LATENT_FRAMES: usize = 4;

/// What becomes of pictures: a centred crop in the reference's pixels, then the clip's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Size of the reference picture as it is read.
    pub reference: [usize; 2],
    /// Left, top, width, height of the crop.
    pub crop: [usize; 4],
    /// Width and height of the clip.
    pub clip: [usize; 2],
}

impl Geometry {
    /// For a reference of `[width, height]`; `default_size` gives the area when none was asked for.
    pub fn new(request: &AnimateRequest, reference: [usize; 2], default_size: [usize; 2]) -> Self {
        let [width, height] = reference;
        let whole = [0, 0, width, height];
        match (request.settings.size, request.settings.size_rule) {
            (Some(size), SizeRule::Exact) => Self { reference, crop: centred(reference, size), clip: size },
            (Some([w, h]), SizeRule::Area) => Self { reference, crop: whole, clip: by_area(reference, w * h) },
            (None, _) => {
                let area = default_size[0] * default_size[1];
                Self { reference, crop: whole, clip: by_area(reference, area) }
            }
        }
    }

    /// Whether something of the picture is cut off.
    pub fn crops(&self) -> bool {
        self.crop[2..] != self.reference
    }

    /// A picture of the reference's size, cropped.
    pub fn cropped(&self, image: RgbImage) -> RgbImage {
        if !self.crops() {
            return image;
        }
        let [x, y, w, h] = self.crop.map(|v| v as u32);
        imageops::crop_imm(&image, x, y, w, h).to_image()
    }

    /// Width and height of the cropped picture.
    pub fn cropped_size(&self) -> [usize; 2] {
        [self.crop[2], self.crop[3]]
    }
}

/// SteadyDancer's rule in f64, floor divisions included: the area with the reference's aspect, rounded down to
/// multiples of 16. An area of 832·480 with a reference of that very shape gives 832×464, as upstream.
fn by_area([width, height]: [usize; 2], area: usize) -> [usize; 2] {
    let aspect = height as f64 / width as f64;
    let side = |square: f64| {
        let latent = ((square.sqrt() / LATENT as f64).floor() / 2.0).floor() * 2.0;
        (latent as usize).max(4) * LATENT
    };
    let area = area as f64;
    [side(area / aspect), side(area * aspect)]
}

/// The largest centred part of a picture that has the aspect of `size`.
fn centred([width, height]: [usize; 2], size: [usize; 2]) -> [usize; 4] {
    let [w, h] = [size[0] as f64, size[1] as f64];
    let (crop_w, crop_h) = if width as f64 * h > height as f64 * w {
        (((height as f64 * w / h).round() as usize).clamp(1, width), height)
    } else {
        (width, ((width as f64 * h / w).round() as usize).clamp(1, height))
    };
    [(width - crop_w) / 2, (height - crop_h) / 2, crop_w, crop_h]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of spec steadydancer §2.1.
    #[test]
    fn the_area_rule_is_upstreams() {
        let table = [
            ([832, 480], [832, 464], [1008, 576]),
            ([480, 832], [480, 832], [576, 1008]),
            ([1280, 720], [832, 464], [1024, 576]),
            ([1080, 1920], [464, 832], [576, 1024]),
            ([864, 1184], [528, 736], [656, 896]),
            ([768, 1344], [464, 832], [576, 1008]),
            ([500, 500], [624, 624], [768, 768]),
        ];
        for (reference, small, large) in table {
            assert_eq!(by_area(reference, 832 * 480), small, "{reference:?}");
            assert_eq!(by_area(reference, 1024 * 576), large, "{reference:?}");
        }
    }

    #[test]
    fn crops_are_centred_and_have_the_aspect() {
        assert_eq!(centred([864, 1184], [480, 832]), [90, 0, 683, 1184]);
        assert_eq!(centred([100, 100], [64, 64]), [0, 0, 100, 100]);
        assert_eq!(centred([100, 400], [64, 64]), [0, 150, 100, 100]);
    }
}
