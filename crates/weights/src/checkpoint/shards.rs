//! Folders and shard sets: which files make one checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{Checkpoint, Contents, Format, map_file, safetensors};
use crate::WeightsError;
use crate::error::first_ten;

const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The one checkpoint in a folder: an index, else a single .safetensors, else a single .gguf file.
pub(super) fn choose(folder: &Path) -> Result<PathBuf, WeightsError> {
    let open_error = |source| WeightsError::Open { path: folder.to_owned(), source };
    let mut names = Vec::new();
    for item in std::fs::read_dir(folder).map_err(open_error)? {
        names.push(item.map_err(open_error)?.path());
    }
    names.sort();
    let ending = |end: &str| -> Vec<&PathBuf> {
        names.iter().filter(|p| p.to_string_lossy().to_lowercase().ends_with(end)).collect()
    };
    let (indexes, singles, blocks) = (ending(".safetensors.index.json"), ending(".safetensors"), ending(".gguf"));
    let found = match (indexes.as_slice(), singles.as_slice(), blocks.as_slice()) {
        ([one], _, _) | ([], [one], []) | ([], [], [one]) => return Ok((*one).clone()),
        ([], [], []) => without_checkpoint(&names),
        ([], _, _) => open_choice(&[singles, blocks].concat()),
        _ => open_choice(&indexes),
    };
    Err(WeightsError::NotACheckpoint { path: folder.to_owned(), found })
}

fn open_choice(files: &[&PathBuf]) -> String {
    let names: Vec<String> =
        files.iter().map(|p| p.file_name().unwrap_or_default().to_string_lossy().into_owned()).collect();
    format!("a folder with several ({}), so the choice is open; name the file", first_ten(&names))
}

/// Says where to look instead, if the folder has parts with weights of their own, as diffusers' folders have.
fn without_checkpoint(names: &[PathBuf]) -> String {
    let has_weights = |folder: &&PathBuf| {
        std::fs::read_dir(folder).is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|f| f.file_name().to_string_lossy().ends_with(".safetensors")))
        })
    };
    let parts: Vec<String> = names
        .iter()
        .filter(|path| path.is_dir())
        .filter(has_weights)
        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    match parts.is_empty() {
        true => "a folder without a .safetensors file or index, or a .gguf file".into(),
        false => format!("a folder whose weights lie in its parts ({}); name one of these", first_ten(&parts)),
    }
}

/// Opens what an index names.
pub(super) fn open_index(index: &Path) -> Result<Checkpoint, WeightsError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let damaged = |problem: String| WeightsError::damaged(index, problem);
    if std::fs::metadata(index).is_ok_and(|info| !info.is_file() || info.len() > MAX_INDEX_BYTES) {
        return Err(damaged(format!("an index is a file of at most {MAX_INDEX_BYTES} bytes")));
    }
    let text =
        std::fs::read_to_string(index).map_err(|source| WeightsError::Open { path: index.to_owned(), source })?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|e| damaged(format!("the index is not the JSON of a shard index ({e})")))?;
    let folder = index.parent().unwrap_or(Path::new("."));
    let shards: BTreeSet<&String> = parsed.weight_map.values().collect();
    let plain = |s: &str| {
        let one = Path::new(s).components().count() == 1 && !s.contains(char::is_control);
        one && !s.starts_with('.') && s.ends_with(".safetensors")
    };
    if let Some(name) = shards.iter().find(|s| !plain(s)) {
        return Err(damaged(format!("shard name {name:?} is not the plain name of a .safetensors file")));
    }
    let missing: Vec<_> = shards.iter().filter(|s| !folder.join(s.as_str()).is_file()).collect();
    if let Some(first) = missing.first() {
        return Err(WeightsError::MissingShards {
            index: index.to_owned(),
            count: missing.len(),
            first: first.to_string(),
        });
    }
    let mut all = Contents::default();
    for shard in &shards {
        let path = folder.join(shard);
        let (entries, metadata) = safetensors::read(&path, &map_file(&path)?)?;
        for (key, text) in metadata {
            // Descriptions of layers are told of each shard's own; the rest says the same in all.
            if key == crate::flavour::METADATA {
                all.descriptions.push(text);
            } else {
                all.metadata.insert(key, text);
            }
        }
        for (name, entry) in entries {
            if all.entries.insert(name.clone(), entry).is_some() {
                return Err(damaged(format!("tensor {name} stands in two shards")));
            }
        }
    }
    if let Some((name, shard)) = parsed.weight_map.iter().find(|(n, _)| !all.entries.contains_key(*n)) {
        return Err(damaged(format!("tensor {name} is not in {shard}, where the index says it is")));
    }
    let shards = shards.iter().map(|shard| folder.join(shard.as_str())).collect();
    Ok(Checkpoint { shards, ..Checkpoint::grouped(index, Format::SafetensorsSharded, all)? })
}
