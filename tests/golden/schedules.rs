//! Sigmas, timesteps and step rules, given the velocity of each step.

use anyhow::{Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use scheduler::{NUM_TRAIN_TIMESTEPS, Sampler, SamplerKind, Schedule};
use serde_json::Value;
use testkit::Case;

use crate::checks::{Checks, Report, count, number};

/// The schedule that a case's configuration names, or where that names no solver of ours, the component.
pub fn schedule(config: &Value, component: Option<&str>) -> Result<Schedule> {
    let solver = config.get("solver").and_then(Value::as_str);
    let kind = match (solver.map(str::parse::<SamplerKind>), component) {
        (Some(Ok(kind)), _) => kind,
        (Some(Err(_)) | None, Some(component)) => component.parse()?,
        (Some(Err(unknown)), None) => return Err(unknown.into()),
        (None, None) => bail!("the case names no solver"),
    };
    for (key, ours) in [("num_train_timesteps", NUM_TRAIN_TIMESTEPS), ("solver_order", 2.0)] {
        let theirs = number(config, key).unwrap_or(ours);
        ensure!(theirs == ours, "{key} is {theirs}; the project has {ours} only");
    }
    Ok(Schedule::new(kind, count(config, "steps")?, number(config, "shift")?)?)
}

pub fn run(case: &Case) -> Result<Report> {
    let schedule = schedule(&case.config, case.component.strip_prefix("scheduler."))?;
    let mut checks = Checks::new(case);
    if checks.has("sigmas") {
        let sigmas = schedule.sigmas();
        checks.output("sigmas", &Tensor::from_slice(sigmas, sigmas.len(), &Device::Cpu)?)?;
    }
    if checks.has("timesteps") {
        checks.exact("timesteps", schedule.timesteps())?;
    }
    let velocity = case.input("velocity")?.to_dtype(DType::F32)?;
    let mut latents = case.input("latents")?.to_dtype(DType::F32)?;
    let steps = (schedule.num_steps(), velocity.dim(0)?, checks.reference("latents_per_step")?.dim(0)?);
    ensure!(steps.0 == steps.1 && steps.0 == steps.2, "steps of the schedule, of velocity, of latents: {steps:?}");
    let mut sampler = Sampler::new(schedule, 0);
    for step in 0..steps.0 {
        latents = sampler.step(step, &velocity.get(step)?, &latents)?;
        checks.step("latents_per_step", step, &latents)?;
    }
    checks.finish()
}
