use candle_core::{Device, Tensor};

use super::{Each, GeluTanh, Silu, gelu_tanh, gelu_tanh_in_place, reference, silu};
use crate::level::Level;
use crate::rows::map_rows_at;
use crate::testing::{assert_close, assert_same, fresh, randn};

#[test]
fn agree_with_the_references_over_shapes_and_levels() {
    for (seed, shape) in [vec![1, 1], vec![3, 17], vec![2, 5, 130], vec![1, 9, 4096]].iter().enumerate() {
        let x = (randn(shape, seed as u64) * 4.0).unwrap();
        assert_close(&gelu_tanh(&x).unwrap(), &reference::gelu_tanh(&x).unwrap(), 1e-6);
        assert_same(&gelu_tanh_in_place(fresh(&x)).unwrap(), &gelu_tanh(&x).unwrap());
        assert_close(&silu(&x).unwrap(), &reference::silu(&x).unwrap(), 1e-6);
        for level in Level::available() {
            assert_close(&map_rows_at(&x, &Each(GeluTanh), level).unwrap(), &reference::gelu_tanh(&x).unwrap(), 1e-6);
            assert_close(&map_rows_at(&x, &Each(Silu), level).unwrap(), &reference::silu(&x).unwrap(), 1e-6);
        }
    }
}

#[test]
fn extremes_stay_what_they_are() {
    let x = Tensor::new(&[[-1e30f32, -100.0, 0.0, 100.0, 1e12, f32::NAN]], &Device::Cpu).unwrap();
    for y in [gelu_tanh(&x).unwrap(), silu(&x).unwrap()] {
        let y = y.to_vec2::<f32>().unwrap().remove(0);
        assert!(y[1].abs() < 1e-30 && y[2] == 0.0 && y[3] == 100.0 && y[4] == 1e12 && y[5].is_nan(), "{y:?}");
    }
}

/// A view without memory of its own order is computed anew, and what it is a view of stays.
#[test]
fn strided_views_are_left_alone() {
    let x = randn(&[7, 5], 3);
    let before = fresh(&x);
    assert_same(&gelu_tanh_in_place(x.t().unwrap()).unwrap(), &gelu_tanh(&before.t().unwrap()).unwrap());
    assert_same(&x, &before);
}
