//! Who is who from frame to frame.
//!
//! Tracking by detection without appearance: a person found is matched to a known one by the likeness of the keypoints
//! (COCO's object keypoint similarity), the overlap of the boxes, and the distance from where constant velocity would have
//! led. Each frame is matched as a whole with the assignment of largest total likeness (Hungarian method), as in SORT
//! (Bewley et al. 2016), so that neither the detector's order nor the order of the tracks matters.

use std::ops::Range;

use pathfinding::kuhn_munkres::kuhn_munkres;
use pathfinding::matrix::Matrix;

use super::body::{self, Bounds};
use crate::keypoints::{COCO_BODY_POINTS, FrameKeypoints, PoseClip, WholeBody};

/// People of a frame that are looked at, best first: a crowd is not followed one by one.
pub const MAX_PEOPLE: usize = 64;
/// Known people who are looked for at a time, those seen last first: strangers who come and go must not add up.
const MAX_KNOWN: usize = 128;

/// COCO's standard deviations by keypoint, as parts of the person's size.
const SIGMAS: [f64; COCO_BODY_POINTS] = [
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
];
/// COCO's sigmas are an annotator's error (k = 2σ); people also move between frames, so twice that.
const SIGMA_FACTOR: f64 = 4.0;
const ALL_POINTS: [usize; COCO_BODY_POINTS] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
/// √area of a standing person's box as a part of its longer side. The area itself would change with every raised arm.
const SIZE_OF_LONGER_SIDE: f64 = 0.6;
/// Distance from the predicted place, in sizes, at which a person is out of reach after one frame; grows with √frames.
/// It is about 0.8 heights: 13 heights a second at 16 frames a second.
const REACH: f64 = 1.3;
/// Weights of likeness of keypoints, overlap, and nearness.
const WEIGHTS: [f64; 3] = [0.5, 0.25, 0.25];
/// Below this two people are not the same.
const LEAST_SIMILARITY: f64 = 0.15;
/// The assignment counts in whole numbers of this.
const RESOLUTION: f64 = 1e-9;

/// Settings of [`track`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackOptions {
    /// Frames for which a person may be unseen and still be known again.
    pub max_gap: usize,
    /// Keypoints that do not score above this are not looked at.
    pub score_threshold: f64,
}

/// One person through a shot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// Frame, and place in that frame's list of people; frames rise, with gaps where the person was not found.
    pub sightings: Vec<(usize, usize)>,
}

/// The frames between two cuts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shot {
    /// Frames of the clip.
    pub frames: Range<usize>,
    /// Its people, in order of first appearance, then in the detector's order.
    pub tracks: Vec<Track>,
}

/// Follows the people of a clip. Never empty; the first shot begins at frame 0. A new shot begins where people are found
/// and not one of them continues a track: nothing then says who is who. (Someone who is alone in the picture, and was alone
/// in the whole shot, may reappear anywhere after being lost for a frame or more and is still the same.)
pub fn track(clip: &PoseClip, options: TrackOptions) -> Vec<Shot> {
    let mut shots = vec![Tracker::new(0)];
    for (index, frame) in clip.frames.iter().enumerate() {
        let last = shots.len() - 1;
        if !shots[last].step(index, frame, options) {
            let mut next = Tracker::new(index);
            next.step(index, frame, options);
            shots.push(next);
        }
    }
    let starts: Vec<usize> = shots.iter().map(|shot| shot.start).collect();
    let ends = starts.into_iter().skip(1).chain([clip.frames.len()]);
    shots.into_iter().zip(ends).map(|(shot, end)| shot.finish(end)).collect()
}

/// The tracks of a shot in the making.
struct Tracker {
    start: usize,
    known: Vec<Known>,
}

struct Known {
    track: Track,
    last: WholeBody,
    /// Pixels a frame.
    velocity: [f64; 2],
}

impl Tracker {
    fn new(start: usize) -> Self {
        Self { start, known: Vec::new() }
    }

    /// Adds a frame; `false`, and nothing added, if it belongs to another shot.
    fn step(&mut self, index: usize, frame: &FrameKeypoints, options: TrackOptions) -> bool {
        let mut people: Vec<(usize, &WholeBody)> = frame.people.iter().enumerate().take(MAX_PEOPLE).collect();
        if people.is_empty() {
            return true;
        }
        // An order of our own, so that exact ties of the assignment do not depend on the detector's.
        people.sort_by(|(_, a), (_, b)| {
            let numbers = |p: &WholeBody| p.points.into_iter().flatten().chain(p.scores);
            let mut pairs = numbers(a).zip(numbers(b)).map(|(a, b)| a.total_cmp(&b));
            pairs.find(|order| order.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        });
        let known = 0..self.known.len();
        let mut active: Vec<usize> = known.filter(|&t| self.known[t].gap(index) <= options.max_gap + 1).collect();
        if active.len() > MAX_KNOWN {
            active.sort_by_key(|&t| self.known[t].gap(index));
            active.truncate(MAX_KNOWN);
            active.sort_unstable();
        }
        let similarity =
            |t: usize, person: &WholeBody| self.known[t].similarity(person, index, options.score_threshold);
        let mut matched = assign(&active, &people, similarity);
        if matched.iter().all(Option::is_none) && !self.known.is_empty() {
            if self.known.len() > 1 || people.len() > 1 || self.known[0].gap(index) < 2 {
                return false;
            }
            matched[0] = Some(0);
        }
        let mut new: Vec<Known> = Vec::new();
        for (&(place, person), matched) in people.iter().zip(matched) {
            match matched {
                Some(t) => self.known[t].see(index, place, person, options.score_threshold),
                None => new.push(Known::new(index, place, person)),
            }
        }
        new.sort_by_key(|known| known.track.sightings[0]);
        self.known.extend(new);
        true
    }

    fn finish(self, end: usize) -> Shot {
        Shot { frames: self.start..end, tracks: self.known.into_iter().map(|known| known.track).collect() }
    }
}

impl Known {
    fn new(index: usize, place: usize, person: &WholeBody) -> Self {
        Self { track: Track { sightings: vec![(index, place)] }, last: person.clone(), velocity: [0.0; 2] }
    }

    /// Frames since the last sighting.
    fn gap(&self, index: usize) -> usize {
        self.track.sightings.last().map_or(usize::MAX, |&(last, _)| index - last)
    }

    fn see(&mut self, index: usize, place: usize, person: &WholeBody, threshold: f64) {
        let gap = self.gap(index) as f64;
        if let Some(step) = body::displacement(&self.last, person, threshold) {
            let first = self.track.sightings.len() == 1;
            // Half old, half new: a frame's noise is halved, and a turn is followed within two frames.
            let keep = if first { 0.0 } else { 0.5 };
            self.velocity = [0, 1].map(|axis| keep * self.velocity[axis] + (1.0 - keep) * step[axis] / gap);
        }
        self.last = person.clone();
        self.track.sightings.push((index, place));
    }

    /// 0..1; at least [`LEAST_SIMILARITY`] for one who can be the same person.
    fn similarity(&self, person: &WholeBody, index: usize, threshold: f64) -> f64 {
        let shared: Vec<usize> = (0..COCO_BODY_POINTS)
            .filter(|&i| self.last.is_seen(i, threshold) && person.is_seen(i, threshold))
            .collect();
        // Boxes around the same keypoints: who is half hidden has not become smaller.
        let common = if shared.len() < 2 { &ALL_POINTS[..] } else { &shared[..] };
        let (old, new) = (Bounds::around(&self.last, common), Bounds::around(person, common));
        let gap = self.gap(index) as f64;
        let by = self.velocity.map(|v| v * gap);
        let expected = old.moved(by);
        let size = |b: Bounds| (SIZE_OF_LONGER_SIDE * b.sides()[0].max(b.sides()[1])).max(1.0);
        let (old_size, new_size) = (size(old), size(new));
        let mean_size = (old_size * new_size).sqrt();
        let spread = gap.sqrt();
        let likeness = |&i: &usize| {
            let from = [0, 1].map(|axis| self.last.points[i][axis] + by[axis]);
            let off = body::distance(from, person.points[i]) / (mean_size * SIGMA_FACTOR * SIGMAS[i] * spread);
            (-off * off / 2.0).exp()
        };
        let keypoints = shared.iter().map(likeness).sum::<f64>() / shared.len().max(1) as f64;
        let overlap = expected.overlap(&new);
        let from = [0, 1].map(|axis| body::centre(&self.last, threshold)[axis] + by[axis]);
        let distance = body::distance(from, body::centre(person, threshold));
        let nearness = (1.0 - distance / (mean_size * REACH * spread)).max(0.0);
        // Nobody is twice as large from one frame to the next; after a cut this is common.
        let ratio = old_size.min(new_size) / old_size.max(new_size);
        let sum = (WEIGHTS[0] * keypoints + WEIGHTS[1] * overlap + WEIGHTS[2] * nearness) * ratio;
        // Coordinates may be any finite numbers, so their squares may not be.
        if sum.is_nan() { 0.0 } else { sum }
    }
}

/// The track of each person, so that the sum of similarities is as large as can be; those below the limit stay alone.
fn assign(
    active: &[usize],
    people: &[(usize, &WholeBody)],
    similarity: impl Fn(usize, &WholeBody) -> f64,
) -> Vec<Option<usize>> {
    let mut matched = vec![None; people.len()];
    if active.is_empty() {
        return matched;
    }
    let weight = |track: usize, person: usize| {
        let value = similarity(active[track], people[person].1);
        if value >= LEAST_SIMILARITY { (value / RESOLUTION).round() as i64 } else { 0 }
    };
    // The solver wants no more rows than columns.
    let people_are_rows = people.len() <= active.len();
    let weights = if people_are_rows {
        Matrix::from_fn(people.len(), active.len(), |(person, track)| weight(track, person))
    } else {
        Matrix::from_fn(active.len(), people.len(), |(track, person)| weight(track, person))
    };
    let (_, columns) = kuhn_munkres(&weights);
    for (row, column) in columns.into_iter().enumerate() {
        let (track, person) = if people_are_rows { (column, row) } else { (row, column) };
        if weights[(row, column)] > 0 {
            matched[person] = Some(active[track]);
        }
    }
    matched
}
