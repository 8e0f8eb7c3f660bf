//! What is written: every tensor of the output with its place in the file, decided from the table of the input.

use candle_core::DType;
use kernels::quant::{Encoding, Scaling, Target};
use safetensors::Dtype;

use super::form::{Form, GgufForm, Kind, Names};
use super::{ConvertError, header};
use crate::{Checkpoint, Entry, StoredType};

/// Below this many elements nothing is worth quantising.
const SMALL: usize = 1024;
/// Parts of names of matrices in layers that are tables or small: never quantised.
const KEPT: [&str; 3] = ["embedding", "norm", "modulation"];

/// What is done with one tensor of the input.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    /// Its name in the input.
    pub source: String,
    pub action: Action,
    /// What it becomes, in the order of the file.
    pub outputs: Vec<Output>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// The stored bytes in row-major order.
    Copy,
    /// Floats of another type.
    Round(DType),
    /// Numbers in 8 bits and less, then their scales if they have some.
    Encode(Target),
    /// Bytes that are no tensor of the input.
    Text(Vec<u8>),
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Output {
    pub name: String,
    pub dtype: StoredType,
    pub shape: Vec<usize>,
    pub bytes: u64,
}

impl Output {
    fn plain(name: String, dtype: Dtype, shape: Vec<usize>) -> Self {
        let elements = shape.iter().product::<usize>() as u64;
        Self { name, dtype: StoredType::Plain(dtype), shape, bytes: elements * dtype.bitsize() as u64 / 8 }
    }
}

/// Everything that a conversion does. Reads no tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct ConvertPlan {
    pub(super) form: Form,
    pub(super) steps: Vec<Step>,
    /// What stands before the tensors.
    pub(super) header: Vec<u8>,
    /// Each tensor of a GGUF file begins at a multiple of this.
    pub(super) alignment: u64,
    /// Matrices that change their form.
    pub matrices: usize,
    /// Tensors of the output.
    pub tensors: usize,
    /// Bytes of the output.
    pub bytes: u64,
    /// The most memory in bytes that a tensor takes on its way.
    pub peak_bytes: u64,
}

impl ConvertPlan {
    /// Of a checkpoint under the names that the output shall have; `architecture` is what a GGUF file says of itself
    /// (`wan` for Wan's transformers).
    ///
    /// # Errors
    /// Nothing in it is of the form's kind.
    pub fn new(checkpoint: &Checkpoint, form: Form, architecture: &str) -> Result<Self, ConvertError> {
        let mut entries: Vec<&Entry> = checkpoint.entries().collect();
        entries.sort_by_cached_key(|entry| natural(&entry.name));
        let mut steps: Vec<Step> = Vec::with_capacity(entries.len());
        let mut seen = 0;
        let mut matrices = 0;
        if let Kind::Scaled { target, names: Names { marked: true, .. } } = form.kind {
            let dtype = if target.encoding == Encoding::F8E5M2 { Dtype::F8_E5M2 } else { Dtype::F8_E4M3 };
            let marker = Output { dtype: dtype.into(), ..Output::plain("scaled_fp8".to_owned(), Dtype::U8, vec![0]) };
            steps.push(Step { source: String::new(), action: Action::Text(Vec::new()), outputs: vec![marker] });
        }
        for entry in entries {
            let target = match form.kind {
                Kind::Floats(_) => None,
                Kind::GgufFloats(dtype) if is_layer_matrix(entry) => {
                    matrices += 1;
                    steps.push(rounded(entry, dtype));
                    continue;
                }
                Kind::GgufFloats(_) => None,
                Kind::Scaled { target, .. } => Some(target).filter(|_| is_layer_matrix(entry)),
                Kind::Gguf(gguf) => gguf_target(&gguf, entry, &mut seen),
            };
            // A rotation whose groups do not fill the rows is left out, and the description says so.
            let fits = |target: Target| match (entry.shape.as_slice(), target.rotation) {
                (&[_, columns], Some(group)) if !columns.is_multiple_of(group) => Target { rotation: None, ..target },
                _ => target,
            };
            match (target.map(fits), form.kind) {
                (Some(target), kind) => {
                    matrices += 1;
                    steps.extend(encoded(entry, target, kind));
                }
                (None, Kind::Floats(dtype)) => {
                    matrices += usize::from(entry.is_loadable());
                    steps.push(rounded(entry, dtype));
                }
                (None, _) => steps.push(kept(entry, form.is_gguf())),
            }
        }
        if matrices == 0 {
            return Err(ConvertError::NothingToDo { path: checkpoint.path().to_owned(), form: form.name() });
        }
        let outputs: Vec<&Output> = steps.iter().flat_map(|step| &step.outputs).collect();
        let source = checkpoint.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let note = format!("{form} of {source}, by steadydance {}", env!("CARGO_PKG_VERSION"));
        let (header, alignment) = match form.kind {
            Kind::Gguf(GgufForm { number, .. }) => {
                (header::gguf(&outputs, architecture, number, &note), header::ALIGNMENT)
            }
            Kind::GgufFloats(dtype) => {
                let number = if dtype == DType::BF16 { 32 } else { 1 };
                (header::gguf(&outputs, architecture, number, &note), header::ALIGNMENT)
            }
            _ => (header::safetensors(&outputs, &note), 1),
        };
        let aligned = outputs.iter().map(|o| o.bytes.next_multiple_of(alignment)).sum::<u64>();
        let tensors = outputs.len();
        let widest = |step: &Step| {
            let elements = checkpoint.entry(&step.source).map_or(0, |e| e.elements() as u64);
            match step.action {
                Action::Encode(_) => 4 * elements + step.outputs.iter().map(|o| o.bytes).sum::<u64>(),
                _ => 0,
            }
        };
        let peak_bytes = steps.iter().map(widest).max().unwrap_or(0) + crate::checkpoint::TILE_BYTES;
        let bytes = header.len() as u64 + aligned;
        Ok(Self { form, matrices, tensors, bytes, peak_bytes, alignment, header, steps })
    }

    /// The form.
    pub fn form(&self) -> Form {
        self.form
    }
}

/// Whether a tensor is a matrix of a numbered layer: of a transformer's block, not of what is before or after all of them.
fn is_layer_matrix(entry: &Entry) -> bool {
    entry.is_loadable() && is_layer_matrix_named(&entry.name, &entry.shape)
}

fn is_layer_matrix_named(name: &str, shape: &[usize]) -> bool {
    let numbered = name.split('.').any(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let in_layer = ["blocks.", "layers.", "transformer.", "layer."].iter().any(|p| name.contains(p));
    shape.len() == 2
        && shape.iter().product::<usize>() > SMALL
        && name.ends_with(".weight")
        && numbered
        && in_layer
        && !KEPT.iter().any(|part| name.contains(part))
}

impl Form {
    /// Bytes of a matrix in this form, scales included; `None` where a conversion would leave it as it is. Without a file:
    /// `name` is canonical.
    pub fn matrix_bytes(self, name: &str, shape: &[usize]) -> Option<u64> {
        let elements = shape.iter().product::<usize>() as u64;
        let in_encoding = |encoding: Encoding| match *shape {
            [rows, columns] => encoding.row_bytes(columns).map(|bytes| (bytes * rows) as u64),
            _ => None,
        };
        match self.kind {
            Kind::Floats(dtype) => Some(elements * dtype.size_in_bytes() as u64),
            _ if !is_layer_matrix_named(name, shape) => None,
            Kind::GgufFloats(dtype) => Some(elements * dtype.size_in_bytes() as u64),
            Kind::Scaled { target, .. } => {
                let scales = match (target.scaling, shape) {
                    (Scaling::Rows, [rows, _]) => *rows,
                    (Scaling::Blocks(side), [rows, columns]) => rows.div_ceil(side) * columns.div_ceil(side),
                    _ => 1,
                };
                Some(in_encoding(target.encoding)? + 4 * scales as u64)
            }
            Kind::Gguf(form) => {
                // A conversion counts values as they come: those of self- and cross-attention, block by block.
                let block = name.split('.').find_map(|part| part.parse::<usize>().ok()).unwrap_or(0);
                let mut seen = 2 * block + usize::from(name.contains("cross_attn"));
                in_encoding(form.encoding(name, &mut seen))
            }
        }
    }
}

/// The block encoding of an entry; `None` where it stays as it is, rows that are no whole blocks among them.
fn gguf_target(form: &GgufForm, entry: &Entry, seen: &mut usize) -> Option<Target> {
    let &[_, columns] = entry.shape.as_slice() else { return None };
    let encoding = is_layer_matrix(entry).then(|| form.encoding(&entry.name, seen))?;
    encoding.row_bytes(columns).map(|_| Target::from(encoding))
}

fn rounded(entry: &Entry, dtype: DType) -> Step {
    let (name, shape) = (entry.name.clone(), entry.shape.clone());
    let action = match entry.dtype {
        _ if !entry.is_loadable() => return kept(entry, false),
        StoredType::Plain(stored) if safetensors_dtype(dtype) == stored => Action::Copy,
        _ => Action::Round(dtype),
    };
    Step { source: name.clone(), action, outputs: vec![Output::plain(name, safetensors_dtype(dtype), shape)] }
}

/// As stored; what is quantised and cannot be kept so becomes f32.
fn kept(entry: &Entry, gguf: bool) -> Step {
    let name = entry.name.clone();
    // GGUF has no dimensionless tensors.
    let shape = if gguf && entry.shape.is_empty() { vec![1] } else { entry.shape.clone() };
    let (action, dtype) = match entry.dtype {
        StoredType::Plain(Dtype::F64) if gguf => (Action::Round(DType::F32), Dtype::F32),
        StoredType::Plain(dtype) => (Action::Copy, dtype),
        StoredType::Quantised(_) => (Action::Round(DType::F32), Dtype::F32),
    };
    Step { source: name.clone(), action, outputs: vec![Output::plain(name, dtype, shape)] }
}

/// The steps of a matrix that is quantised; its description, if there is one, is one of its own.
fn encoded(entry: &Entry, target: Target, kind: Kind) -> Vec<Step> {
    let (rows, columns) = (entry.shape[0], entry.shape[1]);
    let bytes = target.encoding.row_bytes(columns).unwrap_or(0) as u64 * rows as u64;
    let dtype = match target.encoding {
        Encoding::I8 => StoredType::Plain(Dtype::I8),
        encoding => StoredType::Quantised(encoding),
    };
    let Kind::Scaled { names, .. } = kind else {
        let output = Output { name: entry.name.clone(), dtype, shape: entry.shape.clone(), bytes };
        return vec![Step { source: entry.name.clone(), action: Action::Encode(target), outputs: vec![output] }];
    };
    let layer = entry.name.strip_suffix("weight").unwrap_or(&entry.name);
    let scale_shape = match target.scaling {
        Scaling::Rows => vec![rows, 1],
        Scaling::Blocks(side) => vec![rows.div_ceil(side), columns.div_ceil(side)],
        _ => vec![],
    };
    let outputs = vec![
        Output { name: format!("{layer}{}", names.weight), dtype, shape: entry.shape.clone(), bytes },
        Output::plain(format!("{layer}{}", names.scale), Dtype::F32, scale_shape),
    ];
    let mut steps = vec![Step { source: entry.name.clone(), action: Action::Encode(target), outputs }];
    if names.described {
        let text = match target.rotation {
            Some(group) => format!(r#"{{"format":"int8_tensorwise","convrot":true,"convrot_groupsize":{group}}}"#),
            None => r#"{"format":"int8_tensorwise"}"#.to_owned(),
        };
        let output = Output::plain(format!("{layer}comfy_quant"), Dtype::U8, vec![text.len()]);
        steps.push(Step { source: String::new(), action: Action::Text(text.into_bytes()), outputs: vec![output] });
    }
    steps
}

fn safetensors_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => Dtype::F32,
    }
}

/// Sorts numbers in names by their values, so that layer 2 comes before layer 10.
fn natural(name: &str) -> Vec<(u64, String)> {
    let piece = |part: &str| (part.parse::<u64>().map_or(u64::MAX, |n| n), part.to_owned());
    name.split('.').map(piece).collect()
}
