//! The view through which networks ask for tensors while they are built.

use std::fmt::Display;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};
use kernels::Compute;
use kernels::cuda::{GpuMatrix, GpuTensor};
use kernels::linear::Matrix;

use crate::TensorSource;

/// A source of tensors with a name prefix, a device and a precision for matrices. Cheap to clone.
#[derive(Clone)]
pub struct Weights {
    source: Arc<dyn TensorSource>,
    prefix: String,
    device: Device,
    matrix_dtype: Option<DType>,
    compute: Compute,
}

impl Weights {
    /// A view of all of `source`. `matrix_dtype` is what [`matrix`](Self::matrix) converts to; `None` keeps the
    /// stored type.
    pub fn new(source: Arc<dyn TensorSource>, device: Device, matrix_dtype: Option<DType>) -> Self {
        Self { source, prefix: String::new(), device, matrix_dtype, compute: Compute::F32 }
    }

    /// The view of the tensors under `name.`; an empty name gives the same view.
    pub fn pp(&self, name: impl Display) -> Self {
        let name = name.to_string();
        let prefix = match (self.prefix.is_empty(), name.is_empty()) {
            (_, true) => self.prefix.clone(),
            (true, false) => name,
            (false, false) => format!("{}.{name}", self.prefix),
        };
        Self { prefix, ..self.clone() }
    }

    /// Full name of a tensor of this view.
    pub fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    /// A tensor that is always held in f32: norms, biases, modulation, convolutions.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, or holds values that are not finite.
    pub fn tensor(&self, shape: impl Into<Shape>, name: &str) -> Result<Tensor> {
        let shape = shape.into();
        self.source.tensor(&self.full_name(name), shape.dims(), Some(DType::F32), &self.device)
    }

    /// A large matrix (a Linear's weight, an embedding table), held in the precision of this view, or as it is stored, which
    /// may be quantised.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn matrix(&self, shape: impl Into<Shape>, name: &str) -> Result<Matrix> {
        let shape = shape.into();
        let matrix = self.source.matrix(&self.full_name(name), shape.dims(), self.matrix_dtype, &self.device)?;
        Ok(matrix.with_compute(self.compute))
    }

    /// As [`tensor`](Self::tensor), in the memory of the GPU that the source brings it to.
    ///
    /// # Errors
    /// As there, and the source brings nothing to a GPU.
    pub fn gpu_tensor(&self, shape: impl Into<Shape>, name: &str) -> Result<GpuTensor> {
        let shape = shape.into();
        self.source.gpu_tensor(&self.full_name(name), shape.dims())
    }

    /// As [`matrix`](Self::matrix), in the memory of the GPU that the source brings it to. Ask for it when it is multiplied with
    /// and let go of it after that: it may have the place of others.
    ///
    /// # Errors
    /// As there, and the source brings nothing to a GPU.
    pub fn gpu_matrix(&self, shape: impl Into<Shape>, name: &str) -> Result<GpuMatrix> {
        let shape = shape.into();
        self.source.gpu_matrix(&self.full_name(name), shape.dims(), self.matrix_dtype)
    }

    /// The weight `[O, I, ..]` of a convolution as the GPU's convolutions take it, `[O, .., I']` bf16 with I filled up to a multiple of 8, in
    /// the memory of the GPU that the source brings it to.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor), and the source brings nothing to a GPU.
    pub fn gpu_filter(&self, shape: impl Into<Shape>, name: &str) -> Result<GpuTensor> {
        let shape = shape.into();
        self.source.gpu_filter(&self.full_name(name), shape.dims())
    }

    /// The same view, whose matrices are multiplied in these numbers on the host.
    pub fn with_compute(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// In which numbers the host multiplies, here and in what belongs to it (attention).
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The rows `ids` of a [`matrix`](Self::matrix), as of an embedding table, `[ids, in]` f32; the rest of it is not read
    /// where the source can do without.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor), and no such row.
    pub fn rows(&self, shape: impl Into<Shape>, name: &str, ids: &[u32]) -> Result<Tensor> {
        let shape = shape.into();
        self.source.rows(&self.full_name(name), shape.dims(), ids, self.matrix_dtype, &self.device)
    }

    /// Where tensors are put.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
