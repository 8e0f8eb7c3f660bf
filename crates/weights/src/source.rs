//! Where tensors come from, one by one or a block at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};
use kernels::Compute;
use kernels::cuda::{GpuMatrix, GpuTensor};
use kernels::linear::Matrix;
use kernels::quant::Encoding;

use crate::{Checkpoint, StoredMatrix, Weights};

/// Gives tensors by name.
pub trait TensorSource: Send + Sync {
    /// The tensor `name` of `shape` on `device`, converted to `dtype`, or in its stored type when that is `None`.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, or cannot be read.
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor>;

    /// The matrix `name` of `shape` `[out, in]` to multiply with: converted to floats of `dtype`, or in its stored form when that
    /// is `None`, which may be quantised. Quantised matrices stay on the host.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix>;

    /// The rows `ids` of the [`matrix`](Self::matrix), `[ids, in]` f32. Sources that can read nothing else.
    ///
    /// # Errors
    /// As there, and no such row.
    fn rows(&self, name: &str, shape: &[usize], ids: &[u32], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.matrix(name, shape, dtype, device)?.select(ids)?.to_device(device)
    }

    /// How [`matrix`](Self::matrix) gives a matrix. Sources that know it without reading the matrix say so themselves.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    fn form(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        let matrix = self.matrix(name, shape, dtype, &Device::Cpu)?;
        let float = || matrix.float().map_or(Encoding::F32, |t| float_encoding(t.dtype()));
        Ok(MatrixForm::Made(matrix.quantised().map_or_else(float, |m| m.encoding())))
    }

    /// The [`tensor`](Self::tensor) in f32, in the memory of the GPU that the source brings it to.
    ///
    /// # Errors
    /// As there, and the source brings nothing to a GPU.
    fn gpu_tensor(&self, name: &str, _shape: &[usize]) -> Result<GpuTensor> {
        candle_core::bail!("tensor {name} is in the host's memory, and a GPU asks for it")
    }

    /// The [`matrix`](Self::matrix) in the memory of the GPU that the source brings it to. Ask for it when it is multiplied with
    /// and let go of it after that: it may have the place of others.
    ///
    /// # Errors
    /// As there, and the source brings nothing to a GPU.
    fn gpu_matrix(&self, name: &str, _shape: &[usize], _dtype: Option<DType>) -> Result<GpuMatrix> {
        candle_core::bail!("matrix {name} is in the host's memory, and a GPU asks for it")
    }

    /// The [`tensor`](Self::tensor) `[O, I, ..]` of a convolution as `[O, .., I']` bf16, in the memory of the GPU that the source brings it
    /// to: what [`channels_last`](kernels::cuda::ops::channels_last) makes of it.
    ///
    /// # Errors
    /// As there, and the source brings nothing to a GPU.
    fn gpu_filter(&self, name: &str, _shape: &[usize]) -> Result<GpuTensor> {
        candle_core::bail!("tensor {name} is in the host's memory, and a GPU asks for it")
    }
}

/// See [`TensorSource::form`].
pub enum MatrixForm {
    /// As it is stored, so that it can be read straight into memory.
    Stored(Box<StoredMatrix>),
    /// Made on the way: converted, or with something added. It has the encoding, and may have differences beside it.
    Made(Encoding),
}

impl MatrixForm {
    /// How numbers are held.
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::Stored(stored) => stored.encoding(),
            Self::Made(encoding) => *encoding,
        }
    }
}

/// The encoding of floats; others than these are computed with as f32.
pub(crate) fn float_encoding(dtype: DType) -> Encoding {
    match dtype {
        DType::BF16 => Encoding::BF16,
        DType::F16 => Encoding::F16,
        _ => Encoding::F32,
    }
}

/// Reads every tensor from its file each time it is asked for; nothing is kept.
pub struct CheckpointSource(pub Checkpoint);

impl TensorSource for CheckpointSource {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        self.0.load(name, shape, dtype, device)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        match (self.0.matrix(name, shape)?, dtype) {
            (Some(matrix), None) => Ok(matrix.into()),
            // Row by row from the stored form: no copy of all of it in f32.
            (Some(matrix), Some(dtype)) => Ok(Matrix::from(matrix).to_tensor(dtype)?.to_device(device)?.into()),
            (None, dtype) => Ok(self.0.load(name, shape, dtype, device)?.into()),
        }
    }

    fn form(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        Ok(match (self.0.stored(name, shape)?, dtype) {
            (Some(stored), None) => MatrixForm::Stored(Box::new(stored)),
            (Some(stored), Some(dtype)) if stored.dtype() == Some(dtype) => MatrixForm::Stored(Box::new(stored)),
            (_, dtype) => MatrixForm::Made(float_encoding(dtype.unwrap_or(DType::F32))),
        })
    }

    fn rows(&self, name: &str, shape: &[usize], ids: &[u32], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        match self.0.rows(name, shape, ids, dtype)? {
            Some(rows) => rows.to_device(device),
            None => self.matrix(name, shape, dtype, device)?.select(ids)?.to_device(device),
        }
    }
}

/// Tensors that are in memory already.
pub struct TensorMap(pub HashMap<String, Tensor>);

impl TensorSource for TensorMap {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let Some(tensor) = self.0.get(name) else {
            candle_core::bail!("tensor {name} is missing");
        };
        if !crate::checkpoint::same_but_ones(tensor.dims(), shape) {
            candle_core::bail!("tensor {name} has shape {:?}; the network needs {shape:?}", tensor.dims());
        }
        tensor.reshape(shape)?.to_dtype(dtype.unwrap_or(tensor.dtype()))?.to_device(device)
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        Ok(self.tensor(name, shape, dtype, device)?.into())
    }

    fn form(&self, name: &str, _shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        let own = self.0.get(name).map(Tensor::dtype);
        Ok(MatrixForm::Made(float_encoding(dtype.or(own).unwrap_or(DType::F32))))
    }
}

/// Gives the weights of one group (a transformer block) at a time, so that blocks need not own theirs.
///
/// Resident weights implement it by keeping everything; the offload crate implements it with a budget. What a
/// network computes never depends on which of them it was given.
pub trait WeightSource: Send + Sync {
    /// The tensors under `group.` (say `blocks.7`), ready on the device. An empty name is the whole network.
    ///
    /// # Errors
    /// The group cannot be brought to the device.
    fn group(&self, group: &str) -> Result<Weights>;

    /// Says that `group` will be asked for soon. Does nothing unless the source can work ahead.
    fn prefetch(&self, _group: &str) {}
}

/// Weights that stay where they are once read.
pub struct Resident {
    weights: Weights,
}

impl Resident {
    /// Keeps every tensor of `source` after its first use, on `device`, matrices as `matrix_dtype` (or as stored).
    pub fn new(source: Arc<dyn TensorSource>, device: Device, matrix_dtype: Option<DType>) -> Self {
        let kept = Arc::new(Keeping {
            source,
            tensors: Mutex::default(),
            matrices: Mutex::default(),
            gpu_tensors: Mutex::default(),
            gpu_matrices: Mutex::default(),
            gpu_filters: Mutex::default(),
        });
        Self { weights: Weights::new(kept, device, matrix_dtype) }
    }

    /// From an opened checkpoint.
    pub fn from_checkpoint(checkpoint: Checkpoint, device: Device, matrix_dtype: Option<DType>) -> Self {
        Self::new(Arc::new(CheckpointSource(checkpoint)), device, matrix_dtype)
    }
}

impl WeightSource for Resident {
    fn group(&self, group: &str) -> Result<Weights> {
        Ok(self.weights.pp(group))
    }
}

/// Weights of another source, whose repeated groups are multiplied in these numbers on the host. What is not repeated
/// (embeddings, condition modules, heads) is f32, as in the models' own code.
pub struct Computing {
    source: Arc<dyn WeightSource>,
    compute: Compute,
}

impl Computing {
    /// All of `source`.
    pub fn new(source: Arc<dyn WeightSource>, compute: Compute) -> Self {
        Self { source, compute }
    }
}

impl WeightSource for Computing {
    fn group(&self, group: &str) -> Result<Weights> {
        let weights = self.source.group(group)?;
        Ok(if group.is_empty() { weights } else { weights.with_compute(self.compute) })
    }

    fn prefetch(&self, group: &str) {
        self.source.prefetch(group);
    }
}

struct Keeping {
    source: Arc<dyn TensorSource>,
    tensors: Mutex<HashMap<String, Tensor>>,
    matrices: Mutex<HashMap<String, Matrix>>,
    gpu_tensors: Mutex<HashMap<String, GpuTensor>>,
    gpu_matrices: Mutex<HashMap<String, GpuMatrix>>,
    gpu_filters: Mutex<HashMap<String, GpuTensor>>,
}

/// What is kept under a name, or is read now and kept.
fn kept<T: Clone>(all: &Mutex<HashMap<String, T>>, name: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    // A poisoned lock only means that another thread failed while reading; the map itself is whole.
    let mut all = all.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(found) = all.get(name) {
        return Ok(found.clone());
    }
    let found = read()?;
    all.insert(name.to_owned(), found.clone());
    Ok(found)
}

impl TensorSource for Keeping {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        kept(&self.tensors, name, || self.source.tensor(name, shape, dtype, device))
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        kept(&self.matrices, name, || self.source.matrix(name, shape, dtype, device))
    }

    fn form(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        self.source.form(name, shape, dtype)
    }

    fn rows(&self, name: &str, shape: &[usize], ids: &[u32], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let known = self.matrices.lock().unwrap_or_else(|e| e.into_inner()).get(name).cloned();
        match known {
            Some(matrix) => matrix.select(ids)?.to_device(device),
            // A few rows are no reason to keep all.
            None => self.source.rows(name, shape, ids, dtype, device),
        }
    }

    fn gpu_tensor(&self, name: &str, shape: &[usize]) -> Result<GpuTensor> {
        kept(&self.gpu_tensors, name, || self.source.gpu_tensor(name, shape))
    }

    fn gpu_matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<GpuMatrix> {
        kept(&self.gpu_matrices, name, || self.source.gpu_matrix(name, shape, dtype))
    }

    fn gpu_filter(&self, name: &str, shape: &[usize]) -> Result<GpuTensor> {
        kept(&self.gpu_filters, name, || self.source.gpu_filter(name, shape))
    }
}
