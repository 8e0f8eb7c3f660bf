//! What stands before the data: keys and values, names, shapes and places.

use std::collections::BTreeMap;

use super::Shapes;
use crate::cursor::Cursor;

/// Wan's have five; seven is the most that has been heard of.
const MAX_RANK: usize = 8;
/// The format's own limit.
const MAX_KEY_BYTES: usize = 65535;
/// Longer words (chat templates, licences) are no facts about weights.
const MAX_WORD_BYTES: usize = 1024;
/// Arrays of arrays of arrays are in no known file.
const MAX_DEPTH: usize = 4;
const ALIGNMENT: usize = 32;
const MAX_ALIGNMENT: usize = 1 << 20;
/// Before the name of a tensor that was stored in another shape.
const SHAPE_KEY: &str = "comfy.gguf.orig_shape.";

pub(super) struct Head<'a> {
    pub metadata: BTreeMap<String, String>,
    pub shapes: Shapes,
    pub tensors: Vec<TensorInfo<'a>>,
    /// Where offsets are counted from.
    pub data_start: usize,
}

pub(super) struct TensorInfo<'a> {
    pub name: &'a str,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    pub ggml_type: u32,
    pub offset: usize,
}

pub(super) fn read(bytes: &[u8]) -> Result<Head<'_>, String> {
    let mut from = Cursor::new(bytes);
    from.take(super::MAGIC.len())?;
    match from.u32()? {
        2 | 3 => {}
        version if matches!(version.swap_bytes(), 1..=3) => {
            return Err("its numbers are big-endian; write it on, or for, a little-endian machine".into());
        }
        version => return Err(format!("it is GGUF version {version}; 2 and 3 are read")),
    }
    let (tensor_count, key_count) = (from.length()?, from.length()?);
    let mut alignment = ALIGNMENT;
    let (mut metadata, mut shapes) = (BTreeMap::new(), Shapes::new());
    let mut keys = std::collections::BTreeSet::new();
    // Each turn takes bytes of the file, so that a count that is too large comes to the file's end.
    for _ in 0..key_count {
        let key = text(&mut from, MAX_KEY_BYTES)?;
        if !keys.insert(key) {
            return Err(format!("the key {key} stands in it twice"));
        }
        let kind = from.u32()?;
        match value(&mut from, kind, 0).map_err(|e| format!("key {key}: {e}"))? {
            Value::Word(word) => {
                metadata.insert(key.to_owned(), word.to_owned());
            }
            Value::Number(number) => {
                if key == "general.alignment" {
                    alignment = number.parse().unwrap_or(0);
                }
                metadata.insert(key.to_owned(), number);
            }
            Value::Dims(dims) => {
                if let Some(name) = key.strip_prefix(SHAPE_KEY) {
                    shapes.insert(name.to_owned(), dims);
                }
            }
            Value::Other => {}
        }
    }
    if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
        return Err(format!("its alignment is {alignment}; powers of two up to {MAX_ALIGNMENT} are allowed"));
    }
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(tensor(&mut from)?);
    }
    let data_start = from.at().checked_next_multiple_of(alignment).unwrap_or(usize::MAX);
    Ok(Head { metadata, shapes, tensors, data_start })
}

fn text<'a>(from: &mut Cursor<'a>, most: usize) -> Result<&'a str, String> {
    let length = from.length()?;
    if length > most {
        return Err(format!("a name in it has {length} bytes; {most} are allowed"));
    }
    std::str::from_utf8(from.take(length)?).map_err(|_| "a name in it is no text".to_owned())
}

fn tensor<'a>(from: &mut Cursor<'a>) -> Result<TensorInfo<'a>, String> {
    let name = text(from, MAX_KEY_BYTES)?;
    let rank = from.u32()? as usize;
    if rank > MAX_RANK {
        return Err(format!("tensor {name} has {rank} dimensions; {MAX_RANK} are allowed"));
    }
    let mut shape = (0..rank).map(|_| from.length()).collect::<Result<Vec<_>, _>>()?;
    shape.reverse();
    Ok(TensorInfo { name, shape, ggml_type: from.u32()?, offset: from.length()? })
}

/// What of a value is kept.
enum Value<'a> {
    Number(String),
    Word(&'a str),
    /// A short array of integers.
    Dims(Vec<usize>),
    Other,
}

fn value<'a>(from: &mut Cursor<'a>, kind: u32, depth: usize) -> Result<Value<'a>, String> {
    Ok(match kind {
        0 => Value::Number(from.u8()?.to_string()),
        1 => Value::Number((from.u8()? as i8).to_string()),
        2 => Value::Number(from.u16()?.to_string()),
        3 => Value::Number((from.u16()? as i16).to_string()),
        4 => Value::Number(from.u32()?.to_string()),
        5 => Value::Number((from.u32()? as i32).to_string()),
        6 => Value::Number(f32::from_bits(from.u32()?).to_string()),
        7 => Value::Number((from.u8()? != 0).to_string()),
        8 => {
            let length = from.length()?;
            match std::str::from_utf8(from.take(length)?) {
                Ok(word) if length <= MAX_WORD_BYTES => Value::Word(word),
                _ => Value::Other,
            }
        }
        9 => array(from, depth)?,
        10 => Value::Number(from.u64()?.to_string()),
        11 => Value::Number((from.u64()? as i64).to_string()),
        12 => Value::Number(f64::from_bits(from.u64()?).to_string()),
        other => return Err(format!("a value of the unknown type {other}")),
    })
}

fn array<'a>(from: &mut Cursor<'a>, depth: usize) -> Result<Value<'a>, String> {
    if depth == MAX_DEPTH {
        return Err(format!("arrays {MAX_DEPTH} deep in each other"));
    }
    let (kind, count) = (from.u32()?, from.length()?);
    let width = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => {
            for _ in 0..count {
                value(from, kind, depth + 1)?;
            }
            return Ok(Value::Other);
        }
    };
    let raw = from.take(count.saturating_mul(width))?;
    if count > MAX_RANK || !matches!(kind, 4 | 5 | 10 | 11) {
        return Ok(Value::Other);
    }
    let number = |b: &[u8]| b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let dims: Option<Vec<usize>> = raw.chunks_exact(width).map(|b| usize::try_from(number(b)).ok()).collect();
    Ok(dims.map_or(Value::Other, Value::Dims))
}
