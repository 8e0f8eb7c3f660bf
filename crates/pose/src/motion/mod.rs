//! Cleaning of one person's keypoints over time, in the pixels of the driving picture and before any alignment: spikes are
//! taken out, short gaps filled, jitter smoothed.
//!
//! A motion is one entry a frame, `None` where the person was not found. Nothing here looks across the ends of the slice it
//! is given, so a clip with cuts is cleaned shot by shot.

mod one_euro;

use std::ops::Range;

use serde::Serialize;

pub use one_euro::OneEuro;

use crate::keypoints::{COCO_BODY_POINTS, FIRST_HAND_POINT, WHOLE_BODY_POINTS, WholeBody};
use crate::people::body;
use crate::{PoseError, Result};

/// Faster than this there *and* back from one frame to the next, in body heights a second, no joint moves: it is 10 m/s,
/// a boxer's fist, with a turn on the spot.
const SPIKE_SPEED: f64 = 6.0;
/// However high the frame rate, a spike is at least this long, in body heights.
const LEAST_SPIKE: f64 = 0.1;
/// The frames before and after a spike are nearer to each other than to the spike by this factor.
const SPIKE_RATIO: f64 = 3.0;

/// What the neck is made of.
const SHOULDERS: [usize; 2] = [5, 6];

/// Settings of [`clean`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanOptions {
    /// Frames a second.
    pub fps: f64,
    /// Keypoints that do not score above this are hidden.
    pub score_threshold: f64,
    /// Longest gap, in frames, that is filled; 0 leaves gaps and spikes as they are.
    pub max_gap: usize,
    /// Whether frames without the person are filled as well, or only single keypoints.
    pub fill_frames: bool,
    /// Strength of the smoothing, 0 (off) to 1, see [`OneEuro::with_strength`].
    pub smooth: f64,
}

/// # Errors
/// [`PoseError::Setting`] for a strength out of range.
pub(crate) fn check_smooth(smooth: f64) -> Result<()> {
    if (0.0..=1.0).contains(&smooth) {
        return Ok(());
    }
    Err(PoseError::Setting { name: "smooth", found: smooth, allowed: "0 (off) to 1" })
}

/// What [`clean`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cleaned {
    /// Frames without the person that now have one.
    pub interpolated: Vec<usize>,
    /// Keypoints, counted in every frame, that were hidden and are now seen.
    pub filled_keypoints: usize,
    /// Keypoints, counted in every frame, that were somewhere else for a single frame.
    pub spikes: usize,
}

/// Cleans a motion without cuts in place.
///
/// 1. A body keypoint that jumps away for a single frame and back is hidden (and thereby filled in step 3).
/// 2. If `fill_frames`: frames without the person, up to `max_gap` of them between two with, get one: keypoints seen at both
///    ends move evenly from one to the other, the rest stay as they were before the gap.
/// 3. A keypoint that is hidden for up to `max_gap` frames between two sightings moves evenly from one to the other, relative
///    to the neck (of a hand: to its wrist) where that is seen throughout, and scores as the lower of the two.
/// 4. [`OneEuro`] over every stretch in which a keypoint is seen. Hidden ones take no part and are left as they are.
pub fn clean(motion: &mut [Option<WholeBody>], options: CleanOptions) -> Cleaned {
    let mut done = Cleaned::default();
    let threshold = options.score_threshold;
    if options.max_gap > 0 {
        done.spikes = hide_spikes(motion, options);
        if options.fill_frames {
            done.interpolated = fill_frames(motion, options);
        }
        // Shoulders first, then the rest of the body, then hands: each moves along with the one before.
        let rest = (0..WHOLE_BODY_POINTS).filter(|i| !SHOULDERS.contains(i));
        for point in SHOULDERS.into_iter().chain(rest) {
            done.filled_keypoints += fill_keypoint(motion, point, options);
        }
    }
    if let (Some(filter), Some(height)) = (OneEuro::with_strength(options.smooth), usual_height(motion, threshold)) {
        for point in 0..WHOLE_BODY_POINTS {
            for run in runs(motion.len(), |t| seen(motion, t, point, threshold)) {
                let raw: Vec<[f64; 2]> = motion[run.clone()].iter().flatten().map(|body| body.points[point]).collect();
                let smooth = filter.zero_phase(&raw, height, options.fps);
                for (body, place) in motion[run].iter_mut().flatten().zip(smooth) {
                    body.points[point] = place;
                }
            }
        }
    }
    done
}

/// The person's height in pixels, the median over the frames; `None` if it shows in no frame.
pub(crate) fn usual_height(motion: &[Option<WholeBody>], threshold: f64) -> Option<f64> {
    let mut heights: Vec<f64> = motion.iter().flatten().filter_map(|body| body::height(body, threshold)).collect();
    heights.sort_by(f64::total_cmp);
    heights.get(heights.len() / 2).copied()
}

/// The stretches of `0..len` in which `inside` holds.
fn runs(len: usize, inside: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for index in (0..len).filter(|&i| inside(i)) {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

fn seen(motion: &[Option<WholeBody>], frame: usize, point: usize, threshold: f64) -> bool {
    motion[frame].as_ref().is_some_and(|body| body.is_seen(point, threshold))
}

/// The stretches of up to `max_gap` frames without something that is there right before and after.
fn short_gaps(len: usize, max_gap: usize, there: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
    let gaps = runs(len, |t| !there(t));
    gaps.into_iter().filter(|gap| gap.start > 0 && gap.end < len && gap.len() <= max_gap).collect()
}

fn hide_spikes(motion: &mut [Option<WholeBody>], options: CleanOptions) -> usize {
    let threshold = options.score_threshold;
    let Some(height) = usual_height(motion, threshold) else {
        return 0;
    };
    let least = height * (SPIKE_SPEED / options.fps).max(LEAST_SPIKE);
    let mut spikes: Vec<(usize, usize)> = Vec::new();
    for (t, window) in motion.windows(3).enumerate() {
        let [Some(before), Some(body), Some(after)] = window else {
            continue;
        };
        for point in 0..COCO_BODY_POINTS {
            // Of a keypoint that flickers to and fro every other sighting is the spike.
            let flickers = spikes.iter().rev().take(2 * COCO_BODY_POINTS).any(|&spike| spike == (t, point));
            if !flickers && [before, body, after].iter().all(|b| b.is_seen(point, threshold)) {
                let [a, b, c] = [before, body, after].map(|b| b.points[point]);
                let jump = body::distance(a, b).min(body::distance(b, c));
                if jump > least && jump > SPIKE_RATIO * body::distance(a, c) {
                    spikes.push((t + 1, point));
                }
            }
        }
    }
    for &(t, point) in &spikes {
        if let Some(body) = &mut motion[t] {
            // Below every threshold; filled at once, as both neighbours are seen.
            body.scores[point] = f64::MIN;
        }
    }
    spikes.len()
}

fn fill_frames(motion: &mut [Option<WholeBody>], options: CleanOptions) -> Vec<usize> {
    let gaps = short_gaps(motion.len(), options.max_gap, |t| motion[t].is_some());
    for gap in &gaps {
        let (Some(from), Some(to)) = (motion[gap.start - 1].clone(), motion[gap.end].clone()) else {
            continue;
        };
        for t in gap.clone() {
            let part = part_of(gap, t);
            let mut body = from.clone();
            for point in 0..WHOLE_BODY_POINTS {
                if from.is_seen(point, options.score_threshold) && to.is_seen(point, options.score_threshold) {
                    body.points[point] = between(from.points[point], to.points[point], part);
                    body.scores[point] = from.scores[point].min(to.scores[point]);
                }
            }
            motion[t] = Some(body);
        }
    }
    gaps.into_iter().flatten().collect()
}

fn fill_keypoint(motion: &mut [Option<WholeBody>], point: usize, options: CleanOptions) -> usize {
    let threshold = options.score_threshold;
    let mut filled = 0;
    for gap in short_gaps(motion.len(), options.max_gap, |t| seen(motion, t, point, threshold)) {
        let (Some(from), Some(to)) = (&motion[gap.start - 1], &motion[gap.end]) else {
            continue;
        };
        let (start, end) = (from.points[point], to.points[point]);
        let score = from.scores[point].min(to.scores[point]);
        let anchors: Option<Vec<[f64; 2]>> = (gap.start - 1..gap.end + 1)
            .map(|t| motion[t].as_ref().and_then(|body| anchor(body, point, threshold)))
            .collect();
        for t in gap.clone() {
            let part = part_of(&gap, t);
            let mut place = between(start, end, part);
            if let Some([first, .., last]) = anchors.as_deref() {
                // What the anchor does beyond an even motion, the keypoint does too.
                let (even, own) =
                    (between(*first, *last, part), anchors.as_ref().map_or(*first, |a| a[t + 1 - gap.start]));
                place = [0, 1].map(|axis| place[axis] + (own[axis] - even[axis]));
            }
            if let Some(body) = &mut motion[t] {
                body.points[point] = place;
                body.scores[point] = score;
                filled += 1;
            }
        }
    }
    filled
}

/// What a keypoint moves along with.
fn anchor(body: &WholeBody, point: usize, threshold: f64) -> Option<[f64; 2]> {
    match point {
        _ if SHOULDERS.contains(&point) => None,
        0..FIRST_HAND_POINT => body::neck(body, threshold),
        _ => {
            let wrist = if point < FIRST_HAND_POINT + 21 { 9 } else { 10 };
            body.is_seen(wrist, threshold).then_some(body.points[wrist])
        }
    }
}

/// How far frame `t` is on the way from the frame before the gap to the one after.
fn part_of(gap: &Range<usize>, t: usize) -> f64 {
    (t + 1 - gap.start) as f64 / (gap.len() + 1) as f64
}

fn between(from: [f64; 2], to: [f64; 2], part: f64) -> [f64; 2] {
    [0, 1].map(|axis| from[axis] + part * (to[axis] - from[axis]))
}
