//! The contact sheet: a dozen frames, the course of the whole clip as a strip, and what is to be said about it.

use image::RgbImage;
use media::resize::{self, Size};

use super::canvas::{Canvas, Colour, DARK, GREEN, GREY, LARGE_TEXT, RED, SMALL_TEXT, WHITE, YELLOW};
use pose::Shown;

use super::panels::{colour, word};

/// Frames on a sheet.
pub(crate) const SHEET_FRAMES: usize = 12;
const COLUMNS: usize = 6;
/// Height of one picture of a cell, and the width that a cell may have.
const PICTURE_HEIGHT: f64 = 232.0;
const MAX_CELL_WIDTH: f64 = 330.0;
const GAP: u32 = 6;
const STRIP_HEIGHT: u32 = 64;
/// The sheet is at least this wide, so that text fits.
const MIN_WIDTH: u32 = 760;

/// One column of two pictures.
pub(crate) struct Cell {
    pub index: usize,
    pub time_s: f64,
    /// The driving frame with the skeleton that was found.
    pub found: RgbImage,
    /// The aligned skeleton over the reference.
    pub fitted: RgbImage,
    pub status: Shown,
}

/// The course of the clip.
pub(crate) struct Course {
    /// Of every frame: where its pose comes from, and the score (0 to 1).
    pub frames: Vec<(Shown, f64)>,
    /// The frame that was measured against the reference.
    pub align_frame: Option<usize>,
}

/// Indices of the frames that a sheet shows: evenly spread over `frames`, first and last among them.
pub(crate) fn sheet_indices(frames: usize) -> Vec<usize> {
    let count = SHEET_FRAMES.min(frames);
    (0..count).map(|i| if count < 2 { 0 } else { i * (frames - 1) / (count - 1) }).collect()
}

/// The sheet: a title, cells in rows, the strip, warnings.
pub(crate) fn sheet(title: &str, cells: &[Cell], course: &Course, warnings: &[String]) -> RgbImage {
    let cell_size = cells.first().map_or((1, 1), |cell| cell_size(&cell.found, &cell.fitted));
    let columns = COLUMNS.min(cells.len().max(1)) as u32;
    let rows = cells.len().div_ceil(COLUMNS) as u32;
    let width = (columns * (cell_size.0 + GAP) + GAP).max(MIN_WIDTH);
    let lines: Vec<String> = warnings.iter().flat_map(|w| wrapped(w, (width / 6).saturating_sub(6) as usize)).collect();
    let row_height = cell_size.1 + SMALL_TEXT + 2 * GAP;
    let strip_top = LARGE_TEXT + 3 * GAP + rows * row_height;
    let text_top = strip_top + STRIP_HEIGHT + 2 * SMALL_TEXT + 3 * GAP;
    let height = text_top + lines.len() as u32 * (SMALL_TEXT + 3) + GAP;

    let mut canvas = Canvas::new(width, height, DARK);
    canvas.text(title, (8, 6), true, WHITE, false);
    for (i, cell) in cells.iter().enumerate() {
        let (column, row) = ((i % COLUMNS) as u32, (i / COLUMNS) as u32);
        let (x, y) = (GAP + column * (cell_size.0 + GAP), LARGE_TEXT + 3 * GAP + row * row_height);
        draw_cell(&mut canvas, cell, (x as i32, y as i32), cell_size);
    }
    let marks: Vec<usize> = cells.iter().map(|c| c.index).collect();
    draw_strip(&mut canvas, course, &marks, (GAP as i32, strip_top as i32), width - 2 * GAP);
    for (i, line) in lines.iter().enumerate() {
        let y = text_top + i as u32 * (SMALL_TEXT + 3);
        canvas.text(line, (8, y as i32), false, if line.starts_with("  ") { WHITE } else { YELLOW }, false);
    }
    canvas.0
}

/// Width of a cell, and height of both its pictures together.
fn cell_size(found: &RgbImage, fitted: &RgbImage) -> (u32, u32) {
    let width = |p: &RgbImage| PICTURE_HEIGHT * f64::from(p.width()) / f64::from(p.height().max(1));
    let widest = width(found).max(width(fitted)).clamp(60.0, MAX_CELL_WIDTH);
    let height =
        |p: &RgbImage| PICTURE_HEIGHT.min(widest * f64::from(p.height()) / f64::from(p.width().max(1))).max(8.0) as u32;
    (widest as u32, height(found) + height(fitted) + 2)
}

fn draw_cell(canvas: &mut Canvas, cell: &Cell, (x, y): (i32, i32), (width, height): (u32, u32)) {
    let mut top = y;
    for picture in [&cell.found, &cell.fitted] {
        let scale = (PICTURE_HEIGHT / f64::from(picture.height())).min(f64::from(width) / f64::from(picture.width()));
        let side = |length: u32| ((f64::from(length) * scale) as usize).max(1);
        let small = resize::area_opencv(picture, Size::new(side(picture.width()), side(picture.height())));
        canvas.place(&small, (x + (width as i32 - small.width() as i32) / 2, top));
        top += small.height() as i32 + 2;
    }
    if cell.status != Shown::Seen {
        canvas.frame((x, y), (width, height), colour(cell.status), 2);
    }
    let label = format!(
        "{}  {:.2} s  {}",
        cell.index,
        cell.time_s,
        match cell.status {
            Shown::Seen => "",
            other => word(other),
        }
    );
    canvas.text(label.trim_end(), (x + 2, y + height as i32 + 2), false, cell.status_text(), false);
}

impl Cell {
    fn status_text(&self) -> Colour {
        if self.status == Shown::Seen { WHITE } else { colour(self.status) }
    }
}

/// A bar for every frame: its height is the score, its colour the status; ticks mark the frames on the sheet.
fn draw_strip(canvas: &mut Canvas, course: &Course, marks: &[usize], (x, y): (i32, i32), width: u32) {
    let count = course.frames.len().max(1);
    let column = |frame: usize| (frame as u64 * u64::from(width) / count as u64) as i32;
    canvas.fill((x, y), (width, STRIP_HEIGHT), [45, 45, 50]);
    for (i, (status, score)) in course.frames.iter().enumerate() {
        let (from, to) = (column(i), column(i + 1).max(column(i) + 1));
        let full = f64::from(STRIP_HEIGHT);
        let bar = if *status == Shown::Seen { (score.clamp(0.0, 1.0) * full).max(2.0) } else { full } as u32;
        canvas.fill((x + from, y + (STRIP_HEIGHT - bar) as i32), ((to - from).unsigned_abs(), bar), colour(*status));
    }
    let bottom = y + STRIP_HEIGHT as i32;
    for mark in marks {
        let at = x + column(*mark);
        canvas.line((at, bottom), (at, bottom + 4), WHITE);
    }
    if let Some(frame) = course.align_frame {
        let at = x + column(frame);
        canvas.line((at, y), (at, bottom + 4), WHITE);
        canvas.text("measured here", (at + 4, y + 3), false, WHITE, true);
    }
    let legend = [(GREEN, "found"), (YELLOW, "interpolated or held"), (RED, "nobody")];
    let mut at = x + 2;
    canvas.text("score of the body's joints, frame by frame:", (at, bottom + 8), false, GREY, false);
    at += 6 * 44;
    for (colour, word) in legend {
        canvas.fill((at, bottom + 9), (10, 10), colour);
        canvas.text(word, (at + 14, bottom + 8), false, GREY, false);
        at += 14 + 6 * (word.len() as i32 + 2);
    }
}

/// A text in lines of at most `columns` characters; all but the first are indented.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |l| l.chars().count());
        if line + word.chars().count() + 1 > columns.max(20) {
            lines.push(" ".to_owned());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(index: usize, status: Shown, size: (u32, u32)) -> Cell {
        let picture = |v| RgbImage::from_pixel(size.0, size.1, image::Rgb([v; 3]));
        Cell { index, time_s: index as f64 / 16.0, found: picture(90), fitted: picture(120), status }
    }

    #[test]
    fn frames_are_spread_evenly() {
        assert_eq!(sheet_indices(0), [0usize; 0]);
        assert_eq!(sheet_indices(1), [0]);
        assert_eq!(sheet_indices(3), [0, 1, 2]);
        let many = sheet_indices(317);
        assert_eq!((many.len(), many[0], many[11]), (12, 0, 316));
    }

    #[test]
    fn a_sheet_shows_status_and_course() {
        let course = |frames: Vec<(Shown, f64)>| Course { frames, align_frame: Some(0) };
        let count = |sheet: &RgbImage, colour: Colour| sheet.pixels().filter(|p| p.0 == colour).count();
        let cells = [cell(0, Shown::Seen, (90, 160)), cell(1, Shown::Nothing, (90, 160))];
        let good = sheet("t", &cells[..1], &course(vec![(Shown::Seen, 0.9); 10]), &[]);
        let bad = sheet("t", &cells, &course(vec![(Shown::Nothing, 0.0); 10]), &["nobody is seen ".repeat(20)]);
        assert!(count(&good, GREEN) > 5 * count(&bad, GREEN));
        assert!(count(&bad, RED) > 5 * count(&good, RED));
        assert!(bad.height() > good.height() + 30, "warnings take lines");
    }

    #[test]
    fn odd_shapes_fit() {
        for size in [(1, 1), (4000, 10), (10, 4000)] {
            let cells: Vec<_> = (0..12).map(|i| cell(i, Shown::Held, size)).collect();
            let sheet = sheet("", &cells, &Course { frames: vec![], align_frame: None }, &[]);
            assert!(sheet.width() < 2200 && sheet.height() < 1200, "{:?}", sheet.dimensions());
        }
    }

    #[test]
    fn long_lines_are_wrapped() {
        let lines = wrapped(&"word ".repeat(30), 40);
        assert!(lines.len() > 3 && lines.iter().all(|l| l.chars().count() <= 40), "{lines:?}");
        assert!(lines[1].starts_with("  word"));
    }
}
