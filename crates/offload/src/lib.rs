//! What is resident where and when: the memory of a machine, the plan, and weights that follow it.

mod aliases;
mod device;
mod flags;
mod memory;
mod meter;
mod placed;
mod plan;
mod quality;
mod slab;
mod store;
mod traffic;

pub use aliases::{ALIAS_VARIABLES, Aliases};
pub use device::{
    Buffer, Bus, Charge, Counts, CudaMemory, DeviceError, DeviceMemory, Fault, Pending, Use, VirtualDevice,
    pinned_ceiling,
};
pub use flags::{FlagConflict, MemoryFlags, MemoryMode, OffloadTo, OnPressure, PinMemory, Place};
pub use memory::{Memory, peak_rss_bytes};
pub use meter::{Meter, own_bytes};
pub use placed::{Network, Placed, Residence};
pub use plan::{
    After, Budgets, CONTEXT_BYTES, DeviceFacts, DeviceKind, GIB, HostRates, How, Instead, Job, Machine, NetworkSize,
    Peaks, Phase, PhaseJob, PhasePlan, Piece, Placement, PlanError, Precision, RESERVE_BYTES, Rates, StagePlan, Tier,
    UnknownCard, Way, Work, card, card_names, plan, virtual_card,
};
pub use quality::{Quality, QualityProfile, snap_frames, snap_side};
pub use slab::SLAB_ALIGNMENT;
pub use traffic::{Happening, Record, Traffic};
