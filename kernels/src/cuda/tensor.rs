//! Numbers in a GPU's memory.

use std::fmt;
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use half::{bf16, f16};

use super::context::Event;
use super::driver::Address;
use super::error::{CudaError, Result};
use super::gpu::Gpu;
use super::pinned::Pinned;
use super::pool::GpuBuffer;

/// What numbers on a GPU are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuDtype {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// Half precision.
    F16,
    /// Whole numbers from −128 on.
    I8,
    /// Whole numbers from 0 on, or bytes of any form.
    U8,
}

impl GpuDtype {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
            Self::I8 | Self::U8 => 1,
        }
    }

    /// The host's tensors of the same numbers; bytes for whole numbers.
    fn of_host(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
            Self::I8 | Self::U8 => DType::U8,
        }
    }
}

/// A buffer that several tensors lie in.
pub struct SharedBuffer {
    buffer: Option<GpuBuffer>,
    done: Option<Box<dyn FnOnce(GpuBuffer) + Send + Sync>>,
}

impl SharedBuffer {
    /// Gives it to `done` when the last tensor in it is dropped.
    pub fn new(buffer: GpuBuffer, done: impl FnOnce(GpuBuffer) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { buffer: Some(buffer), done: Some(Box::new(done)) })
    }

    fn address(&self) -> Address {
        self.buffer.as_ref().map_or(0, GpuBuffer::address)
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.buffer.as_ref().map_or(0, GpuBuffer::len)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<GpuBuffer> for Arc<SharedBuffer> {
    fn from(buffer: GpuBuffer) -> Self {
        Arc::new(SharedBuffer { buffer: Some(buffer), done: None })
    }
}

impl Drop for SharedBuffer {
    fn drop(&mut self) {
        if let (Some(buffer), Some(done)) = (self.buffer.take(), self.done.take()) {
            done(buffer);
        }
    }
}

/// Numbers in a row-major part of a GPU's memory. Clones, and what is narrowed from it, are the same numbers.
#[derive(Clone)]
pub struct GpuTensor {
    buffer: Arc<SharedBuffer>,
    /// In bytes.
    offset: usize,
    shape: Vec<usize>,
    dtype: GpuDtype,
}

impl fmt::Debug for GpuTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} on the GPU", self.dtype, self.shape)
    }
}

/// More is copied in pieces of it.
const PIECE_BYTES: usize = 16 << 20;

fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n))
}

impl GpuTensor {
    /// One with anything in it.
    ///
    /// # Errors
    /// There is no room.
    pub fn empty(gpu: &Gpu, shape: &[usize], dtype: GpuDtype) -> Result<Self> {
        let Some(bytes) = count(shape).and_then(|n| n.checked_mul(dtype.bytes())) else {
            return CudaError::arguments("make a tensor", format!("{shape:?} is larger than any memory"));
        };
        Ok(Self { buffer: gpu.pool().alloc(bytes)?.into(), offset: 0, shape: shape.to_vec(), dtype })
    }

    /// One of zeros.
    ///
    /// # Errors
    /// There is no room.
    pub fn zeros(gpu: &Gpu, shape: &[usize], dtype: GpuDtype) -> Result<Self> {
        let tensor = Self::empty(gpu, shape, dtype)?;
        if tensor.bytes() > 0 {
            // SAFETY: as many bytes are there, in the order of the compute stream.
            unsafe { gpu.compute().zero(tensor.address(), tensor.bytes()) }?;
        }
        Ok(tensor)
    }

    /// A part of a buffer from `offset` bytes on, which must be a multiple of a number's.
    ///
    /// # Errors
    /// It is not in the buffer.
    pub fn within(buffer: Arc<SharedBuffer>, offset: usize, shape: &[usize], dtype: GpuDtype) -> Result<Self> {
        let end = count(shape).and_then(|n| n.checked_mul(dtype.bytes())).and_then(|n| n.checked_add(offset));
        match end.is_some_and(|end| end <= buffer.len()) && offset.is_multiple_of(dtype.bytes()) {
            true => Ok(Self { buffer, offset, shape: shape.to_vec(), dtype }),
            false => {
                let bytes = buffer.len();
                CudaError::arguments("make a tensor", format!("{shape:?} at byte {offset} of a buffer of {bytes}"))
            }
        }
    }

    /// The numbers of a tensor on the host, as `dtype`: floats are rounded to the nearest. The host does not wait.
    ///
    /// # Errors
    /// There is no room, or the tensor cannot be read.
    pub fn upload(gpu: &Gpu, tensor: &Tensor, dtype: GpuDtype) -> Result<Self> {
        let problem = |e: candle_core::Error| CudaError::Arguments { operation: "upload", problem: e.to_string() };
        let tensor = tensor.to_dtype(dtype.of_host()).and_then(|t| t.contiguous()).map_err(problem)?;
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return CudaError::arguments("upload", "the tensor is not on the host");
        };
        let (start, end) = (layout.start_offset(), layout.start_offset() + layout.shape().elem_count());
        fn bytes<const W: usize, T: Copy>(values: &[T], to: impl Fn(T) -> [u8; W] + Copy) -> impl Fn(usize, &mut [u8]) {
            move |first, out: &mut [u8]| {
                let (out, _) = out.as_chunks_mut::<W>();
                out.iter_mut().zip(&values[first / W..]).for_each(|(out, value)| *out = to(*value));
            }
        }
        let shape = tensor.dims();
        match storage {
            CpuStorage::F32(all) => Self::write(gpu, shape, dtype, bytes(&all[start..end], f32::to_le_bytes)),
            CpuStorage::BF16(all) => Self::write(gpu, shape, dtype, bytes(&all[start..end], bf16::to_le_bytes)),
            CpuStorage::F16(all) => Self::write(gpu, shape, dtype, bytes(&all[start..end], f16::to_le_bytes)),
            CpuStorage::U8(all) => Self::write(gpu, shape, dtype, bytes(&all[start..end], u8::to_le_bytes)),
            _ => CudaError::arguments("upload", "the tensor has numbers of another kind"),
        }
    }

    /// Bytes of the host as numbers of a shape. The host does not wait.
    ///
    /// # Errors
    /// There is no room, or they are not as many.
    pub fn upload_bytes(gpu: &Gpu, bytes: &[u8], shape: &[usize], dtype: GpuDtype) -> Result<Self> {
        if count(shape).and_then(|n| n.checked_mul(dtype.bytes())) != Some(bytes.len()) {
            let found = bytes.len();
            return CudaError::arguments("upload", format!("{found} bytes for {dtype:?} of shape {shape:?}"));
        }
        Self::write(gpu, shape, dtype, |first, out| out.copy_from_slice(&bytes[first..first + out.len()]))
    }

    /// `fill` writes bytes from its first argument on.
    fn write(gpu: &Gpu, shape: &[usize], dtype: GpuDtype, fill: impl Fn(usize, &mut [u8])) -> Result<Self> {
        let tensor = Self::empty(gpu, shape, dtype)?;
        let total = tensor.bytes();
        for first in (0..total).step_by(PIECE_BYTES) {
            let mut pinned = pin(gpu, PIECE_BYTES.min(total - first))?;
            fill(first, &mut pinned);
            let to = tensor.address() + first as u64;
            // SAFETY: within the tensor, whose memory is used in the order of this stream; what is pinned is held until then.
            unsafe { gpu.compute().copy_in(to, pinned.as_ptr(), pinned.len()) }?;
            gpu.hold(gpu.compute().record()?, pinned);
        }
        Ok(tensor)
    }

    /// Starts to copy its numbers to the host, after what the compute stream has been given so far and beside what it is given
    /// from now on. It is not to be written to before the end of it.
    ///
    /// # Errors
    /// So much memory cannot be pinned, or the driver fails.
    pub fn start_download(&self, gpu: &Gpu) -> Result<Download> {
        let pinned = pin(gpu, self.bytes())?;
        let mut download = Download { pinned, done: None, tensor: self.clone() };
        if self.bytes() > 0 {
            gpu.copies().wait(&gpu.compute().record()?)?;
            // SAFETY: both are kept until the event: whoever drops the download waits.
            unsafe { gpu.copies().copy_out(download.pinned.as_mut_ptr(), self.address(), self.bytes()) }?;
            download.done = Some(gpu.copies().record()?);
        }
        Ok(download)
    }

    /// Its numbers as a tensor on the host, once they are computed.
    ///
    /// # Errors
    /// As [`start_download`](Self::start_download), or something that was to be computed failed.
    pub fn download(&self, gpu: &Gpu) -> Result<Tensor> {
        self.start_download(gpu)?.finish()
    }

    /// Copies its numbers over rows of `to` from `row` on: both have the same numbers and the same shape but for the first
    /// dimension.
    ///
    /// # Errors
    /// They do not.
    pub fn copy_to_rows(&self, gpu: &Gpu, to: &Self, row: usize) -> Result<()> {
        let target = to.narrow(row, self.shape.first().copied().unwrap_or(0))?;
        let apart = !Arc::ptr_eq(&self.buffer, &target.buffer)
            || self.offset + self.bytes() <= target.offset
            || target.offset + self.bytes() <= self.offset;
        if target.shape != self.shape || target.dtype != self.dtype || !apart {
            return CudaError::arguments("copy rows", format!("{self:?} to row {row} of {to:?}"));
        }
        match self.bytes() {
            0 => Ok(()),
            // SAFETY: both are there, in the order of this stream, and do not overlap.
            bytes => unsafe { gpu.compute().copy_within(target.address(), self.address(), bytes) },
        }
    }

    /// Entries `start..start + len` of the first dimension, without a copy.
    ///
    /// # Errors
    /// There are not so many.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        let fits = self.shape.first().is_some_and(|n| start.checked_add(len).is_some_and(|end| end <= *n));
        if !fits {
            return CudaError::arguments("narrow", format!("{len} rows from {start} on of {self:?}"));
        }
        let row = self.shape[1..].iter().product::<usize>() * self.dtype.bytes();
        let mut part = self.clone();
        (part.offset, part.shape[0]) = (self.offset + start * row, len);
        Ok(part)
    }

    /// The same numbers in another shape.
    ///
    /// # Errors
    /// They are not as many.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        match count(shape) == Some(self.elements()) {
            true => Ok(Self { shape: shape.to_vec(), ..self.clone() }),
            false => CudaError::arguments("reshape", format!("{self:?} to {shape:?}")),
        }
    }

    /// The same memory as bytes, in one dimension.
    pub fn as_bytes(&self) -> Self {
        Self { shape: vec![self.bytes()], dtype: GpuDtype::U8, ..self.clone() }
    }

    /// Lengths of its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// What its numbers are.
    pub fn dtype(&self) -> GpuDtype {
        self.dtype
    }

    /// How many there are.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }

    /// Rows and their length, when the last dimension is one.
    pub(crate) fn rows(&self) -> (usize, usize) {
        match self.shape.split_last() {
            Some((width, rest)) => (rest.iter().product(), *width),
            None => (1, 1),
        }
    }

    pub(crate) fn address(&self) -> Address {
        self.buffer.address() + self.offset as u64
    }
}

/// Pinned memory, if need be once earlier copies have let go of theirs.
fn pin(gpu: &Gpu, bytes: usize) -> Result<Pinned> {
    match gpu.pinned().alloc(bytes) {
        Err(CudaError::Pinned { .. }) => {
            gpu.synchronise()?;
            gpu.pinned().alloc(bytes)
        }
        other => other,
    }
}

/// Numbers on their way to the host. Dropping it waits for them.
pub struct Download {
    pinned: Pinned,
    done: Option<Event>,
    tensor: GpuTensor,
}

impl Download {
    /// Waits for them.
    ///
    /// # Errors
    /// The copy failed, or what was to be computed before.
    pub fn finish(mut self) -> Result<Tensor> {
        if let Some(done) = self.done.take() {
            done.synchronise()?;
        }
        fn values<const W: usize, T>(bytes: &[u8], of: impl Fn([u8; W]) -> T) -> Vec<T> {
            bytes.as_chunks::<W>().0.iter().map(|b| of(*b)).collect()
        }
        let (shape, bytes) = (self.tensor.shape(), &*self.pinned);
        let tensor = match self.tensor.dtype() {
            GpuDtype::F32 => Tensor::from_vec(values(bytes, f32::from_le_bytes), shape, &Device::Cpu),
            GpuDtype::Bf16 => Tensor::from_vec(values(bytes, bf16::from_le_bytes), shape, &Device::Cpu),
            GpuDtype::F16 => Tensor::from_vec(values(bytes, f16::from_le_bytes), shape, &Device::Cpu),
            GpuDtype::I8 | GpuDtype::U8 => Tensor::from_vec(bytes.to_vec(), shape, &Device::Cpu),
        };
        tensor.map_err(|e| CudaError::Arguments { operation: "download", problem: e.to_string() })
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // After an error nothing writes to it any more.
            let _ = done.synchronise();
        }
    }
}
