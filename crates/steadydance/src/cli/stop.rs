//! Ctrl-C, SIGTERM and SIGHUP. The first asks the run to stop and tidy up, the second ends the program at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use steadydance::CancelToken;

use super::failure::Failure;
use super::progress::{Told, write_event};
use super::terminal::Terminal;

/// Connects signals to a [`CancelToken`].
#[derive(Clone)]
pub struct Stop {
    token: CancelToken,
    running: Arc<AtomicBool>,
    json: bool,
    terminal: Terminal,
}

impl Stop {
    /// Installs the handler.
    ///
    /// # Errors
    /// The system refuses it.
    pub fn install(json: bool, terminal: Terminal) -> Result<Self, Failure> {
        let stop = Self { token: CancelToken::default(), running: Arc::default(), json, terminal };
        let handler = stop.clone();
        ctrlc::set_handler(move || handler.signal())
            .map_err(|e| Failure::other(format!("cannot watch for Ctrl-C: {e}")))?;
        Ok(stop)
    }

    fn signal(&self) {
        let first = !self.token.is_cancelled();
        self.token.cancel();
        if first && self.running.load(Ordering::SeqCst) {
            self.terminal.say("stopping; press Ctrl-C again to quit at once");
            return;
        }
        // Either nothing is written yet, or the user insists.
        let failure = Failure::interrupted("interrupted");
        if self.json {
            write_event(&Told::Error(&failure));
        }
        self.terminal.error(&failure);
        std::process::exit(130);
    }

    /// Runs `work`, which looks at [`token`](Self::token) itself; outside of it a signal ends the program.
    ///
    /// # Errors
    /// As `work`.
    pub fn guard<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        self.running.store(true, Ordering::SeqCst);
        let result = work();
        self.running.store(false, Ordering::SeqCst);
        result
    }

    /// The flag that a signal sets.
    pub fn token(&self) -> &CancelToken {
        &self.token
    }
}
