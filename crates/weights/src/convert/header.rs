//! What stands before the tensors of a file.

use serde_json::{Map, Value, json};

use super::plan::Output;
use crate::StoredType;
use crate::gguf::number_of;

/// Of tensors in a GGUF file.
pub(super) const ALIGNMENT: u64 = 32;
/// `general.quantization_version`.
const QUANTISATION_VERSION: u32 = 2;
const UINT32: u32 = 4;
const STRING: u32 = 8;

/// The header of a safetensors file, padded to a multiple of eight bytes as the format's writers do.
pub(super) fn safetensors(outputs: &[&Output], note: &str) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("__metadata__".to_owned(), json!({ "format": "pt", "note": note }));
    let mut at = 0;
    for output in outputs {
        let range = [at, at + output.bytes];
        let value = json!({ "dtype": name_of(output.dtype), "shape": output.shape, "data_offsets": range });
        map.insert(output.name.clone(), value);
        at += output.bytes;
    }
    let mut text = Value::Object(map).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    [&(text.len() as u64).to_le_bytes()[..], &text].concat()
}

fn name_of(dtype: StoredType) -> String {
    match dtype {
        StoredType::Quantised(encoding) => encoding.to_string(),
        StoredType::Plain(dtype) => format!("{dtype:?}"),
    }
}

/// The header of a GGUF file, version 3, up to the first tensor.
pub(super) fn gguf(outputs: &[&Output], architecture: &str, file_type: u32, note: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let string = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let numbers = [("general.quantization_version", QUANTISATION_VERSION), ("general.file_type", file_type)];
    let texts = [("general.architecture", architecture), ("general.description", note)];
    out.extend(b"GGUF");
    out.extend(3u32.to_le_bytes());
    out.extend((outputs.len() as u64).to_le_bytes());
    out.extend((numbers.len() as u64 + texts.len() as u64).to_le_bytes());
    for (key, text) in texts {
        string(&mut out, key);
        out.extend(STRING.to_le_bytes());
        string(&mut out, text);
    }
    for (key, number) in numbers {
        string(&mut out, key);
        out.extend(UINT32.to_le_bytes());
        out.extend(number.to_le_bytes());
    }
    let mut at = 0u64;
    for output in outputs {
        string(&mut out, &output.name);
        out.extend((output.shape.len() as u32).to_le_bytes());
        for size in output.shape.iter().rev() {
            out.extend((*size as u64).to_le_bytes());
        }
        out.extend(number_of(output.dtype).unwrap_or_default().to_le_bytes());
        out.extend(at.to_le_bytes());
        at += output.bytes.next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}
