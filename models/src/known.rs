use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::manifest;

/// A model that is known by name: a network, or all that a run needs, or one part of that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownModel {
    /// Name on the command line: lower-case letters, digits, `.`, `-` and `_`.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// What it is for, in one line.
    pub summary: String,
    /// The network it is: `steadydancer`, `wan-t2v`, `wan-i2v`, `wan-vace`, `umt5`, `clip-vision`, `wan-vae`, `dwpose`,
    /// `tokenizer` or `lora`.
    pub network: String,
    /// How its own weights are stored.
    pub format: String,
    /// Parameters of the networks that make it up: of the diffusion transformer, or of detector and estimator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// Memory hint: weights of its largest network when they are held whole, in GB. Streamed runs take less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_gb: Option<f64>,
    /// Repository on the hub; empty for the embedded model.
    pub repository: String,
    /// Licence of the weights, an SPDX expression; `NOASSERTION` where that is not established.
    pub licence: String,
    /// Whose licence that is, where it is not the repository's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence_note: Option<String>,
    /// The preset that it goes with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// What else one must know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Models whose files belong to it; they are among [`files`](Self::files).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
    /// What it consists of, its own files first; none for the embedded model.
    pub files: Vec<KnownFile>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownFile {
    /// Relative to the repository's root, pieces separated by `/`.
    pub path: String,
    /// What it is for.
    pub part: Part,
    /// Its repository where that is not the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The model of [`KnownModel::with`] that it comes from; `None` for the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// Its size, where several public sources agree on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Its size as far as it was told or follows from its shapes, in GB; nothing is checked against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about_gb: Option<f64>,
    /// Its SHA-256 in lower-case hexadecimal, where several public sources agree on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// What is not known exactly. A download takes it from the hub.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Fact>,
}

/// What can be known about a file beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fact {
    /// Its size in bytes.
    Size,
    /// Its SHA-256.
    Sha256,
}

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// The diffusion transformer, or the index of its shards.
    Transformer,
    /// A shard that the transformer's index names.
    TransformerShard,
    /// Sizes of the transformer.
    Config,
    /// The VAE.
    Vae,
    /// The text encoder.
    TextEncoder,
    /// The image encoder.
    ImageEncoder,
    /// The text encoder's tokenizer.
    Tokenizer,
    /// Finds people.
    Detector,
    /// Finds the keypoints of one person.
    Estimator,
    /// Changes a transformer's weights.
    Lora,
}

impl KnownModel {
    /// Whether `--model` can run it; the others are parts or helpers of a run, or networks that no pipeline runs yet.
    pub fn animates(&self) -> bool {
        self.network == "steadydancer"
    }

    /// Whether its own files are those of the program's tables, so that shapes are known without them. One of a user's tables
    /// that has the name of another does not count.
    pub fn is_built_in(&self) -> bool {
        let own = |m: &Self| m.files.iter().filter(|f| f.of.is_none()).cloned().collect::<Vec<_>>();
        let same = |m: &Self| m.name == self.name && m.repository == self.repository && own(m) == own(self);
        built_in().iter().any(same)
    }

    /// Its files with the repository of each, the model's own first.
    pub fn repositories(&self) -> Vec<(&str, Vec<&KnownFile>)> {
        let mut grouped: Vec<(&str, Vec<&KnownFile>)> = Vec::new();
        for file in &self.files {
            let repository = self.repository_of(file);
            match grouped.iter_mut().find(|(r, _)| *r == repository) {
                Some((_, files)) => files.push(file),
                None => grouped.push((repository, vec![file])),
            }
        }
        grouped.sort_by_key(|(repository, _)| *repository != self.repository);
        grouped
    }

    /// Where one of its files is kept.
    pub fn repository_of<'a>(&'a self, file: &'a KnownFile) -> &'a str {
        file.repository.as_deref().unwrap_or(&self.repository)
    }

    /// Bytes of all files, where every one's size is known, and the sum is one that a file system could hold.
    pub fn size_bytes(&self) -> Option<u64> {
        self.files.iter().try_fold(0u64, |sum, f| sum.checked_add(f.size_bytes?))
    }
}

/// All known models, the embedded one first, then by family: SteadyDancer, poses, LoRAs, Wan, its parts. The tables are
/// part of the program; a test reads them.
pub fn known_models() -> Vec<KnownModel> {
    built_in().to_vec()
}

fn built_in() -> &'static [KnownModel] {
    static MODELS: LazyLock<Vec<KnownModel>> = LazyLock::new(|| manifest::read_all().unwrap_or_default());
    &MODELS
}
