//! 133 COCO-WholeBody keypoints → OpenPose body and hands, normalised to the picture.
//!
//! Source: SteadyDancer's `dwpose` (ControlNet-aux): a neck is inserted, the first 18 entries are reordered, hands are masked by
//! score, the body is not.

use crate::align::joint::{mirrored as mirrored_joint, *};
use crate::keypoints::{FrameKeypoints, WHOLE_BODY_POINTS, WholeBody};
use crate::sizes::Size;

/// Joints of the OpenPose body.
pub const BODY_POINTS: usize = 18;
/// Joints of a hand.
pub const HAND_POINTS: usize = 21;
/// Points of the OpenPose list: the 133 and the neck.
pub const OPENPOSE_POINTS: usize = WHOLE_BODY_POINTS + 1;
/// Below this score a joint is hidden.
pub const SCORE_THRESHOLD: f64 = 0.35;
/// Coordinate of hidden hand points.
pub const HIDDEN: f64 = -1.0;

/// First left-hand and right-hand entry in the list of 134.
const LEFT_HAND: usize = 92;
const RIGHT_HAND: usize = 113;
/// Both shoulders must score above this for the neck to be seen.
const NECK_THRESHOLD: f64 = 0.3;
/// OpenPose joint → entry in the list that has the neck at 17.
const BODY_ORDER: [usize; BODY_POINTS] = [0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3];

/// Joints that hang on each other, from the neck outwards.
const CHAINS: [[usize; 4]; 4] = [
    [NECK, RIGHT_SHOULDER, RIGHT_ELBOW, RIGHT_WRIST],
    [NECK, LEFT_SHOULDER, LEFT_ELBOW, LEFT_WRIST],
    [NECK, RIGHT_HIP, RIGHT_KNEE, RIGHT_ANKLE],
    [NECK, LEFT_HIP, LEFT_KNEE, LEFT_ANKLE],
];

/// How the two hands of a pose are chosen when a frame has several people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HandPairing {
    /// Left and right hand of the chosen person.
    #[default]
    SamePerson,
    /// As upstream, which stacks all left hands before all right hands and takes the first two: with two or more people
    /// the "right" hand is the left hand of the second person. For parity checks.
    Upstream,
}

/// One person in OpenPose order. Coordinates are fractions of the picture's width and height.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenPose {
    /// Joints, with their coordinates even if hidden.
    pub body: [[f64; 2]; BODY_POINTS],
    /// Whether each joint is drawn.
    pub visible: [bool; BODY_POINTS],
    /// Left and right hand; hidden points are at ([`HIDDEN`], [`HIDDEN`]).
    pub hands: [[[f64; 2]; HAND_POINTS]; 2],
}

/// The 134 points, in pixels, and their scores: 0-17 body, 18-23 feet, 24-91 face, 92-112 left hand, 113-133 right hand.
pub fn openpose_points(person: &WholeBody) -> ([[f64; 2]; OPENPOSE_POINTS], [f64; OPENPOSE_POINTS]) {
    let (points, scores) = (&person.points, &person.scores);
    let neck = [0, 1].map(|axis| (points[5][axis] + points[6][axis]) / 2.0);
    let neck_seen = scores[5] > NECK_THRESHOLD && scores[6] > NECK_THRESHOLD;
    let neck_score = if neck_seen { 1.0 } else { 0.0 };
    let with_neck = |i: usize| match i {
        0..17 => (points[i], scores[i]),
        17 => (neck, neck_score),
        _ => (points[i - 1], scores[i - 1]),
    };
    let entry = |i: usize| with_neck(BODY_ORDER.get(i).copied().unwrap_or(i));
    (std::array::from_fn(|i| entry(i).0), std::array::from_fn(|i| entry(i).1))
}

impl OpenPose {
    /// Converts one person found in a picture of `size` pixels. A joint is visible if its score is above `threshold`, a hand
    /// point is hidden if its score is below.
    pub fn from_whole_body(person: &WholeBody, size: Size, threshold: f64) -> Self {
        let (points, scores) = openpose_points(person);
        let (width, height) = (f64::from(size.width), f64::from(size.height));
        let normalised = |i: usize| [points[i][0] / width, points[i][1] / height];
        let hand_point = |i: usize| {
            if scores[i] < threshold { [HIDDEN; 2] } else { normalised(i) }
        };
        Self {
            body: std::array::from_fn(normalised),
            visible: std::array::from_fn(|i| scores[i] > threshold),
            hands: [LEFT_HAND, RIGHT_HAND].map(|start| std::array::from_fn(|i| hand_point(start + i))),
        }
    }

    /// The pose with hidden joints in likely places, where that matters: alignment moves every joint along with the one it
    /// hangs on, and files may have hidden joints anywhere, often at (0, 0). Hidden joints between two visible ones of an
    /// arm or leg are spread evenly between them; a hidden neck is at a visible shoulder, else at the nose. They stay
    /// hidden, and visible joints stay where they are.
    pub fn settled(mut self) -> Self {
        let (body, visible) = (&mut self.body, &self.visible);
        if !visible[NECK] {
            let stand_in = [RIGHT_SHOULDER, LEFT_SHOULDER, NOSE].into_iter().find(|&joint| visible[joint]);
            body[NECK] = stand_in.map_or(body[NECK], |joint| body[joint]);
        }
        for chain in CHAINS {
            let mut last = 0;
            for next in (1..chain.len()).filter(|&i| visible[chain[i]]) {
                let (from, to) = (body[chain[last]], body[chain[next]]);
                for between in last + 1..next {
                    let part = (between - last) as f64 / (next - last) as f64;
                    body[chain[between]] = [0, 1].map(|axis| from[axis] + part * (to[axis] - from[axis]));
                }
                last = next;
            }
        }
        self
    }

    /// The pose in the mirror: x from the other side, left for right.
    pub fn mirrored(&self) -> Self {
        let flip = |[x, y]: [f64; 2]| [1.0 - x, y];
        let hand = |points: [[f64; 2]; HAND_POINTS]| points.map(|p| if p == [HIDDEN; 2] { p } else { flip(p) });
        Self {
            body: std::array::from_fn(|i| flip(self.body[mirrored_joint(i)])),
            visible: std::array::from_fn(|i| self.visible[mirrored_joint(i)]),
            hands: [hand(self.hands[1]), hand(self.hands[0])],
        }
    }

    /// Person `index` of a frame, or `None` if the frame has no such person.
    pub fn from_frame(
        frame: &FrameKeypoints,
        index: usize,
        size: Size,
        threshold: f64,
        pairing: HandPairing,
    ) -> Option<Self> {
        let convert = |person| Self::from_whole_body(person, size, threshold);
        let mut pose = convert(frame.people.get(index)?);
        if pairing == HandPairing::Upstream && frame.people.len() > 1 {
            pose.hands = [0, 1].map(|i| convert(&frame.people[i]).hands[0]);
        }
        Some(pose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Person whose point i is at (i, 1000 + i).
    fn numbered(score: f64) -> WholeBody {
        WholeBody { points: std::array::from_fn(|i| [i as f64, 1000.0 + i as f64]), scores: [score; WHOLE_BODY_POINTS] }
    }

    #[test]
    fn order_is_openpose() {
        let (points, scores) = openpose_points(&numbered(0.9));
        let xs: Vec<f64> = points.iter().map(|p| p[0]).collect();
        assert_eq!(
            xs[..18],
            [0.0, 5.5, 6.0, 8.0, 10.0, 5.0, 7.0, 9.0, 12.0, 14.0, 16.0, 11.0, 13.0, 15.0, 2.0, 1.0, 4.0, 3.0]
        );
        // Feet, face and hands keep their order, shifted by the neck.
        assert!((18..134).all(|i| xs[i] == (i - 1) as f64));
        assert_eq!(scores[1], 1.0);
        assert_eq!(openpose_points(&numbered(0.3)).1[1], 0.0);
    }

    #[test]
    fn threshold_hides_hands_but_keeps_body_coordinates() {
        let size = Size::new(100, 100);
        let pose = OpenPose::from_whole_body(&numbered(0.349), size, SCORE_THRESHOLD);
        assert_eq!(pose.hands, [[[HIDDEN; 2]; HAND_POINTS]; 2]);
        assert_eq!(pose.body[2], [0.06, 10.06]);
        // The neck's own score is 1 as soon as both shoulders pass 0.3.
        assert!((0..18).all(|i| pose.visible[i] == (i == 1)));
        // A score of exactly the threshold hides a joint but not a hand point.
        let pose = OpenPose::from_whole_body(&numbered(0.35), size, SCORE_THRESHOLD);
        assert!(!pose.visible[0]);
        assert_eq!(pose.hands[0][0], [0.91, 10.91]);
        assert_eq!(pose.hands[1][0], [1.12, 11.12]);
    }

    #[test]
    fn hidden_joints_settle_between_visible_ones() {
        let mut pose = OpenPose::from_whole_body(&numbered(0.9), Size::new(1, 1), SCORE_THRESHOLD);
        let before = pose.clone();
        assert_eq!(pose.clone().settled(), before, "nothing is hidden");
        for joint in [RIGHT_SHOULDER, RIGHT_ELBOW, LEFT_KNEE, LEFT_ANKLE] {
            (pose.body[joint], pose.visible[joint]) = ([0.0; 2], false);
        }
        let settled = pose.clone().settled();
        assert_eq!(settled.visible, pose.visible);
        let [neck, wrist] = [before.body[NECK], before.body[RIGHT_WRIST]];
        let third = |axis: usize| neck[axis] + (wrist[axis] - neck[axis]) / 3.0;
        assert!((0..2).all(|axis| (settled.body[RIGHT_SHOULDER][axis] - third(axis)).abs() < 1e-9));
        assert_eq!(settled.body[LEFT_KNEE], [0.0; 2], "nothing hangs on it");
        pose.visible[NECK] = false;
        assert_eq!(pose.settled().body[NECK], before.body[LEFT_SHOULDER]);
    }

    #[test]
    fn hands_of_several_people() {
        let other = numbered(1.0).scaled(2.0, 1.0);
        let frame = FrameKeypoints { people: vec![numbered(1.0), other] };
        let size = Size::new(1, 1);
        let pose = |index, pairing| OpenPose::from_frame(&frame, index, size, SCORE_THRESHOLD, pairing).unwrap();
        let right = pose(0, HandPairing::SamePerson).hands[1][0][0];
        assert_eq!(right, 112.0);
        let right = pose(0, HandPairing::Upstream).hands[1][0][0];
        assert_eq!(right, 182.0, "left hand of the second person");
        assert!(OpenPose::from_frame(&frame, 2, size, 0.35, HandPairing::SamePerson).is_none());
    }
}
