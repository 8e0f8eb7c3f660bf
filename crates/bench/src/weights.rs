//! Random weights in any form, of which one block serves as all.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use kernels::quant::{Target, encode};
use weights::convert::Form;
use weights::{Matrix, MatrixForm, RandomWeights, Resident, TensorSource, WeightSource, Weights};

/// Random matrices in the form that most matrices of a file have.
struct Held {
    random: RandomWeights,
    form: Form,
}

impl TensorSource for Held {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.random.tensor(name, shape, dtype, device)
    }

    fn matrix(&self, name: &str, shape: &[usize], _dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        match (self.form.target(), shape) {
            (Some(target), &[rows, columns]) => {
                let values = self.random.tensor(name, shape, Some(DType::F32), &Device::Cpu)?.flatten_all()?;
                // What is no whole number of blocks or groups stays as files leave it.
                let values = values.to_vec1::<f32>()?;
                let plain = Target { rotation: None, ..target };
                let found =
                    encode(&values, [rows, columns], target).or_else(|_| encode(&values, [rows, columns], plain));
                match found {
                    Ok(matrix) => Ok(matrix.into()),
                    Err(_) => self.random.matrix(name, shape, Some(DType::BF16), device),
                }
            }
            _ => self.random.matrix(name, shape, self.form.float(), device),
        }
    }

    fn rows(&self, name: &str, shape: &[usize], ids: &[u32], _: Option<DType>, device: &Device) -> Result<Tensor> {
        // Of a table with a billion numbers only what is looked at is made.
        let width = shape.last().copied().unwrap_or(1);
        self.random.tensor(name, &[ids.len(), width], Some(DType::F32), device)
    }

    fn form(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        match self.form.encoding() {
            Some(encoding) => Ok(MatrixForm::Made(encoding)),
            None => self.random.form(name, shape, dtype),
        }
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
    let held = Held { random: RandomWeights::new(1), form };
    Arc::new(OneForAll { all: Resident::new(Arc::new(held), Device::Cpu, None), group })
}
