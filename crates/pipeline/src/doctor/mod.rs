//! What this machine is, whether the program would work on it, and what to do about what is not well.

mod disk;
mod gpu;
mod models;
mod warnings;

use std::path::PathBuf;
use std::thread::available_parallelism;

use ::models::KnownModel;
use media::video::Codecs;
use offload::Memory;
use serde::Serialize;
use sysinfo::System;
use weights::hub::{Cache, Settings};

use crate::EngineOptions;
use crate::poses::lossy;

pub use disk::{Disk, ReadSpeed};
pub use gpu::Gpu;
pub use models::{HostedModel, Verdict};

/// What a diagnosis is asked for.
#[derive(Debug, Clone)]
pub struct DoctorOptions {
    /// The models that are looked for: [`known_models`](::models::known_models), or these with one's own.
    pub models: Vec<KnownModel>,
    /// The hub's settings.
    pub hub: Settings,
    /// How models would be opened.
    pub engine: EngineOptions,
    /// Whether the speed of the disk is measured, which reads, or writes and reads, at most 256 MB.
    pub measure_disk: bool,
}

/// The state of a machine. Everything is found out without a model's weights and without the network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnosis {
    /// Of this library and program.
    pub version: &'static str,
    /// Operating system and architecture, say `linux x86_64`.
    pub system: String,
    /// The processor.
    pub cpu: Cpu,
    /// What the driver tells of NVIDIA's GPUs; none without one.
    pub gpus: Vec<Gpu>,
    /// Why there are none.
    pub no_gpu: Option<String>,
    /// The devices that this build can compute on.
    pub devices: Vec<&'static str>,
    /// Memory, with the limit of a container honoured.
    pub memory: Memory,
    /// The disk that models are on.
    pub disk: Disk,
    /// What can be written.
    pub codecs: Codecs,
    /// The hub's settings and cache.
    pub hub: HubState,
    /// Models that make clips, each with whether it would run: the embedded one first.
    pub models: Vec<HostedModel>,
    /// What is not well, each with what to do; the first is why the demo does not run, if it does not.
    pub warnings: Vec<String>,
    /// Why a run of the demo would not work; `None` if it would.
    pub problem: Option<String>,
}

/// A processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// As it calls itself; empty where the system does not tell.
    pub name: String,
    /// The instruction set that kernels use, as `kernels::instruction_set` names it.
    pub instruction_set: &'static str,
    /// Cores that this process may use at once, a container's limit honoured.
    pub threads: usize,
    /// Physical cores of the machine, where the system tells.
    pub physical_cores: Option<usize>,
}

/// The hub's settings as the environment says, and what is in its cache. A token is never shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HubState {
    /// Folder of the cache.
    #[serde(serialize_with = "lossy")]
    pub cache: PathBuf,
    /// Bytes of all that is in it, of whatever program.
    pub cache_bytes: u64,
    /// Names of models that are complete in it.
    pub models: Vec<String>,
    /// Address of the hub.
    pub endpoint: String,
    /// Whether there is a token.
    pub has_token: bool,
    /// Whether the network is not to be used (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Seconds to wait for the next byte (`HF_HUB_DOWNLOAD_TIMEOUT`).
    pub read_timeout_s: u64,
}

/// Looks at this machine.
pub fn diagnose(options: &DoctorOptions) -> Diagnosis {
    let cache = Cache::new(&options.hub.cache);
    let contents = cache.contents();
    let memory = Memory::of_host();
    let models = models::hosted(options, &cache, &memory);
    let (gpus, no_gpu) = gpu::find();
    let devices = if gpus.iter().any(|gpu| gpu.problem.is_none()) { vec!["cpu", "cuda"] } else { vec!["cpu"] };
    let mut found = Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cpu: cpu(),
        gpus,
        no_gpu,
        devices,
        memory,
        disk: disk::examine(cache.root(), &contents, options.measure_disk),
        codecs: media::video::codecs(),
        hub: HubState {
            cache: cache.root().to_owned(),
            cache_bytes: contents.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)),
            models: models::complete(&options.models, &cache),
            endpoint: options.hub.endpoint.clone(),
            has_token: options.hub.token.is_some(),
            offline: options.hub.offline,
            read_timeout_s: options.hub.read_timeout.as_secs(),
        },
        models,
        warnings: Vec::new(),
        problem: None,
    };
    found.problem = warnings::problem(&found);
    found.warnings = found.problem.iter().cloned().chain(warnings::warnings(&found)).collect();
    found
}

/// How fast the disk reads on which the hub's cache is, by its largest file or one that is written for it; `None` where it cannot be
/// measured.
pub fn disk_speed(hub: &Settings) -> Option<ReadSpeed> {
    let cache = Cache::new(&hub.cache);
    disk::examine(cache.root(), &cache.contents(), true).read
}

/// The processor of this machine.
pub fn cpu() -> Cpu {
    let name = System::new().ok().and_then(|mut system| {
        system.refresh_cpu_list(sysinfo::CpuRefreshKind::nothing());
        Some(system.cpus().first()?.brand().trim().to_owned())
    });
    Cpu {
        name: name.unwrap_or_default(),
        instruction_set: kernels::instruction_set(),
        threads: available_parallelism().map_or(1, usize::from),
        physical_cores: System::physical_core_count().ok(),
    }
}
