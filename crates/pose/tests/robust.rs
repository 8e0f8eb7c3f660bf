//! The robust way end to end: people, gaps, the measured frame, mirrors, and what the report says.

mod puppet;

use pose::align::{nearest_frame, shape_distance};
use pose::{
    AlignFrame, AlignedPose, Aspects, HandPairing, MissingPerson, OpenPose, PersonChoice, PoseClip, PoseError,
    PoseFrames, PoseOptions, Size, Warning, WholeBody,
};
use proptest::prelude::*;
use puppet::{HEIGHT, Puppet, Random, WIDTH, clip, limb, reference};

const SIZE: Size = Size::new(WIDTH, HEIGHT);

fn dancer(height: f64, x: f64, frames: usize) -> Vec<WholeBody> {
    let at = |t: usize| Puppet::standing(height, [x, 160.0]).dancing(t as f64 / 16.0, 1.0).keypoints();
    (0..frames).map(at).collect()
}

fn prepared(clip: &PoseClip, options: PoseOptions) -> PoseFrames {
    PoseFrames::new(clip.clone(), SIZE, options).unwrap()
}

/// One dancer and a standing reference.
fn solo(frames: usize) -> PoseClip {
    let mut clip = clip(16.0, dancer(450.0, 640.0, frames).into_iter().map(|body| vec![body]).collect());
    clip.reference = reference(vec![Puppet::standing(500.0, [600.0, 140.0]).keypoints()]);
    clip
}

fn kinds(frames: &PoseFrames) -> Vec<&'static str> {
    frames.report().warnings.iter().map(Warning::kind).collect()
}

fn text(ranges: &[pose::FrameRange]) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn a_good_clip_has_nothing_to_report() {
    let all = prepared(&solo(49), PoseOptions::default());
    let report = all.report();
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    assert_eq!((report.detection_rate, report.tracks, report.people), (1.0, 1, 1));
    assert!(report.missing.is_empty() && report.cuts.is_empty() && report.rarely_seen.is_empty());
    assert_eq!(report.hands_seen, [1.0, 1.0]);
    assert!((report.mean_score - 0.9).abs() < 1e-9);
    assert!(report.jitter_px.iter().all(|px| px.unwrap() < 0.5));
    assert!(!report.limb_drift.is_empty() && report.limb_drift[0].variation < 0.5, "{:?}", report.limb_drift);
    let json: serde_json::Value = serde_json::to_value(report).unwrap();
    assert_eq!(json["frames"], 49);
    assert!(json["scales"]["arm_upper"].is_f64());
}

#[test]
fn gaps_are_interpolated_then_held() {
    let mut clip = solo(60);
    for t in (0..2).chain(10..15).chain(30..45).chain(58..60) {
        clip.frames[t].people.clear();
    }
    let with = |missing, max_gap| prepared(&clip, PoseOptions { missing, max_gap, smooth: 0.0, ..Default::default() });
    let all = with(MissingPerson::Interpolate, None);
    let report = all.report();
    assert_eq!(text(&report.missing), "0-1,10-14,30-44,58-59");
    assert_eq!(text(&report.interpolated), "10-14", "half a second is 8 frames");
    assert_eq!(text(&report.held), "0-1,30-44,58-59");
    assert!(report.blank.is_empty());
    assert_eq!(report.align_frame, 2);
    assert_eq!(kinds(&all), ["missing"]);
    let message = report.warnings[0].to_string();
    assert!(message.contains("24 of 60 frames") && message.contains("interpolated: 10-14"), "{message}");
    assert_eq!(all.poses(0), all.poses(2));
    assert_eq!(all.poses(40), all.poses(29));
    assert_eq!(all.poses(59), all.poses(57));
    let wrist = |t: usize| all.poses(t)[0].body[4];
    assert!((0..2).all(|axis| (wrist(12)[axis] - (wrist(9)[axis] + wrist(15)[axis]) / 2.0).abs() < 0.02));
    assert_ne!(all.poses(12), all.poses(9));

    let wide = with(MissingPerson::Interpolate, Some(15));
    assert_eq!(text(&wide.report().interpolated), "10-14,30-44");
    let held = with(MissingPerson::Hold, None);
    assert_eq!(text(&held.report().held), "0-1,10-14,30-44,58-59");
    let blank = with(MissingPerson::Blank, None);
    assert_eq!(text(&blank.report().blank), "0-1,10-14,30-44,58-59");
    assert!(blank.poses(12).is_empty() && !blank.poses(9).is_empty());
    assert_eq!(kinds(&blank), ["blank"]);
}

/// Two dancers, and two people in the picture; the larger dancer is on the right, the larger reference on the left.
fn duet() -> PoseClip {
    let (left, right) = (dancer(350.0, 400.0, 40), dancer(450.0, 900.0, 40));
    // The detector's order changes all the time.
    let pair = |t: usize| {
        let pair = [left[t].clone(), right[t].clone()];
        if t.is_multiple_of(3) { pair.to_vec() } else { pair.into_iter().rev().collect() }
    };
    let mut clip = clip(16.0, (0..40).map(pair).collect());
    clip.reference = reference(vec![
        Puppet::standing(400.0, [1000.0, 200.0]).keypoints(),
        Puppet::standing(550.0, [300.0, 120.0]).keypoints(),
    ]);
    clip
}

fn neck(pose: &AlignedPose) -> [f64; 2] {
    [pose.body[1][0] * f64::from(WIDTH), pose.body[1][1] * f64::from(HEIGHT)]
}

#[test]
fn everybody_dances_from_left_to_right() {
    let all = prepared(&duet(), PoseOptions { person: PersonChoice::All, smooth: 0.0, ..Default::default() });
    assert_eq!((all.report().people, all.report().tracks, all.report().frames_with_several), (2, 2, 40));
    // The main one, the larger on the right, is drawn last.
    let [left, right] = all.poses(0) else { panic!("two people") };
    // The canvas is rounded to multiples of 16, so its aspect is the picture's within 1 %.
    let near = |a: [f64; 2], b: [f64; 2]| (a[0] - b[0]).abs() < 1e-6 && (a[1] - b[1]).abs() < 1e-6;
    assert!(
        near(neck(left), [300.0, 120.0]) && near(neck(right), [1000.0, 200.0]),
        "{:?} {:?}",
        neck(left),
        neck(right)
    );
    let size = |pose: &AlignedPose| (pose.body[8][1] - pose.body[1][1]) * f64::from(HEIGHT);
    assert!((size(left) - 165.0).abs() < 1.0 && (size(right) - 120.0).abs() < 1.0, "{} {}", size(left), size(right));
    for t in 0..40 {
        let [left, right] = all.poses(t) else { panic!("two people") };
        assert!(neck(left)[0] < 600.0 && neck(right)[0] > 700.0, "{t}");
        // Each has their own hands: the hand's root is at its wrist.
        for pose in [left, right] {
            for (hand, wrist) in [(0, 7), (1, 4)] {
                let (a, b) = (pose.hands[hand][0], pose.body[wrist]);
                assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 1e-6);
            }
        }
    }
    assert_eq!(all.draw(3).unwrap().positive.dimensions(), (all.drawn_size().width, all.drawn_size().height));

    // One person in the picture: the larger dancer is paired, the other follows by the same transform.
    let mut clip = duet();
    clip.reference.as_mut().unwrap().people.remove(0);
    let all = prepared(&clip, PoseOptions { person: PersonChoice::All, smooth: 0.0, ..Default::default() });
    let [left, right] = all.poses(0) else { panic!("two people") };
    assert!(near(neck(right), [300.0, 120.0]));
    assert!((neck(left)[0] - (300.0 - 500.0)).abs() < 8.0, "as far apart as they were: {:?}", neck(left));
}

#[test]
fn one_of_two_is_followed() {
    for (person, height, place) in [
        (PersonChoice::Largest, 450.0, [300.0, 120.0]),
        (PersonChoice::Left, 350.0, [300.0, 120.0]),
        (PersonChoice::Right, 450.0, [1000.0, 200.0]),
    ] {
        let one = prepared(&duet(), PoseOptions { person, smooth: 0.0, ..Default::default() });
        assert_eq!((one.poses(7).len(), one.report().switches), (1, 0));
        let found = neck(&one.poses(0)[0]);
        assert!((found[0] - place[0]).abs() < 1e-6 && (found[1] - place[1]).abs() < 1e-6, "{person}: {found:?}");
        let target = if place[0] < 600.0 { 550.0 } else { 400.0 };
        let body = one.alignment().scales().body;
        assert!((body - target / height).abs() < 1e-6, "{person}: {body}");
    }
    let upstream = prepared(&duet(), PoseOptions::upstream());
    assert!(upstream.report().switches > 20);
    assert!(kinds(&upstream).contains(&"switches"));
}

#[test]
fn somebody_who_comes_and_goes_is_not_held() {
    let mut clip = duet();
    for t in (0..10).chain(20..23).chain(35..40) {
        clip.frames[t].people.retain(|body| body.points[5][0] > 600.0);
    }
    let all = prepared(&clip, PoseOptions { person: PersonChoice::All, ..Default::default() });
    let counts: Vec<usize> = (0..40).map(|t| all.poses(t).len()).collect();
    assert!((0..10).chain(35..40).all(|t| counts[t] == 1) && (10..35).all(|t| counts[t] == 2), "{counts:?}");
    assert!(all.report().missing.is_empty(), "the main one is always there");
}

#[test]
fn upstream_takes_the_list_as_it_is() {
    let clip = duet();
    let upstream = prepared(&clip, PoseOptions::upstream());
    let aspects = Aspects { drive: clip.size().aspect(), canvas: pose::sizes::canvas_base(SIZE).unwrap().aspect() };
    let person = |t: usize| OpenPose::from_frame(&clip.frames[t], 0, clip.size(), 0.35, HandPairing::Upstream).unwrap();
    let target = OpenPose::from_whole_body(&clip.reference.as_ref().unwrap().people[0], SIZE, 0.35);
    let (alignment, _) = pose::Alignment::measure(&target, &person(0), aspects, pose::ScaleGuard::Upstream);
    for t in 0..40 {
        assert_eq!(upstream.poses(t), [alignment.apply(&person(t))], "{t}");
    }
}

#[test]
fn auto_finds_the_frame_like_the_picture() {
    let mut clip = solo(49);
    // Frame 31 stands as in the picture, but elsewhere and smaller.
    clip.frames[31].people = vec![Puppet::standing(450.0, [660.0, 160.0]).keypoints()];
    clip.frames[40].people = clip.frames[31].people.clone();
    let at =
        |align_frame| prepared(&clip, PoseOptions { align_frame, smooth: 0.0, max_gap: Some(0), ..Default::default() });
    let auto = at(AlignFrame::Auto);
    assert_eq!(auto.report().align_frame, 31, "the first of equals");
    assert!(auto.report().align_distance.unwrap() < 1e-6);
    assert_eq!(at(AlignFrame::Index(31)).poses(5), auto.poses(5));
    assert!(at(AlignFrame::Index(5)).report().align_distance.unwrap() > 0.05);
    let without = PoseClip { reference: None, ..clip.clone() };
    let without = prepared(&without, PoseOptions { align_frame: AlignFrame::Auto, ..Default::default() });
    assert_eq!((without.report().align_frame, without.report().align_distance), (0, None));
    assert_eq!(kinds(&without), ["not_aligned"]);
    for (text, frame) in [("auto", AlignFrame::Auto), ("17", AlignFrame::Index(17))] {
        assert_eq!(text.parse::<AlignFrame>().unwrap(), frame);
        assert_eq!(serde_json::to_string(&frame).unwrap(), format!("{text:?}"));
    }
    let error = "first".parse::<AlignFrame>().unwrap_err();
    assert!(matches!(error, PoseError::Word { .. }) && error.to_string().contains("auto"), "{error}");
}

#[test]
fn a_frame_without_the_neck_is_not_measured() {
    let mut clip = solo(20);
    for t in 0..3 {
        clip.frames[t].people[0].scores[5] = 0.1;
    }
    let robust = prepared(&clip, PoseOptions { max_gap: Some(0), ..Default::default() });
    assert_eq!(robust.report().align_frame, 3);
    assert_eq!(prepared(&clip, PoseOptions::upstream()).report().align_frame, 0);
}

#[test]
fn hidden_joints_do_not_move_visible_ones() {
    let place = |[x, y]: [f64; 2]| {
        let mut clip = solo(20);
        clip.reference.as_mut().unwrap().people[0] = {
            let mut puppet = Puppet::standing(500.0, [600.0, 140.0]);
            puppet.bones.arm_upper = 1.3;
            puppet.keypoints()
        };
        for body in clip.frames[1..].iter_mut().flat_map(|f| &mut f.people) {
            // The right elbow and the left hip: a file says "not found" with any coordinates.
            for point in [8, 11] {
                (body.points[point], body.scores[point]) = ([x, y], 0.0);
            }
        }
        clip
    };
    let [a, b] = [[0.0, 0.0], [5000.0, -800.0]].map(|at| prepared(&place(at), PoseOptions::default()));
    for t in 1..20 {
        let (a, b) = (&a.poses(t)[0], &b.poses(t)[0]);
        assert_eq!(a.visible.iter().filter(|seen| !**seen).count(), 2);
        assert_eq!((a.body, a.hands), (b.body, b.hands), "{t}");
    }
}

/// Someone who looks and points to one side.
fn pointing(height: f64, neck: [f64; 2], yaw: f64) -> Puppet {
    let mut puppet = Puppet::standing(height, neck);
    puppet.yaw = yaw;
    puppet.arms[0] = [limb(true, 1.5, 0.2), limb(true, 1.6, 0.2)];
    puppet
}

#[test]
fn a_mirrored_picture_is_noticed() {
    let width = f64::from(WIDTH);
    let still = pointing(500.0, [600.0, 140.0], 0.7).keypoints();
    let frames = |random: &mut Random| -> Vec<Vec<WholeBody>> {
        (0..30)
            .map(|t| {
                let mut puppet = pointing(450.0, [640.0, 150.0], 0.6 + 0.005 * t as f64);
                puppet.arms[1] = [limb(false, 0.4 + 0.01 * t as f64, 0.1); 2];
                vec![random.noisy(&puppet.keypoints(), 1.0)]
            })
            .collect()
    };
    let mut same = clip(16.0, frames(&mut Random::new(1)));
    same.reference = reference(vec![still.clone()]);
    let mut other = same.clone();
    other.reference = reference(vec![still.mirrored(width)]);
    let plain = prepared(&same, PoseOptions::default());
    assert!(!plain.report().likely_mirrored && !plain.report().seen_from_behind);
    let wrong = prepared(&other, PoseOptions::default());
    assert!(wrong.report().likely_mirrored);
    assert!(kinds(&wrong).contains(&"mirrored"), "{:?}", wrong.report().warnings);
    let mirrored = prepared(&other, PoseOptions { mirror: true, ..Default::default() });
    assert!(!mirrored.report().likely_mirrored && mirrored.report().mirror);
    // All of it in the mirror: the same poses in the mirror.
    for t in 0..30 {
        let (a, b) = (&plain.poses(t)[0], &mirrored.poses(t)[0]);
        assert!((a.body[4][0] + b.body[7][0] - 1.0).abs() < 1e-5 && (a.body[4][1] - b.body[7][1]).abs() < 1e-5);
    }
    // From behind: left and right change places, and mirroring would not help.
    let mut behind = same.clone();
    behind.reference = reference(vec![pointing(500.0, [600.0, 140.0], 3.1).keypoints()]);
    let report = prepared(&behind, PoseOptions::default()).report().clone();
    assert!(report.seen_from_behind);
}

#[test]
fn warnings_say_what_is_wrong() {
    let message = |clip: &PoseClip, kind: &str| {
        let frames = prepared(clip, PoseOptions { max_gap: Some(0), ..Default::default() });
        let found = frames.report().warnings.iter().find(|w| w.kind() == kind).map(ToString::to_string);
        found.unwrap_or_else(|| panic!("no {kind} in {:?}", frames.report().warnings))
    };
    let mut hidden = solo(50);
    for t in 0..31 {
        hidden.frames[t].people[0].scores[7] = 0.0;
    }
    let said = message(&hidden, "hidden");
    assert_eq!(said, "the left arm is hidden in 62 % of the frames: choose a video where both arms are seen");
    let seen = prepared(&hidden, PoseOptions { max_gap: Some(0), ..Default::default() }).report().rarely_seen.clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].joint, "left elbow");
    // A picture that shows no legs does not want them.
    let mut bust = solo(50);
    for body in bust.frames.iter_mut().flat_map(|f| &mut f.people).chain(&mut bust.reference.as_mut().unwrap().people) {
        body.scores[13..17].fill(0.0);
    }
    let warnings = prepared(&bust, PoseOptions::default()).report().warnings.clone();
    assert!(warnings.is_empty(), "{warnings:?}");

    let mut no_hands = solo(50);
    no_hands.frames.iter_mut().for_each(|f| f.people[0].scores[91..].fill(0.0));
    assert!(message(&no_hands, "hand").contains("left hand is seen in 0 %"));
    let mut trembling = solo(50);
    let mut random = Random::new(9);
    trembling.frames.iter_mut().for_each(|f| f.people[0] = random.noisy(&f.people[0], 8.0));
    assert!(message(&trembling, "jitter").contains("tremble"));
    let mut unsure = solo(50);
    unsure.frames.iter_mut().for_each(|f| f.people[0].scores.fill(0.4));
    assert!(message(&unsure, "low_score").contains("0.40"));
    let mut cut = solo(50);
    cut.frames[25..].iter_mut().for_each(|f| f.people[0] = Puppet::standing(200.0, [200.0, 300.0]).keypoints());
    assert!(message(&cut, "cuts").contains("frame 25"));
    let mut away = solo(50);
    away.frames[10..].iter_mut().for_each(|f| f.people[0] = Puppet::standing(450.0, [1500.0, 160.0]).keypoints());
    assert!(message(&away, "out_of_frame").contains("% of the joints"));
    let mut lying = solo(50);
    lying.frames[0].people[0].points.iter_mut().for_each(|p| *p = [p[1] + 300.0, 720.0 - p[0] / 2.0]);
    assert!(message(&lying, "unlike_reference").contains("`auto`"));
    for clip in [hidden, no_hands, trembling, unsure, cut, away, lying] {
        for warning in prepared(&clip, PoseOptions::default()).report().warnings.iter() {
            let line = warning.to_string();
            assert!(!line.contains('\n') && line.contains(": "), "{line}");
            let json = serde_json::to_value(warning).unwrap();
            assert_eq!((&json["kind"], &json["message"]), (&warning.kind().into(), &line.into()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// The distance of shapes ignores place and size, and the nearest frame is found wherever it is.
    #[test]
    fn likeness_ignores_place_and_size(
        scale in 0.2..3.0f64, shift in prop::array::uniform2(-0.5..0.5f64), at in 0..20usize, canvas in 0.5..2.0f64,
    ) {
        let aspects = Aspects { drive: SIZE.aspect(), canvas };
        let pose = |t: usize| {
            let body = Puppet::standing(400.0, [640.0, 160.0]).dancing(t as f64 / 4.0, 1.0).keypoints();
            OpenPose::from_whole_body(&body, SIZE, 0.35)
        };
        let mut target = pose(at);
        let map = |p: [f64; 2]| [(p[0] * scale) * aspects.drive / canvas + shift[0], p[1] * scale + shift[1]];
        target.body = target.body.map(map);
        let motion: Vec<Option<OpenPose>> = (0..20).map(|t| Some(pose(t))).collect();
        prop_assert!(shape_distance(&target, &pose(at), aspects).unwrap() < 1e-9);
        prop_assert_eq!(nearest_frame(&target, &motion, aspects), Some(at));
    }

    /// Whatever is found or not, there is a report without nonsense, and mirroring twice changes nothing.
    #[test]
    fn any_clip_has_a_report(
        seed in any::<u64>(), people in prop::collection::vec(0..4usize, 1..20), all in any::<bool>(), mirror in any::<bool>(),
        smooth in 0.0..=1.0f64, max_gap in prop::option::of(0..10usize), auto in any::<bool>(),
    ) {
        let mut random = Random::new(seed);
        let mut person = || {
            let puppet = Puppet::standing(random.between(1.0, 900.0), [random.between(-200.0, 1400.0), random.between(-100.0, 800.0)]);
            let mut body = puppet.keypoints();
            body.scores = std::array::from_fn(|_| random.between(-0.5, 1.2));
            body
        };
        let mut clip = clip(16.0, people.iter().map(|n| (0..*n).map(|_| person()).collect()).collect());
        clip.reference = reference(vec![person(), person()]);
        let options = PoseOptions {
            person: if all { PersonChoice::All } else { PersonChoice::Largest },
            align_frame: if auto { AlignFrame::Auto } else { AlignFrame::default() },
            mirror, smooth, max_gap,
            ..Default::default()
        };
        match PoseFrames::new(clip.clone(), SIZE, options) {
            Err(error) => prop_assert!(people.iter().all(|n| *n == 0), "{}", error),
            Ok(frames) => {
                let report = frames.report();
                let unit = [report.detection_rate, report.out_of_frame_fraction, report.hands_seen[0], report.hands_seen[1]];
                prop_assert!(unit.iter().all(|v| (0.0..=1.0).contains(v)), "{:?}", report);
                prop_assert!(report.blank.is_empty(), "held or interpolated throughout");
                prop_assert!(serde_json::to_string(report).is_ok());
                let all_poses = (0..people.len()).flat_map(|t| frames.poses(t));
                prop_assert!(all_poses.flat_map(|p| p.body).flatten().all(f64::is_finite));
            }
        }
        let turned = clip.clone().mirrored().mirrored();
        let off = |(a, b): (&WholeBody, &WholeBody)| a.points.iter().zip(&b.points).all(|(p, q)| (p[0] - q[0]).abs() < 1e-9 && p[1] == q[1]);
        let both = clip.frames.iter().flat_map(|f| &f.people).zip(turned.frames.iter().flat_map(|f| &f.people));
        prop_assert!(both.into_iter().all(off));
    }
}
