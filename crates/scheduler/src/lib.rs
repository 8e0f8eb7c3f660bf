//! Sigmas, timesteps, step rules and guidance arithmetic; knows no model.
//!
//! Flow matching as Wan 2.1 uses it: at noise level `sigma` in `[0, 1]` the sample is
//! `x = (1 − sigma)·x0 + sigma·noise`, the network predicts `velocity = noise − x0`, so `x0 = x − sigma·velocity`.
//!
//! The parts, in the order a run meets them:
//! 1. [`Schedule`], a value: which sampler, at which `sigmas`, with which `timesteps` told to the network.
//! 2. [`noise`](noise()): seeded standard normal numbers, the same on every device.
//! 3. [`GuidancePlan`], a value: which forwards step `i` needs and how their velocities are combined.
//! 4. [`Sampler`]: the state machine that turns `(velocity, latents)` of step `i` into the latents of step `i + 1`,
//!    and whose [`SamplerState`] can be written down after any step and resumed bit for bit.
//!
//! ```
//! use candle_core::{Device, Result};
//! use scheduler::{GuidancePlan, Sampler, SamplerKind, Schedule, SteadyDancerGuidance};
//!
//! # fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
//! let schedule = Schedule::new(SamplerKind::UniPc, 8, 5.0)?;
//! let plan = GuidancePlan::steadydancer(&SteadyDancerGuidance::default(), schedule.num_steps())?;
//! let mut sampler = Sampler::new(schedule.clone(), 42);
//! let mut latents = sampler.initial_latents((1, 16, 1, 2, 2), &Device::Cpu)?;
//! for (i, timestep) in schedule.timesteps().iter().enumerate() {
//!     let velocities = plan
//!         .active(i)
//!         .iter()
//!         .map(|forward| latents.affine(*timestep / 1000.0, 0.0)) // the network, with `forward.branch`'s conditions
//!         .collect::<Result<Vec<_>>>()?;
//!     let velocity = plan.combine(i, &velocities)?;
//!     latents = sampler.step(i, &velocity, &latents)?;
//! }
//! assert_eq!(plan.total_forwards(), 19);
//! # Ok(())
//! # }
//! ```

mod error;
mod guidance;
mod kind;
mod noise;
mod rules;
mod sampler;
mod schedule;
mod state;

pub use error::{GuidanceError, ScheduleError, StepError};
pub use guidance::{ActiveBranch, Branch, GuidancePlan, Polarity, SteadyDancerGuidance, Term, Window};
pub use kind::{SamplerKind, UnknownSampler};
pub use noise::{INITIAL_NOISE_STREAM, noise, step_stream};
pub use sampler::Sampler;
pub use schedule::{
    CAUSVID_1_3B_TIMESTEPS, CAUSVID_14B_TIMESTEPS, DISTILL_4STEP_TIMESTEPS, MAX_NUM_STEPS, NUM_TRAIN_TIMESTEPS,
    RCM_MAX_STEPS, RcmConfig, Schedule,
};
pub use state::{NamedTensor, SamplerState, StateHeader};
