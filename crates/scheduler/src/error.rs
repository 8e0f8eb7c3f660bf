//! What can be wrong with a schedule, a guidance plan or a step.

use crate::SamplerKind;

/// A schedule that cannot be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// No step at all, or more than the network was trained with.
    #[error("the number of steps is {found}; expected 1 to {max}: choose a number in that range")]
    Steps {
        /// The number asked for.
        found: usize,
        /// The largest that is allowed.
        max: usize,
    },
    /// More or fewer steps than rCM's list of angles has.
    #[error("the number of steps is {found}; expected 1 to {max} for rcm: choose one of these or another sampler")]
    RcmSteps {
        /// The number asked for.
        found: usize,
        /// The largest that is allowed.
        max: usize,
    },
    /// A shift that is zero, negative, not a number or beyond all use.
    #[error("shift is {found}; expected a number from {min} to {max}, such as 3 for 480p or 5 for 720p")]
    Shift {
        /// The shift asked for.
        found: f64,
        /// The smallest that is allowed.
        min: f64,
        /// The largest that is allowed.
        max: f64,
    },
    /// rCM's first sigma would not lie above its second, or is no number.
    #[error("sigma_max is {found}; expected a finite number above {above:.4} for {steps} rcm steps, such as 80 or 200")]
    RcmSigmaMax {
        /// The value asked for.
        found: f64,
        /// It must be larger than this.
        above: f64,
        /// The number of steps asked for.
        steps: usize,
    },
    /// A sigma or timestep outside its range.
    #[error("{list}[{index}] is {found}; expected a number above 0 and at most {max} (0 only after the last step)")]
    Range {
        /// `sigmas` or `timesteps`.
        list: &'static str,
        /// Which entry, from 0.
        index: usize,
        /// Its value.
        found: f64,
        /// The largest that is allowed.
        max: f64,
    },
    /// A sigma or timestep that does not lie below the one before it.
    #[error(
        "{list}[{index}] is {found}, which is not below {previous} before it; expected a strictly decreasing list: \
         sort the list and leave out equal values"
    )]
    Order {
        /// `sigmas` or `timesteps`.
        list: &'static str,
        /// Which entry, from 0.
        index: usize,
        /// Its value.
        found: f64,
        /// The value before it.
        previous: f64,
    },
    /// A written schedule whose two lists do not belong together.
    #[error(
        "the schedule has {sigmas} sigmas and {timesteps} timesteps; expected one sigma more than timesteps, \
         the last one 0: write the schedule anew"
    )]
    Lengths {
        /// Entries of `sigmas`.
        sigmas: usize,
        /// Entries of `timesteps`.
        timesteps: usize,
    },
}

/// A guidance plan that cannot be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GuidanceError {
    /// A scale that is not a number or absurdly large.
    #[error("{name} is {found}; expected a number from -{max} to {max}, such as 1 or 5")]
    Scale {
        /// Which setting.
        name: &'static str,
        /// Its value.
        found: f64,
        /// The largest magnitude that is allowed.
        max: f64,
    },
    /// A window that is not an ordered pair of fractions.
    #[error(
        "pose_guidance_interval is {start},{end}; expected two numbers with 0 <= start <= end <= 1, such as 0.1,0.4"
    )]
    Interval {
        /// First fraction of the steps.
        start: f64,
        /// Last fraction of the steps.
        end: f64,
    },
    /// A plan for no step.
    #[error("the guidance plan is for 0 steps; expected at least 1: give it the number of steps of the schedule")]
    NoSteps,
    /// A step at which the coefficients do not add up to 1.
    #[error(
        "the guidance coefficients at step {step} add up to {sum}; expected 1, as every guidance is a weighted mean \
         of velocities: correct the terms of the branches"
    )]
    Sum {
        /// The step, from 0.
        step: usize,
        /// The sum found there.
        sum: f64,
    },
}

/// A step, or a resumption, that does not fit the sampler. Reaches the caller inside [`candle_core::Error`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// Steps must come in order, each once.
    #[error(
        "step {found} was asked of a {sampler} sampler that stands at step {expected} of {num_steps}; \
         expected the steps in order: make a new sampler or resume one from its state"
    )]
    Order {
        /// The sampler.
        sampler: SamplerKind,
        /// The step asked for.
        found: usize,
        /// The step that is due; `num_steps` when the run is over.
        expected: usize,
        /// Steps of the schedule.
        num_steps: usize,
    },
    /// A tensor of another shape than the latents.
    #[error("{name} has shape {found:?}; expected the shape of the latents {expected:?}")]
    Shape {
        /// Which tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// The shape of the latents.
        expected: Vec<usize>,
    },
    /// A dtype the arithmetic is not made for.
    #[error("{name} has dtype {found:?}; expected F32 or F64: convert it first")]
    DType {
        /// Which tensor.
        name: String,
        /// Its dtype.
        found: candle_core::DType,
    },
    /// A number of velocities other than the number of forwards of the step.
    #[error("{found} velocities were given for step {step}; expected {expected}, one for each active branch in order")]
    Velocities {
        /// The step, from 0.
        step: usize,
        /// How many were given.
        found: usize,
        /// How many the plan asks for.
        expected: usize,
    },
    /// A step beyond the guidance plan.
    #[error("guidance for step {found} was asked of a plan for {num_steps} steps; expected a step below that")]
    BeyondPlan {
        /// The step asked for.
        found: usize,
        /// Steps of the plan.
        num_steps: usize,
    },
    /// A state written by a run with another schedule.
    #[error("the saved state does not fit this schedule: {what}; resume with the settings of the first run")]
    OtherSchedule {
        /// The first difference found.
        what: String,
    },
    /// A state whose tensors are not those the sampler needs at that step.
    #[error(
        "the saved state of step {step} holds the tensors {found:?}; expected {expected:?} for {sampler}: \
         the file is damaged or from another version, start the run again"
    )]
    StateTensors {
        /// The sampler.
        sampler: SamplerKind,
        /// The step that is due.
        step: usize,
        /// Names found.
        found: Vec<String>,
        /// Names needed.
        expected: Vec<&'static str>,
    },
}

impl From<StepError> for candle_core::Error {
    fn from(error: StepError) -> Self {
        candle_core::Error::wrap(error)
    }
}
