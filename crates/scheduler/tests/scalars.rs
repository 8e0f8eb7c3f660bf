//! The f64 trajectories of a made-up velocity field, computed once with the reference solvers.

use candle_core::{Device, Tensor};
use scheduler::{DISTILL_4STEP_TIMESTEPS, RcmConfig, Sampler, SamplerKind, Schedule};

/// v(x, t) = 0.3x − 0.2t/1000 + 0.1·sin 3x.
fn velocity(x: f64, timestep: f64) -> f64 {
    0.3 * x - 0.2 * timestep / 1000.0 + 0.1 * (3.0 * x).sin()
}

fn scalar(x: f64) -> Tensor {
    Tensor::new(&[x], &Device::Cpu).unwrap()
}

fn value(tensor: &Tensor) -> f64 {
    tensor.to_vec1::<f64>().unwrap()[0]
}

/// From the noise 1, the value after every step.
fn trajectory(schedule: Schedule) -> Vec<f64> {
    let timesteps = schedule.timesteps().to_vec();
    let start = schedule.initial_noise_scale();
    let mut sampler = Sampler::new(schedule, 0);
    let mut x = scalar(start);
    let mut values = Vec::new();
    for (i, timestep) in timesteps.into_iter().enumerate() {
        let v = scalar(velocity(value(&x), timestep));
        x = sampler.step(i, &v, &x).unwrap();
        values.push(value(&x));
    }
    values
}

fn assert_close(name: &str, ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len(), "{name}");
    let error = ours.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("{name}: largest error {error:.2e}");
    assert!(error <= tolerance, "{name}: {ours:?} is not {expected:?}: {error:e}");
}

#[test]
fn whole_trajectories() {
    let unipc = trajectory(Schedule::unipc(4, 5.0).unwrap());
    assert_close("unipc 4 5", &unipc, &[0.9928516, 0.9792054, 0.9455241, 0.8275279], 1e-7);
    let dpmpp = trajectory(Schedule::dpmpp_2m(4, 5.0).unwrap());
    assert_close("dpm++ 4 5", &dpmpp, &[0.992868, 0.9796714, 0.946799, 0.8288578], 1e-7);
    let euler = trajectory(Schedule::euler_distilled(&DISTILL_4STEP_TIMESTEPS, 5.0).unwrap());
    assert_close("euler distilled", &euler, &[0.992868, 0.97968183, 0.948983, 0.83102376], 1e-7);
}

#[test]
fn last_values() {
    let table = [
        ("unipc 10 5", Schedule::unipc(10, 5.0), 0.79936865),
        ("unipc 10 3", Schedule::unipc(10, 3.0), 0.7923916),
        ("unipc 50 5", Schedule::unipc(50, 5.0), 0.78775166),
        ("dpm++ 10 5", Schedule::dpmpp_2m(10, 5.0), 0.7999501),
        ("dpm++ 10 3", Schedule::dpmpp_2m(10, 3.0), 0.7930168),
        ("dpm++ 50 5", Schedule::dpmpp_2m(50, 5.0), 0.78751144),
    ];
    for (name, schedule, expected) in table {
        let ours = trajectory(schedule.unwrap());
        assert_close(name, &ours[ours.len() - 1..], &[expected], 2e-7);
    }
}

#[test]
fn rcm_ode() {
    let config = RcmConfig { sigma_max: 200.0, stochastic: false, bf16_timesteps: false, ..RcmConfig::default() };
    let ours = trajectory(Schedule::rcm(&config).unwrap());
    assert_close("rcm-ode 200", &ours[3..], &[0.82585992], 1e-7);
}

/// The golden run adds 0.5 where the sampler adds noise: the sampler's own noise is taken off and 0.5 put in its place.
#[test]
fn rcm_with_every_noise_one_half() {
    let config = RcmConfig { bf16_timesteps: false, ..RcmConfig::default() };
    let schedule = Schedule::rcm(&config).unwrap();
    let (sigmas, timesteps) = (schedule.sigmas().to_vec(), schedule.timesteps().to_vec());
    assert_eq!(schedule.sampler(), SamplerKind::Rcm);
    let mut sampler = Sampler::new(schedule, 9);
    let mut x = sigmas[0];
    let mut ours = Vec::new();
    for (i, timestep) in timesteps.into_iter().enumerate() {
        let v = scalar(velocity(x, timestep));
        let stepped = value(&sampler.step(i, &v, &scalar(x)).unwrap());
        x = stepped + sigmas[i + 1] * (0.5 - drawn(9, i));
        ours.push(x);
    }
    assert_close("rcm 80", &ours, &[0.52467049, 0.49392518, 0.47187759, 0.39967332], 1e-7);
}

/// The formula of the SDE as published, with logarithms and the noise that the sampler says it draws.
#[test]
fn dpmpp_sde_is_its_formula() {
    let schedule = Schedule::dpmpp_2m_sde(6, 5.0).unwrap();
    let (sigmas, timesteps) = (schedule.sigmas().to_vec(), schedule.timesteps().to_vec());
    let lambda = |sigma: f64| ((1.0 - sigma) / sigma).ln();
    let mut sampler = Sampler::new(schedule, 21);
    let mut x = 1.0;
    let mut previous: Option<(f64, f64)> = None;
    for i in 0..6 {
        let v = velocity(x, timesteps[i]);
        let ours = value(&sampler.step(i, &scalar(v), &scalar(x)).unwrap());
        let (start, end) = (sigmas[i], sigmas[i + 1]);
        let m0 = x - start * v;
        let expected = if i == 5 {
            m0
        } else {
            let h = lambda(end) - lambda(start);
            let slope = previous.map_or(0.0, |(m1, h_previous)| (m0 - m1) / (h_previous / h));
            previous = Some((m0, h));
            let kept = 1.0 - (-2.0 * h).exp();
            end / start * (-h).exp() * x + (1.0 - end) * kept * (m0 + 0.5 * slope) + end * kept.sqrt() * drawn(21, i)
        };
        assert_close(&format!("dpm++-sde step {i}"), &[ours], &[expected], 1e-12);
        x = ours;
    }
}

#[test]
fn lcm_noises_x0_afresh() {
    let schedule = Schedule::lcm(3, 5.0).unwrap();
    let (sigmas, timesteps) = (schedule.sigmas().to_vec(), schedule.timesteps().to_vec());
    let mut sampler = Sampler::new(schedule, 21);
    let mut x = 1.0;
    for i in 0..3 {
        let v = velocity(x, timesteps[i]);
        let ours = value(&sampler.step(i, &scalar(v), &scalar(x)).unwrap());
        let expected = (1.0 - sigmas[i + 1]) * (x - sigmas[i] * v) + sigmas[i + 1] * drawn(21, i);
        assert_close(&format!("lcm step {i}"), &[ours], &[expected], 1e-14);
        x = ours;
    }
}

/// The number that a stochastic step of one element adds.
fn drawn(seed: u64, step: usize) -> f64 {
    let noise = scheduler::noise(1, seed, scheduler::step_stream(step), &Device::Cpu).unwrap();
    f64::from(noise.to_vec1::<f32>().unwrap()[0])
}
