use bytes::Bytes;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;
use safetensors::SafeTensors;

use super::{Scaling, Target, encode};
use crate::quant::{Encoding, QuantMatrix, Scales};
use crate::testing::randn;

const FIXTURE: &[u8] = include_bytes!("../../../tests/fixtures/quant.safetensors");

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn decoded(matrix: &QuantMatrix) -> Vec<f32> {
    let [rows, columns] = matrix.shape();
    let mut out = vec![0.0; rows * columns];
    matrix.decode_rows(0, rows, &mut out).unwrap();
    out
}

fn values(shape: [usize; 2], seed: u64) -> Vec<f32> {
    randn(&shape, seed).flatten_all().unwrap().to_vec1().unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect()
}

/// Root of the mean squared difference.
fn rmse(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    (sum / a.len() as f64).sqrt()
}

#[test]
fn decoding_gives_what_gguf_and_torch_give() {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    for encoding in Encoding::ALL.into_iter().filter(|e| *e != Encoding::I8 && !e.is_float()) {
        let bytes = Bytes::copy_from_slice(file.tensor(&format!("{encoding}.bytes")).unwrap().data());
        let matrix = QuantMatrix::new(encoding, [3, 512], bytes, Scales::None, None).unwrap();
        assert_eq!(bits(&decoded(&matrix)), bits(&floats(&file, &format!("{encoding}.values"))), "{encoding}");
    }
}

#[test]
fn simple_encodings_give_the_bytes_of_gguf_and_torch() {
    let file = SafeTensors::deserialize(FIXTURE).unwrap();
    let plain = floats(&file, "plain");
    let check = |encoding, scaling, name: &str| {
        let matrix = encode(&plain, [6, 512], Target { encoding, scaling, rotation: None }).unwrap();
        let want = file.tensor(name).unwrap();
        let different = matrix.bytes().iter().zip(want.data()).position(|(a, b)| a != b);
        assert_eq!((matrix.bytes().len(), different), (want.data().len(), None), "{name}");
        matrix
    };
    for encoding in [Encoding::Q8_0, Encoding::Q4_0, Encoding::Q4_1, Encoding::Q5_0, Encoding::Q5_1] {
        check(encoding, Scaling::None, &format!("{encoding}.encoded"));
    }
    for encoding in [Encoding::F8E4M3, Encoding::F8E5M2] {
        check(encoding, Scaling::None, &format!("{encoding}.encoded"));
        let matrix = check(encoding, Scaling::Rows, &format!("{encoding}.encoded_rows"));
        assert_eq!(*matrix.scales(), Scales::Rows(floats(&file, &format!("{encoding}.scales"))));
    }
}

#[test]
fn searched_encodings_are_as_near_as_ggml_s() {
    // Normal, heavy-tailed and shifted numbers.
    let normal = values([16, 1024], 5);
    let heavy: Vec<f32> = normal.iter().map(|x| 0.02 * x * x * x).collect();
    let shifted: Vec<f32> = normal.iter().map(|x| 0.01 * x + 0.02).collect();
    let kinds = [
        (Encoding::Q2K, GgmlDType::Q2K),
        (Encoding::Q3K, GgmlDType::Q3K),
        (Encoding::Q4K, GgmlDType::Q4K),
        (Encoding::Q5K, GgmlDType::Q5K),
        (Encoding::Q6K, GgmlDType::Q6K),
    ];
    for (which, values) in [normal, heavy, shifted].iter().enumerate() {
        for (encoding, theirs) in kinds {
            let matrix = encode(values, [16, 1024], encoding.into()).unwrap();
            let tensor = Tensor::from_slice(values, (16, 1024), &Device::Cpu).unwrap();
            let quantised = QTensor::quantize(&tensor, theirs).unwrap();
            let back = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            // Its bytes mean the same to both.
            let bytes = Bytes::copy_from_slice(&quantised.data().unwrap());
            let read = decoded(&QuantMatrix::new(encoding, [16, 1024], bytes, Scales::None, None).unwrap());
            assert!(rmse(&read, &back) <= 1e-6 * rmse(&back, &vec![0.0; back.len()]), "{encoding}");
            let (own, its) = (rmse(&decoded(&matrix), values), rmse(&back, values));
            println!("{encoding} on {which}: rmse {own:.3e}, ggml's {its:.3e}, ratio {:.3}", own / its);
            assert!(own <= 1.05 * its, "{encoding} on {which}: rmse {own:e} against {its:e}");
        }
    }
}

/// Signal to noise in dB for normal numbers that each form gives at least.
#[test]
fn every_form_keeps_what_its_bits_can() {
    let values = values([64, 1024], 9);
    let signal = rmse(&values, &vec![0.0; values.len()]);
    let form = |encoding, scaling, rotation| Target { encoding, scaling, rotation };
    let least = [
        (form(Encoding::F8E4M3, Scaling::Matrix, None), 31.0),
        (form(Encoding::F8E4M3, Scaling::Rows, None), 31.0),
        (form(Encoding::F8E4M3, Scaling::Blocks(128), None), 31.0),
        (form(Encoding::F8E5M2, Scaling::Matrix, None), 25.0),
        (form(Encoding::I8, Scaling::Matrix, None), 38.0),
        (form(Encoding::I8, Scaling::Rows, None), 41.5),
        (form(Encoding::I8, Scaling::Rows, Some(256)), 41.5),
        (form(Encoding::I8, Scaling::Blocks(128), None), 39.0),
        (Encoding::Q8_0.into(), 45.0),
        (Encoding::Q4_0.into(), 19.5),
        (Encoding::Q4_1.into(), 20.5),
        (Encoding::Q5_0.into(), 26.0),
        (Encoding::Q5_1.into(), 27.0),
        (Encoding::Q2K.into(), 9.5),
        (Encoding::Q3K.into(), 15.5),
        (Encoding::Q4K.into(), 21.5),
        (Encoding::Q5K.into(), 27.5),
        (Encoding::Q6K.into(), 33.5),
        (Encoding::Iq4Nl.into(), 21.5),
        (Encoding::Iq4Xs.into(), 21.3),
    ];
    for (target, least) in least {
        let noise = rmse(&decoded(&encode(&values, [64, 1024], target).unwrap()), &values);
        let decibels = 20.0 * (signal / noise).log10();
        println!("{target:?}: {decibels:.2} dB");
        assert!(decibels >= least, "{target:?}: {decibels} dB, less than {least}");
    }
}

#[test]
fn a_rotation_keeps_rows_with_outliers() {
    let mut values = values([32, 1024], 3);
    values.iter_mut().step_by(101).for_each(|x| *x *= 30.0);
    let noise = |rotation| {
        let target = Target { rotation, ..Encoding::I8.into() };
        rmse(&decoded(&encode(&values, [32, 1024], target).unwrap()), &values)
    };
    assert!(noise(Some(256)) < 0.5 * noise(None), "{} {}", noise(Some(256)), noise(None));
}

#[test]
fn the_number_of_threads_does_not_show() {
    let values = values([37, 768], 11);
    for encoding in Encoding::ALL {
        let encoded = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| encode(&values, [37, 768], encoding.into()).unwrap())
        };
        let (one, three) = (encoded(1), encoded(3));
        assert!(one.bytes() == three.bytes() && one.scales() == three.scales(), "{encoding}");
    }
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let mut values = vec![0.5; 2 * 256];
    let said = |values: &[f32], target: Target| encode(values, [2, 256], target).unwrap_err().to_string();
    let plain = |encoding| Target { scaling: Scaling::None, ..Target::from(encoding) };
    assert!(said(&values[1..], Encoding::Q8_0.into()).contains("takes 2 x 256 values; 511 were found"));
    assert!(said(&values, plain(Encoding::I8)).contains("cannot have scales like None"));
    assert!(said(&values, Target { scaling: Scaling::Rows, ..Encoding::Q4K.into() }).contains("like Rows"));
    assert!(said(&values, Target { scaling: Scaling::Blocks(0), ..Encoding::I8.into() }).contains("Blocks(0)"));
    assert!(said(&values, Target { rotation: Some(3), ..Encoding::I8.into() }).contains("groups of 3"));
    assert!(encode(&values, [16, 32], Encoding::Q4K.into()).unwrap_err().to_string().contains("blocks of 256"));
    values[300] = 1e6;
    assert!(said(&values, Encoding::Q4K.into()).contains("holds 1000000 at row 1, column 44; up to ±6.5504e4"));
    assert!(encode(&values, [2, 256], Encoding::I8.into()).is_ok());
    values[300] = f32::NAN;
    assert!(said(&values, plain(Encoding::F8E4M3)).contains("holds NaN at row 1, column 44"));
    for encoding in Encoding::ALL {
        assert!(encode(&[], [0, 256], encoding.into()).is_ok() && encode(&[], [3, 0], encoding.into()).is_ok());
    }
}

proptest! {
    #[test]
    fn what_was_decoded_is_encoded_to_the_same(
        seed in any::<u64>(), exponent in -12i32..4, which in 0usize..8, zero in any::<bool>(),
    ) {
        let form = |encoding, scaling| Target { encoding, scaling, rotation: None };
        let target = [
            form(Encoding::F8E4M3, Scaling::None),
            form(Encoding::F8E4M3, Scaling::Matrix),
            form(Encoding::F8E4M3, Scaling::Rows),
            form(Encoding::F8E5M2, Scaling::Rows),
            form(Encoding::I8, Scaling::Matrix),
            form(Encoding::I8, Scaling::Rows),
            form(Encoding::I8, Scaling::Blocks(48)),
            Encoding::Q8_0.into(),
        ][which];
        let mut values = values([5, 160], seed);
        values.iter_mut().for_each(|x| *x *= 10f32.powi(exponent));
        if zero {
            values[160..320].fill(0.0);
        }
        let once = encode(&values, [5, 160], target).unwrap();
        let twice = encode(&decoded(&once), [5, 160], target).unwrap();
        prop_assert!(decoded(&once) == decoded(&twice));
    }

    #[test]
    fn nothing_encoded_is_beyond_what_it_was(seed in any::<u64>(), exponent in -40i32..5, which in 0usize..18) {
        let mut values = values([2, 256], seed);
        values.iter_mut().for_each(|x| *x *= 10f32.powi(exponent));
        let matrix = encode(&values, [2, 256], Encoding::ALL[which].into()).unwrap();
        let most = |v: &[f32]| v.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        let out = decoded(&matrix);
        prop_assert!(out.iter().all(|x| x.is_finite()));
        prop_assert!(most(&out) <= 1.35 * most(&values) + 1e-5, "{} {}", most(&out), most(&values));
    }
}
