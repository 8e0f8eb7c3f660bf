//! Text, lines and boxes on pictures.

use std::convert::Infallible;

use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::{FONT_6X13, FONT_10X20};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{Line, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Baseline, Text};
use image::{Rgb, RgbImage, imageops};

/// A colour of the previews.
pub(crate) type Colour = [u8; 3];

pub(crate) const WHITE: Colour = [240, 240, 240];
pub(crate) const GREY: Colour = [140, 140, 140];
pub(crate) const DARK: Colour = [28, 28, 32];
pub(crate) const GREEN: Colour = [70, 200, 110];
pub(crate) const YELLOW: Colour = [240, 190, 60];
pub(crate) const RED: Colour = [235, 80, 70];

/// Height in pixels of a line of small text.
pub(crate) const SMALL_TEXT: u32 = 13;
/// Height in pixels of a line of large text.
pub(crate) const LARGE_TEXT: u32 = 20;

/// A picture that can be written and drawn on. What lies outside of it is cut off.
pub(crate) struct Canvas(pub RgbImage);

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.0.width(), self.0.height())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(at, colour) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y)) else { continue };
            if let Some(pixel) = self.0.get_pixel_mut_checked(x, y) {
                *pixel = Rgb([colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

impl Canvas {
    /// A picture of one colour.
    pub fn new(width: u32, height: u32, colour: Colour) -> Self {
        Self(RgbImage::from_pixel(width, height, Rgb(colour)))
    }

    /// A line of text whose upper left corner is at (x, y), small or large, on a dark ground if `boxed`. Characters
    /// that the font has not become question marks.
    pub fn text(&mut self, text: &str, (x, y): (i32, i32), large: bool, colour: Colour, boxed: bool) {
        let font = if large { &FONT_10X20 } else { &FONT_6X13 };
        let text: String = text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        if boxed {
            let size = font.character_size;
            let width = size.width as i32 * text.len() as i32 + 6;
            self.fill((x - 3, y - 1), (width.unsigned_abs(), size.height + 2), DARK);
        }
        let style = MonoTextStyle::new(font, rgb(colour));
        let _ = Text::with_baseline(&text, Point::new(x, y), style, Baseline::Top).draw(self);
    }

    /// A filled box.
    pub fn fill(&mut self, (x, y): (i32, i32), (width, height): (u32, u32), colour: Colour) {
        let area = Rectangle::new(Point::new(x, y), Size::new(width, height));
        let _ = area.into_styled(PrimitiveStyle::with_fill(rgb(colour))).draw(self);
    }

    /// The edge of a box, `width_px` wide, inside of it.
    pub fn frame(&mut self, (x, y): (i32, i32), (width, height): (u32, u32), colour: Colour, width_px: u32) {
        use embedded_graphics::primitives::{PrimitiveStyleBuilder, StrokeAlignment};
        let style = PrimitiveStyleBuilder::new()
            .stroke_color(rgb(colour))
            .stroke_width(width_px)
            .stroke_alignment(StrokeAlignment::Inside)
            .build();
        let area = Rectangle::new(Point::new(x, y), Size::new(width, height));
        let _ = area.into_styled(style).draw(self);
    }

    /// A line of one pixel.
    pub fn line(&mut self, from: (i32, i32), to: (i32, i32), colour: Colour) {
        let line = Line::new(Point::new(from.0, from.1), Point::new(to.0, to.1));
        let _ = line.into_styled(PrimitiveStyle::with_stroke(rgb(colour), 1)).draw(self);
    }

    /// Another picture, with its upper left corner at (x, y).
    pub fn place(&mut self, picture: &RgbImage, (x, y): (i32, i32)) {
        imageops::replace(&mut self.0, picture, i64::from(x), i64::from(y));
    }
}

fn rgb([r, g, b]: Colour) -> Rgb888 {
    Rgb888::new(r, g, b)
}

/// Pixels of `drawing` that are not black, on top of `picture` of the same size.
pub(crate) fn overlay(picture: &mut RgbImage, drawing: &RgbImage) {
    for (pixel, drawn) in picture.pixels_mut().zip(drawing.pixels()) {
        if drawn.0 != [0; 3] {
            *pixel = *drawn;
        }
    }
}

/// The picture at `percent` of its brightness.
pub(crate) fn dimmed(picture: &RgbImage, percent: u16) -> RgbImage {
    let mut out = picture.clone();
    for sample in out.iter_mut() {
        *sample = (u16::from(*sample) * percent / 100) as u8;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(canvas: &Canvas, colour: Colour) -> usize {
        canvas.0.pixels().filter(|p| p.0 == colour).count()
    }

    #[test]
    fn what_lies_outside_is_cut_off() {
        let mut canvas = Canvas::new(20, 10, DARK);
        canvas.text("ä wide text that ends outside", (-4, -3), true, WHITE, true);
        canvas.fill((-5, -5), (6, 6), RED);
        canvas.line((0, 0), (100, 100), GREEN);
        canvas.frame((15, 5), (50, 50), YELLOW, 2);
        canvas.place(&RgbImage::new(9, 9), (18, 8));
        assert_eq!(canvas.0.dimensions(), (20, 10));
        assert!(count(&canvas, GREEN) >= 5 && count(&canvas, YELLOW) > 0 && count(&canvas, WHITE) > 0);
    }

    #[test]
    fn only_drawn_pixels_cover() {
        let mut picture = RgbImage::from_pixel(2, 1, Rgb([100, 200, 50]));
        let mut drawing = RgbImage::new(2, 1);
        drawing.put_pixel(1, 0, Rgb([0, 0, 9]));
        overlay(&mut picture, &drawing);
        assert_eq!((picture[(0, 0)].0, picture[(1, 0)].0), ([100, 200, 50], [0, 0, 9]));
        assert_eq!(dimmed(&picture, 50)[(0, 0)].0, [50, 100, 25]);
    }
}
