mod compute;

use candle_core::{DType, Device, Tensor};

use super::epilogue::Output;
use super::{Difference, Job, Matrix, linear, reference, tiles};
use crate::level::Level;
use crate::quant::{Encoding, QuantMatrix, Scaling, Target, encode};
use crate::testing::{assert_close, assert_same, randn};

fn values(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn quantise(shape: [usize; 2], target: Target, seed: u64) -> QuantMatrix {
    encode(&values(&randn(&shape, seed)), shape, target).unwrap()
}

#[test]
fn agrees_with_the_reference_over_shapes_and_precisions() {
    for (seed, (rows, inner, out)) in
        [(1, 1, 1), (3, 7, 5), (17, 64, 33), (5, 129, 260), (2, 2048, 3000)].into_iter().enumerate()
    {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let x = randn(&[2, rows, inner], seed as u64);
            let w = randn(&[out, inner], 100 + seed as u64).to_dtype(dtype).unwrap().into();
            let b = randn(&[out], 200 + seed as u64);
            let got = linear(&x, &w, Some(&b)).unwrap();
            assert_close(&got, &reference::linear(&x, &w, Some(&b)).unwrap(), 2e-6);
            assert_close(&linear(&x, &w, None).unwrap(), &reference::linear(&x, &w, None).unwrap(), 2e-6);
        }
    }
}

#[test]
fn every_encoding_agrees_with_the_reference() {
    for (seed, encoding) in Encoding::ALL.into_iter().enumerate() {
        let inner = if encoding.block() == 1 { 333 } else { 768 };
        let w = Matrix::from(quantise([97, inner], encoding.into(), seed as u64));
        for rows in [1, 3, 4, 5, 33] {
            let x = randn(&[rows, inner], 50 + seed as u64);
            let b = randn(&[97], 60);
            assert_close(&linear(&x, &w, Some(&b)).unwrap(), &reference::linear(&x, &w, Some(&b)).unwrap(), 1e-6);
        }
    }
}

#[test]
fn quantised_products_agree_over_shapes_and_instruction_sets() {
    let shapes: [(usize, usize, usize); 7] =
        [(1, 1, 1), (2, 31, 7), (4, 600, 57), (5, 1, 3), (16, 513, 56), (17, 256, 113), (70, 1024, 49)];
    for (seed, (rows, inner, out)) in shapes.into_iter().enumerate() {
        for scaling in [Scaling::Rows, Scaling::Blocks(128)] {
            let rotation = inner.is_multiple_of(256).then_some(inner);
            let target = Target { encoding: Encoding::I8, scaling, rotation };
            let matrix = quantise([out, inner], target, seed as u64);
            let x = randn(&[rows, inner], 100 + seed as u64);
            let want = reference::linear(&x, &matrix.clone().into(), None).unwrap();
            for level in Level::available() {
                let (x, output) = (values(&x), Output::NONE);
                let got = tiles::product(&x, Job { count: rows, weight: matrix.view(), output }, level);
                assert_close(&Tensor::from_vec(got, (rows, out), &Device::Cpu).unwrap(), &want, 1e-6);
            }
        }
    }
    let x = Tensor::zeros((0, 64), DType::F32, &Device::Cpu).unwrap();
    let w = quantise([5, 64], Encoding::Q8_0.into(), 1).into();
    assert_eq!(linear(&x, &w, None).unwrap().dims(), [0, 5]);
}

#[test]
fn neither_threads_nor_the_batch_nor_the_tiling_show() {
    // More rows than are repacked at once, and more than a tile of outputs.
    let matrix = quantise([260, 256], Encoding::Q4K.into(), 3);
    let w = Matrix::from(matrix);
    let x = randn(&[1100, 256], 4);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| values(&linear(&x, &w, None).unwrap()))
    };
    let all = with(1);
    assert!(all == with(3));
    // A row of many is the same among others, and an output among other outputs.
    let some = linear(&x.narrow(0, 37, 50).unwrap(), &w, None).unwrap();
    assert!(values(&some) == all[37 * 260..87 * 260]);
    let few = |rows| values(&linear(&x.narrow(0, 0, rows).unwrap(), &w, None).unwrap());
    assert!(few(4)[..260] == few(1)[..]);
}

#[test]
fn differences_are_added_beside_and_inside() {
    let (rows, inner, out) = (9, 256, 48);
    let low_rank = |seed, first_row, rows| Difference::LowRank {
        down: randn(&[4, inner], seed),
        up: randn(&[rows, 4], seed + 1).to_dtype(DType::BF16).unwrap(),
        first_row,
        factor: 0.3,
    };
    let whole = Difference::Whole { difference: randn(&[out, inner], 7).to_dtype(DType::F16).unwrap(), factor: -0.5 };
    let bases: [Matrix; 2] = [
        quantise([out, inner], Encoding::Q6K.into(), 1).into(),
        randn(&[out, inner], 2).to_dtype(DType::BF16).unwrap().into(),
    ];
    for base in bases {
        let w = [low_rank(10, 0, out), whole.clone(), low_rank(20, 16, 16), low_rank(30, 32, 16)]
            .into_iter()
            .try_fold(base.clone(), Matrix::with)
            .unwrap();
        let (x, b) = (randn(&[rows, inner], 3), randn(&[out], 4));
        let want = reference::linear(&x, &w, Some(&b)).unwrap();
        assert_close(&linear(&x, &w, Some(&b)).unwrap(), &want, 1e-6);
        // The same as with the sum.
        let sum = w.to_tensor(DType::F32).unwrap();
        assert_close(&linear(&x, &sum.clone().into(), Some(&b)).unwrap(), &want, 1e-6);
        let ids = [47, 0, 16, 16];
        let picked = sum.index_select(&Tensor::new(&ids[..], &Device::Cpu).unwrap(), 0).unwrap();
        assert_close(&w.select(&ids).unwrap(), &picked, 1e-6);
        assert!(w.select(&[48]).is_err());
        let beside = 4 * (4 * 256) * 3 + 2 * 4 * (48 + 16 + 16) + 2 * 48 * 256;
        assert_eq!(w.stored_bytes(), base.stored_bytes() + beside as u64);
        // Nothing is left where nothing is added.
        assert_eq!(values(&base.select(&[5]).unwrap()), values(&base.to_tensor(DType::F32).unwrap().get(5).unwrap()));
    }
    let base = Matrix::from(quantise([out, inner], Encoding::Q8_0.into(), 1));
    assert!(base.clone().with(low_rank(1, 33, 16)).unwrap_err().to_string().contains("[48, 256]"));
    assert!(base.with(Difference::Whole { difference: randn(&[out, 255], 7), factor: 1.0 }).is_err());
}

#[test]
fn a_matrix_is_decoded_as_a_whole_where_floats_are_asked_for() {
    // More than one tile.
    let matrix = quantise([4200, 1024], Encoding::I8.into(), 5);
    let mut want = vec![0.0; 4200 * 1024];
    matrix.decode_rows(0, 4200, &mut want).unwrap();
    let matrix = Matrix::from(matrix);
    assert!(values(&matrix.to_tensor(DType::F32).unwrap()) == want);
    let half = matrix.to_tensor(DType::BF16).unwrap();
    let rounded = Tensor::from_vec(want, (4200, 1024), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
    assert!(values(&half.to_dtype(DType::F32).unwrap()) == values(&rounded.to_dtype(DType::F32).unwrap()));
    assert_eq!(matrix.stored_bytes(), 4200 * 1024 + 4 * 4200);
    assert_eq!(matrix.dims2().unwrap(), (4200, 1024));
}

#[test]
fn what_does_not_fit_is_an_error() {
    let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let w = Tensor::zeros((4, 5), DType::F32, &Device::Cpu).unwrap();
    assert!(linear(&x, &w.into(), None).is_err());
    let w = Matrix::from(quantise([4, 3], Encoding::I8.into(), 1));
    assert!(linear(&x, &w, Some(&Tensor::zeros(5, DType::F32, &Device::Cpu).unwrap())).is_err());
    assert!(linear(&Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(), &w, None).is_ok());
}

/// Pieces give each row the bits that it has among all, whatever the weight is held as.
#[test]
fn rows_do_not_know_of_each_other() {
    for (seed, (rows, inner, out)) in [(161, 1024, 60), (401, 768, 1024), (137, 4096, 1300)].into_iter().enumerate() {
        let s = 10 * seed as u64;
        let float = randn(&[out, inner], s);
        let (down, up) = (randn(&[8, inner], s + 1), randn(&[out, 8], s + 2));
        let difference = Difference::LowRank { down, up, first_row: 0, factor: 0.7 };
        let quantised = |target| Matrix::from(quantise([out, inner], target, s));
        let q8 = quantised(Encoding::Q8_0.into());
        for weight in [
            float.clone().into(),
            float.to_dtype(DType::BF16).unwrap().into(),
            quantised(Encoding::F8E4M3.into()),
            q8.clone(),
            q8.with(difference).unwrap(),
            quantised(Encoding::Q4K.into()),
            quantised(Target { encoding: Encoding::I8, scaling: Scaling::Rows, rotation: Some(256) }),
        ] {
            let (x, bias) = (randn(&[rows, inner], s + 3), randn(&[out], s + 4));
            let whole = linear(&x, &weight, Some(&bias)).unwrap();
            for most in [129, 200] {
                for part in crate::pieces(rows, most) {
                    let x = x.narrow(0, part.start, part.len()).unwrap();
                    let got = linear(&x, &weight, Some(&bias)).unwrap();
                    assert_same(&got, &whole.narrow(0, part.start, part.len()).unwrap());
                }
            }
        }
    }
}
