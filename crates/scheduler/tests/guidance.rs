//! Guidance plans: which forwards, which weights, and what they cost.

use candle_core::{DType, Device, Tensor};
use scheduler::{Branch, GuidanceError, GuidancePlan, Polarity, SteadyDancerGuidance, StepError, Term, Window};

fn steadydancer(n: usize, g: f64, gc: f64, interval: (f64, f64), parity: bool) -> GuidancePlan {
    let settings =
        SteadyDancerGuidance { guidance_scale: g, pose_guidance_scale: gc, pose_guidance_interval: interval, parity };
    GuidancePlan::steadydancer(&settings, n).unwrap()
}

fn per_step(plan: &GuidancePlan) -> Vec<usize> {
    (0..plan.num_steps()).map(|i| plan.forwards(i)).collect()
}

fn vector(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn forwards_of_the_published_settings() {
    let table = [(40, (0.1, 0.4), 91), (40, (0.1, 0.5), 95), (8, (0.1, 0.5), 19), (8, (0.1, 0.4), 19)];
    for (n, interval, expected) in table {
        let plan = steadydancer(n, 5.0, 1.0, interval, true);
        assert_eq!(plan.total_forwards(), expected, "{n} steps, {interval:?}");
    }
    let three = |interval| {
        let plan = steadydancer(40, 5.0, 1.0, interval, true);
        (0..40).filter(|i| plan.forwards(*i) == 3).collect::<Vec<_>>()
    };
    assert_eq!(three((0.1, 0.4)), (5..=15).collect::<Vec<_>>());
    assert_eq!(three((0.1, 0.5)), (5..=19).collect::<Vec<_>>());
    assert_eq!(per_step(&steadydancer(6, 5.0, 1.0, (0.1, 0.4), true)), [2, 3, 3, 2, 2, 2]);
    assert_eq!(GuidancePlan::text(5.0, 40, true).unwrap().total_forwards(), 80);
    assert_eq!(GuidancePlan::unguided(4).unwrap().total_forwards(), 4);
}

#[test]
fn parity_evaluates_what_upstream_evaluates_and_otherwise_zeros_are_left_out() {
    let window = (0.1, 0.4);
    assert_eq!(per_step(&steadydancer(6, 1.0, 0.0, window, true)), [2, 3, 3, 2, 2, 2]);
    assert_eq!(per_step(&steadydancer(6, 1.0, 0.0, window, false)), [1; 6]);
    assert_eq!(per_step(&steadydancer(6, 1.0, 1.0, window, false)), [1, 2, 2, 1, 1, 1]);
    assert_eq!(per_step(&steadydancer(6, 5.0, 0.0, window, false)), [2; 6]);
    assert_eq!(per_step(&steadydancer(6, 5.0, 1.0, window, false)), [2, 3, 3, 2, 2, 2]);
    assert_eq!(per_step(&steadydancer(6, 0.0, 0.0, window, false)), [1; 6]);
    assert_eq!(per_step(&GuidancePlan::text(1.0, 3, false).unwrap()), [1; 3]);
    assert_eq!(per_step(&GuidancePlan::text(1.0, 3, true).unwrap()), [2; 3]);
    let plan = steadydancer(6, 1.0, 1.0, window, false);
    let names: Vec<&str> = plan.active(1).iter().map(|active| active.branch.name.as_str()).collect();
    assert_eq!(names, ["positive", "negative_pose"]);
}

#[test]
fn branches_say_their_conditions() {
    let plan = steadydancer(40, 5.0, 1.0, (0.1, 0.4), true);
    let rows: Vec<_> = plan.active(5).iter().map(|a| (a.index, a.branch.text, a.branch.pose, a.coefficient)).collect();
    use Polarity::{Negative, Positive};
    assert_eq!(rows, [(0, Positive, Positive, 6.0), (1, Negative, Positive, -4.0), (2, Positive, Negative, -1.0)]);
}

#[test]
fn combine_is_upstreams_formula() {
    let (c, u_t, u_p) = ([0.5f32, -1.25, 2.0], [0.25f32, 1.0, 2.0], [0.4f32, -1.0, 1.0]);
    for (g, gc) in [(5.0, 1.0), (1.0, 1.5), (0.0, 0.0), (-2.0, 3.0)] {
        for parity in [true, false] {
            let plan = steadydancer(10, g, gc, (0.1, 0.4), parity);
            for step in [0, 2] {
                let all = [vector(&c), vector(&u_t), vector(&u_p)];
                let active: Vec<Tensor> = plan.active(step).iter().map(|a| all[a.index].clone()).collect();
                let ours: Vec<f32> = plan.combine(step, &active).unwrap().to_vec1().unwrap();
                for k in 0..3 {
                    let [c, u_t, u_p] = [c[k], u_t[k], u_p[k]].map(f64::from);
                    let mut expected = u_t + g * (c - u_t);
                    if step == 2 {
                        expected += gc * (c - u_p);
                    }
                    assert!((f64::from(ours[k]) - expected).abs() < 2e-6, "g {g}, gc {gc}: {} {expected}", ours[k]);
                }
            }
        }
    }
}

#[test]
fn a_branch_without_weight_leaves_no_trace() {
    let plan = GuidancePlan::text(1.0, 2, true).unwrap();
    let (c, bad) = (vector(&[0.1, 0.7]), vector(&[f32::NAN, f32::INFINITY]));
    assert_eq!(plan.combine(0, &[c, bad.clone()]).unwrap().to_vec1::<f32>().unwrap(), [0.1, 0.7]);
    let plan = GuidancePlan::text(0.0, 2, true).unwrap();
    assert_eq!(plan.combine(0, &[bad, vector(&[0.1, 0.7])]).unwrap().to_vec1::<f32>().unwrap(), [0.1, 0.7]);
}

#[test]
fn half_precision_velocities_are_combined_in_f32() {
    let plan = GuidancePlan::text(5.0, 1, true).unwrap();
    let half = |v: &[f32]| vector(v).to_dtype(DType::BF16).unwrap();
    let ours = plan.combine(0, &[half(&[1.0]), half(&[0.9921875])]).unwrap();
    assert_eq!(ours.dtype(), DType::F32);
    assert_eq!(ours.to_vec1::<f32>().unwrap(), [1.03125]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let plan = steadydancer(10, 5.0, 1.0, (0.1, 0.4), true);
    let v = vector(&[1.0, 2.0]);
    let message = |step, velocities: &[Tensor]| plan.combine(step, velocities).unwrap_err().to_string();
    // With RUST_BACKTRACE candle appends a backtrace to the message.
    let starts = |message: String, error: StepError| assert!(message.starts_with(&error.to_string()), "{message}");
    starts(message(0, std::slice::from_ref(&v)), StepError::Velocities { step: 0, found: 1, expected: 2 });
    starts(message(10, &[]), StepError::BeyondPlan { found: 10, num_steps: 10 });
    assert!(message(0, &[v, vector(&[1.0])]).contains("the velocity of branch negative_text has shape [1]"));

    let with = |g, gc, interval| {
        let settings = SteadyDancerGuidance {
            guidance_scale: g,
            pose_guidance_scale: gc,
            pose_guidance_interval: interval,
            parity: true,
        };
        GuidancePlan::steadydancer(&settings, 10).unwrap_err()
    };
    assert!(matches!(with(f64::NAN, 1.0, (0.1, 0.4)), GuidanceError::Scale { name: "guidance_scale", .. }));
    assert!(matches!(with(5.0, 1e9, (0.1, 0.4)), GuidanceError::Scale { name: "pose_guidance_scale", .. }));
    for interval in [(0.4, 0.1), (-0.1, 0.4), (0.1, 1.1), (f64::NAN, 0.4)] {
        assert!(matches!(with(5.0, 1.0, interval), GuidanceError::Interval { .. }), "{interval:?}");
    }
    assert_eq!(GuidancePlan::unguided(0), Err(GuidanceError::NoSteps));
    let term = Term { coefficient: 1.0, window: Some(Window { start: 0.0, end: 1.0 }) };
    let branch = Branch { name: "b".into(), text: Polarity::Positive, pose: Polarity::Positive, terms: vec![term] };
    // Strict: the window (0, 1) leaves step 0 without any forward.
    assert_eq!(GuidancePlan::new(vec![branch], 4, false), Err(GuidanceError::Sum { step: 0, sum: 0.0 }));
    assert_eq!(GuidancePlan::new(vec![], 4, false), Err(GuidanceError::Sum { step: 0, sum: 0.0 }));
}

#[test]
fn a_plan_can_be_written_and_read() {
    let plan = steadydancer(40, 5.0, 1.5, (0.1, 0.4), true);
    let json = serde_json::to_string_pretty(&plan).unwrap();
    assert_eq!(serde_json::from_str::<GuidancePlan>(&json).unwrap(), plan);
    let error = serde_json::from_str::<GuidancePlan>(&json.replace("\"coefficient\": 5.0", "\"coefficient\": 6.0"));
    assert!(error.unwrap_err().to_string().contains("add up to 2; expected 1"));
    let settings: SteadyDancerGuidance = serde_json::from_str("{\"guidance_scale\": 3.0}").unwrap();
    assert_eq!(settings, SteadyDancerGuidance { guidance_scale: 3.0, ..Default::default() });
}
