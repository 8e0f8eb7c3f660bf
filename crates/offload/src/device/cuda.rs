//! A GPU's memory.
//!
//! Weights are copied from pinned memory on the stream for copies, and nobody waits but the GPU: a copy begins when the compute
//! stream has done with what was in the buffer, and the compute stream goes on when the copy is there.

use std::ops::Range;
use std::sync::Arc;

use kernels::cuda::{CudaError, Gpu, GpuOptions, NoGpu};
use kernels::memory::PageBuffer;

use super::ledger::{Counts, Fault, Ledger};
use super::{Buffer, Charge, DeviceError, DeviceMemory, Pending, Place, Use};
use crate::Memory;

/// The most that may be pinned of the host's memory: 60 % of what is available, so that the system does not begin to swap.
pub fn pinned_ceiling(host: Memory) -> u64 {
    host.available_bytes / 5 * 3
}

/// See the module.
pub struct CudaMemory {
    gpu: Gpu,
    ledger: Ledger,
}

impl CudaMemory {
    /// The memory of a GPU of the system, of which at most `budget_bytes`, or what is free, is used.
    ///
    /// # Errors
    /// Why there is no GPU that could be used.
    pub fn open(ordinal: u32, budget_bytes: Option<u64>) -> Result<Self, NoGpu> {
        let pinned_bytes = pinned_ceiling(Memory::of_host());
        Gpu::open(&GpuOptions { ordinal, budget_bytes, pinned_bytes, ..GpuOptions::default() }).map(Self::new)
    }

    /// The memory of a GPU that was opened, within its pool's budget.
    pub fn new(gpu: Gpu) -> Self {
        let ledger = Ledger::new(gpu.facts().name.clone(), gpu.pool().budget_bytes());
        Self { gpu, ledger }
    }

    /// The same with something that will go wrong.
    pub fn with(self, fault: Fault) -> Self {
        self.ledger.add_fault(fault);
        self
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        self.ledger.counts()
    }

    /// Changes what may be used. What is in use stays.
    pub fn set_total(&self, total_bytes: u64) {
        self.ledger.set_total(total_bytes);
        self.gpu.pool().set_budget(total_bytes);
    }

    fn refused(&self, asked: usize, error: CudaError) -> DeviceError {
        match error {
            CudaError::OutOfMemory { asked_bytes, used_bytes, budget_bytes: total }
            | CudaError::Pinned { asked_bytes, used_bytes, ceiling_bytes: total } => {
                self.ledger.refusal(asked_bytes, used_bytes, total)
            }
            other => DeviceError::Driver { device: self.name(), bytes: asked as u64, problem: other.to_string() },
        }
    }

    /// Memory that the GPU copies from by itself; ordinary memory where the system does not let the driver have so much.
    fn pin(&self, bytes: usize) -> Result<Place, DeviceError> {
        match self.gpu.pinned().alloc(bytes) {
            Ok(pinned) => Ok(Place::Pinned(pinned)),
            Err(CudaError::Driver { .. }) => match PageBuffer::zeroed(bytes) {
                Ok(bytes) => Ok(Place::Host(bytes)),
                Err(_) => {
                    let (used, _) = self.gpu.pinned().used_bytes();
                    Err(self.ledger.refusal(bytes as u64, used, self.gpu.pinned().ceiling_bytes()))
                }
            },
            Err(other) => Err(self.refused(bytes, other)),
        }
    }

    fn start_copy(&self, from: Arc<Buffer>, part: Range<usize>, mut to: Buffer) -> Result<Buffer, DeviceError> {
        let bytes = part.len() as u64;
        self.ledger.start_copy(bytes)?;
        let Place::Gpu(target) = &mut to.place else {
            return Err(self.ledger.copy_failed(bytes, "it is not to a buffer of the GPU's"));
        };
        self.gpu.copy_in(from, part, target).map_err(|e| self.ledger.copy_failed(bytes, e))?;
        Ok(to)
    }
}

impl DeviceMemory for CudaMemory {
    fn name(&self) -> String {
        self.ledger.name().to_owned()
    }

    fn memory(&self) -> Memory {
        let own = self.ledger.memory();
        // What others have taken since, and what our pool has and does not use.
        let unused = self.gpu.pool().counts();
        let unused = unused.reserved_bytes.saturating_sub(unused.used_bytes);
        let free = self.gpu.memory().map_or(0, |(free, _)| free).saturating_add(unused);
        Memory { total_bytes: own.total_bytes, available_bytes: own.available_bytes.min(free) }
    }

    fn is_host(&self) -> bool {
        false
    }

    fn alloc(&self, bytes: usize, what: Use) -> Result<Buffer, DeviceError> {
        let charge = self.ledger.charge(bytes as u64, what)?;
        let place = match what {
            Use::Pinned => self.pin(bytes)?,
            _ => Place::Gpu(self.gpu.pool().alloc(bytes).map_err(|e| self.refused(bytes, e))?),
        };
        Ok(Buffer::new(place, charge))
    }

    fn reserve(&self, bytes: u64, what: Use) -> Result<Charge, DeviceError> {
        self.ledger.charge(bytes, what)
    }

    fn copy(&self, from: Arc<Buffer>, part: Range<usize>, to: Buffer) -> Box<dyn Pending> {
        Box::new(Started(self.start_copy(from, part, to)))
    }

    fn check(&self) -> Result<(), DeviceError> {
        self.ledger.check()
    }

    fn trim(&self) {
        // What cannot be given back is told when something is computed.
        let _ = self.gpu.pool().trim();
        self.gpu.pinned().trim();
    }

    fn wait_for_copy(&self) -> bool {
        self.gpu.release_oldest()
    }

    fn pinned_ceiling(&self) -> u64 {
        self.gpu.pinned().ceiling_bytes()
    }

    fn gpu(&self) -> Option<&Gpu> {
        Some(&self.gpu)
    }
}

/// A copy that the GPU has been given. A buffer that is dropped with it is used again when the copy is done.
struct Started(Result<Buffer, DeviceError>);

impl Pending for Started {
    fn finish(self: Box<Self>) -> Result<Buffer, DeviceError> {
        let mut buffer = self.0?;
        if let Place::Gpu(target) = &mut buffer.place {
            let bytes = target.len() as u64;
            target.wait_for_others().map_err(|e| DeviceError::Copy {
                device: "the GPU".to_owned(),
                bytes,
                problem: e.to_string(),
            })?;
        }
        Ok(buffer)
    }
}
