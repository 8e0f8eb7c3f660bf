//! The tables of known models: one TOML file per family.
//!
//! A `[[model]]` has its own `files` and, under `with`, names of models whose files belong to it. A `[[series]]` is one
//! model for each of its `variants`, which differ in `{quant}` (names) and `{QUANT}` (titles, formats and paths). Tables of
//! one's own have the same form, and are checked before anything of them is used (`check`).

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::{Fact, KnownFile, KnownModel, Part};

mod check;
mod error;
#[cfg(test)]
mod tests;

pub use error::ManifestError;

const FAMILIES: [(&str, &str); 8] = [
    ("demo", include_str!("../../manifests/demo.toml")),
    ("steadydancer", include_str!("../../manifests/steadydancer.toml")),
    ("pose", include_str!("../../manifests/pose.toml")),
    ("loras", include_str!("../../manifests/loras.toml")),
    ("wan21", include_str!("../../manifests/wan21.toml")),
    ("vace", include_str!("../../manifests/vace.toml")),
    ("encoders", include_str!("../../manifests/encoders.toml")),
    ("vae", include_str!("../../manifests/vae.toml")),
];

/// Largest table that is read.
const MOST_BYTES: u64 = 1 << 20;
/// Most tables of a folder, and most models of a table.
const MOST_TABLES: usize = 256;
const MOST_MODELS: usize = 1024;

/// Keys of a `[[model]]` and of a `[[series]]`. Flattened structs cannot refuse unknown ones themselves.
const COMMON_KEYS: &str =
    "name title summary network format parameters repository licence licence_note preset note with";
const MODEL_KEYS: &str = "held_gb files";
const SERIES_KEYS: &str = "path part variants";

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

/// The models of the program's tables, every one with the files of those it is made with.
pub(crate) fn read_all() -> Result<Vec<KnownModel>, ManifestError> {
    let mut models: Vec<KnownModel> = Vec::new();
    for (family, text) in FAMILIES {
        models.extend(read_family(&format!("models/manifests/{family}.toml"), text)?);
    }
    add_parts(models)
}

/// [`known_models`](crate::known_models) with tables of one's own over them: each is a name for messages, and the text of a
/// TOML file like those in `models/manifests`. A model that has the name of a built-in one takes its place, also as a part
/// of others; the rest follow the built-in ones.
///
/// # Errors
/// A table that is none, or that says what cannot be; two models of one name; a part that is none.
pub fn known_models_with(tables: &[(String, String)]) -> Result<Vec<KnownModel>, ManifestError> {
    let mut models = crate::known_models();
    // A part may be replaced, so all are added anew.
    models.iter_mut().for_each(|m| m.files.retain(|f| f.of.is_none()));
    let mut own: Vec<(&str, String)> = Vec::new();
    for (table, text) in tables {
        for model in read_family(table, text)? {
            check::model(table, &model)?;
            if let Some((other, _)) = own.iter().find(|(_, name)| *name == model.name) {
                let (table, other) = (table.clone(), (*other).to_owned());
                return Err(ManifestError::Twice { table, model: model.name, other });
            }
            own.push((table, model.name.clone()));
            match models.iter_mut().find(|m| m.name == model.name) {
                Some(built_in) => *built_in = model,
                None => models.push(model),
            }
        }
    }
    add_parts(models)
}

/// [`known_models_with`] the `.toml` files of a folder, in the order of their names.
///
/// # Errors
/// The folder or a file cannot be read, and as [`known_models_with`].
pub fn known_models_with_folder(folder: &Path) -> Result<Vec<KnownModel>, ManifestError> {
    let refuse = |path: &Path, problem: String| ManifestError::Read { path: path.to_owned(), problem };
    let entries = fs::read_dir(folder).map_err(|e| refuse(folder, e.to_string()))?;
    let mut files: Vec<_> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml")).collect();
    files.sort();
    if files.len() > MOST_TABLES {
        return Err(refuse(folder, format!("{} tables, at most {MOST_TABLES} are read", files.len())));
    }
    let mut tables = Vec::new();
    for file in &files {
        let info = fs::metadata(file).map_err(|e| refuse(file, e.to_string()))?;
        if !info.is_file() || info.len() > MOST_BYTES {
            return Err(refuse(file, "no file, or too large a one".to_owned()));
        }
        let text = fs::read_to_string(file).map_err(|e| refuse(file, e.to_string()))?;
        tables.push((file.display().to_string(), text));
    }
    known_models_with(&tables)
}

/// The models of one table, with their own files.
fn read_family(table: &str, text: &str) -> Result<Vec<KnownModel>, ManifestError> {
    let explain = |error: toml::de::Error| ManifestError::toml(table, text, &error);
    let family: Family = toml::from_str(text).map_err(explain)?;
    check_keys(table, &toml::from_str(text).map_err(explain)?)?;
    let most = |count: usize| match count <= MOST_MODELS {
        true => Ok(()),
        false => {
            let problem = format!("it has more than {MOST_MODELS} models; make it two tables");
            Err(ManifestError::Toml { table: table.to_owned(), problem })
        }
    };
    let mut models = Vec::new();
    for model in family.model {
        check::texts(table, &model.common)?;
        models.push(model.common.with_files(model.held_gb, model.files));
    }
    for series in family.series {
        most(models.len() + series.variants.len())?;
        check::series(table, &series)?;
        models.extend(series.models());
    }
    most(models.len())?;
    Ok(models)
}

fn check_keys(table: &str, read: &toml::Table) -> Result<(), ManifestError> {
    for (kind, own) in [("model", MODEL_KEYS), ("series", SERIES_KEYS)] {
        let known = || COMMON_KEYS.split(' ').chain(own.split(' '));
        let tables =
            read.get(kind).and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_table);
        for key in tables.flat_map(|t| t.keys()) {
            if !known().any(|k| k == key) {
                let problem =
                    format!("[[{kind}]] has a key {key:?}; its keys are {}", known().collect::<Vec<_>>().join(", "));
                return Err(ManifestError::Toml { table: table.to_owned(), problem });
            }
        }
    }
    Ok(())
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
