use candle_core::Tensor;

use super::*;
use crate::level::Level;
use crate::testing::{assert_close, randn};

/// The convolution at every level that the machine has, each against the definition; returns the default one.
fn check(filter: &(Tensor, Tensor), geometry: Geometry, input: Input) -> Tensor {
    let want = reference::conv3d(&filter.0, &filter.1, geometry, input).unwrap();
    let prepared = Filter::new(&filter.0, &filter.1).unwrap();
    let plan = Plan::new(&prepared, geometry, &input).unwrap();
    for level in Level::available() {
        let got = cpu::conv3d(&prepared.packed().unwrap(), &plan, &input, level).unwrap();
        assert_close(&got, &want, 2e-6);
    }
    conv3d(&prepared, geometry, input).unwrap()
}

fn filter(dims: [usize; 5], seed: u64) -> (Tensor, Tensor) {
    (randn(&dims, seed), randn(&[dims[0]], seed + 1))
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

#[test]
fn agrees_with_the_reference_over_shapes() {
    let mut seed = 0;
    for (batch, in_channels, out_channels, frames, height, width) in [
        (1, 1, 1, 1, 1, 1),
        (1, 3, 5, 1, 2, 3),
        (2, 5, 3, 3, 7, 9),
        (1, 8, 8, 4, 16, 130),
        (1, 16, 20, 2, 33, 17),
        (1, 70, 12, 2, 5, 300),
    ] {
        let x = randn(&[batch, in_channels, frames, height, width], seed);
        for (kt, kh, kw) in [(1, 1, 1), (3, 1, 1), (1, 3, 3), (2, 5, 5), (3, 3, 3)] {
            for spatial in [Spatial::Same, Spatial::Double, Spatial::Halve] {
                if spatial == Spatial::Halve && (kh != 3 || height < 2 || width < 2) {
                    continue;
                }
                let f = filter([out_channels, in_channels, kt, kh, kw], seed + 100);
                let geometry = Geometry { spatial, ..Geometry::causal(kt) };
                for given in 0..kt {
                    seed += 1;
                    let history: Vec<Tensor> = (0..given)
                        .map(|i| randn(&[batch, in_channels, 1, height, width], seed + 1000 + i as u64))
                        .collect();
                    let plain = check(&f, geometry, Input { x: &x, history: &history, residual: None });
                    let residual = randn(plain.dims(), seed + 2000);
                    check(&f, geometry, Input { x: &x, history: &history, residual: Some(&residual) });
                }
            }
        }
    }
}

#[test]
fn agrees_with_the_reference_at_temporal_strides() {
    let f = filter([6, 4, 3, 1, 1], 5);
    for frames in 3..8 {
        for before in 0..2 {
            let x = randn(&[2, 4, frames, 5, 6], frames as u64);
            let history: Vec<Tensor> = (0..before).map(|i| randn(&[2, 4, 1, 5, 6], 50 + i)).collect();
            let geometry = Geometry { frames_before: history.len(), temporal_stride: 2, spatial: Spatial::Same };
            let y = check(&f, geometry, Input { x: &x, history: &history, residual: None });
            assert_eq!(y.dim(2).unwrap(), (frames + history.len() - 3) / 2 + 1);
        }
    }
}

#[test]
fn a_hand_computed_sum() {
    // Ones everywhere: an inner output counts the taps that fall on frames and pixels that exist.
    let ones = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
    let f = Filter::new(&ones(&[1, 2, 3, 3, 3]), &(ones(&[1]) * 0.5).unwrap()).unwrap();
    let x = ones(&[1, 2, 3, 3, 3]);
    let y = conv3d(&f, Geometry::causal(3), Input { x: &x, history: &[], residual: None }).unwrap();
    let frame = |t: usize| y.narrow(2, t, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(frame(0), [8.5, 12.5, 8.5, 12.5, 18.5, 12.5, 8.5, 12.5, 8.5]);
    assert_eq!(frame(2)[4], 54.5);
}

#[test]
fn frame_by_frame_is_bit_for_bit_the_whole() {
    let (weight, bias) = filter([9, 6, 3, 3, 3], 1);
    let f = Filter::new(&weight, &bias).unwrap();
    let x = randn(&[2, 6, 5, 12, 20], 3);
    let whole = conv3d(&f, Geometry::causal(3), Input { x: &x, history: &[], residual: None }).unwrap();
    for t in 0..5 {
        let history: Vec<Tensor> = (t.max(2) - 2..t).map(|i| x.narrow(2, i, 1).unwrap()).collect();
        let frame = x.narrow(2, t, 1).unwrap();
        let one = conv3d(&f, Geometry::causal(3), Input { x: &frame, history: &history, residual: None }).unwrap();
        assert_eq!(bits(&one), bits(&whole.narrow(2, t, 1).unwrap()), "frame {t}");
    }
}

#[test]
fn the_number_of_threads_does_not_show() {
    let (weight, bias) = filter([20, 40, 3, 3, 3], 1);
    let f = Filter::new(&weight, &bias).unwrap();
    let x = randn(&[1, 40, 2, 30, 150], 3);
    let gamma = randn(&[40], 4);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let x = channel_rms_norm(&x, &gamma, true).unwrap();
            bits(&conv3d(&f, Geometry::causal(3), Input { x: &x, history: &[], residual: None }).unwrap())
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(7));
}

#[test]
fn channel_norm_agrees_with_the_reference() {
    for (seed, shape) in [vec![1, 1, 1, 1, 1], vec![2, 7, 3, 5, 9], vec![1, 384, 1, 40, 31]].iter().enumerate() {
        let x = (randn(shape, seed as u64) * 3.0).unwrap();
        let gamma = randn(&[shape[1]], 9);
        for silu in [false, true] {
            let want = reference::channel_rms_norm(&x, &gamma, silu).unwrap();
            for level in Level::available() {
                assert_close(&channel_norm::on_host(&x, &gamma, silu, level).unwrap(), &want, 2e-6);
            }
        }
    }
    let zeros = Tensor::zeros((1, 4, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let y = channel_rms_norm(&zeros, &randn(&[4], 1), true).unwrap();
    assert_eq!(bits(&y.abs().unwrap()), vec![0; 16]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let f = Filter::new(&randn(&[2, 3, 3, 3, 3], 1), &randn(&[2], 2)).unwrap();
    let causal = Geometry::causal(3);
    let x = randn(&[1, 3, 2, 4, 4], 3);
    let other = randn(&[1, 3, 1, 4, 5], 4);
    let run = |geometry, x: &Tensor, history: &[Tensor], residual: Option<&Tensor>| {
        conv3d(&f, geometry, Input { x, history, residual }).is_err()
    };
    assert!(!run(causal, &x, &[], None));
    assert!(run(causal, &randn(&[1, 2, 2, 4, 4], 3), &[], None));
    assert!(run(causal, &x, std::slice::from_ref(&other), None));
    assert!(run(causal, &x, &[], Some(&x)));
    assert!(run(Geometry { frames_before: 0, ..causal }, &x, &[], None));
    assert!(run(Geometry { frames_before: 3, ..causal }, &x, &[], None));
    assert!(run(Geometry { temporal_stride: 0, ..causal }, &x, &[], None));
    assert!(Filter::new(&randn(&[2, 3, 3], 1), &randn(&[2], 2)).is_err());
    assert!(Filter::new(&randn(&[2, 3, 3, 3, 3], 1), &randn(&[3], 2)).is_err());
    assert!(channel_rms_norm(&x, &randn(&[2], 1), false).is_err());
    for (kh, kw) in [(2, 2), (1, 3)] {
        let f = Filter::new(&randn(&[2, 3, 1, kh, kw], 1), &randn(&[2], 2)).unwrap();
        assert!(conv3d(&f, Geometry::causal(1), Input { x: &x, history: &[], residual: None }).is_err());
    }
}
