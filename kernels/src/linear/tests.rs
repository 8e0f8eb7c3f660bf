use candle_core::{DType, Device, Tensor};

use super::{linear, reference};
use crate::testing::{assert_close, randn};

#[test]
fn agrees_with_the_reference_over_shapes_and_precisions() {
    for (seed, (rows, inner, out)) in
        [(1, 1, 1), (3, 7, 5), (17, 64, 33), (5, 129, 260), (2, 2048, 3000)].into_iter().enumerate()
    {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let x = randn(&[2, rows, inner], seed as u64);
            let w = randn(&[out, inner], 100 + seed as u64).to_dtype(dtype).unwrap();
            let b = randn(&[out], 200 + seed as u64);
            let got = linear(&x, &w, Some(&b)).unwrap();
            assert_close(&got, &reference::linear(&x, &w, Some(&b)).unwrap(), 2e-6);
            assert_close(&linear(&x, &w, None).unwrap(), &reference::linear(&x, &w, None).unwrap(), 2e-6);
        }
    }
}

#[test]
fn a_wrong_width_is_an_error() {
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let w = Tensor::zeros((4, 5), DType::F32, &Device::Cpu).unwrap();
    assert!(linear(&x, &w, None).is_err());
}
