//! How much memory there is.

use serde::{Deserialize, Serialize};

/// Memory in which weights and activations live, in bytes. On a CPU that is the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Installed, or the container's limit when that is less.
    pub total_bytes: u64,
    /// What can be taken now without swapping.
    pub available_bytes: u64,
}

impl Memory {
    /// Of this machine, with the limit of a control group (container) honoured.
    pub fn of_host() -> Self {
        let Ok(mut system) = sysinfo::System::new() else {
            // A system that cannot be asked: promise nothing and refuse nothing.
            return Self { total_bytes: u64::MAX, available_bytes: u64::MAX };
        };
        system.refresh_memory();
        let (total, available) = (system.total_memory(), system.available_memory());
        match system.cgroup_limits() {
            Some(limits) if limits.total_memory < total => {
                // What the page cache holds of the limit can be had back; what processes hold cannot.
                let free = limits.total_memory.saturating_sub(limits.rss);
                Self { total_bytes: limits.total_memory, available_bytes: available.min(free) }
            }
            _ => Self { total_bytes: total, available_bytes: available },
        }
    }
}

/// Largest resident size this process has had, in bytes; `None` where the system does not tell.
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
