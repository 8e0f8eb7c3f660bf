//! The memory that networks compute in, behind one trait: the host's, a pretended card's, a GPU's.
//!
//! Memory is asked for in buffers that are counted against a budget for as long as they live. Copies into them are started and
//! waited for separately, so that one runs while something else is computed.

mod cuda;
mod ledger;
mod virtual_device;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kernels::cuda::{Gpu, GpuBuffer, Pinned, SharedBuffer};
use kernels::memory::PageBuffer;

use crate::Memory;

pub use cuda::{CudaMemory, pinned_ceiling};
pub use ledger::{Counts, Fault};
pub use virtual_device::{Bus, VirtualDevice};

/// What a device refuses or fails at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// There is no room for a buffer.
    #[error("{device} has no room for {asked_bytes} bytes more: {used_bytes} of {total_bytes} are in use")]
    OutOfMemory {
        /// Whose memory.
        device: String,
        /// What was asked for.
        asked_bytes: u64,
        /// What is in use already.
        used_bytes: u64,
        /// What may be used.
        total_bytes: u64,
    },
    /// A copy was not done.
    #[error("a copy of {bytes} bytes to {device} failed: {problem}")]
    Copy {
        /// To where.
        device: String,
        /// How much.
        bytes: u64,
        /// What the driver said.
        problem: String,
    },
    /// The driver failed at making room, other than for lack of it.
    #[error("{device} failed to make room for {bytes} bytes: {problem}")]
    Driver {
        /// Whose memory.
        device: String,
        /// What was asked for.
        bytes: u64,
        /// What the driver said.
        problem: String,
    },
}

impl DeviceError {
    /// As an error of tensor code, with this one inside.
    pub fn into_candle(self) -> candle_core::Error {
        candle_core::Error::WrappedContext { wrapped: Box::new(self), context: "device memory".into() }
    }

    /// The error of a device inside of an error of tensor code.
    pub fn inside(error: &candle_core::Error) -> Option<&Self> {
        match error {
            candle_core::Error::WrappedContext { wrapped, .. } => wrapped.downcast_ref(),
            candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::Context { inner, .. } => {
                Self::inside(inner)
            }
            _ => None,
        }
    }
}

/// What memory is for: what is told apart in counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Weights, in the device's memory.
    Weights,
    /// What a phase computes with besides, in the device's memory. Only counted: candle allocates it.
    Activations,
    /// Host memory that a card copies from at full speed.
    Pinned,
}

/// Memory of a device, counted until it is dropped.
pub struct Buffer {
    place: Place,
    // After the bytes: what is counted is there.
    charge: Charge,
}

/// Where a buffer lies.
pub(crate) enum Place {
    /// In the host's memory.
    Host(PageBuffer),
    /// In the host's memory, pinned by a GPU's driver.
    Pinned(Pinned),
    /// In a GPU's memory.
    Gpu(GpuBuffer),
}

impl Buffer {
    pub(crate) fn new(place: Place, charge: Charge) -> Self {
        Self { place, charge }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        match &self.place {
            Place::Host(bytes) => bytes.len(),
            Place::Pinned(bytes) => bytes.len(),
            Place::Gpu(buffer) => buffer.len(),
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// To be written, by whoever has it for himself; `None` where the host cannot.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.place {
            Place::Host(bytes) => Some(bytes),
            Place::Pinned(bytes) => Some(bytes),
            Place::Gpu(_) => None,
        }
    }

    /// To be read; `None` where the host cannot.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.place {
            Place::Host(bytes) => Some(bytes),
            Place::Pinned(bytes) => Some(bytes),
            Place::Gpu(_) => None,
        }
    }

    /// Says that nobody computes with it any more, but for what the GPU was given already: from there on it may be written to.
    pub(crate) fn mark_free(&mut self) {
        if let Place::Gpu(buffer) = &mut self.place {
            // Without the mark, all that the GPU was given by the time of the next copy counts.
            let _ = buffer.mark_free();
        }
    }
}

impl AsRef<[u8]> for Buffer {
    /// Nothing where the host cannot read.
    fn as_ref(&self) -> &[u8] {
        self.bytes().unwrap_or(&[])
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "buffer of {} bytes", self.len())
    }
}

/// Gives back what was counted when it is dropped.
pub struct Charge(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Charge {
    /// Runs `give_back` at its end.
    pub fn new(give_back: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(give_back)))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(give_back) = self.0.take() {
            give_back();
        }
    }
}

/// A copy that was started. Once it is dropped, nothing is written to that anybody else may have.
pub trait Pending: Send {
    /// What was copied to, once all of it is there for the next computation: on a GPU, what it is given from now on waits, not
    /// the host.
    ///
    /// # Errors
    /// The copy failed, as far as that is known.
    fn finish(self: Box<Self>) -> Result<Buffer, DeviceError>;
}

/// Memory that networks compute in.
pub trait DeviceMemory: Send + Sync {
    /// What people call it.
    fn name(&self) -> String;

    /// What it has, and has left.
    fn memory(&self) -> Memory;

    /// Whether it is the host's own memory, into which files are read without a copy.
    fn is_host(&self) -> bool;

    /// A buffer for [`Use::Weights`], or [`Use::Pinned`] memory of the host.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn alloc(&self, bytes: usize, what: Use) -> Result<Buffer, DeviceError>;

    /// Counts memory that somebody else allocates, for as long as the result lives.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn reserve(&self, bytes: u64, what: Use) -> Result<Charge, DeviceError>;

    /// Starts to copy a part of the host's memory to the beginning of `to`.
    fn copy(&self, from: Arc<Buffer>, part: Range<usize>, to: Buffer) -> Box<dyn Pending>;

    /// An error when more is in use than may be, because others have taken memory since.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`].
    fn check(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Gives unused memory back to the system.
    fn trim(&self) {}

    /// Waits for a copy that was started, and lets go of what it was made from; `false` where that happens by itself.
    fn wait_for_copy(&self) -> bool {
        false
    }

    /// The most memory of the host that may be [`Use::Pinned`] at a time, in bytes.
    fn pinned_ceiling(&self) -> u64 {
        u64::MAX
    }

    /// The GPU whose memory it is.
    fn gpu(&self) -> Option<&Gpu> {
        None
    }
}

/// A buffer that many read from.
pub(crate) enum Shared {
    Host(Bytes),
    Gpu(Arc<SharedBuffer>),
}

/// Shares a buffer; it is given to `done` with the last of its readers.
pub(crate) fn share(buffer: Buffer, done: impl FnOnce(Buffer) + Send + Sync + 'static) -> Shared {
    struct Read<F: FnOnce(Buffer)>(Option<(Buffer, F)>);
    impl<F: FnOnce(Buffer)> AsRef<[u8]> for Read<F> {
        fn as_ref(&self) -> &[u8] {
            self.0.as_ref().and_then(|(buffer, _)| buffer.bytes()).unwrap_or(&[])
        }
    }
    impl<F: FnOnce(Buffer)> Drop for Read<F> {
        fn drop(&mut self) {
            if let Some((buffer, done)) = self.0.take() {
                done(buffer);
            }
        }
    }
    match buffer {
        Buffer { place: Place::Gpu(buffer), charge } => {
            let done = move |buffer| done(Buffer::new(Place::Gpu(buffer), charge));
            Shared::Gpu(SharedBuffer::new(buffer, done))
        }
        buffer => Shared::Host(Bytes::from_owner(Read(Some((buffer, done))))),
    }
}
