//! The schedule as a value: which sampler, at which sigmas, with which timesteps.

mod constructors;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use constructors::{
    CAUSVID_1_3B_TIMESTEPS, CAUSVID_14B_TIMESTEPS, DISTILL_4STEP_TIMESTEPS, RCM_MAX_STEPS, RcmConfig,
};

use crate::{SamplerKind, ScheduleError};

/// Steps of the training grid of Wan 2.1: timestep = 1000·sigma.
pub const NUM_TRAIN_TIMESTEPS: f64 = 1000.0;

/// The largest number of steps: one for each training timestep.
pub const MAX_NUM_STEPS: usize = 1000;

/// Sampler, noise levels and timesteps of one run of n steps. Built by its constructors or read back by serde; both
/// check it, so every value of this type can be sampled.
///
/// `Display` writes a small table, serde the three fields. Numbers are f64: a JSON reader must round floats exactly
/// (serde_json: feature `float_roundtrip`), else a sigma may come back one bit off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Schedule {
    sampler: SamplerKind,
    sigmas: Vec<f64>,
    timesteps: Vec<f64>,
}

/// The fields as written, before they are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    sampler: SamplerKind,
    sigmas: Vec<f64>,
    timesteps: Vec<f64>,
}

impl TryFrom<Unchecked> for Schedule {
    type Error = ScheduleError;

    fn try_from(raw: Unchecked) -> Result<Self, Self::Error> {
        Self::checked(raw.sampler, raw.sigmas, raw.timesteps)
    }
}

impl Schedule {
    /// The step rule.
    pub fn sampler(&self) -> SamplerKind {
        self.sampler
    }

    /// Noise levels, n + 1 of them: strictly decreasing, the first in (0, 1], the last 0. Where the reference keeps
    /// them in f32 (unipc, dpm++, dpm++-sde), these are the f32 values.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// What the network is told at each of the n steps, in 0..=1000; integers for unipc, dpm++ and dpm++-sde.
    pub fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    /// Number of steps n, at least 1.
    pub fn num_steps(&self) -> usize {
        self.timesteps.len()
    }

    /// What the standard normal noise of the start is multiplied with: the first sigma for rCM, 1 for all others
    /// (whose references start from plain noise even where the first sigma is 0.9998).
    pub fn initial_noise_scale(&self) -> f64 {
        match self.sampler {
            SamplerKind::Rcm | SamplerKind::RcmOde => self.sigmas.first().copied().unwrap_or(1.0),
            _ => 1.0,
        }
    }

    /// Checks every promise of the type and builds the value.
    fn checked(sampler: SamplerKind, sigmas: Vec<f64>, timesteps: Vec<f64>) -> Result<Self, ScheduleError> {
        check_steps(timesteps.len())?;
        if sigmas.len() != timesteps.len() + 1 || sigmas.last() != Some(&0.0) {
            return Err(ScheduleError::Lengths { sigmas: sigmas.len(), timesteps: timesteps.len() });
        }
        check_decreasing("sigmas", &sigmas[..timesteps.len()], 1.0)?;
        for (index, &found) in timesteps.iter().enumerate() {
            // Not above 0 but from 0, and not decreasing but as they come: truncated timesteps may reach 0 or repeat.
            if !(0.0..=NUM_TRAIN_TIMESTEPS).contains(&found) {
                return Err(ScheduleError::Range { list: "timesteps", index, found, max: NUM_TRAIN_TIMESTEPS });
            }
        }
        Ok(Self { sampler, sigmas, timesteps })
    }
}

fn check_steps(found: usize) -> Result<(), ScheduleError> {
    if (1..=MAX_NUM_STEPS).contains(&found) { Ok(()) } else { Err(ScheduleError::Steps { found, max: MAX_NUM_STEPS }) }
}

/// Each value in (0, max] and below the one before it.
fn check_decreasing(list: &'static str, values: &[f64], max: f64) -> Result<(), ScheduleError> {
    for (index, &found) in values.iter().enumerate() {
        if !(found > 0.0 && found <= max) {
            return Err(ScheduleError::Range { list, index, found, max });
        }
        if let Some(&previous) = index.checked_sub(1).and_then(|before| values.get(before))
            && found >= previous
        {
            return Err(ScheduleError::Order { list, index, found, previous });
        }
    }
    Ok(())
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.num_steps();
        writeln!(f, "{}, {n} step{}", self.sampler, if n == 1 { "" } else { "s" })?;
        write!(f, "step   timestep     sigma  next sigma")?;
        for (i, (timestep, pair)) in self.timesteps.iter().zip(self.sigmas.windows(2)).enumerate() {
            write!(f, "\n{i:>4} {timestep:>10.3} {:>9.6} {:>11.6}", pair[0], pair[1])?;
        }
        Ok(())
    }
}
