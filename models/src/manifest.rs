//! The tables of known models: one TOML file per family.
//!
//! A `[[model]]` has its own `files` and, under `with`, names of models whose files belong to it. A `[[series]]` is one
//! model for each of its `variants`, which differ in `{quant}` (names) and `{QUANT}` (titles, formats and paths).

use serde::Deserialize;

use crate::{Fact, KnownFile, KnownModel, Part};

const FAMILIES: [(&str, &str); 8] = [
    ("demo", include_str!("../manifests/demo.toml")),
    ("steadydancer", include_str!("../manifests/steadydancer.toml")),
    ("pose", include_str!("../manifests/pose.toml")),
    ("loras", include_str!("../manifests/loras.toml")),
    ("wan21", include_str!("../manifests/wan21.toml")),
    ("vace", include_str!("../manifests/vace.toml")),
    ("encoders", include_str!("../manifests/encoders.toml")),
    ("vae", include_str!("../manifests/vae.toml")),
];

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("models/manifests/{family}.toml: {source}")]
    Toml { family: &'static str, source: Box<toml::de::Error> },
    #[error("{model} is made with {part:?}, which is no model with files of its own")]
    Part { model: String, part: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    #[serde(default)]
    model: Vec<Model>,
    #[serde(default)]
    series: Vec<Series>,
}

/// What all variants of a series share, and what one model is but for its files.
#[derive(Deserialize, Clone)]
struct Common {
    name: String,
    title: String,
    summary: String,
    network: String,
    format: String,
    parameters: Option<u64>,
    repository: String,
    licence: String,
    licence_note: Option<String>,
    preset: Option<String>,
    note: Option<String>,
    #[serde(default)]
    with: Vec<String>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(flatten)]
    common: Common,
    held_gb: Option<f64>,
    files: Vec<KnownFile>,
}

#[derive(Deserialize)]
struct Series {
    #[serde(flatten)]
    common: Common,
    path: String,
    part: Part,
    variants: Vec<Variant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    quant: String,
    held_gb: Option<f64>,
    size_bytes: Option<u64>,
    about_gb: Option<f64>,
    sha256: Option<String>,
    #[serde(default)]
    unknown: Vec<Fact>,
}

impl Common {
    fn with_files(self, held_gb: Option<f64>, files: Vec<KnownFile>) -> KnownModel {
        let Self { name, title, summary, network, format, parameters, repository, licence, licence_note, .. } = self;
        let Self { preset, note, with, .. } = self;
        KnownModel {
            name,
            title,
            summary,
            network,
            format,
            parameters,
            held_gb,
            repository,
            licence,
            licence_note,
            preset,
            note,
            with,
            files,
        }
    }
}

impl Series {
    fn models(self) -> Vec<KnownModel> {
        let Self { common, path, part, variants } = self;
        let of = |v: Variant| {
            let fill = |text: &str| text.replace("{quant}", &v.quant.to_lowercase()).replace("{QUANT}", &v.quant);
            let file = KnownFile {
                path: fill(&path),
                part,
                repository: None,
                of: None,
                size_bytes: v.size_bytes,
                about_gb: v.about_gb,
                sha256: v.sha256.clone(),
                unknown: v.unknown.clone(),
            };
            let common = common.clone();
            Common { name: fill(&common.name), title: fill(&common.title), format: fill(&common.format), ..common }
                .with_files(v.held_gb, vec![file])
        };
        variants.into_iter().map(of).collect()
    }
}

/// All families, in order, every model with the files of those it is made with.
pub(crate) fn read_all() -> Result<Vec<KnownModel>, ManifestError> {
    let mut models = Vec::new();
    for (family, text) in FAMILIES {
        let read: Family =
            toml::from_str(text).map_err(|source| ManifestError::Toml { family, source: Box::new(source) })?;
        models.extend(read.model.into_iter().map(|m| m.common.with_files(m.held_gb, m.files)));
        models.extend(read.series.into_iter().flat_map(Series::models));
    }
    add_parts(models)
}

fn add_parts(mut models: Vec<KnownModel>) -> Result<Vec<KnownModel>, ManifestError> {
    let own = models.clone();
    for model in &mut models {
        for part in &model.with {
            let named = own.iter().find(|m| m.name == *part && m.with.is_empty() && !m.files.is_empty());
            let named = named.ok_or_else(|| ManifestError::Part { model: model.name.clone(), part: part.clone() })?;
            let files = named.files.iter().map(|f| KnownFile {
                repository: Some(named.repository_of(f).to_owned()).filter(|r| *r != model.repository),
                of: Some(part.clone()),
                ..f.clone()
            });
            model.files.extend(files);
        }
    }
    Ok(models)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn all() -> Vec<KnownModel> {
        read_all().unwrap_or_else(|e| panic!("{e}"))
    }

    fn model(name: &str) -> KnownModel {
        all().into_iter().find(|m| m.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn every_table_is_read_and_names_are_unique_and_plain() {
        let models = all();
        assert!(models.len() > 80 && models[0].name == "demo", "{}", models.len());
        assert_eq!(crate::known_models(), models);
        let names: HashSet<_> = models.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names.len(), models.len());
        for m in &models {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(c);
            assert!(m.name.chars().all(plain) && m.name.len() <= 40, "{}", m.name);
            for text in [&m.title, &m.summary, &m.format, &m.licence] {
                assert!(!text.is_empty() && !text.contains(['{', '\n', '|']), "{}: {text:?}", m.name);
            }
        }
    }

    #[test]
    fn no_table_has_a_key_that_is_not_read() {
        let common = "name title summary network format parameters repository licence licence_note preset note with";
        for (family, text) in FAMILIES {
            let table: toml::Table = toml::from_str(text).unwrap();
            for (kind, more) in [("model", "held_gb files"), ("series", "path part variants")] {
                let known: Vec<&str> = common.split(' ').chain(more.split(' ')).collect();
                let tables = table.get(kind).and_then(|t| t.as_array()).into_iter().flatten();
                for key in tables.flat_map(|t| t.as_table().unwrap().keys()) {
                    assert!(known.contains(&key.as_str()), "{family}.toml: [[{kind}]] has {key:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_said_twice_and_what_is_missing_is_said() {
        for m in all() {
            assert!(m.held_gb.is_none_or(|gb| gb > 0.0 && gb < 100.0), "{}", m.name);
            let paths: HashSet<_> = m.files.iter().map(|f| (m.repository_of(f), &f.path)).collect();
            assert_eq!(paths.len(), m.files.len(), "{} names a file twice", m.name);
            for f in &m.files {
                let what = format!("{} {}", m.name, f.path);
                assert_eq!(f.size_bytes.is_none(), f.unknown.contains(&Fact::Size), "{what}");
                assert_eq!(f.sha256.is_none(), f.unknown.contains(&Fact::Sha256), "{what}");
                assert!(f.size_bytes.is_none() || f.about_gb.is_none(), "{what}: two sizes");
                assert!(f.about_gb.is_none_or(|gb| gb > 0.0 && gb < 100.0), "{what}");
                let hash = |h: &String| h.len() == 64 && h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                assert!(f.sha256.as_ref().is_none_or(hash), "{what}");
                let piece = |p: &str| !p.is_empty() && p != "." && p != "..";
                assert!(f.path.split('/').all(piece) && !f.path.contains(['{', '\\', ':']), "{what}");
            }
        }
    }

    #[test]
    fn the_same_file_has_the_same_facts_everywhere() {
        let models = all();
        let mut seen = std::collections::HashMap::new();
        for m in models.iter().filter(|m| !m.files.is_empty()) {
            for f in &m.files {
                let facts = (f.size_bytes, f.sha256.clone(), f.part);
                let known = seen.entry((m.repository_of(f).to_owned(), f.path.clone())).or_insert(facts.clone());
                assert_eq!(*known, facts, "{} {}", m.name, f.path);
            }
        }
    }

    #[test]
    fn every_model_on_the_hub_is_complete() {
        use Part::*;
        for m in all().iter().filter(|m| !m.repository.is_empty()) {
            let needed: &[Part] = match m.network.as_str() {
                "steadydancer" | "wan-i2v" => &[Transformer, Vae, TextEncoder, ImageEncoder, Tokenizer],
                "wan-t2v" | "wan-vace" => &[Transformer, Vae, TextEncoder, Tokenizer],
                "umt5" => &[TextEncoder],
                "clip-vision" => &[ImageEncoder],
                "wan-vae" => &[Vae],
                "tokenizer" => &[Tokenizer],
                "dwpose" => &[Detector, Estimator],
                "lora" => &[Lora],
                other => panic!("{}: {other}", m.name),
            };
            let count = |part: Part| m.files.iter().filter(|f| f.part == part).count();
            for part in needed {
                assert_eq!(count(*part), 1, "{} {part:?}", m.name);
            }
            let optional = count(TransformerShard) + count(Config);
            assert_eq!(m.files.len(), needed.len() + optional, "{} has a part that its network has not", m.name);
            assert!(m.repository.split('/').count() == 2, "{}", m.repository);
            let repositories = m.repositories();
            assert_eq!(repositories[0].0, m.repository);
            assert_eq!(repositories.iter().map(|(_, files)| files.len()).sum::<usize>(), m.files.len());
        }
    }

    #[test]
    fn shards_are_complete_and_presets_exist() {
        for m in all() {
            let shards: Vec<_> = m.files.iter().filter(|f| f.part == Part::TransformerShard).collect();
            for (i, shard) in shards.iter().enumerate() {
                let end = format!("-{:05}-of-{:05}.safetensors", i + 1, shards.len());
                assert!(shard.path.ends_with(&end), "{} {}", m.name, shard.path);
            }
            if let Some(preset) = &m.preset {
                crate::preset(preset).unwrap_or_else(|e| panic!("{}: {e}", m.name));
            }
            let settings = m.preset.is_some() || m.note.is_some();
            assert!(settings || !["lora", "steadydancer"].contains(&m.network.as_str()), "{}", m.name);
        }
    }

    #[test]
    fn a_series_is_one_model_for_each_variant() {
        let m = model("steadydancer-14b-q5_k_m");
        assert_eq!((m.format.as_str(), m.files[0].of.as_ref()), ("GGUF Q5_K_M", None));
        assert_eq!(m.files[0].path, "Wan21_I2V_SteadyDancer_fp16-Q5_K_M_fix_5d_tensor.gguf");
        assert_eq!(m.files.len(), 5);
        let tokenizer = m.files.iter().find(|f| f.part == Part::Tokenizer).unwrap();
        assert_eq!(m.repository_of(tokenizer), "Wan-AI/Wan2.1-T2V-1.3B");
        assert_eq!(tokenizer.of.as_deref(), Some("umt5-tokenizer"));
    }

    #[test]
    fn files_of_ones_own_repository_name_none() {
        let m = model("wan2.1-t2v-1.3b");
        assert!(m.files.iter().all(|f| f.repository.is_none()), "{:?}", m.files);
        assert_eq!(m.repositories().len(), 1);
    }

    #[test]
    fn sizes_are_summed_only_when_all_are_known() {
        let of = |name: &str| model(name).size_bytes();
        assert_eq!((of("dwpose"), of("steadydancer-14b")), (Some(351_145_849), None));
    }

    #[test]
    fn a_part_that_is_none_is_an_error() {
        let mut broken = model("wan2.1-vae");
        broken.with = vec!["none".to_owned()];
        let error = add_parts(vec![broken]).unwrap_err().to_string();
        assert!(error.contains("wan2.1-vae") && error.contains("\"none\""), "{error}");
    }
}
