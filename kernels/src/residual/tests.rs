use super::{add_in_place, gated_add, gated_add_in_place, reference};
use crate::testing::{assert_close, assert_same, fresh, randn};

#[test]
fn agrees_with_the_reference_over_shapes() {
    for (seed, shape) in [vec![1, 1], vec![4, 7], vec![2, 33, 128]].iter().enumerate() {
        let (x, y) = (randn(shape, seed as u64), randn(shape, 40 + seed as u64));
        let gate = randn(&[1, 1, shape[shape.len() - 1]], 80);
        assert_close(&gated_add(&x, &y, &gate).unwrap(), &reference::gated_add(&x, &y, &gate).unwrap(), 1e-6);
        assert_same(&gated_add_in_place(&x, fresh(&y), &gate).unwrap(), &gated_add(&x, &y, &gate).unwrap());
        assert_same(&add_in_place(&x, fresh(&y)).unwrap(), &(&x + &y).unwrap());
    }
    assert!(gated_add(&randn(&[2, 3], 1), &randn(&[3, 2], 2), &randn(&[3], 3)).is_err());
    assert!(gated_add(&randn(&[2, 3], 1), &randn(&[2, 3], 2), &randn(&[2], 3)).is_err());
    assert!(gated_add_in_place(&randn(&[2, 3], 1), randn(&[2, 3], 2), &randn(&[2], 3)).is_err());
    assert!(add_in_place(&randn(&[2, 3], 1), randn(&[3, 2], 2)).is_err());
}
