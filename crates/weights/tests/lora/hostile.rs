//! LoRAs that do not fit, are broken, or are made to harm: one line each, and never a panic.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use weights::lora::{LoraError, LoraFile, Merged, Stack};
use weights::{Checkpoint, TensorSource, WeightsError};

use crate::support::{NAMES, base, file, fit, fixture, manifest_of, merged, randn};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

/// The error, which has one line that mentions all of `words`.
fn refused(tensors: &[(&str, Tensor)], words: &[&str]) -> LoraError {
    let error = fit(tensors).unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains("lora.safetensors"), "{text}");
    for word in words {
        assert!(text.contains(word), "{word} is missing: {text}");
    }
    error
}

#[test]
fn shapes_that_differ_are_an_error_with_both_shapes() {
    let tensors = [
        ("blocks.0.self_attn.q.lora_A.weight", zeros(&[2, 9])),
        ("blocks.0.self_attn.q.lora_B.weight", zeros(&[8, 2])),
        ("blocks.0.self_attn.k.diff_b", zeros(&[7])),
    ];
    refused(
        &tensors,
        &["the test network", "2 of its", "[8, 9]", "[8, 8]", "self_attn.k.bias is [7]", "network's [8],"],
    );
    // Flattened, the pair of a transposed weight would have the right number of elements.
    refused(
        &[("blocks.0.ffn.0.lora_A.weight", zeros(&[2, 12])), ("blocks.0.ffn.0.lora_B.weight", zeros(&[8, 2]))],
        &["[8, 12]", "[12, 8]"],
    );
    let names: Vec<String> =
        (0..2).flat_map(|b| "qkvo".chars().map(move |l| format!("blocks.{b}.self_attn.{l}.diff"))).collect();
    let mut many: Vec<_> = names.iter().map(|n| (n.as_str(), zeros(&[3]))).collect();
    many.extend(["blocks.0.ffn.0.diff", "blocks.1.ffn.0.diff", "head.head.diff"].map(|n| (n, zeros(&[3]))));
    let LoraError::Shapes { count, list, .. } = refused(&many, &["11 of its", "…"]) else { panic!() };
    assert_eq!((count, list.matches(" is [3]").count()), (11, 10));
}

#[test]
fn patch_embeddings_for_other_channels_are_left_out_and_told() {
    let pair = |channels: usize| {
        [
            ("patch_embedding.lora_down.weight", zeros(&[2, channels, 1, 2, 2])),
            ("patch_embedding.lora_up.weight", zeros(&[8, 2, 1, 1, 1])),
            ("patch_embedding.diff_b", zeros(&[8])),
        ]
    };
    let fitted = fit(&pair(5)).unwrap();
    assert_eq!(fitted.targets().collect::<Vec<_>>(), ["patch_embedding.bias"]);
    assert_eq!(
        fitted.leftovers().patches,
        ["patch_embedding.weight is [8, 5, 1, 2, 2], the network's [8, 3, 1, 2, 2]"]
    );
    assert_eq!(fit(&pair(3)).unwrap().targets().len(), 2);
    let mut narrow = pair(3);
    narrow[1].1 = zeros(&[7, 2, 1, 1, 1]);
    refused(&narrow, &["[7, 3, 1, 2, 2]"]);
}

#[test]
fn keys_that_name_nothing_are_listed() {
    let good = ("blocks.0.self_attn.q.diff_b", zeros(&[8]));
    let fitted = fit(&[
        good,
        ("blocks.7.self_attn.q.diff_b", zeros(&[8])),
        ("blocks.0.self_attn.q.extra", zeros(&[8])),
        ("blocks.0.cross_attn.k_img.lora_down.weight", zeros(&[2, 8])),
        ("blocks.0.cross_attn.k_img.lora_up.weight", zeros(&[8, 2])),
        ("blocks.0.cross_attn.q.alpha", zeros(&[])),
        ("lora_te_encoder_layers_0_mlp.lora_down.weight", zeros(&[8])),
    ])
    .unwrap();
    let mut unmatched = fitted.leftovers().unmatched.clone();
    unmatched.sort();
    assert_eq!(
        unmatched,
        [
            "blocks.0.cross_attn.k_img.lora_down.weight",
            "blocks.0.cross_attn.k_img.lora_up.weight",
            "blocks.0.cross_attn.q.alpha",
            "blocks.0.self_attn.q.extra",
            "blocks.7.self_attn.q.diff_b",
        ]
    );
    assert_eq!(fitted.leftovers().text_encoder, ["lora_te_encoder_layers_0_mlp.lora_down.weight"]);
    assert_eq!(fitted.targets().collect::<Vec<_>>(), ["blocks.0.self_attn.q.bias"]);

    refused(
        &[("double_blocks.0.img_attn.qkv.diff", zeros(&[8]))],
        &["none of its 1 keys", "double_blocks.0", "another"],
    );
    refused(&[("lora_te_layers_0.lora_down.weight", zeros(&[8]))], &["none of its 1 keys"]);
    refused(&[("blocks.0.self_attn.q.weight", zeros(&[8, 8]))], &["no LoRA", "none of its 1 tensors", ".diff_b"]);
}

#[test]
fn broken_pairs_are_told_apart() {
    let down = |shape: &[usize]| ("blocks.0.self_attn.q.lora_down.weight", zeros(shape));
    let up = |shape: &[usize]| ("blocks.0.self_attn.q.lora_up.weight", zeros(shape));
    let alpha = |t: Tensor| ("blocks.0.self_attn.q.alpha", t);
    refused(&[down(&[2, 8])], &["lora_down.weight has no other half"]);
    refused(&[up(&[8, 2])], &["lora_up.weight has no other half"]);
    refused(&[down(&[0, 8]), up(&[8, 0])], &["rank 0", "[0, 8]"]);
    refused(&[down(&[2, 8]), up(&[8, 3])], &["ranks differ", "[8, 3]", "[2, 8]"]);
    refused(&[down(&[2, 8]), up(&[8, 2, 3])], &["[8, 2, 3]"]);
    refused(&[down(&[8]), up(&[8, 2])], &["[8]"]);
    refused(&[down(&[]), up(&[8, 2])], &["single number"]);
    refused(&[down(&[2, 8]), up(&[8, 2]), alpha(zeros(&[3]))], &["alpha is [3]", "single number"]);
    let nan = Tensor::new(f32::NAN, &Device::Cpu).unwrap();
    refused(&[down(&[2, 8]), up(&[8, 2]), alpha(nan)], &["non-finite", "alpha"]);
    refused(
        &[down(&[2, 8]), up(&[8, 2]), ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", zeros(&[2, 8]))],
        &["under two names"],
    );
    refused(
        &[down(&[4, 8]), ("blocks.0.self_attn.q.lora_up.blocks.1.weight", zeros(&[8, 4]))],
        &["only [1] are there"],
    );
    let whole = Tensor::zeros((2, 8), DType::I64, &Device::Cpu).unwrap();
    refused(&[("blocks.0.self_attn.q.lora_down.weight", whole), up(&[8, 2])], &["I64", "BF16"]);
    for key in ["blocks.0.self_attn.q.diff", "blocks.0.self_attn.q.diff_b", "head.diff_m"] {
        refused(&[(key, Tensor::zeros((8, 8), DType::I64, &Device::Cpu).unwrap())], &[key, "I64", "BF16"]);
    }
    let error = refused(&[("lora_unet_blocks_0_ffn_0.hada_w1_a", zeros(&[8, 2]))], &["LoHa", "low-rank pairs"]);
    assert!(matches!(error, LoraError::Kind { .. }));
}

#[test]
fn numbers_that_spoil_a_weight_are_errors_that_name_it() {
    let read = |tensors: &[(&str, Tensor)], name: &str, dtype| {
        let source = merged(vec![(fit(tensors).unwrap(), 1.0)]);
        let error = source.tensor(name, base().shape(name).unwrap(), dtype, &Device::Cpu).unwrap_err();
        WeightsError::from_candle(error).unwrap()
    };
    let huge = [("blocks.0.self_attn.q.diff", Tensor::full(7e4f32, (8, 8), &Device::Cpu).unwrap())];
    let error = read(&huge, "blocks.0.self_attn.q.weight", Some(DType::F16));
    assert!(error.to_string().contains("blocks.0.self_attn.q.weight") && error.to_string().contains("--dtype bf16"));
    assert!(error.to_string().contains("lora.safetensors"), "{error}");
    // Each of them is finite, their sum is not, in no precision.
    let most = || fit(&[("blocks.0.self_attn.q.diff", Tensor::full(3e38f32, (8, 8), &Device::Cpu).unwrap())]).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        let source = merged(vec![(most(), 1.0), (most(), 1.0)]);
        let name = "blocks.0.self_attn.q.weight";
        let error = source.tensor(name, base().shape(name).unwrap(), Some(dtype), &Device::Cpu).unwrap_err();
        let error = WeightsError::from_candle(error).unwrap().to_string();
        assert!(["lora.safetensors", name, dtype.as_str()].iter().all(|word| error.contains(word)), "{error}");
        assert!(
            !error.contains("--dtype")
                && merged(vec![(most(), 1.0), (most(), -1.0)])
                    .tensor(name, base().shape(name).unwrap(), Some(dtype), &Device::Cpu)
                    .is_ok()
        );
    }
    let nan = [("blocks.0.self_attn.q.diff_b", Tensor::full(f32::NAN, 8, &Device::Cpu).unwrap())];
    let error = read(&nan, "blocks.0.self_attn.q.bias", Some(DType::F32));
    assert!(matches!(error, WeightsError::NotFinite { name, .. } if name == "blocks.0.self_attn.q.diff_b"));
}

#[test]
fn one_weight_in_two_spellings_is_not_added_twice() {
    let diff = |name: &'static str, shape: &[usize]| (name, zeros(shape));
    let pairs: [[(&str, Tensor); 2]; 3] = [
        [
            diff("diffusion_model.blocks.0.self_attn.q.diff_b", &[8]),
            diff("transformer.blocks.0.attn1.to_q.diff_b", &[8]),
        ],
        [diff("blocks.0.self_attn.q.diff", &[8, 8]), diff("lora_unet_blocks_0_self_attn_q.diff", &[8, 8])],
        [diff("lora_unet_blocks_0_attn1_to_q.diff", &[8, 8]), diff("lora_unet_blocks_0_self_attn_q.diff", &[8, 8])],
    ];
    for pair in pairs {
        refused(&pair, &[pair[0].0, pair[1].0, "under two names"]);
    }
    // A bias in another spelling than its weight's is another tensor.
    let both = [diff("blocks.0.self_attn.q.diff", &[8, 8]), diff("transformer.blocks.0.attn1.to_q.diff_b", &[8])];
    assert_eq!(fit(&both).unwrap().targets().len(), 2);
}

/// Opens, fits and merges whatever comes; the network may be given or refused anything but a panic.
fn use_it(checkpoint: Checkpoint) {
    let base = base();
    let Ok(fitted) = LoraFile::read(checkpoint).and_then(|l| l.fit(&manifest_of(&base), &NAMES, "network")) else {
        return;
    };
    let targets: Vec<String> = fitted.targets().map(str::to_owned).collect();
    let stack = Stack::new(vec![(fitted, -1.5)]);
    stack.merge_bytes(&manifest_of(&base));
    let source = Merged::new(std::sync::Arc::new(weights::CheckpointSource(base.clone())), std::sync::Arc::new(stack));
    for name in targets {
        let _ = source.tensor(&name, base.shape(&name).unwrap(), None, &Device::Cpu);
    }
}

fn key() -> impl Strategy<Value = String> {
    let prefix = ["", "diffusion_model.", "transformer.", "lora_unet_", "lora___lorahyphen___", "base_model.model."];
    let module = [
        "blocks.0.self_attn.q",
        "blocks_0_self_attn_q",
        "blocks.0.attn1.to_q",
        "blocks.0",
        "head",
        "patch_embedding",
        "blocks.0.modulation",
        "",
        ".",
    ];
    let suffix = [
        ".lora_down.weight",
        ".lora_up.weight",
        ".lora_A.weight",
        ".lora_B.weight",
        ".lora_up.blocks.0.weight",
        ".lora_up.blocks.1.weight",
        ".lora_B.bias",
        ".alpha",
        ".alpha_scale",
        ".diff",
        ".diff_b",
        ".diff_m",
        "",
    ];
    let pick = |list: Vec<&'static str>| proptest::sample::select(list);
    (pick(prefix.to_vec()), pick(module.to_vec()), pick(suffix.to_vec())).prop_map(|(p, m, s)| format!("{p}{m}{s}"))
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    let usual = [vec![8, 2], vec![2, 8], vec![8], vec![8, 8], vec![4, 8], vec![1, 6, 8], vec![], vec![8, 3, 1, 2, 2]];
    prop_oneof![proptest::sample::select(usual.to_vec()), proptest::collection::vec(0usize..4, 0..6)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_mixture_of_keys_and_shapes_is_used_or_refused(
        tensors in proptest::collection::vec((key(), shape()), 1..8)
    ) {
        let tensors: Vec<_> = tensors.iter().map(|(k, s)| (k.as_str(), randn(s, 1))).collect();
        use_it(file(&tensors));
    }

    #[test]
    fn any_damage_to_a_file_is_used_or_refused(
        name in proptest::sample::select(vec!["lightx2v.safetensors", "lorahyphen.safetensors", "kohya_int.safetensors"]),
        hits in proptest::collection::vec((0usize..4000, any::<u8>()), 1..6),
        cut in 0usize..4000,
    ) {
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        for (at, value) in hits {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if cut % 4 == 0 {
            bytes.truncate(cut);
        }
        if let Ok(checkpoint) = Checkpoint::from_bytes(name, bytes) {
            use_it(checkpoint);
        }
    }
}
