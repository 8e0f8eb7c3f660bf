//! Networks over pictures against the host's definitions.

use candle_core::{DType, Tensor};
use kernels::conv2d::reference;
use kernels::conv2d::{Input, Part};
use kernels::cuda::ops::{
    Activation, DepthwiseWeights, JoinPart, Terms, depthwise, join, linear, max_pool, means, picture, windows,
};
use kernels::cuda::{GpuDtype, GpuMatrix};

use crate::{Bench, Random, assert_close};

#[test]
fn pictures_are_taken_pixel_by_pixel_and_square_by_square() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    let (b, h, w) = (random.within(1..3), 2 * random.within(1..20), 2 * random.within(1..20));
    let x = random.normal(&[b, h, w, 3], DType::BF16);
    let there = bench.upload(&x, GpuDtype::F32);
    let plain = bench.download(&picture(&bench.gpu, &there, false).unwrap());
    assert_close(&plain, &x.pad_with_zeros(3, 0, 5).unwrap(), 0.0, "plain");
    let squares = x.reshape(&[b, h / 2, 2, w / 2, 2, 3][..]).unwrap().permute([0, 1, 3, 4, 2, 5]).unwrap();
    let want = squares.reshape((b, h / 2, w / 2, 12)).unwrap().pad_with_zeros(3, 0, 4).unwrap();
    assert_close(&bench.download(&picture(&bench.gpu, &there, true).unwrap()), &want, 0.0, "focus");
    let odd = bench.upload(&random.normal(&[1, 3, 4, 3], DType::F32), GpuDtype::F32);
    assert!(picture(&bench.gpu, &odd, true).is_err() && picture(&bench.gpu, &odd, false).is_ok());
}

#[test]
fn windows_times_weights_are_convolutions() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for (kernel, stride) in [(1, 1), (3, 1), (3, 2), (7, 1), (5, 2)] {
        let (b, h, w) = (random.within(1..3), random.within(1..16), random.within(1..16));
        let (inputs, outputs) = (8 * random.within(1..4), random.within(1..40));
        let x = random.normal(&[b, h, w, inputs], DType::BF16);
        let weight = random.normal(&[outputs, inputs, kernel, kernel], DType::BF16);
        let bias = random.normal(&[outputs], DType::F32);
        let columns = weight.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        let columns = columns.reshape((outputs, kernel * kernel * inputs)).unwrap().to_dtype(DType::BF16).unwrap();
        let matrix = GpuMatrix::upload(&bench.gpu, &columns.into()).unwrap();
        let there = windows(&bench.gpu, &bench.upload(&x, GpuDtype::Bf16), kernel, stride).unwrap();
        let bias_there = bench.upload(&bias, GpuDtype::F32);
        let terms = Terms { bias: Some(&bias_there), activation: Activation::Silu, ..Terms::default() };
        let got = linear(&bench.gpu, &there, &matrix, &terms).unwrap();
        let input = Input { parts: &[Part::plain(&x)], residual: None };
        let want = reference::conv2d(&weight, &bias, stride, kernels::conv2d::Activation::Silu, input).unwrap();
        let what = format!("{kernel}×{kernel} at {stride}, {inputs} → {outputs}, [{b}, {h}, {w}]");
        assert_close(&bench.download(&got), &want, 5e-3, &what);
    }
    let x = bench.upload(&random.normal(&[1, 4, 4, 8], DType::F32), GpuDtype::Bf16);
    assert!(windows(&bench.gpu, &x, 2, 1).is_err() && windows(&bench.gpu, &x, 3, 0).is_err());
}

#[test]
fn channels_are_joined_doubled_and_gated() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for gated in [false, true] {
        let (b, h, w) = (random.within(1..3), random.within(1..9), random.within(1..9));
        let small = random.normal(&[b, h, w, 16], DType::BF16);
        let large = random.normal(&[b, 2 * h, 2 * w, 8], DType::BF16);
        let gates = (random.normal(&[b, 24], DType::F32) * 4.0).unwrap();
        let [small_there, large_there] = [&small, &large].map(|t| bench.upload(t, GpuDtype::Bf16));
        let gates_there = bench.upload(&gates, GpuDtype::F32);
        let parts = [JoinPart { x: &small_there, doubled: true }, JoinPart { x: &large_there, doubled: false }];
        let got = join(&bench.gpu, &parts, gated.then_some(&gates_there)).unwrap();
        let doubled = small.reshape(&[b, h, 1, w, 1, 16][..]).unwrap();
        let doubled = doubled.broadcast_as(&[b, h, 2, w, 2, 16][..]).unwrap().contiguous().unwrap();
        let mut want = Tensor::cat(&[&doubled.reshape((b, 2 * h, 2 * w, 16)).unwrap(), &large], 3).unwrap();
        if gated {
            let factors = ((gates + 3.0).unwrap() / 6.0).unwrap().clamp(0.0, 1.0).unwrap();
            want = want.broadcast_mul(&factors.reshape((b, 1, 1, 24)).unwrap()).unwrap();
        }
        assert_close(&bench.download(&got), &want, 4e-3, "joined");
        assert!(join(&bench.gpu, &[parts[0], JoinPart { x: &large_there, doubled: true }], None).is_err());
    }
    assert!(join(&bench.gpu, &[], None).is_err());
}

#[test]
fn channels_alone_are_pooled_convolved_and_averaged() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for size in [3, 5, 9] {
        let (b, h, w, c) = (random.within(1..3), random.within(1..14), random.within(1..14), 8 * random.within(1..5));
        let x = random.normal(&[b, h, w, c], DType::BF16);
        let there = bench.upload(&x, GpuDtype::Bf16);
        let pooled = max_pool(&bench.gpu, &there, size).unwrap();
        assert_close(&bench.download(&pooled), &reference::max_pool(&x, size).unwrap(), 0.0, "pool");

        let (weight, bias) = (random.normal(&[c, 1, size, size], DType::F32), random.normal(&[c], DType::F32));
        let want = reference::depthwise(&weight, &bias, &x, kernels::conv2d::Activation::Silu).unwrap();
        let weight = weight.reshape((c, size, size)).unwrap().permute((1, 2, 0)).unwrap().contiguous().unwrap();
        let [weight, bias] = [&weight, &bias].map(|t| bench.upload(t, GpuDtype::F32));
        let filter = DepthwiseWeights::new(weight, bias).unwrap();
        let got = depthwise(&bench.gpu, &there, &filter, Activation::Silu).unwrap();
        assert_close(&bench.download(&got), &want, 5e-3, "depthwise");

        let got = means(&bench.gpu, &[&there, &pooled]).unwrap();
        let of = |t: &Tensor| t.mean((1, 2)).unwrap();
        let want = Tensor::cat(&[of(&x), of(&bench.download(&pooled).to_dtype(DType::F32).unwrap())], 1).unwrap();
        assert_close(&bench.download(&got), &want, 5e-3, "means");
    }
    let x = bench.upload(&random.normal(&[1, 4, 4, 8], DType::F32), GpuDtype::Bf16);
    assert!(max_pool(&bench.gpu, &x, 4).is_err() && means(&bench.gpu, &[]).is_err());
}
