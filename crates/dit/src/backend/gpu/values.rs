//! What the GPU's side of a pass is made of.

use std::cell::RefCell;

use candle_core::{DType, Result, Tensor};
use kernels::cuda::ops::{Columns, InputForm, Int8Keys, Modulation, Norm, Rounded, RowOutput, RowWork, rows};
use kernels::cuda::{Gpu, GpuDtype, GpuMatrix, GpuTensor};
use kernels::linear::Matrix;
use weights::Weights;

/// A matrix and its bias.
pub(crate) struct GpuLinear {
    matrix: Place,
    pub(super) bias: GpuTensor,
}

enum Place {
    /// It is asked for when it is multiplied with.
    Asked {
        weights: Weights,
        shape: [usize; 2],
    },
    Held(GpuMatrix),
}

impl GpuLinear {
    pub(super) fn asked(shape: [usize; 2], w: &Weights) -> Result<Self> {
        Ok(Self { matrix: Place::Asked { weights: w.clone(), shape }, bias: w.gpu_tensor(shape[0], "bias")? })
    }

    /// Floats are held in bf16, as they are multiplied.
    pub(super) fn held(gpu: &Gpu, weight: Matrix, bias: &Tensor) -> Result<Self> {
        let weight = match weight.float() {
            Some(floats) if weight.differences().is_empty() => floats.to_dtype(DType::BF16)?.into(),
            _ => weight,
        };
        let matrix = Place::Held(GpuMatrix::upload(gpu, &weight)?);
        Ok(Self { matrix, bias: GpuTensor::upload(gpu, bias, GpuDtype::F32)? })
    }

    pub(super) fn matrix(&self) -> Result<GpuMatrix> {
        match &self.matrix {
            Place::Asked { weights, shape } => weights.gpu_matrix((shape[0], shape[1]), "weight"),
            Place::Held(matrix) => Ok(matrix.clone()),
        }
    }
}

/// Keys and values, `[1, L, H, D/H]`.
pub(crate) enum GpuKeys {
    Bf16([GpuTensor; 2]),
    Int8(Int8Keys),
}

/// A gain and bias, `[D]` f32.
pub(crate) struct GpuNorm {
    pub(super) weight: GpuTensor,
    pub(super) bias: Option<GpuTensor>,
    pub(super) eps: f32,
}

/// `[L, D/2H]` f32 each.
#[derive(Clone)]
pub(crate) struct GpuRope {
    pub(super) cos: GpuTensor,
    pub(super) sin: GpuTensor,
}

/// Rows with what is to be done with them. It is done when a matrix tells what form it takes, and once for all of that form.
pub(crate) struct GpuInput {
    x: GpuTensor,
    norm: Norm,
    /// Scale, shift, and what is added to the scale.
    modulation: Option<(GpuTensor, GpuTensor, f32)>,
    made: RefCell<Vec<(InputForm, Rounded)>>,
}

impl GpuInput {
    pub(super) fn new(x: GpuTensor, norm: Norm, modulation: Option<(GpuTensor, GpuTensor, f32)>) -> Self {
        Self { x, norm, modulation, made: RefCell::default() }
    }

    pub(super) fn rounded(&self, gpu: &Gpu, form: InputForm) -> Result<Rounded> {
        let mut made = self.made.borrow_mut();
        if let Some((_, rounded)) = made.iter().find(|(f, _)| *f == form) {
            return Ok(rounded.clone());
        }
        let as_it_is = self.norm == Norm::None && self.modulation.is_none() && self.x.dtype() == GpuDtype::Bf16;
        let rounded = if as_it_is && form.output == RowOutput::Bf16 && !form.rotate {
            Rounded { values: self.x.clone(), scales: None, plain: None }
        } else {
            self.worked(gpu, form)?
        };
        made.push((form, rounded.clone()));
        Ok(rounded)
    }

    /// Done anew.
    pub(super) fn worked(&self, gpu: &Gpu, InputForm { output, rotate, plain }: InputForm) -> Result<Rounded> {
        let modulation = match &self.modulation {
            Some((scale, shift, offset)) => Modulation { scale: Some(scale), shift: Some(shift), offset: *offset },
            None => Modulation::default(),
        };
        let work = RowWork { norm: self.norm, modulation, rope: None, rotate, output, plain };
        Ok(rows(gpu, Columns::all(&self.x), &work)?)
    }
}
