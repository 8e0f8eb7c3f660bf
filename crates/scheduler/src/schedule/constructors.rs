//! The published schedules. Formulas: the Wan 2.1 repository's `fm_solvers_unipc.py` and `fm_solvers.py`,
//! ComfyUI-WanVideoWrapper, LightX2V's step-distilled configs, and rCM / TurboDiffusion's sampling scripts.

use half::bf16;
use serde::{Deserialize, Serialize};

use super::{NUM_TRAIN_TIMESTEPS, Schedule, check_decreasing, check_steps};
use crate::{SamplerKind, ScheduleError};

/// Timesteps before the shift of LightX2V's 4-step distilled models; see [`Schedule::euler_distilled`].
pub const DISTILL_4STEP_TIMESTEPS: [f64; 4] = [1000.0, 750.0, 500.0, 250.0];

/// Timesteps of CausVid distilled from the 14B model; see [`Schedule::from_timesteps`].
pub const CAUSVID_14B_TIMESTEPS: [f64; 9] = [999.0, 934.0, 862.0, 756.0, 603.0, 410.0, 250.0, 140.0, 74.0];

/// Timesteps of CausVid distilled from the 1.3B model; see [`Schedule::from_timesteps`].
pub const CAUSVID_1_3B_TIMESTEPS: [f64; 4] = [1000.0, 750.0, 500.0, 250.0];

/// Smallest and largest shift: within it neighbouring sigmas of 1000 steps differ in f32 too.
const SHIFT_RANGE: (f64, f64) = (0.001, 1000.0);

/// rCM's angles after the first, in radians.
const RCM_ANGLES: [f64; 3] = [1.5, 1.4, 1.0];

/// The largest number of steps of rCM.
pub const RCM_MAX_STEPS: usize = RCM_ANGLES.len() + 1;

/// Settings of [`Schedule::rcm`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RcmConfig {
    /// 1 to [`RCM_MAX_STEPS`].
    pub num_inference_steps: usize,
    /// Noise to signal ratio at the start, above tan 1.5 = 14.1 with 2 steps or more: 80 for text to video,
    /// 120 at 720p, 200 for TurboDiffusion's image to video.
    pub sigma_max: f64,
    /// Fresh noise after every step but the last (sampler `rcm`); otherwise the ODE (sampler `rcm-ode`).
    pub stochastic: bool,
    /// Round the network's timesteps to bf16 as the reference does (988 instead of 987.65).
    pub bf16_timesteps: bool,
}

impl Default for RcmConfig {
    /// Four stochastic steps from 80, timesteps rounded as in the reference.
    fn default() -> Self {
        Self { num_inference_steps: RCM_MAX_STEPS, sigma_max: 80.0, stochastic: true, bf16_timesteps: true }
    }
}

impl Schedule {
    /// The usual schedule of `sampler` for 1 to 1000 steps and a `shift` from 0.001 to 1000 (Wan: 3 at 480p, 5 at 720p).
    /// rCM has no shift and at most 4 steps; its other settings are those of [`RcmConfig::default`].
    ///
    /// # Errors
    /// [`ScheduleError`] when a number is out of its range.
    pub fn new(sampler: SamplerKind, num_inference_steps: usize, shift: f64) -> Result<Self, ScheduleError> {
        match sampler {
            SamplerKind::UniPc => Self::unipc(num_inference_steps, shift),
            SamplerKind::DpmPp => Self::dpmpp_2m(num_inference_steps, shift),
            SamplerKind::DpmPpSde => Self::dpmpp_2m_sde(num_inference_steps, shift),
            SamplerKind::Euler => Self::euler(num_inference_steps, shift),
            SamplerKind::Lcm => Self::lcm(num_inference_steps, shift),
            SamplerKind::Rcm | SamplerKind::RcmOde => Self::rcm(&RcmConfig {
                num_inference_steps,
                stochastic: sampler == SamplerKind::Rcm,
                ..RcmConfig::default()
            }),
        }
    }

    /// Wan's FlowUniPC: `linspace(0.999, 0)` shifted; the first sigma is 0.9998 at shift 5, not 1. Timesteps are
    /// 1000·sigma cut to integers before sigma is rounded to f32.
    ///
    /// # Errors
    /// [`ScheduleError`] when a number is out of its range.
    pub fn unipc(num_inference_steps: usize, shift: f64) -> Result<Self, ScheduleError> {
        multistep(SamplerKind::UniPc, num_inference_steps, shift, f64::from(training_sigma_max()))
    }

    /// Wan's DPM-Solver++ 2M: `linspace(1, 0)` shifted, so the first sigma is 1. Timesteps as in [`Self::unipc`].
    ///
    /// # Errors
    /// [`ScheduleError`] when a number is out of its range.
    pub fn dpmpp_2m(num_inference_steps: usize, shift: f64) -> Result<Self, ScheduleError> {
        multistep(SamplerKind::DpmPp, num_inference_steps, shift, 1.0)
    }

    /// ComfyUI-WanVideoWrapper's `dpm++_sde`: the solver is built with the shift, so that the upper end of the grid
    /// is already shifted (0.9998 at shift 5) when the whole grid is shifted again. Timesteps as in [`Self::unipc`].
    ///
    /// # Errors
    /// [`ScheduleError`] when a number is out of its range.
    pub fn dpmpp_2m_sde(num_inference_steps: usize, shift: f64) -> Result<Self, ScheduleError> {
        check_shift(shift)?;
        // The constructor of the reference works in f32.
        let unshifted = training_sigma_max();
        let sigma_max = (shift as f32 * unshifted) / (1.0 + (shift - 1.0) as f32 * unshifted);
        multistep(SamplerKind::DpmPpSde, num_inference_steps, shift, f64::from(sigma_max))
    }

    /// Euler on `shift(1 − i/n)`, ComfyUI's "simple" grid; the timesteps are 1000·sigma, not rounded.
    ///
    /// # Errors
    /// [`ScheduleError`] when a number is out of its range.
    pub fn euler(num_inference_steps: usize, shift: f64) -> Result<Self, ScheduleError> {
        simple(SamplerKind::Euler, num_inference_steps, shift)
    }

    /// LCM on the grid of [`Self::euler`].
    ///
    /// # Errors
    /// [`ScheduleError`] when a number is out of its range.
    pub fn lcm(num_inference_steps: usize, shift: f64) -> Result<Self, ScheduleError> {
        simple(SamplerKind::Lcm, num_inference_steps, shift)
    }

    /// Euler for step-distilled models: `timesteps` in (0, 1000] are those before the shift, such as
    /// [`DISTILL_4STEP_TIMESTEPS`]; sigma = shift(timestep/1000), and the network is told 1000·sigma, not rounded
    /// (1000, 937.5, 833.3, 625 at shift 5).
    ///
    /// # Errors
    /// [`ScheduleError`] when the list is empty, too long, out of range or not strictly decreasing, or for the shift.
    pub fn euler_distilled(timesteps: &[f64], shift: f64) -> Result<Self, ScheduleError> {
        check_shift(shift)?;
        check_steps(timesteps.len())?;
        check_decreasing("timesteps", timesteps, NUM_TRAIN_TIMESTEPS)?;
        let sigmas = timesteps.iter().map(|t| shifted(t / NUM_TRAIN_TIMESTEPS, shift)).collect();
        with_own_timesteps(SamplerKind::Euler, sigmas)
    }

    /// Any sampler on sigmas of your own, strictly decreasing in (0, 1]; the final 0 may be written or left out.
    /// The network is told 1000·sigma, cut to an integer for unipc, dpm++ and dpm++-sde. No shift is applied.
    ///
    /// # Errors
    /// [`ScheduleError`] when the list is empty, too long, out of range or not strictly decreasing.
    pub fn from_sigmas(sampler: SamplerKind, sigmas: &[f64]) -> Result<Self, ScheduleError> {
        let noisy = match sigmas {
            [noisy @ .., last] if *last == 0.0 => noisy,
            all => all,
        };
        with_own_timesteps(sampler, noisy.to_vec())
    }

    /// Any sampler on timesteps of your own, strictly decreasing in (0, 1000], such as [`CAUSVID_14B_TIMESTEPS`] with
    /// Euler: sigma = timestep/1000, and the network is told the list as it stands. No shift is applied.
    ///
    /// # Errors
    /// [`ScheduleError`] when the list is empty, too long, out of range or not strictly decreasing.
    pub fn from_timesteps(sampler: SamplerKind, timesteps: &[f64]) -> Result<Self, ScheduleError> {
        check_steps(timesteps.len())?;
        check_decreasing("timesteps", timesteps, NUM_TRAIN_TIMESTEPS)?;
        let sigmas = timesteps.iter().map(|t| t / NUM_TRAIN_TIMESTEPS).chain([0.0]).collect();
        Schedule::checked(sampler, sigmas, timesteps.to_vec())
    }

    /// rCM / TurboDiffusion: the angles atan(sigma_max), 1.5, 1.4, 1.0 (cut to the number of steps), as rectified
    /// flow times sin/(sin + cos). The starting noise is scaled by the first, see [`Self::initial_noise_scale`].
    ///
    /// # Errors
    /// [`ScheduleError`] for more than [`RCM_MAX_STEPS`] steps, none, or a `sigma_max` not above the second angle.
    pub fn rcm(config: &RcmConfig) -> Result<Self, ScheduleError> {
        let steps = config.num_inference_steps;
        if !(1..=RCM_MAX_STEPS).contains(&steps) {
            return Err(ScheduleError::RcmSteps { found: steps, max: RCM_MAX_STEPS });
        }
        let above = if steps > 1 { RCM_ANGLES[0].tan() } else { 0.0 };
        if !(config.sigma_max.is_finite() && config.sigma_max > above) {
            return Err(ScheduleError::RcmSigmaMax { found: config.sigma_max, above, steps });
        }
        let angles = std::iter::once(config.sigma_max.atan()).chain(RCM_ANGLES).take(steps);
        let mut sigmas: Vec<f64> = angles.map(|angle| angle.sin() / (angle.sin() + angle.cos())).collect();
        let told = |sigma: &f64| {
            let timestep = NUM_TRAIN_TIMESTEPS * sigma;
            if config.bf16_timesteps { bf16::from_f32(timestep as f32).to_f64() } else { timestep }
        };
        let timesteps = sigmas.iter().map(told).collect();
        sigmas.push(0.0);
        let sampler = if config.stochastic { SamplerKind::Rcm } else { SamplerKind::RcmOde };
        Schedule::checked(sampler, sigmas, timesteps)
    }
}

/// Largest sigma of the training grid of Wan's solvers, f32 of 1 − 1/1000.
fn training_sigma_max() -> f32 {
    (1.0 - 1.0 / NUM_TRAIN_TIMESTEPS) as f32
}

/// The timestep shift of flow matching. Operations in this order: truncated timesteps hang on the last bit.
fn shifted(sigma: f64, shift: f64) -> f64 {
    // For some shifts below 1 the quotient at sigma 1 is one bit above 1.
    (shift * sigma / (1.0 + (shift - 1.0) * sigma)).min(1.0)
}

fn check_shift(found: f64) -> Result<(), ScheduleError> {
    let (min, max) = SHIFT_RANGE;
    if (min..=max).contains(&found) { Ok(()) } else { Err(ScheduleError::Shift { found, min, max }) }
}

/// The grid of Wan's multistep solvers, in numpy's f64 arithmetic of `linspace(sigma_max, 0, n + 1)[:-1]`.
fn multistep(sampler: SamplerKind, n: usize, shift: f64, sigma_max: f64) -> Result<Schedule, ScheduleError> {
    check_steps(n)?;
    check_shift(shift)?;
    let step = -sigma_max / n as f64;
    let exact: Vec<f64> = (0..n).map(|i| shifted(i as f64 * step + sigma_max, shift)).collect();
    let timesteps = exact.iter().map(|sigma| (sigma * NUM_TRAIN_TIMESTEPS).trunc()).collect();
    let sigmas = exact.iter().map(|sigma| f64::from(*sigma as f32)).chain([0.0]).collect();
    Schedule::checked(sampler, sigmas, timesteps)
}

fn simple(sampler: SamplerKind, n: usize, shift: f64) -> Result<Schedule, ScheduleError> {
    check_steps(n)?;
    check_shift(shift)?;
    with_own_timesteps(sampler, (0..n).map(|i| shifted(1.0 - i as f64 / n as f64, shift)).collect())
}

/// Sigmas without the final 0, and the timesteps that `sampler` derives from them.
fn with_own_timesteps(sampler: SamplerKind, mut sigmas: Vec<f64>) -> Result<Schedule, ScheduleError> {
    check_steps(sigmas.len())?;
    check_decreasing("sigmas", &sigmas, 1.0)?;
    let told = |sigma: &f64| {
        let timestep = sigma * NUM_TRAIN_TIMESTEPS;
        if sampler.truncates_timesteps() { timestep.trunc() } else { timestep }
    };
    let timesteps = sigmas.iter().map(told).collect();
    sigmas.push(0.0);
    Schedule::checked(sampler, sigmas, timesteps)
}
