//! Pictures from files, as 8-bit RGB.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek};
use std::path::Path;

use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

pub use ::image::RgbImage;

use crate::error::{MediaError, Result};
use crate::sniff;

/// Largest accepted side of a picture or video, in pixels.
pub const MAX_SIDE: u32 = 16384;
/// Largest accepted area of a picture or video, in pixels.
pub const MAX_PIXELS: u64 = 200_000_000;
/// Smallest accepted side of a picture, in pixels.
pub const MIN_SIDE: u32 = 16;

/// What the header of a picture says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageInfo {
    /// Width in pixels, after the EXIF orientation.
    pub width: u32,
    /// Height in pixels, after the EXIF orientation.
    pub height: u32,
    /// Short name of the format: `png`, `jpeg`, `webp`, `bmp`, `tiff`, `gif`.
    pub format: &'static str,
}

/// Reads the header of a picture and checks the size limits; decodes nothing.
///
/// # Errors
/// Missing, unreadable, empty, not a picture, too large (over 16384 a side or 200 megapixels) or too small
/// (under 16 pixels a side).
pub fn probe(path: impl AsRef<Path>) -> Result<ImageInfo> {
    let opened = open(path.as_ref())?;
    Ok(opened.info)
}

/// Reads a picture as 8-bit RGB, upright.
///
/// png, jpeg, webp, bmp, tiff and the first frame of a gif or animated webp. The EXIF orientation is applied. Alpha is
/// dropped, not blended, as `PIL.Image.convert("RGB")` does; 16-bit samples are rounded to 8; grey becomes RGB.
/// Embedded colour profiles are not applied. The size is checked from the header, before anything large is allocated.
///
/// # Errors
/// As [`probe`], and a damaged or truncated file.
pub fn read_rgb(path: impl AsRef<Path>) -> Result<RgbImage> {
    let path = path.as_ref();
    let opened = open(path)?;
    let kind = opened.info.format;
    let mut picture = DynamicImage::from_decoder(opened.decoder).map_err(|e| explain(path, kind, e))?;
    picture.apply_orientation(opened.orientation);
    Ok(picture.into_rgb8())
}

struct Opened {
    info: ImageInfo,
    orientation: Orientation,
    decoder: Box<dyn ImageDecoder>,
}

fn open(path: &Path) -> Result<Opened> {
    let (mut file, head) = sniff::open_file(path)?;
    let not_an_image = || MediaError::NotAnImage { path: path.to_owned(), looks_like: sniff::looks_like(&head) };
    let format = ::image::guess_format(&head).map_err(|_| not_an_image())?;
    let name = format_name(format).ok_or_else(not_an_image)?;
    if format == ImageFormat::Jpeg && !jpeg_is_whole(&mut file).map_err(|e| MediaError::open(path, e))? {
        return Err(MediaError::damaged(path, name, "the end marker is missing"));
    }
    let mut reader = ImageReader::with_format(BufReader::new(file), format);
    // Enough for the largest accepted picture with 16-bit RGBA samples; the exact check follows from the header.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_PIXELS * 8);
    reader.limits(limits);
    let mut decoder: Box<dyn ImageDecoder> = Box::new(reader.into_decoder().map_err(|e| explain(path, name, e))?);
    let (width, height) = decoder.dimensions();
    check_size(path, u64::from(width), u64::from(height))?;
    if width < MIN_SIDE || height < MIN_SIDE {
        return Err(MediaError::TooSmall { path: path.to_owned(), width, height, min_side: MIN_SIDE });
    }
    // A broken EXIF block is no reason to refuse a picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let (width, height) = if swaps_sides(orientation) { (height, width) } else { (width, height) };
    Ok(Opened { info: ImageInfo { width, height, format: name }, orientation, decoder })
}

/// Refuses sizes over [`MAX_SIDE`] and [`MAX_PIXELS`].
pub(crate) fn check_size(path: &Path, width: u64, height: u64) -> Result<()> {
    let max_side = u64::from(MAX_SIDE);
    if width > max_side || height > max_side || width * height > MAX_PIXELS {
        return Err(MediaError::TooLarge {
            path: path.to_owned(),
            width,
            height,
            max_side: MAX_SIDE,
            max_megapixels: MAX_PIXELS / 1_000_000,
        });
    }
    Ok(())
}

fn format_name(format: ImageFormat) -> Option<&'static str> {
    Some(match format {
        ImageFormat::Png => "png",
        ImageFormat::Jpeg => "jpeg",
        ImageFormat::WebP => "webp",
        ImageFormat::Bmp => "bmp",
        ImageFormat::Tiff => "tiff",
        ImageFormat::Gif => "gif",
        _ => return None,
    })
}

fn swaps_sides(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

fn explain(path: &Path, kind: &str, error: ImageError) -> MediaError {
    match error {
        ImageError::IoError(e) if e.kind() != ErrorKind::UnexpectedEof && e.raw_os_error().is_some() => {
            MediaError::open(path, e)
        }
        other => MediaError::damaged(path, kind, other),
    }
}

/// Whether a jpeg's data ends with its end marker. The decoder fills what is missing with grey and reports nothing, so
/// a cut file would pass unseen. Inside the data 0xFF is always followed by 0x00 or a restart marker, so the first
/// FF D9 after the first scan header is the end.
fn jpeg_is_whole(file: &mut File) -> std::io::Result<bool> {
    let verdict = find_jpeg_end(&mut BufReader::new(&mut *file));
    file.rewind()?;
    match verdict {
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        other => other,
    }
}

fn find_jpeg_end(reader: &mut BufReader<&mut File>) -> std::io::Result<bool> {
    reader.seek_relative(2)?;
    loop {
        let mut segment = [0; 4];
        reader.read_exact(&mut segment)?;
        let [marker, code, high, low] = segment;
        match (marker, code) {
            (0xff, 0xda) => break,
            // Padding before a marker.
            (0xff, 0xff) => reader.seek_relative(-3)?,
            (0xff, _) => reader.seek_relative(i64::from(u16::from_be_bytes([high, low])) - 2)?,
            // Not a segment: leave the verdict to the decoder.
            _ => return Ok(true),
        }
    }
    let mut after_marker = false;
    loop {
        let chunk = reader.fill_buf()?;
        if chunk.is_empty() {
            return Ok(false);
        }
        for &byte in chunk {
            if after_marker && byte == 0xd9 {
                return Ok(true);
            }
            after_marker = byte == 0xff;
        }
        let read = chunk.len();
        reader.consume(read);
    }
}
