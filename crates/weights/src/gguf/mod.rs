//! GGUF files, versions 2 and 3: the table of tensors over the file's map.
//!
//! Source: `docs/gguf.md` of ggml. Written anew because Wan's files have tensors of five dimensions, which ggml's own
//! readers refuse. Dimensions are stored fastest first and reversed here. Lengths are checked against the file before
//! anything is made of them.

mod head;
mod types;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use crate::WeightsError;
use crate::checkpoint::{Contents, Entry, Part, Table, check_tensor};
use head::Head;

pub(crate) use types::number_of;

pub(crate) const MAGIC: &[u8] = b"GGUF";

pub(crate) fn read(path: &Path, bytes: &Bytes) -> Result<Contents, WeightsError> {
    let damaged = |problem: String| WeightsError::damaged(path, problem);
    let head = head::read(bytes).map_err(damaged)?;
    let mut entries = Table::new();
    let mut ranges = Vec::with_capacity(head.tensors.len());
    for tensor in &head.tensors {
        let name = tensor.name.to_owned();
        check_tensor(path, &name, &tensor.shape)?;
        let stored = types::stored_type(tensor.ggml_type).map_err(|dtype| WeightsError::DType {
            path: path.to_owned(),
            name: name.clone(),
            dtype,
        })?;
        let Some(size) = types::size(stored, &tensor.shape) else {
            let problem = format!("tensor {name} of shape {:?} has no whole blocks of {stored}", tensor.shape);
            return Err(damaged(problem));
        };
        let from = head.data_start.saturating_add(tensor.offset);
        let to = from.saturating_add(size);
        if to > bytes.len() {
            return Err(damaged(format!("tensor {name} ends at byte {to} of a file of {}", bytes.len())));
        }
        if from != to {
            ranges.push((from, to, tensor.name));
        }
        let part = Part::plain(bytes.slice(from..to), stored, tensor.shape.clone());
        let shape = logical_shape(&head, tensor.name, &tensor.shape).map_err(damaged)?;
        let entry = Entry { merges: true, ..Entry::new(name.clone(), shape, part) };
        if entries.insert(name, entry).is_some() {
            return Err(damaged(format!("tensor {} stands in it twice", tensor.name)));
        }
    }
    ranges.sort_unstable();
    if let Some([(_, _, a), (_, _, b)]) = ranges.windows(2).find_map(|p| p.first_chunk().filter(|[a, b]| a.1 > b.0)) {
        return Err(damaged(format!("the byte ranges of its tensors {a} and {b} overlap")));
    }
    Ok(Contents { entries, metadata: head.metadata, descriptions: Vec::new() })
}

/// The shape that ComfyUI-GGUF noted where it had to store another one.
fn logical_shape(head: &Head, name: &str, stored: &[usize]) -> Result<Vec<usize>, String> {
    let Some(shape) = head.shapes.get(name) else { return Ok(stored.to_vec()) };
    let product = |shape: &[usize]| shape.iter().fold(1usize, |a, d| a.saturating_mul(*d));
    if product(shape) != product(stored) {
        return Err(format!("tensor {name} of shape {stored:?} is said to have been {shape:?}"));
    }
    Ok(shape.clone())
}

/// Original shapes by tensor.
type Shapes = BTreeMap<String, Vec<usize>>;

#[cfg(test)]
mod tests;
