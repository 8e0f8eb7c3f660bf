//! What a pull tells, and who may end it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

/// The hub counts requests in windows of five minutes; no server makes us wait for much more than one.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// What a pull tells while it goes on. Events of several files are mixed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PullEvent<'a> {
    /// A file begins, or goes on from `here_bytes`.
    FileStarted {
        /// Its repository.
        repository: &'a str,
        /// The file.
        file: &'a str,
        /// Bytes of it that are here.
        here_bytes: u64,
        /// All of it.
        size_bytes: u64,
    },
    /// Bytes have come, or were thrown away.
    Progress {
        /// Its repository.
        repository: &'a str,
        /// The file.
        file: &'a str,
        /// Bytes of it that are here.
        here_bytes: u64,
        /// All of it.
        size_bytes: u64,
    },
    /// Another process is writing this file; it is waited for.
    Waiting {
        /// Its repository.
        repository: &'a str,
        /// The file.
        file: &'a str,
    },
    /// It did not work and is tried again.
    Retry {
        /// The file or the hub.
        what: &'a str,
        /// What happened.
        problem: &'a str,
        /// Time until then.
        seconds: f64,
    },
    /// A file is complete and checked.
    FileFinished {
        /// Its repository.
        repository: &'a str,
        /// The file.
        file: &'a str,
        /// Its size.
        size_bytes: u64,
    },
}

/// Watches a pull, from several threads at once.
pub trait PullObserver: Sync {
    /// Something happened.
    fn event(&self, event: &PullEvent);

    /// Whether to stop. Asked after every piece that comes, and while waiting for another process or a further try.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Does not listen and never cancels.
impl PullObserver for () {
    fn event(&self, _: &PullEvent) {}
}

/// The observer, and whether another file has failed.
#[derive(Clone, Copy)]
pub(super) struct Watch<'a> {
    pub observer: &'a dyn PullObserver,
    pub stopped: &'a AtomicBool,
}

impl Watch<'_> {
    /// Whether to end here.
    pub fn ends(&self) -> bool {
        self.observer.cancelled() || self.stopped.load(Ordering::SeqCst)
    }

    /// Waits before try number `tries` + 1, twice as long each time unless the server names a time; ends early when
    /// cancelled.
    pub fn pause(&self, what: &str, problem: &str, wait: Option<Duration>, backoff: Duration, tries: u32) {
        let doubled = backoff.saturating_mul(1 << (tries - 1).min(5)).min(Duration::from_secs(30));
        let pause = wait.map_or(doubled, |w| w.min(LONGEST_PAUSE));
        self.observer.event(&PullEvent::Retry { what, problem, seconds: pause.as_secs_f64() });
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if self.ends() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}
