use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::reference;
use crate::level::Level;
use crate::quant::{Encoding, QuantMatrix, Scales};
use crate::vector::run_at;

/// Any bytes at all, so that scales are also infinite, subnormal and NaN.
fn random(encoding: Encoding, shape: [usize; 2], scales: Scales, rotation: Option<usize>, seed: u64) -> QuantMatrix {
    let mut bytes = vec![0; shape[0] * encoding.row_bytes(shape[1]).unwrap()];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    QuantMatrix::new(encoding, shape, Bytes::from(bytes), scales, rotation).unwrap()
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(same, "{what}: number {i} is {got:e}, not {want:e}");
    }
}

fn check(matrix: &QuantMatrix) {
    let [rows, columns] = matrix.shape();
    let want: Vec<f32> = (0..rows).flat_map(|row| reference::row(matrix, row)).collect();
    for level in Level::available() {
        for row in 0..rows {
            let mut got = vec![-1.0; columns];
            run_at(level, matrix.view().span(row, 0, &mut got));
            let what = format!("{} {level:?} {:?} row {row}", matrix.encoding(), matrix.rotation());
            assert_same(&got, &want[row * columns..][..columns], &what);
            // And in pieces.
            let granule = matrix.view().granule();
            let middle = columns / granule / 2 * granule;
            let mut got = vec![-1.0; columns - middle];
            run_at(level, matrix.view().span(row, middle, &mut got));
            assert_same(&got, &want[row * columns + middle..][..columns - middle], &what);
        }
    }
    let mut got = vec![-1.0; (rows - 1) * columns];
    matrix.decode_rows(1, rows - 1, &mut got).unwrap();
    assert_same(&got, &want[columns..], "rows");
}

#[test]
fn every_encoding_is_decoded_as_the_reference_says() {
    for (seed, encoding) in Encoding::ALL.into_iter().enumerate() {
        let columns = if encoding.block() == 1 { [1, 37, 512] } else { [256, 512, 1280] };
        for columns in columns {
            check(&random(encoding, [5, columns], Scales::None, None, seed as u64));
        }
    }
}

#[test]
fn scales_and_rotations_are_as_the_reference_says() {
    let spread = |count: usize| (0..count).map(|i| 0.013 * (i as f32 - 2.6)).collect::<Vec<_>>();
    for (seed, encoding) in [Encoding::F8E4M3, Encoding::I8, Encoding::Q8_0].into_iter().enumerate() {
        for rotation in [None, Some(1), Some(4), Some(16), Some(64), Some(256)] {
            let side = 96;
            let blocks = Scales::Blocks { side, values: spread(5usize.div_ceil(side) * 768usize.div_ceil(side)) };
            for scales in [Scales::None, Scales::Matrix(0.37), Scales::Rows(spread(5)), blocks] {
                check(&random(encoding, [5, 768], scales, rotation, 100 + seed as u64));
            }
        }
    }
    for columns in [1usize, 127, 129, 300] {
        let values = spread(3 * columns.div_ceil(128));
        check(&random(Encoding::I8, [261, columns], Scales::Blocks { side: 128, values }, None, columns as u64));
    }
}

#[test]
fn a_rotation_is_orthonormal_and_its_own_inverse() {
    for n in [1usize, 4, 16, 64, 256, 1024] {
        let x: Vec<f32> = (0..n).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect();
        // The sign is that of a product of one number for each pair of digits to the base of four: -1 where they sum to three.
        let sign = |mut i: usize, mut j: usize| {
            let mut sign = 1.0;
            while i + j > 0 {
                sign = if i % 4 + j % 4 == 3 { -sign } else { sign };
                (i, j) = (i / 4, j / 4);
            }
            sign
        };
        // Digits beyond the last are zero and zero, which sum to no three.
        let matrix: Vec<f64> = (0..n * n).map(|at| sign(at / n, at % n) / (n as f64).sqrt()).collect();
        let mut y = x.clone();
        reference::rotate(&mut y);
        for (row, y) in matrix.chunks(n).zip(&y) {
            let want: f64 = row.iter().zip(&x).map(|(h, x)| h * f64::from(*x)).sum();
            assert!((want - f64::from(*y)).abs() < 1e-5, "{n}: {y} {want}");
        }
        reference::rotate(&mut y);
        assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-6));
    }
}

#[test]
fn rows_that_are_not_there_are_refused() {
    let matrix = random(Encoding::Q8_0, [4, 64], Scales::None, None, 1);
    let mut out = vec![0.0; 128];
    assert!(matrix.decode_rows(2, 2, &mut out).is_ok());
    let said = matrix.decode_rows(3, 2, &mut out).unwrap_err().to_string();
    assert_eq!(said, "a Q8_0 matrix [4, 64] has no 2 rows from row 3 on");
    assert!(matrix.decode_rows(usize::MAX, 2, &mut out).is_err());
    assert!(matrix.decode_rows(0, 1, &mut out).unwrap_err().to_string().contains("not 128"));
    assert!(matrix.decode_rows(4, 0, &mut []).is_ok());
}
