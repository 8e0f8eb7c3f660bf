use serde::{Deserialize, Serialize};

/// A model that is known by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownModel {
    /// Name on the command line.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// One line for people.
    pub summary: String,
    /// The network it is.
    pub network: String,
    /// Parameters of the networks that make it up: of the diffusion transformer, or of detector and estimator.
    pub parameters: u64,
    /// Repository on the hub; empty for the embedded model.
    pub repository: String,
    /// Licence of the weights, an SPDX expression.
    pub licence: String,
    /// What it consists of; none for the embedded model.
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
    /// Its size, where several public sources agree on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// Its SHA-256 in lower-case hexadecimal, where several public sources agree on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
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
}

impl KnownModel {
    /// Whether `--model` can run it; the others are helpers of a run.
    pub fn animates(&self) -> bool {
        self.network == "steadydancer"
    }

    /// Its files with the repository of each, the model's own first.
    pub fn repositories(&self) -> Vec<(&str, Vec<&KnownFile>)> {
        let mut grouped: Vec<(&str, Vec<&KnownFile>)> = Vec::new();
        for file in &self.files {
            let repository = file.repository.as_deref().unwrap_or(&self.repository);
            match grouped.iter_mut().find(|(r, _)| *r == repository) {
                Some((_, files)) => files.push(file),
                None => grouped.push((repository, vec![file])),
            }
        }
        grouped.sort_by_key(|(repository, _)| *repository != self.repository);
        grouped
    }

    /// Bytes of all files, where every one's size is known.
    pub fn size_bytes(&self) -> Option<u64> {
        self.files.iter().map(|f| f.size_bytes).sum()
    }
}

#[derive(Deserialize)]
struct File {
    model: Vec<KnownModel>,
}

const KNOWN: &str = include_str!("../manifests/known.toml");

/// All known models, the embedded one first. The table is part of the program; a test reads it.
pub fn known_models() -> Vec<KnownModel> {
    toml::from_str::<File>(KNOWN).map(|f| f.model).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_readable_and_names_are_unique() {
        let models = known_models();
        assert!(models.len() >= 3 && models[0].name == "demo");
        let mut names: Vec<_> = models.iter().map(|m| &m.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), models.len());
    }

    #[test]
    fn every_model_on_the_hub_is_complete() {
        for model in known_models().iter().filter(|m| !m.repository.is_empty()) {
            let parts: Vec<Part> = model.files.iter().map(|f| f.part).collect();
            let needed: &[Part] = match model.animates() {
                true => &[Part::Transformer, Part::Vae, Part::TextEncoder, Part::ImageEncoder, Part::Tokenizer],
                false => &[Part::Detector, Part::Estimator],
            };
            for part in needed {
                assert_eq!(parts.iter().filter(|p| *p == part).count(), 1, "{} {part:?}", model.name);
            }
            let repositories = model.repositories();
            assert_eq!(repositories[0].0, model.repository);
            assert_eq!(repositories.iter().map(|(_, files)| files.len()).sum::<usize>(), model.files.len());
            for hash in model.files.iter().filter_map(|f| f.sha256.as_ref()) {
                assert!(hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{hash}");
            }
            assert!(!model.licence.is_empty());
        }
    }

    #[test]
    fn sizes_are_summed_only_when_all_are_known() {
        let of = |name: &str| known_models().into_iter().find(|m| m.name == name).unwrap().size_bytes();
        assert_eq!((of("dwpose"), of("steadydancer-14b")), (Some(351_145_849), None));
    }
}
