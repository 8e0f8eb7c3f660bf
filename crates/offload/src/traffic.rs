//! What was read and moved, and when.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What happens to a unit of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Happening {
    /// A network wants it: what was computed with the one before is done.
    Asked,
    /// A network has it.
    Given,
    /// It begins to be read, from its file or what is kept of it.
    ReadBegins,
    /// It was read.
    ReadEnds,
    /// It begins to be copied to the device.
    CopyBegins,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Since the log began.
    pub at: Duration,
    /// `blocks.7`, or a matrix's name.
    pub unit: String,
    /// What happened to it.
    pub what: Happening,
}

/// What has been read so far.
#[derive(Debug, Default)]
pub struct Traffic {
    pub(crate) bytes: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) copied: AtomicU64,
    log: Option<(Instant, Mutex<Vec<Record>>)>,
}

impl Traffic {
    /// With a log of everything that happens.
    pub fn logged() -> Self {
        Self { log: Some((Instant::now(), Mutex::default())), ..Self::default() }
    }

    /// Bytes of tensors read, in the form they are held in.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many times a block, or a matrix that is moved by itself, was read.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// How many times one was asked for.
    pub fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
    }

    /// Bytes copied from the host's memory to a card's.
    pub fn copied_bytes(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// The log so far; empty without one.
    pub fn log(&self) -> Vec<Record> {
        self.log.as_ref().map_or_else(Vec::new, |(_, log)| log.lock().unwrap_or_else(|e| e.into_inner()).clone())
    }

    pub(crate) fn note(&self, unit: &str, what: Happening) {
        let Some((start, log)) = &self.log else { return };
        let mut log = log.lock().unwrap_or_else(|e| e.into_inner());
        // Under the lock, so that lines are in the order of their times.
        log.push(Record { at: start.elapsed(), unit: unit.to_owned(), what });
    }
}
