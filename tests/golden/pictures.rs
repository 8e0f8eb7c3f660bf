//! The resamplers and CLIP's pre-processing.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use media::resize::{self, Size};
use testkit::Case;

use crate::checks::{Checks, Report};

/// Side of CLIP's input in pixels.
const CLIP_SIDE: usize = 224;

/// An `[H, W, 3]` u8 tensor as a picture.
fn picture(x: &Tensor) -> Result<RgbImage> {
    let (height, width, channels) = x.dims3()?;
    ensure!(channels == 3, "a picture of {channels} channels");
    let samples = x.to_dtype(DType::U8)?.flatten_all()?.to_vec1::<u8>()?;
    RgbImage::from_raw(width.try_into()?, height.try_into()?, samples).context("a picture")
}

pub fn run(case: &Case) -> Result<Report> {
    let source = picture(&case.input("image")?)?;
    let from = Size::of(&source);
    let planes = resize::rgb_to_chw(&source);
    let mut checks = Checks::new(case);
    let mut rounded = Rounded::default();
    for (name, reference) in &case.outputs {
        if name.starts_with("bicubic_") {
            let (_, height, width) = reference.dims3()?;
            let ours = resize::bicubic_torch(&planes, from, Size::new(width, height))?;
            checks.output(name, &Tensor::from_vec(ours, (3, height, width), &Device::Cpu)?)?;
        } else if name.starts_with("clip_pixels_") {
            let pixels = resize::clip_pixels(&planes, from, CLIP_SIDE)?;
            let pixels = Tensor::from_vec(pixels, (3, CLIP_SIDE, CLIP_SIDE), &Device::Cpu)?;
            let ours = match name.as_str() {
                "clip_pixels_corner" => {
                    let (_, height, width) = reference.dims3()?;
                    pixels.narrow(1, 0, height)?.narrow(2, 0, width)?
                }
                "clip_pixels_mean" => pixels.to_dtype(DType::F64)?.flatten_from(1)?.mean(1)?,
                // An output that nobody knows: the report will say so.
                _ => continue,
            };
            checks.output(name, &ours)?;
        } else if name.contains("_u8") {
            let reference = picture(checks.reference(name)?)?;
            rounded.compare(name, &by_kind(name, &source, Size::of(&reference))?, &reference)?;
        }
    }
    if rounded.samples > 0 {
        checks.note(format!("{} of {} 8-bit samples off by one", rounded.off_by_one, rounded.samples));
    }
    checks.finish()
}

fn by_kind(name: &str, source: &RgbImage, to: Size) -> Result<RgbImage> {
    Ok(match name.split('_').next() {
        Some("linear") => resize::linear_opencv(source, to),
        Some("cubic") => resize::cubic_opencv(source, to),
        Some("area") => resize::area_opencv(source, to),
        Some("pil") => resize::bicubic_pil(source, to),
        _ => bail!("no resampler is known for the output {name:?}"),
    })
}

/// 8-bit samples may differ by one level, which is rounding.
#[derive(Default)]
struct Rounded {
    samples: usize,
    off_by_one: usize,
}

impl Rounded {
    fn compare(&mut self, name: &str, ours: &RgbImage, reference: &RgbImage) -> Result<()> {
        for (i, (a, b)) in ours.as_raw().iter().zip(reference.as_raw()).enumerate() {
            let width = reference.width() as usize;
            let (x, y) = (i / 3 % width, i / 3 / width);
            ensure!(
                a.abs_diff(*b) <= 1,
                "first wrong stage: {name} at ({x}, {y}) channel {}: ours {a}, reference {b}",
                i % 3
            );
            self.off_by_one += usize::from(a != b);
        }
        self.samples += reference.as_raw().len();
        Ok(())
    }
}
