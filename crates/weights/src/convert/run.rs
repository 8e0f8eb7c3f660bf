//! Carrying a plan out.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use candle_core::DType;
use half::{bf16, f16};
use kernels::quant::{QuantMatrix, Scales, Scaling, Target, encode};
use sha2::{Digest, Sha256};

use super::journal::Journal;
use super::plan::{Action, Step};
use super::{ConvertError, ConvertPlan};
use crate::hub::hexadecimal;
use crate::{Checkpoint, Entry, WeightsError};

/// How far a conversion is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvertProgress {
    /// Tensors of the input that are done.
    pub done: usize,
    /// All of them.
    pub total: usize,
    /// Bytes of the output that are written.
    pub bytes: u64,
    /// All of them.
    pub total_bytes: u64,
}

/// A finished conversion.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Converted {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal, as `sha256sum` prints it.
    pub sha256: String,
    /// Tensors in it.
    pub tensors: usize,
    /// Matrices that changed their form.
    pub matrices: usize,
    /// Bytes that an earlier, interrupted conversion had written.
    pub resumed_bytes: u64,
}

/// Writes `checkpoint`, of which the plan was made, into `output`. `go_on` is told after every tensor how far it is and stops
/// the conversion by saying false; what was written stays for the next one.
///
/// # Errors
/// The output exists (unless `force`) or is a file of the input, the disk is too small, a value cannot be held, the input is
/// damaged.
pub fn convert(
    checkpoint: &Checkpoint,
    plan: &ConvertPlan,
    output: &Path,
    force: bool,
    go_on: &mut dyn FnMut(ConvertProgress) -> bool,
) -> Result<Converted, ConvertError> {
    if output.exists() {
        let same = |a: &Path| fs::canonicalize(a).ok().zip(fs::canonicalize(output).ok()).is_some_and(|(a, b)| a == b);
        if checkpoint.files().any(same) {
            return Err(ConvertError::SameFile { path: output.to_owned() });
        }
        if !force {
            return Err(ConvertError::Exists { path: output.to_owned() });
        }
    }
    let mut journal = Journal::open(output, &key(checkpoint, plan))?;
    let resumed_bytes = journal.progress().bytes;
    let folder = output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let needed = plan.bytes - resumed_bytes.min(plan.bytes);
    if let Ok(available) = fs4::available_space(folder)
        && available < needed
    {
        let path = output.to_owned();
        if resumed_bytes == 0 {
            journal.discard();
        }
        return Err(ConvertError::Space { path, needed, available });
    }
    if resumed_bytes == 0 {
        journal.write(&plan.header)?;
    }
    let total = plan.steps.len();
    for (i, step) in plan.steps.iter().enumerate().skip(journal.progress().steps) {
        let mut writer = Writer { checkpoint, plan, journal: &mut journal };
        match writer.step(step) {
            Ok(()) => journal.step()?,
            // The file is not of this conversion any more, and never will be.
            Err(error @ (ConvertError::Value { .. } | ConvertError::Weights(_))) => {
                journal.discard();
                return Err(error);
            }
            Err(error) => {
                // Of a disk that is full, the whole tensors are worth keeping.
                journal.keep();
                return Err(error);
            }
        }
        let bytes = journal.progress().bytes;
        if !go_on(ConvertProgress { done: i + 1, total, bytes, total_bytes: plan.bytes }) {
            journal.sync()?;
            return Err(ConvertError::Cancelled { done: i + 1, total, part: journal.part().to_owned() });
        }
    }
    let sha256 = hash(journal.part())?;
    journal.finish(output)?;
    let (path, bytes) = (output.to_owned(), plan.bytes);
    Ok(Converted { path, bytes, sha256, tensors: plan.tensors, matrices: plan.matrices, resumed_bytes })
}

/// Tells conversions apart: what is written before the tensors, and which input they are of.
fn key(checkpoint: &Checkpoint, plan: &ConvertPlan) -> String {
    let mut hasher = Sha256::new();
    hasher.update(&plan.header);
    hasher.update(format!("{:?}", plan.form()));
    for path in checkpoint.files() {
        let info = fs::metadata(path).ok();
        let changed = info.as_ref().and_then(|i| i.modified().ok());
        hasher.update(format!("{}{:?}{changed:?}", path.display(), info.map(|i| i.len())));
    }
    hexadecimal(&hasher.finalize())
}

/// SHA-256 of a whole file.
fn hash(path: &Path) -> Result<String, ConvertError> {
    let failed = |source| ConvertError::Write { path: path.to_owned(), source };
    let mut file = fs::File::open(path).map_err(failed)?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hexadecimal(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

struct Writer<'a> {
    checkpoint: &'a Checkpoint,
    plan: &'a ConvertPlan,
    journal: &'a mut Journal,
}

impl Writer<'_> {
    fn step(&mut self, step: &Step) -> Result<(), ConvertError> {
        match &step.action {
            Action::Text(text) => self.bytes(text)?,
            Action::Copy => {
                for piece in self.checkpoint.stored_pieces(&step.source) {
                    self.bytes(&piece)?;
                }
            }
            Action::Round(DType::F16) => {
                let mut seen = 0;
                self.rounded(step, |value, out| {
                    let half = f16::from_f32(value);
                    seen += 1;
                    out.extend(half.to_le_bytes());
                    if half.is_finite() {
                        Ok(())
                    } else {
                        Err(format!("element {} is {value:e}, f16 ends at 65504", seen - 1))
                    }
                })?;
            }
            Action::Round(DType::BF16) => self.rounded(step, |value, out| {
                let half = bf16::from_f32(value);
                out.extend(half.to_le_bytes());
                if half.is_finite() { Ok(()) } else { Err(format!("a value is {value:e}, bf16 ends at 3.39e38")) }
            })?,
            Action::Round(_) => self.rounded(step, |value, out| {
                out.extend(value.to_le_bytes());
                Ok(())
            })?,
            Action::Encode(target) => return self.encoded(step, *target),
        }
        self.pad(step.outputs.iter().map(|o| o.bytes).sum())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.journal.write(bytes)
    }

    fn pad(&mut self, length: u64) -> Result<(), ConvertError> {
        let rest = length.next_multiple_of(self.plan.alignment) - length;
        self.journal.write(&vec![0; rest as usize])
    }

    fn rounded(
        &mut self,
        step: &Step,
        mut round: impl FnMut(f32, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<(), ConvertError> {
        let mut out = Vec::new();
        let (checkpoint, form) = (self.checkpoint, self.plan.form().name());
        checkpoint.for_each_tile(&step.source, |tile| {
            out.clear();
            for value in tile {
                round(*value, &mut out).map_err(|problem| value_error(checkpoint, &step.source, form, problem))?;
            }
            self.journal.write(&out)
        })
    }

    fn encoded(&mut self, step: &Step, target: Target) -> Result<(), ConvertError> {
        let matrix = self.matrix(&step.source, target)?;
        self.bytes(matrix.bytes())?;
        self.pad(matrix.bytes().len() as u64)?;
        let scales: &[f32] = match matrix.scales() {
            Scales::None => &[],
            Scales::Matrix(scale) => std::slice::from_ref(scale),
            Scales::Rows(values) | Scales::Blocks { values, .. } => values,
        };
        let raw: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        if step.outputs.len() > 1 { self.bytes(&raw) } else { Ok(()) }
    }

    /// As it is stored, where that is the target; else encoded anew.
    fn matrix(&self, name: &str, target: Target) -> Result<QuantMatrix, ConvertError> {
        let shape = self.checkpoint.shape(name).unwrap_or_default().to_vec();
        if let Some(stored) = self.checkpoint.matrix(name, &shape)?
            && is_already(&stored, target)
        {
            return Ok(stored);
        }
        let mut values = Vec::with_capacity(self.checkpoint.entry(name).map_or(0, Entry::elements));
        self.checkpoint.for_each_tile(name, |tile| {
            values.extend_from_slice(tile);
            Ok::<_, ConvertError>(())
        })?;
        let &[rows, columns] = shape.as_slice() else {
            return Err(self.value(name, format!("it has the shape {shape:?}, not that of a matrix")));
        };
        encode(&values, [rows, columns], target).map_err(|e| self.value(name, e.to_string()))
    }

    fn value(&self, name: &str, problem: String) -> ConvertError {
        value_error(self.checkpoint, name, self.plan.form().name(), problem)
    }
}

fn value_error(checkpoint: &Checkpoint, name: &str, form: &'static str, problem: String) -> ConvertError {
    ConvertError::Value { path: checkpoint.path().to_owned(), name: name.to_owned(), form, problem }
}

/// Whether a matrix is in the target's form: encoding it again would only lose.
fn is_already(stored: &QuantMatrix, target: Target) -> bool {
    let same_scaling = match (stored.scales(), target.scaling) {
        (Scales::None, Scaling::None) | (Scales::Matrix(_), Scaling::Matrix) | (Scales::Rows(_), Scaling::Rows) => true,
        (Scales::Blocks { side, .. }, Scaling::Blocks(other)) => *side == other,
        _ => false,
    };
    stored.encoding() == target.encoding && stored.rotation() == target.rotation && same_scaling
}

impl From<candle_core::Error> for ConvertError {
    fn from(error: candle_core::Error) -> Self {
        match WeightsError::from_candle(error) {
            Ok(error) => error.into(),
            Err(error) => WeightsError::Damaged { path: PathBuf::new(), problem: error.to_string() }.into(),
        }
    }
}
