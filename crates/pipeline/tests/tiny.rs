//! The whole pipeline at toy size against an independent implementation in PyTorch, diffusers and transformers
//! (tests/reference/make_pipeline.py): every named tensor in the order in which it arises, then the video.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use offload::{MemoryFlags, MemoryMode, Phase};
use pipeline::{
    AnimateRequest, Branches, EmbeddedPoses, Engine, EngineOptions, Lora, LoraSource, ModelFiles, ModelOverrides,
    ModelSource, Motion, Observer, PipelineError, Settings, SizeRule,
};
use vae::Tile;
use weights::lora::{LoraFile, Merged, Stack};
use weights::{Checkpoint, CheckpointSource, RandomWeights, TensorSource};

/// The largest relative error that the fixture's author measured when only the arithmetic's order changed is 2.3e-6,
/// the smallest effect of a wrong setting 1e-3.
const TOLERANCE: f64 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pipeline_tiny")
}

#[derive(Default)]
struct Collect {
    noise: Option<Tensor>,
    seen: BTreeMap<String, Vec<Tensor>>,
    frames: usize,
}

impl Observer for Collect {
    fn tensor(&mut self, name: &str, tensor: &Tensor) {
        self.seen.entry(name.to_owned()).or_default().push(tensor.clone());
    }
    fn latents(&mut self, _: usize, latents: &Tensor) {
        self.seen.entry("latents".to_owned()).or_default().push(latents.clone());
    }
    fn initial_noise(&mut self) -> Option<Tensor> {
        self.noise.clone()
    }
    fn frame(&mut self, index: usize, _: &image::RgbImage) {
        assert_eq!(index, self.frames);
        self.frames += 1;
    }
}

fn open() -> Engine {
    let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
    Engine::open(&ModelSource::Files(files), &EngineOptions::default()).unwrap()
}

fn request(case: &Path) -> AnimateRequest {
    let text = std::fs::read_to_string(case.join("request.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| json[key].as_f64().unwrap();
    let size: Vec<usize> = json["size"].as_str().unwrap().split('x').map(|v| v.parse().unwrap()).collect();
    let preset = models::preset("official").unwrap();
    let settings = Settings {
        size: Some([size[0], size[1]]),
        size_rule: SizeRule::Area,
        num_frames: Some(number("num_frames") as usize),
        num_inference_steps: number("num_inference_steps") as usize,
        sampler: json["sampler"].as_str().unwrap().parse().unwrap(),
        shift: number("shift"),
        guidance_scale: number("guidance_scale"),
        pose_guidance_scale: number("pose_guidance_scale"),
        pose_guidance_interval: [
            json["pose_guidance_interval"][0].as_f64().unwrap(),
            json["pose_guidance_interval"][1].as_f64().unwrap(),
        ],
        ..Settings::from_preset(&preset).unwrap()
    };
    let motion = Motion::Drawn { pose: case.join("pose"), neg_pose: Some(case.join("neg_pose")), drive: None };
    AnimateRequest::new(case.join("ref.png"), motion, settings)
        .prompt(json["prompt"].as_str().unwrap())
        .negative_prompt(json["negative_prompt"].as_str().unwrap())
}

#[test]
fn every_tensor_agrees_with_the_independent_implementation() {
    let engine = open();
    let mut cases = 0;
    for case in std::fs::read_dir(fixtures()).unwrap().map(|e| e.unwrap().path()) {
        if !case.join("request.json").is_file() {
            continue;
        }
        cases += 1;
        let expected = candle_core::safetensors::load(case.join("expected.safetensors"), &Device::Cpu).unwrap();
        let mut observer = Collect { noise: Some(expected["noise"].squeeze(0).unwrap()), ..Collect::default() };
        let report = engine.animate(&request(&case), &mut observer).unwrap();
        assert_eq!(observer.frames, report.num_frames);
        let mut checked = Vec::new();
        for name in [
            "text_embeds",
            "neg_text_embeds",
            "ref_image_embeds",
            "pose_image_embeds",
            "image_latents",
            "frame_mask",
            "ref_latents",
            "pose_ref_latents",
            "pose_latents",
            "neg_pose_latents",
            "velocity",
            "latents",
            "video",
        ] {
            let want = expected.get(name).or_else(|| expected.get(&format!("{name}_per_step")));
            let Some(want) = want else { panic!("{}: no {name} among {:?}", case.display(), expected.keys()) };
            let ours = &observer.seen[name];
            let ours = match name {
                "velocity" | "latents" => Tensor::stack(ours, 0).unwrap(),
                "video" => Tensor::cat(ours, 1).unwrap(),
                // The reference keeps them zero-padded.
                "text_embeds" | "neg_text_embeds" => {
                    ours[0].pad_with_zeros(0, 0, want.dim(1).unwrap() - ours[0].dim(0).unwrap()).unwrap()
                }
                _ => ours[0].clone(),
            };
            let error = testkit::relative_error(&ours, want).unwrap();
            assert!(error <= TOLERANCE, "{}: first wrong tensor is {name}: {error:.2e}", case.display());
            checked.push(format!("{name} {error:.1e}"));
        }
        println!("{}: {}", case.file_name().unwrap().to_string_lossy(), checked.join(", "));
    }
    assert!(cases >= 2);
}

#[test]
fn placement_and_repetition_never_change_a_bit() {
    let case = fixtures().join("landscape_5");
    let run = |mode| {
        let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
        let options =
            EngineOptions { memory: MemoryFlags { mode, ..MemoryFlags::default() }, ..EngineOptions::default() };
        let engine = Engine::open(&ModelSource::Files(files), &options).unwrap();
        let plan = engine.plan(&request(&case)).unwrap();
        let mut observer = Collect::default();
        engine.animate(&request(&case), &mut observer).unwrap();
        let video = Tensor::cat(&observer.seen["video"], 1).unwrap().flatten_all().unwrap();
        (plan, video.to_vec1::<f32>().unwrap())
    };
    let (resident, first) = run(None);
    assert!(resident.stages.phases.iter().all(|p| p.placement.is_resident()));
    assert_eq!(resident.activations.branches, Branches::OneAtATime);
    assert_eq!(first, run(None).1);
    let (streamed, second) = run(Some(MemoryMode::Stream));
    for phase in [Phase::TextEncode, Phase::ImageEncode, Phase::Denoise] {
        assert!(streamed.stages.is_streamed(phase), "{phase}");
    }
    // Blocks that are streamed are read once a step, for all branches.
    assert_eq!(streamed.activations.branches, Branches::Batched);
    assert_eq!(first, second);
}

#[test]
fn tiles_of_the_vae_take_less_and_change_little() {
    let case = fixtures().join("landscape_5");
    let open = |vae_tile| {
        let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
        Engine::open(&ModelSource::Files(files), &EngineOptions { vae_tile, ..EngineOptions::default() }).unwrap()
    };
    let run = |vae_tile| {
        let engine = open(vae_tile);
        let plan = engine.plan(&request(&case)).unwrap();
        let mut observer = Collect::default();
        let report = engine.animate(&request(&case), &mut observer).unwrap();
        assert_eq!(report.num_frames, plan.num_frames);
        (
            plan,
            Tensor::cat(&observer.seen["video"], 1).unwrap(),
            Tensor::cat(&observer.seen["pose_latents"], 1).unwrap(),
        )
    };
    let same =
        |a: &Tensor, b: &Tensor| (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() == 0.0;
    let (whole, video, latents) = run(None);
    let (covering, again, _) = run(Some(1024));
    assert!(same(&video, &again));
    assert_eq!(covering.stages.phases, whole.stages.phases);
    let (tiled, other, other_latents) = run(Some(32));
    assert_eq!(tiled.activations.decode_tile, Some(Tile { size: 32, overlap: 8 }));
    assert!(!same(&video, &other) && !same(&latents, &other_latents));
    // The tiny model's numbers are random: what a tile does not see matters more than it does to a picture.
    let error = testkit::relative_error(&other, &video).unwrap();
    println!("tiles of 32 pixels: relative error {error:.3}");
    assert!(error < 0.5, "{error}");
    let Err(PipelineError::Request(error)) = open(Some(100)).plan(&request(&case)) else { panic!("100 is no tile") };
    assert!(error.to_string().contains("VAE tiles of 100 pixels"), "{error}");
}

#[test]
fn a_budget_that_does_not_suffice_names_one_that_does() {
    let case = fixtures().join("landscape_5");
    let plan = |budget| {
        let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
        let options = EngineOptions {
            memory: MemoryFlags { ram_budget_bytes: Some(budget), ..MemoryFlags::default() },
            ..EngineOptions::default()
        };
        Engine::open(&ModelSource::Files(files), &options).unwrap().plan(&request(&case))
    };
    let Err(PipelineError::DoesNotFit(error)) = plan(1 << 20) else { panic!("1 MiB cannot suffice") };
    assert!(plan(error.needed.ram_bytes).is_ok());
    assert!(plan(error.needed.ram_bytes - 1).is_err());
}

#[test]
fn a_choice_of_pose_networks_outweighs_the_demos_rule() {
    let case = fixtures().join("landscape_5");
    let settings =
        Settings { num_frames: Some(5), ..Settings::from_preset(&models::preset("official").unwrap()).unwrap() };
    let motion = Motion::Video { drive: case.join("pose") };
    let request = AnimateRequest::new(case.join("ref.png"), motion, settings);
    let plan = |embedded| {
        let mut options = EngineOptions::default();
        options.poses.models.embedded = embedded;
        Engine::open(&ModelSource::Demo, &options).unwrap().plan(&request)
    };
    assert!(matches!(plan(Some(EmbeddedPoses::Never)), Err(PipelineError::NoPoseModel { .. })));
    for embedded in [None, Some(EmbeddedPoses::IfNoneFound)] {
        let notes = plan(embedded).unwrap().notes;
        assert_eq!(notes.iter().filter(|n| n.contains("drawn puppets only")).count(), 1, "{notes:?}");
    }
}

#[test]
fn sizes_that_shapes_do_not_tell_come_from_the_published_config() {
    let copy = tempfile::tempdir().unwrap();
    let model = copy.path().join("dit");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(fixtures().join("model")).unwrap().map(|f| f.unwrap().path()) {
        if file.is_file() && file.file_name().is_some_and(|n| n != "steadydance.json") {
            std::fs::copy(&file, model.join(file.file_name().unwrap())).unwrap();
        }
    }
    let tokenizer = fixtures().join("model/google/umt5-xxl/tokenizer.json");
    let overrides = ModelOverrides { tokenizer: Some(tokenizer), ..ModelOverrides::default() };
    let open = || {
        let files = ModelFiles::find(&model, &overrides).unwrap();
        Engine::open(&ModelSource::Files(files), &EngineOptions::default())
    };
    let wrong = |text: &str, says: &str| {
        std::fs::write(model.join("config.json"), text).unwrap();
        let Err(error) = open() else { panic!("{text} must be refused") };
        assert!(error.to_string().contains(says), "{error}");
    };
    wrong("{", "config.json");
    wrong("{\"num_heads\": 3}", "num_heads is 3");
    wrong("{\"num_heads\": 0}", "num_heads is 0");

    // With the published file, and the other parts' sizes from ours, the network is the same one.
    let text = std::fs::read_to_string(fixtures().join("model/steadydance.json")).unwrap();
    let mut sizes: serde_json::Value = serde_json::from_str(&text).unwrap();
    sizes.as_object_mut().unwrap().remove("dit");
    std::fs::write(model.join("steadydance.json"), sizes.to_string()).unwrap();
    std::fs::copy(fixtures().join("model/config.json"), model.join("config.json")).unwrap();
    let case = fixtures().join("landscape_5");
    let video = |engine: Engine| {
        let mut observer = Collect::default();
        engine.animate(&request(&case), &mut observer).unwrap();
        Tensor::cat(&observer.seen["video"], 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let ours = || {
        let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
        Engine::open(&ModelSource::Files(files), &EngineOptions::default()).unwrap()
    };
    assert_eq!(video(open().unwrap()), video(ours()));
}

/// Differences of every kind for the tiny model, in LightX2V's spelling.
fn lora(seed: u64) -> Vec<u8> {
    let shapes: &[(&str, &[usize])] = &[
        ("blocks.0.self_attn.q.lora_down.weight", &[4, 128]),
        ("blocks.0.self_attn.q.lora_up.weight", &[128, 4]),
        ("blocks.1.ffn.2.lora_down.weight", &[4, 192]),
        ("blocks.1.ffn.2.lora_up.weight", &[128, 4]),
        ("blocks.1.ffn.2.diff_b", &[128]),
        ("blocks.0.cross_attn.norm_k_img.diff", &[128]),
        ("blocks.1.diff_m", &[1, 6, 128]),
        ("head.head.lora_down.weight", &[4, 128]),
        ("head.head.lora_up.weight", &[64, 4]),
        ("patch_embedding_fuse.lora_down.weight", &[4, 68, 1, 2, 2]),
        ("patch_embedding_fuse.lora_up.weight", &[128, 4, 1, 1, 1]),
        ("blocks.9.diff_m", &[1, 6, 128]),
    ];
    let random = RandomWeights::new(seed);
    let tensors = shapes.iter().map(|(name, shape)| {
        let tensor = random.tensor(name, shape, None, &Device::Cpu).unwrap();
        (format!("diffusion_model.{name}"), (tensor * 0.2).unwrap())
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    weights::save_safetensors(&path, &tensors.collect(), &BTreeMap::new()).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn loras_make_the_same_pixels_wherever_weights_live_and_leave_none_behind() {
    let case = fixtures().join("landscape_5");
    let files = || ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
    let engine = |files, loras: &[Lora], mode| {
        let options = EngineOptions {
            loras: loras.to_vec(),
            memory: MemoryFlags { mode, ..MemoryFlags::default() },
            ..EngineOptions::default()
        };
        Engine::open(&ModelSource::Files(files), &options).unwrap()
    };
    let video = |engine: &Engine| {
        let mut observer = Collect::default();
        engine.animate(&request(&case), &mut observer).unwrap();
        Tensor::cat(&observer.seen["video"], 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let of = |name: &str, seed: u64, strength| Lora {
        source: LoraSource::Bytes { name: name.to_owned(), bytes: lora(seed).into() },
        strength,
    };
    let both = [of("first", 1, 1.0), of("second", 2, -0.5)];

    let mut changing = engine(files(), &[], None);
    let plain = video(&changing);
    let resident = engine(files(), &both, None);
    let changed = video(&resident);
    assert_ne!(changed, plain);
    let streamed = engine(files(), &both, Some(MemoryMode::Stream));
    assert!(streamed.plan(&request(&case)).unwrap().stages.is_streamed(Phase::Denoise));
    assert_eq!(video(&streamed), changed);

    // One engine, LoRAs put on and taken off.
    changing.set_loras(&both).unwrap();
    assert_eq!(video(&changing), changed);
    let too_strong = Lora { strength: 1e9, ..both[0].clone() };
    assert!(changing.set_loras(&[too_strong]).is_err() && changing.model().loras.len() == 2);
    changing.set_loras(&[Lora { strength: 0.0, ..both[0].clone() }]).unwrap();
    assert_eq!(video(&changing), plain);
    changing.set_loras(&[]).unwrap();
    assert_eq!(video(&changing), plain);

    // A checkpoint that has them merged already is the same model.
    let folder = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixtures().join("model/steadydance.json")).unwrap();
    let sizes: serde_json::Value = serde_json::from_str(&text).unwrap();
    let manifest = dit::manifest(&serde_json::from_value(sizes["dit"].clone()).unwrap()).unwrap();
    let stack = Arc::new(Stack::new(
        both.iter()
            .map(|asked| {
                let LoraSource::Bytes { name, bytes } = &asked.source else { panic!() };
                let file = LoraFile::read(Checkpoint::from_bytes(name, bytes.clone()).unwrap()).unwrap();
                (file.fit(&manifest, &dit::diffusers_names(), "tiny").unwrap(), asked.strength)
            })
            .collect(),
    ));
    let stored = Arc::new(CheckpointSource(Checkpoint::open(files().dit).unwrap()));
    let merged = Merged::new(stored, stack.clone());
    let baked = manifest.tensors().map(|spec| {
        let dtype = (!spec.matrix).then_some(DType::F32);
        (spec.name.clone(), merged.tensor(&spec.name, &spec.shape, dtype, &Device::Cpu).unwrap())
    });
    let dit = folder.path().join("baked.safetensors");
    weights::save_safetensors(&dit, &baked.collect(), &BTreeMap::new()).unwrap();
    assert_eq!(video(&engine(ModelFiles { dit, ..files() }, &[], None)), changed);

    // The plan knows what they are, what is left out, and what merging takes.
    let (with, without) = (resident.plan(&request(&case)).unwrap(), changing.plan(&request(&case)).unwrap());
    let activations = |p: &pipeline::AnimatePlan| p.stages.phase(Phase::Denoise).unwrap().way.bytes;
    assert_eq!(activations(&with) - activations(&without), stack.merge_bytes(&manifest));
    let names: Vec<_> = with.loras.iter().map(|l| (l.name.as_str(), l.strength, l.fit.targets)).collect();
    assert_eq!(names, [("first", 1.0, 7), ("second", -0.5, 7)]);
    assert!(
        with.notes.iter().any(|n| n.starts_with("first: 1 key(s)") && n.contains("blocks.9.diff_m")),
        "{:?}",
        with.notes
    );
}
