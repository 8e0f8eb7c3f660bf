//! Who is who: tracks, cuts, and whom a choice means.

mod puppet;

use pose::people::{Identity, MAX_ROLES, Shot, TrackOptions, cast, track};
use pose::{FrameKeypoints, PersonChoice, PoseClip, PoseError, WholeBody};
use proptest::prelude::*;
use puppet::{Puppet, Random, clip};

const OPTIONS: TrackOptions = TrackOptions { max_gap: 16, score_threshold: 0.35 };

/// A dancer who also walks: `from` and `to` are places of the neck in the first and last of `frames`.
fn walk(height: f64, from: [f64; 2], to: [f64; 2], rhythm: f64, frames: usize) -> Vec<WholeBody> {
    let at = |i: usize| {
        let part = i as f64 / (frames - 1).max(1) as f64;
        let neck = [0, 1].map(|axis| from[axis] + part * (to[axis] - from[axis]));
        Puppet::standing(height, neck).dancing(i as f64 / 16.0, rhythm).keypoints()
    };
    (0..frames).map(at).collect()
}

/// The tracks as sets of people, named by what they are and not by number.
fn identities(clip: &PoseClip, shots: &[Shot]) -> Vec<Vec<Vec<[f64; 2]>>> {
    let nose = |&(frame, person): &(usize, usize)| clip.frames[frame].people[person].points[0];
    let mut all: Vec<Vec<Vec<[f64; 2]>>> =
        shots.iter().map(|shot| shot.tracks.iter().map(|t| t.sightings.iter().map(nose).collect()).collect()).collect();
    for shot in &mut all {
        shot.sort_by(|a: &Vec<[f64; 2]>, b| a.partial_cmp(b).unwrap());
    }
    all
}

fn shuffled(clip: &PoseClip, random: &mut Random) -> PoseClip {
    let mut other = clip.clone();
    for frame in &mut other.frames {
        for i in (1..frame.people.len()).rev() {
            frame.people.swap(i, random.between(0.0, (i + 1) as f64) as usize);
        }
    }
    other
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the order in which the detector lists people, the tracks are the same.
    #[test]
    fn the_detectors_order_does_not_matter(seed in any::<u64>(), people in 1..6usize) {
        let mut random = Random::new(seed);
        let mut place = || [random.between(100.0, 1180.0), random.between(150.0, 350.0)];
        let walks: Vec<_> = (0..people)
            .map(|i| walk(300.0 + 20.0 * i as f64, place(), place(), 0.7 + 0.1 * i as f64, 24))
            .collect();
        let frames = (0..24).map(|t| walks.iter().map(|walk| random.noisy(&walk[t], 2.0)).collect()).collect();
        let clip = clip(16.0, frames);
        let other = shuffled(&clip, &mut random);
        prop_assert_eq!(identities(&clip, &track(&clip, OPTIONS)), identities(&other, &track(&other, OPTIONS)));
    }

    /// Two people cross; for some frames the one behind is not found at all. Order changes at random throughout.
    #[test]
    fn crossing_people_stay_themselves(
        seed in any::<u64>(), hidden in 0..7usize, heights in prop::array::uniform2(350.0..450.0f64), dy in -20.0..20.0f64,
    ) {
        let mut random = Random::new(seed);
        let frames = 48;
        let front = walk(heights[0], [300.0, 200.0], [980.0, 200.0 + dy], 1.0, frames);
        let behind = walk(heights[1], [1000.0, 200.0 + dy], [280.0, 200.0], 0.8, frames);
        let middle = frames / 2 - hidden / 2;
        let mut clip = clip(16.0, Vec::new());
        for t in 0..frames {
            let mut people = vec![random.noisy(&front[t], 2.0)];
            if !(middle..middle + hidden).contains(&t) {
                people.push(random.noisy(&behind[t], 2.0));
            }
            clip.frames.push(FrameKeypoints { people });
        }
        let clip = shuffled(&clip, &mut random);
        let shots = track(&clip, OPTIONS);
        prop_assert_eq!(shots.len(), 1);
        prop_assert_eq!(shots[0].tracks.len(), 2);
        for track in &shots[0].tracks {
            let nose = |&(t, person): &(usize, usize)| clip.frames[t].people[person].points[0];
            let is_front = |sighting: &(usize, usize)| {
                let [a, b] = [&front, &behind].map(|walk| (walk[sighting.0].points[0][0] - nose(sighting)[0]).abs());
                a < b
            };
            // Where the two are apart, a track is one of them.
            let apart = |t: usize| (front[t].points[0][0] - behind[t].points[0][0]).abs() > 60.0;
            let names: Vec<bool> = track.sightings.iter().filter(|s| apart(s.0)).map(is_front).collect();
            prop_assert!(names.windows(2).all(|w| w[0] == w[1]), "{:?}", names);
        }
    }

    /// Any numbers at all.
    #[test]
    fn nothing_panics(seed in any::<u64>(), people in prop::collection::vec(0..4usize, 1..12)) {
        let mut random = Random::new(seed);
        let mut wild = || {
            let exponent = random.between(-20.0, 320.0);
            let sign = if random.between(0.0, 1.0) < 0.5 { -1.0 } else { 1.0 };
            (sign * 10f64.powf(exponent)).clamp(f64::MIN, f64::MAX)
        };
        let mut person = || WholeBody {
            points: std::array::from_fn(|_| [wild(), wild()]),
            scores: std::array::from_fn(|i| wild().clamp(0.0, 1.0) * (i % 3) as f64),
        };
        let clip = clip(16.0, people.iter().map(|n| (0..*n).map(|_| person()).collect()).collect());
        let shots = track(&clip, OPTIONS);
        let sightings: usize = shots.iter().flat_map(|s| &s.tracks).map(|t| t.sightings.len()).sum();
        prop_assert_eq!(sightings, people.iter().sum::<usize>(), "everybody is in just one track");
        for choice in [PersonChoice::Largest, PersonChoice::Center, PersonChoice::All, PersonChoice::Index(1)] {
            let _ = cast(&clip, choice, Identity::Tracked, 0.35);
        }
    }
}

/// Two people who stand, the first listed first in even frames only.
fn two_standing() -> PoseClip {
    let left = walk(300.0, [300.0, 250.0], [300.0, 250.0], 1.0, 20);
    let right = walk(400.0, [900.0, 200.0], [900.0, 200.0], 0.8, 20);
    let pair = |t: usize| {
        let (a, b) = (left[t].clone(), right[t].clone());
        if t.is_multiple_of(2) { vec![a, b] } else { vec![b, a] }
    };
    clip(16.0, (0..20).map(pair).collect())
}

#[test]
fn a_choice_holds_for_the_whole_clip() {
    let clip = two_standing();
    let xs = |choice, identity| -> Vec<f64> {
        let role = cast(&clip, choice, identity, 0.35).unwrap().roles.remove(0);
        role.sightings.iter().enumerate().map(|(t, p)| clip.frames[t].people[p.unwrap()].points[5][0]).collect()
    };
    let everywhere = |xs: Vec<f64>, left: bool| xs.into_iter().all(|x| (x < 600.0) == left);
    for (choice, left) in [
        (PersonChoice::Largest, false),
        (PersonChoice::Left, true),
        (PersonChoice::Right, false),
        // The middle of the picture is at 640: 260 to the right one, 340 to the left one.
        (PersonChoice::Center, false),
        (PersonChoice::Index(0), true),
        (PersonChoice::Index(1), false),
    ] {
        assert!(everywhere(xs(choice, Identity::Tracked), left), "{choice}");
    }
    let jumping = xs(PersonChoice::Index(0), Identity::ListOrder);
    assert!(jumping.windows(2).all(|w| (w[0] < 600.0) != (w[1] < 600.0)));
    let upstream = cast(&clip, PersonChoice::Index(0), Identity::ListOrder, 0.35).unwrap();
    assert_eq!((upstream.switches, upstream.tracks), (19, 2));
    let all = cast(&clip, PersonChoice::All, Identity::Tracked, 0.35).unwrap();
    assert_eq!((all.roles.len(), all.switches), (2, 0));
    assert_eq!(all.roles[0], cast(&clip, PersonChoice::Largest, Identity::Tracked, 0.35).unwrap().roles[0]);
}

#[test]
fn a_ghost_at_the_edge_is_not_the_person_on_the_left() {
    let mut clip = two_standing();
    clip.frames[7].people.insert(0, walk(200.0, [60.0, 300.0], [60.0, 300.0], 1.0, 1).remove(0));
    let role = cast(&clip, PersonChoice::Left, Identity::Tracked, 0.35).unwrap().roles.remove(0);
    assert!(role.sightings.iter().all(Option::is_some));
    let all = cast(&clip, PersonChoice::All, Identity::Tracked, 0.35).unwrap();
    assert_eq!((all.roles.len(), all.tracks), (2, 3), "nor is it drawn");
}

#[test]
fn of_a_crowd_the_largest_are_drawn() {
    let crowd =
        |_| (0..20).map(|i| walk(100.0 + 5.0 * i as f64, [60.0 * i as f64 + 50.0, 300.0], [0.0; 2], 1.0, 1).remove(0));
    let clip = clip(16.0, (0..10).map(|t| crowd(t).collect()).collect());
    let all = cast(&clip, PersonChoice::All, Identity::Tracked, 0.35).unwrap();
    assert_eq!((all.roles.len(), all.tracks), (MAX_ROLES, 20));
    let people: Vec<usize> = all.roles.iter().map(|role| role.sightings[0].unwrap()).collect();
    assert_eq!(people[0], 19);
    assert_eq!(people[1..], (4..19).collect::<Vec<_>>()[..], "the rest in order of appearance");
}

#[test]
fn cuts_begin_new_shots() {
    let near = walk(600.0, [700.0, 150.0], [720.0, 150.0], 1.0, 10);
    let far = walk(250.0, [300.0, 300.0], [310.0, 300.0], 1.0, 12);
    let joined = clip(16.0, near.iter().chain(&far).map(|p| vec![p.clone()]).collect());
    let shots = track(&joined, OPTIONS);
    assert_eq!(shots.iter().map(|s| s.frames.clone()).collect::<Vec<_>>(), [0..10, 10..22]);
    // The one person of each shot is followed all the way.
    let cast_of = |clip| cast(clip, PersonChoice::Largest, Identity::Tracked, 0.35).unwrap();
    assert!(cast_of(&joined).roles[0].sightings.iter().all(Option::is_some));
    // A zoom into the same place is a cut as well.
    let zoomed = walk(620.0, [310.0, 150.0], [310.0, 150.0], 1.0, 12);
    let zoom = clip(16.0, far.iter().chain(&zoomed).map(|p| vec![p.clone()]).collect());
    assert_eq!(track(&zoom, OPTIONS).len(), 2);
    // Nobody for a while, and then somewhere else: alone before and after, so the same person.
    let mut away = joined.clone();
    away.frames.splice(10..10, vec![FrameKeypoints::default(); 40]);
    assert_eq!(track(&away, OPTIONS).len(), 1);
    assert_eq!(cast_of(&away).roles[0].sightings.iter().flatten().count(), 22);
}

#[test]
fn words_are_read_and_written() {
    for (text, choice) in [
        ("largest", PersonChoice::Largest),
        ("center", PersonChoice::Center),
        ("left", PersonChoice::Left),
        ("right", PersonChoice::Right),
        ("all", PersonChoice::All),
        ("3", PersonChoice::Index(3)),
    ] {
        assert_eq!(text.parse::<PersonChoice>().unwrap(), choice);
        assert_eq!(choice.to_string(), text);
        let json = serde_json::to_string(&choice).unwrap();
        assert_eq!(json, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<PersonChoice>(&json).unwrap(), choice);
    }
    for wrong in ["", "biggest", "-1", "1.5", "Left"] {
        let error = wrong.parse::<PersonChoice>().unwrap_err();
        assert!(matches!(error, PoseError::Word { name: "person", .. }));
        assert!(error.to_string().contains("largest, center, left, right, all"), "{error}");
    }
    assert!(serde_json::from_str::<PersonChoice>("\"middle\"").unwrap_err().to_string().contains("largest"));
}
