use super::{Activation, Filter, Input, Part, conv2d, max_pool};
use crate::testing::{assert_close, randn};

/// The definition, index by index.
#[test]
fn a_convolution_is_the_sum_that_defines_it() {
    let (a, b) = (randn(&[2, 3, 4, 5], 1), randn(&[2, 6, 8, 2], 2));
    let (weight, bias, gate) = (randn(&[3, 7, 3, 3], 3), randn(&[3], 4), randn(&[2, 2], 5));
    let filter = Filter::new(&weight, &bias, 2, Activation::Silu).unwrap();
    let residual = randn(&[2, 3, 4, 3], 6);
    let parts = [Part { x: &a, doubled: true, gate: None }, Part { x: &b, doubled: false, gate: Some(&gate) }];
    let got = conv2d(&filter, Input { parts: &parts, residual: Some(&residual) }).unwrap();

    let at = |t: &candle_core::Tensor, index: &[usize]| {
        let mut t = t.clone();
        for i in index {
            t = t.get(*i).unwrap();
        }
        t.to_scalar::<f32>().unwrap()
    };
    let mut want = Vec::new();
    for n in 0..2 {
        for y in 0..3usize {
            for x in 0..4usize {
                for o in 0..3 {
                    let mut sum = at(&bias, &[o]);
                    for (ky, kx) in (0..9usize).map(|k| (k / 3, k % 3)) {
                        let (Some(sy), Some(sx)) = ((2 * y + ky).checked_sub(1), (2 * x + kx).checked_sub(1)) else {
                            continue;
                        };
                        if sy >= 6 || sx >= 8 {
                            continue;
                        }
                        for c in 0..7 {
                            let value = match c {
                                0..5 => at(&a, &[n, sy / 2, sx / 2, c]),
                                _ => at(&b, &[n, sy, sx, c - 5]) * at(&gate, &[n, c - 5]),
                            };
                            sum += value * at(&weight, &[o, c, ky, kx]);
                        }
                    }
                    want.push(sum / (1.0 + (-sum).exp()) + at(&residual, &[n, y, x, o]));
                }
            }
        }
    }
    let want = candle_core::Tensor::from_vec(want, (2, 3, 4, 3), &candle_core::Device::Cpu).unwrap();
    assert_close(&got, &want, 1e-6);
}

#[test]
fn pooling_sees_the_window_and_no_more() {
    let x = randn(&[1, 5, 6, 2], 7);
    let rows: Vec<Vec<Vec<f32>>> = x.get(0).unwrap().to_vec3().unwrap();
    let got: Vec<Vec<Vec<f32>>> = max_pool(&x, 3).unwrap().get(0).unwrap().to_vec3().unwrap();
    for y in 0..5usize {
        for x in 0..6usize {
            for c in 0..2 {
                let (ys, xs) = (y.saturating_sub(1)..(y + 2).min(5), x.saturating_sub(1)..(x + 2).min(6));
                let seen = ys.flat_map(|y| xs.clone().map(move |x| (y, x))).map(|(y, x)| rows[y][x][c]);
                assert_eq!(got[y][x][c], seen.fold(f32::MIN, f32::max));
            }
        }
    }
}

#[test]
fn filters_that_cannot_be_are_refused() {
    let bias = randn(&[3], 1);
    for (shape, stride) in [([3, 2, 2, 2], 1), ([3, 2, 3, 1], 1), ([4, 2, 3, 3], 1), ([3, 2, 3, 3], 3)] {
        assert!(Filter::new(&randn(&shape, 1), &bias, stride, Activation::Identity).is_err(), "{shape:?} {stride}");
    }
}
