//! What is resident where and when: the memory of this machine, the plan, and weights that follow it.

mod memory;
mod placed;
mod plan;

pub use memory::{Memory, peak_rss_bytes};
pub use placed::{Placed, Traffic};
pub use plan::{Phase, PhaseNeeds, PhasePlan, Placement, PlanError, StagePlan, plan};
