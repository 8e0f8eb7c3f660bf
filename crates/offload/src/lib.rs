//! What is resident where and when: the memory of this machine, the plan, and weights that follow it.

mod device;
mod memory;
mod meter;
mod placed;
mod plan;
mod slab;
mod store;
mod traffic;

pub use device::{Buffer, Bus, Charge, Counts, DeviceError, DeviceMemory, Fault, Pending, Use, VirtualDevice};
pub use memory::{Memory, peak_rss_bytes};
pub use meter::{Meter, own_bytes};
pub use placed::{Network, Placed, Residence};
pub use plan::{Phase, PhaseNeeds, PhasePlan, Placement, PlanError, StagePlan, plan};
pub use slab::SLAB_ALIGNMENT;
pub use traffic::{Happening, Record, Traffic};
