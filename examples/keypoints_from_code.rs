//! Motion without a video: keypoints made in code, written as a keypoint file, and drawn as the model will see them.
//!
//! `cargo run --example keypoints_from_code -- wave.json wave.png`

use std::path::Path;

use pose::{FrameKeypoints, PoseClip, PoseFrames, PoseOptions, Size, WHOLE_BODY_POINTS, WholeBody};

/// COCO-WholeBody: the first 17 points are the body's; hands begin at 91 and 112.
const STANDING: [[f64; 2]; 17] = [
    [240., 150.], // nose
    [250., 140.], // eyes, left first ("left" is the person's own)
    [230., 140.],
    [262., 146.], // ears
    [218., 146.],
    [284., 210.], // shoulders
    [196., 210.],
    [300., 290.], // elbows
    [180., 290.],
    [306., 365.], // wrists
    [174., 365.],
    [266., 370.], // hips
    [214., 370.],
    [268., 480.], // knees
    [212., 480.],
    [270., 585.], // ankles
    [210., 585.],
];

/// A person who raises and waves the left hand; `t` is in seconds.
fn waving(t: f64) -> WholeBody {
    // A score of 0 means "not found"; face, feet and hands stay so here.
    let mut person = WholeBody { points: [[240.0, 150.0]; WHOLE_BODY_POINTS], scores: [0.0; WHOLE_BODY_POINTS] };
    person.points[..17].copy_from_slice(&STANDING);
    person.scores[..17].fill(1.0);
    let raised = (t / 0.75).clamp(0.0, 1.0);
    let upper = (10.0 + 95.0 * raised).to_radians();
    let fore = (5.0 + 160.0 * raised + 25.0 * raised * (6.0 * t).sin()).to_radians();
    let along = |[x, y]: [f64; 2], length: f64, angle: f64| [x + length * angle.sin(), y + length * angle.cos()];
    person.points[7] = along(STANDING[5], 82.0, upper);
    person.points[9] = along(person.points[7], 75.0, fore);
    person
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(json), Some(picture)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: keypoints_from_code KEYPOINTS.json PICTURE.png");
    };
    let frames = (0..49).map(|i| FrameKeypoints { people: vec![waving(f64::from(i) / 16.0)] }).collect();
    // With `reference: Some(…)` the poses would get the limb lengths of the person in the picture.
    let clip = PoseClip { width: 480, height: 640, fps: 16.0, frames, reference: None };
    pose::json::write(Path::new(&json), &clip)?;

    let poses = PoseFrames::new(clip, Size::new(480, 640), PoseOptions::default())?;
    let drawn: Vec<_> = (0..48).step_by(6).filter_map(|i| poses.draw(i)).map(|pair| pair.positive).collect();
    let small: Vec<_> = drawn.iter().map(|frame| image::imageops::thumbnail(frame, 180, 240)).collect();
    media::video::contact_sheet(&small, 4).save(picture)?;
    Ok(())
}
