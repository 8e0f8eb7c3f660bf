//! Where figures were taken.

use serde::{Deserialize, Serialize};

/// The machine and the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// The program's version.
    pub version: String,
    /// Whether it was compiled for speed: `release`, or `dev` where assertions are compiled in.
    pub profile: String,
    /// Operating system and architecture.
    pub system: String,
    /// The processor as it calls itself.
    pub cpu: String,
    /// The instruction set that kernels use.
    pub instruction_set: String,
    /// Threads that the kernels use.
    pub threads: usize,
    /// Physical cores of the machine, where the system tells.
    pub physical_cores: Option<usize>,
    /// Memory of the machine, in bytes.
    pub ram_bytes: u64,
    /// Work that others did when it was measured: the system's load average of the last minute, where it tells.
    pub load: Option<f64>,
}

impl Environment {
    /// Of this process.
    pub fn here() -> Self {
        let cpu = pipeline::doctor::cpu();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: if cfg!(debug_assertions) { "dev" } else { "release" }.to_owned(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: cpu.name,
            instruction_set: cpu.instruction_set.to_owned(),
            threads: rayon::current_num_threads(),
            physical_cores: cpu.physical_cores,
            ram_bytes: offload::Memory::of_host().total_bytes,
            load: load(),
        }
    }
}

fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}
