//! One person through the clip: sightings → cleaned motion → the pose that each frame shows.

use std::ops::Range;

use crate::align::ScaleGuard;
use crate::keypoints::{PoseClip, WholeBody};
use crate::motion::{CleanOptions, Cleaned, clean};
use crate::openpose::{HandPairing, OpenPose};
use crate::options::{MissingPerson, PoseOptions};
use crate::people::{Role, body};
use crate::quality;

/// Where the main person's pose of a frame comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// The person was found in this frame.
    Seen,
    /// It lies between the poses before and after.
    Interpolated,
    /// It is the pose of another frame.
    Held,
    /// There is none.
    Nothing,
}

pub(crate) struct Performance {
    /// What each frame shows, in fractions of the driving picture.
    pub poses: Vec<Option<OpenPose>>,
    pub shown: Vec<Shown>,
    pub cleaned: Cleaned,
    /// Sum of the box areas over the clip, square pixels.
    pub area: f64,
    /// Mean score of the body's keypoints where the person was found.
    pub mean_score: f64,
    /// Jitter before and after cleaning, see [`quality::jitter`].
    pub jitter: [Option<f64>; 2],
}

impl Performance {
    /// `main` roles are held wherever they are missing; others come and go. `shots` are the stretches between cuts.
    pub fn new(clip: &PoseClip, role: &Role, shots: &[Range<usize>], main: bool, options: &PoseOptions) -> Self {
        let threshold = options.score_threshold;
        let mut motion: Vec<Option<WholeBody>> = role
            .sightings
            .iter()
            .zip(&clip.frames)
            .map(|(person, frame)| person.and_then(|person| frame.people.get(person).cloned()))
            .collect();
        let mut shown: Vec<Shown> =
            motion.iter().map(|body| if body.is_some() { Shown::Seen } else { Shown::Nothing }).collect();
        let area = motion.iter().flatten().map(|body| body::area(body, threshold)).sum();
        let scores: Vec<f64> = motion.iter().flatten().flat_map(|body| &body.scores[..17]).copied().collect();
        let jitter = |motion: &[Option<WholeBody>]| {
            let fast_enough = clip.fps >= quality::JITTER_FPS;
            if fast_enough { quality::jitter(motion, shots, threshold) } else { None }
        };
        let before = jitter(&motion);

        let settings = CleanOptions {
            fps: clip.fps,
            score_threshold: threshold,
            max_gap: options.longest_gap(clip.fps),
            fill_frames: options.missing == MissingPerson::Interpolate,
            smooth: options.smooth,
        };
        let mut cleaned = Cleaned::default();
        for shot in shots {
            let done = clean(&mut motion[shot.clone()], settings);
            cleaned.filled_keypoints += done.filled_keypoints;
            cleaned.spikes += done.spikes;
            cleaned.interpolated.extend(done.interpolated.iter().map(|t| t + shot.start));
        }
        for &frame in &cleaned.interpolated {
            shown[frame] = Shown::Interpolated;
        }
        let after = jitter(&motion);

        let size = clip.size();
        let convert = |body: &WholeBody| {
            let pose = OpenPose::from_whole_body(body, size, threshold);
            if options.guard == ScaleGuard::Upstream { pose } else { pose.settled() }
        };
        let mut poses: Vec<Option<OpenPose>> = motion.iter().map(|body| body.as_ref().map(convert)).collect();
        if options.hands == HandPairing::Upstream {
            for (pose, frame) in poses.iter_mut().zip(&clip.frames) {
                if let (Some(pose), [first, second, ..]) = (pose, &frame.people[..]) {
                    pose.hands = [first, second].map(|person| convert(person).hands[0]);
                }
            }
        }
        if options.missing != MissingPerson::Blank {
            hold(&mut poses, &mut shown, main);
        }
        Self {
            poses,
            shown,
            cleaned,
            area,
            mean_score: scores.iter().sum::<f64>() / scores.len().max(1) as f64,
            jitter: [before, after],
        }
    }

    /// The poses that belong to their frames, not held over from others.
    pub fn own_poses(&self) -> Vec<Option<OpenPose>> {
        let own = |(pose, shown): (&Option<OpenPose>, &Shown)| match shown {
            Shown::Seen | Shown::Interpolated => pose.clone(),
            Shown::Held | Shown::Nothing => None,
        };
        self.poses.iter().zip(&self.shown).map(own).collect()
    }

    /// [`Performance::own_poses`], but in any case the pose that frame `at` shows.
    pub fn own_or_held_at(&self, at: usize) -> Vec<Option<OpenPose>> {
        let mut poses = self.own_poses();
        poses[at].clone_from(&self.poses[at]);
        poses
    }

    /// The frames of a kind.
    pub fn frames(&self, kind: Shown) -> impl Iterator<Item = usize> + '_ {
        (0..self.shown.len()).filter(move |&i| self.shown[i] == kind)
    }
}

/// Fills what is missing with the last pose there was, in a main role at the start with the first there will be.
fn hold(poses: &mut [Option<OpenPose>], shown: &mut [Shown], main: bool) {
    let present = |poses: &[Option<OpenPose>]| poses.iter().position(Option::is_some);
    let Some(first) = present(poses) else {
        return;
    };
    let last = poses.iter().rposition(Option::is_some).unwrap_or(first);
    let range = if main { 0..poses.len() } else { first..last + 1 };
    let mut held = poses[first].clone();
    for index in range {
        if poses[index].is_some() {
            held.clone_from(&poses[index]);
        } else {
            poses[index].clone_from(&held);
            shown[index] = Shown::Held;
        }
    }
}
