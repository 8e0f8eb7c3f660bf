//! What `torch.save` wrote before PyTorch 1.6, and writes still when told `_use_new_zipfile_serialization=False`, as
//! OpenMMLab's script for published models does.
//!
//! Five pickles follow each other: a magic number, the version 1001, facts about the writer's machine, the object, and
//! the keys of its storages; then the storages in the order of these keys, each as its number of elements (8 bytes) and
//! its elements. Source: `torch/serialization.py`.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;

use super::values::{Unpickled, Value};
use super::{MAX_PROGRAM_BYTES, machine, state, table};
use crate::WeightsError;
use crate::checkpoint::Table;

/// The pickle of the magic number 0x1950a86a20f9469cfc6c.
pub(crate) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The `VERSION` that follows it.
const VERSION: i64 = 1001;

pub(crate) fn read_legacy(path: &Path, file: &Bytes) -> Result<Table, WeightsError> {
    let damaged = |problem: String| WeightsError::damaged(path, problem);
    let mut programs = Programs { file: &file[..file.len().min(MAX_PROGRAM_BYTES)], at: MAGIC.len() };
    let mut next = || programs.next().map_err(damaged);
    let (version, machine, object, keys) = (next()?, next()?, next()?, next()?);
    let known = matches!(version.get(version.root), Value::Int(VERSION));
    let (true, Value::List(keys_read)) = (known, keys.get(keys.root)) else {
        return Err(damaged("it begins like a PyTorch file from before zip archives and goes on otherwise".into()));
    };
    if is_big_endian(&machine) {
        return Err(damaged("its numbers are big-endian; save it anew on a little-endian machine".into()));
    }
    let widths = state::storage_widths(&object);
    let mut starts: HashMap<&str, (usize, usize)> = HashMap::new();
    let mut at = programs.at;
    for key in keys_read {
        let Some(key) = keys.text(*key) else {
            return Err(damaged("a storage key in it is no text".into()));
        };
        // The file says how many elements follow, the object how wide they are.
        let Some(width) = widths.get(key) else {
            return Err(damaged(format!("storage {key} belongs to nothing in it, or is of an unknown type")));
        };
        let header = file.get(at..).and_then(|rest| rest.first_chunk::<8>());
        let Some(elements) = header.and_then(|h| usize::try_from(u64::from_le_bytes(*h)).ok()) else {
            return Err(damaged(format!("it ends before storage {key}")));
        };
        let (start, size) = (at + 8, elements.saturating_mul(*width));
        at = start.saturating_add(size);
        if at > file.len() {
            return Err(damaged(format!("storage {key} ends at byte {at} of a file of {}", file.len())));
        }
        starts.insert(key, (start, at));
    }
    let raw = state::tensors(&object).map_err(|e| damaged(format!("of its pickle, {e}")))?;
    table(path, raw, |key| match starts.get(key) {
        Some(&(start, end)) => Ok(file.slice(start..end)),
        None => Err(format!("points at storage {key}, which is not in it")),
    })
}

/// Pickles one after another.
struct Programs<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Programs<'a> {
    fn next(&mut self) -> Result<Unpickled<'a>, String> {
        let rest = self.file.get(self.at..).unwrap_or_default();
        let left = machine::read(rest).map_err(|e| format!("its pickle cannot be read: {e}"))?;
        self.at += left.length;
        Ok(left)
    }
}

/// Whether the facts about the writer's machine say `little_endian: False`.
fn is_big_endian(machine: &Unpickled) -> bool {
    let told = |(key, value)| machine.text(key) == Some("little_endian") && matches!(machine.get(value), Value::False);
    machine.items(machine.root).is_some_and(|mut items| items.any(told))
}
