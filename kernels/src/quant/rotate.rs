//! The Hadamard rotation of rows.

use crate::vector::{Task, Vector};

/// Whether rows of so many columns can be rotated in groups of so many: a power of four that divides them.
pub(super) fn can_rotate(group: usize, columns: usize) -> bool {
    group.is_power_of_two() && group.trailing_zeros().is_multiple_of(2) && columns.is_multiple_of(group)
}

/// The largest group in which rows of so many columns can be rotated.
pub(crate) fn largest_group(columns: usize) -> usize {
    (1 << (columns.trailing_zeros() & !1).min(62)).min(columns)
}

/// `H·x/√n` in place for each group of `n` numbers, a power of four; its own inverse but for rounding. What it computes is in
/// [`reference::rotate`](super::decode::reference::rotate), in the same order; slices of a stage's distance are what the
/// compiler makes vectors of.
///
/// # Safety
/// As [`Task::run`](crate::vector::Task::run).
#[inline(always)]
pub(super) unsafe fn rotate<V: Vector>(x: &mut [f32], group: usize) {
    let factor = (1.0 / (group as f64).sqrt()) as f32;
    for x in x.chunks_exact_mut(group) {
        let mut distance = group / 4;
        while distance > 0 {
            match distance {
                1 => x.chunks_exact_mut(4).for_each(|four| stage(four, 1)),
                4 => x.chunks_exact_mut(16).for_each(|four| stage(four, 4)),
                _ => x.chunks_exact_mut(4 * distance).for_each(|four| stage(four, distance)),
            }
            distance /= 4;
        }
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Four slices of `distance` numbers each, which are turned together.
#[inline(always)]
fn stage(four: &mut [f32], distance: usize) {
    let (a, rest) = four.split_at_mut(distance);
    let (b, rest) = rest.split_at_mut(distance);
    let (c, d) = rest.split_at_mut(distance);
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        let (sum, difference, other_sum, other) = (*a + *b, *a - *b, *c + *d, *c - *d);
        (*a, *b, *c, *d) = (sum + other, sum - other, difference + other_sum, other_sum - difference);
    }
}

/// [`rotate`] as a task.
pub(crate) struct Rotation<'a> {
    /// Whole groups.
    pub x: &'a mut [f32],
    /// Numbers of a group.
    pub group: usize,
}

impl Task for Rotation<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's.
        unsafe { rotate::<V>(self.x, self.group) };
    }
}

#[cfg(test)]
mod tests {
    use super::{can_rotate, largest_group};

    #[test]
    fn no_group_is_larger_than_the_largest() {
        for columns in 1..5000 {
            let largest = largest_group(columns);
            assert!(can_rotate(largest, columns), "{largest} of {columns}");
            assert!((largest + 1..=columns).all(|group| !can_rotate(group, columns)), "{columns}");
        }
        assert_eq!(largest_group(0), 0);
    }
}
