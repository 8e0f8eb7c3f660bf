//! The published sigma and timestep lists, and what schedules refuse.

use scheduler::{
    CAUSVID_1_3B_TIMESTEPS, CAUSVID_14B_TIMESTEPS, DISTILL_4STEP_TIMESTEPS, RcmConfig, SamplerKind, Schedule,
    ScheduleError,
};

fn close(ours: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len());
    for (a, b) in ours.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{ours:?} is not {expected:?}");
    }
}

#[test]
fn unipc_timesteps() {
    let table: [(usize, f64, &[f64]); 6] = [
        (4, 5.0, &[999., 937., 833., 624.]),
        (8, 5.0, &[999., 972., 937., 892., 833., 749., 624., 416.]),
        (10, 5.0, &[999., 978., 952., 920., 882., 833., 768., 681., 555., 356.]),
        (10, 3.0, &[999., 963., 922., 874., 817., 749., 666., 562., 428., 249.]),
        (
            40,
            5.0,
            &[
                999., 994., 989., 983., 978., 972., 965., 959., 952., 944., 937., 929., 920., 911., 902., 892., 882.,
                870., 859., 846., 833., 818., 803., 786., 768., 749., 728., 706., 681., 654., 624., 591., 555., 514.,
                468., 416., 356., 288., 208., 113.,
            ],
        ),
        (
            40,
            3.0,
            &[
                999., 991., 982., 973., 963., 954., 944., 933., 922., 911., 899., 887., 874., 861., 847., 832., 817.,
                801., 785., 767., 749., 730., 710., 688., 666., 642., 617., 590., 562., 531., 499., 465., 428., 388.,
                345., 299., 249., 195., 136., 71.,
            ],
        ),
    ];
    for (n, shift, expected) in table {
        assert_eq!(Schedule::unipc(n, shift).unwrap().timesteps(), expected, "{n} steps, shift {shift}");
    }
}

#[test]
fn unipc_sigmas_are_f32() {
    let schedule = Schedule::unipc(4, 5.0).unwrap();
    close(schedule.sigmas(), &[0.9998, 0.937265, 0.833055, 0.624687, 0.0], 5e-7);
    assert!(schedule.sigmas().iter().all(|sigma| f64::from(*sigma as f32) == *sigma));
}

#[test]
fn dpmpp_timesteps() {
    let timesteps = |n, shift| Schedule::dpmpp_2m(n, shift).unwrap().timesteps().to_vec();
    assert_eq!(timesteps(4, 5.0), [1000., 937., 833., 625.]);
    assert_eq!(timesteps(10, 5.0), [1000., 978., 952., 921., 882., 833., 769., 681., 555., 357.]);
    // 0.875·1000 falls just below 875.
    assert!(timesteps(10, 3.0).contains(&874.0));
    assert_eq!(Schedule::dpmpp_2m(10, 5.0).unwrap().sigmas()[0], 1.0);
}

#[test]
fn dpmpp_sde_is_shifted_twice() {
    let schedule = Schedule::dpmpp_2m_sde(4, 5.0).unwrap();
    close(schedule.sigmas(), &[0.99996, 0.93745, 0.83328, 0.62494, 0.0], 5e-6);
    assert_eq!(schedule.timesteps(), [999., 937., 833., 624.]);
}

#[test]
fn euler_and_lcm_grids() {
    let expected = [1.0, 0.9375, 5.0 / 6.0, 0.625, 0.0];
    for schedule in [
        Schedule::euler(4, 5.0).unwrap(),
        Schedule::lcm(4, 5.0).unwrap(),
        Schedule::euler_distilled(&DISTILL_4STEP_TIMESTEPS, 5.0).unwrap(),
    ] {
        close(schedule.sigmas(), &expected, 1e-12);
        close(schedule.timesteps(), &[1000.0, 937.5, 833.3333333333333, 625.0], 1e-9);
    }
}

#[test]
fn explicit_lists() {
    let causvid = Schedule::from_timesteps(SamplerKind::Euler, &CAUSVID_14B_TIMESTEPS).unwrap();
    assert_eq!(causvid.timesteps(), CAUSVID_14B_TIMESTEPS);
    assert_eq!(causvid.sigmas()[..3], [0.999, 0.934, 0.862]);
    assert_eq!(causvid.sigmas()[9], 0.0);
    assert_eq!(Schedule::from_timesteps(SamplerKind::Lcm, &CAUSVID_1_3B_TIMESTEPS).unwrap().num_steps(), 4);

    let with = Schedule::from_sigmas(SamplerKind::Euler, &[1.0, 0.5, 0.2, 0.0]).unwrap();
    let without = Schedule::from_sigmas(SamplerKind::Euler, &[1.0, 0.5, 0.2]).unwrap();
    assert_eq!(with, without);
    assert_eq!(with.timesteps(), [1000.0, 500.0, 200.0]);
    let cut = Schedule::from_sigmas(SamplerKind::UniPc, &[0.9996, 0.5, 0.2]).unwrap();
    assert_eq!(cut.timesteps(), [999.0, 500.0, 200.0]);
}

#[test]
fn rcm_times() {
    let exact = RcmConfig { bf16_timesteps: false, ..RcmConfig::default() };
    let schedule = Schedule::rcm(&exact).unwrap();
    close(schedule.sigmas(), &[0.987654, 0.933781, 0.852895, 0.608979, 0.0], 5e-7);
    close(schedule.timesteps(), &[987.654, 933.781, 852.895, 608.979], 5e-4);
    assert_eq!(schedule.initial_noise_scale(), schedule.sigmas()[0]);
    assert_eq!(schedule.sampler(), SamplerKind::Rcm);
    assert_eq!(Schedule::rcm(&RcmConfig::default()).unwrap().timesteps(), [988., 932., 852., 608.]);
    for (sigma_max, sigma, timestep) in [(120.0, 0.991736, 992.), (200.0, 0.995025, 996.), (1600.0, 0.999375, 1000.)] {
        for num_inference_steps in 1..=4 {
            let config = RcmConfig { sigma_max, num_inference_steps, stochastic: false, ..RcmConfig::default() };
            let schedule = Schedule::rcm(&config).unwrap();
            assert_eq!(schedule.num_steps(), num_inference_steps);
            close(&schedule.sigmas()[..1], &[sigma], 5e-7);
            assert_eq!(schedule.timesteps()[0], timestep);
            assert_eq!(schedule.sampler(), SamplerKind::RcmOde);
        }
    }
}

#[test]
fn new_is_the_usual_schedule_of_each_sampler() {
    for kind in SamplerKind::ALL {
        let schedule = Schedule::new(kind, 4, 5.0).unwrap();
        assert_eq!(schedule.sampler(), kind);
        assert_eq!((schedule.num_steps(), schedule.sigmas().len()), (4, 5));
    }
}

#[test]
fn numbers_out_of_range_are_refused_and_the_message_says_what_is_allowed() {
    for kind in SamplerKind::ALL {
        for steps in [0, 1001, usize::MAX] {
            let message = Schedule::new(kind, steps, 5.0).unwrap_err().to_string();
            let rcm = matches!(kind, SamplerKind::Rcm | SamplerKind::RcmOde);
            let allowed = if rcm { "expected 1 to 4 for rcm" } else { "expected 1 to 1000" };
            assert!(message.contains(&steps.to_string()) && message.contains(allowed), "{message}");
        }
        if matches!(kind, SamplerKind::Rcm | SamplerKind::RcmOde) {
            assert_eq!(Schedule::new(kind, 5, 5.0), Err(ScheduleError::RcmSteps { found: 5, max: 4 }));
            continue;
        }
        for shift in [0.0, -1.0, 1e-4, 1e4, f64::NAN, f64::INFINITY] {
            let message = Schedule::new(kind, 4, shift).unwrap_err().to_string();
            assert!(message.contains("expected a number from 0.001 to 1000"), "{message}");
        }
    }
    for sigma_max in [14.0, 0.0, f64::NAN, f64::INFINITY] {
        let message = Schedule::rcm(&RcmConfig { sigma_max, ..RcmConfig::default() }).unwrap_err().to_string();
        assert!(message.contains("expected a finite number above 14.1014 for 4 rcm steps"), "{message}");
    }
}

#[test]
fn bad_lists_are_refused() {
    let sigmas = |list: &[f64]| Schedule::from_sigmas(SamplerKind::Euler, list).unwrap_err();
    assert_eq!(sigmas(&[]), ScheduleError::Steps { found: 0, max: 1000 });
    assert_eq!(sigmas(&[0.0]), ScheduleError::Steps { found: 0, max: 1000 });
    assert_eq!(sigmas(&[1.1, 0.5]), ScheduleError::Range { list: "sigmas", index: 0, found: 1.1, max: 1.0 });
    assert_eq!(sigmas(&[1.0, 0.0, 0.0]), ScheduleError::Range { list: "sigmas", index: 1, found: 0.0, max: 1.0 });
    assert_eq!(sigmas(&[0.5, 0.6]), ScheduleError::Order { list: "sigmas", index: 1, found: 0.6, previous: 0.5 });
    assert!(matches!(sigmas(&[1.0, f64::NAN]), ScheduleError::Range { index: 1, .. }));
    assert_eq!(sigmas(&vec![0.5; 1001]), ScheduleError::Steps { found: 1001, max: 1000 });

    for list in [&[1001.0, 1.0][..], &[500.0, 500.0], &[500.0, -1.0], &[]] {
        assert!(Schedule::from_timesteps(SamplerKind::Euler, list).is_err(), "{list:?}");
        assert!(Schedule::euler_distilled(list, 5.0).is_err(), "{list:?}");
    }
    assert!(matches!(Schedule::euler_distilled(&[1000.0], -2.0), Err(ScheduleError::Shift { .. })));
}

#[test]
fn a_schedule_is_a_value() {
    let rcm = RcmConfig { sigma_max: 93.7, bf16_timesteps: false, ..RcmConfig::default() };
    for schedule in [
        Schedule::unipc(40, 3.0).unwrap(),
        Schedule::dpmpp_2m_sde(40, 7.3).unwrap(),
        Schedule::euler(37, 2.9).unwrap(),
        Schedule::rcm(&rcm).unwrap(),
    ] {
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
    }
    let read = |json: &str| serde_json::from_str::<Schedule>(json).unwrap_err().to_string();
    let wrong = read(r#"{"sampler":"euler","sigmas":[0.5,0.7,0.0],"timesteps":[500,700]}"#);
    assert!(wrong.contains("sigmas[1] is 0.7, which is not below 0.5"), "{wrong}");
    let wrong = read(r#"{"sampler":"euler","sigmas":[0.7,0.5],"timesteps":[700,500]}"#);
    assert!(wrong.contains("2 sigmas and 2 timesteps"), "{wrong}");
    let wrong = read(r#"{"sampler":"euler","sigmas":[0.7,0.0],"timesteps":[7000]}"#);
    assert!(wrong.contains("timesteps[0] is 7000"), "{wrong}");
    assert_eq!(
        Schedule::unipc(2, 5.0).unwrap().to_string(),
        "unipc, 2 steps\n\
         step   timestep     sigma  next sigma\n   \
            0    999.000  0.999800    0.833055\n   \
            1    833.000  0.833055    0.000000"
    );
}
