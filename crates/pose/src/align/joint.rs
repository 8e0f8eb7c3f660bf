//! OpenPose joints by name.

use crate::openpose::BODY_POINTS;

pub const NOSE: usize = 0;
pub const NECK: usize = 1;
pub const RIGHT_SHOULDER: usize = 2;
pub const RIGHT_ELBOW: usize = 3;
pub const RIGHT_WRIST: usize = 4;
pub const LEFT_SHOULDER: usize = 5;
pub const LEFT_ELBOW: usize = 6;
pub const LEFT_WRIST: usize = 7;
pub const RIGHT_HIP: usize = 8;
pub const RIGHT_KNEE: usize = 9;
pub const RIGHT_ANKLE: usize = 10;
pub const LEFT_HIP: usize = 11;
pub const LEFT_KNEE: usize = 12;
pub const LEFT_ANKLE: usize = 13;
pub const RIGHT_EYE: usize = 14;
pub const LEFT_EYE: usize = 15;
pub const RIGHT_EAR: usize = 16;
pub const LEFT_EAR: usize = 17;

/// In words, for reports.
pub const NAMES: [&str; BODY_POINTS] = [
    "nose",
    "neck",
    "right shoulder",
    "right elbow",
    "right wrist",
    "left shoulder",
    "left elbow",
    "left wrist",
    "right hip",
    "right knee",
    "right ankle",
    "left hip",
    "left knee",
    "left ankle",
    "right eye",
    "left eye",
    "right ear",
    "left ear",
];

/// The joint that is `joint`'s mirror image.
pub fn mirrored(joint: usize) -> usize {
    match joint {
        2..=4 | 8..=10 => joint + 3,
        5..=7 | 11..=13 => joint - 3,
        14 | 16 => joint + 1,
        15 | 17 => joint - 1,
        _ => joint,
    }
}
