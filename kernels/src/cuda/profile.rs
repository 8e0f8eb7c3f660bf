//! What kernels take, by the GPU's own clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::context::{Event, Stream};
use super::error::Result;

/// What all calls of one kernel took.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelTime {
    /// Its name, say `sd_gemm_bf16`.
    pub kernel: &'static str,
    /// How often it was called.
    pub calls: usize,
    /// From the beginning of each call to its end, added up.
    pub seconds: f64,
}

/// A kernel, and the points before and after its call.
type Call = (&'static str, Event, Event);

/// The calls so far; `None` while nobody asked.
#[derive(Default)]
pub(crate) struct Profile(Mutex<Option<Vec<Call>>>);

impl Profile {
    fn locked(&self) -> MutexGuard<'_, Option<Vec<Call>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn start(&self) {
        *self.locked() = Some(Vec::new());
    }

    /// Gives a stream a call, between two points in time if somebody asked for them.
    pub fn around(&self, kernel: &'static str, stream: &Stream, call: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.locked().is_none() {
            return call();
        }
        let before = stream.record_time()?;
        call()?;
        let after = stream.record_time()?;
        if let Some(calls) = &mut *self.locked() {
            calls.push((kernel, before, after));
        }
        Ok(())
    }

    /// Waits for the calls since the start, and forgets them: the longest first.
    pub fn end(&self) -> Result<Vec<KernelTime>> {
        let calls = self.locked().take().unwrap_or_default();
        let mut sums = BTreeMap::<&'static str, (usize, f64)>::new();
        for (kernel, before, after) in calls {
            after.synchronise()?;
            let (count, seconds) = sums.entry(kernel).or_default();
            *count += 1;
            *seconds += before.seconds_to(&after)?;
        }
        let mut times: Vec<_> =
            sums.into_iter().map(|(kernel, (calls, seconds))| KernelTime { kernel, calls, seconds }).collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}
