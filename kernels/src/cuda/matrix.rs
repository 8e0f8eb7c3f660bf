//! Matrices of weights in a GPU's memory, in the form they are stored in.

use candle_core::{DType, Tensor};

use super::error::{CudaError, Result};
use super::{Gpu, GpuDtype, GpuTensor};
use crate::linear::{Difference, Matrix};
use crate::quant::{Encoding, QuantMatrix, Scales};

const NAME: &str = "make a matrix";

fn problem(error: candle_core::Error) -> CudaError {
    CudaError::Arguments { operation: "upload", problem: error.to_string() }
}

/// What decoded numbers are multiplied with, as [`Scales`].
#[derive(Debug, Clone)]
pub enum GpuScales {
    /// Nothing, or scales inside of the encoding's own blocks.
    None,
    /// One a row, or the matrix's for every one, `[rows]` f32.
    Rows(GpuTensor),
    /// One for each block, `[ceil(rows / side), ceil(columns / side)]` f32.
    Blocks {
        /// Rows and columns of a block.
        side: usize,
        /// The scales.
        values: GpuTensor,
    },
}

/// What is added to a matrix without changing it, as [`Difference`], with its factor in it. Tensors are bf16.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum GpuDifference {
    /// `up · down`, for the rows from `first_row` on.
    LowRank {
        /// `[rank, in]`, the rank filled up to a multiple of 8.
        down: GpuTensor,
        /// `[rows, rank]`.
        up: GpuTensor,
        /// The first row that is changed.
        first_row: usize,
    },
    /// `difference`.
    Whole {
        /// `[out, in]`.
        difference: GpuTensor,
    },
}

/// A matrix `[rows, columns]` = `[out, in]`, row-major. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GpuMatrix {
    encoding: Encoding,
    shape: [usize; 2],
    bytes: GpuTensor,
    scales: GpuScales,
    rotation: Option<usize>,
    differences: Vec<GpuDifference>,
    takes_bf16: bool,
}

impl GpuScales {
    /// These in a GPU's memory.
    ///
    /// # Errors
    /// There is no room.
    pub fn upload(gpu: &Gpu, scales: &Scales, [rows, columns]: [usize; 2]) -> Result<Self> {
        let there = |values: &[f32], shape: &[usize]| {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            GpuTensor::upload_bytes(gpu, &bytes, shape, GpuDtype::F32)
        };
        Ok(match scales {
            Scales::None => Self::None,
            Scales::Matrix(scale) => Self::Rows(there(&vec![*scale; rows], &[rows])?),
            Scales::Rows(values) => Self::Rows(there(values, &[rows])?),
            Scales::Blocks { side, values } => {
                let shape = [rows.div_ceil((*side).max(1)), columns.div_ceil((*side).max(1))];
                Self::Blocks { side: *side, values: there(values, &shape)? }
            }
        })
    }
}

impl GpuDifference {
    /// This in a GPU's memory, rounded to bf16.
    ///
    /// # Errors
    /// There is no room.
    pub fn upload(gpu: &Gpu, difference: &Difference) -> Result<Self> {
        // Rounded once, with the factor in it.
        let there = |t: candle_core::Result<Tensor>| GpuTensor::upload(gpu, &t.map_err(problem)?, GpuDtype::Bf16);
        let times = |t: &Tensor, factor: f64| t.to_dtype(DType::F32)? * factor;
        Ok(match difference {
            Difference::LowRank { down, up, first_row, factor } => {
                let rank = down.dim(0).map_err(problem)?;
                let more = rank.next_multiple_of(8) - rank;
                let down = times(down, *factor).and_then(|t| t.pad_with_zeros(0, 0, more));
                let up = up.pad_with_zeros(1, 0, more);
                Self::LowRank { down: there(down)?, up: there(up)?, first_row: *first_row }
            }
            Difference::Whole { difference, factor } => Self::Whole { difference: there(times(difference, *factor))? },
        })
    }
}

impl GpuMatrix {
    /// `bytes` are `rows` times [`Encoding::row_bytes`]; `rotation` is as in [`QuantMatrix::new`].
    ///
    /// # Errors
    /// Sizes that contradict each other.
    pub fn new(
        encoding: Encoding,
        [rows, columns]: [usize; 2],
        bytes: GpuTensor,
        scales: GpuScales,
        rotation: Option<usize>,
    ) -> Result<Self> {
        let needed = encoding.row_bytes(columns).and_then(|row| row.checked_mul(rows));
        if needed != Some(bytes.bytes()) {
            let problem = format!("{encoding} [{rows}, {columns}] of {} bytes; {needed:?} are needed", bytes.bytes());
            return CudaError::arguments(NAME, problem);
        }
        let fits = match &scales {
            GpuScales::None => true,
            GpuScales::Rows(values) => values.shape() == [rows] && values.dtype() == GpuDtype::F32,
            GpuScales::Blocks { side, values } => {
                *side > 0
                    && values.shape() == [rows.div_ceil(*side), columns.div_ceil(*side)]
                    && values.dtype() == GpuDtype::F32
            }
        };
        match fits {
            true => Ok(Self {
                encoding,
                shape: [rows, columns],
                bytes: bytes.as_bytes(),
                scales,
                rotation,
                differences: Vec::new(),
                takes_bf16: false,
            }),
            false => CudaError::arguments(NAME, format!("{encoding} [{rows}, {columns}] with scales {scales:?}")),
        }
    }

    /// A matrix of the host with what is beside it.
    ///
    /// # Errors
    /// There is no room, or it cannot be read.
    pub fn upload(gpu: &Gpu, matrix: &Matrix) -> Result<Self> {
        let matrix = matrix.now().map_err(problem)?;
        let mut there = match (matrix.quantised(), matrix.float()) {
            (Some(stored), _) => Self::upload_stored(gpu, stored)?,
            (None, Some(tensor)) => {
                let (encoding, dtype) = match tensor.dtype() {
                    DType::BF16 => (Encoding::BF16, GpuDtype::Bf16),
                    DType::F16 => (Encoding::F16, GpuDtype::F16),
                    _ => (Encoding::F32, GpuDtype::F32),
                };
                let shape = tensor.dims2().map_err(problem)?.into();
                Self::new(encoding, shape, GpuTensor::upload(gpu, tensor, dtype)?, GpuScales::None, None)?
            }
            (None, None) => return CudaError::arguments("upload", "a matrix without numbers"),
        };
        for difference in matrix.differences() {
            there.differences.push(GpuDifference::upload(gpu, difference)?);
        }
        Ok(there)
    }

    fn upload_stored(gpu: &Gpu, stored: &QuantMatrix) -> Result<Self> {
        let (bytes, shape) = (stored.bytes(), stored.shape());
        let there = GpuTensor::upload_bytes(gpu, bytes, &[bytes.len()], GpuDtype::U8)?;
        let scales = GpuScales::upload(gpu, stored.scales(), shape)?;
        Self::new(stored.encoding(), shape, there, scales, stored.rotation())
    }

    /// The same with these beside it, which fit it.
    pub fn with(mut self, differences: impl IntoIterator<Item = GpuDifference>) -> Self {
        self.differences.extend(differences);
        self
    }

    /// The same, multiplied with bf16 numbers whatever it is stored in: for inputs with outliers that 8 bits do not hold.
    pub fn with_bf16_inputs(self) -> Self {
        Self { takes_bf16: true, ..self }
    }

    /// Whether inputs are to be bf16.
    pub(crate) fn takes_bf16(&self) -> bool {
        self.takes_bf16
    }

    /// How its numbers are stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// `[rows, columns]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The stored numbers, row after row, as bytes.
    pub fn bytes(&self) -> &GpuTensor {
        &self.bytes
    }

    /// What decoded numbers are multiplied with.
    pub fn scales(&self) -> &GpuScales {
        &self.scales
    }

    /// Group size of the Hadamard rotation of its rows.
    pub fn rotation(&self) -> Option<usize> {
        self.rotation
    }

    /// What is applied beside it, in order.
    pub fn differences(&self) -> &[GpuDifference] {
        &self.differences
    }
}
