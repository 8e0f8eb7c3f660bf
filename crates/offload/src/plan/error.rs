//! What a plan says when nothing fits.

use super::{Budgets, Phase};
use crate::MemoryMode;

/// No choice fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// The neediest phase that does not fit.
    pub phase: Phase,
    /// The mode in which it was planned.
    pub mode: MemoryMode,
    /// With at least this, as it may be used, the same request and flags succeed.
    pub needed: Budgets,
    /// What may be used.
    pub budgets: Budgets,
    /// Whether there is a device with memory of its own.
    pub has_device: bool,
    /// Another switch that gets there, and what it needs.
    pub instead: Option<Instead>,
}

/// A switch that needs less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instead {
    /// As it is written on the command line.
    pub switch: String,
    /// What it needs.
    pub needed: Budgets,
    /// Whether it fits what may be used now.
    pub fits: bool,
}

impl std::error::Error for PlanError {}

impl std::fmt::Display for PlanError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (needed, budgets) = (self.needed, self.budgets);
        let lacks_device = self.has_device && needed.device_bytes > budgets.device_bytes;
        let lacks_ram = needed.ram_bytes > budgets.ram_bytes;
        let (mode, even) = match self.mode {
            MemoryMode::Auto => (String::new(), " even with its weights streamed"),
            mode => (format!(" in mode {mode}"), ""),
        };
        let mut short = Vec::new();
        if lacks_device {
            let (need, have) = (gib(needed.device_bytes), gib_down(budgets.device_bytes));
            short.push(format!("{need} of device memory{even}, {have} may be used"));
        }
        if lacks_ram {
            let (need, have) = (gib(needed.ram_bytes), gib_down(budgets.ram_bytes));
            let what = if self.has_device { " of RAM" } else { "" };
            short.push(format!("{need}{what}{even}, {have} may be used"));
        }
        write!(f, "{}{mode} needs {}; ", self.phase, short.join(", and "))?;
        if let Some(instead) = &self.instead {
            match (instead.fits, self.has_device) {
                (true, _) => write!(f, "{} fits, or ", instead.switch)?,
                (false, true) => write!(f, "{} needs {}, or ", instead.switch, gib(instead.needed.device_bytes))?,
                (false, false) => write!(f, "{} needs {}, or ", instead.switch, gib(instead.needed.ram_bytes))?,
            }
        }
        let enough = if lacks_device { needed.device_bytes } else { needed.ram_bytes };
        write!(
            f,
            "free memory, or ask for a smaller --size or fewer --num-frames (at least {} must be available)",
            gib(enough)
        )
    }
}

/// Rounded up: a budget that is read off an error suffices.
fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", (bytes as f64 / f64::from(1 << 30) * 100.0).ceil() / 100.0)
}

fn gib_down(bytes: u64) -> String {
    format!("{:.2} GiB", (bytes as f64 / f64::from(1 << 30) * 100.0).floor() / 100.0)
}
