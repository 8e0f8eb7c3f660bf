//! Random weights in any form, of which one block serves as all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};
use kernels::quant::{Encoding, QuantMatrix, Scales, Target, encode};
use weights::convert::Form;
use weights::{Matrix, MatrixForm, RandomWeights, Resident, TensorSource, WeightSource, Weights};

/// Matrices of another source in the form that most matrices of a file have.
pub(crate) struct Held {
    pub source: Arc<dyn TensorSource>,
    pub form: Form,
}

impl TensorSource for Held {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.source.tensor(name, shape, dtype, device)
    }

    fn matrix(&self, name: &str, shape: &[usize], _dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        match (self.form.target(), shape) {
            (Some(target), &[rows, columns]) => {
                let values = self.source.tensor(name, shape, Some(DType::F32), &Device::Cpu)?.flatten_all()?;
                // What is no whole number of blocks or groups stays as files leave it.
                match in_form(&values.to_vec1::<f32>()?, [rows, columns], target) {
                    Some(matrix) => Ok(matrix.into()),
                    None => self.source.matrix(name, shape, Some(DType::BF16), device),
                }
            }
            _ => self.source.matrix(name, shape, self.form.float(), device),
        }
    }

    fn rows(&self, name: &str, shape: &[usize], ids: &[u32], _: Option<DType>, device: &Device) -> Result<Tensor> {
        // Of a table with a billion numbers only what is looked at is made.
        let width = shape.last().copied().unwrap_or(1);
        self.source.tensor(name, &[ids.len(), width], Some(DType::F32), device)
    }

    fn form(&self, name: &str, shape: &[usize], _: Option<DType>) -> Result<MatrixForm> {
        // Whoever makes room for it must know what it becomes.
        match (self.form.encoding(), shape) {
            (Some(encoding), &[_, columns]) if encoding.row_bytes(columns).is_some() => Ok(MatrixForm::Made(encoding)),
            (Some(_), _) => self.source.form(name, shape, Some(DType::BF16)),
            (None, _) => self.source.form(name, shape, self.form.float()),
        }
    }
}

/// In this form, or without its rotation where that does not fit.
fn in_form(values: &[f32], shape: [usize; 2], target: Target) -> Option<QuantMatrix> {
    let plain = Target { rotation: None, ..target };
    encode(values, shape, target).or_else(|_| encode(values, shape, plain)).ok()
}

/// Random weights for a GPU, of which whole networks of any size are there at once, in no time: all blocks are the first, and
/// only so many rows of a matrix are made; the others are these again.
pub(crate) struct Repeated {
    random: RandomWeights,
    form: Form,
    made: Mutex<HashMap<String, QuantMatrix>>,
}

/// A prime, so that tiles of products do not see the same rows in the same places.
pub(crate) const ROWS: usize = 257;

impl Repeated {
    pub fn new(form: Form) -> Self {
        Self { random: RandomWeights::new(1), form, made: Mutex::default() }
    }

    /// What matrices are held in.
    fn encoding(&self) -> Encoding {
        self.form.encoding().unwrap_or(match self.form.float() {
            Some(DType::F16) => Encoding::F16,
            Some(DType::F32) => Encoding::F32,
            _ => Encoding::BF16,
        })
    }

    /// A matrix `[rows, columns]`.
    ///
    /// # Errors
    /// The form does not have such matrices.
    pub fn matrix_of(&self, name: &str, [rows, columns]: [usize; 2]) -> Result<QuantMatrix> {
        let name = of_first_block(name);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(matrix) = made.get(&name).filter(|m| m.shape() == [rows, columns]) {
            return Ok(matrix.clone());
        }
        let few = [rows.min(ROWS), columns];
        let values = self.random.tensor(&name, &few, Some(DType::F32), &Device::Cpu)?.flatten_all()?.to_vec1()?;
        let first = match self.form.target() {
            Some(target) => in_form(&values, few, target),
            None => Some(floats(&values, few, self.encoding())?),
        };
        let Some(first) = first else {
            candle_core::bail!("a matrix [{rows}, {columns}] cannot be held in {}", self.form.name());
        };
        let scales = match first.scales() {
            Scales::Rows(values) => Scales::Rows(values.iter().copied().cycle().take(rows).collect()),
            Scales::Blocks { .. } => candle_core::bail!("scales of blocks are not repeated; take another form"),
            other => other.clone(),
        };
        let row_bytes = first.bytes().len() / few[0].max(1);
        let mut bytes = first.bytes().repeat(rows.div_ceil(few[0].max(1)));
        bytes.truncate(rows * row_bytes);
        let matrix = QuantMatrix::new(first.encoding(), [rows, columns], bytes.into(), scales, first.rotation())
            .map_err(|e| e.into_candle())?;
        made.insert(name, matrix.clone());
        Ok(matrix)
    }
}

fn floats(values: &[f32], shape: [usize; 2], encoding: Encoding) -> Result<QuantMatrix> {
    let bytes: Vec<u8> = match encoding {
        Encoding::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Encoding::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
    };
    QuantMatrix::new(encoding, shape, bytes.into(), Scales::None, None).map_err(|e| e.into_candle())
}

/// `blocks.7.ffn.0.weight` → `blocks.0.ffn.0.weight`.
fn of_first_block(name: &str) -> String {
    match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((_, rest)) => format!("blocks.0.{rest}"),
        None => name.to_owned(),
    }
}

impl TensorSource for Repeated {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.random.tensor(name, shape, dtype, device)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        match shape {
            &[rows, columns] => Ok(self.matrix_of(name, [rows, columns])?.into()),
            _ => self.random.matrix(name, shape, dtype, device),
        }
    }

    fn form(&self, _: &str, _: &[usize], _: Option<DType>) -> Result<MatrixForm> {
        Ok(MatrixForm::Made(self.encoding()))
    }
}

/// Every block is the first. A block of the models that are measured is larger than most caches, so reading weights costs what it
/// does in earnest, while memory and the time to make them stay small.
struct OneForAll {
    all: Resident,
    group: &'static str,
}

impl WeightSource for OneForAll {
    fn group(&self, group: &str) -> Result<Weights> {
        let repeated = group.strip_prefix(self.group).is_some_and(|rest| rest.starts_with('.'));
        if repeated { self.all.group(&format!("{}.0", self.group)) } else { self.all.group(group) }
    }
}

/// Weights of a network whose blocks are called `group.0`, `group.1`, …, with matrices in a form.
pub(crate) fn one_for_all(group: &'static str, form: Form) -> Arc<dyn WeightSource> {
    let held = Held { source: Arc::new(RandomWeights::new(1)), form };
    Arc::new(OneForAll { all: Resident::new(Arc::new(held), Device::Cpu, None), group })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_rows_are_one_matrix_in_every_form() {
        for name in ["bf16", "f16", "fp8", "int8", "int8-rotated", "q8_0", "q4_k_m"] {
            let source = Repeated::new(name.parse().unwrap());
            let shape = [2 * ROWS + 3, 512];
            let matrix = source.matrix_of("blocks.3.ffn.0.weight", shape).unwrap();
            assert_eq!((matrix.shape(), matrix.encoding()), (shape, source.encoding()), "{name}");
            let row_bytes = matrix.bytes().len() / shape[0];
            assert!(matrix.bytes()[..3 * row_bytes] == matrix.bytes()[2 * ROWS * row_bytes..], "{name}");
            assert!(matrix.bytes()[..row_bytes] != matrix.bytes()[row_bytes..2 * row_bytes], "{name}");
            // All blocks are the first.
            let other = source.matrix_of("blocks.0.ffn.0.weight", shape).unwrap();
            assert_eq!(other.bytes().as_ptr(), matrix.bytes().as_ptr());
        }
    }
}
