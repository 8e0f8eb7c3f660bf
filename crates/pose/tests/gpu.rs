//! The networks on a GPU: an emulated one, or a real one with `STEADYDANCE_TEST_GPU=1`.

use candle_core::{Device, Tensor};
use pose::keypoints::COCO_BODY_POINTS;
use pose::net::{DwPoseConfig, Networks, On, WholeBodyNet, Yolox, YoloxConfig};
use pose::{DwPose, DwPoseOptions, FrameRole, PoseEstimator, PoseProfile};
use testkit::gpu::{TestGpu, relative_error};

/// Blots of colour, values in 0..255.
fn pictures([batch, height, width]: [usize; 3]) -> Tensor {
    let value = |i: usize| {
        let (x, y) = ((i / 3 % width) as f32, (i / 3 / width) as f32);
        127.5 + 80.0 * (x * 0.21 + (i % 3) as f32).sin() + 47.0 * (y * 0.13 - x * 0.05).cos()
    };
    let values: Vec<f32> = (0..batch * height * width * 3).map(value).collect();
    Tensor::from_vec(values, (batch, height, width, 3), &Device::Cpu).unwrap()
}

/// As the estimator gives them.
fn normalised(pictures: &Tensor) -> Tensor {
    ((pictures - 120.0).unwrap() / 58.0).unwrap()
}

/// Relative error of bf16 where random weights of few channels cancel each other; one channel in a wrong place is nearer to 1.
const ROUNDING: f64 = 0.05;

/// Widths that are multiples of 8 and others, and several blocks.
fn detectors() -> [YoloxConfig; 2] {
    let wide = YoloxConfig { width: 8, blocks: [1, 2, 1, 1], ..YoloxConfig::tiny() };
    [YoloxConfig::tiny(), wide]
}

#[test]
fn the_detector_gives_what_the_hosts_does() {
    let Some(test) = TestGpu::open() else { return };
    for config in detectors() {
        let [host, gpu] = [On::Host, On::Gpu(&test.gpu)].map(|on| Yolox::random(config.clone(), 1, on).unwrap());
        let pictures = pictures([2, 64, 64]);
        let (want, got) = (host.forward(&pictures).unwrap(), gpu.forward(&pictures).unwrap());
        assert_eq!(got.dims(), want.dims());
        let error = relative_error(&got, &want).unwrap();
        println!("{config:?}: {error:e}");
        assert!(error > 0.0 && error < ROUNDING, "{error:e}");
        // A picture's numbers are its own.
        let alone = gpu.forward(&pictures.narrow(0, 1, 1).unwrap()).unwrap();
        assert!(relative_error(&alone, &got.narrow(0, 1, 1).unwrap()).unwrap() == 0.0);
    }
}

#[test]
fn the_keypoint_network_gives_what_the_hosts_does() {
    let Some(test) = TestGpu::open() else { return };
    let wide = DwPoseConfig { width: 16, blocks: [1, 2, 1, 1], kernel: 5, ..DwPoseConfig::tiny() };
    for config in [DwPoseConfig::tiny(), wide] {
        let [host, gpu] = [On::Host, On::Gpu(&test.gpu)].map(|on| WholeBodyNet::random(config.clone(), 1, on).unwrap());
        let crops = normalised(&pictures([2, 64, 32]));
        let (want, got) = (host.forward(&crops).unwrap(), gpu.forward(&crops).unwrap());
        for (got, want) in [(&got.0, &want.0), (&got.1, &want.1)] {
            let error = relative_error(got, want).unwrap();
            println!("{config:?}: {error:e}");
            assert!(error > 0.0 && error < ROUNDING, "{error:e}");
        }
    }
}

#[test]
fn every_convolution_is_shown_with_its_own_channels() {
    let Some(test) = TestGpu::open() else { return };
    let [host, gpu] = [On::Host, On::Gpu(&test.gpu)].map(|on| Yolox::random(YoloxConfig::tiny(), 1, on).unwrap());
    let picture = pictures([1, 64, 64]);
    let mut want = Vec::new();
    let mut keep = |name: &str, t: &Tensor| {
        want.push((name.to_owned(), t.clone()));
        Ok(())
    };
    host.forward_with(&picture, &mut keep).unwrap();
    let mut at = 0;
    let mut compare = |name: &str, got: &Tensor| {
        let (wanted, want) = &want[at];
        at += 1;
        assert_eq!((name, got.dims()), (wanted.as_str(), want.dims()));
        let error = relative_error(got, want)?;
        assert!(error < ROUNDING, "{name}: {error:e}");
        Ok(())
    };
    gpu.forward_with(&picture, &mut compare).unwrap();
    assert_eq!(at, want.len());
}

#[test]
fn predictions_of_memory_hold_and_are_not_wasteful() {
    let measure = |run: &dyn Fn(On) -> Box<dyn Fn()>, predicted: u64| {
        // With a pool of its own, whose peak is this network's.
        let Some(test) = TestGpu::open() else { return };
        let forward = run(On::Gpu(&test.gpu));
        let weights = test.gpu.pool().counts().used_bytes;
        forward();
        let measured = test.gpu.pool().counts().peak_bytes - weights;
        println!("measured {measured}, predicted {predicted}");
        assert!(predicted >= measured && predicted <= measured + measured / 4 + (1 << 16), "{measured} {predicted}");
    };
    for config in detectors() {
        let predicted = config.gpu_activation_bytes(1);
        let run = |on: On| {
            let net = Yolox::random(config.clone(), 1, on).unwrap();
            let forward: Box<dyn Fn()> = Box::new(move || drop(net.forward(&pictures([1, 64, 64])).unwrap()));
            forward
        };
        measure(&run, predicted);
    }
    let config = DwPoseConfig { width: 16, ..DwPoseConfig::tiny() };
    let run = |on: On| {
        let net = WholeBodyNet::random(config.clone(), 1, on).unwrap();
        let forward: Box<dyn Fn()> = Box::new(move || drop(net.forward(&normalised(&pictures([2, 64, 32]))).unwrap()));
        forward
    };
    measure(&run, config.gpu_activation_bytes(2));
}

/// Pixels of the picture that a GPU's rounding may move sure joints by, the median and most. The estimator tells places apart that are
/// half a pixel of its crop from each other; a joint that is as likely in two of them may jump.
const MEDIAN: f64 = 0.1;
const MOST: f64 = 1.0;

#[test]
fn the_embedded_networks_find_joints_where_the_host_does() {
    let Some(test) = TestGpu::open() else { return };
    let profile = PoseProfile::default();
    let [mut host, mut gpu] = [On::Host, On::Gpu(&test.gpu)].map(|on| {
        let networks = Networks::from_static(["detector", "estimator"], models::DEMO.pose_networks(), on).unwrap();
        DwPose::new(networks, DwPoseOptions::new(profile))
    });
    let mut off = Vec::new();
    for name in ["front", "arms"] {
        let file = format!("{}/../../tests/fixtures/puppets/{name}.png", env!("CARGO_MANIFEST_DIR"));
        let picture = image::open(file).unwrap().into_rgb8();
        let role = FrameRole::Driving(0);
        let [want, got] = [&mut host, &mut gpu].map(|e| e.estimate(role, &picture).unwrap().people);
        assert_eq!(want.len(), got.len(), "{name}");
        for (want, got) in want.iter().zip(&got) {
            let sure = (0..COCO_BODY_POINTS).filter(|k| want.scores[*k] > profile.visibility_threshold);
            off.extend(sure.map(|k| {
                let ([x, y], [u, v]) = (want.points[k], got.points[k]);
                (x - u).hypot(y - v)
            }));
        }
    }
    off.sort_by(f64::total_cmp);
    println!("{off:.3?}");
    assert!(off.len() > 10 && off[off.len() / 2] < MEDIAN && off[off.len() - 1] < MOST, "{off:?}");
}

#[test]
fn a_gpu_without_room_is_told_from_other_faults() {
    let Some(test) = TestGpu::open() else { return };
    let open = || Networks::from_static(["a", "b"], models::DEMO.pose_networks(), On::Gpu(&test.gpu));
    let picture = image::RgbImage::new(64, 64);
    let mut estimator = DwPose::new(open().unwrap(), DwPoseOptions::default());
    test.gpu.pool().set_budget(test.gpu.pool().counts().used_bytes + (64 << 10));
    let error = estimator.estimate(FrameRole::Reference, &picture).unwrap_err();
    assert!(error.is_out_of_gpu_memory() && !error.to_string().contains('\n'), "{error}");
    let error = open().unwrap_err();
    assert!(error.is_out_of_gpu_memory(), "{error}");
    let error = Networks::from_static(["a", "b"], [b"x", b"y"], On::Gpu(&test.gpu)).unwrap_err();
    assert!(!error.is_out_of_gpu_memory(), "{error}");
}
