//! Cleaning over time: spikes, gaps, smoothing.

mod puppet;

use pose::WholeBody;
use pose::motion::{CleanOptions, OneEuro, clean};
use pose::options::USUAL_SMOOTHING;
use pose::quality::jitter;
use proptest::prelude::*;
use puppet::{Puppet, Random};

const FPS: f64 = 16.0;
const THRESHOLD: f64 = 0.35;

fn options(max_gap: usize, smooth: f64) -> CleanOptions {
    CleanOptions { fps: FPS, score_threshold: THRESHOLD, max_gap, fill_frames: true, smooth }
}

/// A sway of `hertz` and `amplitude`, sampled at `fps`, with noise of the given deviation; the noise-free places too.
fn sway(hertz: f64, amplitude: f64, fps: f64, noise: f64) -> (Vec<[f64; 2]>, Vec<[f64; 2]>) {
    let mut random = Random::new(5);
    let clean: Vec<[f64; 2]> =
        (0..400).map(|i| [amplitude * (std::f64::consts::TAU * hertz * i as f64 / fps).sin(), 0.0]).collect();
    let noisy = clean.iter().map(|p| p.map(|v| v + noise * random.normal())).collect();
    (noisy, clean)
}

/// Root mean square distance, the ends left out.
fn error(a: &[[f64; 2]], b: &[[f64; 2]]) -> f64 {
    let middle = 20..a.len() - 20;
    let squares = middle.clone().map(|i| (a[i][0] - b[i][0]).powi(2) + (a[i][1] - b[i][1]).powi(2));
    (squares.sum::<f64>() / middle.len() as f64).sqrt()
}

/// Frames by which `a` is behind `b`, from the phase of a sway of `hertz`.
fn lag(a: &[[f64; 2]], b: &[[f64; 2]], hertz: f64, fps: f64) -> f64 {
    let phase = |points: &[[f64; 2]]| {
        let angle = |i: usize| std::f64::consts::TAU * hertz * i as f64 / fps;
        let middle = 40..360;
        let sum = |f: fn(f64) -> f64| middle.clone().map(|i| points[i][0] * f(angle(i))).sum::<f64>();
        sum(f64::cos).atan2(sum(f64::sin))
    };
    (phase(b) - phase(a)) / (std::f64::consts::TAU * hertz) * fps
}

fn amplitude(points: &[[f64; 2]], hertz: f64, fps: f64) -> f64 {
    let angle = |i: usize| std::f64::consts::TAU * hertz * i as f64 / fps;
    let sum = |f: fn(f64) -> f64| (40..360).map(|i| points[i][0] * f(angle(i))).sum::<f64>() / 160.0;
    sum(f64::cos).hypot(sum(f64::sin))
}

#[test]
fn jitter_falls_and_motion_stays() {
    for fps in [16.0, 30.0] {
        let filter = OneEuro::with_strength(USUAL_SMOOTHING).unwrap();
        let smooth = |points: &[[f64; 2]]| filter.zero_phase(points, 1.0, fps);
        // Noise of a detector, about 2 px of 800, at rest.
        let (noisy, truth) = sway(0.0, 0.0, fps, 0.0025);
        let left = error(&smooth(&noisy), &truth) / error(&noisy, &truth);
        assert!(left < 0.62, "{fps} fps: {left}");
        // Sways of a dance: no lag, nearly the whole amplitude, and not further from the truth than the noise was.
        for (hertz, size) in [(0.5, 0.05), (1.0, 0.03), (1.0, 0.1), (2.0, 0.05)] {
            let (noisy, truth) = sway(hertz, size, fps, 0.0025);
            let out = smooth(&truth);
            let kept = amplitude(&out, hertz, fps) / size;
            assert!((0.93..1.03).contains(&kept), "{fps} fps, {hertz} Hz: {kept}");
            let late = lag(&out, &truth, hertz, fps);
            assert!(late.abs() < 0.01, "{fps} fps, {hertz} Hz: {late} frames");
            assert!(error(&smooth(&noisy), &truth) < error(&noisy, &truth), "{fps} fps, {hertz} Hz");
        }
    }
}

#[test]
fn a_dancer_trembles_less() {
    let mut random = Random::new(3);
    let truth = dance(120);
    let noisy: Vec<Option<WholeBody>> = truth.iter().map(|b| b.as_ref().map(|body| random.noisy(body, 1.5))).collect();
    let mut smooth = noisy.clone();
    clean(&mut smooth, options(8, USUAL_SMOOTHING));
    let shots = std::slice::from_ref(&(0..120));
    let [exact, before, after] = [&truth, &noisy, &smooth].map(|motion| jitter(motion, shots, THRESHOLD).unwrap());
    // 1.5 px of 600 are 2.5 px of 1000: what jitter measures is the noise.
    assert!(exact < 0.2 && (before - 2.5).abs() < 0.3, "{exact} {before}");
    assert!(after < 0.7 * before, "{before} -> {after}");
    let distance = |motion: &[Option<WholeBody>]| {
        let both = motion.iter().flatten().zip(truth.iter().flatten());
        let squares =
            both.flat_map(|(a, b)| a.points[..17].iter().zip(&b.points[..17]).map(|(p, q)| (p[0] - q[0]).powi(2)));
        (squares.sum::<f64>() / (17 * motion.len()) as f64).sqrt()
    };
    let (before, after) = (distance(&noisy), distance(&smooth));
    eprintln!("distance from the truth: {before:.2} px -> {after:.2} px");
    assert!(after < 0.9 * before, "{before} -> {after}");
}

/// A dancer 600 px tall.
fn dance(frames: usize) -> Vec<Option<WholeBody>> {
    let at = |i: usize| Puppet::standing(600.0, [640.0, 150.0]).dancing(i as f64 / FPS, 1.0).keypoints();
    (0..frames).map(|i| Some(at(i))).collect()
}

fn standing(frames: usize) -> Vec<Option<WholeBody>> {
    vec![Some(Puppet::standing(600.0, [640.1, 150.3]).keypoints()); frames]
}

#[test]
fn gaps_of_the_person_are_filled_up_to_the_limit() {
    let whole = dance(40);
    let mut motion = whole.clone();
    // Three frames in the middle, six, and both ends.
    for t in (0..2).chain(10..13).chain(20..26).chain(38..40) {
        motion[t] = None;
    }
    let mut filled = motion.clone();
    let done = clean(&mut filled, options(5, 0.0));
    assert_eq!(done.interpolated, [10, 11, 12]);
    assert!(filled[20..26].iter().chain(&filled[..2]).chain(&filled[38..]).all(Option::is_none));
    let ends = [9, 13].map(|t| whole[t].as_ref().unwrap().points[9]);
    let middle = filled[11].as_ref().unwrap().points[9];
    assert!((0..2).all(|axis| (middle[axis] - (ends[0][axis] + ends[1][axis]) / 2.0).abs() < 1e-9));
    // A joint that is hidden at one end stays what it was.
    let mut half = motion.clone();
    half[13].as_mut().unwrap().scores[9] = 0.1;
    half[14..].iter_mut().flatten().for_each(|body| body.scores[9] = 0.1);
    clean(&mut half, options(5, 0.0));
    assert_eq!(half[11].as_ref().unwrap().points[9], ends[0]);
    // Not asked for, or not allowed.
    let mut same = motion.clone();
    clean(&mut same, CleanOptions { fill_frames: false, ..options(5, 0.0) });
    assert_eq!(same, motion);
    clean(&mut same, options(0, 0.0));
    assert_eq!(same, motion);
}

#[test]
fn gaps_of_a_joint_follow_the_body() {
    let whole = dance(40);
    let mut motion = whole.clone();
    let hide = |motion: &mut [Option<WholeBody>], point: usize, frames: std::ops::Range<usize>| {
        for body in motion[frames].iter_mut().flatten() {
            (body.points[point], body.scores[point]) = ([0.0; 2], 0.0);
        }
    };
    hide(&mut motion, 9, 10..14);
    hide(&mut motion, 95, 10..14);
    hide(&mut motion, 10, 20..30);
    let before = motion.clone();
    let done = clean(&mut motion, options(5, 0.0));
    assert_eq!(done.filled_keypoints, 8);
    for t in 10..14 {
        let (body, truth) = (motion[t].as_ref().unwrap(), whole[t].as_ref().unwrap());
        assert_eq!(body.scores[9], 0.9);
        let off = |point: usize| {
            (body.points[point][0] - truth.points[point][0]).hypot(body.points[point][1] - truth.points[point][1])
        };
        assert!(off(9) < 25.0, "a wrist may bend its way a little: {}", off(9));
        // Half a step of the hand beside its wrist.
        assert!((off(95) - off(9)).abs() < 5.0, "{} {}", off(95), off(9));
    }
    assert_eq!(motion[20..30], before[20..30], "too long");
    assert_eq!(motion[..10], before[..10], "what is seen stays");
}

#[test]
fn spikes_are_taken_out_and_fast_moves_are_not() {
    let whole = dance(40);
    let mut motion = whole.clone();
    // The left wrist is taken for the right one, for one frame.
    let body = motion[12].as_mut().unwrap();
    body.points[9] = body.points[10];
    assert_eq!(clean(&mut motion, options(5, 0.0)).spikes, 1);
    let [found, truth] = [&motion, &whole].map(|m| m[12].as_ref().unwrap().points[9]);
    assert!((found[0] - truth[0]).hypot(found[1] - truth[1]) < 10.0, "{found:?} {truth:?}");
    // A punch of 2 m there and back within a quarter of a second.
    let mut punch = standing(20);
    for (t, part) in [(8, 0.5), (9, 0.9), (10, 1.0), (11, 0.9), (12, 0.5)] {
        punch[t].as_mut().unwrap().points[9][0] += 600.0 * part;
    }
    let before = punch.clone();
    assert_eq!(clean(&mut punch, options(5, 0.0)).spikes, 0);
    assert_eq!(punch, before);
    // To and fro all the time: every other one is out, and all are seen.
    let mut flicker = standing(21);
    for t in (1..21).step_by(2) {
        flicker[t].as_mut().unwrap().points[9][0] += 500.0;
    }
    assert_eq!(clean(&mut flicker, options(5, 0.0)).spikes, 10);
    assert!(flicker.iter().flatten().all(|body| body.scores[9] == 0.9));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A person who stands still is not touched at all, whatever is hidden when.
    #[test]
    fn what_does_not_move_stays_exactly(
        smooth in 0.0..=1.0f64, max_gap in 0..8usize, hidden in prop::collection::vec((0..30usize, 0..133usize), 0..60),
        away in prop::collection::vec(0..30usize, 0..6),
    ) {
        let mut motion = standing(30);
        for (t, point) in hidden {
            motion[t].as_mut().unwrap().scores[point] = 0.0;
        }
        for t in away {
            motion[t] = None;
        }
        let still = standing(1).remove(0).unwrap();
        clean(&mut motion, options(max_gap, smooth));
        for body in motion.iter().flatten() {
            prop_assert_eq!(body.points, still.points);
        }
    }

    /// Hidden keypoints neither move nor move others: only what is seen matters, and only where it is seen.
    #[test]
    fn hidden_joints_do_not_smear(seed in any::<u64>(), smooth in 0.1..=1.0f64, start in 1..15usize, len in 6..12usize) {
        let mut random = Random::new(seed);
        let run = |wild: bool, random: &mut Random| {
            let mut motion = dance(30);
            for body in motion[start..start + len].iter_mut().flatten() {
                body.scores[9] = 0.0;
                if wild {
                    body.points[9] = [random.between(-1e4, 1e4), random.between(-1e4, 1e4)];
                }
            }
            let hidden: Vec<[f64; 2]> = motion[start..start + len].iter().flatten().map(|b| b.points[9]).collect();
            clean(&mut motion, options(5, smooth));
            let after: Vec<[f64; 2]> = motion[start..start + len].iter().flatten().map(|b| b.points[9]).collect();
            (motion, hidden == after)
        };
        let (tame, tame_kept) = run(false, &mut random);
        let (wild, wild_kept) = run(true, &mut random);
        prop_assert!(tame_kept && wild_kept);
        for (t, (a, b)) in tame.iter().flatten().zip(wild.iter().flatten()).enumerate() {
            for point in (0..133).filter(|&p| p != 9 || !(start..start + len).contains(&t)) {
                prop_assert_eq!(a.points[point], b.points[point]);
            }
        }
    }
}
