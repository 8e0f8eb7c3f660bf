//! What of a device's memory is in use, by number: bytes below a budget, and what goes wrong when it is asked to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Charge, DeviceError, Use};
use crate::Memory;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The allocation or reservation of that number, counted from 0, is refused.
    Allocation(u64),
    /// The copy of that number, counted from 0, fails.
    Copy(u64),
    /// From the allocation of that number on there is only so much memory.
    Shrink {
        /// Number of the allocation, counted from 0.
        at: u64,
        /// What may be used from then on, in bytes.
        total_bytes: u64,
    },
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// In use now, in bytes, pinned memory apart.
    pub used_bytes: u64,
    /// The most that was in use.
    pub peak_bytes: u64,
    /// Pinned memory of the host in use now.
    pub pinned_bytes: u64,
    /// The most that was pinned.
    pub pinned_peak_bytes: u64,
    /// Allocations and reservations that were asked for.
    pub allocations: u64,
    /// Copies that were started.
    pub copies: u64,
    /// Bytes of these.
    pub copied_bytes: u64,
}

/// Counts what is in use of a device's memory.
pub(super) struct Ledger {
    name: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    counts: Counts,
    total_bytes: u64,
    faults: Vec<Fault>,
}

impl Ledger {
    pub fn new(name: String, total_bytes: u64) -> Self {
        let state = State { counts: Counts::default(), total_bytes, faults: Vec::new() };
        Self { name, state: Arc::new(Mutex::new(state)) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn add_fault(&self, fault: Fault) {
        locked(&self.state).faults.push(fault);
    }

    pub fn counts(&self) -> Counts {
        locked(&self.state).counts
    }

    pub fn set_total(&self, total_bytes: u64) {
        locked(&self.state).total_bytes = total_bytes;
    }

    pub fn memory(&self) -> Memory {
        let state = locked(&self.state);
        let available_bytes = state.total_bytes.saturating_sub(state.counts.used_bytes);
        Memory { total_bytes: state.total_bytes, available_bytes }
    }

    /// An error when more is in use than may be.
    pub fn check(&self) -> Result<(), DeviceError> {
        let state = locked(&self.state);
        match state.counts.used_bytes > state.total_bytes {
            true => Err(self.refusal(0, state.counts.used_bytes, state.total_bytes)),
            false => Ok(()),
        }
    }

    /// Counts bytes until the result is dropped.
    pub fn charge(&self, bytes: u64, what: Use) -> Result<Charge, DeviceError> {
        let mut state = locked(&self.state);
        let number = state.counts.allocations;
        state.counts.allocations += 1;
        for fault in state.faults.clone() {
            if let Fault::Shrink { at, total_bytes } = fault
                && number >= at
            {
                state.total_bytes = state.total_bytes.min(total_bytes);
            }
        }
        let refused = state.faults.contains(&Fault::Allocation(number));
        let (total_bytes, counts) = (state.total_bytes, &mut state.counts);
        let (used, peak) = match what {
            Use::Pinned => (&mut counts.pinned_bytes, &mut counts.pinned_peak_bytes),
            _ => (&mut counts.used_bytes, &mut counts.peak_bytes),
        };
        let after = used.saturating_add(bytes);
        if refused || (what != Use::Pinned && after > total_bytes) {
            return Err(self.refusal(bytes, *used, total_bytes));
        }
        *used = after;
        *peak = (*peak).max(after);
        let state = self.state.clone();
        Ok(Charge::new(move || {
            let counts = &mut locked(&state).counts;
            match what {
                Use::Pinned => counts.pinned_bytes -= bytes,
                _ => counts.used_bytes -= bytes,
            }
        }))
    }

    /// Counts a copy; an error if it is to fail.
    pub fn start_copy(&self, bytes: u64) -> Result<(), DeviceError> {
        let mut state = locked(&self.state);
        let number = state.counts.copies;
        state.counts.copies += 1;
        state.counts.copied_bytes += bytes;
        match state.faults.contains(&Fault::Copy(number)) {
            true => Err(self.copy_failed(bytes, "as it was asked to")),
            false => Ok(()),
        }
    }

    pub fn copy_failed(&self, bytes: u64, problem: impl ToString) -> DeviceError {
        DeviceError::Copy { device: self.name.clone(), bytes, problem: problem.to_string() }
    }

    /// There is no room for so many bytes.
    pub fn refusal(&self, asked_bytes: u64, used_bytes: u64, total_bytes: u64) -> DeviceError {
        DeviceError::OutOfMemory { device: self.name.clone(), asked_bytes, used_bytes, total_bytes }
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
