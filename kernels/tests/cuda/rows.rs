//! What is done with whole rows, against the definitions.

use candle_core::{DType, Device, Tensor};
use kernels::cuda::ops::{
    Columns, Modulation, Norm, Rope, RowOutput, RowWork, layer_norm_modulate, rms_norm_rope_in_place, rows,
    rows_in_place,
};
use kernels::cuda::{GpuDtype, GpuTensor};
use kernels::quant::{Encoding, QuantMatrix, Scales};
use kernels::{norm, rope};

use crate::{Bench, Random, assert_close};

/// What a result in bf16 may be off by; of f32, what sums in another order are.
fn tolerance(output: RowOutput) -> f32 {
    if output == RowOutput::F32 { 1e-5 } else { 4e-3 }
}

/// `value` for each of `count` rows: row `r` of `rows` has that of `r / (rows / count)`.
fn spread(values: &Tensor, rows: usize) -> Tensor {
    let (count, width) = values.dims2().unwrap();
    let wide = values.unsqueeze(1).unwrap().broadcast_as((count, rows / count, width)).unwrap();
    wide.contiguous().unwrap().reshape((rows, width)).unwrap()
}

/// `[tokens, half]` cosines and sines.
fn angles(random: &mut Random, tokens: usize, half: usize) -> (Tensor, Tensor) {
    let angle = random.normal(&[tokens, half], DType::F32);
    (angle.cos().unwrap(), angle.sin().unwrap())
}

#[test]
fn norms_modulation_and_positions_agree_with_the_definitions() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for case in 0..18 {
        let heads = random.within(1..4);
        let width = random.one_of(&[8, 16, 64, 128, 2048]);
        let columns = heads * width;
        let (groups, tokens) = (random.within(1..4), random.within(1..6));
        let count = groups * tokens;
        let input = random.one_of(&[GpuDtype::F32, GpuDtype::Bf16]);
        let output = random.one_of(&[RowOutput::F32, RowOutput::Bf16]);
        let kind = case % 3;
        let x = random.normal(&[count, columns], if input == GpuDtype::F32 { DType::F32 } else { DType::BF16 });
        let x = (x * 3.0).unwrap().broadcast_add(&Tensor::new(0.5f32, &Device::Cpu).unwrap()).unwrap();
        let x = if input == GpuDtype::F32 { x } else { x.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap() };
        let scale = random.normal(&[groups, columns], DType::F32);
        let shift = random.normal(&[groups, columns], DType::F32);
        let (cos, sin) = angles(&mut random, tokens, width / 2);
        let offset = (case % 2) as f32;
        let turns = case % 4 < 2;

        let there = bench.upload(&x, input);
        let [scale_there, shift_there, cos_there, sin_there] =
            [&scale, &shift, &cos, &sin].map(|t| bench.upload(t, GpuDtype::F32));
        let eps = 1e-6;
        let work = RowWork {
            norm: [Norm::None, Norm::Layer { eps }, Norm::Rms { eps }][kind],
            modulation: Modulation { scale: Some(&scale_there), shift: Some(&shift_there), offset },
            rope: turns.then_some(Rope { cos: &cos_there, sin: &sin_there }),
            output,
            ..RowWork::default()
        };
        let got = rows(&bench.gpu, Columns::all(&there), &work).unwrap();

        let ones = Tensor::ones(columns, DType::F32, &Device::Cpu).unwrap();
        let normal = match kind {
            0 => x.clone(),
            1 => norm::reference::layer_norm(&x, None, None, f64::from(eps)).unwrap(),
            _ => norm::reference::rms_norm(&x, &ones, f64::from(eps)).unwrap(),
        };
        let factor = (spread(&scale, count) + f64::from(offset)).unwrap();
        let mut want = ((normal * factor).unwrap() + spread(&shift, count)).unwrap();
        if turns {
            let split = want.reshape((groups, tokens, heads, width)).unwrap();
            want = rope::reference::rope(&split, &cos, &sin).unwrap().reshape((count, columns)).unwrap();
        }
        let what = format!("{:?} {input:?} {output:?} [{count}, {columns}] heads {heads} rope {turns}", work.norm);
        assert_close(&bench.download(&got.values), &want, tolerance(output), &what);
    }
}

#[test]
fn rows_are_rounded_to_8_bits_with_their_own_scales() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for (columns, rotate) in [(256, false), (512, true), (40, false), (5120, true), (13_824, false)] {
        for output in [RowOutput::Int8, RowOutput::E4m3] {
            let count = random.within(1..5);
            let x = random.normal(&[count, columns], DType::BF16);
            let there = bench.upload(&x, GpuDtype::Bf16);
            let work = RowWork { rotate, output, plain: true, ..RowWork::default() };
            let got = rows(&bench.gpu, Columns::all(&there), &work).unwrap();
            assert_close(&bench.download(got.plain.as_ref().unwrap()), &x, 0.0, "plain");
            // As a stored matrix with these scales, which is decoded with the rotation undone.
            let bytes = got.values.download(&bench.gpu).unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
            let scales = got.scales.unwrap().download(&bench.gpu).unwrap().to_vec1::<f32>().unwrap();
            let encoding = if output == RowOutput::Int8 { Encoding::I8 } else { Encoding::F8E4M3 };
            let rotation = rotate.then_some(256);
            let stored = QuantMatrix::new(encoding, [count, columns], bytes.into(), Scales::Rows(scales), rotation);
            let back = kernels::linear::Matrix::from(stored.unwrap()).to_tensor(DType::F32).unwrap();
            // Half a step of 127, on average a third of it of the largest of a row; 3 bits of mantissa.
            let tolerance = if output == RowOutput::Int8 { 0.02 } else { 0.04 };
            assert_close(&back, &x, tolerance, &format!("{output:?} {columns} rotate {rotate}"));
        }
    }
}

#[test]
fn parts_of_rows_change_in_their_place() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    let (tokens, columns, width) = (5, 48, 16);
    let qkv = random.normal(&[1, tokens, 3 * columns], DType::BF16);
    let weight = random.normal(&[columns], DType::F32);
    let (cos, sin) = angles(&mut random, tokens, width / 2);
    let there = bench.upload(&qkv, GpuDtype::Bf16);
    let [weight_there, cos_there, sin_there] = [&weight, &cos, &sin].map(|t| bench.upload(t, GpuDtype::F32));
    let angles = Rope { cos: &cos_there, sin: &sin_there };
    let k = Columns::part(&there, columns, columns).unwrap();
    rms_norm_rope_in_place(&bench.gpu, k, &weight_there, 1e-6, Some(angles)).unwrap();
    let got = bench.download(&there);
    let part = |t: &Tensor, n: usize| t.narrow(2, n * columns, columns).unwrap().contiguous().unwrap();
    for n in [0, 2] {
        assert_close(&part(&got, n), &part(&qkv, n), 0.0, "what is beside");
    }
    let normal = norm::reference::rms_norm(&part(&qkv, 1), &weight, 1e-6).unwrap();
    let heads = normal.reshape((1, tokens, columns / width, width)).unwrap();
    let want = rope::reference::rope(&heads, &cos, &sin).unwrap().reshape((1, tokens, columns)).unwrap();
    assert_close(&part(&got, 1), &want, 4e-3, "keys");
}

#[test]
fn wrong_shapes_are_errors() {
    let Some(bench) = Bench::open() else { return };
    let gpu = &bench.gpu;
    let make = |shape: &[usize], dtype| GpuTensor::zeros(gpu, shape, dtype).unwrap();
    let x = make(&[4, 24], GpuDtype::Bf16);
    let (good, wide, three) = (make(&[24], GpuDtype::F32), make(&[32], GpuDtype::F32), make(&[3, 24], GpuDtype::F32));
    assert!(layer_norm_modulate(gpu, &x, [&good, &good], 1e-6, RowOutput::Bf16).is_ok());
    for pair in [[&good, &wide], [&three, &three], [&good, &x]] {
        assert!(layer_norm_modulate(gpu, &x, pair, 1e-6, RowOutput::Bf16).is_err());
    }
    assert!(layer_norm_modulate(gpu, &x, [&good, &good], 0.0, RowOutput::Bf16).is_err());
    let rotated = RowWork { rotate: true, ..RowWork::default() };
    assert!(rows(gpu, Columns::all(&x), &rotated).is_err());
    let other = RowWork { output: RowOutput::Int8, ..RowWork::default() };
    assert!(rows_in_place(gpu, Columns::all(&x), &other).is_err());
    for (shape, dtype) in [(&[2, 12][..], GpuDtype::Bf16), (&[2, 14_344], GpuDtype::F32), (&[2, 16], GpuDtype::F16)] {
        assert!(rows(gpu, Columns::all(&make(shape, dtype)), &RowWork::default()).is_err(), "{shape:?} {dtype:?}");
    }
    assert!(Columns::part(&x, 8, 24).is_err() && Columns::part(&x, 4, 8).is_err());
    let empty = rows(gpu, Columns::all(&make(&[0, 24], GpuDtype::F32)), &RowWork::default()).unwrap();
    assert_eq!(empty.values.shape(), [0, 24]);
}
