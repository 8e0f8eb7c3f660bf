//! The GPU's memory, of which everything comes: parts of large segments, within a budget that is never exceeded.
//!
//! Memory is given and taken back in the order of the compute stream: what is let go of may be given away at once, because what
//! writes to it next comes after what read it. Another stream that uses a buffer waits for an event of the compute stream
//! before, and leaves one of its own with the buffer ([`GpuBuffer::used_until`]), for which the compute stream waits when the
//! buffer is let go of.

mod book;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::{Context, Event, Stream};
use super::driver::{Address, OUT_OF_MEMORY};
use super::error::{CudaError, Result};
use book::{Book, Place};

pub use book::{ALIGNMENT, PoolCounts};

/// See the module.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    context: Arc<Context>,
    compute: Arc<Stream>,
    state: Mutex<State>,
}

struct State {
    book: Book,
    addresses: HashMap<u32, Address>,
    budget_bytes: u64,
    /// Allocations that still succeed before one is refused.
    until_fault: Option<u64>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool with {:?}", self.counts())
    }
}

impl Pool {
    pub(crate) fn new(compute: Arc<Stream>, budget_bytes: u64) -> Self {
        let state = State { book: Book::default(), addresses: HashMap::new(), budget_bytes, until_fault: None };
        Self(Arc::new(Shared { context: compute.context().clone(), compute, state: Mutex::new(state) }))
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bytes` of memory, at least one, for work of the compute stream. What is in it is anything.
    ///
    /// # Errors
    /// [`CudaError::OutOfMemory`], also after what is unused was given back to the driver.
    pub fn alloc(&self, bytes: usize) -> Result<GpuBuffer> {
        let mut state = self.locked();
        let refused = |state: &State| CudaError::OutOfMemory {
            asked_bytes: bytes as u64,
            used_bytes: state.book.counts().used_bytes,
            budget_bytes: state.budget_bytes,
        };
        let faulty = state.until_fault == Some(0);
        state.until_fault = state.until_fault.and_then(|n| n.checked_sub(1));
        let Some(rounded) = book::rounded(bytes).filter(|_| !faulty) else { return Err(refused(&state)) };
        // Also when what was reserved before the budget became smaller has room.
        if state.book.counts().used_bytes + rounded as u64 > state.budget_bytes {
            return Err(refused(&state));
        }
        if let Some(place) = state.book.take(rounded) {
            return Ok(self.buffer(&state, place, bytes));
        }
        if !self.grow(&mut state, rounded)? {
            self.give_unused(&mut state)?;
            if !self.grow(&mut state, rounded)? {
                return Err(refused(&state));
            }
        }
        match state.book.take(rounded) {
            Some(place) => Ok(self.buffer(&state, place, bytes)),
            None => Err(refused(&state)),
        }
    }

    fn buffer(&self, state: &State, place: Place, bytes: usize) -> GpuBuffer {
        let start = state.addresses.get(&place.segment).copied().unwrap_or_default();
        GpuBuffer {
            pool: self.clone(),
            place,
            address: start + place.offset as u64,
            bytes,
            used_until: None,
            free_from: None,
        }
    }

    /// Gets a segment from the driver; `false` when there is no room for one.
    fn grow(&self, state: &mut State, rounded: usize) -> Result<bool> {
        let room = state.budget_bytes.saturating_sub(state.book.counts().reserved_bytes);
        let room = usize::try_from(room).unwrap_or(usize::MAX) / ALIGNMENT * ALIGNMENT;
        // As large as segments should be, or else as small as will do.
        for bytes in [book::segment_bytes(rounded).min(room), rounded] {
            if bytes < rounded || bytes > room {
                return Ok(false);
            }
            let mut address = 0;
            // SAFETY: the pointer is valid for the call.
            match self.0.context.code(|f| unsafe { (f.alloc)(&mut address, bytes) }) {
                0 => {
                    let segment = state.book.add(bytes, rounded);
                    state.addresses.insert(segment, address);
                    return Ok(true);
                }
                OUT_OF_MEMORY => {}
                code => self.0.context.check("allocate memory", code)?,
            }
        }
        Ok(false)
    }

    fn give_unused(&self, state: &mut State) -> Result<()> {
        // What was let go of may still be at work.
        self.0.compute.synchronise()?;
        for segment in state.book.drop_unused() {
            if let Some(address) = state.addresses.remove(&segment) {
                // SAFETY: allocated once, in no buffer, and the work that used it is done.
                self.0.context.call("free memory", |f| unsafe { (f.free)(address) })?;
            }
        }
        Ok(())
    }

    /// Gives segments of which nothing is in use back to the driver, when what was computed with them is done.
    ///
    /// # Errors
    /// Something that was to be done before failed.
    pub fn trim(&self) -> Result<()> {
        self.give_unused(&mut self.locked())
    }

    /// What was counted so far.
    pub fn counts(&self) -> PoolCounts {
        self.locked().book.counts()
    }

    /// Begins the peaks anew from what there is now.
    pub fn restart_peaks(&self) {
        self.locked().book.restart_peaks();
    }

    /// What may be taken of the driver, in bytes.
    pub fn budget_bytes(&self) -> u64 {
        self.locked().budget_bytes
    }

    /// Changes what may be taken. What is in use stays.
    pub fn set_budget(&self, bytes: u64) {
        self.locked().budget_bytes = bytes;
    }

    /// Refuses the allocation that comes after so many others, for tests of what happens then.
    pub fn refuse_after(&self, allocations: u64) {
        self.locked().until_fault = Some(allocations);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The last buffer is gone; what it was used for may not be done. Should that fail, nothing can be done any more.
        let _ = self.compute.synchronise();
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for address in state.addresses.values() {
            // SAFETY: allocated once, and no buffer is left.
            self.context.code(|f| unsafe { (f.free)(*address) });
        }
    }
}

/// Memory of a GPU, given back to the pool when it is dropped.
pub struct GpuBuffer {
    pool: Pool,
    place: Place,
    address: Address,
    bytes: usize,
    used_until: Option<Event>,
    free_from: Option<Event>,
}

impl fmt::Debug for GpuBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "buffer of {} bytes on the GPU", self.bytes)
    }
}

impl GpuBuffer {
    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What it takes of the budget, in bytes.
    pub fn taken_bytes(&self) -> usize {
        self.place.bytes
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// Marks where the compute stream has done with what is in it: what it was given so far.
    ///
    /// # Errors
    /// The driver fails.
    pub fn mark_free(&mut self) -> Result<()> {
        self.free_from = Some(self.pool.0.compute.record()?);
        Ok(())
    }

    /// Gives a stream beside the compute stream a copy to its beginning: after what was [marked](Self::mark_free), or else after
    /// all that the compute stream has been given so far. The event is the end of it, until which neither may be touched.
    ///
    /// # Safety
    /// Nobody writes to the bytes or frees them before the event.
    pub(crate) unsafe fn start_copy_in(&mut self, stream: &Stream, from: &[u8]) -> Result<Event> {
        if from.len() > self.bytes {
            return CudaError::arguments("copy", format!("{} bytes to {self:?}", from.len()));
        }
        let free = match self.free_from.take() {
            Some(event) => event,
            None => self.pool.0.compute.record()?,
        };
        stream.wait(&free)?;
        if !from.is_empty() {
            // SAFETY: as many bytes; the buffer is ours and waits for the event, the rest is the caller's.
            unsafe { stream.copy_in(self.address, from.as_ptr(), from.len()) }?;
        }
        match stream.record() {
            Ok(done) => {
                self.used_until(done.clone());
                Ok(done)
            }
            Err(error) => {
                // Nobody could tell when it is done but by waiting for all.
                let _ = stream.synchronise();
                Err(error)
            }
        }
    }

    /// A stream other than the compute stream uses it until this event. It is not given away before, without anybody waiting
    /// but the GPU.
    pub fn used_until(&mut self, event: Event) {
        self.used_until = Some(event);
    }

    /// Lets the compute stream wait until others have done with it.
    ///
    /// # Errors
    /// The driver fails.
    pub fn wait_for_others(&mut self) -> Result<()> {
        match self.used_until.take() {
            Some(event) => self.pool.0.compute.wait(&event),
            None => Ok(()),
        }
    }
}

impl Drop for GpuBuffer {
    fn drop(&mut self) {
        // Should the driver fail at it, nothing is computed any more either.
        let _ = self.wait_for_others();
        self.pool.locked().book.give_back(self.place);
    }
}
