//! The state machine that carries latents from one sigma to the next.

use candle_core::{DType, Device, Result, Shape, Tensor};

use crate::rules::{dpmpp, unipc};
use crate::state::{LAST_SAMPLE, NamedTensor, SamplerState, StateHeader, X0_PREDICTION};
use crate::{INITIAL_NOISE_STREAM, SamplerKind, Schedule, StepError, noise, step_stream};

/// A run in progress: a [`Schedule`], a seed for the noise of stochastic rules, and what multistep rules remember.
///
/// Steps are made in order, each once. All weights are computed on the host in f64; the tensors are combined on the
/// device they are on.
#[derive(Debug, Clone)]
pub struct Sampler {
    schedule: Schedule,
    seed: u64,
    next_step: usize,
    /// x0-predictions, newest first; as many as the rule looks back.
    history: Vec<Tensor>,
    /// UniPC: the corrected sample that the last predictor started from.
    last_sample: Option<Tensor>,
}

/// What a step leaves behind, taken over only when the whole step succeeded.
struct Outcome {
    latents: Tensor,
    x0: Option<Tensor>,
    last_sample: Option<Tensor>,
}

impl Outcome {
    fn forgetful(latents: Tensor) -> Self {
        Self { latents, x0: None, last_sample: None }
    }
}

impl Sampler {
    /// A run that stands before step 0. `seed` names the noise of [`Self::initial_latents`] and of every stochastic
    /// step; deterministic rules do not look at it in [`Self::step`].
    pub fn new(schedule: Schedule, seed: u64) -> Self {
        Self { schedule, seed, next_step: 0, history: Vec::new(), last_sample: None }
    }

    /// The schedule of the run.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The step that is due, from 0; the number of steps when the run is over.
    pub fn next_step(&self) -> usize {
        self.next_step
    }

    /// The latents to start from: [`noise`](crate::noise()) of stream [`INITIAL_NOISE_STREAM`], f32, times
    /// [`Schedule::initial_noise_scale`].
    ///
    /// # Errors
    /// When the tensor cannot be made on `device`.
    pub fn initial_latents(&self, shape: impl Into<Shape>, device: &Device) -> Result<Tensor> {
        let start = noise(shape, self.seed, INITIAL_NOISE_STREAM, device)?;
        match self.schedule.initial_noise_scale() {
            1.0 => Ok(start),
            scale => start.affine(scale, 0.0),
        }
    }

    /// Step `i`: from the latents at `sigmas[i]` and the (guided) velocity that the network gave for exactly these
    /// latents to the latents at `sigmas[i + 1]`; after the last step these are the predicted x0.
    ///
    /// `latents`: any shape, f32 or f64; `velocity`: the same shape, any float dtype, converted to the dtype of the
    /// latents. Returns the shape and dtype of `latents`. An error leaves the sampler as it was.
    ///
    /// Formulas: see the modules of the rules (UniPC arXiv 2302.04867, DPM-Solver++ arXiv 2211.01095), Euler
    /// `x + (sigma' − sigma)·v`, LCM and rCM `(1 − sigma')·x0 + sigma'·noise`.
    ///
    /// # Errors
    /// [`StepError`] inside the candle error for a step out of order, shapes that differ or another dtype; candle's
    /// own when the device fails.
    pub fn step(&mut self, i: usize, velocity: &Tensor, latents: &Tensor) -> Result<Tensor> {
        self.check(i, velocity, latents)?;
        let velocity = velocity.to_dtype(latents.dtype())?;
        let outcome = match self.schedule.sampler() {
            SamplerKind::UniPc => self.unipc(i, &velocity, latents)?,
            SamplerKind::DpmPp => self.dpmpp(i, &velocity, latents, false)?,
            SamplerKind::DpmPpSde => self.dpmpp(i, &velocity, latents, true)?,
            SamplerKind::Euler | SamplerKind::RcmOde => self.euler(i, &velocity, latents)?,
            SamplerKind::Lcm | SamplerKind::Rcm => self.renoise(i, &velocity, latents)?,
        };
        if let Some(x0) = outcome.x0 {
            self.history.insert(0, x0);
            self.history.truncate(lookback(self.schedule.sampler()));
        }
        self.last_sample = outcome.last_sample;
        self.next_step += 1;
        Ok(outcome.latents)
    }

    /// Everything the next step depends on besides its own latents, copied to the host.
    ///
    /// # Errors
    /// When a tensor cannot be copied from the device.
    pub fn state(&self) -> Result<SamplerState> {
        let history = X0_PREDICTION.into_iter().zip(&self.history);
        let last = self.last_sample.iter().map(|tensor| (LAST_SAMPLE, tensor));
        let tensors = history
            .chain(last)
            .map(|(name, tensor)| {
                let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
                Ok(NamedTensor { name: name.to_owned(), tensor })
            })
            .collect::<Result<Vec<_>>>()?;
        let header = StateHeader { schedule: self.schedule.clone(), seed: self.seed, next_step: self.next_step };
        Ok(SamplerState { header, tensors })
    }

    /// The run that wrote `state`, on `device`, standing where it stood; with the latents of that moment it continues
    /// bit for bit. `schedule` is that of the settings at hand and must be the one in the state (to 1e-9).
    ///
    /// # Errors
    /// [`StepError`] inside the candle error when the schedules differ or a tensor is missing, unknown or of a wrong
    /// shape or dtype; candle's own when a tensor cannot be copied to `device`.
    pub fn resume(schedule: Schedule, state: &SamplerState, device: &Device) -> Result<Self> {
        state.check_schedule(&schedule)?;
        let step = state.header.next_step;
        let num_predictions = step.min(lookback(schedule.sampler()));
        let keeps_sample = schedule.sampler() == SamplerKind::UniPc && step > 0;
        let mut expected = X0_PREDICTION[..num_predictions].to_vec();
        expected.extend(keeps_sample.then_some(LAST_SAMPLE));
        let mut tensors = state
            .take_tensors(&expected)?
            .into_iter()
            .map(|tensor| tensor.to_device(device))
            .collect::<Result<Vec<_>>>()?;
        let last_sample = if keeps_sample { tensors.pop() } else { None };
        Ok(Self { schedule, seed: state.header.seed, next_step: step, history: tensors, last_sample })
    }

    fn check(&self, i: usize, velocity: &Tensor, latents: &Tensor) -> std::result::Result<(), StepError> {
        let (expected, num_steps) = (self.next_step, self.schedule.num_steps());
        if i != expected || i >= num_steps {
            let sampler = self.schedule.sampler();
            return Err(StepError::Order { sampler, found: i, expected, num_steps });
        }
        if !matches!(latents.dtype(), DType::F32 | DType::F64) {
            return Err(StepError::DType { name: "latents".to_owned(), found: latents.dtype() });
        }
        let remembered = self.history.iter().chain(&self.last_sample).map(|tensor| ("the sampler's history", tensor));
        for (name, tensor) in std::iter::once(("velocity", velocity)).chain(remembered) {
            if tensor.dims() != latents.dims() {
                let (found, expected) = (tensor.dims().to_vec(), latents.dims().to_vec());
                return Err(StepError::Shape { name: name.to_owned(), found, expected });
            }
        }
        Ok(())
    }

    fn is_last(&self, i: usize) -> bool {
        i + 1 == self.schedule.num_steps()
    }

    fn x0(&self, i: usize, velocity: &Tensor, latents: &Tensor) -> Result<Tensor> {
        weighted_sum(&[(1.0, Some(latents)), (-self.schedule.sigmas()[i], Some(velocity))])
    }

    fn unipc(&self, i: usize, velocity: &Tensor, latents: &Tensor) -> Result<Outcome> {
        let sigmas = self.schedule.sigmas();
        // The prediction belongs to the latents the network saw; only then are these corrected with it.
        let x0 = self.x0(i, velocity, latents)?;
        let corrected = match (self.history.as_slice(), &self.last_sample) {
            ([current, before @ ..], Some(last_sample)) => {
                let rule = unipc::corrector(sigmas, i);
                let previous = difference(before.first(), current)?;
                let next = difference(Some(&x0), current)?;
                weighted_sum(&[
                    (rule.sample, Some(last_sample)),
                    (rule.current, Some(current)),
                    (rule.previous, previous.as_ref()),
                    (rule.next, next.as_ref()),
                ])?
            }
            _ => latents.clone(),
        };
        let latents = if self.is_last(i) {
            x0.clone()
        } else {
            let rule = unipc::predictor(sigmas, i);
            let previous = difference(self.history.first(), &x0)?;
            weighted_sum(&[
                (rule.sample, Some(&corrected)),
                (rule.current, Some(&x0)),
                (rule.previous, previous.as_ref()),
            ])?
        };
        Ok(Outcome { latents, x0: Some(x0), last_sample: Some(corrected) })
    }

    fn dpmpp(&self, i: usize, velocity: &Tensor, latents: &Tensor, stochastic: bool) -> Result<Outcome> {
        let x0 = self.x0(i, velocity, latents)?;
        if self.is_last(i) {
            return Ok(Outcome { latents: x0.clone(), x0: Some(x0), last_sample: None });
        }
        let rule = dpmpp::rule(self.schedule.sigmas(), i, stochastic);
        let slope = self.history.first().map(|previous| &x0 - previous).transpose()?;
        let fresh = if stochastic { Some(self.fresh_noise(i, latents)?) } else { None };
        let latents = weighted_sum(&[
            (rule.sample, Some(latents)),
            (rule.current, Some(&x0)),
            (rule.slope, slope.as_ref()),
            (rule.noise, fresh.as_ref()),
        ])?;
        Ok(Outcome { latents, x0: Some(x0), last_sample: None })
    }

    fn euler(&self, i: usize, velocity: &Tensor, latents: &Tensor) -> Result<Outcome> {
        let sigmas = self.schedule.sigmas();
        let step = sigmas[i + 1] - sigmas[i];
        Ok(Outcome::forgetful(weighted_sum(&[(1.0, Some(latents)), (step, Some(velocity))])?))
    }

    fn renoise(&self, i: usize, velocity: &Tensor, latents: &Tensor) -> Result<Outcome> {
        let x0 = self.x0(i, velocity, latents)?;
        if self.is_last(i) {
            return Ok(Outcome::forgetful(x0));
        }
        let sigma = self.schedule.sigmas()[i + 1];
        let fresh = self.fresh_noise(i, latents)?;
        Ok(Outcome::forgetful(weighted_sum(&[(1.0 - sigma, Some(&x0)), (sigma, Some(&fresh))])?))
    }

    fn fresh_noise(&self, i: usize, like: &Tensor) -> Result<Tensor> {
        noise(like.shape().clone(), self.seed, step_stream(i), like.device())?.to_dtype(like.dtype())
    }
}

/// How many x0-predictions a rule looks back on from the next step.
fn lookback(sampler: SamplerKind) -> usize {
    match sampler {
        SamplerKind::UniPc => 2,
        SamplerKind::DpmPp | SamplerKind::DpmPpSde => 1,
        SamplerKind::Euler | SamplerKind::Lcm | SamplerKind::Rcm | SamplerKind::RcmOde => 0,
    }
}

/// tensor − origin, where there is a tensor.
fn difference(tensor: Option<&Tensor>, origin: &Tensor) -> Result<Option<Tensor>> {
    tensor.map(|tensor| tensor - origin).transpose()
}

/// Sum of weight·tensor over the terms that have a tensor and a weight other than 0.
fn weighted_sum(terms: &[(f64, Option<&Tensor>)]) -> Result<Tensor> {
    let mut sum: Option<Tensor> = None;
    for (weight, tensor) in terms {
        let Some(tensor) = tensor.filter(|_| *weight != 0.0) else {
            continue;
        };
        let term = if *weight == 1.0 { tensor.clone() } else { tensor.affine(*weight, 0.0)? };
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    sum.ok_or_else(|| candle_core::Error::msg("a step rule without a term"))
}
