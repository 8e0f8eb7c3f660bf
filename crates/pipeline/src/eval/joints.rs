//! Where the joints are: found poses against the poses that were asked for.

use pose::WholeBody;
use pose::keypoints::COCO_BODY_POINTS;
use pose::openpose::SCORE_THRESHOLD;
use serde::{Deserialize, Serialize};

/// A joint is right within this share of the picture's height.
pub const PCK_RADIUS: f64 = 0.05;

/// How well found joints meet their targets, over all frames of a clip.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct JointScore {
    /// PCK@0.05, 0..=1, higher is better: the share of the targets' visible joints that were found within
    /// [`PCK_RADIUS`] of the picture's height of their target. A joint that was not found is wrong.
    pub pck: f64,
    /// Share of them that were found at all, 0..=1, higher is better.
    pub found: f64,
    /// Mean distance of those that were found, in per cent of the picture's height, lower is better; none if none was.
    pub error_percent: Option<f64>,
}

/// Compares the 17 body joints of COCO, frame by frame, in pixels of a picture `height` high. Joints of the target
/// below a score of 0.35 are not asked for, found ones below it count as not found. `None` if no joint is asked for.
pub fn joint_score(found: &[Option<WholeBody>], targets: &[Option<WholeBody>], height: f64) -> Option<JointScore> {
    let (mut asked, mut right, mut seen, mut distance) = (0usize, 0usize, 0usize, 0.0);
    for (i, target) in targets.iter().enumerate() {
        let Some(target) = target else { continue };
        for joint in (0..COCO_BODY_POINTS).filter(|j| is_visible(target, *j)) {
            asked += 1;
            let Some(person) = found.get(i).and_then(Option::as_ref).filter(|p| is_visible(p, joint)) else { continue };
            let ([x, y], [u, v]) = (person.points[joint], target.points[joint]);
            let off = (x - u).hypot(y - v) / height;
            seen += 1;
            distance += off;
            right += usize::from(off <= PCK_RADIUS);
        }
    }
    (asked > 0).then(|| JointScore {
        pck: right as f64 / asked as f64,
        found: seen as f64 / asked as f64,
        error_percent: (seen > 0).then(|| 100.0 * distance / seen as f64),
    })
}

/// Whether a joint is to be believed: a score of at least 0.35.
pub(super) fn is_visible(person: &WholeBody, joint: usize) -> bool {
    person.scores[joint] >= SCORE_THRESHOLD
}

#[cfg(test)]
mod tests {
    use pose::WHOLE_BODY_POINTS;

    use super::*;

    fn person(score: f64, at: impl Fn(usize) -> [f64; 2]) -> Option<WholeBody> {
        Some(WholeBody { points: std::array::from_fn(at), scores: [score; WHOLE_BODY_POINTS] })
    }

    #[test]
    fn joints_are_right_near_their_targets_and_wrong_when_they_are_not_found() {
        let place = |i: usize| [10.0 * i as f64, 50.0];
        let target = person(0.9, place);
        let moved = |by: f64| person(0.9, move |i| [place(i)[0], 50.0 + by]);
        let one = |found| joint_score(&[found], std::slice::from_ref(&target), 200.0).unwrap();
        assert_eq!(one(moved(0.0)), JointScore { pck: 1.0, found: 1.0, error_percent: Some(0.0) });
        let at_the_radius = one(moved(10.0));
        assert_eq!((at_the_radius.pck, at_the_radius.found), (1.0, 1.0));
        assert!((at_the_radius.error_percent.unwrap() - 5.0).abs() < 1e-9);
        assert_eq!(one(moved(10.1)).pck, 0.0);
        assert_eq!(one(None), JointScore { pck: 0.0, found: 0.0, error_percent: None });
        assert_eq!(one(person(0.3, place)).found, 0.0);
        // A target that is hidden is not asked for.
        assert_eq!(joint_score(&[moved(0.0)], &[person(0.15, place)], 200.0), None);
        assert_eq!(joint_score(&[moved(0.0)], &[None], 200.0), None);
        let half = joint_score(&[moved(0.0), None], &[target.clone(), target], 200.0).unwrap();
        assert_eq!((half.pck, half.found, half.error_percent), (0.5, 0.5, Some(0.0)));
    }
}
