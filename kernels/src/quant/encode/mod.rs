//! f32 to stored numbers.

mod blocks;
mod search;
mod superblocks;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use rayon::prelude::*;

use super::number::{E4M3_MAX, E5M2_MAX, to_f8e4m3, to_f8e5m2};
use super::rotate::{can_rotate, rotate};
use super::{Encoding, QuantError, QuantMatrix, Scales};
use crate::level::Level;
use crate::vector::{Task, Vector, run_at};

/// How many scales an 8-bit matrix gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scaling {
    /// None: a cast, which only 8-bit floats survive; and block formats, whose scales are inside.
    None,
    /// One for the matrix.
    Matrix,
    /// One a row.
    Rows,
    /// One for each square of this side.
    Blocks(usize),
}

/// The form that a matrix is encoded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// How numbers are stored.
    pub encoding: Encoding,
    /// Scales beside them.
    pub scaling: Scaling,
    /// Group size of the Hadamard rotation of each row before, a power of four that divides the columns.
    pub rotation: Option<usize>,
}

impl From<Encoding> for Target {
    /// The customary form: 8-bit floats with a scale for the matrix, integers with one a row, no rotation.
    fn from(encoding: Encoding) -> Self {
        let scaling = match encoding {
            Encoding::F8E4M3 | Encoding::F8E5M2 => Scaling::Matrix,
            Encoding::I8 => Scaling::Rows,
            _ => Scaling::None,
        };
        Self { encoding, scaling, rotation: None }
    }
}

/// The largest magnitude that scales and minima of block formats, which are f16, can reach.
const BLOCK_MAX: f32 = 65504.0;

/// `values` `[rows, columns]` in the form of a target. Deterministic, whatever the number of threads, in which rows are
/// encoded in parallel.
///
/// 8-bit numbers have the scale max|x| / largest (448, 57344 or 127) and are rounded to the nearest, ties to even, and
/// saturating. Q8_0, Q4_0, Q4_1, Q5_0 and Q5_1 have the same bytes as ggml's reference. The others search for the scales and
/// minima with the least squared error.
///
/// # Errors
/// Another number of values than the shape's, columns that are no whole blocks, a value that is not finite or beyond
/// ±65504 for block formats, a scaling or rotation that the encoding or the shape does not have.
pub fn encode(values: &[f32], [rows, columns]: [usize; 2], target: Target) -> Result<QuantMatrix, QuantError> {
    let Target { encoding, scaling, rotation } = target;
    let wrong = |problem: String| Err(QuantError { encoding, rows, columns, problem });
    if rows.checked_mul(columns) != Some(values.len()) {
        return wrong(format!("takes {rows} x {columns} values; {} were found", values.len()));
    }
    let Some(row_bytes) = encoding.row_bytes(columns) else {
        return wrong(format!("is no whole number of blocks of {} a row", encoding.block()));
    };
    if rotation.is_some_and(|group| !can_rotate(group, columns)) {
        return wrong(format!("cannot be rotated in groups of {}", rotation.unwrap_or(0)));
    }
    let fits = match (encoding, scaling) {
        (_, Scaling::Blocks(0)) => false,
        (Encoding::F8E4M3 | Encoding::F8E5M2, _) => true,
        (Encoding::I8, scaling) => scaling != Scaling::None,
        (_, scaling) => scaling == Scaling::None,
    };
    if !fits {
        return wrong(format!("cannot have scales like {scaling:?}"));
    }
    let limit = if encoding.block() > 1 || encoding == Encoding::F16 { BLOCK_MAX } else { f32::MAX };
    if let Some(at) = first_beyond(values, limit) {
        let (row, column) = (at / columns, at % columns);
        return wrong(format!("holds {} at row {row}, column {column}; up to ±{limit:e} can be stored", values[at]));
    }
    let encoder = Encoder { values, columns, target, row_bytes };
    let scales = encoder.scales(rows);
    let mut bytes = vec![0; rows * row_bytes];
    if row_bytes > 0 {
        let level = Level::detect();
        bytes.par_chunks_exact_mut(row_bytes).enumerate().for_each_init(Vec::new, |buffer, (row, out)| {
            run_at(level, Row { encoder: &encoder, scales: &scales, row, buffer, out });
        });
    }
    QuantMatrix::new(encoding, [rows, columns], Bytes::from(bytes), scales, rotation)
}

/// Index of the first value that is not finite or larger than a limit.
fn first_beyond(values: &[f32], limit: f32) -> Option<usize> {
    const PIECE: usize = 1 << 16;
    let bad = |x: &f32| x.is_nan() || x.abs() > limit;
    let piece = values.par_chunks(PIECE).position_first(|piece| piece.iter().fold(false, |any, x| any | bad(x)))?;
    values[piece * PIECE..].iter().position(bad).map(|at| piece * PIECE + at)
}

struct Encoder<'a> {
    values: &'a [f32],
    columns: usize,
    target: Target,
    row_bytes: usize,
}

impl Encoder<'_> {
    /// A row, rotated in `buffer` if it has to be.
    ///
    /// # Safety
    /// As [`Task::run`].
    #[inline(always)]
    unsafe fn row<'b, V: Vector>(&'b self, row: usize, buffer: &'b mut Vec<f32>) -> &'b [f32] {
        let values = &self.values[row * self.columns..][..self.columns];
        let Some(group) = self.target.rotation else { return values };
        buffer.clear();
        buffer.extend_from_slice(values);
        // SAFETY: the caller's.
        unsafe { rotate::<V>(buffer, group) };
        buffer
    }

    /// The scale of numbers up to `largest`: what is stored is at most the encoding's largest.
    fn scale(&self, largest: f32) -> f32 {
        let scale = largest
            / match self.target.encoding {
                Encoding::F8E4M3 => E4M3_MAX,
                Encoding::F8E5M2 => E5M2_MAX,
                _ => 127.0,
            };
        // Of zeros, and of what is as good as zero.
        if scale.is_normal() { scale } else { 1.0 }
    }

    fn scales(&self, rows: usize) -> Scales {
        let side = match self.target.scaling {
            Scaling::None => return Scales::None,
            Scaling::Matrix | Scaling::Rows => self.columns.max(1),
            Scaling::Blocks(side) => side,
        };
        let level = Level::detect();
        let largest = |buffer: &mut Vec<f32>, row: usize| {
            let mut out = vec![0.0; self.columns.div_ceil(side)];
            run_at(level, Largest { encoder: self, row, side, buffer, out: &mut out });
            out
        };
        let by_row: Vec<Vec<f32>> = (0..rows).into_par_iter().map_init(Vec::new, largest).collect();
        let first = |row: &Vec<f32>| row.first().copied().unwrap_or(0.0);
        match self.target.scaling {
            Scaling::Matrix => Scales::Matrix(self.scale(by_row.iter().map(first).fold(0.0, f32::max))),
            Scaling::Rows => Scales::Rows(by_row.iter().map(|row| self.scale(first(row))).collect()),
            _ => {
                let over = |rows: &[Vec<f32>]| -> Vec<f32> {
                    let column = |c: usize| rows.iter().map(|row| row[c]).fold(0.0, f32::max);
                    (0..self.columns.div_ceil(side)).map(|c| self.scale(column(c))).collect()
                };
                Scales::Blocks { side, values: by_row.chunks(side).flat_map(over).collect() }
            }
        }
    }
}

/// Largest magnitudes of a row's pieces of `side` columns.
struct Largest<'a> {
    encoder: &'a Encoder<'a>,
    row: usize,
    side: usize,
    buffer: &'a mut Vec<f32>,
    out: &'a mut [f32],
}

impl Task for Largest<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's.
        let values = unsafe { self.encoder.row::<V>(self.row, self.buffer) };
        for (out, piece) in self.out.iter_mut().zip(values.chunks(self.side)) {
            *out = piece.iter().fold(0.0, |most, x| if x.abs() > most { x.abs() } else { most });
        }
    }
}

/// One row to bytes.
struct Row<'a> {
    encoder: &'a Encoder<'a>,
    scales: &'a Scales,
    row: usize,
    buffer: &'a mut Vec<f32>,
    out: &'a mut [u8],
}

impl Task for Row<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { encoder, scales, row, buffer, out } = self;
        debug_assert_eq!(out.len(), encoder.row_bytes);
        // SAFETY: the caller's.
        let values = unsafe { encoder.row::<V>(row, buffer) };
        match encoder.target.encoding {
            Encoding::F32 => numbers(values, out, f32::to_le_bytes),
            Encoding::F16 => numbers(values, out, |x| half::f16::from_f32(x).to_le_bytes()),
            Encoding::BF16 => numbers(values, out, |x| half::bf16::from_f32(x).to_le_bytes()),
            Encoding::F8E4M3 => bytes(values, scales, row, out, to_f8e4m3),
            Encoding::F8E5M2 => bytes(values, scales, row, out, to_f8e5m2),
            Encoding::I8 => bytes(values, scales, row, out, |x| search::round(x.clamp(-127.0, 127.0)) as i32 as u8),
            Encoding::Q8_0 => blocks::each(values, out, blocks::q8_0),
            Encoding::Q4_0 => blocks::each(values, out, blocks::q4_0),
            Encoding::Q4_1 => blocks::each(values, out, blocks::q4_1),
            Encoding::Q5_0 => blocks::each(values, out, blocks::q5_0),
            Encoding::Q5_1 => blocks::each(values, out, blocks::q5_1),
            Encoding::Iq4Nl => blocks::each(values, out, blocks::iq4_nl),
            Encoding::Q2K => blocks::each(values, out, superblocks::q2_k),
            Encoding::Q3K => blocks::each(values, out, superblocks::q3_k),
            Encoding::Q4K => blocks::each(values, out, superblocks::q4_k),
            Encoding::Q5K => blocks::each(values, out, superblocks::q5_k),
            Encoding::Q6K => blocks::each(values, out, superblocks::q6_k),
            Encoding::Iq4Xs => blocks::each(values, out, superblocks::iq4_xs),
        }
    }
}

/// Floats, which have no scales.
#[inline(always)]
fn numbers<const W: usize>(values: &[f32], out: &mut [u8], narrow: impl Fn(f32) -> [u8; W] + Copy) {
    let (out, _) = out.as_chunks_mut::<W>();
    out.iter_mut().zip(values).for_each(|(o, x)| *o = narrow(*x));
}

/// A byte a number.
#[inline(always)]
fn bytes(values: &[f32], scales: &Scales, row: usize, out: &mut [u8], narrow: impl Fn(f32) -> u8 + Copy) {
    let run = |values: &[f32], out: &mut [u8], scale: f32| {
        for (o, x) in out.iter_mut().zip(values) {
            *o = narrow(x / scale);
        }
    };
    match scales {
        Scales::None => run(values, out, 1.0),
        Scales::Matrix(scale) => run(values, out, *scale),
        Scales::Rows(scales) => run(values, out, scales[row]),
        Scales::Blocks { side, values: scales } => {
            let scales = &scales[row / side * values.len().div_ceil(*side)..];
            for ((values, out), scale) in values.chunks(*side).zip(out.chunks_mut(*side)).zip(scales) {
                run(values, out, *scale);
            }
        }
    }
}
