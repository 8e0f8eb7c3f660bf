//! YOLOX-L and DWPose-L at full width against PyTorch, and their speed. Needs the folder that
//! `tests/reference/make_pose_nets.py --full DIR` writes:
//!
//! ```text
//! STEADYDANCE_POSE_NETS=DIR cargo test --release -p steadydance-pose --test nets_full -- --ignored --nocapture
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use candle_core::{Device, Tensor};
use pose::net::{DwPoseConfig, On, WholeBodyNet, Yolox, YoloxConfig};

fn folder() -> PathBuf {
    std::env::var_os("STEADYDANCE_POSE_NETS").expect("STEADYDANCE_POSE_NETS names the folder").into()
}

fn case(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder().join(name), &Device::Cpu).unwrap()
}

/// ‖got − want‖ / ‖want‖.
fn error(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    let norm = |t: Tensor| f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
    norm((got - want).unwrap()) / norm(want.clone())
}

/// Seconds of five runs, the middle one.
fn median(mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..5)
        .map(|_| {
            let started = Instant::now();
            run();
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[2]
}

#[test]
#[ignore = "needs full-size files in STEADYDANCE_POSE_NETS; tests/nets.rs holds narrow ones"]
fn the_detector_at_full_width() {
    let case = case("yolox_l.safetensors");
    for name in ["yolox_l.pth", "yolox_l.onnx"] {
        let started = Instant::now();
        let net = Yolox::load(folder().join(name), On::Host).unwrap();
        let loaded = started.elapsed().as_secs_f64();
        assert_eq!(net.config(), &YoloxConfig::yolox_l());
        let error = error(&net.forward(&case["input"]).unwrap(), &case["output"]);
        let seconds = median(|| drop(net.forward(&case["input"]).unwrap()));
        println!(
            "{name}: error {error:.1e}, loaded in {loaded:.2} s, {seconds:.3} s a pass ({:.2}/s)",
            seconds.recip()
        );
        assert!(error < 1e-4);
    }
}

#[test]
#[ignore = "needs full-size files in STEADYDANCE_POSE_NETS; tests/nets.rs holds narrow ones"]
fn the_keypoint_network_at_full_width() {
    let case = case("dw-ll_ucoco_384.safetensors");
    // A crop and its mirror image, as the flip test has them.
    let one = case["input"].narrow(0, 0, 1).unwrap();
    let two = Tensor::cat(&[&one, &one], 0).unwrap();
    for name in ["dw-ll_ucoco_384.pth", "dw-ll_ucoco_384.onnx"] {
        let started = Instant::now();
        let net = WholeBodyNet::load(folder().join(name), On::Host).unwrap();
        let loaded = started.elapsed().as_secs_f64();
        assert_eq!(net.config(), &DwPoseConfig::dwpose_l());
        let (x, y) = net.forward(&case["input"]).unwrap();
        let errors = [error(&x, &case["simcc_x"]), error(&y, &case["simcc_y"])];
        let seconds = median(|| drop(net.forward(&two).unwrap()));
        println!(
            "{name}: errors {:.1e} {:.1e}, loaded in {loaded:.2} s, {seconds:.3} s a pass ({:.2}/s)",
            errors[0],
            errors[1],
            seconds.recip()
        );
        assert!(errors.iter().all(|e| *e < 1e-4));
    }
}
