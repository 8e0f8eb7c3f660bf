//! Every form is written, read back, and compared; conversions are interrupted and gone on with.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use kernels::quant::Encoding;
use rand::SeedableRng;
use rand_distr::{Distribution, StandardNormal};
use weights::convert::{ConvertError, ConvertPlan, Converted, Form, compare, convert};
use weights::{Checkpoint, StoredType, save_safetensors};

/// A small transformer's names and shapes, rows of whole blocks of 256, and one matrix whose rows are none.
fn tensors(seed: u64, dtype: DType) -> BTreeMap<String, Tensor> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("patch_embedding.weight".into(), vec![256, 16, 1, 2, 2]),
        ("text_embedding.0.weight".into(), vec![256, 96]),
        ("time_projection.1.weight".into(), vec![1536, 256]),
        ("head.modulation".into(), vec![1, 2, 256]),
        ("head.head.weight".into(), vec![64, 256]),
    ];
    for block in [0, 1, 10] {
        let at = |name: &str| format!("blocks.{block}.{name}");
        for name in ["self_attn.q", "self_attn.v", "cross_attn.v", "cross_attn.k_img"] {
            shapes.push((at(&format!("{name}.weight")), vec![256, 256]));
            shapes.push((at(&format!("{name}.bias")), vec![256]));
        }
        shapes.push((at("ffn.0.weight"), vec![512, 256]));
        shapes.push((at("ffn.2.weight"), vec![256, 512]));
        shapes.push((at("odd.weight"), vec![100, 130]));
        shapes.push((at("modulation"), vec![1, 6, 256]));
        shapes.push((at("norm3.weight"), vec![256]));
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut make = |(name, shape): (String, Vec<usize>)| {
        let values: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(shape.iter().product()).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap())
    };
    shapes.into_iter().map(&mut make).collect()
}

fn written(folder: &Path, seed: u64, dtype: DType) -> PathBuf {
    let path = folder.join(format!("in-{seed}-{dtype:?}.safetensors"));
    save_safetensors(&path, &tensors(seed, dtype), &BTreeMap::new()).unwrap();
    path
}

fn to(input: &Path, form: &str, output: &Path) -> Result<Converted, ConvertError> {
    let checkpoint = Checkpoint::open(input)?;
    let plan = ConvertPlan::new(&checkpoint, form.parse()?, "wan")?;
    convert(&checkpoint, &plan, output, false, &mut |_| true)
}

/// The largest relative error that a matrix of normal numbers may have in a form.
fn allowed(form: Form) -> f64 {
    match form.name() {
        "f32" => 0.0,
        "f16" | "gguf-f16" => 5e-4,
        "bf16" | "gguf-bf16" => 3e-3,
        "fp8" | "fp8-rows" => 0.03,
        "fp8-e5m2" => 0.06,
        "int8" | "int8-rotated" | "q8_0" => 0.01,
        "int8-blocks" => 0.012,
        "q6_k" => 0.02,
        "q5_k_m" | "q5_k_s" | "q5_1" | "q5_0" => 0.045,
        "q4_k_m" | "q4_k_s" | "q4_1" | "q4_0" | "iq4_nl" | "iq4_xs" => 0.1,
        "q3_k_m" | "q3_k_s" => 0.18,
        _ => 0.4,
    }
}

#[test]
fn every_form_is_read_back_within_its_error_and_once_more_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), 1, DType::F32);
    let exact = Checkpoint::open(&input).unwrap();
    for form in Form::ALL {
        let output = dir.path().join(format!("a.{}", form.extension()));
        let done = to(&input, form.name(), &output).unwrap();
        let size = fs::metadata(&output).unwrap().len();
        assert_eq!((done.bytes, done.resumed_bytes), (size, 0), "{form}");
        let read = Checkpoint::open(&output).unwrap();
        let found = compare(&exact, &read, &mut |_, _| true).unwrap();
        assert!(found.missing.is_empty() && found.added.is_empty() && found.misshapen.is_empty(), "{form}: {found:?}");
        let all = matches!(form.name(), "f16" | "bf16");
        for t in &found.tensors {
            let matrix = t.name.starts_with("blocks.") && t.name.ends_with(".weight") && !t.name.contains("norm3");
            if matrix || all {
                assert!(t.relative_error <= allowed(form), "{form}: {} is off by {:e}", t.name, t.relative_error);
            } else {
                assert_eq!(t.largest_error, 0.0, "{form}: {} is kept as it was", t.name);
            }
        }
        if form.name() != "f32" {
            assert!(found.relative_error > allowed(form) / 40.0, "{form} loses {:e}", found.relative_error);
        }
        // Once more into the same form loses nothing.
        let again = dir.path().join(format!("b.{}", form.extension()));
        to(&output, form.name(), &again).unwrap();
        let (one, two) = (Checkpoint::open(&output).unwrap(), Checkpoint::open(&again).unwrap());
        assert_eq!(one.sha256(), two.sha256(), "{form}");
        [output, again].iter().for_each(|path| fs::remove_file(path).unwrap());
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing unfinished is left");
}

#[test]
fn matrices_take_the_forms_types_and_all_else_stays() {
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), 2, DType::BF16);
    let types = |form: &str, names: &[&str]| {
        let output = dir.path().join("out");
        let _ = fs::remove_file(&output);
        to(&input, form, &output).unwrap();
        let read = Checkpoint::open(&output).unwrap();
        names.iter().map(|n| read.entry(n).unwrap().dtype.to_string()).collect::<Vec<_>>()
    };
    let names = [
        "blocks.0.self_attn.q.weight",
        "blocks.0.cross_attn.v.weight",
        "blocks.10.self_attn.v.weight",
        "blocks.0.ffn.2.weight",
        "blocks.0.odd.weight",
        "blocks.0.modulation",
        "time_projection.1.weight",
    ];
    assert_eq!(types("q4_k_s", &names), ["Q4_K", "Q5_K", "Q4_K", "Q5_K", "BF16", "BF16", "BF16"]);
    assert_eq!(types("q5_0", &names), ["Q5_0", "Q5_0", "Q5_0", "Q5_1", "BF16", "BF16", "BF16"]);
    assert_eq!(types("fp8", &names[3..]), ["F8_E4M3", "F8_E4M3", "BF16", "BF16"]);
    assert_eq!(types("int8-rotated", &names[4..]), ["I8", "BF16", "BF16"], "130 columns are no groups of 256");
    assert_eq!(types("f16", &names[4..]), ["F16", "F16", "F16"]);
    let read = Checkpoint::open(dir.path().join("out")).unwrap();
    assert_eq!(read.entry("patch_embedding.weight").unwrap().shape, [256, 16, 1, 2, 2]);
}

#[test]
fn wider_and_back_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), 3, DType::BF16);
    let at = |name: &str| dir.path().join(name);
    to(&input, "f32", &at("wide")).unwrap();
    to(&at("wide"), "bf16", &at("back")).unwrap();
    assert_eq!(Checkpoint::open(&input).unwrap().sha256(), Checkpoint::open(at("back")).unwrap().sha256());
    // fp8's numbers are bf16's, and integers are found again from what they stand for.
    for (form, back) in [("fp8", 1e-6), ("int8", 1e-6), ("q8_0", 1e-3)] {
        let [one, wide, two] = ["one", "w", "two"].map(|n| at(&format!("{form}-{n}")));
        to(&input, form, &one).unwrap();
        to(&one, "f32", &wide).unwrap();
        to(&wide, form, &two).unwrap();
        let open = |path: &Path| Checkpoint::open(path).unwrap();
        let found = compare(&open(&one), &open(&two), &mut |_, _| true).unwrap();
        assert!(found.relative_error <= back, "{form}: {:e}", found.relative_error);
    }
}

#[test]
fn an_interrupted_conversion_goes_on_and_gives_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), 4, DType::F32);
    let at = |name: &str| dir.path().join(name);
    for form in ["q4_k_m", "int8-rotated", "bf16"] {
        let straight = to(&input, form, &at("straight")).unwrap();
        let checkpoint = Checkpoint::open(&input).unwrap();
        let plan = ConvertPlan::new(&checkpoint, form.parse().unwrap(), "wan").unwrap();
        for stop in [1, 7, 20] {
            let stopped = convert(&checkpoint, &plan, &at("out"), false, &mut |p| p.done < stop).unwrap_err();
            assert!(stopped.to_string().contains(&format!("after {stop} of")), "{stopped}");
            assert!(!at("out").exists() && at("out.part").exists());
            // Killed later: more was written than was noted.
            let noted = fs::metadata(at("out.part")).unwrap().len();
            let mut part = fs::read(at("out.part")).unwrap();
            part.extend([7; 1000]);
            fs::write(at("out.part"), part).unwrap();
            let done = convert(&checkpoint, &plan, &at("out"), false, &mut |_| true).unwrap();
            assert_eq!((done.resumed_bytes, &done.sha256), (noted, &straight.sha256), "{form}");
            assert_eq!(fs::read(at("out")).unwrap(), fs::read(at("straight")).unwrap());
            fs::remove_file(at("out")).unwrap();
        }
        // What is unfinished of another form is begun anew.
        convert(&checkpoint, &plan, &at("out"), false, &mut |p| p.done < 5).unwrap_err();
        let other = to(&input, "fp8", &at("out")).unwrap();
        assert_eq!(other.resumed_bytes, 0);
        ["out", "straight"].iter().for_each(|name| fs::remove_file(at(name)).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), 5, DType::F32);
    let at = |name: &str| dir.path().join(name);
    let error = |input: &Path, form: &str, output: &Path| to(input, form, output).unwrap_err().to_string();
    assert!(error(&input, "fp8", &input).contains("a file of the checkpoint"));
    fs::write(at("mine"), "mine").unwrap();
    assert!(error(&input, "fp8", &at("mine")).contains("--force"));
    assert!(error(&input, "fp8", &at("gone/out")).contains("cannot write"));
    assert!(error(&input, "q9", &at("out")).contains("q4_k_m"));

    let ones = |value: f32, shape: &[usize]| {
        (Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap() * f64::from(value)).unwrap()
    };
    let save = |name: &str, tensors: &[(&str, Tensor)]| {
        let tensors = tensors.iter().map(|(n, t)| ((*n).to_owned(), t.clone())).collect();
        save_safetensors(&at(name), &tensors, &BTreeMap::new()).unwrap();
        at(name)
    };
    let layer = "blocks.0.q.weight";
    let large = save("large", &[(layer, ones(1e6, &[64, 256]))]);
    for form in ["f16", "q4_k_m"] {
        let said = error(&large, form, &at("out"));
        assert!(said.contains(layer) && said.contains("another form"), "{form}: {said}");
    }
    to(&large, "bf16", &at("fits")).unwrap();
    let nan = save("nan", &[(layer, ones(f32::NAN, &[64, 256]))]);
    for form in ["bf16", "fp8", "q8_0"] {
        assert!(error(&nan, form, &at("out")).contains("non-finite"), "{form}");
    }
    let flat = save("flat", &[("conv1.weight", ones(1.0, &[64, 64]))]);
    assert!(error(&flat, "fp8", &at("out")).contains("no matrices of numbered layers"));
    assert!(!at("out").exists() && !at("out.part").exists() && !at("out.part.json").exists());
    assert_eq!(fs::read(at("mine")).unwrap(), b"mine");
}

#[test]
fn two_at_once_do_not_write_over_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), 6, DType::F32);
    let output = dir.path().join("out");
    let checkpoint = Checkpoint::open(&input).unwrap();
    let plan = ConvertPlan::new(&checkpoint, "fp8".parse().unwrap(), "wan").unwrap();
    let mut second = None;
    convert(&checkpoint, &plan, &output, false, &mut |p| {
        if p.done == 3 {
            second = Some(convert(&checkpoint, &plan, &output, false, &mut |_| true).unwrap_err().to_string());
        }
        true
    })
    .unwrap();
    assert!(second.unwrap().contains("another conversion"));
    assert!(Checkpoint::open(&output).is_ok());
}

#[test]
fn memory_and_size_are_known_before() {
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), 7, DType::F32);
    let checkpoint = Checkpoint::open(&input).unwrap();
    let plan = ConvertPlan::new(&checkpoint, "q8_0".parse().unwrap(), "wan").unwrap();
    // The largest matrix as f32 and as blocks, and a tile.
    let most = 512 * 256 * 4 + 512 * 256 / 32 * 34;
    assert_eq!((plan.matrices, plan.peak_bytes - (4 << 20)), (3 * 6, most));
    let read = |name: &str| checkpoint.entry(name).unwrap().dtype;
    assert_eq!(read("blocks.0.ffn.0.weight"), StoredType::from(safetensors::Dtype::F32));
    assert_eq!(Encoding::Q8_0.row_bytes(256), Some(272));
}

#[test]
fn bytes_are_known_without_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let input = written(dir.path(), 8, DType::F32);
    let checkpoint = Checkpoint::open(&input).unwrap();
    for form in Form::ALL {
        let output = dir.path().join(form.name());
        let plan = ConvertPlan::new(&checkpoint, form, "wan").unwrap();
        convert(&checkpoint, &plan, &output, false, &mut |_| true).unwrap();
        let read = Checkpoint::open(&output).unwrap();
        let mut matrices = 0;
        for entry in checkpoint.entries() {
            let after = read.entry(&entry.name).unwrap();
            match form.matrix_bytes(&entry.name, &entry.shape) {
                // What a conversion writes beside a rotated matrix, its description, is no part of it in memory.
                Some(bytes) => assert_eq!(bytes, after.stored_bytes(), "{form}: {}", entry.name),
                None => assert_eq!(after.dtype, entry.dtype, "{form}: {}", entry.name),
            }
            matrices += usize::from(form.matrix_bytes(&entry.name, &entry.shape).is_some());
        }
        assert!(matrices >= plan.matrices, "{form}");
    }
}
