//! What tells two models, LoRAs or pose networks apart: the bytes of embedded ones, sizes and times of change of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use super::report::{LoraNote, ModelNote, NetworksNote};
use crate::files::{check_ordinary, small_text, state};
use crate::poses::hash_of_bytes;
use crate::{Engine, Lora, LoraSource, ModelSource, PoseModels};

/// Largest shard index that is read.
const INDEX_BYTES: u64 = 64 << 20;
/// Largest file of a model's sizes that is read.
const CONFIG_BYTES: u64 = 1 << 20;

/// The model as reports tell it.
pub(super) fn model_note(engine: &Engine) -> ModelNote {
    let info = engine.model();
    let loras = info.loras.iter().zip(&engine.options().loras);
    ModelNote {
        label: info.label.clone(),
        parameters: info.parameters,
        files: info.components.iter().map(|c| c.path.display().to_string()).collect(),
        identity: model(engine),
        dtype: engine.options().dtype,
        loras: loras
            .map(|(info, asked)| LoraNote { name: info.name.clone(), strength: info.strength, identity: lora(asked) })
            .collect(),
    }
}

/// Pose networks as reports tell them.
pub(super) fn networks_note(networks: &PoseModels) -> NetworksNote {
    match networks {
        PoseModels::Files(files) => {
            let [detector, estimator] = [&files.detector, &files.estimator].map(|path| path.display().to_string());
            let identity = format!("{}; {}", state(&files.detector), state(&files.estimator));
            NetworksNote { detector, estimator, identity }
        }
        PoseModels::Embedded => {
            let embedded = || "embedded".to_owned();
            let identity = hash_of_bytes(&models::DEMO.pose_networks());
            NetworksNote { detector: embedded(), estimator: embedded(), identity }
        }
    }
}

/// Of the embedded model the SHA-256 of its bytes; of files, which may be large, sizes and times of change, shards and
/// the content of the files with its sizes among them.
fn model(engine: &Engine) -> String {
    match engine.source() {
        ModelSource::Demo => {
            let demo = &models::DEMO;
            let parts = [demo.dit, demo.vae, demo.text_encoder, demo.image_encoder, demo.tokenizer];
            hash_of_bytes(&[&parts[..], &[demo.config.as_bytes()]].concat())
        }
        ModelSource::Files(files) => {
            // The components' paths are those that were opened, where a folder was named too.
            let parts = engine.model().components.iter().map(|c| c.path.as_path());
            let mut states: Vec<String> = parts.clone().flat_map(checkpoint).collect();
            states.push(state(&files.tokenizer));
            let published = parts.take(1).map(|path| path.with_file_name("config.json"));
            for path in published.chain(files.config.clone()) {
                if let Ok(text) = small_text(&path, CONFIG_BYTES) {
                    states.push(format!("{} {}", path.display(), hash_of_bytes(&[text.as_bytes()])));
                }
            }
            states.join("; ")
        }
    }
}

/// States of a checkpoint's file, or of an index and its shards.
fn checkpoint(path: &Path) -> Vec<String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let mut states = vec![state(path)];
    if path.to_string_lossy().to_lowercase().ends_with(".index.json") {
        let index = small_text(path, INDEX_BYTES).ok().and_then(|text| serde_json::from_str::<Index>(&text).ok());
        let shards: BTreeSet<String> = index.into_iter().flat_map(|i| i.weight_map.into_values()).collect();
        states.extend(shards.iter().map(|shard| state(&path.with_file_name(shard))));
    }
    states
}

fn lora(lora: &Lora) -> String {
    match &lora.source {
        LoraSource::Bytes { bytes, .. } => hash_of_bytes(&[bytes]),
        LoraSource::Embedded(name) => {
            let embedded = models::DEMO.loras.iter().find(|l| l.name == name);
            embedded.map_or_else(String::new, |l| hash_of_bytes(&[l.bytes]))
        }
        LoraSource::File(path) if check_ordinary(path, u64::MAX).is_ok() => checkpoint(path).join("; "),
        // A folder stands for the checkpoint in it.
        LoraSource::File(folder) => {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut states: Vec<String> = entries.map(|entry| state(&entry.path())).collect();
            states.sort();
            states.join("; ")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use super::*;

    #[test]
    fn shards_and_loras_tell_their_contents() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("m.safetensors.index.json"), r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#)
            .unwrap();
        fs::write(at("1.safetensors"), "one").unwrap();
        fs::write(at("2.safetensors"), "two").unwrap();
        let before = checkpoint(&at("m.safetensors.index.json"));
        assert_eq!(before.len(), 3);
        fs::write(at("2.safetensors"), "three").unwrap();
        assert_ne!(checkpoint(&at("m.safetensors.index.json")), before);

        let file = Lora::file(at("1.safetensors"), 1.0);
        let before = lora(&file);
        fs::write(at("1.safetensors"), "other").unwrap();
        assert_ne!(lora(&file), before);
        let bytes = |content: &[u8]| {
            lora(&Lora { source: LoraSource::Bytes { name: "l".into(), bytes: Arc::from(content) }, strength: 1.0 })
        };
        assert_ne!(bytes(b"a"), bytes(b"b"));
        assert_eq!(bytes(b"a").len(), 64);
    }
}
