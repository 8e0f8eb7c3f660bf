//! What a checkpoint is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use weights::lora::{LoraError, LoraFile, LoraSummary};
use weights::{Checkpoint, Manifest};

use crate::PipelineError;
use crate::model::{Component, canonical};

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorRow {
    /// Name as stored.
    pub name: String,
    /// Stored type.
    pub dtype: String,
    /// Shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Stored bytes.
    pub bytes: u64,
}

/// Tensors of one stored type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
pub struct DTypeShare {
    /// How many tensors.
    pub tensors: usize,
    /// Elements in them.
    pub elements: u64,
    /// Stored bytes.
    pub bytes: u64,
}

/// The network that a file fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NetworkMatch {
    /// `dit`, `vae`, `text-encoder`, `image-encoder`.
    pub component: String,
    /// Say `SteadyDancer-14B`.
    pub label: String,
    /// Parameters the network needs.
    pub parameters: u64,
    /// Its sizes.
    pub config: serde_json::Value,
    /// `None` when every tensor fits; else what is missing, unexpected or misshapen.
    pub deviations: Option<String>,
}

/// What a checkpoint is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Inspection {
    /// The file or index.
    pub path: PathBuf,
    /// How it is packed.
    pub format: String,
    /// Stored bytes of all tensors.
    pub total_bytes: u64,
    /// Elements of all tensors.
    pub elements: u64,
    /// By stored type.
    pub dtypes: BTreeMap<String, DTypeShare>,
    /// The network it fits, when it is one we know.
    pub network: Option<NetworkMatch>,
    /// What it is as a LoRA, when it is one; [`inspect_lora`](crate::inspect_lora) compares it with a network.
    pub lora: Option<LoraSummary>,
    /// Why it cannot be used as the LoRA that its keys make of it.
    pub lora_refused: Option<String>,
    /// Free text of the header.
    pub metadata: BTreeMap<String, String>,
    /// All tensors in the order of their names.
    pub tensors: Vec<TensorRow>,
}

/// Opens a checkpoint and says what it is. Reads headers only.
///
/// # Errors
/// Missing, damaged, or no checkpoint at all.
pub fn inspect(path: &Path) -> Result<Inspection, PipelineError> {
    let checkpoint = Checkpoint::open(path)?;
    let mut dtypes: BTreeMap<String, DTypeShare> = BTreeMap::new();
    let mut tensors = Vec::with_capacity(checkpoint.entries().len());
    for entry in checkpoint.entries() {
        let dtype = entry.dtype.to_string();
        let share = dtypes.entry(dtype.clone()).or_default();
        share.tensors += 1;
        share.elements += entry.elements() as u64;
        share.bytes += entry.stored_bytes();
        let row =
            TensorRow { name: entry.name.clone(), dtype, shape: entry.shape.clone(), bytes: entry.stored_bytes() };
        tensors.push(row);
    }
    let network = identify(&checkpoint);
    let (lora, lora_refused) = match network.is_none().then(|| LoraFile::read(checkpoint.clone())) {
        Some(Ok(lora)) => (Some(lora.summary()), None),
        None | Some(Err(LoraError::NotALora { .. })) => (None, None),
        Some(Err(error)) => (None, Some(error.to_string())),
    };
    Ok(Inspection {
        path: checkpoint.path().to_owned(),
        format: checkpoint.format().to_string(),
        total_bytes: checkpoint.stored_bytes(),
        elements: dtypes.values().map(|d| d.elements).sum(),
        dtypes,
        lora,
        lora_refused,
        network,
        metadata: checkpoint.metadata().clone(),
        tensors,
    })
}

/// Which network a checkpoint is of, and what GGUF calls its kind.
pub(crate) fn component_of(checkpoint: &Checkpoint) -> Option<(Component, &'static str)> {
    let named = |component| canonical(checkpoint.clone(), component);
    let (dit, vae) = (named(Component::Dit), named(Component::Vae));
    let (text, image) = (named(Component::TextEncoder), named(Component::ImageEncoder));
    if dit::Config::detect(|n| dit.shape(n)).is_some() {
        Some((Component::Dit, "wan"))
    } else if vae::Config::detect(|n| vae.shape(n).map(<[usize]>::to_vec)).is_ok() {
        Some((Component::Vae, "wan-vae"))
    } else if umt5::Config::detect(|n| text.shape(n)).is_ok() {
        Some((Component::TextEncoder, "umt5"))
    } else {
        clip::Config::detect(|n| image.shape(n)).ok().map(|_| (Component::ImageEncoder, "clip-vision"))
    }
}

/// The network whose sizes can be read off the tensors, if there is one.
fn identify(checkpoint: &Checkpoint) -> Option<NetworkMatch> {
    let named = |component| canonical(checkpoint.clone(), component);
    let dit = named(Component::Dit);
    if let Some(config) = dit::Config::detect(|n| dit.shape(n)) {
        let label = config.label();
        return matched("dit", &label, &config, dit::manifest(&config).ok()?, &dit, |_| false);
    }
    let vae = named(Component::Vae);
    if let Ok(config) = vae::Config::detect(|n| vae.shape(n).map(<[usize]>::to_vec)) {
        return matched("vae", "Wan 2.1 VAE", &config, vae::manifest(&config).ok()?, &vae, |_| false);
    }
    let text = named(Component::TextEncoder);
    if let Ok(config) = umt5::Config::detect(|n| text.shape(n)) {
        let label = if config == umt5::Config::xxl() { "UMT5-XXL encoder" } else { "UMT5 encoder" };
        return matched("text-encoder", label, &config, umt5::manifest(&config).ok()?, &text, |_| false);
    }
    let image = named(Component::ImageEncoder);
    if let Ok(config) = clip::Config::detect(|n| image.shape(n)) {
        let label = if config == clip::Config::vit_h_14() { "CLIP ViT-H/14 vision tower" } else { "CLIP vision tower" };
        return matched("image-encoder", label, &config, clip::manifest(&config).ok()?, &image, |n| config.ignored(n));
    }
    None
}

fn matched(
    component: &str,
    label: &str,
    config: &impl Serialize,
    manifest: Manifest,
    checkpoint: &Checkpoint,
    ignore: impl Fn(&str) -> bool,
) -> Option<NetworkMatch> {
    Some(NetworkMatch {
        component: component.to_owned(),
        label: label.to_owned(),
        parameters: manifest.parameters(),
        config: serde_json::to_value(config).ok()?,
        deviations: manifest.check(checkpoint, label, ignore).err().map(|e| e.to_string()),
    })
}
