//! What must hold for every sampler and every schedule.

use candle_core::{DType, Device, Tensor};
use proptest::prelude::*;
use scheduler::{NamedTensor, RcmConfig, Sampler, SamplerKind, SamplerState, Schedule, noise};

const SHAPE: (usize, usize, usize) = (2, 3, 4);

fn draw(stream: u64, dtype: DType) -> Tensor {
    noise(SHAPE, 1234, 1 << (40 + stream), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

fn kinds() -> impl Strategy<Value = SamplerKind> {
    prop::sample::select(SamplerKind::ALL.to_vec())
}

fn usual() -> impl Strategy<Value = Schedule> {
    (kinds(), 1usize..60, -2.0f64..2.0).prop_map(|(kind, steps, log_shift)| {
        let steps = if kind.name().starts_with("rcm") { 1 + steps % 4 } else { steps };
        Schedule::new(kind, steps, 10f64.powf(log_shift)).unwrap()
    })
}

/// Lists of any sigmas, with long steps beside short ones.
fn listed() -> impl Strategy<Value = Schedule> {
    (kinds(), prop::collection::btree_set(1u32..=1000, 1..20)).prop_map(|(kind, set)| {
        let sigmas: Vec<f64> = set.into_iter().rev().map(|s| f64::from(s) / 1000.0).collect();
        Schedule::from_sigmas(kind, &sigmas).unwrap()
    })
}

fn schedules() -> impl Strategy<Value = Schedule> {
    prop_oneof![usual(), listed()]
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let difference = (a.to_dtype(DType::F64).unwrap() - b.to_dtype(DType::F64).unwrap()).unwrap();
    difference.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// (1 − sigma)·x0 + sigma·epsilon.
fn mix(x0: &Tensor, epsilon: &Tensor, sigma: f64) -> Tensor {
    (x0.affine(1.0 - sigma, 0.0).unwrap() + epsilon.affine(sigma, 0.0).unwrap()).unwrap()
}

/// Something a network could say: not linear, different at each step.
fn network(latents: &Tensor, timestep: f64) -> Tensor {
    (latents.affine(1.7, timestep / 500.0).unwrap().sin().unwrap() * 0.8).unwrap()
}

/// On the line between x0 and noise a deterministic rule stays on it, and every rule arrives at x0: the largest
/// distances from the line and at the end.
fn errors_of_a_perfect_network(schedule: Schedule, seed: u64, dtype: DType) -> (f64, f64) {
    let (x0, epsilon) = (draw(0, dtype), draw(1, dtype));
    let sigmas = schedule.sigmas().to_vec();
    let stochastic = schedule.sampler().is_stochastic();
    let mut sampler = Sampler::new(schedule, seed);
    let mut latents = mix(&x0, &epsilon, sigmas[0]);
    let mut off_the_line: f64 = 0.0;
    for (i, pair) in sigmas.windows(2).enumerate() {
        let velocity = if stochastic {
            // The noise has changed since the start; the true velocity is read off the latents.
            ((&latents - &x0).unwrap() / pair[0]).unwrap()
        } else {
            (&epsilon - &x0).unwrap()
        };
        latents = sampler.step(i, &velocity, &latents).unwrap();
        if !stochastic {
            off_the_line = off_the_line.max(largest_difference(&latents, &mix(&x0, &epsilon, pair[1])));
        }
    }
    (off_the_line, largest_difference(&latents, &x0))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn every_number_of_steps_and_shift_in_range_is_a_schedule(steps in 1usize..=1000, log_shift in -3.0f64..=3.0) {
        for kind in SamplerKind::ALL {
            let steps = if kind.name().starts_with("rcm") { 1 + steps % 4 } else { steps };
            let schedule = Schedule::new(kind, steps, 10f64.powf(log_shift).clamp(0.001, 1000.0));
            prop_assert_eq!(schedule.map(|schedule| schedule.num_steps()), Ok(steps));
        }
    }

    #[test]
    fn sigmas_fall_strictly_to_zero(schedule in schedules()) {
        let sigmas = schedule.sigmas();
        prop_assert_eq!(sigmas.len(), schedule.num_steps() + 1);
        prop_assert!(sigmas.windows(2).all(|pair| pair[0] > pair[1]));
        prop_assert!(sigmas[0] <= 1.0);
        prop_assert_eq!(sigmas.last(), Some(&0.0));
        prop_assert!(schedule.timesteps().is_sorted_by(|a, b| a >= b));
        prop_assert!(schedule.timesteps().iter().all(|t| (0.0..=1000.0).contains(t)));
    }

    #[test]
    fn euler_is_exact_on_a_constant_velocity(schedule in schedules()) {
        let euler = Schedule::from_sigmas(SamplerKind::Euler, schedule.sigmas()).unwrap();
        let (start, velocity) = (draw(0, DType::F64), draw(1, DType::F64));
        let mut sampler = Sampler::new(euler.clone(), 0);
        let mut latents = start.clone();
        for i in 0..euler.num_steps() {
            latents = sampler.step(i, &velocity, &latents).unwrap();
        }
        let expected = (start - velocity.affine(euler.sigmas()[0], 0.0).unwrap()).unwrap();
        prop_assert!(largest_difference(&latents, &expected) < 1e-13);
    }

    #[test]
    fn a_perfect_network_leads_to_x0_in_f32(schedule in usual(), seed: u64) {
        let (line, end) = errors_of_a_perfect_network(schedule, seed, DType::F32);
        prop_assert!(line < 5e-5 && end < 5e-5, "off the line by {:e}, from x0 by {:e}", line, end);
    }

    /// In f64, as uneven sigmas amplify the rounding of the predictions.
    #[test]
    fn a_perfect_network_leads_to_x0_on_any_sigmas(schedule in schedules(), seed: u64) {
        let (line, end) = errors_of_a_perfect_network(schedule, seed, DType::F64);
        prop_assert!(line < 1e-9 && end < 1e-9, "off the line by {:e}, from x0 by {:e}", line, end);
    }

    /// A run stopped before any step k, its state written as JSON and read back, ends with the same bits.
    #[test]
    fn a_resumed_run_is_the_same_run(schedule in schedules(), seed: u64) {
        let timesteps = schedule.timesteps().to_vec();
        let n = timesteps.len();
        let mut sampler = Sampler::new(schedule.clone(), seed);
        let mut latents = sampler.initial_latents(SHAPE, &Device::Cpu).unwrap();
        let mut stops: Vec<(String, Tensor)> = Vec::new();
        for (i, timestep) in timesteps.iter().enumerate() {
            stops.push((serde_json::to_string(&sampler.state().unwrap()).unwrap(), latents.clone()));
            latents = sampler.step(i, &network(&latents, *timestep), &latents).unwrap();
        }
        let end = bits(&latents);
        // Every stop of a short run; of a long one the first, where histories fill, and a few later ones.
        for k in (0..n).filter(|k| n < 12 || *k < 5 || *k > n - 4 || *k == n / 2) {
            let (written, latents_then) = &stops[k];
            let state: SamplerState = serde_json::from_str(written).unwrap();
            let mut sampler = Sampler::resume(schedule.clone(), &state, &Device::Cpu).unwrap();
            prop_assert_eq!(sampler.next_step(), k);
            let mut latents = latents_then.clone();
            for (i, timestep) in timesteps.iter().enumerate().skip(k) {
                latents = sampler.step(i, &network(&latents, *timestep), &latents).unwrap();
            }
            prop_assert_eq!(bits(&latents), end.clone(), "resumed at step {}", k);
        }
    }
}

fn short(kind: SamplerKind) -> Schedule {
    Schedule::new(kind, 4, 5.0).unwrap()
}

#[test]
fn the_last_step_gives_the_x0_prediction() {
    for kind in SamplerKind::ALL {
        let schedule = short(kind);
        let mut sampler = Sampler::new(schedule.clone(), 5);
        let mut latents = draw(0, DType::F32);
        for i in 0..3 {
            latents = sampler.step(i, &network(&latents, schedule.timesteps()[i]), &latents).unwrap();
        }
        let velocity = network(&latents, schedule.timesteps()[3]);
        let x0 = (&latents + velocity.affine(-schedule.sigmas()[3], 0.0).unwrap()).unwrap();
        let last = sampler.step(3, &velocity, &latents).unwrap();
        assert_eq!(bits(&last), bits(&x0), "{kind}");
    }
}

#[test]
fn only_stochastic_rules_look_at_the_seed() {
    for kind in SamplerKind::ALL {
        let run = |seed| {
            let mut sampler = Sampler::new(short(kind), seed);
            let latents = draw(0, DType::F32);
            bits(&sampler.step(0, &draw(1, DType::F32), &latents).unwrap())
        };
        assert_eq!(run(1) != run(2), kind.is_stochastic(), "{kind}");
        assert_eq!(run(1), run(1));
    }
}

#[test]
fn the_start_of_rcm_is_scaled() {
    let start = |kind| Sampler::new(short(kind), 3).initial_latents(SHAPE, &Device::Cpu).unwrap();
    let plain = noise(SHAPE, 3, scheduler::INITIAL_NOISE_STREAM, &Device::Cpu).unwrap();
    assert_eq!(bits(&start(SamplerKind::UniPc)), bits(&plain));
    let sigma = Schedule::rcm(&RcmConfig::default()).unwrap().sigmas()[0];
    assert_eq!(bits(&start(SamplerKind::Rcm)), bits(&plain.affine(sigma, 0.0).unwrap()));
}

#[test]
fn half_precision_velocities_are_converted() {
    let mut sampler = Sampler::new(short(SamplerKind::Euler), 0);
    let velocity = draw(1, DType::BF16);
    let ours = sampler.step(0, &velocity, &draw(0, DType::F32)).unwrap();
    let mut sampler = Sampler::new(short(SamplerKind::Euler), 0);
    let expected = sampler.step(0, &velocity.to_dtype(DType::F32).unwrap(), &draw(0, DType::F32)).unwrap();
    assert_eq!(bits(&ours), bits(&expected));
}

#[test]
fn a_refused_step_changes_nothing() {
    let (latents, velocity) = (draw(0, DType::F32), draw(1, DType::F32));
    let mut sampler = Sampler::new(short(SamplerKind::UniPc), 0);
    let mut refused = |i, velocity: &Tensor, latents: &Tensor| {
        let message = sampler.step(i, velocity, latents).unwrap_err().to_string();
        assert_eq!(sampler.next_step(), 0);
        message
    };
    assert!(refused(1, &velocity, &latents).contains("step 1 was asked of a unipc sampler that stands at step 0 of 4"));
    let flat = velocity.flatten_all().unwrap();
    assert!(refused(0, &flat, &latents).contains("velocity has shape [24]; expected the shape of the latents"));
    let half = latents.to_dtype(DType::F16).unwrap();
    assert!(refused(0, &velocity, &half).contains("latents has dtype F16; expected F32 or F64"));

    let latents = sampler.step(0, &velocity, &latents).unwrap();
    let flat_latents = latents.flatten_all().unwrap();
    let message = sampler.step(1, &flat, &flat_latents).unwrap_err().to_string();
    assert!(message.contains("the sampler's history has shape [2, 3, 4]"), "{message}");
    let mut latents = latents;
    for i in 1..4 {
        latents = sampler.step(i, &velocity, &latents).unwrap();
    }
    assert!(sampler.step(4, &velocity, &latents).unwrap_err().to_string().contains("stands at step 4 of 4"));
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let mut sampler = Sampler::new(short(SamplerKind::UniPc), 0);
    let mut latents = draw(0, DType::F32);
    for i in 0..2 {
        latents = sampler.step(i, &draw(1, DType::F32), &latents).unwrap();
    }
    let state = sampler.state().unwrap();
    let names: Vec<&str> = state.tensors.iter().map(|named| named.name.as_str()).collect();
    assert_eq!(names, ["x0_prediction.0", "x0_prediction.1", "last_sample"]);

    let refused = |schedule: Schedule, state: &SamplerState| {
        Sampler::resume(schedule, state, &Device::Cpu).unwrap_err().to_string()
    };
    let of = |kind, n, shift| Schedule::new(kind, n, shift).unwrap();
    assert!(refused(of(SamplerKind::DpmPp, 4, 5.0), &state).contains("the sampler was unipc, now it is dpm++"));
    assert!(refused(of(SamplerKind::UniPc, 5, 5.0), &state).contains("it had 4 steps, now there are 5"));
    assert!(refused(of(SamplerKind::UniPc, 4, 3.0), &state).contains("sigma 0 was 0.99979"));

    let unipc = || short(SamplerKind::UniPc);
    let mut other = state.clone();
    other.header.next_step = 9;
    assert!(refused(unipc(), &other).contains("before step 9 of 4"));
    let mut other = state.clone();
    other.tensors.pop();
    assert!(refused(unipc(), &other).contains("expected [\"x0_prediction.0\", \"x0_prediction.1\", \"last_sample\"]"));
    let mut other = state.clone();
    other.tensors.push(NamedTensor { name: "extra".into(), tensor: latents.clone() });
    assert!(refused(unipc(), &other).contains("extra"));
    let mut other = state.clone();
    other.tensors[1].tensor = latents.flatten_all().unwrap();
    assert!(refused(unipc(), &other).contains("x0_prediction.1 has shape [24]"));
    let mut other = state.clone();
    other.tensors[2].tensor = latents.to_dtype(DType::U8).unwrap();
    assert!(refused(unipc(), &other).contains("last_sample has dtype U8"));
    assert!(serde_json::to_string(&other).is_err());

    let json = serde_json::to_string(&state).unwrap().replace("\"shape\":[2,3,4]", "\"shape\":[2,3,5]");
    let error = serde_json::from_str::<SamplerState>(&json).unwrap_err().to_string();
    assert!(error.contains("has 96 bytes of data; expected what its shape [2, 3, 5] takes"), "{error}");
}
