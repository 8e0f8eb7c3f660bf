//! A few rows of inputs: each row of the matrix is read once and multiplied as it lies.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::inputs::{Inputs, Round, Words};
use super::kernel::{Narrow, NarrowTask, Part, Sink};
use super::tile::SPAN;
use super::{FEW, Factored, SMALL_TILE, draw, words};
use crate::gemm::{Buffer, CHUNK};
use crate::linear::epilogue::Place;

pub(super) fn product<N: Narrow>(inputs: Inputs, count: usize, weight: Factored, out: &Place) {
    let out_features = weight.weight.rows;
    let (mut rounded, mut row_scales) = (Vec::new(), Vec::new());
    let Words { words: x, scales } = match inputs {
        Inputs::Words(words) => words,
        Inputs::Floats(inputs) => {
            rounded.resize(count * words::<N>(inputs.columns), MaybeUninit::uninit());
            row_scales.resize(count, 0.0);
            // SAFETY: whoever asks for a kind has its instructions.
            unsafe { N::call(Round { inputs, words: &mut rounded, scales: &mut row_scales }) };
            Words { words: &rounded, scales: &row_scales }
        }
    };
    // Rows of the matrix that a task takes.
    let rows = SMALL_TILE;
    draw(out_features.div_ceil(rows), Buffer::new, |span, task, _| {
        let first = task * rows;
        let rows = rows.min(out_features - first);
        // SAFETY: as above.
        unsafe { N::call(Dots { x, scales, weight, first, rows, span, out }) };
    });
}

/// Some rows of the matrix with up to [`FEW`] rows of inputs.
struct Dots<'a> {
    x: &'a [MaybeUninit<u32>],
    scales: &'a [f32],
    weight: Factored<'a>,
    first: usize,
    rows: usize,
    span: &'a mut Buffer,
    out: &'a Place<'a>,
}

impl NarrowTask for Dots<'_> {
    #[inline(always)]
    unsafe fn run<N: Narrow>(self) {
        // SAFETY: the instructions are the caller's.
        unsafe {
            match self.scales.len() {
                1 => self.dots::<N, 1>(),
                2 => self.dots::<N, 2>(),
                3 => self.dots::<N, 3>(),
                FEW => self.dots::<N, FEW>(),
                _ => {}
            }
        }
    }
}

impl Dots<'_> {
    #[inline(always)]
    unsafe fn dots<N: Narrow, const COUNT: usize>(self) {
        let Self { x, scales, weight, first, rows, span, out } = self;
        let columns = weight.weight.columns;
        let pitch = x.len() / COUNT;
        let mut lines = [[0.0; SMALL_TILE]; COUNT];
        for i in 0..rows {
            let row = first + i;
            // SAFETY: the instructions are the caller's; inputs have as many words as the matrix.
            unsafe {
                let (mut sums, mut correction) = ([_mm512_setzero_si512(); COUNT], 0);
                for from in (0..columns).step_by(SPAN * N::NUMBERS) {
                    let count = (columns - from).min(SPAN * N::NUMBERS);
                    let x = x[from / N::NUMBERS..].as_ptr();
                    let part = Part { row, from, count, span };
                    let dots = Multiplied::<N, COUNT> { x, pitch, sums: &mut sums, kind: PhantomData };
                    correction += N::weights(weight.weight, part, dots);
                }
                for ((line, sum), scale) in lines.iter_mut().zip(sums).zip(scales) {
                    line[i] = N::total(sum, correction) * (scale * weight.scale(row));
                }
            }
        }
        for (m, line) in lines.iter_mut().enumerate() {
            // SAFETY: the instructions are the caller's.
            unsafe { out.finish::<__m512>(m, first, &mut line[..rows]) };
        }
    }
}

/// Words of a row of the matrix times those of the inputs.
struct Multiplied<'a, N, const COUNT: usize> {
    /// Inputs, as many words apart as `pitch`.
    x: *const MaybeUninit<u32>,
    pitch: usize,
    sums: &'a mut [__m512i; COUNT],
    kind: PhantomData<N>,
}

impl<N: Narrow, const COUNT: usize> Sink for Multiplied<'_, N, COUNT> {
    #[inline(always)]
    unsafe fn take(&mut self, chunk: usize, words: __m512i) {
        for (m, sum) in self.sums.iter_mut().enumerate() {
            // SAFETY: the caller's; inputs have as many words as the matrix.
            unsafe {
                let x = _mm512_loadu_si512(self.x.wrapping_add(m * self.pitch + chunk * CHUNK).cast());
                *sum = N::dot(*sum, x, words);
            }
        }
    }
}
