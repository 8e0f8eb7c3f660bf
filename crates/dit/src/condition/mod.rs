//! SteadyDancer's three condition modules (spec steadydancer §1.3 a-d).

mod align;
mod spatial;
mod temporal;

pub(crate) use align::Align;
pub(crate) use spatial::Spatial;
pub(crate) use temporal::Temporal;
