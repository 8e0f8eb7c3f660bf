//! Animated gif: 256 colours a frame, times in hundredths of a second, the settings in a comment.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use ::image::RgbImage;
use gif::{AnyExtension, DisposalMethod, Encoder, Repeat};

use super::writer::WriterOptions;
use crate::error::{MediaError, Result};
use crate::output::PendingFile;

/// Label of a comment extension (GIF89a, section 24).
const COMMENT: u8 = 0xfe;
/// Quality against time of the palette search, 1 (best) to 30.
const PALETTE_SPEED: i32 = 10;

pub(super) struct GifWriter {
    target: PathBuf,
    // Before `pending`: the file must be closed when it is removed.
    encoder: Encoder<BufWriter<File>>,
    pending: PendingFile,
    /// A frame can be written only when its end is known.
    held: Option<(gif::Frame<'static>, f64)>,
}

impl GifWriter {
    pub fn create(target: &Path, options: &WriterOptions) -> Result<Self> {
        let side = |value: u32| {
            u16::try_from(value).map_err(|_| MediaError::Setting {
                name: "gif frame side",
                value: value.to_string(),
                allowed: "at most 65535 pixels",
            })
        };
        let (width, height) = (side(options.width)?, side(options.height)?);
        let (pending, file) = PendingFile::create(target)?;
        let fail = |e: gif::EncodingError| MediaError::write(target, e);
        let mut encoder = Encoder::new(BufWriter::new(file), width, height, &[]).map_err(fail)?;
        encoder.set_repeat(Repeat::Infinite).map_err(fail)?;
        if let Some(comment) = &options.comment {
            encoder.write_raw_extension(AnyExtension(COMMENT), &[comment.as_bytes()]).map_err(fail)?;
        }
        Ok(Self { target: target.to_owned(), pending, encoder, held: None })
    }

    pub fn write(&mut self, image: &RgbImage, time_s: f64) -> Result<()> {
        let mut frame = indexed(image);
        frame.dispose = DisposalMethod::Keep;
        self.flush_held(time_s)?;
        self.held = Some((frame, time_s));
        Ok(())
    }

    /// Writes the held frame, which ends at `end_s`. Both ends are rounded, not the length, so that errors do not add up.
    fn flush_held(&mut self, end_s: f64) -> Result<()> {
        if let Some((mut frame, start_s)) = self.held.take() {
            let hundredths = |s: f64| (s * 100.0).round();
            frame.delay = (hundredths(end_s) - hundredths(start_s)).clamp(1.0, f64::from(u16::MAX)) as u16;
            self.encoder.write_frame(&frame).map_err(|e| MediaError::write(&self.target, e))?;
        }
        Ok(())
    }

    pub fn finish(mut self, end_s: f64) -> Result<()> {
        self.flush_held(end_s)?;
        let fail = |e: &dyn std::fmt::Display| MediaError::write(&self.target, e);
        let buffer = self.encoder.into_inner().map_err(|e| fail(&e))?;
        buffer.into_inner().map_err(|e| fail(&e.error()))?;
        self.pending.commit()
    }
}

/// Exact where a frame has at most 256 colours, else the nearest of 256 fitted ones.
fn indexed(image: &RgbImage) -> gif::Frame<'static> {
    let (width, height) = (image.width() as u16, image.height() as u16);
    let mut palette: Vec<[u8; 3]> = Vec::new();
    let mut known = std::collections::HashMap::new();
    let mut indices = Vec::with_capacity(image.as_raw().len() / 3);
    for pixel in image.pixels() {
        let index = *known.entry(pixel.0).or_insert_with(|| {
            palette.push(pixel.0);
            palette.len() - 1
        });
        if index > 255 {
            return gif::Frame::from_rgb_speed(width, height, image.as_raw(), PALETTE_SPEED);
        }
        indices.push(index as u8);
    }
    gif::Frame {
        width,
        height,
        buffer: Cow::Owned(indices),
        palette: Some(palette.into_flattened()),
        ..Default::default()
    }
}
