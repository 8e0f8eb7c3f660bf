//! The whole sampling loop: network, guidance and sampler together.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use dit::Dit;
use pipeline::{Conditions, Watch};
use scheduler::{GuidancePlan, Sampler, Schedule, SteadyDancerGuidance};
use serde_json::Value;
use testkit::Case;
use weights::{Resident, TensorMap};

use crate::checks::{Checks, Report, flat, without_batch};
use crate::{networks, schedules};

/// Notes every step, and how often the network's first block ran in it.
#[derive(Default)]
struct Recorder {
    velocities: Vec<Tensor>,
    latents: Vec<Tensor>,
    forwards: Vec<f64>,
}

impl Watch for Recorder {
    fn block(&mut self, step: usize, block: usize, _output: &Tensor) -> candle_core::Result<()> {
        self.forwards.resize(self.forwards.len().max(step + 1), 0.0);
        self.forwards[step] += if block == 0 { 1.0 } else { 0.0 };
        Ok(())
    }

    fn step(&mut self, _step: usize, velocity: &Tensor, latents: &Tensor) -> candle_core::Result<()> {
        self.velocities.push(velocity.clone());
        self.latents.push(latents.clone());
        Ok(())
    }
}

struct Loop {
    dit: Dit,
    conditions: Conditions,
    schedule: Schedule,
    guidance: SteadyDancerGuidance,
    noise: Tensor,
}

impl Loop {
    fn read(case: &Case) -> Result<Self> {
        let config = networks::config(case.config.get("dit").unwrap_or(&case.config), &case.weights)?;
        let source = Resident::new(Arc::new(TensorMap(case.weights.clone())), Device::Cpu, None);
        let input = |name: &str| without_batch(&case.input(name)?.to_dtype(DType::F32)?, 4);
        let tokens = |name: &str| without_batch(&case.input(name)?, 2);
        let noise = input("noise")?;
        let (_, frames, h, w) = noise.dims4()?;
        let neg = |name: &str| case.inputs.contains_key(name);
        let conditions = Conditions {
            text_embeds: tokens("context")?,
            neg_text_embeds: neg("context_null").then(|| tokens("context_null")).transpose()?,
            ref_image_embeds: case.input("clip_fea_x")?,
            pose_image_embeds: case.input("clip_fea_c")?,
            image_latents: input("first_frame_latents")?,
            frame_mask: pipeline::frame_mask(frames, h, w, &Device::Cpu)?,
            ref_latents: input("ref_x_latents")?,
            pose_ref_latents: input("ref_c_latents")?,
            pose_latents: input("condition")?,
            neg_pose_latents: neg("condition_null").then(|| input("condition_null")).transpose()?,
        };
        let given = |key: &str, default: f64| case.config.get(key).and_then(Value::as_f64).unwrap_or(default);
        let usual = SteadyDancerGuidance::default();
        let interval = usual.pose_guidance_interval;
        let guidance = SteadyDancerGuidance {
            guidance_scale: given("sample_guide_scale", usual.guidance_scale),
            pose_guidance_scale: given("condition_guide_scale", usual.pose_guidance_scale),
            pose_guidance_interval: (given("st_cond_cfg", interval.0), given("end_cond_cfg", interval.1)),
            parity: true,
        };
        Ok(Self {
            dit: Dit::new(&config, Arc::new(source))?,
            conditions,
            schedule: schedules::schedule(&case.config, None)?,
            guidance,
            noise,
        })
    }

    /// Runs it; `parity` as in [`SteadyDancerGuidance::parity`].
    fn run(&self, parity: bool) -> Result<Recorder> {
        let guidance = SteadyDancerGuidance { parity, ..self.guidance };
        let plan = GuidancePlan::steadydancer(&guidance, self.schedule.num_steps())?;
        let mut sampler = Sampler::new(self.schedule.clone(), 0);
        let mut seen = Recorder::default();
        let run = pipeline::Denoise {
            dit: &self.dit,
            conditions: &self.conditions,
            guidance: &plan,
            activations: pipeline::Activations::default(),
        };
        let last = pipeline::denoise(&run, &mut sampler, &self.noise, &mut seen)?;
        let told = seen.latents.last().context("the loop told of no step")?;
        ensure!(flat(&last)? == flat(told)?, "the loop's result is not the latents of its last step");
        Ok(seen)
    }
}

pub fn steadydancer(case: &Case) -> Result<Report> {
    let all = Loop::read(case)?;
    let mut checks = Checks::new(case);
    if checks.has("mask") {
        checks.exact("mask", &flat(&all.conditions.frame_mask)?)?;
    }
    if checks.has("timesteps") {
        checks.exact("timesteps", all.schedule.timesteps())?;
    }
    if checks.has("sigmas") {
        let sigmas = all.schedule.sigmas();
        checks.output("sigmas", &Tensor::from_slice(sigmas, sigmas.len(), &Device::Cpu)?)?;
    }
    let upstream = all.run(true)?;
    if checks.has("forwards_per_step") {
        checks.exact("forwards_per_step", &upstream.forwards)?;
    }
    let steps = all.schedule.num_steps();
    for name in ["velocity_per_step", "latents_per_step"] {
        let theirs = checks.reference(name)?.dim(0)?;
        ensure!(theirs == steps, "{name} has {theirs} steps, the schedule {steps}");
    }
    for step in 0..steps {
        checks.step("velocity_per_step", step, &upstream.velocities[step])?;
        checks.step("latents_per_step", step, &upstream.latents[step])?;
    }
    // Branches of weight 0 left out: other work, the same result to the last bit.
    let lean = all.run(false)?;
    for step in 0..steps {
        let same = flat(&lean.latents[step])? == flat(&upstream.latents[step])?;
        ensure!(same, "first wrong stage: latents_per_step[{step}] without the forwards of weight 0");
    }
    let total = |forwards: &[f64]| forwards.iter().sum::<f64>();
    checks.note(format!("{} forwards, {} without parity", total(&upstream.forwards), total(&lean.forwards)));
    checks.finish()
}

#[test]
fn forwards_of_weight_0_change_nothing() {
    for case in testkit::golden_cases("sampling.steadydancer") {
        let mut all = Loop::read(&case).expect("a case");
        if all.conditions.neg_text_embeds.is_none() || all.conditions.neg_pose_latents.is_none() {
            continue;
        }
        (all.guidance.guidance_scale, all.guidance.pose_guidance_scale) = (1.0, 1.0);
        let (upstream, lean) = (all.run(true).expect("a run"), all.run(false).expect("a run"));
        let total = |run: &Recorder| run.forwards.iter().sum::<f64>();
        assert_eq!(total(&upstream) - total(&lean), all.schedule.num_steps() as f64);
        for (a, b) in upstream.latents.iter().zip(&lean.latents) {
            assert_eq!(flat(a).expect("values"), flat(b).expect("values"));
        }
    }
}
