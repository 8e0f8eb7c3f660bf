//! Pictures to tensors and back.

use candle_core::{Device, Result, Tensor};
use image::RgbImage;
use media::resize::{self, Size};

use crate::PipelineError;

/// A picture → `[3, height, width]` f32 in −1..=1 at the clip's size, as the VAE takes it: bicubic without
/// antialiasing, overshoot kept (spec steadydancer §2.3).
pub(crate) fn vae_pixels(image: &RgbImage, [width, height]: [usize; 2]) -> std::result::Result<Tensor, PipelineError> {
    let from = Size::of(image);
    let planes = resize::rgb_to_chw(image);
    let resized = resize::bicubic_torch(&planes, from, Size::new(width, height)).map_err(PipelineError::Media)?;
    Tensor::from_vec(resized, (3, height, width), &Device::Cpu)
        .map_err(|e| PipelineError::from_compute("pixels".into(), e))
}

/// A picture → `[1, 3, side, side]` f32 for the image encoder: squashed, not cropped.
pub(crate) fn clip_pixels(image: &RgbImage, side: usize) -> std::result::Result<Tensor, PipelineError> {
    let planes = resize::rgb_to_chw(image);
    let pixels = resize::clip_pixels(&planes, Size::of(image), side).map_err(PipelineError::Media)?;
    Tensor::from_vec(pixels, (1, 3, side, side), &Device::Cpu)
        .map_err(|e| PipelineError::from_compute("pixels".into(), e))
}

/// `[3, height, width]` f32 → a picture; values are clamped to −1..=1.
pub(crate) fn picture(frame: &Tensor) -> Result<std::result::Result<RgbImage, PipelineError>> {
    let (_, height, width) = frame.dims3()?;
    let planes = frame.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
    Ok(resize::chw_to_rgb(&planes, Size::new(width, height)).map_err(PipelineError::Media))
}
