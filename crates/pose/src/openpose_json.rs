//! OpenPose and DWPose JSON: one frame object, or an array of them, each with `people` and the canvas size.

use serde::Deserialize;

use crate::json::ReadOptions;
use crate::keypoints::{FrameKeypoints, PoseClip, WHOLE_BODY_POINTS, WholeBody};
use crate::{Place, PoseError, Result, Size};

/// Values up to this are taken for fractions of the canvas rather than pixels, if the whole clip has no larger one.
const LARGEST_FRACTION: f64 = 4.0;

/// COCO-WholeBody entry ← joint of OpenPose's 18-point body.
const COCO_FROM_18: [usize; 17] = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10];
/// COCO-WholeBody entry (body and feet) ← joint of OpenPose's BODY_25.
const COCO_FROM_25: [usize; 23] = [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11, 19, 20, 21, 22, 23, 24];

/// One frame. Other keys (`version`, `animals`, …) are of no interest here.
#[derive(Deserialize)]
pub(crate) struct Frame {
    canvas_width: u32,
    canvas_height: u32,
    people: Vec<Person>,
}

#[derive(Deserialize)]
struct Person {
    pose_keypoints_2d: Vec<f64>,
    #[serde(default)]
    face_keypoints_2d: Option<Vec<f64>>,
    #[serde(default)]
    hand_left_keypoints_2d: Option<Vec<f64>>,
    #[serde(default)]
    hand_right_keypoints_2d: Option<Vec<f64>>,
}

/// The clip; keypoints that the files lack get score 0.
pub(crate) fn clip(frames: Vec<Frame>, options: ReadOptions) -> Result<PoseClip> {
    let fps = options.openpose_fps.ok_or(PoseError::OpenPoseNeedsFps)?;
    let first = frames.first().ok_or(PoseError::NoFrames)?;
    let (width, height) = (first.canvas_width, first.canvas_height);
    let mut clip = PoseClip { width, height, fps, frames: Vec::with_capacity(frames.len()), reference: None };
    for (frame, raw) in frames.iter().enumerate() {
        // All frames in the pixels of the first.
        Size::new(raw.canvas_width, raw.canvas_height).check("an OpenPose canvas")?;
        let x = f64::from(width) / f64::from(raw.canvas_width);
        let y = f64::from(height) / f64::from(raw.canvas_height);
        let person =
            |(person, raw): (usize, &Person)| Ok(whole_body(raw, Place::Frame { frame, person })?.scaled(x, y));
        let people = raw.people.iter().enumerate().map(person);
        clip.frames.push(FrameKeypoints { people: people.collect::<Result<_>>()? });
    }
    let people = || clip.frames.iter().flat_map(|f| &f.people);
    let largest = people().flat_map(|p| p.points.iter().flatten()).fold(0.0, |a: f64, b| a.max(b.abs()));
    if largest <= LARGEST_FRACTION {
        for person in clip.frames.iter_mut().flat_map(|f| &mut f.people) {
            *person = person.scaled(f64::from(width), f64::from(height));
        }
    }
    clip.validate()?;
    Ok(clip)
}

fn whole_body(raw: &Person, place: Place) -> Result<WholeBody> {
    let mut body = WholeBody { points: [[0.0; 2]; WHOLE_BODY_POINTS], scores: [0.0; WHOLE_BODY_POINTS] };
    let pose = &raw.pose_keypoints_2d;
    let from: &[usize] = match pose.len() {
        54 => &COCO_FROM_18,
        75 => &COCO_FROM_25,
        found => return Err(count(place, "pose_keypoints_2d", found, "18 or 25 triples")),
    };
    for (to, &from) in from.iter().enumerate() {
        set(&mut body, to, &pose[3 * from..]);
    }
    let parts = [
        // OpenPose's 69th and 70th face points are the pupils, which COCO does not have.
        ("face_keypoints_2d", &raw.face_keypoints_2d, [68, 70], 23, 68, "68 or 70 triples"),
        ("hand_left_keypoints_2d", &raw.hand_left_keypoints_2d, [21; 2], 91, 21, "21 triples"),
        ("hand_right_keypoints_2d", &raw.hand_right_keypoints_2d, [21; 2], 112, 21, "21 triples"),
    ];
    for (field, values, allowed, start, points, expected) in parts {
        let Some(values) = values.as_ref().filter(|v| !v.is_empty()) else {
            continue;
        };
        if !allowed.contains(&(values.len() / 3)) || values.len() % 3 != 0 {
            return Err(count(place, field, values.len(), expected));
        }
        for i in 0..points {
            set(&mut body, start + i, &values[3 * i..]);
        }
    }
    Ok(body)
}

fn set(body: &mut WholeBody, to: usize, triple: &[f64]) {
    body.points[to] = [triple[0], triple[1]];
    body.scores[to] = triple[2];
}

fn count(place: Place, field: &'static str, numbers: usize, expected: &'static str) -> PoseError {
    PoseError::PointCount { place, field, found: numbers / 3, expected }
}
