//! What a model's folder tells besides the weights: sizes that shapes do not tell, and the canvas of its poses.

use std::path::{Path, PathBuf};

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use weights::Checkpoint;

use crate::model::{Component, canonical};
use crate::poses::{CANVAS_WANTED, canvas_fits};
use crate::{PipelineError, files};

/// Sizes as `steadydance.json` tells them; each part may be absent and is then read off the shapes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    pub dit: Option<dit::Config>,
    pub vae: Option<vae::Config>,
    pub umt5: Option<umt5::Config>,
    pub clip: Option<clip::Config>,
    /// Width and height of a canvas of the area that the model's poses were drawn on.
    #[serde(default, deserialize_with = "canvas")]
    pub pose_canvas: Option<[usize; 2]>,
}

impl ConfigFile {
    /// The file at `path`.
    pub fn open(path: &Path) -> Result<Self, PipelineError> {
        Self::read(path, &small_text(path)?)
    }

    /// From the text of the file, which errors call `path`.
    pub fn read(path: &Path, text: &str) -> Result<Self, PipelineError> {
        let wrong = |problem| PipelineError::Model { path: path.to_owned(), problem };
        if let Some(problem) = serde_json::from_str(text).ok().and_then(|value| absurd(&value, "")) {
            return Err(wrong(problem));
        }
        serde_json::from_str(text).map_err(|e| wrong(format!("the model's sizes cannot be read ({e})")))
    }
}

/// The configuration of the embedded model.
pub(crate) fn demo_config() -> Result<ConfigFile, PipelineError> {
    ConfigFile::read(Path::new("demo/steadydance.json"), models::DEMO.config)
}

/// Width and height of a canvas of the area that a model's poses are drawn on, as its `steadydance.json` tells; `None`
/// is SteadyDancer's. `model` is a model folder or the transformer's file in it, `None` the embedded model. Reads no
/// weight.
///
/// # Errors
/// A configuration that cannot be read.
pub fn pose_canvas(model: Option<&Path>) -> Result<Option<[usize; 2]>, PipelineError> {
    let Some(path) = model else { return Ok(demo_config()?.pose_canvas) };
    match config_beside(path) {
        Some(config) => Ok(ConfigFile::open(&config)?.pose_canvas),
        None => Ok(None),
    }
}

/// The configuration in a model folder, or beside a transformer's file.
pub(crate) fn config_beside(path: &Path) -> Option<PathBuf> {
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    Some(folder.join("steadydance.json")).filter(|config| config.is_file())
}

/// Reads `pose_canvas`; a fault is told with the field's name.
fn canvas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[usize; 2]>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    if value.is_null() {
        return Ok(None);
    }
    let found = serde_json::from_value::<[usize; 2]>(value.clone()).ok().filter(|canvas| canvas_fits(*canvas));
    let shown = || value.to_string().chars().take(60).collect::<String>();
    found.map(Some).ok_or_else(|| Error::custom(format!("pose_canvas is {}; expected {CANVAS_WANTED}", shown())))
}

/// The transformer's sizes where its folder has the `config.json` of the releases: what shapes tell is read off the
/// shapes, what they do not (the number of heads, the text length) from the file. `None` without such a file.
pub(crate) fn published_config(checkpoint: &Checkpoint) -> Result<Option<dit::Config>, PipelineError> {
    #[derive(Deserialize)]
    struct Published {
        num_heads: Option<usize>,
        text_len: Option<usize>,
    }
    let path = checkpoint.path().with_file_name("config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let text = small_text(&path)?;
    let published: Published = serde_json::from_str(&text).map_err(|e| PipelineError::Model {
        path: path.clone(),
        problem: format!("the model's sizes cannot be read ({e})"),
    })?;
    let named = canonical(checkpoint.clone(), Component::Dit);
    let Some(detected) = dit::Config::detect(|n| named.shape(n)) else { return Ok(None) };
    let heads = published.num_heads.unwrap_or(detected.num_heads);
    if heads == 0 || !detected.dim.is_multiple_of(2 * heads) {
        let problem = format!("num_heads is {heads}, which does not divide the width {} in pairs", detected.dim);
        return Err(PipelineError::Model { path, problem });
    }
    let text_len = published.text_len.unwrap_or(detected.text_len).clamp(1, 1 << 16);
    Ok(Some(dit::Config { num_heads: heads, text_len, ..detected }))
}

/// Sizes beyond any network that could be meant; they would exhaust memory before a tensor is compared.
fn absurd(value: &serde_json::Value, key: &str) -> Option<String> {
    match value {
        serde_json::Value::Object(map) => map.iter().find_map(|(key, v)| absurd(v, key)),
        serde_json::Value::Array(list) => list.iter().find_map(|v| absurd(v, key)),
        serde_json::Value::Number(n) => {
            let limit = if key == "num_layers" { 1_000.0 } else { 1_000_000.0 };
            n.as_f64().filter(|n| n.abs() > limit).map(|n| format!("{key} is {n}; at most {limit} is allowed"))
        }
        _ => None,
    }
}

/// A file, not a pipe or device, and of a size that can be meant.
pub(crate) fn check_ordinary(path: &Path, most_bytes: u64) -> Result<(), PipelineError> {
    files::check_ordinary(path, most_bytes).map_err(|e| unreadable(path, &e))
}

fn small_text(path: &Path) -> Result<String, PipelineError> {
    files::small_text(path, 1 << 20).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, error: &std::io::Error) -> PipelineError {
    PipelineError::Model { path: path.to_owned(), problem: format!("cannot be read ({error})") }
}
