//! Rows cut into pieces that are computed one after the other.

use std::ops::Range;

/// The fewest rows that [`pieces`] can be asked for.
pub const FEWEST_ROWS: usize = 9;

/// With this many rows for a piece, all have more than 64, and results are those of all rows together to the bit.
pub const INDEPENDENT_ROWS: usize = 129;

/// `0..total` in as few pieces of at most `most` rows as will do, alike in size to one row; `most` counts as at least
/// [`FEWEST_ROWS`], and no piece has fewer than five rows unless all rows together are fewer.
///
/// A row's product does not depend on the rows beside it, to the bit, with two exceptions: quantised matrices sum up to
/// four rows in another order (see [`linear`](crate::linear::linear)), and so do matrices of floats where both the rows and
/// the columns of the result are 64 or fewer. With [`INDEPENDENT_ROWS`] or more for `most` neither happens.
pub fn pieces(total: usize, most: usize) -> impl ExactSizeIterator<Item = Range<usize>> {
    let count = total.div_ceil(most.max(FEWEST_ROWS));
    (0..count).map(move |i| total * i / count..total * (i + 1) / count)
}

/// Rows of the largest of [`pieces`].
pub fn largest_piece(total: usize, most: usize) -> usize {
    total.div_ceil(total.div_ceil(most.max(FEWEST_ROWS)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_rows_and_none_is_small() {
        for total in 0..400 {
            for most in 0..60 {
                let all: Vec<_> = pieces(total, most).collect();
                assert_eq!(all.iter().cloned().flatten().collect::<Vec<_>>(), (0..total).collect::<Vec<_>>());
                let largest = all.iter().map(Range::len).max().unwrap_or(0);
                assert_eq!(largest, largest_piece(total, most));
                assert!(largest <= most.max(FEWEST_ROWS));
                assert!(all.iter().all(|p| p.len() >= total.min(5) && p.len() + 1 >= largest), "{total} by {most}");
                let independent = pieces(total, most + INDEPENDENT_ROWS);
                assert!(independent.into_iter().all(|p| p.len() >= total.min(65)), "{total} by {most} more");
            }
        }
    }
}
