//! The encoder against the golden cases, and its names, counts and errors.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};
use testkit::Case;
use umt5::{Config, Encoder, MAX_TOKENS};
use weights::{Checkpoint, RandomWeights, Resident, TensorMap, WeightSource, Weights};

fn source(tensors: HashMap<String, Tensor>) -> Arc<dyn WeightSource> {
    Arc::new(Resident::new(Arc::new(TensorMap(tensors)), Device::Cpu, None))
}

fn valid_ids(case: &Case) -> Vec<u32> {
    let flat = |name: &str| case.input(name).unwrap().flatten_all().unwrap().to_vec1::<i64>().unwrap();
    let kept = flat("ids").into_iter().zip(flat("mask")).filter(|(_, m)| *m != 0);
    kept.map(|(id, _)| u32::try_from(id).unwrap()).collect()
}

#[test]
fn golden() {
    let cases = testkit::golden_cases("text_encoder.umt5");
    if cases.is_empty() {
        println!("skipped: no golden cases of text_encoder.umt5 here");
    }
    for case in cases {
        let config: Config = serde_json::from_value(case.config.clone()).unwrap();
        let encoder = Encoder::new(&config, source(case.weights.clone())).unwrap();
        let error = case.compare("hidden", &encoder.encode(&valid_ids(&case)).unwrap()).unwrap();
        println!("{}: relative error {error:.2e}", case.path.display());
        let shapes = |name: &str| case.weights.get(name).map(Tensor::dims);
        assert_eq!(Config::detect(shapes).unwrap(), config);
    }
}

/// Names as transformers' `UMT5EncoderModel` has them, spelled out apart from the key map.
fn hugging_face(name: &str) -> String {
    let Some(rest) = name.strip_prefix("blocks.") else {
        return match name {
            "token_embedding.weight" => "shared.weight".into(),
            "norm.weight" => "encoder.final_layer_norm.weight".into(),
            other => panic!("{other}"),
        };
    };
    let (n, tail) = rest.split_once('.').unwrap();
    let tail = match tail {
        "norm1.weight" => "0.layer_norm.weight",
        "attn.q.weight" => "0.SelfAttention.q.weight",
        "attn.k.weight" => "0.SelfAttention.k.weight",
        "attn.v.weight" => "0.SelfAttention.v.weight",
        "attn.o.weight" => "0.SelfAttention.o.weight",
        "pos_embedding.embedding.weight" => "0.SelfAttention.relative_attention_bias.weight",
        "norm2.weight" => "1.layer_norm.weight",
        "ffn.gate.0.weight" => "1.DenseReluDense.wi_0.weight",
        "ffn.fc1.weight" => "1.DenseReluDense.wi_1.weight",
        "ffn.fc2.weight" => "1.DenseReluDense.wo.weight",
        other => panic!("{other}"),
    };
    format!("encoder.block.{n}.layer.{tail}")
}

/// Every tensor of the tiny config from seeded random numbers, under canonical names.
fn tiny_weights() -> HashMap<String, Tensor> {
    let random = Weights::new(Arc::new(RandomWeights::new(7)), Device::Cpu, None);
    let manifest = umt5::manifest(&Config::tiny()).unwrap();
    manifest
        .tensors()
        .map(|t| (t.name.clone(), random.matrix(t.shape.as_slice(), &t.name).unwrap().to_tensor(DType::BF16).unwrap()))
        .collect()
}

/// The tensors written to a file under the names that `rename` gives, and opened again.
fn through_a_file(label: &str, tensors: &HashMap<String, Tensor>, rename: impl Fn(&str) -> String) -> Checkpoint {
    let path = std::env::temp_dir().join(format!("umt5-{label}-{}.safetensors", std::process::id()));
    let named: BTreeMap<String, Tensor> = tensors.iter().map(|(n, t)| (rename(n), t.clone())).collect();
    weights::save_safetensors(&path, &named, &BTreeMap::new()).unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    // The map keeps the bytes; the name can go.
    let _ = std::fs::remove_file(&path);
    opened
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

fn encode(checkpoint: Checkpoint, config: &Config, ids: &[u32]) -> Vec<f32> {
    let source = Arc::new(Resident::from_checkpoint(checkpoint, Device::Cpu, None));
    flat(&Encoder::new(config, source).unwrap().encode(ids).unwrap())
}

#[test]
fn hugging_face_names_give_the_same_bits() {
    let mut models = vec![("tiny", Config::tiny(), tiny_weights(), vec![5, 900, 17, 17, 1])];
    for case in testkit::golden_cases("text_encoder.umt5") {
        let config: Config = serde_json::from_value(case.config.clone()).unwrap();
        if !config.shared_pos {
            let ids = valid_ids(&case);
            models.push(("golden", config, case.weights, ids));
        }
    }
    for (label, config, tensors, ids) in models {
        let manifest = umt5::manifest(&config).unwrap();
        let plain = through_a_file(&format!("{label}-wan"), &tensors, str::to_owned).rename(&umt5::key_map());
        manifest.check(&plain, "umt5", |_| false).unwrap();
        let want = encode(plain, &config, &ids);

        let renamed = through_a_file(&format!("{label}-hf"), &tensors, hugging_face).rename(&umt5::key_map());
        manifest.check(&renamed, "umt5", |_| false).unwrap();
        assert_eq!(Config::detect(|n| renamed.shape(n)).unwrap(), config);
        assert_eq!(encode(renamed, &config, &ids), want);

        let alias = |n: &str| hugging_face(n).replace("shared.", "encoder.embed_tokens.");
        let aliased = through_a_file(&format!("{label}-alias"), &tensors, alias).rename(&umt5::key_map());
        manifest.check(&aliased, "umt5", |_| false).unwrap();
        assert_eq!(encode(aliased, &config, &ids), want);

        let mut both: HashMap<String, Tensor> = tensors.clone();
        for extra in ["encoder.embed_tokens.weight", "spiece_model", "scaled_fp8"] {
            both.insert(extra.to_owned(), tensors["token_embedding.weight"].clone());
        }
        let both = through_a_file(&format!("{label}-both"), &both, str::to_owned).rename(&umt5::key_map());
        manifest.check(&both, "umt5", |_| false).unwrap();
    }
}

#[test]
fn gguf_names() {
    let map = umt5::key_map();
    let cases = [
        ("token_embd.weight", "token_embedding.weight"),
        ("enc.blk.11.attn_rel_b.weight", "blocks.11.pos_embedding.embedding.weight"),
        ("enc.blk.3.attn_norm.weight", "blocks.3.norm1.weight"),
        ("enc.blk.3.attn_o.weight", "blocks.3.attn.o.weight"),
        ("enc.blk.3.ffn_gate.weight", "blocks.3.ffn.gate.0.weight"),
        ("enc.blk.3.ffn_up.weight", "blocks.3.ffn.fc1.weight"),
        ("enc.output_norm.weight", "norm.weight"),
        ("encoder.block.2.layer.0.SelfAttention.q.scale_weight", "blocks.2.attn.q.scale_weight"),
        ("blocks.2.attn.q.weight", "blocks.2.attn.q.weight"),
    ];
    for (name, want) in cases {
        assert_eq!(map.canonical(name).as_deref(), Some(want));
    }
}

#[test]
fn the_size_of_the_real_one() {
    let manifest = umt5::manifest(&Config::xxl()).unwrap();
    assert_eq!(manifest.tensors().len(), 242);
    assert_eq!(manifest.parameters(), 5_680_910_336);
    assert_eq!(manifest.get("token_embedding.weight").unwrap().elements(), 1_050_148_864);
    let shapes = |name: &str| manifest.get(name).map(|t| t.shape.as_slice());
    assert_eq!(Config::detect(shapes).unwrap(), Config::xxl());
}

#[test]
fn one_position_table_for_all_layers() {
    // A shared table is the same network as that table copied into every layer.
    let mut tensors = tiny_weights();
    let own = "blocks.0.pos_embedding.embedding.weight";
    tensors.insert("blocks.1.pos_embedding.embedding.weight".into(), tensors[own].clone());
    let separate = Encoder::new(&Config::tiny(), source(tensors.clone())).unwrap();
    let config = Config { shared_pos: true, ..Config::tiny() };
    tensors.insert("pos_embedding.embedding.weight".into(), tensors[own].clone());
    tensors.retain(|name, _| !(name.starts_with("blocks.") && name.contains("pos_embedding")));
    assert_eq!(umt5::manifest(&config).unwrap().tensors().len(), tensors.len());
    assert_eq!(Config::detect(|n| tensors.get(n).map(Tensor::dims)).unwrap(), config);
    let shared = Encoder::new(&config, source(tensors)).unwrap();
    let ids = [3, 4, 5, 6, 1];
    assert_eq!(flat(&separate.encode(&ids).unwrap()), flat(&shared.encode(&ids).unwrap()));
}

/// Notes what is asked for, and gives every group from a view of its own, so that nothing stays.
struct Noting {
    inner: Weights,
    seen: Mutex<Vec<String>>,
}

impl WeightSource for Noting {
    fn group(&self, group: &str) -> Result<Weights> {
        self.seen.lock().unwrap().push(group.to_owned());
        Ok(self.inner.pp(group))
    }
    fn prefetch(&self, group: &str) {
        self.seen.lock().unwrap().push(format!("ahead {group}"));
    }
}

fn noting() -> Arc<Noting> {
    let inner = Weights::new(Arc::new(TensorMap(tiny_weights())), Device::Cpu, None);
    Arc::new(Noting { inner, seen: Mutex::default() })
}

#[test]
fn layers_are_asked_for_one_at_a_time_and_once_for_all_prompts() {
    let source = noting();
    let encoder = Encoder::new(&Config::tiny(), source.clone()).unwrap();
    assert!(source.seen.lock().unwrap().is_empty());
    let prompts: [&[u32]; 3] = [&[8, 9, 1], &[1], &[100, 200, 300, 400, 1]];
    let mut calls = Vec::new();
    let all = encoder
        .encode_all(&prompts, &mut |done, of| {
            calls.push((done, of));
            Ok(())
        })
        .unwrap();
    assert_eq!(calls, [(0, 2), (1, 2), (2, 2)]);
    let want = ["ahead blocks.0", "", "ahead blocks.1", "blocks.0", "blocks.1", ""];
    assert_eq!(*source.seen.lock().unwrap(), want);
    for (ids, together) in prompts.iter().zip(&all) {
        assert_eq!(together.dims(), [1, ids.len(), 32]);
        assert_eq!(together.dtype(), DType::F32);
        assert_eq!(flat(together), flat(&encoder.encode(ids).unwrap()));
    }
}

#[test]
fn progress_can_stop_the_work() {
    let source = noting();
    let encoder = Encoder::new(&Config::tiny(), source.clone()).unwrap();
    let stop = &mut |done, _| if done == 1 { candle_core::bail!("cancelled") } else { Ok(()) };
    let error = encoder.encode_all(&[&[4, 1]], stop).unwrap_err().to_string();
    assert!(error.contains("cancelled"), "{error}");
    assert!(!source.seen.lock().unwrap().iter().any(|g| g == "blocks.1"));
}

#[test]
fn errors_say_what_was_found() {
    let tensors = tiny_weights();
    let encoder = Encoder::new(&Config::tiny(), source(tensors.clone())).unwrap();
    let message = |ids: &[u32]| encoder.encode(ids).unwrap_err().to_string();
    assert!(message(&[]).contains("no token ids"));
    assert!(message(&[7; MAX_TOKENS + 1]).contains("513 token ids; at most 512"));
    assert!(message(&[5, 928]).contains("token id 928; the embedding table has 928 rows"));
    assert!(encoder.encode(&[7; MAX_TOKENS]).is_ok());

    let mut wrong = tensors.clone();
    wrong.insert("blocks.1.ffn.fc2.weight".into(), Tensor::zeros((32, 63), DType::F32, &Device::Cpu).unwrap());
    let error = Encoder::new(&Config::tiny(), source(wrong)).unwrap().encode(&[1]).unwrap_err().to_string();
    assert!(error.contains("blocks.1.ffn.fc2.weight") && error.contains("[32, 63]"), "{error}");

    let mut missing = tensors.clone();
    missing.remove("norm.weight");
    let error = Encoder::new(&Config::tiny(), source(missing.clone())).unwrap().encode(&[1]).unwrap_err().to_string();
    assert!(error.contains("norm.weight"), "{error}");

    missing.remove("blocks.0.attn.q.weight");
    let error = Config::detect(|n| missing.get(n).map(Tensor::dims)).unwrap_err().to_string();
    assert!(error.contains("blocks.0.attn.q.weight"), "{error}");

    for config in [
        Config { num_heads: 3, ..Config::tiny() },
        Config { num_heads: 0, ..Config::tiny() },
        Config { num_buckets: 2, ..Config::tiny() },
    ] {
        assert!(Encoder::new(&config, source(HashMap::new())).is_err());
        assert!(umt5::manifest(&config).is_err());
    }
}
