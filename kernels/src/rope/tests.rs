use super::{reference, rope, rope_in_place};
use crate::testing::{assert_close, assert_same, fresh, randn};

#[test]
fn agrees_with_the_reference_over_shapes() {
    for (seed, (b, l, h, d)) in [(1, 1, 1, 2), (2, 3, 2, 6), (1, 37, 3, 48), (1, 5, 40, 128)].into_iter().enumerate() {
        let x = randn(&[b, l, h, d], seed as u64);
        let (cos, sin) = (randn(&[l, d / 2], 70), randn(&[l, d / 2], 71));
        assert_close(&rope(&x, &cos, &sin).unwrap(), &reference::rope(&x, &cos, &sin).unwrap(), 1e-6);
        assert_same(&rope_in_place(fresh(&x), &cos, &sin).unwrap(), &rope(&x, &cos, &sin).unwrap());
    }
}

#[test]
fn wrong_tables_are_errors() {
    assert!(rope(&randn(&[1, 4, 2, 8], 1), &randn(&[3, 4], 2), &randn(&[3, 4], 3)).is_err());
    assert!(rope(&randn(&[1, 4, 2, 8], 1), &randn(&[4, 8], 2), &randn(&[4, 8], 3)).is_err());
    assert!(rope_in_place(randn(&[1, 4, 2, 8], 1), &randn(&[4, 8], 2), &randn(&[4, 8], 3)).is_err());
}
