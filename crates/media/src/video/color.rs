//! Decoded frames → RGB and RGB → 4:2:0, with the matrix, range and chroma position the stream states.
//!
//! The safe FFmpeg wrapper does not reach swscale's colour settings, so the matrix is applied here; swscale only unpacks
//! the rarer pixel layouts. Where a stream states no matrix, BT.709 is assumed from 720 lines or 1280 columns on and
//! BT.601 below, as players do. Transfer functions and primaries are left alone.

use ::image::RgbImage;
use ffmpeg_next::chroma::Location;
use ffmpeg_next::color::{Range, Space};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;
use ffmpeg_next::{Error, frame};
use rayon::prelude::*;

/// Luma and chroma in planes, as nearly every codec stores them.
#[derive(Clone, Copy)]
struct Layout {
    bits: u32,
    /// log2 of luma columns per chroma column.
    shift_x: u32,
    /// log2 of luma rows per chroma row.
    shift_y: u32,
    grey: bool,
}

fn planar(format: Pixel) -> Option<Layout> {
    let yuv = |bits, shift_x, shift_y| Some(Layout { bits, shift_x, shift_y, grey: false });
    match format {
        Pixel::YUV420P | Pixel::YUVJ420P | Pixel::YUVA420P => yuv(8, 1, 1),
        Pixel::YUV422P | Pixel::YUVJ422P | Pixel::YUVA422P => yuv(8, 1, 0),
        Pixel::YUV444P | Pixel::YUVJ444P | Pixel::YUVA444P => yuv(8, 0, 0),
        Pixel::YUV440P | Pixel::YUVJ440P => yuv(8, 0, 1),
        Pixel::YUV420P10LE => yuv(10, 1, 1),
        Pixel::YUV422P10LE => yuv(10, 1, 0),
        Pixel::YUV444P10LE => yuv(10, 0, 0),
        Pixel::YUV420P12LE => yuv(12, 1, 1),
        Pixel::YUV422P12LE => yuv(12, 1, 0),
        Pixel::YUV444P12LE => yuv(12, 0, 0),
        Pixel::GRAY8 => Some(Layout { bits: 8, shift_x: 0, shift_y: 0, grey: true }),
        Pixel::GRAY10LE => Some(Layout { bits: 10, shift_x: 0, shift_y: 0, grey: true }),
        _ => None,
    }
}

/// Other luma-chroma layouts, which swscale turns into planes first.
fn packed_yuv(format: Pixel) -> bool {
    use Pixel::*;
    matches!(
        format,
        NV12 | NV21
            | NV16
            | YUYV422
            | UYVY422
            | YVYU422
            | YUV410P
            | YUV411P
            | P010LE
            | P016LE
            | YUV420P9LE
            | YUV422P9LE
            | YUV444P9LE
            | YUV420P14LE
            | YUV422P14LE
            | YUV444P14LE
            | YUV420P16LE
            | YUV422P16LE
            | YUV444P16LE
            | YUV440P10LE
            | YUV440P12LE
            | AYUV64LE
    )
}

/// An upright-or-not frame as 8-bit RGB.
pub(super) fn to_rgb(frame: &frame::Video) -> Result<RgbImage, Error> {
    let full = frame.color_range() == Range::JPEG || is_full_by_name(frame.format());
    match planar(frame.format()) {
        Some(layout) if readable(frame, layout) => {
            // Grey without a word is full, as FFmpeg takes it too.
            let full = full || (layout.grey && frame.color_range() == Range::Unspecified);
            Ok(convert(frame, layout, full))
        }
        Some(layout) if !layout.grey => {
            // A bottom-up frame; swscale can read it.
            let upright = scale(frame, Pixel::YUV444P)?;
            Ok(convert_like(&upright, frame, full))
        }
        _ if packed_yuv(frame.format()) => {
            let planes = scale(frame, Pixel::YUV444P)?;
            Ok(convert_like(&planes, frame, full))
        }
        _ => {
            let rgb = scale(frame, Pixel::RGB24)?;
            let (width, height) = (rgb.width() as usize, rgb.height());
            let rows = rgb.data(0).chunks(rgb.stride(0)).take(height as usize);
            let pixels = rows.flat_map(|row| &row[..width * 3]).copied().collect();
            RgbImage::from_raw(rgb.width(), height, pixels).ok_or(Error::InvalidData)
        }
    }
}

fn is_full_by_name(format: Pixel) -> bool {
    matches!(format, Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P)
}

/// Frames stored bottom-up have negative strides, which the wrapper's slices cannot express.
fn readable(frame: &frame::Video, layout: Layout) -> bool {
    let planes = if layout.grey { 1 } else { 3 };
    (0..planes).all(|plane| {
        let samples = if plane == 0 { frame.width() } else { frame.width().div_ceil(1 << layout.shift_x) };
        let bytes = samples as usize * if layout.bits > 8 { 2 } else { 1 };
        (bytes..1 << 28).contains(&frame.stride(plane))
    })
}

fn scale(frame: &frame::Video, to: Pixel) -> Result<frame::Video, Error> {
    use scaling::Flags;
    let (w, h) = (frame.width(), frame.height());
    let flags = Flags::BICUBIC | Flags::ACCURATE_RND | Flags::FULL_CHR_H_INT | Flags::FULL_CHR_H_INP | Flags::BITEXACT;
    let mut scaled = frame::Video::empty();
    scaling::Context::get(frame.format(), w, h, to, w, h, flags)?.run(frame, &mut scaled)?;
    Ok(scaled)
}

/// Converts planes made by swscale with the colour description of the frame they came from.
fn convert_like(planes: &frame::Video, source: &frame::Video, full: bool) -> RgbImage {
    let layout = Layout { bits: 8, shift_x: 0, shift_y: 0, grey: false };
    let matrix = Matrix::of(source);
    convert_with(planes, layout, full, matrix, (0.0, 0.0))
}

fn convert(frame: &frame::Video, layout: Layout, full: bool) -> RgbImage {
    let centred = |shift: u32| ((1 << shift) - 1) as f32 / 2.0;
    // MPEG's default is beside the left luma sample, JPEG's between the two.
    let (x, y) = match frame.chroma_location() {
        Location::Unspecified if is_full_by_name(frame.format()) => (centred(layout.shift_x), centred(layout.shift_y)),
        Location::Center => (centred(layout.shift_x), centred(layout.shift_y)),
        Location::TopLeft => (0.0, 0.0),
        Location::Top => (centred(layout.shift_x), 0.0),
        Location::BottomLeft => (0.0, 2.0 * centred(layout.shift_y)),
        Location::Bottom => (centred(layout.shift_x), 2.0 * centred(layout.shift_y)),
        Location::Unspecified | Location::Left => (0.0, centred(layout.shift_y)),
    };
    convert_with(frame, layout, full, Matrix::of(frame), (x, y))
}

/// Shares of red and blue in luma.
#[derive(Clone, Copy)]
struct Matrix {
    red: f32,
    blue: f32,
}

impl Matrix {
    const BT601: Self = Self { red: 0.299, blue: 0.114 };
    const BT709: Self = Self { red: 0.2126, blue: 0.0722 };
    const BT2020: Self = Self { red: 0.2627, blue: 0.0593 };

    fn of(frame: &frame::Video) -> Self {
        match frame.color_space() {
            Space::BT709 => Self::BT709,
            Space::BT470BG | Space::SMPTE170M => Self::BT601,
            Space::FCC => Self { red: 0.30, blue: 0.11 },
            Space::SMPTE240M => Self { red: 0.212, blue: 0.087 },
            Space::BT2020NCL | Space::BT2020CL => Self::BT2020,
            _ if frame.height() >= 720 || frame.width() >= 1280 => Self::BT709,
            _ => Self::BT601,
        }
    }
}

/// One row of samples as floats.
fn row(frame: &frame::Video, plane: usize, y: usize, samples: usize, bits: u32) -> Vec<f32> {
    let line = &frame.data(plane)[y * frame.stride(plane)..];
    if bits > 8 {
        line.chunks_exact(2).take(samples).map(|b| f32::from(u16::from_le_bytes([b[0], b[1]]))).collect()
    } else {
        line[..samples].iter().map(|&v| f32::from(v)).collect()
    }
}

/// Two neighbouring samples and the weight of the second, for a position along one axis.
fn neighbours(position: usize, shift: u32, offset: f32, count: usize) -> (usize, usize, f32) {
    let at = ((position as f32 - offset) / (1 << shift) as f32).clamp(0.0, (count - 1) as f32);
    let first = at.floor() as usize;
    (first, (first + 1).min(count - 1), at - at.floor())
}

fn convert_with(
    frame: &frame::Video,
    layout: Layout,
    full: bool,
    matrix: Matrix,
    (offset_x, offset_y): (f32, f32),
) -> RgbImage {
    let (width, height) = (frame.width() as usize, frame.height() as usize);
    let mut image = RgbImage::new(frame.width(), frame.height());
    if width == 0 || height == 0 {
        return image;
    }
    let depth = (1 << (layout.bits - 8)) as f32;
    let peak = ((1 << layout.bits) - 1) as f32;
    let (black, luma_scale, chroma_scale) = if full {
        (0.0, 255.0 / peak, 255.0 / peak)
    } else {
        (16.0 * depth, 255.0 / (219.0 * depth), 255.0 / (224.0 * depth))
    };
    let middle = 128.0 * depth;
    let green = 1.0 - matrix.red - matrix.blue;
    let red_of_v = 2.0 * (1.0 - matrix.red) * chroma_scale;
    let blue_of_u = 2.0 * (1.0 - matrix.blue) * chroma_scale;
    let green_of_v = red_of_v * matrix.red / green;
    let green_of_u = blue_of_u * matrix.blue / green;

    let chroma_width = width.div_ceil(1 << layout.shift_x);
    let chroma_height = height.div_ceil(1 << layout.shift_y);
    let columns: Vec<_> = (0..width).map(|x| neighbours(x, layout.shift_x, offset_x, chroma_width)).collect();
    let to_u8 = |v: f32| (v + 0.5).clamp(0.0, 255.0) as u8;

    image.par_chunks_mut(width * 3).enumerate().for_each(|(y, out)| {
        let luma = row(frame, 0, y, width, layout.bits);
        if layout.grey {
            for (pixel, l) in out.chunks_exact_mut(3).zip(luma) {
                pixel.fill(to_u8((l - black) * luma_scale));
            }
            return;
        }
        let (above, below, share) = neighbours(y, layout.shift_y, offset_y, chroma_height);
        let chroma = |plane| {
            let mut line = row(frame, plane, above, chroma_width, layout.bits);
            if share > 0.0 {
                let other = row(frame, plane, below, chroma_width, layout.bits);
                line.iter_mut().zip(other).for_each(|(a, b)| *a += (b - *a) * share);
            }
            line
        };
        let (u_line, v_line) = (chroma(1), chroma(2));
        for ((pixel, l), &(left, right, share)) in out.chunks_exact_mut(3).zip(luma).zip(&columns) {
            let l = (l - black) * luma_scale;
            let u = u_line[left] + (u_line[right] - u_line[left]) * share - middle;
            let v = v_line[left] + (v_line[right] - v_line[left]) * share - middle;
            pixel[0] = to_u8(l + red_of_v * v);
            pixel[1] = to_u8(l - green_of_u * u - green_of_v * v);
            pixel[2] = to_u8(l + blue_of_u * u);
        }
    });
    image
}

/// A limited-range BT.709 4:2:0 frame with chroma in the middle of its four pixels (the encoder is told so). Sides even.
pub(super) fn to_yuv420(image: &RgbImage) -> frame::Video {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let mut frame = frame::Video::new(Pixel::YUV420P, image.width(), image.height());
    frame.set_color_space(Space::BT709);
    frame.set_color_range(Range::MPEG);
    let Matrix { red, blue } = Matrix::BT709;
    let luma = move |p: [f32; 3]| red * p[0] + (1.0 - red - blue) * p[1] + blue * p[2];
    let to_u8 = |v: f32| (v + 0.5) as u8;

    let stride = frame.stride(0);
    frame.data_mut(0).par_chunks_mut(stride).zip(image.par_chunks(width * 3)).for_each(|(out, line)| {
        for (sample, p) in out.iter_mut().zip(line.chunks_exact(3)) {
            *sample = to_u8(16.0 + luma([p[0], p[1], p[2]].map(f32::from)) * (219.0 / 255.0));
        }
    });

    let mean = |x: usize, y: usize| -> [f32; 3] {
        let at = |dx, dy, c| f32::from(image.as_raw()[((2 * y + dy) * width + 2 * x + dx) * 3 + c]);
        [0, 1, 2].map(|c| (at(0, 0, c) + at(1, 0, c) + at(0, 1, c) + at(1, 1, c)) * 0.25)
    };
    for (plane, channel, share) in [(1, 2, blue), (2, 0, red)] {
        let scale = 224.0 / 255.0 / (2.0 * (1.0 - share));
        let stride = frame.stride(plane);
        frame.data_mut(plane).par_chunks_mut(stride).take(height / 2).enumerate().for_each(|(y, out)| {
            for (x, sample) in out[..width / 2].iter_mut().enumerate() {
                let p = mean(x, y);
                *sample = to_u8(128.0 + (p[channel] - luma(p)) * scale);
            }
        });
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(format: Pixel, yuv: [u8; 3], space: Space, range: Range) -> frame::Video {
        let mut frame = frame::Video::new(format, 6, 4);
        for (plane, value) in yuv.into_iter().enumerate() {
            frame.data_mut(plane).fill(value);
        }
        frame.set_color_space(space);
        frame.set_color_range(range);
        frame
    }

    #[test]
    fn primaries_by_matrix_and_range() {
        // Pure red in each encoding, from the standards' tables.
        for (format, yuv, space, range) in [
            (Pixel::YUV420P, [63, 102, 240], Space::BT709, Range::MPEG),
            (Pixel::YUV420P, [81, 90, 240], Space::SMPTE170M, Range::MPEG),
            (Pixel::YUV444P, [54, 99, 255], Space::BT709, Range::JPEG),
            (Pixel::YUVJ420P, [76, 85, 255], Space::BT470BG, Range::Unspecified),
        ] {
            let rgb = to_rgb(&filled(format, yuv, space, range)).unwrap();
            let [r, g, b] = rgb.get_pixel(3, 2).0;
            assert!(r >= 252 && g <= 3 && b <= 3, "{format:?} {space:?}: {r} {g} {b}");
        }
    }

    #[test]
    fn limits_of_the_range() {
        let level = |y, range| to_rgb(&filled(Pixel::YUV420P, [y, 128, 128], Space::BT709, range)).unwrap()[(0, 0)].0;
        assert_eq!(level(16, Range::MPEG), [0; 3]);
        assert_eq!(level(235, Range::MPEG), [255; 3]);
        assert_eq!(level(16, Range::JPEG), [16; 3]);
    }

    #[test]
    fn unstated_matrix_follows_the_size() {
        let rgb = |height| {
            let mut frame = frame::Video::new(Pixel::YUV420P, 16, height);
            for (plane, value) in [81, 90, 240].into_iter().enumerate() {
                frame.data_mut(plane).fill(value);
            }
            to_rgb(&frame).unwrap()[(2, 2)].0
        };
        assert!(rgb(480)[1] <= 2, "BT.601 red: {:?}", rgb(480));
        assert!(rgb(720)[1] > 15, "read as BT.709: {:?}", rgb(720));
    }

    #[test]
    fn forth_and_back_is_near() {
        let image = RgbImage::from_fn(32, 16, |x, y| ::image::Rgb([(x * 8) as u8, (y * 16) as u8, 128]));
        let mut frame = to_yuv420(&image);
        frame.set_color_space(Space::BT709);
        let back = to_rgb(&frame).unwrap();
        let worst = image.as_raw().iter().zip(back.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(12), "{worst:?}");
    }

    #[test]
    fn packed_layouts_go_through_swscale() {
        let mut frame = frame::Video::new(Pixel::NV12, 8, 4);
        frame.data_mut(0).fill(63);
        frame.data_mut(1).chunks_exact_mut(2).for_each(|uv| uv.copy_from_slice(&[102, 240]));
        frame.set_color_space(Space::BT709);
        let [r, g, b] = to_rgb(&frame).unwrap()[(4, 2)].0;
        assert!(r >= 252 && g <= 3 && b <= 3, "{r} {g} {b}");

        let mut frame = frame::Video::new(Pixel::BGRA, 8, 4);
        frame.data_mut(0).chunks_exact_mut(4).for_each(|p| p.copy_from_slice(&[10, 20, 30, 255]));
        assert_eq!(to_rgb(&frame).unwrap()[(5, 1)].0, [30, 20, 10]);
    }
}
