//! Draws the inputs of the first example: a picture of one puppet, and another puppet's dance as keypoints and as video.
//! There is no chance in it: the same program gives the same pictures and keypoints.
//!
//! `cargo run --example make_example_media -- examples/media`

mod figure;
mod motion;
mod paint;
mod puppet;

use std::path::Path;

use figure::{Arm, Body, Posture};
use image::RgbImage;
use media::video::{AudioSource, FrameRate, VideoWriter, WriterOptions};
use pose::{FrameKeypoints, PoseClip, ReferenceKeypoints};
use puppet::{Camera, Look};

/// The reference: a child with a large head.
const CHILD: Body = Body {
    head: [0.104, 0.112],
    neck: 0.034,
    torso: 0.255,
    shoulder: 0.092,
    hip: 0.052,
    arm: [0.135, 0.12],
    hand: 0.086,
    leg: [0.195, 0.19],
    ankle: 0.045,
};
const CHILD_LOOK: Look = Look {
    skin: [247.0, 205.0, 172.0],
    hair: [122.0, 74.0, 48.0],
    shirt: [242.0, 140.0, 62.0],
    trim: [255.0, 236.0, 196.0],
    trousers: [62.0, 104.0, 152.0],
    shoes: [196.0, 62.0, 68.0],
    limb: 0.035,
    long_hair: true,
};
const REFERENCE_SIZE: [u32; 2] = [384, 512];
const REFERENCE_CAMERA: Camera = Camera { floor: [192.0, 462.0], scale: 340.0 };

/// The dancer: a slim adult, smaller in the picture and not in its middle.
const ADULT: Body = Body {
    head: [0.056, 0.072],
    neck: 0.035,
    torso: 0.28,
    shoulder: 0.100,
    hip: 0.055,
    arm: [0.16, 0.145],
    hand: 0.088,
    leg: [0.245, 0.235],
    ankle: 0.038,
};
const ADULT_LOOK: Look = Look {
    skin: [176.0, 122.0, 88.0],
    hair: [48.0, 40.0, 52.0],
    shirt: [62.0, 140.0, 128.0],
    trim: [240.0, 226.0, 130.0],
    trousers: [78.0, 66.0, 108.0],
    shoes: [232.0, 228.0, 222.0],
    limb: 0.029,
    long_hair: false,
};
const DRIVE_SIZE: [u32; 2] = [320, 480];
const DRIVE_CAMERA: Camera = Camera { floor: [152.0, 424.0], scale: 288.0 };
const FPS: f64 = 16.0;
const SOUND_RATE: u32 = 44_100;

fn main() -> anyhow::Result<()> {
    let Some(folder) = std::env::args_os().nth(1) else {
        anyhow::bail!("usage: make_example_media FOLDER");
    };
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder)?;

    let arm = Arm { upper: [24.0, 0.0], fore: [16.0, 6.0] };
    let standing = Posture { arms: [arm; 2], mouth: 0.15, ..motion::posture(0.0) };
    let child = CHILD.joints(&standing);
    let [width, height] = REFERENCE_SIZE;
    let walls = [[190.0, 222.0, 238.0], [236.0, 240.0, 232.0]];
    let mut picture = paint::room(REFERENCE_SIZE, walls, [226.0, 204.0, 172.0], 0.78, REFERENCE_CAMERA.floor);
    puppet::paint(&mut picture, &child, &CHILD_LOOK, REFERENCE_CAMERA);
    picture.save(folder.join("reference.png"))?;

    // 12 beats, and the frame on which the dance would begin again.
    let frames = (motion::BEATS as f64 / motion::BEATS_PER_SECOND * FPS) as usize + 1;
    let dance: Vec<_> =
        (0..frames).map(|i| ADULT.joints(&motion::posture(i as f64 / FPS * motion::BEATS_PER_SECOND))).collect();
    let people = |joints: &figure::Joints, camera: Camera| vec![joints.keypoints(|v| camera.project(v))];
    let clip = PoseClip {
        width: DRIVE_SIZE[0],
        height: DRIVE_SIZE[1],
        fps: FPS,
        frames: dance.iter().map(|joints| FrameKeypoints { people: people(joints, DRIVE_CAMERA) }).collect(),
        reference: Some(ReferenceKeypoints { width, height, people: people(&child, REFERENCE_CAMERA) }),
    };
    pose::json::write(&folder.join("dance.json"), &clip)?;

    let sound = tempfile::Builder::new().suffix(".wav").tempfile()?;
    std::fs::write(sound.path(), wav(&motion::music(SOUND_RATE, frames as f64 / FPS)))?;
    let [width, height] = DRIVE_SIZE;
    let walls = [[212.0, 200.0, 226.0], [240.0, 230.0, 236.0]];
    let room = paint::room(DRIVE_SIZE, walls, [190.0, 182.0, 200.0], 0.76, DRIVE_CAMERA.floor);
    let mut options = WriterOptions::new(width, height, FrameRate::from_f64(FPS)?);
    options.crf = Some(22);
    options.audio = Some(AudioSource { path: sound.path().to_owned(), start_s: 0.0 });
    let mut writer = VideoWriter::create(folder.join("dance.mp4"), &options)?;
    for joints in &dance {
        let mut frame: RgbImage = room.clone();
        puppet::paint(&mut frame, joints, &ADULT_LOOK, DRIVE_CAMERA);
        writer.write(&frame)?;
    }
    let written = writer.finish()?;
    println!("{}: {} frames, sound {:?}", written.path.display(), written.frames, written.audio);
    Ok(())
}

/// Samples as a mono WAV file of 16 bits.
fn wav(samples: &[f64]) -> Vec<u8> {
    let data = samples.len() as u32 * 2;
    let mut bytes = Vec::with_capacity(44 + data as usize);
    bytes.extend(b"RIFF");
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    // 16 bytes of format: PCM, one channel, rate, bytes a second, bytes a sample, bits a sample.
    bytes.extend(16u32.to_le_bytes());
    bytes.extend([1u16, 1].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([SOUND_RATE, SOUND_RATE * 2].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([2u16, 16].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend(b"data");
    bytes.extend(data.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|s| ((s.clamp(-1.0, 1.0) * 32767.0) as i16).to_le_bytes()));
    bytes
}
