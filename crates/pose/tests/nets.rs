//! The two networks against PyTorch's results (`tests/reference/make_pose_nets.py`), from every packaging.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use pose::net::{DwPoseConfig, Networks, On, WholeBodyNet, Yolox, YoloxConfig, dwpose_manifest, yolox_manifest};
use pose::{DwPose, DwPoseOptions, FrameRole, PoseEstimator, PoseNetworks};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nets").join(name)
}

fn case(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// ‖got − want‖ / ‖want‖.
fn error(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    let norm = |t: Tensor| f64::from(t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap()).sqrt();
    norm((got - want).unwrap()) / norm(want.clone())
}

const TOLERANCE: f64 = 1e-5;

/// Compares every recorded intermediate result; gives the number of them.
fn compare_taps(case: &HashMap<String, Tensor>, name: &str, x: &Tensor) -> usize {
    match case.get(&format!("tap.{name}")) {
        Some(want) => {
            let error = error(x, want);
            assert!(error < TOLERANCE, "{name}: {error:e}");
            1
        }
        None => 0,
    }
}

#[test]
fn the_detector_agrees_with_pytorch_from_every_packaging() {
    let case = case(&fixture("yolox.safetensors"));
    for name in ["yolox.pth", "yolox.onnx", "yolox_unfolded.onnx"] {
        let net = Yolox::load(fixture(name), On::Host).unwrap();
        let want = YoloxConfig { width: 2, blocks: [1, 2, 1, 1], neck_blocks: 2, classes: 3, ..net.config().clone() };
        assert_eq!(net.config(), &want, "{name}");
        let mut taps = 0;
        let got = net.forward_with(&case["input"], &mut |name, x| {
            taps += compare_taps(&case, name, x);
            Ok(())
        });
        assert_eq!(taps, 6);
        let error = error(&got.unwrap(), &case["output"]);
        println!("{name}: {error:.1e}");
        assert!(error < TOLERANCE, "{name}: {error:e}");
    }
}

#[test]
fn the_keypoint_network_agrees_with_pytorch_from_every_packaging() {
    let case = case(&fixture("pose.safetensors"));
    for name in ["pose.pth", "pose.onnx", "pose_unfolded.onnx"] {
        let net = WholeBodyNet::load(fixture(name), On::Host).unwrap();
        let sizes = (net.config().width, net.config().blocks, net.config().keypoints, net.config().input_size);
        assert_eq!(sizes, (2, [1, 1, 2, 1], 4, [64, 32]), "{name}");
        let mut taps = 0;
        let got = net.forward_with(&case["input"], &mut |name, x| {
            taps += compare_taps(&case, name, x);
            Ok(())
        });
        assert_eq!(taps, 5);
        let (x, y) = got.unwrap();
        let errors = [error(&x, &case["simcc_x"]), error(&y, &case["simcc_y"])];
        println!("{name}: {errors:?}");
        assert!(errors.iter().all(|e| *e < TOLERANCE), "{name}: {errors:?}");
    }
}

/// Learned numbers; statistics of batch norms are not.
fn learned(manifest: &weights::Manifest) -> usize {
    manifest.tensors().filter(|t| !t.name.contains(".running_")).map(|t| t.elements()).sum()
}

#[test]
fn the_large_networks_have_their_published_sizes() {
    assert_eq!(learned(&yolox_manifest(&YoloxConfig::yolox_l()).unwrap()), 54_208_895);
    assert_eq!(learned(&dwpose_manifest(&DwPoseConfig::dwpose_l()).unwrap()), 33_610_919);
}

#[test]
fn pictures_of_a_batch_do_not_know_each_other() {
    let picture = |seed: f32, h: usize, w: usize| {
        let values: Vec<f32> = (0..h * w * 3).map(|i| ((i as f32 + seed) * 0.37).sin()).collect();
        Tensor::from_vec(values, (1, h, w, 3), &Device::Cpu).unwrap()
    };
    let detector = Yolox::random(YoloxConfig::tiny(), 1, On::Host).unwrap();
    let (a, b) = (picture(0.0, 64, 96), picture(0.5, 64, 96));
    let both = detector.forward(&Tensor::cat(&[&a, &b], 0).unwrap()).unwrap();
    assert_eq!(both.dims(), [2, 8 * 12 + 4 * 6 + 2 * 3, 8]);
    for (i, alone) in [&a, &b].into_iter().enumerate() {
        assert!(error(&both.narrow(0, i, 1).unwrap(), &detector.forward(alone).unwrap()) < 1e-6);
    }
    assert!(error(&both.narrow(0, 0, 1).unwrap(), &both.narrow(0, 1, 1).unwrap()) > 1e-3);

    let keypoints = WholeBodyNet::random(DwPoseConfig::tiny(), 1, On::Host).unwrap();
    let (a, b) = (picture(0.0, 64, 32), picture(0.5, 64, 32));
    let (x, y) = keypoints.forward(&Tensor::cat(&[&a, &b], 0).unwrap()).unwrap();
    assert_eq!((x.dims(), y.dims()), (&[2, 5, 64][..], &[2, 5, 128][..]));
    for (i, alone) in [&a, &b].into_iter().enumerate() {
        let (one_x, one_y) = keypoints.forward(alone).unwrap();
        assert!(error(&x.narrow(0, i, 1).unwrap(), &one_x) < 1e-6 && error(&y.narrow(0, i, 1).unwrap(), &one_y) < 1e-6);
    }
}

#[test]
fn pictures_of_other_shapes_are_refused() {
    let zeros = |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &Device::Cpu).unwrap();
    let detector = Yolox::random(YoloxConfig::tiny(), 1, On::Host).unwrap();
    for dims in [&[1, 64, 65, 3][..], &[1, 3, 64, 64], &[64, 64, 3], &[0, 64, 64, 3], &[1, 0, 64, 3]] {
        assert!(detector.forward(&zeros(dims)).is_err(), "{dims:?}");
    }
    let keypoints = WholeBodyNet::random(DwPoseConfig::tiny(), 1, On::Host).unwrap();
    for dims in [&[1, 32, 64, 3][..], &[1, 3, 64, 32], &[0, 64, 32, 3]] {
        assert!(keypoints.forward(&zeros(dims)).is_err(), "{dims:?}");
    }
}

fn message(result: pose::Result<impl std::fmt::Debug>) -> String {
    let text = result.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn files_of_other_networks_are_refused_with_the_difference() {
    let cases = [
        (message(Yolox::load(fixture("other.onnx"), On::Host)), "found Reshape"),
        (message(Yolox::load(fixture("pose.onnx"), On::Host)), "simcc_x f32"),
        (message(Yolox::load(fixture("pose.pth"), On::Host)), "backbone.stem.conv.conv.weight is missing"),
        (message(Yolox::load(fixture("gone.onnx"), On::Host)), "cannot open"),
        (message(WholeBodyNet::load(fixture("other.onnx"), On::Host)), "expected simcc_x and simcc_y"),
        (message(WholeBodyNet::load(fixture("yolox.onnx"), On::Host)), "expected simcc_x and simcc_y"),
        (message(WholeBodyNet::load(fixture("yolox.pth"), On::Host)), "backbone.stem.2.conv.weight is missing"),
        (message(WholeBodyNet::load(fixture("pose.safetensors"), On::Host)), "backbone.stem.2.conv.weight is missing"),
    ];
    for (text, says) in cases {
        assert!(text.contains(says), "{text}");
    }
}

/// The tensors of a checkpoint, changed and written as safetensors.
fn changed(name: &str, change: impl FnOnce(&mut HashMap<String, Tensor>)) -> tempfile::TempPath {
    let checkpoint = weights::Checkpoint::open(fixture(name)).unwrap();
    let loadable = checkpoint.entries().filter(|e| e.is_loadable());
    let load = |e: &weights::Entry| (e.name.clone(), checkpoint.load(&e.name, &e.shape, None, &Device::Cpu).unwrap());
    let mut tensors: HashMap<String, Tensor> = loadable.map(load).collect();
    change(&mut tensors);
    let path = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap().into_temp_path();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    path
}

#[test]
fn checkpoints_that_do_not_fit_name_the_tensors() {
    let cpu = Device::Cpu;
    let same = changed("yolox.pth", |_| {});
    Yolox::load(&same, On::Host).unwrap();
    let missing = changed("yolox.pth", |t| drop(t.remove("neck.out_convs.1.bn.running_var")));
    assert!(message(Yolox::load(&missing, On::Host)).contains("1 missing (neck.out_convs.1.bn.running_var)"));
    let extra = changed("pose.pth", |t| drop(t.insert("head.gau.w".into(), Tensor::new(1f32, &cpu).unwrap())));
    assert!(message(WholeBodyNet::load(&extra, On::Host)).contains("1 unexpected (head.gau.w)"));
    let misshapen = changed("pose.pth", |t| {
        let gamma = t["head.gau.gamma"].narrow(0, 0, 1).unwrap();
        t.insert("head.gau.gamma".into(), gamma);
    });
    assert!(message(WholeBodyNet::load(&misshapen, On::Host)).contains("head.gau.gamma is [1, 8], needs [2, 8]"));
    let negative = changed("yolox.pth", |t| {
        let var = (t["backbone.stem.conv.bn.running_var"].clone() * -1.0).unwrap();
        t.insert("backbone.stem.conv.bn.running_var".into(), var);
    });
    assert!(message(Yolox::load(&negative, On::Host)).contains("variance below zero"));
    let nan = changed("yolox.pth", |t| {
        let nan = Tensor::full(f32::NAN, 4, &cpu).unwrap();
        t.insert("bbox_head.multi_level_conv_reg.0.bias".into(), nan);
    });
    assert!(message(Yolox::load(&nan, On::Host)).contains("non-finite"));
}

#[test]
fn truncated_onnx_files_are_errors() {
    let bytes = std::fs::read(fixture("pose.onnx")).unwrap();
    let path = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap().into_temp_path();
    for length in (0..bytes.len()).step_by(997) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        message(WholeBodyNet::load(&path, On::Host));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(96))]
    #[test]
    fn onnx_files_with_wrong_bits_never_panic(places in proptest::collection::vec((0..30_000usize, 1..=255u8), 1..4)) {
        let mut bytes = std::fs::read(fixture("pose.onnx")).unwrap();
        for (at, bits) in places {
            let at = at % bytes.len();
            bytes[at] ^= bits;
        }
        load_changed(bytes);
    }
}

/// An error holds nothing of the file that would break the line or steer the terminal.
fn load_changed(bytes: Vec<u8>) {
    let path = tempfile::Builder::new().suffix(".onnx").tempfile().unwrap().into_temp_path();
    std::fs::write(&path, bytes).unwrap();
    if let Err(e) = WholeBodyNet::load(&path, On::Host) {
        assert!(!e.to_string().contains(char::is_control), "{e}");
    }
}

#[test]
fn every_letter_of_an_onnx_file_may_be_a_line_break() {
    let bytes = std::fs::read(fixture("pose.onnx")).unwrap();
    let letters = (0..bytes.len().min(12_000)).filter(|at| bytes[*at].is_ascii_alphanumeric() || bytes[*at] == b'_');
    // One of each name is enough.
    for at in letters.step_by(13) {
        let mut changed = bytes.clone();
        changed[at] = b'\n';
        load_changed(changed);
    }
}

/// Networks of other input sizes, as files: a detector of 96 pixels, which its metadata tell, and an estimator of 64x96 with
/// a last kernel of 1.
fn small_pair(folder: &Path, input_size: &str) -> [PathBuf; 2] {
    let detector = yolox_manifest(&YoloxConfig { classes: 1, ..YoloxConfig::tiny() }).unwrap();
    let config = DwPoseConfig { keypoints: 133, input_size: [96, 64], kernel: 1, ..DwPoseConfig::tiny() };
    let estimator = dwpose_manifest(&config).unwrap();
    let files = ["detector", "estimator"].map(|name| folder.join(format!("{name}.safetensors")));
    let sizes = BTreeMap::from([("input_size".to_owned(), input_size.to_owned())]);
    for ((manifest, file), metadata) in [detector, estimator].iter().zip(&files).zip([sizes, BTreeMap::new()]) {
        let tensor = |spec: &weights::TensorSpec| {
            let positive = spec.name.ends_with("running_var");
            let values = (0..spec.elements()).map(|i| if positive { 1.0 } else { 0.3 * (i as f32 * 1.7).sin() });
            Tensor::from_vec(values.collect::<Vec<f32>>(), spec.shape.as_slice(), &Device::Cpu).unwrap()
        };
        let tensors: BTreeMap<String, Tensor> = manifest.tensors().map(|s| (s.name.clone(), tensor(s))).collect();
        weights::save_safetensors(file, &tensors, &metadata).unwrap();
    }
    files
}

#[test]
fn networks_of_other_input_sizes_find_people_at_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let [detector, estimator] = small_pair(dir.path(), "96x96");
    let networks = Networks::load(&detector, &estimator, On::Host).unwrap();
    assert_eq!((networks.detector_side(), networks.crop_size()), (96, pose::Size::new(64, 96)));
    assert_eq!(pose::net::detector_side(&detector).unwrap(), 96);
    let mut finder = DwPose::new(networks, DwPoseOptions::default());
    let picture = image::RgbImage::from_fn(80, 60, |x, y| image::Rgb([(3 * x) as u8, (4 * y) as u8, 90]));
    let found = finder.estimate(FrameRole::Driving(0), &picture).unwrap();
    assert!(!found.people.is_empty());
    assert!(found.people.iter().flat_map(|p| p.points).flatten().all(f64::is_finite));

    for (size, problem) in [
        ("96x64", "expected a square"),
        ("90x90", "its input size is 90x90; expected multiples of 32 up to 2048"),
        ("2080x2080", "its input size is 2080x2080"),
        ("0x0", "its input size is 0x0"),
        ("big", "input size"),
    ] {
        let [detector, estimator] = small_pair(dir.path(), size);
        let error = Networks::load(&detector, &estimator, On::Host).unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("detector.safetensors"), "{size}: {error}");
        if size != "96x64" {
            assert_eq!(pose::net::detector_side(&detector).unwrap_err().to_string(), error);
        }
    }
}
