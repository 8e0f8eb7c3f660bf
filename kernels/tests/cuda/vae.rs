//! The VAE's operations against the definitions.

use candle_core::{DType, Tensor};
use kernels::conv3d::{Geometry, Input, Spatial, reference};
use kernels::cuda::ops::{ConvInput, ConvOutput, GpuFilter, channel_norm, channels_last, conv3d};
use kernels::cuda::{GpuDtype, GpuTensor};

use crate::{Bench, Random, assert_close};

/// bf16 has 8 bits: results are rounded to them.
const TOLERANCE: f32 = 4e-3;

/// `[B, C, T, H, W]` → `[B, T, H, W, C]`, and back.
fn last(x: &Tensor) -> Tensor {
    x.permute((0, 2, 3, 4, 1)).unwrap().contiguous().unwrap()
}

fn first(x: &Tensor) -> Tensor {
    x.permute((0, 4, 1, 2, 3)).unwrap().contiguous().unwrap()
}

fn filter(bench: &Bench, weight: &Tensor, bias: &Tensor) -> GpuFilter {
    let weight = channels_last(&bench.gpu, &bench.upload(weight, GpuDtype::F32)).unwrap();
    GpuFilter::new(weight, bench.upload(bias, GpuDtype::F32)).unwrap()
}

#[test]
fn convolutions_are_the_hosts() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for case in 0..20 {
        let output = [ConvOutput::ChannelsLast, ConvOutput::Pairs, ConvOutput::Planes][case % 3];
        let kernel_frames = random.one_of(&[1, 3]);
        let spatial = random.one_of(&[Spatial::Same, Spatial::Halve, Spatial::Double]);
        let size = if spatial == Spatial::Halve { 3 } else { random.one_of(&[1, 3]) };
        let frames_before = random.within(0..kernel_frames);
        let geometry = Geometry { frames_before, temporal_stride: random.within(1..3), spatial };
        let (batch, height, width) = (random.within(1..3), random.within(2..7), random.within(2..9));
        let frames = random.within(1..4).max(kernel_frames - frames_before);
        let inputs = random.one_of(&[3, 8, 24, 40]);
        let outputs = match output {
            ConvOutput::Pairs => random.one_of(&[16, 48, 96]),
            ConvOutput::Planes => random.one_of(&[3, 16, 32]),
            ConvOutput::ChannelsLast => random.one_of(&[3, 8, 64, 96, 104]),
        };
        let mut make = |shape: &[usize]| random.normal(shape, DType::BF16);
        let x = make(&[batch, inputs, frames, height, width]);
        let weight = make(&[outputs, inputs, kernel_frames, size, size]);
        let bias = make(&[outputs]);
        let history: Vec<Tensor> =
            (0..frames_before.min(case % 4)).map(|_| make(&[batch, inputs, 1, height, width])).collect();
        let plain = Input { x: &x, history: &history, residual: None };
        let mut want = reference::conv3d(&weight, &bias, geometry, plain).unwrap();
        let residual = (output != ConvOutput::Planes && case % 2 == 0).then(|| make(want.dims()));
        if let Some(residual) = &residual {
            want = (want + residual).unwrap();
        }

        let there = |x: &Tensor| channels_last(&bench.gpu, &bench.upload(x, GpuDtype::F32)).unwrap();
        let history: Vec<GpuTensor> = history.iter().map(there).collect();
        let (out_frames, out_height, out_width) = (want.dim(2).unwrap(), want.dim(3).unwrap(), want.dim(4).unwrap());
        // [B, O, T, H, W] → [B, 2·T, H, W, O/2] for pairs.
        let paired = |x: &Tensor| {
            let split = x.reshape((batch, 2, outputs / 2, out_frames, out_height, out_width)).unwrap();
            let split = split.permute((0, 3, 1, 4, 5, 2)).unwrap().contiguous().unwrap();
            split.reshape((batch, 2 * out_frames, out_height, out_width, outputs / 2)).unwrap()
        };
        let laid = |x: &Tensor| match output {
            ConvOutput::ChannelsLast => last(x),
            ConvOutput::Pairs => paired(x),
            ConvOutput::Planes => x.clone(),
        };
        let residual = residual.map(|r| bench.upload(&laid(&r), GpuDtype::Bf16));
        let input = ConvInput { x: &there(&x), history: &history, residual: residual.as_ref() };
        let got = conv3d(&bench.gpu, &filter(&bench, &weight, &bias), geometry, input, output).unwrap();
        let what = format!("{output:?} {geometry:?} {:?} by {:?}", x.dims(), weight.dims());
        let tolerance = if output == ConvOutput::Planes { 1e-5 } else { TOLERANCE };
        assert_close(&bench.download(&got), &laid(&want), tolerance, &what);
    }
}

#[test]
fn norms_over_channels_are_the_hosts() {
    let Some(bench) = Bench::open() else { return };
    let mut random = Random::new();
    for channels in [8, 24, 96, 384] {
        for silu in [true, false] {
            let shape = [1, channels, random.within(1..3), random.within(1..6), random.within(1..9)];
            let (x, gain) = (random.normal(&shape, DType::BF16), random.normal(&[channels], DType::F32));
            let want = reference::channel_rms_norm(&x, &gain, silu).unwrap();
            let there = channels_last(&bench.gpu, &bench.upload(&x, GpuDtype::F32)).unwrap();
            let gain = bench.upload(&gain, GpuDtype::F32);
            let got = channel_norm(&bench.gpu, &there, &gain, silu).unwrap();
            assert_close(&first(&bench.download(&got)), &want, TOLERANCE, &format!("{shape:?} {silu}"));
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let Some(bench) = Bench::open() else { return };
    let gpu = &bench.gpu;
    let make = |shape: &[usize], dtype| GpuTensor::zeros(gpu, shape, dtype).unwrap();
    let bf16 = |shape: &[usize]| make(shape, GpuDtype::Bf16);
    let bias = make(&[16], GpuDtype::F32);
    for weight in [&[16, 5, 3, 3, 8][..], &[16, 3, 3, 3, 7], &[16, 3, 2, 2, 8], &[16, 3, 3, 1, 8], &[8, 3, 3, 3, 8]] {
        assert!(GpuFilter::new(bf16(weight), bias.clone()).is_err(), "{weight:?}");
    }
    let filter = GpuFilter::new(bf16(&[16, 3, 3, 3, 8]), bias).unwrap();
    let (x, frame, small) = (bf16(&[1, 2, 4, 4, 8]), bf16(&[1, 1, 4, 4, 8]), bf16(&[1, 1, 4, 2, 8]));
    let causal = Geometry::causal(3);
    let run = |x: &GpuTensor, history: &[GpuTensor], residual: Option<&GpuTensor>, geometry, output| {
        conv3d(gpu, &filter, geometry, ConvInput { x, history, residual }, output).is_ok()
    };
    assert!(run(&x, &[frame.clone(), frame.clone()], None, causal, ConvOutput::Planes));
    assert!(!run(&x, std::slice::from_ref(&small), None, causal, ConvOutput::Pairs));
    assert!(!run(&x, &[frame.clone(), frame.clone(), frame.clone()], None, causal, ConvOutput::Pairs));
    assert!(!run(&x, &[], Some(&frame), causal, ConvOutput::ChannelsLast));
    assert!(!run(&bf16(&[1, 2, 4, 4, 16]), &[], None, causal, ConvOutput::ChannelsLast));
    assert!(!run(&frame, &[], None, Geometry { frames_before: 0, ..causal }, ConvOutput::ChannelsLast));
    assert!(channel_norm(gpu, &bf16(&[3, 12]), &make(&[12], GpuDtype::F32), true).is_err());
    assert!(channel_norm(gpu, &bf16(&[3, 16]), &make(&[8], GpuDtype::F32), true).is_err());
    assert!(channels_last(gpu, &bf16(&[3, 16])).is_err() && channels_last(gpu, &make(&[3], GpuDtype::F32)).is_err());
}
