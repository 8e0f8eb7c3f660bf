//! Linears against the definition, which rounds as the GPU does.

use candle_core::{DType, Device, Tensor};
use kernels::Compute;
use kernels::activation::reference as activation;
use kernels::cuda::ops::{Activation, Columns, RowOutput, RowWork, Terms, input_form, linear, linear_rounded, rows};
use kernels::cuda::{GpuDtype, GpuMatrix};
use kernels::linear::{Difference, Matrix, reference};
use kernels::quant::{Encoding, Scaling, Target, encode};

use crate::{Bench, LEVELS, Random, assert_close};

/// A matrix of the numbers of `w`, in a form that is multiplied with as it is.
fn stored(w: &Tensor, encoding: Encoding, scaling: Scaling, rotation: Option<usize>) -> Matrix {
    match encoding {
        Encoding::BF16 => w.to_dtype(DType::BF16).unwrap().into(),
        _ => {
            let values = w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            encode(&values, w.dims2().unwrap().into(), Target { encoding, scaling, rotation }).unwrap().into()
        }
    }
}

#[test]
fn agrees_with_the_definition() {
    LEVELS.into_iter().filter_map(Bench::at).for_each(|bench| agrees_with_the_definition_at(&bench));
}

fn agrees_with_the_definition_at(bench: &Bench) {
    let mut random = Random::new();
    for case in 0..16 {
        let (encoding, scaling, rotation) = [
            (Encoding::BF16, Scaling::None, None),
            (Encoding::I8, Scaling::Rows, None),
            (Encoding::I8, Scaling::Matrix, Some(256)),
            (Encoding::F8E4M3, Scaling::Matrix, None),
            (Encoding::F8E4M3, Scaling::Rows, Some(256)),
            (Encoding::I8, Scaling::Blocks(128), None),
            (Encoding::F8E5M2, Scaling::Matrix, Some(256)),
            (random.one_of(&[Encoding::F32, Encoding::F16, Encoding::Q8_0, Encoding::Q4K]), Scaling::None, None),
        ][case % 8];
        let inner = match encoding {
            Encoding::Q4K => 256 * random.within(1..3),
            Encoding::Q8_0 => 32 * random.within(1..10),
            _ if rotation.is_some() => 256 * random.within(1..3),
            _ => 16 * random.within(1..20),
        };
        let (groups, each, out) = (random.within(1..3), random.within(1..90), random.within(1..300));
        let x = random.normal(&[groups, each, inner], DType::BF16);
        let w = (random.normal(&[out, inner], DType::F32) / (inner as f64).sqrt()).unwrap();
        let matrix = stored(&w, encoding, scaling, rotation);
        let weight = GpuMatrix::upload(&bench.gpu, &matrix).unwrap();
        let what = format!("{encoding} {rotation:?} [{groups}·{each}, {inner}] → {out}");
        let bias = random.normal(&[out], DType::F32);
        let gate = random.normal(&[groups, 1, out], DType::F32);
        let residual = random.normal(&[groups, each, out], DType::BF16);
        let kind = random.one_of(&[Activation::None, Activation::GeluTanh, Activation::Silu]);
        let output = random.one_of(&[GpuDtype::F32, GpuDtype::Bf16]);
        let [bias_there, gate_there] = [&bias, &gate].map(|t| bench.upload(t, GpuDtype::F32));
        let residual_there = bench.upload(&residual, output);
        let (biased, gated, added) = (random.within(0..2) == 1, random.within(0..2) == 1, random.within(0..2) == 1);
        let terms = Terms {
            bias: biased.then_some(&bias_there),
            activation: kind,
            gate: gated.then_some(&gate_there),
            residual: added.then_some(&residual_there),
            output,
        };
        let got = linear(&bench.gpu, &bench.upload(&x, GpuDtype::Bf16), &weight, &terms).unwrap();
        assert_eq!(got.dtype(), output);

        let form = input_form(&bench.gpu, &weight).unwrap();
        let compute = if form.output == RowOutput::Int8 { Compute::Int8 } else { Compute::Bf16 };
        let mut want = reference::linear(&x, &matrix.with_compute(compute), biased.then_some(&bias)).unwrap();
        want = match kind {
            Activation::GeluTanh => activation::gelu_tanh(&want).unwrap(),
            Activation::Silu => activation::silu(&want).unwrap(),
            _ => want,
        };
        if gated {
            want = want.broadcast_mul(&gate).unwrap();
        }
        if added {
            want = (want + &residual).unwrap();
        }
        // e4m3 inputs have 4 bits, which the definition in bf16 has not; int8 ones may be rounded the other way once.
        let tolerance = match (form.output, output) {
            (RowOutput::E4m3, _) => 4e-2,
            (RowOutput::Int8, GpuDtype::F32) => 3e-4,
            // What is decoded is rounded with its scale.
            (_, GpuDtype::F32) if encoding == Encoding::BF16 => 3e-4,
            _ => 5e-3,
        };
        assert_close(&bench.download(&got), &want, tolerance, &format!("{what} {terms:?}"));
    }
}

#[test]
fn inputs_that_eight_bits_do_not_hold_are_kept_in_bf16() {
    LEVELS.into_iter().filter_map(Bench::at).for_each(|bench| {
        let mut random = Random::new();
        for encoding in [Encoding::I8, Encoding::F8E4M3] {
            // Beside the first, which meets a zero, all that counts would be rounded to nothing.
            let mut x = random.normal(&[5, 64], DType::BF16).to_vec2::<f32>().unwrap();
            x.iter_mut().for_each(|row| row[0] = 1e6);
            let x = Tensor::new(x, &Device::Cpu).unwrap();
            let mut w = random.normal(&[40, 64], DType::F32).to_vec2::<f32>().unwrap();
            w.iter_mut().for_each(|row| row[0] = 0.0);
            let matrix = stored(&Tensor::new(w, &Device::Cpu).unwrap(), encoding, Scaling::Rows, None);
            let weight = GpuMatrix::upload(&bench.gpu, &matrix).unwrap().with_bf16_inputs();
            let got = linear(&bench.gpu, &bench.upload(&x, GpuDtype::Bf16), &weight, &Terms::default()).unwrap();
            let want = reference::linear(&x, &matrix.with_compute(Compute::Bf16), None).unwrap();
            assert_close(&bench.download(&got), &want, 5e-3, &format!("{encoding}"));
        }
    });
}

#[test]
fn only_what_kernels_know_follows_a_product() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    let x = bench.upload(&random.normal(&[2, 16], DType::BF16), GpuDtype::Bf16);
    let weight = GpuMatrix::upload(&bench.gpu, &random.normal(&[8, 16], DType::BF16).into()).unwrap();
    for activation in [Activation::GeluErf, Activation::GeluQuick] {
        assert!(linear(&bench.gpu, &x, &weight, &Terms { activation, ..Terms::default() }).is_err());
    }
}

#[test]
fn differences_are_added_before_anything_else() {
    LEVELS.into_iter().filter_map(Bench::at).for_each(|bench| differences_are_added_before_anything_else_at(&bench));
}

fn differences_are_added_before_anything_else_at(bench: &Bench) {
    let mut random = Random::new();
    for encoding in [Encoding::BF16, Encoding::I8] {
        let (count, inner, out, rank) = (random.within(1..40), 64, 48, random.one_of(&[3, 8, 16]));
        let x = random.normal(&[count, inner], DType::BF16);
        let w = (random.normal(&[out, inner], DType::F32) / 8.0).unwrap();
        let small = |t: Tensor| (t / 8.0).unwrap();
        let low = Difference::LowRank {
            down: small(random.normal(&[rank, inner], DType::BF16)),
            up: small(random.normal(&[16, rank], DType::BF16)),
            first_row: 16,
            factor: 0.5,
        };
        let whole = Difference::Whole { difference: small(random.normal(&[out, inner], DType::BF16)), factor: 2.0 };
        let matrix = stored(&w, encoding, Scaling::Rows, None).with(low).unwrap().with(whole).unwrap();
        let weight = GpuMatrix::upload(&bench.gpu, &matrix).unwrap();
        let form = input_form(&bench.gpu, &weight).unwrap();
        let there = bench.upload(&x, GpuDtype::Bf16);
        let work = RowWork { output: form.output, rotate: form.rotate, plain: form.plain, ..RowWork::default() };
        let rounded = rows(&bench.gpu, Columns::all(&there), &work).unwrap();
        let residual = random.normal(&[count, out], DType::F32);
        let gate = random.normal(&[out], DType::F32);
        let (residual_there, gate_there) = (bench.upload(&residual, GpuDtype::F32), bench.upload(&gate, GpuDtype::F32));
        let compute = if encoding == Encoding::I8 { Compute::Int8 } else { Compute::Bf16 };
        let plain = reference::linear(&x, &matrix.with_compute(compute), None).unwrap();
        let silu = activation::silu(&plain).unwrap();
        for (gated, added) in [(false, false), (true, false), (true, true)] {
            let terms = Terms {
                activation: Activation::Silu,
                gate: gated.then_some(&gate_there),
                residual: added.then_some(&residual_there),
                output: GpuDtype::F32,
                ..Terms::default()
            };
            let got = linear_rounded(&bench.gpu, &rounded, &weight, &terms).unwrap();
            let mut want = silu.clone();
            if gated {
                want = want.broadcast_mul(&gate).unwrap();
            }
            if added {
                want = (want + &residual).unwrap();
            }
            assert_close(&bench.download(&got), &want, 1e-2, &format!("{encoding} gate {gated} residual {added}"));
        }
        // Nothing was written to.
        assert_close(&bench.download(&residual_there), &residual, 0.0, "the residual");
    }
}

#[test]
fn wrong_shapes_are_errors() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    let mut make = |shape: &[usize]| bench.upload(&random.normal(shape, DType::F32), GpuDtype::F32);
    let w: Matrix = Tensor::zeros((24, 32), DType::BF16, &Device::Cpu).unwrap().into();
    let odd: Matrix = Tensor::zeros((24, 36), DType::BF16, &Device::Cpu).unwrap().into();
    let halves: Matrix = Tensor::zeros((24, 32), DType::F16, &Device::Cpu).unwrap().into();
    let [w, odd, halves] = [w, odd, halves].map(|m| GpuMatrix::upload(&bench.gpu, &m).unwrap());
    let (x, wide, bias, short) = (make(&[3, 32]), make(&[3, 36]), make(&[24]), make(&[23]));
    let terms = |bias| Terms { bias: Some(bias), ..Terms::default() };
    assert!(linear(&bench.gpu, &x, &w, &terms(&bias)).is_ok());
    assert!(linear(&bench.gpu, &x, &w, &terms(&short)).is_err());
    for (x, w) in [(&wide, &w), (&x, &odd), (&wide, &odd)] {
        assert!(linear(&bench.gpu, x, w, &Terms::default()).is_err());
    }
    assert!(linear(&bench.gpu, &x, &halves, &Terms::default()).is_ok());
    let gate = Terms { gate: Some(&short), ..Terms::default() };
    let residual = Terms { residual: Some(&x), ..Terms::default() };
    assert!(linear(&bench.gpu, &x, &w, &gate).is_err() && linear(&bench.gpu, &x, &w, &residual).is_err());
}
