//! Which numbers are rounded how: what [`reference`](super::reference) and the kernels have in common.

use crate::quant::{Encoding, Scales};

/// Longest rows whose sums of bytes cannot overflow 32 bits.
const INT8_COLUMNS: usize = 1 << 16;

/// Whether a matrix can be multiplied as bytes: int8 with at most one scale a row.
pub(super) fn is_int8(encoding: Encoding, scales: &Scales, columns: usize) -> bool {
    encoding == Encoding::I8 && scale_is_of_row(encoding, scales) && columns <= INT8_COLUMNS
}

/// Whether numbers can be rounded without their scales, which sums are multiplied with instead: then scales lose nothing.
pub(super) fn scale_is_of_row(encoding: Encoding, scales: &Scales) -> bool {
    encoding.block() == 1 && !matches!(scales, Scales::Blocks { .. })
}

/// The scale of a row of inputs whose largest magnitude is this, and by what its numbers are multiplied before they are rounded to
/// the nearest whole ones, ties to even: their magnitudes are up to 127. A row of zeros, or of numbers so small that there is
/// no such factor, counts as zeros; with one that is not finite all sums are NaN.
pub(super) fn int8_scale(largest: f32) -> (f32, f32) {
    let factor = 127.0 / largest;
    match (largest.is_finite(), factor.is_finite()) {
        (false, _) => (f32::NAN, 0.0),
        (true, true) => (largest / 127.0, factor),
        (true, false) => (0.0, 0.0),
    }
}
