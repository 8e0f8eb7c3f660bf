//! A block's weights as one buffer: what is read, copied and let go of together.
//!
//! Matrices are in it as they are held (quantised numbers as stored), vectors and small tensors in f32, each at a multiple of 256
//! bytes. It is filled once and never written to after that: what is moved is copied in one direction only.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};
use kernels::cuda::{Gpu, GpuDifference, GpuDtype, GpuMatrix, GpuScales, GpuTensor};
use kernels::linear::Difference;
use kernels::quant::{Encoding, QuantMatrix, Scales};
use weights::{Matrix, MatrixForm, TensorSource, TensorSpec};

use crate::device::Shared;

/// Where tensors of a slab begin: what copy engines and vector instructions like, on all devices.
pub const SLAB_ALIGNMENT: usize = 256;

/// What is where in a slab.
pub(crate) struct Layout {
    pieces: Vec<Piece>,
    bytes: usize,
}

struct Piece {
    spec: TensorSpec,
    place: Range<usize>,
    /// `None` for what is held in f32.
    form: Option<MatrixForm>,
    /// What of a matrix is not in the buffer, in a GPU's memory: small, and the same each time the buffer is filled.
    on_gpu: OnceLock<GpuBeside>,
}

/// As [`Beside`].
struct GpuBeside {
    scales: GpuScales,
    differences: Vec<GpuDifference>,
}

/// What of a matrix is not in the buffer.
#[derive(Clone)]
struct Beside {
    scales: Scales,
    rotation: Option<usize>,
    differences: Vec<Difference>,
}

impl Layout {
    /// Of these tensors, matrices as `dtype` or as stored.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(tensors: &[TensorSpec], source: &dyn TensorSource, dtype: Option<DType>) -> Result<Self> {
        let (mut pieces, mut at) = (Vec::with_capacity(tensors.len()), 0usize);
        for spec in tensors {
            let form = spec.matrix.then(|| source.form(&spec.name, &spec.shape, dtype)).transpose()?;
            let bytes = match &form {
                None => spec.elements().checked_mul(4),
                Some(MatrixForm::Stored(stored)) => Some(stored.bytes()),
                Some(MatrixForm::Made(encoding)) => {
                    let (rows, columns) = rows_and_columns(&spec.shape);
                    encoding.row_bytes(columns).and_then(|row| row.checked_mul(rows))
                }
            };
            let end = bytes.and_then(|bytes| at.checked_add(bytes));
            let Some((end, next)) = end.and_then(|end| Some((end, end.checked_next_multiple_of(SLAB_ALIGNMENT)?)))
            else {
                candle_core::bail!("tensor {} of shape {:?} is too large", spec.name, spec.shape);
            };
            pieces.push(Piece { spec: spec.clone(), place: at..end, form, on_gpu: OnceLock::new() });
            at = next;
        }
        Ok(Self { pieces, bytes: at })
    }

    /// Bytes of the buffer.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads all tensors into a buffer of [`bytes`](Self::bytes). With `check`, numbers of files are looked through for ones
    /// that are not finite.
    ///
    /// # Errors
    /// Whatever the source fails at.
    pub fn fill(&self, source: &dyn TensorSource, dtype: Option<DType>, out: &mut [u8], check: bool) -> Result<Filled> {
        let mut beside = HashMap::new();
        for piece in &self.pieces {
            let (name, shape) = (&piece.spec.name, &piece.spec.shape);
            let Some(out) = out.get_mut(piece.place.clone()) else {
                candle_core::bail!("a buffer of {} bytes is too small for tensor {name}", out.len());
            };
            match &piece.form {
                None => write_floats(&source.tensor(name, shape, Some(DType::F32), &Device::Cpu)?, Encoding::F32, out)?,
                Some(MatrixForm::Stored(stored)) => stored.read_into(out, check)?,
                Some(MatrixForm::Made(encoding)) => {
                    let matrix = source.matrix(name, shape, dtype, &Device::Cpu)?;
                    beside.insert(name.clone(), write_matrix(&matrix, *encoding, name, out)?);
                }
            }
        }
        Ok(Filled { beside })
    }

    /// Bytes that come from files or are made, without gaps.
    pub fn payload(&self) -> u64 {
        self.pieces.iter().map(|p| p.place.len() as u64).sum()
    }
}

/// What belongs to a filled buffer.
#[derive(Clone)]
pub(crate) struct Filled {
    beside: HashMap<String, Beside>,
}

fn rows_and_columns(shape: &[usize]) -> (usize, usize) {
    match shape {
        [rows, columns] => (*rows, *columns),
        other => (1, other.iter().product()),
    }
}

fn write_matrix(matrix: &Matrix, encoding: Encoding, name: &str, out: &mut [u8]) -> Result<Beside> {
    let (scales, rotation) = match matrix.quantised() {
        Some(quantised) => {
            if quantised.encoding() != encoding || quantised.bytes().len() != out.len() {
                let (found, bytes) = (quantised.encoding(), quantised.bytes().len());
                candle_core::bail!(
                    "tensor {name} came as {bytes} bytes of {found}, not as {} of {encoding}",
                    out.len()
                );
            }
            out.copy_from_slice(quantised.bytes());
            (quantised.scales().clone(), quantised.rotation())
        }
        None => {
            match matrix.float() {
                Some(tensor) => write_floats(tensor, encoding, out)?,
                None => candle_core::bail!("tensor {name} came as no matrix of numbers"),
            }
            (Scales::None, None)
        }
    };
    Ok(Beside { scales, rotation, differences: matrix.differences().to_vec() })
}

/// The tensor's numbers in an encoding of floats.
fn write_floats(tensor: &Tensor, encoding: Encoding, out: &mut [u8]) -> Result<()> {
    fn write<const W: usize, T: Copy>(values: &[T], out: &mut [u8], bytes: impl Fn(T) -> [u8; W]) -> Result<()> {
        let (out, rest) = out.as_chunks_mut::<W>();
        if out.len() != values.len() || !rest.is_empty() {
            candle_core::bail!("{} numbers for a place of {}", values.len(), out.len());
        }
        out.iter_mut().zip(values).for_each(|(out, value)| *out = bytes(*value));
        Ok(())
    }
    let flat = tensor.flatten_all()?;
    match encoding {
        Encoding::BF16 => write(&flat.to_dtype(DType::BF16)?.to_vec1::<bf16>()?, out, bf16::to_le_bytes),
        Encoding::F16 => write(&flat.to_dtype(DType::F16)?.to_vec1::<f16>()?, out, f16::to_le_bytes),
        Encoding::F32 => write(&flat.to_dtype(DType::F32)?.to_vec1::<f32>()?, out, f32::to_le_bytes),
        other => candle_core::bail!("floats came where {other} was announced"),
    }
}

/// A filled buffer in memory that is computed from, and what is where in it.
pub(crate) struct Slab {
    layout: Arc<Layout>,
    filled: Filled,
    memory: Shared,
    /// Whose memory it is.
    gpu: Option<Gpu>,
}

impl Slab {
    pub fn new(layout: Arc<Layout>, filled: Filled, memory: Shared, gpu: Option<Gpu>) -> Self {
        Self { layout, filled, memory, gpu }
    }

    /// A tensor's bytes on the host.
    fn bytes(&self, piece: &Piece) -> Result<Bytes> {
        match &self.memory {
            Shared::Host(bytes) => Ok(bytes.slice(piece.place.clone())),
            Shared::Gpu(_) => {
                candle_core::bail!("tensor {} is in a GPU's memory, and the host asks for it", piece.spec.name)
            }
        }
    }

    /// As numbers of a shape in the GPU's memory.
    fn there(&self, piece: &Piece, shape: &[usize], dtype: GpuDtype) -> Result<GpuTensor> {
        match &self.memory {
            Shared::Gpu(buffer) => Ok(GpuTensor::within(buffer.clone(), piece.place.start, shape, dtype)?),
            Shared::Host(_) => {
                candle_core::bail!("tensor {} is in the host's memory, and a GPU asks for it", piece.spec.name)
            }
        }
    }

    /// What of a matrix is not in the buffer: brought to the GPU at its first use, and kept.
    fn beside_on_gpu<'a>(&self, piece: &'a Piece, shape: [usize; 2], form: &MatrixForm) -> Result<&'a GpuBeside> {
        if let Some(found) = piece.on_gpu.get() {
            return Ok(found);
        }
        let Some(gpu) = &self.gpu else {
            candle_core::bail!("tensor {} is in no GPU's memory", piece.spec.name);
        };
        let (scales, differences) = match form {
            MatrixForm::Stored(stored) => (stored.scales(), &[][..]),
            MatrixForm::Made(_) => {
                let beside = self.beside(&piece.spec.name)?;
                (&beside.scales, beside.differences.as_slice())
            }
        };
        let scales = GpuScales::upload(gpu, scales, shape)?;
        let there = differences.iter().map(|d| GpuDifference::upload(gpu, d)).collect::<kernels::cuda::Result<_>>()?;
        Ok(piece.on_gpu.get_or_init(|| GpuBeside { scales, differences: there }))
    }

    fn beside(&self, name: &str) -> Result<&Beside> {
        match self.filled.beside.get(name) {
            Some(beside) => Ok(beside),
            None => candle_core::bail!("tensor {name} is announced and not there"),
        }
    }

    fn piece(&self, name: &str) -> Result<&Piece> {
        match self.layout.pieces.iter().find(|p| p.spec.name == name) {
            Some(piece) => Ok(piece),
            None => candle_core::bail!("tensor {name} is missing"),
        }
    }

    /// Whether the tensor is one of it.
    pub fn has(&self, name: &str) -> bool {
        self.layout.pieces.iter().any(|p| p.spec.name == name)
    }
}

impl TensorSource for Slab {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        let piece = self.piece(name)?;
        if piece.form.is_some() {
            let matrix = self.matrix(name, &piece.spec.shape, None, &Device::Cpu)?;
            return matrix.to_tensor(dtype.unwrap_or(DType::F32))?.reshape(shape)?.to_device(device);
        }
        let bytes = self.bytes(piece)?;
        let (numbers, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = numbers.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype.unwrap_or(DType::F32))?.to_device(device)
    }

    /// The matrix over this buffer, which lives as long as it: nothing is copied, and `dtype` is what it was filled with.
    fn matrix(&self, name: &str, shape: &[usize], _dtype: Option<DType>, _device: &Device) -> Result<Matrix> {
        let piece = self.piece(name)?;
        let Some(form) = &piece.form else { return Ok(self.tensor(name, shape, None, &Device::Cpu)?.into()) };
        let bytes = self.bytes(piece)?;
        let (rows, columns) = rows_and_columns(shape);
        match form {
            MatrixForm::Stored(stored) => Ok(stored.matrix(bytes)?.into()),
            MatrixForm::Made(encoding) => {
                let Beside { scales, rotation, differences } = self.beside(name)?.clone();
                let matrix = QuantMatrix::new(*encoding, [rows, columns], bytes, scales, rotation)
                    .map_err(|e| e.into_candle())?;
                differences.into_iter().try_fold(Matrix::from(matrix), Matrix::with)
            }
        }
    }

    fn form(&self, name: &str, _shape: &[usize], _dtype: Option<DType>) -> Result<MatrixForm> {
        let form = self.piece(name)?.form.as_ref();
        Ok(MatrixForm::Made(form.map_or(Encoding::F32, MatrixForm::encoding)))
    }

    fn gpu_tensor(&self, name: &str, shape: &[usize]) -> Result<GpuTensor> {
        let piece = self.piece(name)?;
        match piece.form {
            None => self.there(piece, shape, GpuDtype::F32),
            Some(_) => candle_core::bail!("tensor {name} is a matrix, and is asked for as a tensor of floats"),
        }
    }

    /// The matrix over this buffer, which lives as long as it.
    fn gpu_matrix(&self, name: &str, shape: &[usize], _dtype: Option<DType>) -> Result<GpuMatrix> {
        let piece = self.piece(name)?;
        let (rows, columns) = rows_and_columns(shape);
        let Some(form) = &piece.form else {
            let bytes = self.there(piece, &[rows, columns], GpuDtype::F32)?;
            return Ok(GpuMatrix::new(Encoding::F32, [rows, columns], bytes, GpuScales::None, None)?);
        };
        let bytes = self.there(piece, &[piece.place.len()], GpuDtype::U8)?;
        let rotation = match form {
            MatrixForm::Stored(stored) => stored.rotation(),
            MatrixForm::Made(_) => self.beside(name)?.rotation,
        };
        let beside = self.beside_on_gpu(piece, [rows, columns], form)?;
        let matrix = GpuMatrix::new(form.encoding(), [rows, columns], bytes, beside.scales.clone(), rotation)?;
        Ok(matrix.with(beside.differences.iter().cloned()))
    }
}

#[cfg(test)]
mod tests {
    use weights::{RandomWeights, Weights};

    use super::*;

    fn specs() -> Vec<TensorSpec> {
        let spec =
            |name: &str, shape: &[usize], matrix| TensorSpec { name: name.into(), shape: shape.to_vec(), matrix };
        vec![
            spec("b.norm.weight", &[7], false),
            spec("b.q.weight", &[5, 7], true),
            spec("b.q.bias", &[5], false),
            spec("b.modulation", &[1, 6, 7], false),
        ]
    }

    #[test]
    fn what_comes_out_is_what_went_in_at_aligned_places() {
        let source = RandomWeights::new(3);
        for dtype in [None, Some(DType::F32), Some(DType::F16)] {
            let layout = Layout::new(&specs(), &source, dtype).unwrap();
            let width = dtype.unwrap_or(DType::BF16).size_in_bytes();
            assert_eq!((layout.bytes(), layout.payload()), (1024, (4 * 7 + width * 35 + 4 * 5 + 4 * 42) as u64));
            assert!(layout.pieces.iter().all(|p| p.place.start % SLAB_ALIGNMENT == 0));
            let mut buffer = vec![0; layout.bytes()];
            let filled = layout.fill(&source, dtype, &mut buffer, true).unwrap();
            let slab: Arc<dyn TensorSource> =
                Arc::new(Slab::new(Arc::new(layout), filled, Shared::Host(buffer.into()), None));
            let (got, want) =
                [slab, Arc::new(RandomWeights::new(3))].map(|s| Weights::new(s, Device::Cpu, dtype).pp("b")).into();
            let floats = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (shape, name) in [(vec![7], "norm.weight"), (vec![5], "q.bias"), (vec![1, 6, 7], "modulation")] {
                let of = |w: &Weights| floats(w.tensor(shape.as_slice(), name).unwrap());
                assert_eq!(of(&got), of(&want), "{name}");
            }
            let of = |w: &Weights| floats(w.matrix((5, 7), "q.weight").unwrap().to_tensor(DType::F32).unwrap());
            assert_eq!(of(&got), of(&want));
            assert!(got.tensor(7, "other").unwrap_err().to_string().contains("b.other is missing"));
        }
    }

    #[test]
    fn a_buffer_that_is_too_small_and_impossible_sizes_are_errors() {
        let source = RandomWeights::new(3);
        let layout = Layout::new(&specs(), &source, None).unwrap();
        assert!(layout.fill(&source, None, &mut [0; 100], true).is_err());
        let huge = TensorSpec { name: "w".into(), shape: vec![usize::MAX / 2, 3], matrix: true };
        assert!(Layout::new(&[huge], &source, None).is_err_and(|e| e.to_string().contains("too large")));
    }
}
