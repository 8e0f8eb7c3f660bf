//! The tower against the golden cases, and its names, counts and errors.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};
use clip::{Activation, Config, VisionTower};
use weights::{Checkpoint, RandomWeights, Resident, TensorMap, WeightSource, Weights};

fn source(tensors: HashMap<String, Tensor>) -> Arc<dyn WeightSource> {
    Arc::new(Resident::new(Arc::new(TensorMap(tensors)), Device::Cpu, None))
}

/// Without what the tower must not ask for, so that a golden case fails if it does.
fn needed(config: &Config, tensors: &HashMap<String, Tensor>) -> HashMap<String, Tensor> {
    tensors.iter().filter(|(name, _)| !config.ignored(name)).map(|(n, t)| (n.clone(), t.clone())).collect()
}

#[test]
fn golden() {
    let cases = testkit::golden_cases("image_encoder.clip_vision");
    if cases.is_empty() {
        println!("skipped: no golden cases of image_encoder.clip_vision here");
    }
    for case in cases {
        let config: Config = serde_json::from_value(case.config.clone()).unwrap();
        let weights = needed(&config, &case.weights);
        assert!(weights.len() < case.weights.len());
        assert_eq!(clip::manifest(&config).unwrap().tensors().len(), weights.len());
        let tower = VisionTower::new(&config, source(weights)).unwrap();
        let error = case.compare("hidden", &tower.forward(&case.input("pixels").unwrap()).unwrap()).unwrap();
        println!("{}: relative error {error:.2e}", case.path.display());
    }
}

/// All tensors of a tower, the unused ones too, from seeded random numbers, under canonical names.
fn whole_tower(config: &Config) -> HashMap<String, Tensor> {
    let random = Weights::new(Arc::new(RandomWeights::new(3)), Device::Cpu, None);
    let one_more = Config { num_layers: config.num_layers + 1, ..config.clone() };
    let manifest = clip::manifest(&one_more).unwrap();
    let make = |name: &str, shape: &[usize]| {
        (name.to_owned(), random.matrix(shape, name).unwrap().to_tensor(DType::BF16).unwrap())
    };
    let mut all: HashMap<String, Tensor> = manifest.tensors().map(|t| make(&t.name, &t.shape)).collect();
    all.extend([
        make("post_norm.weight", &[config.dim]),
        make("post_norm.bias", &[config.dim]),
        make("head", &[config.dim, config.out_dim]),
    ]);
    all
}

/// Names and tensors as transformers' `CLIPVisionModelWithProjection` has them, spelled out apart from the key map.
fn hugging_face(name: &str, tensor: &Tensor, config: &Config) -> Vec<(String, Tensor)> {
    let dim = config.dim;
    let (to, tensor) = match name {
        "cls_embedding" => ("vision_model.embeddings.class_embedding".into(), tensor.flatten_all().unwrap()),
        "pos_embedding" => {
            ("vision_model.embeddings.position_embedding.weight".into(), tensor.reshape(((), dim)).unwrap())
        }
        "patch_embedding.weight" => ("vision_model.embeddings.patch_embedding.weight".into(), tensor.clone()),
        "head" => ("visual_projection.weight".into(), tensor.t().unwrap().contiguous().unwrap()),
        "pre_norm.weight" => ("vision_model.pre_layrnorm.weight".into(), tensor.clone()),
        "pre_norm.bias" => ("vision_model.pre_layrnorm.bias".into(), tensor.clone()),
        "post_norm.weight" => ("vision_model.post_layernorm.weight".into(), tensor.clone()),
        "post_norm.bias" => ("vision_model.post_layernorm.bias".into(), tensor.clone()),
        other => {
            let (n, tail) = other.strip_prefix("transformer.").unwrap().split_once('.').unwrap();
            let (module, kind) = tail.rsplit_once('.').unwrap();
            let layer = format!("vision_model.encoder.layers.{n}");
            if module == "attn.to_qkv" {
                let part = |i: usize| tensor.narrow(0, i * dim, dim).unwrap().contiguous().unwrap();
                let name = |p: &str| format!("{layer}.self_attn.{p}_proj.{kind}");
                return vec![(name("q"), part(0)), (name("k"), part(1)), (name("v"), part(2))];
            }
            let module = match module {
                "norm1" => "layer_norm1",
                "norm2" => "layer_norm2",
                "attn.proj" => "self_attn.out_proj",
                "mlp.0" => "mlp.fc1",
                "mlp.2" => "mlp.fc2",
                other => panic!("{other}"),
            };
            (format!("{layer}.{module}.{kind}"), tensor.clone())
        }
    };
    vec![(to, tensor)]
}

fn through_a_file(label: &str, tensors: impl Iterator<Item = (String, Tensor)>) -> Checkpoint {
    let path = std::env::temp_dir().join(format!("clip-{label}-{}.safetensors", std::process::id()));
    weights::save_safetensors(&path, &tensors.collect(), &BTreeMap::new()).unwrap();
    let opened = Checkpoint::open(&path).unwrap();
    // The map keeps the bytes; the name can go.
    let _ = std::fs::remove_file(&path);
    opened.rename(&clip::key_map())
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1::<f32>().unwrap()
}

fn pixels(config: &Config, batch: usize) -> Tensor {
    let count = batch * 3 * config.image_size * config.image_size;
    let values: Vec<f32> = (0..count).map(|i| ((i * 7919 % 1009) as f32 / 504.5) - 1.0).collect();
    Tensor::from_vec(values, (batch, 3, config.image_size, config.image_size), &Device::Cpu).unwrap()
}

#[test]
fn all_layouts_give_the_same_bits() {
    let mut models = vec![("tiny", Config::tiny(), whole_tower(&Config::tiny()))];
    for case in testkit::golden_cases("image_encoder.clip_vision") {
        models.push(("golden", serde_json::from_value(case.config.clone()).unwrap(), case.weights));
    }
    for (label, config, tensors) in models {
        let image = pixels(&config, 1);
        let run =
            |source: Arc<dyn WeightSource>| flat(&VisionTower::new(&config, source).unwrap().forward(&image).unwrap());
        let want = run(source(tensors.clone()));
        assert!(want.iter().all(|v| v.is_finite()));
        let manifest = clip::manifest(&config).unwrap();
        let extra = [
            ("textual.token_embedding.weight".to_owned(), Tensor::zeros(4, DType::F32, &Device::Cpu).unwrap()),
            ("log_scale".to_owned(), Tensor::zeros((), DType::F32, &Device::Cpu).unwrap()),
        ];
        for (layout, prefix) in [("bare", ""), ("visual", "visual."), ("module", "module.visual.")] {
            let named = tensors.iter().map(|(n, t)| (format!("{prefix}{n}"), t.clone()));
            let named = named.chain(extra.clone());
            let opened = through_a_file(&format!("{label}-{layout}"), named);
            manifest.check(&opened, "clip", |n| config.ignored(n)).unwrap();
            assert_eq!(run(Arc::new(Resident::from_checkpoint(opened, Device::Cpu, None))), want, "{layout}");
        }
        let renamed = tensors.iter().flat_map(|(n, t)| hugging_face(n, t, &config));
        let opened = through_a_file(&format!("{label}-hf"), renamed);
        manifest.check(&opened, "clip", |n| config.ignored(n)).unwrap();
        if label == "tiny" {
            assert_eq!(Config::detect(|n| opened.shape(n)).unwrap(), config);
        }
        assert_eq!(run(Arc::new(Resident::from_checkpoint(opened, Device::Cpu, None))), want, "hugging face");
    }
}

#[test]
fn the_size_of_the_real_one() {
    let config = Config::vit_h_14();
    assert_eq!(config.tokens(), 257);
    let manifest = clip::manifest(&config).unwrap();
    let block = manifest.under("transformer.0.").parameters();
    let unused = block + 2 * 1280 + 1280 * 1024;
    assert_eq!(manifest.parameters() + unused, 632_076_800);
    assert!(manifest.get("transformer.30.norm1.weight").is_some());
    assert!(manifest.tensors().all(|t| !config.ignored(&t.name)));
    let ignored = ["transformer.31.mlp.2.bias", "post_norm.bias", "head", "visual_projection.weight"];
    assert!(ignored.iter().all(|n| config.ignored(n)));
    assert!(["transformer.32.norm1.weight", "transformer.x", "header", "other"].iter().all(|n| !config.ignored(n)));
    let shapes = |name: &str| manifest.get(name).map(|t| t.shape.as_slice());
    assert_eq!(Config::detect(shapes).unwrap(), config);
}

#[test]
fn images_of_a_batch_do_not_touch() {
    let config = Config::tiny();
    let tower = VisionTower::new(&config, source(whole_tower(&config))).unwrap();
    let two = pixels(&config, 2);
    let both = tower.forward(&two).unwrap();
    assert_eq!(both.dims(), [2, 17, 48]);
    for i in 0..2 {
        let one = tower.forward(&two.narrow(0, i, 1).unwrap()).unwrap();
        let error = testkit::relative_error(&both.narrow(0, i, 1).unwrap(), &one).unwrap();
        assert!(error < 1e-6, "{error}");
    }
}

#[test]
fn patches_are_a_convolution() {
    // Blocks that add nothing and a norm that is undone by comparing ratios would hide errors; so the stem is seen
    // through a one-layer tower, which runs no block at all.
    let config = Config { num_layers: 1, ..Config::tiny() };
    let tensors = whole_tower(&config);
    let tower = VisionTower::new(&config, source(needed(&config, &tensors))).unwrap();
    let image = pixels(&config, 1);
    let get = |name: &str| tensors[name].to_dtype(DType::F32).unwrap();
    let patches = image.conv2d(&get("patch_embedding.weight"), 0, 14, 1, 1).unwrap();
    let patches = patches.flatten_from(2).unwrap().transpose(1, 2).unwrap();
    let tokens = Tensor::cat(&[&get("cls_embedding").reshape((1, 1, 48)).unwrap(), &patches], 1).unwrap();
    let tokens = tokens.broadcast_add(&get("pos_embedding")).unwrap();
    let centred = tokens.broadcast_sub(&tokens.mean_keepdim(2).unwrap()).unwrap();
    let var = centred.sqr().unwrap().mean_keepdim(2).unwrap();
    let normed = centred.broadcast_div(&(var + 1e-5).unwrap().sqrt().unwrap()).unwrap();
    let want = normed.broadcast_mul(&get("pre_norm.weight")).unwrap().broadcast_add(&get("pre_norm.bias")).unwrap();
    let error = testkit::relative_error(&tower.forward(&image).unwrap(), &want).unwrap();
    assert!(error < 1e-6, "{error}");
}

#[test]
fn activations() {
    let gelu: Activation = serde_json::from_str("\"gelu\"").unwrap();
    let quick: Activation = serde_json::from_str("\"quick_gelu\"").unwrap();
    assert_ne!(gelu, quick);
    assert!(serde_json::from_str::<Activation>("\"swish\"").is_err());
    let config = Config { activation: quick, ..Config::tiny() };
    let tensors = whole_tower(&config);
    let run = |config: &Config| {
        VisionTower::new(config, source(tensors.clone())).unwrap().forward(&pixels(config, 1)).unwrap()
    };
    // The two curves are at most 0.021 apart, so the towers must be near each other, and not the same.
    let difference = testkit::relative_error(&run(&config), &run(&Config::tiny())).unwrap();
    assert!(difference > 1e-5 && difference < 0.05, "{difference}");
}

struct Noting {
    inner: Weights,
    seen: Mutex<Vec<String>>,
}

impl WeightSource for Noting {
    fn group(&self, group: &str) -> Result<Weights> {
        self.seen.lock().unwrap().push(group.to_owned());
        Ok(self.inner.pp(group))
    }
}

#[test]
fn blocks_are_asked_for_one_at_a_time_and_progress_can_stop() {
    let config = Config::tiny();
    let inner = Weights::new(Arc::new(TensorMap(needed(&config, &whole_tower(&config)))), Device::Cpu, None);
    let source = Arc::new(Noting { inner, seen: Mutex::default() });
    let tower = VisionTower::new(&config, source.clone()).unwrap();
    let image = pixels(&config, 1);
    tower.forward(&image).unwrap();
    assert_eq!(*source.seen.lock().unwrap(), ["", "transformer.0", "transformer.1"]);
    source.seen.lock().unwrap().clear();
    let stop = &mut |done, _| if done == 1 { candle_core::bail!("cancelled") } else { Ok(()) };
    assert!(tower.forward_with(&image, stop).unwrap_err().to_string().contains("cancelled"));
    assert_eq!(*source.seen.lock().unwrap(), ["", "transformer.0"]);
}

#[test]
fn errors_say_what_was_found() {
    let config = Config::tiny();
    let tensors = whole_tower(&config);
    let tower = VisionTower::new(&config, source(tensors.clone())).unwrap();
    for shape in [vec![1, 3, 56, 42], vec![3, 56, 56], vec![1, 4, 56, 56], vec![0, 3, 56, 56]] {
        let error = tower.forward(&Tensor::zeros(shape.as_slice(), DType::F32, &Device::Cpu).unwrap()).unwrap_err();
        assert!(error.to_string().contains("expected [B, 3, 56, 56]"), "{error}");
    }
    let mut wrong = tensors.clone();
    wrong.insert("pos_embedding".into(), Tensor::zeros((1, 16, 48), DType::F32, &Device::Cpu).unwrap());
    let error = VisionTower::new(&config, source(wrong.clone())).unwrap().forward(&pixels(&config, 1)).unwrap_err();
    assert!(error.to_string().contains("pos_embedding"), "{error}");
    assert!(Config::detect(|n| wrong.get(n).map(Tensor::dims)).is_err());
    wrong.insert("patch_embedding.weight".into(), Tensor::zeros((64, 3, 14, 14), DType::F32, &Device::Cpu).unwrap());
    let error = Config::detect(|n| wrong.get(n).map(Tensor::dims)).unwrap_err().to_string();
    assert!(error.contains("[64, 3, 14, 14]"), "{error}");
    for config in [
        Config { num_heads: 5, ..Config::tiny() },
        Config { image_size: 57, ..Config::tiny() },
        Config { patch_size: 0, ..Config::tiny() },
        Config { num_layers: 0, ..Config::tiny() },
    ] {
        assert!(VisionTower::new(&config, source(HashMap::new())).is_err());
        assert!(clip::manifest(&config).is_err());
    }
}
