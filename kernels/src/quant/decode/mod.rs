//! Stored numbers to f32.

mod blocks;
pub mod reference;
#[cfg(test)]
mod tests;

use super::number::{bf16, f8e4m3, f8e5m2, f16};
use super::rotate::rotate;
use super::{Encoding, QuantError, QuantMatrix, Scales, View};
use crate::level::Level;
use crate::vector::{Task, Vector, run_at};

impl QuantMatrix {
    /// Rows `start .. start + count` as f32, `[count, columns]`: scaled, and with the rotation undone. One thread, near the
    /// speed of memory; the same bits with every instruction set.
    ///
    /// # Errors
    /// There are no such rows, or `out` has another length than theirs.
    pub fn decode_rows(&self, start: usize, count: usize, out: &mut [f32]) -> Result<(), QuantError> {
        let [rows, columns] = self.shape();
        if start.checked_add(count).is_none_or(|end| end > rows) {
            return Err(self.problem(format!("has no {count} rows from row {start} on")));
        }
        if count.checked_mul(columns) != Some(out.len()) {
            return Err(self.problem(format!("takes {count} x {columns} numbers for {count} rows, not {}", out.len())));
        }
        if columns > 0 {
            let level = Level::detect();
            for (i, out) in out.chunks_exact_mut(columns).enumerate() {
                run_at(level, self.view().span(start + i, 0, out));
            }
        }
        Ok(())
    }
}

impl<'a> View<'a> {
    /// Numbers that can only be decoded together: a block, or a group that is rotated.
    pub(crate) fn granule(self) -> usize {
        // Both are powers of two.
        self.encoding.block().max(self.rotation.unwrap_or(1))
    }

    /// The task to decode numbers of a row from `column` on, whole [granules](Self::granule).
    pub(crate) fn span(self, row: usize, column: usize, out: &'a mut [f32]) -> Span<'a> {
        debug_assert!(column.is_multiple_of(self.granule()) && out.len().is_multiple_of(self.granule()));
        Span { matrix: self, row, column, out, rotation: self.rotation }
    }

    /// As [`span`](Self::span), but as stored: a rotation is not undone, and whole blocks are enough.
    pub(crate) fn rotated_span(self, row: usize, column: usize, out: &'a mut [f32]) -> Span<'a> {
        Span { matrix: self, row, column, out, rotation: None }
    }

    /// What the number at a place is multiplied with.
    pub(super) fn scale(self, row: usize, column: usize) -> f32 {
        match self.scales {
            Scales::None => 1.0,
            Scales::Matrix(scale) => *scale,
            Scales::Rows(scales) => scales[row],
            Scales::Blocks { side, values } => values[row / side * self.columns.div_ceil(*side) + column / side],
        }
    }
}

/// A part of a row to be decoded.
pub(crate) struct Span<'a> {
    matrix: View<'a>,
    row: usize,
    column: usize,
    out: &'a mut [f32],
    rotation: Option<usize>,
}

impl Task for Span<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { matrix, row, column, out, rotation } = self;
        let encoding = matrix.encoding;
        let first = row * matrix.row_bytes() + column / encoding.block() * encoding.block_bytes();
        let bytes = &matrix.bytes[first..][..out.len() / encoding.block() * encoding.block_bytes()];
        match encoding {
            Encoding::F32 => numbers(matrix, row, column, bytes, out, |b| f32::from_le_bytes(*b)),
            Encoding::F16 => numbers(matrix, row, column, bytes, out, |b| f16(u16::from_le_bytes(*b))),
            Encoding::BF16 => numbers(matrix, row, column, bytes, out, |b| bf16(u16::from_le_bytes(*b))),
            Encoding::F8E4M3 => numbers(matrix, row, column, bytes, out, |[b]| f8e4m3(*b)),
            Encoding::F8E5M2 => numbers(matrix, row, column, bytes, out, |[b]| f8e5m2(*b)),
            Encoding::I8 => numbers(matrix, row, column, bytes, out, |[b]| f32::from(*b as i8)),
            // SAFETY, here and below: the instructions are the caller's.
            Encoding::Q8_0 => blocks::each(bytes, out, |b, o| unsafe { blocks::q8_0::<V>(b, o) }),
            Encoding::Q4_0 => blocks::each(bytes, out, |b, o| unsafe { blocks::q4_0::<V>(b, o) }),
            Encoding::Q4_1 => blocks::each(bytes, out, |b, o| unsafe { blocks::q4_1::<V>(b, o) }),
            Encoding::Q5_0 => blocks::each(bytes, out, |b, o| unsafe { blocks::q5_0::<V>(b, o) }),
            Encoding::Q5_1 => blocks::each(bytes, out, |b, o| unsafe { blocks::q5_1::<V>(b, o) }),
            Encoding::Q2K => blocks::each(bytes, out, |b, o| unsafe { blocks::q2_k::<V>(b, o) }),
            Encoding::Q3K => blocks::each(bytes, out, |b, o| unsafe { blocks::q3_k::<V>(b, o) }),
            Encoding::Q4K => blocks::each(bytes, out, |b, o| unsafe { blocks::q4_k::<V>(b, o) }),
            Encoding::Q5K => blocks::each(bytes, out, |b, o| unsafe { blocks::q5_k::<V>(b, o) }),
            Encoding::Q6K => blocks::each(bytes, out, |b, o| unsafe { blocks::q6_k::<V>(b, o) }),
            Encoding::Iq4Nl => blocks::each(bytes, out, |b, o| unsafe { blocks::iq4_nl::<V>(b, o) }),
            Encoding::Iq4Xs => blocks::each(bytes, out, |b, o| unsafe { blocks::iq4_xs::<V>(b, o) }),
        }
        if encoding.block() > 1 && *matrix.scales != Scales::None {
            by_scale(matrix, row, column, out.len(), |from, to, scale| {
                out[from..to].iter_mut().for_each(|x| *x *= scale);
            });
        }
        if let Some(group) = rotation {
            // SAFETY: as above.
            unsafe { rotate::<V>(out, group) };
        }
    }
}

/// Encodings of `W` bytes a number.
#[inline(always)]
fn numbers<const W: usize>(
    matrix: View,
    row: usize,
    column: usize,
    bytes: &[u8],
    out: &mut [f32],
    value: impl Fn(&[u8; W]) -> f32 + Copy,
) {
    let (stored, _) = bytes.as_chunks::<W>();
    by_scale(matrix, row, column, out.len(), |from, to, scale| {
        for (o, number) in out[from..to].iter_mut().zip(&stored[from..to]) {
            *o = value(number) * scale;
        }
    });
}

/// The runs of a span of `count` numbers that have one scale, from, to and scale.
#[inline(always)]
fn by_scale(matrix: View, row: usize, column: usize, count: usize, mut run: impl FnMut(usize, usize, f32)) {
    let Scales::Blocks { side, .. } = matrix.scales else {
        return run(0, count, matrix.scale(row, column));
    };
    let mut from = 0;
    while from < count {
        let to = count.min(((column + from) / side + 1) * side - column);
        run(from, to, matrix.scale(row, column + from));
        from = to;
    }
}
