//! What `torch.save` wrote before PyTorch 1.6, and writes still when told `_use_new_zipfile_serialization=False`, as
//! OpenMMLab's script for published models does.
//!
//! Five pickles follow each other: a magic number, the version 1001, facts about the writer's machine, the object, and
//! the keys of its storages; then the storages in the order of these keys, each as its number of elements (8 bytes) and
//! its elements. Source: `torch/serialization.py`.

use std::collections::HashMap;
use std::io::BufRead;
use std::path::Path;

use candle_core::pickle::{Object, Stack, TensorInfo};

use super::{KEYS, MAX_PROGRAM_BYTES, StoredTensor, first_line, interpret, stored};
use crate::WeightsError;

/// The pickle of the magic number 0x1950a86a20f9469cfc6c.
pub(crate) const MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

pub(crate) fn read_legacy_index(path: &Path, file: &[u8]) -> Result<Vec<StoredTensor>, WeightsError> {
    let damaged = |problem: String| WeightsError::Damaged { path: path.to_owned(), problem };
    let end = file.len().min(MAX_PROGRAM_BYTES);
    let programs = file.get(MAGIC.len()..end).unwrap_or_default();
    let read = interpret(move || {
        let mut rest = programs;
        let version = next(&mut rest)?;
        let _machine = next(&mut rest)?;
        let object = next(&mut rest)?;
        let mut widths = HashMap::new();
        storages(&object, &mut widths);
        let infos = tensors(object);
        let keys = next(&mut rest)?;
        Ok((version == Object::Int(1001), infos, widths, keys, programs.len() - rest.len()))
    });
    let (known, infos, widths, keys, length) =
        read.map_err(damaged)?.map_err(|e| damaged(format!("its pickle cannot be read ({})", first_line(&e))))?;
    let (true, Object::List(keys)) = (known, keys) else {
        return Err(damaged("it begins like a PyTorch file from before zip archives and goes on otherwise".into()));
    };

    let mut starts: HashMap<String, (usize, usize)> = HashMap::new();
    let mut at = MAGIC.len() + length;
    for key in keys {
        let Object::Unicode(key) = key else {
            return Err(damaged("a storage key in it is no text".into()));
        };
        // The file says how many elements follow, the object how wide they are.
        let Some(width) = widths.get(&key) else {
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
        starts.insert(format!("/{key}"), (start, size));
    }
    let mut out = Vec::with_capacity(infos.len());
    for info in infos {
        let Some(&(start, size)) = starts.get(&info.path) else {
            return Err(damaged(format!("tensor {} points at storage {}, which is not in it", info.name, info.path)));
        };
        out.push(stored(info, start, size).map_err(damaged)?);
    }
    Ok(out)
}

fn next(rest: &mut impl BufRead) -> candle_core::Result<Object> {
    let mut stack = Stack::empty();
    stack.read_loop(rest)?;
    stack.finalize()
}

/// Bytes an element of each storage that the object mentions, by the storage's key.
fn storages(object: &Object, widths: &mut HashMap<String, usize>) {
    match object {
        Object::PersistentLoad(id) => {
            let Object::Tuple(id) = id.as_ref() else { return };
            let [_, Object::Class { class_name, .. }, Object::Unicode(key), ..] = id.as_slice() else { return };
            let width = match class_name.as_str() {
                "DoubleStorage" | "LongStorage" => 8,
                "FloatStorage" | "IntStorage" => 4,
                "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
                "ByteStorage" | "CharStorage" | "BoolStorage" => 1,
                _ => return,
            };
            widths.insert(key.clone(), width);
        }
        Object::Tuple(items) | Object::List(items) => items.iter().for_each(|item| storages(item, widths)),
        Object::Dict(pairs) => pairs.iter().for_each(|(_, value)| storages(value, widths)),
        Object::Reduce { args, .. } => storages(args, widths),
        Object::Build { callable, args } => [callable, args].into_iter().for_each(|part| storages(part, widths)),
        _ => {}
    }
}

/// The tensors of a state dict, which stands alone or under a customary key. Tensors of types that candle does not know
/// are passed over, as in zip archives.
fn tensors(object: Object) -> Vec<TensorInfo> {
    let Object::Dict(top) = object else { return Vec::new() };
    for key in KEYS {
        let found = match key {
            None => Some(top.clone()),
            Some(key) => top
                .iter()
                .find(|(k, _)| *k == Object::Unicode(key.to_owned()))
                .and_then(|(_, value)| if let Object::Dict(inner) = value { Some(inner.clone()) } else { None }),
        };
        let read = |(name, value): (Object, Object)| value.into_tensor_info(name, Path::new("")).ok().flatten();
        let infos: Vec<_> = found.unwrap_or_default().into_iter().filter_map(read).collect();
        if !infos.is_empty() {
            return infos;
        }
    }
    Vec::new()
}
