//! The scheduler fixtures: latents after each step, given the velocity of each step.
//!
//! Cases are taken by their metadata from STEADYDANCE_GOLDEN_DIR, else from `../shared/golden` beside the workspace.
//! Without such a folder there is nothing to check and the tests say so.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use scheduler::{GuidancePlan, Sampler, SamplerKind, Schedule, SteadyDancerGuidance};
use serde_json::Value;

struct Case {
    path: PathBuf,
    component: String,
    config: Value,
    tolerance: f64,
    tensors: HashMap<String, Tensor>,
}

impl Case {
    fn tensor(&self, name: &str) -> Tensor {
        let tensor = self.tensors.get(name).unwrap_or_else(|| panic!("{:?} has no {name}", self.path));
        tensor.to_dtype(DType::F64).unwrap()
    }

    fn number(&self, name: &str) -> f64 {
        self.config[name].as_f64().unwrap_or_else(|| panic!("{:?} has no {name} in its config", self.path))
    }
}

fn folder() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/golden");
    let folder = match std::env::var_os("STEADYDANCE_GOLDEN_DIR") {
        Some(named) => {
            let named = PathBuf::from(named);
            assert!(named.is_dir(), "STEADYDANCE_GOLDEN_DIR is {named:?}, which is no folder");
            named
        }
        None if beside.is_dir() => beside,
        None => return None,
    };
    Some(folder)
}

fn cases(wanted: impl Fn(&str) -> bool) -> Vec<Case> {
    let Some(folder) = folder() else {
        eprintln!("no golden folder: set STEADYDANCE_GOLDEN_DIR to check the fixtures");
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors")) {
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        let component = metadata.get("component").cloned().unwrap_or_default();
        if wanted(&component) {
            let config = serde_json::from_str(&metadata["config"]).unwrap();
            let tolerance = metadata["tolerance"].parse().unwrap();
            let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
            found.push(Case { path, component, config, tolerance, tensors });
        }
    }
    // A named folder may hold cases of other components only; ours holds some of each.
    let named = std::env::var_os("STEADYDANCE_GOLDEN_DIR").is_some();
    assert!(named || !found.is_empty(), "the golden folder beside the workspace has no such case");
    found
}

fn relative_error(ours: &Tensor, reference: &Tensor) -> f64 {
    let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
    let ours = ours.to_dtype(DType::F64).unwrap();
    norm(&(ours - reference).unwrap()) / norm(reference)
}

fn schedule_of(case: &Case, solver: &str) -> Schedule {
    let kind: SamplerKind = solver.parse().unwrap();
    Schedule::new(kind, case.number("steps") as usize, case.number("shift")).unwrap()
}

fn replay(case: &Case, schedule: &Schedule, start: &Tensor, velocities: &Tensor) {
    let expected = case.tensor("outputs.latents_per_step");
    let mut sampler = Sampler::new(schedule.clone(), 0);
    let mut latents = start.to_dtype(DType::F32).unwrap();
    let mut worst: f64 = 0.0;
    for i in 0..schedule.num_steps() {
        let velocity = velocities.get(i).unwrap().to_dtype(DType::F32).unwrap();
        latents = sampler.step(i, &velocity, &latents).unwrap();
        let error = relative_error(&latents, &expected.get(i).unwrap());
        assert!(error <= case.tolerance, "{:?}: step {i} is off by {error:e}", case.path);
        worst = worst.max(error);
    }
    println!("{:?}: worst step {worst:.2e} of {:.0e}", case.path.file_name().unwrap(), case.tolerance);
}

#[test]
fn scheduler_cases() {
    for case in cases(|component| component.starts_with("scheduler.")) {
        let schedule = schedule_of(&case, &case.component["scheduler.".len()..]);
        assert_eq!(case.tensor("outputs.timesteps").to_vec1::<f64>().unwrap(), schedule.timesteps());
        assert_eq!(case.tensor("outputs.sigmas").to_vec1::<f64>().unwrap(), schedule.sigmas());
        replay(&case, &schedule, &case.tensor("inputs.latents"), &case.tensor("inputs.velocity"));
    }
}

#[test]
fn sampling_cases() {
    for case in cases(|component| component == "sampling.steadydancer") {
        let schedule = schedule_of(&case, case.config["solver"].as_str().unwrap());
        assert_eq!(case.tensor("outputs.timesteps").to_vec1::<f64>().unwrap(), schedule.timesteps());
        replay(&case, &schedule, &case.tensor("inputs.noise"), &case.tensor("outputs.velocity_per_step"));

        let guidance = SteadyDancerGuidance {
            guidance_scale: case.number("sample_guide_scale"),
            pose_guidance_scale: case.number("condition_guide_scale"),
            pose_guidance_interval: (case.number("st_cond_cfg"), case.number("end_cond_cfg")),
            parity: true,
        };
        let plan = GuidancePlan::steadydancer(&guidance, schedule.num_steps()).unwrap();
        let forwards: Vec<f64> = (0..schedule.num_steps()).map(|i| plan.forwards(i) as f64).collect();
        assert_eq!(case.tensor("outputs.forwards_per_step").to_vec1::<f64>().unwrap(), forwards);
    }
}
