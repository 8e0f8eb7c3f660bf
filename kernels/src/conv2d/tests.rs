use candle_core::{DType, Device, Tensor};
use proptest::collection;
use proptest::prelude::*;
use rayon::prelude::*;

use super::host::{self, Algorithm, Packed};
use super::plan::Plan;
use super::{Activation, DepthwiseFilter, Filter, Input, Part};
use super::{conv2d, depthwise, max_pool, pool, reference};
use crate::level::Level;
use crate::testing::{assert_close, randn};

/// The definition, index by index.
#[test]
fn a_convolution_is_the_sum_that_defines_it() {
    let (a, b) = (randn(&[2, 3, 4, 5], 1), randn(&[2, 6, 8, 2], 2));
    let (weight, bias, gate) = (randn(&[3, 7, 3, 3], 3), randn(&[3], 4), randn(&[2, 2], 5));
    let filter = Filter::new(&weight, &bias, 2, Activation::Silu).unwrap();
    let residual = randn(&[2, 3, 4, 3], 6);
    let parts = [Part { x: &a, doubled: true, gate: None }, Part { x: &b, doubled: false, gate: Some(&gate) }];
    let got = conv2d(&filter, Input { parts: &parts, residual: Some(&residual) }).unwrap();

    let at = |t: &candle_core::Tensor, index: &[usize]| {
        let mut t = t.clone();
        for i in index {
            t = t.get(*i).unwrap();
        }
        t.to_scalar::<f32>().unwrap()
    };
    let mut want = Vec::new();
    for n in 0..2 {
        for y in 0..3usize {
            for x in 0..4usize {
                for o in 0..3 {
                    let mut sum = at(&bias, &[o]);
                    for (ky, kx) in (0..9usize).map(|k| (k / 3, k % 3)) {
                        let (Some(sy), Some(sx)) = ((2 * y + ky).checked_sub(1), (2 * x + kx).checked_sub(1)) else {
                            continue;
                        };
                        if sy >= 6 || sx >= 8 {
                            continue;
                        }
                        for c in 0..7 {
                            let value = match c {
                                0..5 => at(&a, &[n, sy / 2, sx / 2, c]),
                                _ => at(&b, &[n, sy, sx, c - 5]) * at(&gate, &[n, c - 5]),
                            };
                            sum += value * at(&weight, &[o, c, ky, kx]);
                        }
                    }
                    want.push(sum / (1.0 + (-sum).exp()) + at(&residual, &[n, y, x, o]));
                }
            }
        }
    }
    let want = candle_core::Tensor::from_vec(want, (2, 3, 4, 3), &candle_core::Device::Cpu).unwrap();
    assert_close(&got, &want, 1e-6);
}

fn algorithms(size: usize, stride: usize) -> &'static [Algorithm] {
    if (size, stride) == (3, 1) { &[Algorithm::Direct, Algorithm::Winograd] } else { &[Algorithm::Direct] }
}

/// Every algorithm at every level of this machine against the reference.
fn check(weight: &Tensor, bias: &Tensor, stride: usize, activation: Activation, input: Input) {
    let (o, i, size, _) = weight.dims4().unwrap();
    let want = reference::conv2d(weight, bias, stride, activation, input).unwrap();
    for algorithm in algorithms(size, stride) {
        for level in Level::available() {
            let packed = Packed::new(weight, bias, *algorithm, level).unwrap();
            let plan = Plan::new([o, i, size, size], stride, activation, &input).unwrap();
            let got = host::conv2d(&packed, plan, &input).unwrap();
            assert_close(&got, &want, if *algorithm == Algorithm::Direct { 4e-6 } else { 6e-6 });
        }
    }
}

#[test]
fn every_algorithm_agrees_with_the_reference() {
    let shapes = [
        (1, 1, 1, 1, 1),
        (2, 5, 7, 12, 64),
        (1, 13, 9, 3, 32),
        (1, 1, 40, 40, 17),
        (1, 20, 20, 100, 133),
        (2, 12, 9, 600, 48),
        (1, 33, 6, 16, 5),
    ];
    for (seed, (batch, height, width, inputs, outputs)) in shapes.into_iter().enumerate() {
        for (size, stride) in [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (7, 1), (7, 2)] {
            let seed = 100 * seed as u64;
            let x = randn(&[batch, height, width, inputs], seed);
            let scale = 1.0 / ((inputs * size * size) as f64).sqrt();
            let weight = (randn(&[outputs, inputs, size, size], seed + 1) * scale).unwrap();
            let bias = randn(&[outputs], seed + 2);
            let out = [batch, height.div_ceil(stride), width.div_ceil(stride), outputs];
            let residual = seed.is_multiple_of(200).then(|| randn(&out, seed + 3));
            let activation = if seed.is_multiple_of(300) { Activation::Identity } else { Activation::Silu };
            let input = Input { parts: &[Part::plain(&x)], residual: residual.as_ref() };
            check(&weight, &bias, stride, activation, input);
        }
    }
}

fn randn_filter(outputs: usize, inputs: usize, size: usize, seed: u64) -> (Tensor, Tensor) {
    let scale = 1.0 / ((inputs * size * size) as f64).sqrt();
    ((randn(&[outputs, inputs, size, size], seed) * scale).unwrap(), randn(&[outputs], seed + 1))
}

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    half: (usize, usize),
    /// Channels, whether doubled, whether gated, channels before and behind it in the tensor that it is a view of.
    parts: Vec<(usize, bool, bool, (usize, usize))>,
    outputs: usize,
    size: usize,
    stride: usize,
    silu: bool,
    residual: bool,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let view = prop_oneof![Just((0, 0)), (0..9usize, 0..9usize)];
    let part = (1..40usize, any::<bool>(), any::<bool>(), view);
    let kernel = (prop_oneof![Just(1usize), Just(3), Just(5), Just(7)], 1..3usize, 1..70usize);
    let flags = (any::<bool>(), any::<bool>(), any::<u64>());
    (1..3usize, (1..9usize, 1..9usize), collection::vec(part, 1..5), kernel, flags).prop_map(
        |(batch, half, parts, (size, stride, outputs), (silu, residual, seed))| Case {
            batch,
            half,
            parts,
            outputs,
            size,
            stride,
            silu,
            residual,
            seed: seed >> 8,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn parts_of_any_kind_agree_with_the_reference(case in case()) {
        let Case { batch, half, ref parts, outputs, size, stride, silu, residual, seed } = case;
        let mut tensors = Vec::new();
        for (n, (channels, doubled, _, (before, behind))) in parts.iter().enumerate() {
            let times = if *doubled { 1 } else { 2 };
            let all = randn(&[batch, times * half.0, times * half.1, before + channels + behind], seed + n as u64);
            tensors.push((all.narrow(3, *before, *channels).unwrap(), randn(&[batch, *channels], seed + 10 + n as u64)));
        }
        let inputs: Vec<Part> = parts
            .iter()
            .zip(&tensors)
            .map(|((_, doubled, gated, _), (x, gate))| Part { x, doubled: *doubled, gate: gated.then_some(gate) })
            .collect();
        let channels = parts.iter().map(|p| p.0).sum();
        let (weight, bias) = randn_filter(outputs, channels, size, seed + 20);
        let out = [batch, (2 * half.0).div_ceil(stride), (2 * half.1).div_ceil(stride), outputs];
        let residual = residual.then(|| randn(&out, seed + 30));
        let activation = if silu { Activation::Silu } else { Activation::Identity };
        check(&weight, &bias, stride, activation, Input { parts: &inputs, residual: residual.as_ref() });
    }
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn neither_threads_nor_the_batch_show() {
    for (size, stride) in [(1, 1), (3, 1), (3, 2), (5, 1)] {
        let (weight, bias) = randn_filter(150, 70, size, 1);
        let filter = Filter::new(&weight, &bias, stride, Activation::Silu).unwrap();
        let depth = DepthwiseFilter::new(&randn(&[150, 1, size, size], 3), &bias, Activation::Silu).unwrap();
        let x = randn(&[3, 31, 37, 70], 4);
        let run = |x: &Tensor, threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = conv2d(&filter, Input { parts: &[Part::plain(x)], residual: None }).unwrap();
                [bits(&max_pool(&depthwise(&depth, &y).unwrap(), 5).unwrap()), bits(&y)].concat()
            })
        };
        let all = run(&x, 1);
        assert_eq!(all, run(&x, 2));
        assert_eq!(all, run(&x, 9));
        let length = all.len() / 6;
        for n in 0..3 {
            let one = run(&x.narrow(0, n, 1).unwrap(), 3);
            assert_eq!(one[..length], all[n * length..][..length]);
            assert_eq!(one[length..], all[(3 + n) * length..][..length]);
        }
    }
}

#[test]
fn convolutions_may_run_in_parallel() {
    let (weight, bias) = randn_filter(64, 40, 3, 1);
    let filter = Filter::new(&weight, &bias, 1, Activation::Silu).unwrap();
    let x = randn(&[1, 24, 24, 40], 2);
    let run = || bits(&conv2d(&filter, Input { parts: &[Part::plain(&x)], residual: None }).unwrap());
    let want = run();
    (0..16).into_par_iter().for_each(|_| assert_eq!(run(), want));
}

#[test]
fn depthwise_agrees_with_the_reference() {
    let shapes = [[1, 1, 1, 1], [2, 12, 9, 33], [1, 5, 36, 16], [1, 3, 18, 7], [2, 9, 2, 70]];
    for (seed, shape) in shapes.iter().enumerate() {
        for size in [1, 3, 5, 7, 9] {
            let seed = 50 * seed as u64 + size as u64;
            let (x, bias) = (randn(shape, seed), randn(&[shape[3]], seed + 1));
            let weight = randn(&[shape[3], 1, size, size], seed + 2);
            for activation in [Activation::Identity, Activation::Silu] {
                let want = reference::depthwise(&weight, &bias, &x, activation).unwrap();
                for level in Level::available() {
                    let packed = depthwise::Packed::new(&weight, &bias, level).unwrap();
                    assert_close(&depthwise::depthwise(&packed, &x, activation).unwrap(), &want, 2e-6);
                }
            }
        }
    }
}

#[test]
fn pooling_agrees_with_the_reference() {
    for (seed, shape) in [[1, 1, 1, 1], [2, 7, 5, 33], [1, 20, 20, 16]].iter().enumerate() {
        let x = randn(shape, seed as u64);
        for size in [1, 3, 5, 9, 13] {
            let want = bits(&reference::max_pool(&x, size).unwrap());
            for level in Level::available() {
                assert_eq!(bits(&pool::max_pool(&x, size, level).unwrap()), want);
            }
        }
    }
    let mut row = vec![1.0; 7];
    row[3] = f32::NAN;
    let x = Tensor::from_vec(row, (1, 1, 7, 1), &Device::Cpu).unwrap();
    let got: Vec<f32> = max_pool(&x, 3).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(got.iter().map(|v| v.is_nan()).collect::<Vec<_>>(), [false, false, true, true, true, false, false]);
}

#[test]
fn pooling_sees_the_window_and_no_more() {
    let x = randn(&[1, 5, 6, 2], 7);
    let rows: Vec<Vec<Vec<f32>>> = x.get(0).unwrap().to_vec3().unwrap();
    let got: Vec<Vec<Vec<f32>>> = max_pool(&x, 3).unwrap().get(0).unwrap().to_vec3().unwrap();
    for (y, got) in got.iter().enumerate() {
        for (x, got) in got.iter().enumerate() {
            for (c, got) in got.iter().enumerate() {
                let (ys, xs) = (y.saturating_sub(1)..(y + 2).min(5), x.saturating_sub(1)..(x + 2).min(6));
                let seen = ys.flat_map(|y| xs.clone().map(move |x| (y, x))).map(|(y, x)| rows[y][x][c]);
                assert_eq!(*got, seen.fold(f32::MIN, f32::max));
            }
        }
    }
}

#[test]
fn filters_that_cannot_be_are_refused() {
    let bias = randn(&[3], 1);
    for (shape, stride) in [([3, 2, 2, 2], 1), ([3, 2, 3, 1], 1), ([4, 2, 3, 3], 1), ([3, 2, 3, 3], 3)] {
        assert!(Filter::new(&randn(&shape, 1), &bias, stride, Activation::Identity).is_err(), "{shape:?} {stride}");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let (weight, bias) = randn_filter(4, 5, 3, 1);
    let filter = Filter::new(&weight, &bias, 1, Activation::Identity).unwrap();
    let x = randn(&[1, 4, 6, 5], 3);
    let fails = |parts: &[Part], residual: Option<&Tensor>| conv2d(&filter, Input { parts, residual }).is_err();
    let part = Part::plain(&x);
    assert!(!fails(&[part], Some(&randn(&[1, 4, 6, 4], 4))));
    assert!(fails(&[], None));
    assert!(fails(&[part, part], None));
    assert!(fails(&[part], Some(&x)));
    assert!(fails(&[Part { doubled: true, ..Part::plain(&x) }, part], None));
    assert!(fails(&[Part { gate: Some(&randn(&[1, 4], 5)), ..part }], None));
    assert!(fails(&[Part::plain(&randn(&[4, 6, 5], 6))], None));
    assert!(fails(&[Part::plain(&x.to_dtype(DType::F64).unwrap())], None));
    let empty = x.narrow(1, 0, 0).unwrap();
    let none = conv2d(&filter, Input { parts: &[Part::plain(&empty)], residual: None }).unwrap();
    assert_eq!(none.dims(), [1, 0, 6, 4]);

    let depth = DepthwiseFilter::new(&randn(&[5, 1, 3, 3], 7), &randn(&[5], 8), Activation::Silu).unwrap();
    assert!(depthwise(&depth, &x).is_ok() && depthwise(&depth, &randn(&[1, 4, 6, 4], 9)).is_err());
    assert_eq!(depthwise(&depth, &empty).unwrap().dims(), empty.dims());
    assert!(DepthwiseFilter::new(&randn(&[5, 2, 3, 3], 7), &randn(&[5], 8), Activation::Silu).is_err());
    assert!(DepthwiseFilter::new(&randn(&[5, 1, 3, 3], 7), &randn(&[4], 8), Activation::Silu).is_err());
    assert!(max_pool(&x, 2).is_err() && max_pool(&randn(&[4, 6, 5], 6), 3).is_err());
    assert_eq!(max_pool(&empty, 3).unwrap().dims(), empty.dims());
}
