//! How a folder of unfinished work is told from others, and belongs to one process at a time.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use media::MediaError;
use media::output::PendingFolder;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::EvalError;
use super::set::MOST_BYTES;
use crate::PipelineError;
use crate::files::small_text;
use crate::preview::{failed, write_json};

/// Only a folder with it is ours.
pub(super) const MARKER: &str = "unfinished.json";
/// Value of its `format`.
const FORMAT: &str = "steadydance-eval-unfinished";
/// Value of its `version`.
const VERSION: u64 = 1;
/// Held by the process that works in the folder.
pub(super) const LOCK: &str = "lock";

/// What the folder is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Marker {
    format: String,
    version: u64,
    /// Whether outcomes are worth going on from.
    pub resumable: bool,
    /// Everything that outcomes depend on, the pairs apart.
    pub settings: Value,
    /// Names of all pairs that files may belong to.
    pub pairs: BTreeSet<String>,
}

impl Marker {
    /// Of this version.
    pub fn new(settings: Value, resumable: bool, pairs: BTreeSet<String>) -> Self {
        Self { format: FORMAT.to_owned(), version: VERSION, resumable, settings, pairs }
    }
}

/// Nothing has the name, or an empty folder.
pub(super) fn is_free(folder: &Path) -> bool {
    match folder.symlink_metadata() {
        Ok(info) => info.is_dir() && fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none()),
        Err(_) => true,
    }
}

/// The folder appears with its marker in it, so that no kill leaves one that is nobody's.
pub(super) fn create(folder: &Path, marker: &Marker) -> Result<(), PipelineError> {
    let pending = PendingFolder::create(folder).map_err(PipelineError::Output)?;
    write_json(&pending.path().join(MARKER), marker)?;
    match pending.commit() {
        // Another process was first; the lock decides.
        Err(MediaError::OutputExists { .. }) => Ok(()),
        other => other.map_err(PipelineError::Output),
    }
}

/// The marker of a folder that is ours.
pub(super) fn read_marker(folder: &Path) -> Result<Marker, PipelineError> {
    let is_folder = folder.symlink_metadata().is_ok_and(|info| info.is_dir());
    let path = folder.join(MARKER);
    let plain = is_folder && path.symlink_metadata().is_ok_and(|info| info.is_file());
    let text = small_text(&path, MOST_BYTES).ok().filter(|_| plain);
    let marker = text.and_then(|text| serde_json::from_str::<Marker>(&text).ok());
    let marker = marker.filter(|marker| marker.format == FORMAT && marker.version == VERSION);
    marker.ok_or_else(|| not_ours(folder, format!("no {MARKER} of this program is in it")))
}

/// Makes the folder this process's.
pub(super) fn lock(folder: &Path) -> Result<File, PipelineError> {
    let path = folder.join(LOCK);
    if path.symlink_metadata().is_ok_and(|info| !info.is_file()) {
        return Err(not_ours(folder, format!("{LOCK} in it is no file")));
    }
    let file = File::options().write(true).create(true).truncate(false).open(&path).map_err(|e| failed(&path, &e))?;
    match file.try_lock() {
        // The one that held it may have removed the folder meanwhile.
        Ok(()) if !path.is_file() => Err(EvalError::InUse { path: folder.to_owned() }.into()),
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EvalError::InUse { path: folder.to_owned() }.into()),
        // Some network file systems have no locks.
        Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => Ok(file),
        Err(TryLockError::Error(e)) => Err(failed(&path, &e)),
    }
}

/// Dotted names of the values in which two settings differ.
pub(super) fn differences(name: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let inner = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                let [a, b] = [a, b].map(|map| map.get(key).unwrap_or(&Value::Null));
                differences(&inner, a, b, found);
            }
        }
        _ if a != b => found.push(name.to_owned()),
        _ => {}
    }
}

/// The error of a folder that is something else.
pub(super) fn not_ours(folder: &Path, problem: String) -> PipelineError {
    EvalError::NotUnfinished { path: folder.to_owned(), problem }.into()
}
