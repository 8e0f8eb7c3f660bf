//! Some rows of the matrix with all inputs that are repacked.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::Factored;
use super::inputs::Panels;
use super::kernel::{Block, Narrow, NarrowTask, Part, Sink, WIDTH, transpose};
use crate::gemm::{Buffer, CHUNK, Rows};
use crate::linear::epilogue::Place;
use crate::quant::View;

/// Words of a row that are packed at a time, a multiple of all blocks' words: a panel of as many and a group of rows stay in
/// the first cache.
pub(super) const SPAN: usize = 128;
/// Most rows of a tile: groups of as many as the kernel holds sums of.
pub(super) const TILE_ROWS: usize = 112;

/// Bytes of a cache line.
pub(super) const LINE: usize = 64;

/// What a thread works in.
pub(super) struct Scratch {
    rows: Buffer,
    span: Buffer,
    sums: Vec<MaybeUninit<u32>>,
    lines: Box<[[f32; TILE_ROWS]; CHUNK]>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self { rows: Buffer::new(), span: Buffer::new(), sums: Vec::new(), lines: Box::new([[0.0; TILE_ROWS]; CHUNK]) }
    }

    /// Its size with so many inputs.
    pub(super) fn words(rows: usize) -> usize {
        TILE_ROWS * (SPAN + rows.next_multiple_of(WIDTH) + CHUNK) + 4 * SPAN
    }
}

/// A row among those of its group.
struct Packed {
    /// Its first chunk.
    to: *mut u32,
    /// Words from one to the next.
    step: usize,
}

impl Sink for Packed {
    #[inline(always)]
    unsafe fn take(&mut self, chunk: usize, words: __m512i) {
        // SAFETY: the caller's; the buffer has all chunks of a row.
        unsafe { _mm512_store_si512(self.to.wrapping_add(chunk * self.step).cast(), words) };
    }
}

/// A task.
pub(super) struct Tile<'a> {
    pub panels: &'a Panels,
    pub weight: Factored<'a>,
    /// The first row of the matrix, and how many.
    pub tile: (usize, usize),
    /// Those of the next task.
    pub next: (usize, usize),
    pub scratch: &'a mut Scratch,
    /// The first input among all.
    pub first: usize,
    pub out: &'a Place<'a>,
}

impl NarrowTask for Tile<'_> {
    #[inline(always)]
    unsafe fn run<N: Narrow>(self) {
        let Self { panels, weight, tile: (first, rows), next, scratch, first: first_input, out } = self;
        let Scratch { rows: packed, span, sums, lines } = scratch;
        let count = panels.panels() * rows * WIDTH;
        sums.reserve(count);
        let sums = sums.spare_capacity_mut()[..count].as_mut_ptr().cast::<u32>();
        let mut corrections = [0i32; TILE_ROWS];
        let columns = weight.weight.columns;
        let numbers = |from: usize| {
            let from = from * N::NUMBERS;
            (from, columns.saturating_sub(from).min(SPAN * N::NUMBERS))
        };
        // SAFETY: the instructions are the caller's; places in panels, packed rows and sums are inside of them.
        unsafe {
            for from in (0..panels.count).step_by(SPAN) {
                let words = SPAN.min(panels.count - from);
                let layout = Rows::new::<__m512>(rows, words);
                let to = packed.first(layout.floats()).as_mut_ptr().cast::<u32>();
                let (column, count) = numbers(from);
                for group in 0..layout.groups() {
                    let (start, size) = layout.group(group);
                    for i in 0..size {
                        let part = Part { row: first + start + i, from: column, count, span };
                        let to = to.add((start * layout.chunks + i) * CHUNK);
                        let packed = Packed { to, step: size * CHUNK };
                        corrections[start + i] += N::weights(weight.weight, part, packed);
                    }
                }
                let more = from + SPAN < panels.count;
                let (place, tile) = if more { (numbers(from + SPAN), (first, rows)) } else { (numbers(0), next) };
                let mut ahead = Ahead::new(weight.weight, place, tile);
                let share = tile.1.div_ceil(panels.panels() * layout.groups());
                for p in 0..panels.panels() {
                    let panel = panels.panel(p, from, words);
                    for group in 0..layout.groups() {
                        let block = Block {
                            rows: layout,
                            group,
                            packed: to,
                            panel,
                            width: panels.width(p),
                            sums: sums.add(p * rows * WIDTH),
                            fresh: from == 0,
                        };
                        block.run::<N>();
                        ahead.fetch(share);
                        panels.fetch(p + 1, from, words, (group, layout.groups()));
                    }
                }
            }
            for p in 0..panels.panels() {
                for half in 0..panels.width(p) / CHUNK {
                    let input = p * WIDTH + half * CHUNK;
                    let scales = _mm512_loadu_ps(panels.scales[input..][..CHUNK].as_ptr());
                    for row in (0..rows).step_by(CHUNK) {
                        let mut block = [_mm512_setzero_si512(); CHUNK];
                        for i in 0..CHUNK.min(rows - row) {
                            let sum = _mm512_loadu_si512(sums.add((p * rows + row + i) * WIDTH + half * CHUNK).cast());
                            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(weight.scale(first + row + i)));
                            let sum = _mm512_mul_ps(N::float(sum, corrections[row + i]), scale);
                            block[i] = _mm512_castps_si512(sum);
                        }
                        for (line, sums) in lines.iter_mut().zip(transpose(block)) {
                            _mm512_storeu_si512(line[row..][..CHUNK].as_mut_ptr().cast(), sums);
                        }
                    }
                    for (i, line) in lines.iter_mut().enumerate().take(panels.rows - input) {
                        out.finish::<__m512>(first_input + input + i, first, &mut line[..rows]);
                    }
                }
            }
        }
    }
}

/// Asks for the bytes that are packed next, a few rows at a time: they come from memory while there is something to multiply.
struct Ahead {
    /// Of the first row that has not been asked for.
    next: *const u8,
    row_bytes: usize,
    /// Lines of a row.
    lines: usize,
    rows: usize,
}

impl Ahead {
    #[inline(always)]
    fn new(weight: View, (from, count): (usize, usize), (first, rows): (usize, usize)) -> Self {
        let bytes = |numbers: usize| numbers / weight.encoding.block() * weight.encoding.block_bytes();
        let row_bytes = weight.row_bytes();
        let next = weight.bytes.as_ptr().wrapping_add(first * row_bytes + bytes(from));
        // A row that does not begin where a line does takes one more.
        Self { next, row_bytes, lines: bytes(count).div_ceil(LINE) + 1, rows }
    }

    #[inline(always)]
    unsafe fn fetch(&mut self, rows: usize) {
        for _ in 0..rows.min(self.rows) {
            for line in 0..self.lines {
                // SAFETY: it reads nothing, and no address is wrong.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.wrapping_add(line * LINE).cast()) };
            }
            self.next = self.next.wrapping_add(self.row_bytes);
            self.rows -= 1;
        }
    }
}
