//! Where a network's weights come from, and what a file's faults are called.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Result};
use kernels::cuda::CudaError;
use weights::{Checkpoint, CheckpointSource, Format, Manifest, RandomWeights, Weights, WeightsError, onnx};

use crate::PoseError;

/// An opened file of either kind.
pub(super) enum File {
    Onnx(onnx::Model),
    Checkpoint(Checkpoint),
}

impl File {
    /// Opens it; `network` stands in messages.
    pub fn open(network: &'static str, path: &Path) -> crate::Result<Self> {
        let fault = |source| PoseError::Weights { network, source };
        let checkpoint = Checkpoint::open(path).map_err(fault)?;
        match checkpoint.format() {
            Format::Onnx => onnx::Model::open(path).map(Self::Onnx).map_err(fault),
            _ => Ok(Self::Checkpoint(checkpoint)),
        }
    }

    /// A safetensors file in memory; `label` stands for its path.
    pub fn embedded(network: &'static str, label: &str, bytes: &'static [u8]) -> crate::Result<Self> {
        let checkpoint = Checkpoint::from_bytes(label, bytes);
        checkpoint.map(Self::Checkpoint).map_err(|source| PoseError::Weights { network, source })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Onnx(model) => model.weights.path(),
            Self::Checkpoint(checkpoint) => checkpoint.path(),
        }
    }

    /// What went wrong while this file was made a network.
    pub fn error(&self, network: &'static str, error: candle_core::Error) -> PoseError {
        match WeightsError::from_candle(error) {
            Ok(source) => PoseError::Weights { network, source },
            Err(error) if CudaError::inside(&error).is_some() => PoseError::of_network(error),
            Err(error) => {
                let problem = error.to_string().lines().next().unwrap_or_default().to_owned();
                PoseError::OtherNetwork { path: self.path().to_owned(), network, problem }
            }
        }
    }
}

/// Two pieces of a tensor's name: the part of the network that it belongs to.
fn module(name: &str) -> (&str, &str) {
    let mut pieces = name.split('.');
    (pieces.next().unwrap_or(""), pieces.next().unwrap_or(""))
}

/// A view of a checkpoint that has everything a network needs, and nothing else in the network's modules.
///
/// Beside them training leaves averages of weights (`ema_…`), the teacher of a distillation, losses and constants of the
/// preprocessing, and in them counters; those are passed over.
pub(super) fn checked(checkpoint: &Checkpoint, manifest: &Manifest, network: &str, device: &Device) -> Result<Weights> {
    let modules: BTreeSet<_> = manifest.tensors().map(|tensor| module(&tensor.name)).collect();
    let left_over = |name: &str| name.ends_with("num_batches_tracked") || !modules.contains(&module(name));
    manifest.check(checkpoint, network, left_over).map_err(WeightsError::into_candle)?;
    Ok(Weights::new(Arc::new(CheckpointSource(checkpoint.clone())), device.clone(), None))
}

/// A view of random weights.
pub(super) fn random(source: RandomWeights) -> Weights {
    Weights::new(Arc::new(source), Device::Cpu, Some(candle_core::DType::F32))
}

/// Reads sizes off shapes.
pub(super) struct Detect<'f, F> {
    network: &'static str,
    shape: &'f F,
}

impl<'a, 'f, F: Fn(&str) -> Option<&'a [usize]>> Detect<'f, F> {
    pub fn new(network: &'static str, shape: &'f F) -> Self {
        Self { network, shape }
    }

    /// The shape of a tensor.
    pub fn dims(&self, name: &str) -> Result<&'a [usize]> {
        let Self { network, shape } = self;
        match shape(name) {
            Some(dims) if !dims.is_empty() => Ok(dims),
            _ => candle_core::bail!("no {network}: tensor {name} is missing"),
        }
    }

    /// The first side of a tensor.
    pub fn first(&self, name: &str) -> Result<usize> {
        Ok(self.dims(name)?.first().copied().unwrap_or(0))
    }
}

/// How many numbered blocks stand under a name; 65 for more than 64.
pub(super) fn count_blocks<'a>(shape: &impl Fn(&str) -> Option<&'a [usize]>, name: &str) -> usize {
    (0..65).take_while(|n| shape(&format!("{name}.{n}.conv1.conv.weight")).is_some()).count()
}
