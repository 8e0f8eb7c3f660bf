//! Which files make up a model, and the model once they are open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::DType;
use kernels::Compute;
use offload::{DeviceMemory, Network, Placed, Residence};
use serde::{Deserialize, Serialize};
use weights::convert::Form;
use weights::lora::{Merged, Stack};
use weights::{
    Checkpoint, CheckpointSource, Computing, Entry, Manifest, StoredType, TensorSource, TensorSpec, WeightSource,
};

use crate::config::{ConfigFile, check_ordinary, config_beside, demo_config, published_config};
use crate::lora::Loras;
use crate::needs::{Blueprint, HeldBytes, held_as, text_compute};
use crate::{ComponentInfo, EngineOptions, HeldDType, Lora, ModelInfo, PipelineError};

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[non_exhaustive]
pub enum ModelSource {
    /// The one inside the program.
    #[default]
    Demo,
    /// Files.
    Files(ModelFiles),
}

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFiles {
    /// Diffusion transformer: a file, a shard index, or a folder.
    pub dit: PathBuf,
    /// VAE.
    pub vae: PathBuf,
    /// UMT5 encoder.
    pub text_encoder: PathBuf,
    /// CLIP vision tower.
    pub image_encoder: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Sizes that shapes do not tell (`steadydance.json`); only for models of unusual size.
    pub config: Option<PathBuf>,
}

/// Files that stand elsewhere than [`ModelFiles::find`] looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ModelOverrides {
    /// See [`ModelFiles::vae`].
    pub vae: Option<PathBuf>,
    /// See [`ModelFiles::text_encoder`].
    pub text_encoder: Option<PathBuf>,
    /// See [`ModelFiles::image_encoder`].
    pub image_encoder: Option<PathBuf>,
    /// See [`ModelFiles::tokenizer`].
    pub tokenizer: Option<PathBuf>,
}

/// Names under which each part is looked for, the official layout first.
const DIT_NAMES: &[&str] = &[
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "transformer",
    "dit.safetensors",
];
const VAE_NAMES: &[&str] =
    &["Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors", "wan_2.1_vae.safetensors", "vae", "vae.safetensors"];
const TEXT_NAMES: &[&str] = &[
    "models_t5_umt5-xxl-enc-bf16.pth",
    "models_t5_umt5-xxl-enc-bf16.safetensors",
    "umt5-xxl-enc-bf16.safetensors",
    "umt5_xxl_fp16.safetensors",
    "text_encoder",
    "umt5.safetensors",
];
const IMAGE_NAMES: &[&str] = &[
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.safetensors",
    "open-clip-xlm-roberta-large-vit-huge-14_visual_fp16.safetensors",
    "clip_vision_h.safetensors",
    "image_encoder",
    "clip.safetensors",
];
const TOKENIZER_NAMES: &[&str] = &["google/umt5-xxl/tokenizer.json", "tokenizer/tokenizer.json", "tokenizer.json"];

impl ModelFiles {
    /// Finds the parts of a model: `path` is a folder in the official layout, or the transformer's file with the
    /// other parts beside it or named in `overrides`.
    ///
    /// # Errors
    /// A part is missing; the error says which names were looked for.
    pub fn find(path: &Path, overrides: &ModelOverrides) -> Result<Self, PipelineError> {
        let problem = |problem: String| PipelineError::Model { path: path.to_owned(), problem };
        let info = std::fs::metadata(path).map_err(|e| {
            problem(format!("there is no such model ({e}); give a model folder or a transformer file, or `demo`"))
        })?;
        let folder = if info.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let look = |given: &Option<PathBuf>, names: &[&str], what: &str, flag: &str| match given {
            Some(given) => Ok(given.clone()),
            None => first_of(folder, names).ok_or_else(|| {
                problem(format!(
                    "the model has no {what}; put one of {} beside it, or name it with {flag}",
                    names.join(", ")
                ))
            }),
        };
        Ok(Self {
            dit: if info.is_dir() {
                look(&None, DIT_NAMES, "diffusion transformer", "--model FILE")?
            } else {
                path.to_owned()
            },
            vae: look(&overrides.vae, VAE_NAMES, "VAE", "--vae")?,
            text_encoder: look(&overrides.text_encoder, TEXT_NAMES, "text encoder", "--text-encoder")?,
            image_encoder: look(&overrides.image_encoder, IMAGE_NAMES, "image encoder", "--image-encoder")?,
            tokenizer: look(&overrides.tokenizer, TOKENIZER_NAMES, "tokenizer", "--tokenizer")?,
            config: config_beside(path),
        })
    }
}

/// The transformer of a model: its file, if a folder has it under a customary name.
pub(crate) fn transformer_file(path: &Path) -> PathBuf {
    first_of(path, DIT_NAMES).unwrap_or_else(|| path.to_owned())
}

/// The first of these names that a folder has.
fn first_of(folder: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().map(|name| folder.join(name)).find(|path| path.exists())
}

/// One network's weights, checked but not read.
pub(crate) struct Part {
    pub checkpoint: Checkpoint,
    /// What matrices are converted to; `None` keeps them as stored, quantised ones too.
    pub held: Option<DType>,
    manifest: Manifest,
    /// What its repeated parts are called.
    groups: &'static [&'static str],
    /// Differences that are added to its tensors.
    loras: Arc<Stack>,
    /// Numbers that products are computed in.
    pub compute: Compute,
}

impl Part {
    /// Tells weights apart, and what is made of them, at once: see [`Checkpoint::sketch`].
    pub fn sketch(&self) -> String {
        format!("{} {:?} {:?}", self.checkpoint.sketch(), self.held, self.compute)
    }

    fn new(
        checkpoint: Checkpoint,
        manifest: Manifest,
        network: &str,
        dtype: Option<HeldDType>,
        reference_dtype: DType,
        ignore: impl Fn(&str) -> bool,
    ) -> Result<Self, PipelineError> {
        manifest.check(&checkpoint, network, ignore)?;
        let held = match dtype {
            Some(HeldDType::F32) => Some(DType::F32),
            Some(HeldDType::Bf16) => Some(DType::BF16),
            Some(HeldDType::F16) => Some(DType::F16),
            // Wider files are held in the precision that the reference computes in.
            None => stored_wide(&checkpoint, &manifest).then_some(reference_dtype),
        };
        Ok(Self { checkpoint, held, manifest, groups: &[], loras: Arc::default(), compute: Compute::F32 })
    }

    /// With repeated parts, which can be brought one by one.
    fn in_groups(self, groups: &'static [&'static str]) -> Self {
        Self { groups, ..self }
    }

    /// With other numbers for products.
    fn computed_in(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// What each tensor takes in memory.
    pub fn held_bytes(&self) -> HeldBytes<'_> {
        let stored = |spec: &TensorSpec| {
            let Some(entry) = self.checkpoint.entry(&spec.name) else { return spec.elements() as u64 * 4 };
            let beside = if is_quantised(entry) { self.loras.beside_bytes(&spec.name) } else { 0 };
            entry.stored_bytes() + beside
        };
        match self.held {
            Some(dtype) => held_as(dtype),
            None => Box::new(move |spec| if spec.matrix { stored(spec) } else { spec.elements() as u64 * 4 }),
        }
    }

    /// Weights in `memory`.
    pub fn placed(
        &self,
        residence: Residence,
        memory: &Arc<dyn DeviceMemory>,
    ) -> candle_core::Result<Arc<dyn WeightSource>> {
        let stored = Arc::new(CheckpointSource(self.checkpoint.clone()));
        let source: Arc<dyn TensorSource> = match self.loras.loras() {
            [] => stored,
            _ => Arc::new(Merged::new(stored, self.loras.clone())),
        };
        let network = Network { source, manifest: &self.manifest, groups: self.groups, dtype: self.held };
        let placed = Arc::new(Placed::new(network, residence, memory.clone())?);
        Ok(Arc::new(Computing::new(placed, self.compute)))
    }

    fn info(&self, name: &str) -> ComponentInfo {
        ComponentInfo {
            name: name.to_owned(),
            path: self.checkpoint.path().to_owned(),
            parameters: self.manifest.parameters(),
            stored_bytes: self.checkpoint.stored_bytes(),
        }
    }
}

/// Whether numbers are stored in less than 16 bits: such matrices are computed with as they are.
fn is_quantised(entry: &Entry) -> bool {
    matches!(entry.dtype, StoredType::Quantised(_))
}

/// Whether the matrices are stored in more than 16 bits.
fn stored_wide(checkpoint: &Checkpoint, manifest: &Manifest) -> bool {
    let matrices = manifest.tensors().filter(|t| t.matrix).filter_map(|t| checkpoint.entry(&t.name));
    let mut matrices = matrices.peekable();
    matrices.peek().is_some() && matrices.all(|e| matches!(e.dtype, StoredType::Plain(d) if d.bitsize() > 16))
}

/// A model whose files are open and whose tensors all fit.
pub(crate) struct OpenModel {
    pub blueprint: Blueprint,
    pub dit: Part,
    pub vae: Part,
    pub text_encoder: Part,
    pub image_encoder: Part,
    pub tokenizer: umt5::Tokenizer,
    /// Whose area is used when no size is asked for; `None` leaves it to the preset.
    pub default_size: Option<[usize; 2]>,
    /// Area, as width and height, of the canvas for its poses; `None` is SteadyDancer's.
    pub pose_canvas: Option<[usize; 2]>,
    /// Of the transformer.
    pub loras: Loras,
}

/// Numbers for the products of a transformer with so many parameters: what is asked for; else bf16 where time is hours, as the models'
/// own code computes.
pub(crate) fn compute_of(options: &EngineOptions, parameters: u64) -> Compute {
    const LARGE: u64 = 1_000_000_000;
    options.compute.unwrap_or(if parameters >= LARGE { Compute::Bf16 } else { Compute::F32 })
}

impl OpenModel {
    pub fn open(source: &ModelSource, options: &EngineOptions) -> Result<Self, PipelineError> {
        let mut model = match source {
            ModelSource::Demo => Self::demo(options),
            ModelSource::Files(files) => Self::files(files, options),
        }?;
        model.set_loras(&options.loras)?;
        Ok(model)
    }

    /// Replaces the LoRAs.
    pub fn set_loras(&mut self, loras: &[Lora]) -> Result<(), PipelineError> {
        self.loras = Loras::open(loras, &self.dit.manifest, &self.blueprint.dit.label())?;
        self.dit.loras = self.loras.stack.clone();
        Ok(())
    }

    fn demo(options: &EngineOptions) -> Result<Self, PipelineError> {
        let demo = &models::DEMO;
        let open =
            |label: &str, bytes: &'static [u8]| Checkpoint::from_bytes(&format!("demo/{label}.safetensors"), bytes);
        let tokenizer = umt5::Tokenizer::from_bytes(demo.tokenizer)
            .map_err(|e| PipelineError::Model { path: "demo/tokenizer.json".into(), problem: e.to_string() })?;
        let checkpoints = [
            open("dit", demo.dit)?,
            open("vae", demo.vae)?,
            open("umt5", demo.text_encoder)?,
            open("clip", demo.image_encoder)?,
        ];
        let model = Self::assemble(checkpoints, demo_config()?, tokenizer, options)?;
        Ok(Self { default_size: Some(demo.size), ..model })
    }

    fn files(files: &ModelFiles, options: &EngineOptions) -> Result<Self, PipelineError> {
        let mut config = match &files.config {
            Some(path) => ConfigFile::open(path)?,
            None => ConfigFile::default(),
        };
        let dit = Checkpoint::open(&files.dit)?;
        if config.dit.is_none() {
            config.dit = published_config(&dit)?;
        }
        check_ordinary(&files.tokenizer, 256 << 20)?;
        let tokenizer = umt5::Tokenizer::from_file(&files.tokenizer)
            .map_err(|e| PipelineError::Model { path: files.tokenizer.clone(), problem: e.to_string() })?;
        let checkpoints = [
            dit,
            Checkpoint::open(&files.vae)?,
            Checkpoint::open(&files.text_encoder)?,
            Checkpoint::open(&files.image_encoder)?,
        ];
        Self::assemble(checkpoints, config, tokenizer, options)
    }

    fn assemble(
        checkpoints: [Checkpoint; 4],
        config: ConfigFile,
        tokenizer: umt5::Tokenizer,
        options: &EngineOptions,
    ) -> Result<Self, PipelineError> {
        let [dit, vae, text, image] = checkpoints;
        let dit = canonical(dit, Component::Dit);
        let vae = canonical(vae, Component::Vae);
        let text = canonical(text, Component::TextEncoder);
        let image = canonical(image, Component::ImageEncoder);
        let no_sizes = |checkpoint: &Checkpoint, what: &str| PipelineError::Model {
            path: checkpoint.path().to_owned(),
            problem: format!("it is no {what}: the tensors that tell its sizes are missing"),
        };
        let blueprint = Blueprint {
            dit: match config.dit {
                Some(config) => config,
                None => {
                    dit::Config::detect(|n| dit.shape(n)).ok_or_else(|| no_sizes(&dit, "Wan diffusion transformer"))?
                }
            },
            vae: match config.vae {
                Some(config) => config,
                None => vae::Config::detect(|n| vae.shape(n).map(<[usize]>::to_vec))
                    .map_err(|_| no_sizes(&vae, "Wan 2.1 VAE"))?,
            },
            text_encoder: match config.umt5 {
                Some(config) => config,
                None => umt5::Config::detect(|n| text.shape(n)).map_err(|_| no_sizes(&text, "UMT5 encoder"))?,
            },
            image_encoder: match config.clip {
                Some(config) => config,
                None => clip::Config::detect(|n| image.shape(n)).map_err(|_| no_sizes(&image, "CLIP vision tower"))?,
            },
        };
        let manifests = blueprint.manifests().map_err(|e| PipelineError::Model {
            path: dit.path().to_owned(),
            problem: format!("the model's sizes make no network ({e})"),
        });
        let [dit_manifest, vae_manifest, text_manifest, image_manifest] = manifests?;
        let label = blueprint.dit.label();
        fit_together(&blueprint, &tokenizer, &label)?;
        // UMT5 overflows in f16 (spec wan_components §9.15).
        let dtype = options.dtype;
        let text_dtype = asked_dtype(options.text_dtype, dtype, &text, "--text-dtype")?;
        let text_dtype = text_dtype.map(|d| if d == HeldDType::F16 { HeldDType::Bf16 } else { d });
        let dit_dtype = asked_dtype(options.dit_dtype, dtype, &dit, "--dit-dtype")?;
        let compute = compute_of(options, dit_manifest.parameters());
        Ok(Self {
            dit: Part::new(dit, dit_manifest, &label, dit_dtype, DType::BF16, |_| false)?
                .in_groups(dit::GROUPS)
                .computed_in(compute),
            vae: Part::new(vae, vae_manifest, "the Wan 2.1 VAE", Some(HeldDType::F32), DType::F32, |_| false)?,
            text_encoder: Part::new(text, text_manifest, "the UMT5 encoder", text_dtype, DType::BF16, |_| false)?
                .in_groups(umt5::GROUPS)
                .computed_in(text_compute(compute)),
            image_encoder: Part::new(image, image_manifest, "the CLIP vision tower", dtype, DType::F16, |n| {
                blueprint.image_encoder.ignored(n)
            })?
            .in_groups(clip::GROUPS),
            blueprint,
            tokenizer,
            default_size: None,
            pose_canvas: config.pose_canvas,
            loras: Loras::default(),
        })
    }

    /// What people are told about it.
    pub fn info(&self) -> ModelInfo {
        let components = vec![
            self.dit.info("dit"),
            self.vae.info("vae"),
            self.text_encoder.info("text-encoder"),
            self.image_encoder.info("image-encoder"),
        ];
        ModelInfo {
            label: self.blueprint.dit.label(),
            parameters: components.iter().map(|c| c.parameters).sum(),
            components,
            loras: self.loras.infos.clone(),
        }
    }
}

/// What a part's matrices are decoded to; `None` keeps them as stored. A form that is no float type must be the file's.
fn asked_dtype(
    asked: Option<Form>,
    everywhere: Option<HeldDType>,
    checkpoint: &Checkpoint,
    flag: &str,
) -> Result<Option<HeldDType>, PipelineError> {
    let Some(form) = asked else { return Ok(everywhere) };
    let floats = [HeldDType::F32, HeldDType::Bf16, HeldDType::F16];
    if let Some(dtype) = floats.into_iter().find(|dtype| dtype.form() == form) {
        return Ok(Some(dtype));
    }
    let same = |entry: &Entry| match (entry.dtype, form.encoding()) {
        (StoredType::Quantised(stored), Some(encoding)) => stored == encoding,
        _ => false,
    };
    if checkpoint.entries().any(same) {
        return Ok(None);
    }
    let problem = format!(
        "its matrices are not stored as {flag} {form} says; write such a file with `steadydance convert {} --to {form}`",
        checkpoint.path().display()
    );
    Err(PipelineError::Model { path: checkpoint.path().to_owned(), problem })
}

/// Parts of different models may each be whole and still not belong together.
fn fit_together(b: &Blueprint, tokenizer: &umt5::Tokenizer, label: &str) -> Result<(), PipelineError> {
    let pairs = [
        ("the text encoder's width", b.text_encoder.dim, "the transformer's text_dim", b.dit.text_dim),
        ("the image encoder's width", b.image_encoder.dim, "the transformer's clip_dim", b.dit.clip_dim),
        ("the VAE's latent channels", b.vae.z_dim, "the transformer's out_dim", b.dit.out_dim),
        ("the VAE's spatial stride", b.vae.spatial_stride(), "the transformer's", crate::geometry::LATENT),
        ("the VAE's temporal stride", b.vae.temporal_stride(), "the transformer's", crate::geometry::LATENT_FRAMES),
    ];
    let problem = pairs.iter().find(|(_, a, _, b)| a != b).map(|(a, x, b, y)| format!("{a} is {x}, {b} is {y}"));
    let problem = problem.or_else(|| {
        let (tokens, rows) = (tokenizer.vocab_size(), b.text_encoder.vocab);
        (tokens > rows).then(|| format!("the tokenizer has {tokens} tokens, the text encoder {rows} rows"))
    });
    match problem {
        Some(problem) => {
            let problem = format!("its parts do not belong together: {problem}; use parts of one model");
            Err(PipelineError::Model { path: label.into(), problem })
        }
        None => Ok(()),
    }
}

/// The four networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component {
    Dit,
    Vae,
    TextEncoder,
    ImageEncoder,
}

/// The checkpoint under the names that our networks use.
pub(crate) fn canonical(checkpoint: Checkpoint, component: Component) -> Checkpoint {
    let names: Vec<String> = checkpoint.entries().map(|e| e.name.clone()).collect();
    let names = || names.iter().map(String::as_str);
    let map = match component {
        Component::Dit => dit::keymap(names()),
        Component::Vae => vae::keymap(),
        Component::TextEncoder => umt5::key_map(),
        Component::ImageEncoder => clip::key_map(),
    };
    checkpoint.rename(&map)
}
