//! A device in the host's memory: the host itself, or a card that is pretended.
//!
//! Everything that the offload manager does with a GPU it does with this one: memory is counted and refused above a budget,
//! copies take the time that a bus of some bandwidth takes, on a thread of their own and one after the other as a copy stream
//! does them, and faults happen when they are asked for.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kernels::memory::PageBuffer;

use super::ledger::{Counts, Fault, Ledger};
use super::{Buffer, Charge, DeviceError, DeviceMemory, Pending, Place, Use};
use crate::Memory;

/// What lies between the host's memory and a card's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bus {
    /// Bytes a second; infinite for as fast as memory is.
    pub bytes_per_second: f64,
}

/// See the module.
pub struct VirtualDevice {
    ledger: Ledger,
    bus: Option<Bus>,
    stream: Mutex<Option<Sender<Job>>>,
}

impl VirtualDevice {
    /// The host's memory, of which `total_bytes` may be used; files are read into it without a copy.
    pub fn host(total_bytes: u64) -> Self {
        Self::new("the host".to_owned(), total_bytes, None)
    }

    /// A card that is not there, with `total_bytes` of its own behind a bus.
    pub fn card(total_bytes: u64, bus: Bus) -> Self {
        Self::new("the virtual card".to_owned(), total_bytes, Some(bus))
    }

    fn new(name: String, total_bytes: u64, bus: Option<Bus>) -> Self {
        Self { ledger: Ledger::new(name, total_bytes), bus, stream: Mutex::new(None) }
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

    /// Changes what may be used, as another program that takes or frees memory does. What is in use stays.
    pub fn set_total(&self, total_bytes: u64) {
        self.ledger.set_total(total_bytes);
    }

    /// The copy stream, whose thread begins with the first copy.
    fn stream(&self) -> Sender<Job> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream
            .get_or_insert_with(|| {
                let (sender, jobs) = channel();
                // Should there be no thread to be had, copies are done by whoever waits for them.
                let _ = thread::Builder::new().name("copy".to_owned()).spawn(move || copy_all(jobs));
                sender
            })
            .clone()
    }
}

impl DeviceMemory for VirtualDevice {
    fn name(&self) -> String {
        self.ledger.name().to_owned()
    }

    fn memory(&self) -> Memory {
        self.ledger.memory()
    }

    fn is_host(&self) -> bool {
        self.bus.is_none()
    }

    fn alloc(&self, bytes: usize, what: Use) -> Result<Buffer, DeviceError> {
        let charge = self.ledger.charge(bytes as u64, what)?;
        let bytes = PageBuffer::zeroed(bytes).map_err(|refused| {
            self.ledger.refusal(refused.0 as u64, self.counts().used_bytes, self.memory().total_bytes)
        })?;
        Ok(Buffer::new(Place::Host(bytes), charge))
    }

    fn reserve(&self, bytes: u64, what: Use) -> Result<Charge, DeviceError> {
        self.ledger.charge(bytes, what)
    }

    fn check(&self) -> Result<(), DeviceError> {
        self.ledger.check()
    }

    fn copy(&self, from: Arc<Buffer>, part: Range<usize>, to: Buffer) -> Box<dyn Pending> {
        let bytes = part.len() as u64;
        let error = self.ledger.start_copy(bytes).err();
        let (done, result) = channel();
        let job = Job { from, part, to, bus: self.bus, error, done };
        match self.stream().send(job) {
            Ok(()) => Box::new(Started(Some(result))),
            Err(unsent) => {
                run(unsent.0, &mut None);
                Box::new(Started(Some(result)))
            }
        }
    }
}

struct Job {
    from: Arc<Buffer>,
    part: Range<usize>,
    to: Buffer,
    bus: Option<Bus>,
    error: Option<DeviceError>,
    done: Sender<Result<Buffer, DeviceError>>,
}

fn copy_all(jobs: Receiver<Job>) {
    // When the bus is free again.
    let mut free = None;
    for job in jobs {
        run(job, &mut free);
    }
}

fn run(job: Job, free: &mut Option<Instant>) {
    let Job { from, part, mut to, bus, error, done } = job;
    let start = free.map_or_else(Instant::now, |free| free.max(Instant::now()));
    let count = part.len();
    let source = from.bytes().and_then(|bytes| bytes.get(part));
    let copied = match (error, source, to.bytes_mut().and_then(|bytes| bytes.get_mut(..count))) {
        (Some(error), ..) => Err(error),
        (None, Some(from), Some(out)) => {
            out.copy_from_slice(from);
            Ok(to)
        }
        _ => {
            let problem = "it is larger than what it is copied from or to".to_owned();
            Err(DeviceError::Copy { device: "the virtual card".to_owned(), bytes: count as u64, problem })
        }
    };
    let seconds = bus.map_or(0.0, |bus| count as f64 / bus.bytes_per_second);
    let end = start + Duration::try_from_secs_f64(seconds).unwrap_or_default();
    *free = Some(end);
    thread::sleep(end.saturating_duration_since(Instant::now()));
    // Before anybody is told: what was copied from is free by then.
    drop(from);
    // Whoever wanted it may have gone.
    let _ = done.send(copied);
}

struct Started(Option<Receiver<Result<Buffer, DeviceError>>>);

impl Pending for Started {
    fn finish(mut self: Box<Self>) -> Result<Buffer, DeviceError> {
        let problem = "the copy's thread has ended".to_owned();
        let lost = DeviceError::Copy { device: "the virtual card".to_owned(), bytes: 0, problem };
        self.0.take().and_then(|result| result.recv().ok()).unwrap_or(Err(lost))
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(result) = self.0.take() {
            // What it was is of no interest any more.
            let _ = result.recv();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_while_it_lives_and_refused_above_the_budget() {
        let device = VirtualDevice::host(1000);
        let a = device.alloc(600, Use::Weights).unwrap();
        let b = device.reserve(300, Use::Activations).unwrap();
        assert_eq!(device.memory(), Memory { total_bytes: 1000, available_bytes: 100 });
        let refused = device.alloc(200, Use::Weights).unwrap_err();
        assert_eq!(refused.to_string(), "the host has no room for 200 bytes more: 900 of 1000 are in use");
        // Pinned memory is another account.
        let pinned = device.alloc(5000, Use::Pinned).unwrap();
        drop((a, b));
        let all = device.alloc(1000, Use::Weights).unwrap();
        assert_eq!(all.len(), 1000);
        let counts = device.counts();
        assert_eq!((counts.used_bytes, counts.peak_bytes, counts.allocations), (1000, 1000, 5));
        drop((all, pinned));
        let counts = device.counts();
        assert_eq!((counts.used_bytes, counts.pinned_bytes, counts.pinned_peak_bytes), (0, 0, 5000));
    }

    #[test]
    fn copies_run_in_order_and_take_the_time_of_the_bus() {
        let device = VirtualDevice::card(1 << 20, Bus { bytes_per_second: 1e6 });
        let mut from = device.alloc(50_000, Use::Pinned).unwrap();
        from.bytes_mut().unwrap().iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        let from = Arc::new(from);
        let start = Instant::now();
        let started: Vec<_> = [0..20_000, 10_000..50_000]
            .into_iter()
            .map(|part| device.copy(from.clone(), part, device.alloc(40_000, Use::Weights).unwrap()))
            .collect();
        // Starting them takes none of it.
        assert_eq!(device.counts().copied_bytes, 60_000);
        let done: Vec<Buffer> = started.into_iter().map(|p| p.finish().unwrap()).collect();
        assert!(start.elapsed() >= Duration::from_millis(60));
        let (first, second, from) = (done[0].bytes().unwrap(), done[1].bytes().unwrap(), from.bytes().unwrap());
        assert_eq!((&first[..20_000], second), (&from[..20_000], &from[10_000..]));
    }

    #[test]
    fn faults_happen_when_they_are_asked_for() {
        let device = VirtualDevice::card(1000, Bus { bytes_per_second: f64::INFINITY })
            .with(Fault::Allocation(1))
            .with(Fault::Copy(0))
            .with(Fault::Shrink { at: 3, total_bytes: 100 });
        let a = device.alloc(10, Use::Weights).unwrap();
        assert!(matches!(device.alloc(10, Use::Weights), Err(DeviceError::OutOfMemory { .. })));
        let from = Arc::new(device.alloc(10, Use::Pinned).unwrap());
        let failed = device.copy(from.clone(), 0..10, a).finish().unwrap_err();
        assert!(matches!(failed, DeviceError::Copy { bytes: 10, .. }), "{failed}");
        assert!(device.alloc(200, Use::Weights).is_err());
        let small = device.alloc(50, Use::Weights).unwrap();
        // More than fits.
        assert!(device.copy(from, 0..60, small).finish().is_err());
    }
}
