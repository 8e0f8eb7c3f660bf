//! What a network asks for, recorded without memory, and the comparison with what a checkpoint has.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};
use kernels::linear::Matrix;

use crate::error::first_ten;
use crate::source::float_encoding;
use crate::{Checkpoint, MatrixForm, TensorSource, Weights, WeightsError};

/// One tensor that a network needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Canonical name.
    pub name: String,
    /// Shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// True for the large matrices that may be held in 16 bits or less; false for what is always f32.
    pub matrix: bool,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All tensors that a network needs, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    tensors: BTreeMap<String, TensorSpec>,
}

impl Manifest {
    /// Runs a network's constructor against a recorder: every tensor it asks for is noted, and it is handed a
    /// zero that is only *viewed* in the right shape, so a 16-billion-parameter network costs no memory.
    ///
    /// # Errors
    /// Whatever the constructor returns.
    pub fn record<T>(build: impl FnOnce(&Weights) -> Result<T>) -> Result<Self> {
        let recorder = Arc::new(Recorder::default());
        build(&Weights::new(recorder.clone(), Device::Cpu, None))?;
        let tensors = recorder.seen.lock().map(|s| s.clone()).unwrap_or_default();
        Ok(Self { tensors })
    }

    /// The tensors, in the order of their names.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorSpec> {
        self.tensors.values()
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&TensorSpec> {
        self.tensors.get(name)
    }

    /// Number of parameters.
    pub fn parameters(&self) -> u64 {
        self.tensors.values().map(|t| t.elements() as u64).sum()
    }

    /// Bytes when matrices are held as `dtype` and everything else as f32.
    pub fn bytes(&self, dtype: DType) -> u64 {
        let width = |matrix: bool| if matrix { dtype.size_in_bytes() } else { 4 };
        self.tensors.values().map(|t| (t.elements() * width(t.matrix)) as u64).sum()
    }

    /// The part of the manifest whose names begin with `prefix`.
    pub fn under(&self, prefix: &str) -> Manifest {
        let keep =
            |(name, spec): (&String, &TensorSpec)| name.starts_with(prefix).then(|| (name.clone(), spec.clone()));
        Manifest { tensors: self.tensors.iter().filter_map(keep).collect() }
    }

    /// Compares with a checkpoint (under canonical names). `ignore` says which extra tensors are no deviation.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] that names the first ten missing, misshapen and unexpected tensors.
    pub fn check(
        &self,
        checkpoint: &Checkpoint,
        network: &str,
        ignore: impl Fn(&str) -> bool,
    ) -> std::result::Result<(), WeightsError> {
        let mut missing = Vec::new();
        let mut misshapen = Vec::new();
        let mut unusable = Vec::new();
        for spec in self.tensors.values() {
            let Some(entry) = checkpoint.entry(&spec.name) else {
                missing.push(spec.name.clone());
                continue;
            };
            if !entry.fits(&spec.shape) {
                misshapen.push(format!("{} is {:?}, needs {:?}", spec.name, entry.shape, spec.shape));
            }
            if !entry.is_loadable() {
                unusable.push(format!("{} as {}", entry.name, entry.dtype));
            }
        }
        let unexpected: Vec<String> = checkpoint
            .entries()
            .map(|e| e.name.clone())
            .filter(|n| !self.tensors.contains_key(n) && !ignore(n))
            .collect();
        self.verdict(
            checkpoint.path(),
            network,
            &[
                ("missing", missing),
                ("of wrong shape", misshapen),
                ("of a type that cannot be computed with", unusable),
                ("unexpected", unexpected),
            ],
        )
    }

    fn verdict(
        &self,
        path: &Path,
        network: &str,
        lists: &[(&str, Vec<String>)],
    ) -> std::result::Result<(), WeightsError> {
        let mut parts = Vec::new();
        for (what, names) in lists {
            if names.is_empty() {
                continue;
            }
            parts.push(format!("{} {what} ({})", names.len(), first_ten(names)));
        }
        if parts.is_empty() {
            return Ok(());
        }
        let summary = format!("of the {} tensors it needs: {}", self.tensors.len(), parts.join("; "));
        Err(WeightsError::Mismatch { path: path.to_owned(), network: network.to_owned(), summary })
    }
}

#[derive(Default)]
struct Recorder {
    seen: Mutex<BTreeMap<String, TensorSpec>>,
}

impl Recorder {
    fn record(&self, name: &str, shape: &[usize], matrix: bool) {
        let spec = TensorSpec { name: name.to_owned(), shape: shape.to_vec(), matrix };
        if let Ok(mut seen) = self.seen.lock() {
            seen.insert(name.to_owned(), spec);
        }
    }
}

impl TensorSource for Recorder {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.record(name, shape, false);
        Tensor::zeros((), dtype.unwrap_or(DType::BF16), device)?.broadcast_as(shape)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        self.record(name, shape, true);
        Ok(Tensor::zeros((), dtype.unwrap_or(DType::BF16), device)?.broadcast_as(shape)?.into())
    }

    fn form(&self, _name: &str, _shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        Ok(MatrixForm::Made(float_encoding(dtype.unwrap_or(DType::BF16))))
    }
}
