//! How much memory this process really has: what predictions are held against.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Often enough to see the temporaries of a block, which live for milliseconds; a look takes some microseconds.
const INTERVAL: Duration = Duration::from_millis(2);

/// Memory of this process that is its own, in bytes: resident pages that are of no file. `None` where the system does not tell.
pub fn own_bytes() -> Option<u64> {
    // In pages: all, resident, of these of files and shared.
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut fields = text.split_whitespace().skip(1).map(|f| f.parse::<u64>().ok());
    let (resident, of_files) = (fields.next()??, fields.next()??);
    Some(resident.saturating_sub(of_files) * page_bytes())
}

fn page_bytes() -> u64 {
    static BYTES: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *BYTES.get_or_init(|| {
        let map =
            std::fs::read_to_string("/proc/self/smaps_rollup").or_else(|_| std::fs::read_to_string("/proc/self/smaps"));
        let found = map.ok().and_then(|map| {
            let line = map.lines().find(|l| l.starts_with("KernelPageSize:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        found.map_or(4096, |kib| kib * 1024)
    })
}

/// Looks at this process's memory again and again, on a thread that ends with it.
#[derive(Debug)]
pub struct Meter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    now: AtomicU64,
    peak: AtomicU64,
    ends: AtomicBool,
}

impl Shared {
    fn look(&self) {
        if let Some(bytes) = own_bytes() {
            self.now.store(bytes, Ordering::Relaxed);
            self.peak.fetch_max(bytes, Ordering::Relaxed);
        }
    }
}

impl Meter {
    /// Begins to look; `None` where the system does not tell.
    pub fn start() -> Option<Self> {
        own_bytes()?;
        let shared = Arc::new(Shared::default());
        shared.look();
        let seen = shared.clone();
        let watch = move || {
            while !seen.ends.load(Ordering::Relaxed) {
                seen.look();
                std::thread::sleep(INTERVAL);
            }
        };
        let thread = std::thread::Builder::new().name("meter".to_owned()).spawn(watch).ok()?;
        Some(Self { shared, thread: Some(thread) })
    }

    /// Bytes at the last look.
    pub fn now(&self) -> u64 {
        self.shared.now.load(Ordering::Relaxed)
    }

    /// The most since the last call, or the start, in bytes. It begins anew from what there is now.
    pub fn take_peak(&self) -> u64 {
        self.shared.look();
        self.shared.peak.swap(self.now(), Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing that could fail.
            let _ = thread.join();
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_seen_and_begin_anew() {
        const BYTES: usize = 64 << 20;
        let meter = Meter::start().unwrap();
        let before = meter.take_peak();
        let mut buffer = kernels::memory::PageBuffer::zeroed(BYTES).unwrap();
        // Memory is taken when it is touched.
        buffer.chunks_mut(4096).for_each(|page| page[0] = 1);
        let with = meter.take_peak();
        drop(buffer);
        let after = (meter.take_peak(), meter.take_peak()).1;
        // Other tests of this process come and go.
        assert!(with >= before + BYTES as u64 / 2 && after <= with - BYTES as u64 / 2, "{before} {with} {after}");
    }
}
