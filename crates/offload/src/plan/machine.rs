//! What a plan must know of a machine.

use kernels::Compute;
use serde::{Deserialize, Serialize};

use crate::Memory;

/// One gibibyte.
pub const GIB: u64 = 1 << 30;
/// What a CUDA context, its libraries and workspaces take of the device (spec memory_and_avatars §4.5): 0.6 GiB.
pub const CONTEXT_BYTES: u64 = GIB * 6 / 10;
/// What is left to other programs of a device when nothing else is said (§4.2): 0.5 GiB.
pub const RESERVE_BYTES: u64 = GIB / 2;
/// Sustained FLOP/s of one core where nothing was measured, in f32, bf16 and int8: round figures of this project's products on a
/// core with AVX-512 of a shared machine.
const CORE_FLOPS: HostRates = HostRates { single: 1e11, half: 1.6e11, int8: 3e11 };
/// What large products reach of the peaks that are measured between registers: 75 to 80 % of them, less what is not products.
const SUSTAINED: f64 = 2.0 / 3.0;
/// Sustained reads of a usual NVMe drive (§4.1).
const DISK_BYTES_PER_SECOND: f64 = 3.5e9;

/// A machine as a plan sees it. A value: it may be this machine, a card from [`card`](crate::card), or made up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Where networks are computed unless the plan puts them on the CPU.
    pub device: DeviceFacts,
    /// Memory of the host.
    pub ram: Memory,
    /// Sustained reads of weight files that are not in the page cache.
    pub disk_bytes_per_second: f64,
    /// Sustained arithmetic of all cores.
    pub host: HostRates,
}

/// Sustained arithmetic of all cores of the host, in FLOP/s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HostRates {
    /// f32.
    pub single: f64,
    /// Products of bf16.
    pub half: f64,
    /// Products of int8.
    pub int8: f64,
}

impl HostRates {
    /// The same in all numbers.
    pub fn uniform(flops: f64) -> Self {
        Self { single: flops, half: flops, int8: flops }
    }

    /// In these numbers.
    pub fn of(&self, compute: Compute) -> f64 {
        match compute {
            Compute::Bf16 => self.half,
            Compute::Int8 => self.int8,
            _ => self.single,
        }
    }

    /// What is expected of the machine at hand, by its cores and instructions.
    pub fn expected() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get()) as f64;
        let [single, half, int8] = [CORE_FLOPS.single, CORE_FLOPS.half, CORE_FLOPS.int8].map(|flops| flops * cores);
        // What the machine cannot do is done in the next wider numbers.
        let half = if Compute::Bf16.is_available() { half } else { single };
        Self { single, half, int8: if Compute::Int8.is_available() { int8 } else { half } }
    }

    /// What the machine at hand does: measured between registers, and of that what large products reach. Takes a second.
    pub fn measured() -> Self {
        let peak = kernels::peak::probe();
        let single = SUSTAINED * 1e9 * peak.f32_gflops;
        let half = peak.bf16_gflops.map_or(single, |rate| SUSTAINED * 1e9 * rate);
        Self { single, half, int8: peak.int8_gops.map_or(half, |rate| SUSTAINED * 1e9 * rate) }
    }
}

/// What kind of device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceKind {
    /// The host's processor: its memory is [`Machine::ram`], one budget for everything.
    Cpu,
    /// A GPU with memory of its own, whose context takes [`CONTEXT_BYTES`].
    Cuda,
    /// A made-up GPU of a given budget: as [`Cuda`](Self::Cuda), but nobody else uses it, so nothing is reserved.
    Virtual,
}

/// The device's memory and speed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// For people.
    pub name: String,
    /// What it is.
    pub kind: DeviceKind,
    /// As the driver reports it; of a CPU that of the host.
    pub total_bytes: u64,
    /// What can be had now. Never derived from the total where other programs may be.
    pub free_bytes: u64,
    /// Host to device from pinned memory.
    pub pinned_bytes_per_second: f64,
    /// Host to device from ordinary memory.
    pub pageable_bytes_per_second: f64,
    /// Sustained arithmetic.
    pub rates: Rates,
    /// Whether it computes in bf16; else f16 stands in.
    pub has_bf16: bool,
}

/// Sustained arithmetic in FLOP/s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// f32.
    pub single: f64,
    /// Matrix products and attention in bf16 or f16. Weights of 8 bits and less are decoded on the way to the same units.
    pub half: f64,
}

impl Machine {
    /// This machine without a GPU. Speeds are rough constants: they order plans, they promise nothing.
    pub fn of_host() -> Self {
        Self::cpu(Memory::of_host())
    }

    /// A machine without a GPU, of as many cores as this one, and with this memory.
    pub fn cpu(ram: Memory) -> Self {
        let host = HostRates::expected();
        let device = DeviceFacts {
            name: "CPU".to_owned(),
            kind: DeviceKind::Cpu,
            total_bytes: ram.total_bytes,
            free_bytes: ram.available_bytes,
            pinned_bytes_per_second: f64::MAX,
            pageable_bytes_per_second: f64::MAX,
            rates: Rates { single: host.single, half: host.half },
            has_bf16: true,
        };
        Self { device, ram, disk_bytes_per_second: DISK_BYTES_PER_SECOND, host }
    }

    /// With what was measured of the host.
    #[must_use]
    pub fn with_host(self, host: HostRates) -> Self {
        let mut machine = Self { host, ..self };
        if machine.is_cpu() {
            machine.device.rates = Rates { single: host.single, half: host.half };
        }
        machine
    }

    /// The host's side of a machine with this device.
    #[must_use]
    pub fn with_device(self, device: DeviceFacts) -> Self {
        Self { device, ..self }
    }

    /// Whether everything is computed on the CPU.
    pub fn is_cpu(&self) -> bool {
        self.device.kind == DeviceKind::Cpu
    }
}
