use super::{RmsNorm, RmsNormRope, layer_norm, reference, rms_norm, rms_norm_in_place, rms_norm_rope_in_place};
use crate::level::Level;
use crate::rope::{Angles, rope};
use crate::rows::{map_rows_at, with_f32};
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

#[test]
fn norm_and_rope_in_one_pass_are_those_in_two() {
    for (seed, (b, l, h, d)) in
        [(1, 1, 1, 2), (2, 3, 2, 6), (1, 37, 3, 48), (1, 4, 3, 22), (2, 5, 12, 128)].into_iter().enumerate()
    {
        let s = 10 * seed as u64;
        let (x, w) = ((randn(&[b, l, h * d], s) * 3.0).unwrap(), randn(&[h * d], s + 1));
        let (cos, sin) = (randn(&[l, d / 2], s + 2), randn(&[l, d / 2], s + 3));
        let normed = rms_norm(&x, &w, 1e-6).unwrap().reshape((b, l, h, d)).unwrap();
        let got = rms_norm_rope_in_place(fresh(&x), &w, 1e-6, &cos, &sin).unwrap();
        assert_same(&got, &rope(&normed, &cos, &sin).unwrap());
        for level in Level::available() {
            let norm = RmsNorm::new(&x, &w, 1e-6).unwrap();
            let same = with_f32(&cos, |cos| {
                with_f32(&sin, |sin| {
                    map_rows_at(&x, &RmsNormRope { norm, rope: Angles { cos, sin, tokens: l } }, level)
                })
            });
            assert_same(&same.unwrap().reshape((b, l, h, d)).unwrap(), &got);
        }
        let want = reference::rms_norm(&x, &w, 1e-6).unwrap().reshape((b, l, h, d)).unwrap();
        assert_close(&got, &crate::rope::reference::rope(&want, &cos, &sin).unwrap(), 3e-6);
        // Not in the memory of others where it is not contiguous.
        let turned = fresh(&x.t().unwrap()).t().unwrap();
        if !turned.is_contiguous() {
            assert_same(&rms_norm_rope_in_place(turned.clone(), &w, 1e-6, &cos, &sin).unwrap(), &got);
            assert_same(&turned, &x);
        }
    }
}

#[test]
fn wrong_tables_are_errors() {
    let run = |channels: usize, cos: [usize; 2], sin: [usize; 2]| {
        let (x, w) = (randn(&[1, 4, channels], 1), randn(&[channels], 2));
        rms_norm_rope_in_place(x, &w, 1e-6, &randn(&cos, 3), &randn(&sin, 4))
    };
    assert_eq!(run(16, [4, 4], [4, 4]).unwrap().dims(), [1, 4, 2, 8]);
    for (channels, cos, sin) in [(16, [3, 4], [3, 4]), (16, [4, 4], [4, 2]), (12, [4, 4], [4, 4]), (16, [4, 0], [4, 0])]
    {
        assert!(run(channels, cos, sin).is_err());
    }
    assert!(
        rms_norm_rope_in_place(randn(&[1, 4, 8], 1), &randn(&[4], 2), 1e-6, &randn(&[4, 4], 3), &randn(&[4, 4], 4))
            .is_err()
    );
}
