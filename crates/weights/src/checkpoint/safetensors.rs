//! The header of one safetensors file.

use std::collections::BTreeMap;
use std::path::Path;

use ::safetensors::{SafeTensorError, SafeTensors};
use bytes::Bytes;

use super::Table;
use super::entry::{Entry, Part, check_tensor};
use crate::WeightsError;
use crate::error::visible;

/// The file's tensors as they are named in it, and the free text of its header.
pub(super) fn read(path: &Path, bytes: &Bytes) -> Result<(Table, BTreeMap<String, String>), WeightsError> {
    let (header_len, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| explain(path, bytes, error))?;
    let start = 8 + header_len;
    let mut entries = BTreeMap::new();
    for (name, info) in metadata.tensors() {
        check_tensor(path, &name, &info.shape)?;
        let (from, to) = (start.saturating_add(info.data_offsets.0), start.saturating_add(info.data_offsets.1));
        if from > to || to > bytes.len() {
            let problem = format!("tensor {name} ends at byte {to} of a file of {}", bytes.len());
            return Err(WeightsError::damaged(path, problem));
        }
        let part = Part::plain(bytes.slice(from..to), info.dtype.into(), info.shape.clone());
        entries.insert(name.clone(), Entry::new(name, info.shape.clone(), part));
    }
    Ok((entries, metadata.metadata().clone().unwrap_or_default().into_iter().collect()))
}

/// The library's word for what is wrong, in terms of this file.
fn explain(path: &Path, bytes: &[u8], error: SafeTensorError) -> WeightsError {
    use SafeTensorError as E;
    let declared = bytes.get(..8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
    let looks_like_json = bytes.get(8) == Some(&b'{');
    let problem = match (&error, declared) {
        (E::HeaderTooSmall, _) => format!("it has {} bytes, less than a header's length field", bytes.len()),
        (E::HeaderTooLarge, Some(n)) => {
            format!("it says that its header has {n} bytes; the file has {} and 100000000 are allowed", bytes.len())
        }
        (E::InvalidHeaderLength, Some(n)) => {
            format!("it ends inside its header ({} bytes of {})", bytes.len(), n.saturating_add(8))
        }
        (E::MetadataIncompleteBuffer, _) => {
            format!("its size of {} bytes is not what the header asks for: cut short, or bytes added", bytes.len())
        }
        (E::InvalidOffset(name), _) => {
            format!("the byte ranges of its tensors overlap or leave gaps at {name}")
        }
        (E::TensorInvalidInfo, _) => "a tensor's byte range does not match its shape and type".into(),
        (other, _) => other.to_string(),
    };
    let is_checkpoint = looks_like_json
        || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"))
        || matches!(error, E::MetadataIncompleteBuffer | E::InvalidOffset(_) | E::TensorInvalidInfo);
    if is_checkpoint {
        WeightsError::damaged(path, problem)
    } else {
        WeightsError::NotACheckpoint { path: path.to_owned(), found: visible(&problem) }
    }
}
