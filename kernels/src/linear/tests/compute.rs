//! Products in bf16 and int8, and epilogues in all numbers.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;

use super::{quantise, values};
use crate::linear::{Difference, Epilogue, Input, Matrix, linear, linear_of, linear_with, reference};
use crate::quant::{Encoding, QuantMatrix, Scales, Scaling, Target};
use crate::testing::{assert_close, assert_same, fresh, randn};
use crate::{Compute, activation, level, residual};

/// In what this machine computes when asked for something.
fn here(compute: Compute, int8: bool) -> Compute {
    match compute {
        Compute::Int8 if int8 && level::int8_products() => Compute::Int8,
        Compute::Int8 | Compute::Bf16 if level::bf16_products() => Compute::Bf16,
        _ => Compute::F32,
    }
}

fn int8(scaling: Scaling, rotation: Option<usize>) -> Target {
    Target { encoding: Encoding::I8, scaling, rotation }
}

/// Against the reference that rounds likewise, which leaves the error of sums in f32.
fn agrees(x: &Tensor, weight: &Matrix, bias: Option<&Tensor>, tolerance: f32) {
    let is_int8 = weight
        .quantised()
        .is_some_and(|m| m.encoding() == Encoding::I8 && !matches!(m.scales(), Scales::Blocks { .. }));
    for compute in [Compute::Bf16, Compute::Int8] {
        let got = linear(x, &weight.clone().with_compute(compute), bias).unwrap();
        let rounded = weight.clone().with_compute(here(compute, is_int8));
        assert_close(&got, &reference::linear(x, &rounded, bias).unwrap(), tolerance);
    }
}

#[test]
fn every_encoding_agrees_with_the_reference_that_rounds_likewise() {
    for (seed, encoding) in Encoding::ALL.into_iter().enumerate() {
        let inner = if encoding.block() == 1 { 333 } else { 1280 };
        let w = Matrix::from(quantise([117, inner], encoding.into(), seed as u64));
        for rows in [1, 2, 3, 4, 5, 33] {
            let (x, b) = (randn(&[rows, inner], 50 + seed as u64), randn(&[117], 60));
            agrees(&x, &w, Some(&b), 3e-6);
        }
    }
}

#[test]
fn shapes_scales_and_rotations_agree_with_the_reference() {
    let shapes =
        [(1, 1, 1), (2, 31, 7), (4, 65, 57), (5, 1, 3), (16, 513, 56), (17, 256, 113), (70, 1024, 49), (47, 2050, 15)];
    for (seed, (rows, inner, out)) in shapes.into_iter().enumerate() {
        let x = randn(&[rows, inner], 100 + seed as u64);
        for scaling in [Scaling::Rows, Scaling::Matrix, Scaling::Blocks(128)] {
            let rotation = inner.is_multiple_of(256).then_some(256);
            for rotation in [None, rotation] {
                agrees(&x, &quantise([out, inner], int8(scaling, rotation), seed as u64).into(), None, 3e-6);
            }
        }
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let w = randn(&[out, inner], 200 + seed as u64).to_dtype(dtype).unwrap();
            agrees(&x, &w.into(), Some(&randn(&[out], 300)), 3e-6);
        }
    }
    // A rotation of groups smaller than what is packed at a time, and one of the whole row.
    for group in [4, 16, 1024] {
        let w = quantise([30, 1024], int8(Scaling::Rows, Some(group)), 7);
        agrees(&randn(&[21, 1024], 8), &w.into(), None, 3e-6);
    }
    for compute in [Compute::Bf16, Compute::Int8] {
        let w = Matrix::from(quantise([5, 64], int8(Scaling::Rows, None), 1)).with_compute(compute);
        let empty = |shape: [usize; 2]| Tensor::zeros(shape.as_slice(), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(linear(&empty([0, 64]), &w, None).unwrap().dims(), [0, 5]);
        let none = Matrix::from(empty([3, 0])).with_compute(compute);
        assert_eq!(values(&linear(&empty([2, 0]), &none, Some(&randn(&[3], 1))).unwrap()).len(), 6);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_shape_agrees(rows in 1usize..80, inner in 1usize..700, out in 1usize..130, seed in 0u64..1 << 40) {
        let x = randn(&[rows, inner], seed);
        agrees(&x, &randn(&[out, inner], seed + 1).to_dtype(DType::BF16).unwrap().into(), None, 3e-6);
        agrees(&x, &quantise([out, inner], int8(Scaling::Rows, None), seed + 2).into(), None, 3e-6);
    }
}

/// Pieces, threads, and the place of a weight's bytes.
#[test]
fn a_row_is_the_same_among_others_on_other_threads_and_from_other_addresses() {
    let on = |threads: usize, f: &(dyn Fn() -> Tensor + Sync)| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
    };
    for (seed, (rows, inner, out)) in [(1100, 320, 230), (75, 1280, 517), (3, 640, 200)].into_iter().enumerate() {
        let seed = seed as u64;
        let (x, bias) = (randn(&[rows, inner], seed), randn(&[out], seed + 1));
        for encoding in [Encoding::BF16, Encoding::F16, Encoding::I8, Encoding::Q8_0, Encoding::F8E4M3] {
            let matrix = quantise([out, inner], encoding.into(), seed + 2);
            let mut moved = vec![0; 1];
            moved.extend_from_slice(matrix.bytes());
            let moved = bytes::Bytes::from(moved).slice(1..);
            let moved = QuantMatrix::new(encoding, [out, inner], moved, matrix.scales().clone(), None).unwrap();
            for compute in [Compute::Bf16, Compute::Int8] {
                let weight = Matrix::from(matrix.clone()).with_compute(compute);
                let run = |x: &Tensor, weight: &Matrix| linear(x, weight, Some(&bias)).unwrap();
                let whole = on(1, &|| run(&x, &weight));
                assert_same(&on(2, &|| run(&x, &weight)), &whole);
                assert_same(&on(3, &|| run(&x, &weight)), &whole);
                assert_same(&run(&x, &Matrix::from(moved.clone()).with_compute(compute)), &whole);
                for most in [9, 13, 64, 129] {
                    for part in crate::pieces(rows, most) {
                        let piece = x.narrow(0, part.start, part.len()).unwrap();
                        assert_same(&run(&piece, &weight), &whole.narrow(0, part.start, part.len()).unwrap());
                    }
                }
            }
        }
    }
}

#[test]
fn inputs_may_be_views() {
    let wide = randn(&[300, 90], 1);
    for compute in [Compute::Bf16, Compute::Int8] {
        let w = Matrix::from(quantise([33, 64], int8(Scaling::Rows, None), 2)).with_compute(compute);
        for view in [wide.narrow(1, 7, 64).unwrap(), wide.narrow(0, 5, 64).unwrap().t().unwrap()] {
            assert_same(&linear(&view, &w, None).unwrap(), &linear(&fresh(&view), &w, None).unwrap());
        }
    }
}

/// What is not finite stays so, in its row only; small and zero rows are no division by zero.
#[test]
fn rows_of_extremes_stay_apart() {
    for rows in [4, 20] {
        let good = randn(&[rows, 96], 3);
        let mut bad = values(&good);
        (bad[5], bad[96 + 7]) = (f32::NAN, f32::INFINITY);
        bad[2 * 96..3 * 96].fill(0.0);
        let bad = Tensor::from_vec(bad, (rows, 96), &Device::Cpu).unwrap();
        for compute in [Compute::F32, Compute::Bf16, Compute::Int8] {
            let w = Matrix::from(quantise([40, 96], int8(Scaling::Rows, None), 4)).with_compute(compute);
            let got = linear(&bad, &w, None).unwrap().to_vec2::<f32>().unwrap();
            let want = linear(&good, &w, None).unwrap().to_vec2::<f32>().unwrap();
            assert!(got[0].iter().all(|y| y.is_nan()) && got[1].iter().all(|y| !y.is_finite()), "{compute:?}");
            assert!(got[2].iter().all(|y| *y == 0.0) && got[3..] == want[3..], "{compute:?}");
            let tiny = linear(&(&good * 1e-44).unwrap(), &w, None).unwrap();
            assert!(values(&tiny).iter().all(|y| y.abs() < 1e-37), "{compute:?}");
        }
    }
}

/// Rounding to 8 bits is visible, and no worse than it has to be.
#[test]
fn int8_is_as_close_as_eight_bits_allow() {
    let x = randn(&[40, 2048], 5);
    let w = Matrix::from(quantise([64, 2048], int8(Scaling::Rows, None), 6));
    let exact = linear(&x, &w, None).unwrap();
    for (compute, least, most) in [(Compute::Bf16, 1e-4, 4e-3), (Compute::Int8, 1e-3, 2e-2)] {
        if here(compute, true) == compute {
            let got = linear(&x, &w.clone().with_compute(compute), None).unwrap();
            assert_close(&got, &exact, most);
            let error = (got - &exact).unwrap().sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
            let size = exact.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap();
            assert!((error / size).sqrt() > least, "{compute:?} does not round");
        }
    }
}

#[test]
fn epilogues_are_the_bits_of_one_after_the_other() {
    let shapes = [(1, 64, 50), (4, 96, 200), (9, 33, 130), (50, 320, 260)];
    for (seed, (rows, inner, out)) in shapes.into_iter().enumerate() {
        let seed = 10 * seed as u64;
        let x = randn(&[2, rows, inner], seed);
        let (bias, gate) = (randn(&[out], seed + 1), randn(&[1, 1, out], seed + 2));
        let residual = randn(&[2, out, rows], seed + 3).transpose(1, 2).unwrap();
        let base = Matrix::from(quantise([out, inner], int8(Scaling::Rows, None), seed + 4));
        let float = Matrix::from(randn(&[out, inner], seed + 5));
        let difference = Difference::Whole { difference: randn(&[out, inner], seed + 6), factor: 0.5 };
        for compute in [Compute::F32, Compute::Bf16, Compute::Int8] {
            for weight in [base.clone(), float.clone(), base.clone().with(difference.clone()).unwrap()] {
                let weight = weight.with_compute(compute);
                let plain = linear(&x, &weight, Some(&bias)).unwrap();
                let with = |epilogue| linear_with(&x, &weight, Some(&bias), epilogue).unwrap();
                assert_same(&with(Epilogue::None), &plain);
                assert_same(&with(Epilogue::GeluTanh), &activation::gelu_tanh(&plain).unwrap());
                let gated = with(Epilogue::GatedResidual { residual: &residual, gate: &gate });
                assert_same(&gated, &residual::gated_add(&residual, &plain, &gate).unwrap());
                assert_same(&with(Epilogue::Residual(&residual)), &(&residual + &plain).unwrap());
                assert_same(&with(Epilogue::Times(&residual)), &(&residual * &plain).unwrap());
            }
        }
        let wrong = [(randn(&[rows, out], 1), gate), (residual, randn(&[out + 1], 2))];
        for (residual, gate) in &wrong {
            let epilogue = Epilogue::GatedResidual { residual, gate };
            let error = linear_with(&x, &float, None, epilogue).unwrap_err().to_string();
            assert!(error.contains("residual") && error.contains("by gate"), "{error}");
        }
        let short = randn(&[2, rows, out + 1], 3);
        for epilogue in [Epilogue::Residual(&short), Epilogue::Times(&short)] {
            assert!(linear_with(&x, &float, None, epilogue).unwrap_err().to_string().contains("to go with"));
        }
    }
}

/// Whatever the rows' number, which other matrices there are, and the numbers they are multiplied in.
#[test]
fn inputs_normalised_on_the_way_are_the_bits_of_one_after_the_other() {
    let shapes = [(1, 64, 50), (4, 33, 20), (5, 320, 130), (37, 256, 70), (1100, 512, 60)];
    for (seed, (rows, inner, out)) in shapes.into_iter().enumerate() {
        let seed = 10 * seed as u64;
        let x = randn(&[2, inner, rows], seed).transpose(1, 2).unwrap();
        let (gain, shift, bias) = (randn(&[inner], seed + 1), randn(&[1, inner], seed + 2), randn(&[out], seed + 3));
        let shift = shift.flatten_all().unwrap();
        let rotation = inner.is_multiple_of(256).then_some(256);
        let float = Matrix::from(randn(&[out, inner], seed + 5));
        let matrices = [
            Matrix::from(quantise([out, inner], int8(Scaling::Rows, None), seed + 4)),
            Matrix::from(quantise([out, inner], int8(Scaling::Rows, rotation), seed + 4)),
            Matrix::from(quantise([out, inner], Encoding::F8E4M3.into(), seed + 6)),
            float.clone().with(Difference::Whole { difference: randn(&[out, inner], seed + 7), factor: 0.5 }).unwrap(),
            float,
        ];
        for gains in [None, Some((&gain, &shift))] {
            let (weight, bias_of_norm) = gains.unzip();
            let normed = crate::norm::reference::layer_norm(&x, weight, bias_of_norm, 1e-6).unwrap();
            let first = crate::norm::layer_norm(&x, weight, bias_of_norm, 1e-6).unwrap();
            assert_close(&first, &normed, 3e-6);
            let shared = Input::normed(x.clone(), weight, bias_of_norm, 1e-6).unwrap();
            assert_eq!(shared.dims(), [2, rows, inner]);
            for compute in [Compute::Int8, Compute::F32, Compute::Bf16] {
                for matrix in &matrices {
                    let matrix = matrix.clone().with_compute(compute);
                    let after = linear_with(&first, &matrix, Some(&bias), Epilogue::GeluTanh).unwrap();
                    assert_same(&linear_of(&shared, &matrix, Some(&bias), Epilogue::GeluTanh).unwrap(), &after);
                }
            }
        }
        let short = randn(&[inner + 1], 1);
        assert!(Input::normed(x, Some(&short), None, 1e-6).is_err());
    }
}

#[test]
fn compute_stays_with_a_matrix_and_differences_are_f32() {
    let w = Matrix::from(quantise([40, 256], int8(Scaling::Rows, None), 1)).with_compute(Compute::Int8);
    let low_rank = Difference::LowRank { down: randn(&[4, 256], 2), up: randn(&[40, 4], 3), first_row: 0, factor: 0.4 };
    let beside = w.clone().with(low_rank.clone()).unwrap();
    assert_eq!((beside.compute(), beside.now().unwrap().compute()), (Compute::Int8, Compute::Int8));
    let x = randn(&[12, 256], 4);
    let rounded = beside.clone().with_compute(here(Compute::Int8, true));
    assert_close(&linear(&x, &beside, None).unwrap(), &reference::linear(&x, &rounded, None).unwrap(), 3e-6);

    #[derive(Debug)]
    struct Later(Matrix);
    impl crate::linear::LaterMatrix for Later {
        fn shape(&self) -> [usize; 2] {
            self.0.dims2().unwrap().into()
        }
        fn bytes(&self) -> u64 {
            self.0.stored_bytes()
        }
        fn load(&self) -> candle_core::Result<Matrix> {
            Ok(self.0.clone())
        }
    }
    let later = Matrix::later(std::sync::Arc::new(Later(w.clone().with_compute(Compute::F32))));
    let later = later.with_compute(Compute::Int8).with(low_rank).unwrap();
    assert_same(&linear(&x, &later, None).unwrap(), &linear(&x, &beside, None).unwrap());
}
