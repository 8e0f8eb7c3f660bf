use super::{layer_norm, reference, rms_norm, rms_norm_in_place};
use crate::testing::{assert_close, assert_same, fresh, randn};

#[test]
fn agree_with_the_references_over_shapes() {
    for (seed, shape) in [vec![1, 1], vec![3, 7], vec![2, 5, 128], vec![1, 33, 1280]].iter().enumerate() {
        let x = ((randn(shape, seed as u64) * 3.0).unwrap() + 0.7).unwrap();
        let width = shape[shape.len() - 1];
        let (w, b) = (randn(&[width], 10), randn(&[width], 11));
        for (w, b) in [(None, None), (Some(&w), None), (Some(&w), Some(&b))] {
            let want = reference::layer_norm(&x, w, b, 1e-6).unwrap();
            // A row of one element has no variance: both give (x − x)/√eps.
            assert_close(&layer_norm(&x, w, b, 1e-6).unwrap(), &want, 3e-6);
        }
        assert_close(&rms_norm(&x, &w, 1e-6).unwrap(), &reference::rms_norm(&x, &w, 1e-6).unwrap(), 3e-6);
        assert_same(&rms_norm_in_place(fresh(&x), &w, 1e-6).unwrap(), &rms_norm(&x, &w, 1e-6).unwrap());
        // A strided view.
        let t = x.t().unwrap();
        let want = reference::layer_norm(&t.contiguous().unwrap(), None, None, 1e-5).unwrap();
        assert_close(&layer_norm(&t, None, None, 1e-5).unwrap(), &want, 3e-6);
    }
}

#[test]
fn a_wrong_gain_is_an_error() {
    assert!(rms_norm(&randn(&[2, 4], 1), &randn(&[3], 2), 1e-6).is_err());
    assert!(rms_norm_in_place(randn(&[2, 4], 1), &randn(&[3], 2), 1e-6).is_err());
    assert!(layer_norm(&randn(&[2, 4], 1), Some(&randn(&[3], 2)), None, 1e-6).is_err());
}
