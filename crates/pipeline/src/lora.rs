//! Which LoRAs a model is run with: what is asked for, and what came of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use models::EmbeddedLora;
use serde::{Deserialize, Serialize};
use weights::lora::{Fitted, LoraFile, LoraSummary, Stack, shorten};
use weights::{Checkpoint, Manifest};

use crate::model::{Component, canonical, transformer_file};
use crate::needs::Blueprint;
use crate::{PipelineError, RequestError};

/// A LoRA that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// Where it is.
    pub source: LoraSource,
    /// By which its differences are multiplied, -100 to 100: 1 is as trained, 0 off, negative values take away.
    pub strength: f64,
}

/// Where a LoRA is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LoraSource {
    /// A `.safetensors` or `.pth` file.
    File(PathBuf),
    /// One inside the program, by its name.
    Embedded(String),
    /// A safetensors file in memory, with a name for messages. Cannot be serialised.
    #[serde(skip)]
    Bytes {
        /// Stands where a file's name would.
        name: String,
        /// The file.
        bytes: Arc<[u8]>,
    },
}

impl Lora {
    /// A file.
    pub fn file(path: impl Into<PathBuf>, strength: f64) -> Self {
        Self { source: LoraSource::File(path.into()), strength }
    }

    /// What people write: the name of an embedded LoRA unless there is a file of that name, else a path.
    pub fn named(text: &str, strength: f64) -> Self {
        Self { source: choose(text, models::DEMO.loras), strength }
    }

    /// Its file's name, without folders.
    fn name(&self) -> String {
        match &self.source {
            LoraSource::File(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            LoraSource::Embedded(name) | LoraSource::Bytes { name, .. } => name.clone(),
        }
    }

    fn open(&self, embedded: &[EmbeddedLora]) -> Result<LoraFile, PipelineError> {
        if !(-100.0..=100.0).contains(&self.strength) {
            return Err(RequestError::LoraStrength { name: self.name(), found: self.strength }.into());
        }
        let checkpoint = match &self.source {
            LoraSource::File(path) => Checkpoint::open(path)?,
            LoraSource::Bytes { name, bytes } => Checkpoint::from_bytes(name, bytes.clone())?,
            LoraSource::Embedded(name) => match embedded.iter().find(|l| l.name == name) {
                Some(lora) => Checkpoint::from_bytes(name, lora.bytes)?,
                None => {
                    let names: Vec<_> = embedded.iter().map(|l| l.name).collect();
                    let there = if names.is_empty() {
                        "it has none".to_owned()
                    } else {
                        format!("it has {}", names.join(", "))
                    };
                    let problem = format!("no LoRA of this name is inside the program, {there}; give a file");
                    return Err(PipelineError::Model { path: name.into(), problem });
                }
            },
        };
        Ok(LoraFile::read(checkpoint)?)
    }
}

fn choose(text: &str, embedded: &[EmbeddedLora]) -> LoraSource {
    match embedded.iter().any(|l| l.name == text) && !Path::new(text).exists() {
        true => LoraSource::Embedded(text.to_owned()),
        false => LoraSource::File(text.into()),
    }
}

/// A LoRA of an opened model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraInfo {
    /// Its file's name, or that of one that is no file.
    pub name: String,
    /// See [`Lora::strength`].
    pub strength: f64,
    /// What it is.
    #[serde(flatten)]
    pub summary: LoraSummary,
    /// What it changes.
    pub fit: LoraFit,
}

/// How a LoRA fits a network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoraFit {
    /// Say `SteadyDancer-14B`.
    pub network: String,
    /// Weights, biases and norms that it changes.
    pub targets: usize,
    /// Keys that name no weight of the network.
    pub unmatched: Vec<String>,
    /// Keys of the text encoder, which are ignored.
    pub text_encoder: Vec<String>,
    /// Patch embeddings for another number of input channels, which are left out, with both shapes.
    pub patches: Vec<String>,
}

impl LoraFit {
    fn new(fitted: &Fitted, network: &str) -> Self {
        let left = fitted.leftovers().clone();
        Self {
            network: network.to_owned(),
            targets: fitted.targets().len(),
            unmatched: left.unmatched,
            text_encoder: left.text_encoder,
            patches: left.patches,
        }
    }

    /// What is not applied, in words.
    pub fn warnings(&self) -> Vec<String> {
        let lists = [
            (&self.unmatched, format!("key(s) name no weight of {} and are not applied", self.network)),
            (&self.text_encoder, "key(s) of the text encoder are ignored".to_owned()),
            (&self.patches, "patch embedding(s) for another number of channels are left out".to_owned()),
        ];
        lists
            .iter()
            .filter(|(k, _)| !k.is_empty())
            .map(|(k, what)| format!("{} {what} ({})", k.len(), shorten(k, 3)))
            .collect()
    }
}

/// The LoRAs of an opened model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loras {
    pub stack: Arc<Stack>,
    pub infos: Vec<LoraInfo>,
    /// Memory that merging takes besides the weights.
    pub merge_bytes: u64,
    /// See [`contents`](Self::contents).
    hashes: Arc<OnceLock<Vec<String>>>,
}

impl Loras {
    /// Opens and fits all of them; reads headers and alphas only.
    pub fn open(asked: &[Lora], manifest: &Manifest, network: &str) -> Result<Self, PipelineError> {
        let mut infos = Vec::with_capacity(asked.len());
        let mut fitted = Vec::with_capacity(asked.len());
        for lora in asked {
            let file = lora.open(models::DEMO.loras)?;
            let summary = file.summary();
            let one = file.fit(manifest, &dit::diffusers_names(), network)?;
            let fit = LoraFit::new(&one, network);
            infos.push(LoraInfo { name: lora.name(), strength: lora.strength, summary, fit });
            fitted.push((one, lora.strength));
        }
        let stack = Stack::new(fitted);
        Ok(Self { merge_bytes: stack.merge_bytes(manifest), stack: Arc::new(stack), infos, ..Self::default() })
    }

    /// Tells the contents of their files apart, by SHA-256. Reads every byte, once: for those who keep latents only.
    pub fn contents(&self) -> &[String] {
        self.hashes.get_or_init(|| self.stack.loras().iter().map(|(lora, _)| lora.file().sha256()).collect())
    }

    /// What people should know about them.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.infos.iter().flat_map(|l| l.fit.warnings().into_iter().map(|w| format!("{}: {w}", l.name)))
    }
}

/// The model whose transformer a LoRA is compared with.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LoraModel {
    /// The one inside the program.
    Demo,
    /// A published one; none of its files is needed.
    Published(String),
    /// A transformer's file, or a model folder.
    Path(PathBuf),
}

/// How the LoRA in `path` fits a model. Reads headers only.
///
/// # Errors
/// The file is no LoRA or does not fit, or the model is unknown, missing or damaged.
pub fn inspect_lora(path: &Path, model: &LoraModel) -> Result<LoraFit, PipelineError> {
    let file = Lora::file(path, 1.0).open(&[])?;
    let place = |source| PipelineError::Compute { place: "model sizes".into(), source };
    let config = match model {
        LoraModel::Published(name) => Blueprint::published(name)?.1.dit,
        LoraModel::Demo => transformer(Checkpoint::from_bytes("demo/dit.safetensors", models::DEMO.dit)?)?,
        LoraModel::Path(path) => transformer(Checkpoint::open(transformer_file(path))?)?,
    };
    let fitted = file.fit(&dit::manifest(&config).map_err(place)?, &dit::diffusers_names(), &config.label())?;
    Ok(LoraFit::new(&fitted, &config.label()))
}

/// Sizes of a transformer, from its shapes.
fn transformer(checkpoint: Checkpoint) -> Result<dit::Config, PipelineError> {
    let checkpoint = canonical(checkpoint, Component::Dit);
    dit::Config::detect(|n| checkpoint.shape(n)).ok_or_else(|| PipelineError::Model {
        path: checkpoint.path().to_owned(),
        problem: "it is no Wan diffusion transformer: the tensors that tell its sizes are missing".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::{DType, Device, Tensor};

    use super::*;

    fn bytes(keys: &[(&str, &[usize])]) -> Vec<u8> {
        let tensor = |shape: &[usize]| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors: BTreeMap<String, Tensor> = keys.iter().map(|(k, s)| ((*k).to_owned(), tensor(s))).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("l.safetensors");
        weights::save_safetensors(&path, &tensors, &BTreeMap::new()).unwrap();
        std::fs::read(path).unwrap()
    }

    /// LightX2V's kinds of keys on the networks we know.
    const KEYS: [(&str, &[usize]); 7] = [
        ("diffusion_model.blocks.0.self_attn.q.lora_down.weight", &[4, 128]),
        ("diffusion_model.blocks.0.self_attn.q.lora_up.weight", &[128, 4]),
        ("diffusion_model.blocks.0.self_attn.q.diff_b", &[128]),
        ("diffusion_model.blocks.1.cross_attn.norm_k_img.diff", &[128]),
        ("diffusion_model.blocks.1.diff_m", &[1, 6, 128]),
        ("diffusion_model.head.diff_m", &[1, 2, 128]),
        ("diffusion_model.blocks.77.self_attn.q.diff_b", &[128]),
    ];

    #[test]
    fn names_of_diffusers_and_kohya_reach_every_weight_that_has_one() {
        let manifest = dit::manifest(&dit::Config::tiny()).unwrap();
        let names = dit::diffusers_names();
        let mut checked = 0;
        for spec in manifest.tensors().filter(|s| s.name.ends_with(".weight") && s.shape.len() == 2) {
            let module = spec.name.strip_suffix(".weight").unwrap();
            let spellings = names.aliases(module).chain([module.to_owned()]);
            let keys =
                spellings.flat_map(|m| [format!("lora_unet_{}", m.replace('.', "_")), format!("transformer.{m}")]);
            for stem in keys {
                let (down, up) = (format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight"));
                let file = bytes(&[(&down, &[2, spec.shape[1]]), (&up, &[spec.shape[0], 2])]);
                let file = LoraFile::read(Checkpoint::from_bytes("l", file).unwrap()).unwrap();
                let fitted = file.fit(&manifest, &names, "tiny").unwrap();
                assert_eq!(fitted.targets().collect::<Vec<_>>(), [&spec.name], "{stem}");
                checked += 1;
            }
        }
        assert!(checked > 100, "{checked}");
    }

    #[test]
    fn embedded_loras_are_chosen_by_name_and_applied_from_their_bytes() {
        let embedded: &'static [u8] = bytes(&KEYS).leak();
        let list = [EmbeddedLora { name: "demo-4step", bytes: embedded }];
        assert_eq!(choose("demo-4step", &list), LoraSource::Embedded("demo-4step".to_owned()));
        assert_eq!(choose("demo-8step", &list), LoraSource::File("demo-8step".into()));
        let lora = |name: &str| Lora { source: LoraSource::Embedded(name.to_owned()), strength: 1.0 };
        let manifest = dit::manifest(&dit::Config::tiny()).unwrap();
        let fitted = lora("demo-4step").open(&list).unwrap().fit(&manifest, &dit::diffusers_names(), "tiny").unwrap();
        assert_eq!(
            fitted.targets().collect::<Vec<_>>(),
            [
                "blocks.0.self_attn.q.bias",
                "blocks.0.self_attn.q.weight",
                "blocks.1.cross_attn.norm_k_img.weight",
                "blocks.1.modulation",
                "head.modulation",
            ]
        );
        let fit = LoraFit::new(&fitted, "tiny");
        assert_eq!(
            fit.warnings(),
            ["1 key(s) name no weight of tiny and are not applied (diffusion_model.blocks.77.self_attn.q.diff_b)"]
        );
        let error = lora("demo-8step").open(&list).unwrap_err().to_string();
        assert!(error.contains("demo-8step") && error.contains("it has demo-4step"), "{error}");
        assert!(lora("x").open(&[]).unwrap_err().to_string().contains("it has none"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let manifest = dit::manifest(&dit::Config::tiny()).unwrap();
        let source = LoraSource::Bytes { name: "mine".to_owned(), bytes: bytes(&KEYS).into() };
        let open = |strength| Loras::open(&[Lora { source: source.clone(), strength }], &manifest, "tiny");
        for strength in [f64::NAN, f64::INFINITY, 101.0] {
            let error = open(strength).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Usage);
            assert!(error.to_string().contains("mine"), "{error}");
        }
        let loras = open(-2.5).unwrap();
        assert_eq!((loras.infos[0].name.as_str(), loras.infos[0].strength, loras.notes().count()), ("mine", -2.5, 1));
        assert!(loras.merge_bytes > 0 && open(0.0).unwrap().merge_bytes == 0);
        // A SteadyDancer network takes 68 channels where Wan's i2v takes 36.
        let fuse = bytes(&[KEYS[2], ("diffusion_model.patch_embedding_fuse.diff", &[128, 36, 1, 2, 2])]);
        let lora = Lora { source: LoraSource::Bytes { name: "fuse".to_owned(), bytes: fuse.into() }, strength: 1.0 };
        let notes: Vec<_> = Loras::open(&[lora], &manifest, "tiny").unwrap().notes().collect();
        assert!(notes[0].contains("[128, 36, 1, 2, 2]") && notes[0].contains("[128, 68, 1, 2, 2]"), "{notes:?}");
        // The 14B network is another one.
        let wide = Blueprint::published("steadydancer-14b").unwrap().1.dit;
        let lora = Lora { source, strength: 1.0 };
        let error = Loras::open(&[lora], &dit::manifest(&wide).unwrap(), "SteadyDancer-14B").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Model);
        assert!(error.to_string().contains("[5120, 5120]") && !error.to_string().contains('\n'), "{error}");
    }
}
