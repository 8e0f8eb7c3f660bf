//! From unpickled values to the tensors of a state dict.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use super::values::{Id, Unpickled, Value};

/// A state dict may stand alone or under customary keys, the first of which counts.
const KEYS: [&str; 5] = ["state_dict", "model_state", "model_state_dict", "model", "module"];
/// How deep under them: `{"model": {"module": {…}}}` has been seen.
const MAX_DEPTH: usize = 4;
/// Longer names are no names.
const MAX_NAME_BYTES: usize = 1024;
const MAX_RANK: usize = 16;

/// A tensor of a state dict: a part of a storage.
pub(super) struct RawTensor<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    /// The storage's key.
    pub storage: &'a str,
    /// In elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// The tensors of the state dict in what a program left.
pub(super) fn tensors<'a>(file: &Unpickled<'a>) -> Result<Vec<RawTensor<'a>>, String> {
    let Some(dict) = find(file, file.root, 0, &mut BTreeSet::new()) else {
        return Err(match file.get(file.root) {
            Value::Object(class) | Value::Tensor(class) => {
                format!("it holds {}, not a state dict of tensors; save that", class_name(file, *class))
            }
            _ => match first_object(file) {
                Some((name, class)) => format!(
                    "it holds no state dict of tensors; {name} in it is made by {}, which is not read",
                    class_name(file, class)
                ),
                None => "it holds no state dict of tensors".into(),
            },
        });
    };
    // What is set twice counts as it was set last.
    let mut named: BTreeMap<&'a str, Id> = BTreeMap::new();
    for (key, value) in file.items(dict).into_iter().flatten() {
        let Some(name) = file.text(key) else { continue };
        if name.len() > MAX_NAME_BYTES {
            return Err(format!("a tensor's name in it has {} bytes; {MAX_NAME_BYTES} are allowed", name.len()));
        }
        named.insert(name, value);
    }
    let mut out = Vec::new();
    for (name, value) in named {
        match file.get(value) {
            Value::Tensor(arguments) => {
                out.push(tensor(file, name, *arguments).map_err(|problem| format!("tensor {name} {problem}"))?);
            }
            // Modules may keep state of their own that is no tensor.
            Value::Object(class) if !name.ends_with("_extra_state") => {
                let class = class_name(file, *class);
                return Err(format!("{name} is made by {class}; only plain tensors are read, and nothing is run"));
            }
            _ => {}
        }
    }
    Ok(out)
}

/// The dictionary of tensors under the customary keys, else the one at hand if it has any.
fn find(file: &Unpickled, dict: Id, depth: usize, seen: &mut BTreeSet<Id>) -> Option<Id> {
    // Once each: dictionaries may hold themselves.
    if !matches!(file.get(dict), Value::Dict { .. }) || !seen.insert(dict) {
        return None;
    }
    if depth < MAX_DEPTH {
        let mut under = [None; KEYS.len()];
        for (key, value) in file.items(dict)? {
            let key = file.text(key).and_then(|key| KEYS.iter().position(|k| *k == key));
            if let Some(at) = key {
                under[at] = Some(value);
            }
        }
        let found = under.into_iter().flatten().find_map(|value| find(file, value, depth + 1, seen));
        if found.is_some() {
            return found;
        }
    }
    let has_tensor = file.items(dict)?.any(|(_, value)| matches!(file.get(value), Value::Tensor(_)));
    has_tensor.then_some(dict)
}

/// The first value of the outermost dictionary that a class would have made.
fn first_object<'a>(file: &Unpickled<'a>) -> Option<(&'a str, Id)> {
    file.items(file.root)?.find_map(|(key, value)| match file.get(value) {
        Value::Object(class) => Some((file.text(key)?, *class)),
        _ => None,
    })
}

fn class_name(file: &Unpickled, class: Id) -> String {
    match file.get(class) {
        Value::Global(module, name) => {
            let name = format!("{module}.{name}");
            name.chars().take(100).collect()
        }
        _ => "something without a name".into(),
    }
}

/// Reads `(storage, offset, shape, strides, …)`, in the third version with the type behind.
fn tensor<'a>(file: &Unpickled<'a>, name: &'a str, arguments: Id) -> Result<RawTensor<'a>, String> {
    let malformed = || "is malformed".to_owned();
    let arguments = file.tuple(arguments).ok_or_else(malformed)?;
    let [storage, offset, shape, strides, ..] = *arguments else { return Err(malformed()) };
    let (class, storage) = storage_of(file, storage).ok_or_else(malformed)?;
    let dtype = match arguments.get(6).map(|id| file.get(*id)) {
        Some(Value::Global("torch", name)) => torch_dtype(name).ok_or_else(|| format!("has the type {name:.40}")),
        _ => storage_dtype(class).ok_or_else(|| format!("has the type {class:.40}")),
    }?;
    let Value::Int(offset) = file.get(offset) else { return Err(malformed()) };
    let (shape, strides) = (sizes(file, shape)?, sizes(file, strides)?);
    if shape.len() != strides.len() {
        return Err(malformed());
    }
    let offset = usize::try_from(*offset).map_err(|_| malformed())?;
    Ok(RawTensor { name, dtype, storage, offset, shape, strides })
}

fn sizes(file: &Unpickled, id: Id) -> Result<Vec<usize>, String> {
    let items = match file.get(id) {
        Value::Tuple(items) => items.as_ref(),
        Value::List(items) => items.as_slice(),
        _ => return Err("is malformed".into()),
    };
    if items.len() > MAX_RANK {
        return Err(format!("has {} dimensions; {MAX_RANK} are allowed", items.len()));
    }
    let size = |id: &Id| match file.get(*id) {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    items.iter().map(size).collect::<Option<_>>().ok_or_else(|| "is malformed".into())
}

/// Class and key of `("storage", class, key, location, elements)`.
fn storage_of<'a>(file: &Unpickled<'a>, id: Id) -> Option<(&'a str, &'a str)> {
    let Value::Persistent(id) = file.get(id) else { return None };
    storage_id(file, *id)
}

fn storage_id<'a>(file: &Unpickled<'a>, id: Id) -> Option<(&'a str, &'a str)> {
    let [kind, class, key, ..] = *file.tuple(id)? else { return None };
    let (Some("storage"), Value::Global(_, class)) = (file.text(kind), file.get(class)) else { return None };
    Some((class, file.text(key)?))
}

/// Bytes an element of each storage that the object mentions, by the storage's key.
pub(super) fn storage_widths<'a>(file: &Unpickled<'a>) -> BTreeMap<&'a str, usize> {
    let storage = |value: &Value<'a>| match value {
        Value::Persistent(id) => storage_id(file, *id),
        _ => None,
    };
    let width = |(class, key): (&str, &'a str)| Some((key, storage_dtype(class)?.bitsize() / 8));
    file.values().filter_map(storage).filter_map(width).collect()
}

fn storage_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "DoubleStorage" => Dtype::F64,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" | "UntypedStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        "ComplexFloatStorage" => Dtype::C64,
        "Float8_e4m3fnStorage" => Dtype::F8_E4M3,
        "Float8_e5m2Storage" => Dtype::F8_E5M2,
        _ => return None,
    })
}

fn torch_dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "float64" => Dtype::F64,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "bool" => Dtype::BOOL,
        "complex64" => Dtype::C64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e8m0fnu" => Dtype::F8_E8M0,
        _ => return None,
    })
}
