use candle_core::{DType, Device};
use kernels::quant::{Encoding, Scales};
use weights::{Checkpoint, Flavour, Format, KeyMap, WeightsError};

use super::support::{expected, file, flat, open, raw, values};

#[test]
fn files_of_every_flavour_decode_to_what_their_writers_say() {
    let cases = [
        ("fp8_plain.safetensors", Flavour::PlainFp8),
        ("comfy_scaled.safetensors", Flavour::ScaleWeight),
        ("comfy_scaled_e5m2.safetensors", Flavour::ScaleWeight),
        ("kijai.safetensors", Flavour::WeightScale),
        ("lightx2v_fp8.safetensors", Flavour::WeightScaleRows),
        ("lightx2v_int8.safetensors", Flavour::WeightScaleRows),
        ("comfy_quant.safetensors", Flavour::ComfyQuant),
        ("comfy_metadata.safetensors", Flavour::ComfyQuant),
        ("turbo.safetensors", Flavour::Int8Blocks),
        ("turbo.pth", Flavour::Int8Blocks),
        ("longcat", Flavour::Int8Rows),
        ("fp8.pth", Flavour::PlainFp8),
    ];
    for (name, flavour) in cases {
        let (checkpoint, expected) = (open(name), expected(name.split('.').next().unwrap()));
        assert_eq!(checkpoint.flavour(), flavour, "{name}");
        let names = |c: &Checkpoint| c.entries().map(|e| e.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&checkpoint), names(&expected), "{name}: scales and markers are no tensors of their own");
        for entry in checkpoint.entries() {
            assert!(entry.is_loadable());
            let want = values(&expected, &entry.name, DType::F32);
            let got = values(&checkpoint, &entry.name, DType::F32);
            if checkpoint.matrix(&entry.name, &entry.shape).unwrap().is_some_and(|m| m.rotation().is_some()) {
                // Turned back in f64 by the fixture's maker, in f32 here.
                let away = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                let largest = want.iter().fold(0f32, |most, v| most.max(v.abs()));
                assert!(away <= 1e-6 * largest, "{name}: {} is {away:e} of {largest:e} off", entry.name);
                continue;
            }
            assert_eq!(got, want, "{name}: {}", entry.name);
            let rounded: Vec<f32> = want.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
            assert_eq!(values(&checkpoint, &entry.name, DType::BF16), rounded, "{name}: {}", entry.name);
            let stored = checkpoint.load(&entry.name, &entry.shape, None, &Device::Cpu).unwrap();
            assert!(entry.encoding().is_none() || stored.dtype() == DType::F32);
        }
    }
}

#[test]
fn matrices_say_their_scales() {
    let scales = |file: &str, name: &str, shape: [usize; 2]| {
        let matrix = open(file).matrix(name, &shape).unwrap().unwrap();
        assert_eq!(matrix.shape(), shape);
        (matrix.encoding(), matrix.scales().clone(), matrix.rotation())
    };
    let q = "blocks.0.self_attn.q.weight";
    assert!(matches!(scales("comfy_scaled.safetensors", q, [6, 64]), (Encoding::F8E4M3, Scales::Matrix(_), None)));
    let rows = scales("lightx2v_int8.safetensors", q, [6, 64]);
    assert!(matches!(rows, (Encoding::I8, Scales::Rows(values), None) if values.len() == 6));
    let rows = scales("longcat", q, [6, 64]);
    assert!(matches!(rows, (Encoding::I8, Scales::Rows(values), None) if values.len() == 6));
    let blocks = scales("turbo.pth", q, [130, 64]);
    assert!(matches!(blocks, (Encoding::I8, Scales::Blocks { side: 128, values }, None) if values.len() == 2));
    let rotated = scales("comfy_quant.safetensors", "e.weight", [6, 512]);
    assert!(matches!(rotated, (Encoding::I8, Scales::Rows(_), Some(256))));
    let plain = scales("fp8_plain.safetensors", "e5m2.codes.weight", [2, 124]);
    assert_eq!(plain, (Encoding::F8E5M2, Scales::None, None));

    let comfy = open("comfy_scaled.safetensors");
    assert_eq!(comfy.input_scale(q).unwrap(), Some(0.5));
    assert_eq!(open("kijai.safetensors").input_scale(q).unwrap(), None);
    assert!(comfy.matrix("blocks.0.self_attn.q.bias", &[6]).unwrap().is_none());
    assert!(comfy.matrix(q, &[64, 6]).unwrap_err().to_string().contains("the network needs [64, 6]"));
    // Numbers of the matrix, and one f32.
    assert_eq!(comfy.entry(q).unwrap().stored_bytes(), 6 * 64 + 4);
    assert_eq!(open("comfy_metadata.safetensors").metadata()["made_by"], "make_formats.py");
}

#[test]
fn blocks_of_gguf_are_the_writers_and_stay_in_the_map() {
    let bytes = bytes::Bytes::from(std::fs::read(super::support::path("blocks.gguf")).unwrap());
    let range = bytes.as_ptr_range();
    let checkpoint = Checkpoint::from_bytes("blocks.gguf", bytes.clone()).unwrap();
    assert_eq!((checkpoint.format(), checkpoint.flavour()), (Format::Gguf, Flavour::GgmlBlocks));
    assert_eq!(checkpoint.metadata()["general.architecture"], "wan");
    let expected = expected("blocks");
    let types = [
        Encoding::Q8_0,
        Encoding::Q4_0,
        Encoding::Q4_1,
        Encoding::Q5_0,
        Encoding::Q5_1,
        Encoding::Q2K,
        Encoding::Q3K,
        Encoding::Q4K,
        Encoding::Q5K,
        Encoding::Q6K,
        Encoding::Iq4Nl,
        Encoding::Iq4Xs,
    ];
    for encoding in types {
        let name = format!("{}.weight", encoding.name().to_lowercase());
        let entry = checkpoint.entry(&name).unwrap();
        assert_eq!((entry.encoding(), entry.shape.as_slice()), (Some(encoding), [4, 512].as_slice()));
        let matrix = checkpoint.matrix(&name, &[4, 512]).unwrap().unwrap();
        assert!(range.contains(&matrix.bytes().as_ptr()), "{name} is copied");
        assert_eq!(matrix.bytes().as_ref(), raw(&expected, &format!("{name}@bytes")), "{name}");
        assert_eq!(matrix.bytes().len() as u64, entry.stored_bytes());
        assert_eq!(values(&checkpoint, &name, DType::F32), values(&expected, &name, DType::F32), "{name}");
    }
    for name in ["f32.weight", "f16.weight", "f64.weight", "bf16.weight", "blocks.0.modulation"] {
        assert_eq!(values(&checkpoint, name, DType::F32), values(&expected, name, DType::F32), "{name}");
    }
}

#[test]
fn shapes_that_gguf_writers_change_are_taken_back() {
    let (checkpoint, expected) = (open("blocks.gguf"), expected("blocks"));
    let cases: [(&str, &[usize]); 3] = [
        ("patch_embedding.weight", &[4, 3, 1, 2, 2]),
        ("merged.weight", &[4, 3, 1, 2, 2]),
        ("blocks.0.modulation", &[1, 6, 8]),
    ];
    for (name, shape) in cases {
        let tensor = checkpoint.load(name, shape, Some(DType::F32), &Device::Cpu).unwrap();
        assert_eq!(tensor.dims(), shape);
        assert_eq!(flat(&tensor), values(&expected, name, DType::F32), "{name}");
    }
    assert_eq!(checkpoint.shape("noted.weight"), Some([2, 2, 2, 64].as_slice()));
    assert!(checkpoint.load("merged.weight", &[3, 4, 1, 2, 3], None, &Device::Cpu).is_err());
    assert!(checkpoint.load("f32.weight", &[10, 3], None, &Device::Cpu).is_err());
}

#[test]
fn quantised_rows_that_a_map_joins() {
    const JOIN: KeyMap = KeyMap::identity().join(&[("qkv.weight", ["q.weight", "k.weight", "v.weight"])]);
    let scale = 2f32.to_le_bytes();
    let rows = [1f32, 3.0].map(f32::to_le_bytes).concat();
    let (q, k, v) = ([0x38u8; 4], [0x40u8; 4], [1u8, 2, 3, 4]);
    let same = file(
        &[
            ("q.weight", "F8_E4M3", &[2, 2], &q),
            ("q.scale_weight", "F32", &[], &scale),
            ("k.weight", "F8_E4M3", &[2, 2], &k),
            ("v.weight", "F8_E4M3", &[2, 2], &q),
            ("v.weight_scale", "F32", &[2, 1], &rows),
        ],
        &[],
    );
    let checkpoint = Checkpoint::from_bytes("m", same).unwrap().rename(&JOIN);
    let matrix = checkpoint.matrix("qkv.weight", &[6, 2]).unwrap().unwrap();
    assert_eq!(*matrix.scales(), Scales::Rows(vec![2.0, 2.0, 1.0, 1.0, 1.0, 3.0]));
    assert_eq!(matrix.bytes().as_ref(), [q, k, q].concat());
    let want = [2., 2., 2., 2., 2., 2., 2., 2., 1., 1., 3., 3.];
    assert_eq!(values(&checkpoint, "qkv.weight", DType::F32), want);

    // Of two forms they make no one matrix; as floats they are joined all the same.
    let mixed = file(
        &[
            ("q.weight", "F8_E4M3", &[2, 2], &q),
            ("k.weight", "F8_E4M3", &[2, 2], &k),
            ("v.weight", "I8", &[2, 2], &v),
            ("v.weight_scale", "F32", &[2, 1], &rows),
        ],
        &[],
    );
    let checkpoint = Checkpoint::from_bytes("m", mixed).unwrap().rename(&JOIN);
    assert!(checkpoint.matrix("qkv.weight", &[6, 2]).unwrap().is_none());
    assert_eq!(checkpoint.entry("qkv.weight").unwrap().encoding(), None);
    let want = [1., 1., 1., 1., 2., 2., 2., 2., 1., 2., 9., 12.];
    assert_eq!(values(&checkpoint, "qkv.weight", DType::F32), want);
    assert!(checkpoint.load("qkv.weight", &[6, 2], None, &Device::Cpu).unwrap().dtype() == DType::F32);
}

#[test]
fn numbers_that_are_not_finite_are_found_when_a_matrix_is_taken() {
    let not_finite = |tensors: &[(&str, &str, &[usize], &[u8])]| {
        let checkpoint = Checkpoint::from_bytes("m", file(tensors, &[])).unwrap();
        let error = checkpoint.matrix("a.weight", &[2, 2]).unwrap_err();
        let loaded = checkpoint.load("a.weight", &[2, 2], None, &Device::Cpu).unwrap_err();
        for error in [error, loaded] {
            match WeightsError::from_candle(error) {
                Ok(WeightsError::NotFinite { name, element, .. }) => {
                    assert_eq!((name.as_str(), element), ("a.weight", 2))
                }
                other => panic!("{other:?}"),
            }
        }
    };
    let shape: &[usize] = &[2, 2];
    for code in [0x7f, 0xff] {
        not_finite(&[("a.weight", "F8_E4M3", shape, &[0, 1, code, 0])]);
    }
    for code in [0x7c, 0x7f, 0xfe] {
        not_finite(&[("a.weight", "F8_E5M2", shape, &[0, 1, code, 0])]);
    }
    let rows = [1f32, f32::NAN].map(f32::to_le_bytes).concat();
    not_finite(&[("a.weight", "I8", shape, &[0; 4]), ("a.weight_scale", "F32", &[2, 1], &rows)]);
}
