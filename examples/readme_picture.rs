//! Makes the picture of the README: the reference, poses of the dance as drawn for it, and what the demo model makes of
//! them.
//!
//! `cargo run --release --example readme_picture -- docs/readme.png`

use image::imageops::{FilterType, replace, resize};
use image::{Rgb, RgbImage};
use pose::{PoseFrames, PoseOptions, Size};
use steadydance::{AnimateRequest, Engine, EngineOptions, ModelSource, Motion, Observer, Settings, preset};

/// The frames that are shown, of a clip of [`NUM_FRAMES`].
const SHOWN: [usize; 4] = [9, 17, 25, 32];
const NUM_FRAMES: usize = 33;
/// Width and height of the clip.
const CLIP: [usize; 2] = [160, 224];
/// Width and height of a small picture; the reference is twice as large, plus the gap.
const CELL: [u32; 2] = [130, 182];
const GAP: u32 = 6;

/// Keeps the frames that are shown.
struct Keep(Vec<RgbImage>);

impl Observer for Keep {
    fn frame(&mut self, index: usize, frame: &RgbImage) {
        if SHOWN.contains(&index) {
            self.0.push(frame.clone());
        }
    }
}

/// A drawn pose scaled down to a cell; each pixel is the brightest of those it stands for, else thin lines would vanish.
fn brightest(frame: &RgbImage) -> RgbImage {
    let span = |i: u32, cells: u32, whole: u32| i * whole / cells..((i + 1) * whole / cells).max(i * whole / cells + 1);
    RgbImage::from_fn(CELL[0], CELL[1], |x, y| {
        let mut best = Rgb([0u8; 3]);
        for v in span(y, CELL[1], frame.height()) {
            for u in span(x, CELL[0], frame.width()) {
                let Rgb(found) = frame[(u, v)];
                best = Rgb(std::array::from_fn(|c| best.0[c].max(found[c])));
            }
        }
        best
    })
}

fn main() -> anyhow::Result<()> {
    let Some(path) = std::env::args_os().nth(1) else {
        anyhow::bail!("usage: readme_picture PICTURE.png");
    };
    let media = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/media");
    let (picture, dance) = (media.join("reference.png"), media.join("dance.json"));

    let reference = media::image::read_rgb(&picture)?;
    let clip = pose::json::read(&dance, pose::json::ReadOptions::default())?;
    let poses = PoseFrames::new(clip, Size::new(reference.width(), reference.height()), PoseOptions::default())?;
    let drawn: Vec<RgbImage> = SHOWN.iter().filter_map(|&i| poses.draw(i)).map(|pair| pair.positive).collect();

    let demo = preset("demo")?;
    let settings = Settings::from_preset(&demo)?;
    let request = AnimateRequest::new(picture, Motion::Keypoints { file: dance, drive: None }, settings)
        .size(CLIP[0], CLIP[1])
        .num_frames(NUM_FRAMES);
    let mut kept = Keep(Vec::new());
    Engine::open(&ModelSource::Demo, &EngineOptions::for_preset(&demo))?.animate(&request, &mut kept)?;

    let [w, h] = CELL;
    let large = [2 * w + GAP, 2 * h + GAP];
    let mut sheet = RgbImage::from_pixel(large[0] + 4 * (w + GAP), large[1], Rgb([255; 3]));
    replace(&mut sheet, &resize(&reference, large[0], large[1], FilterType::CatmullRom), 0, 0);
    let rows: [Vec<RgbImage>; 2] = [
        drawn.iter().map(brightest).collect(),
        kept.0.iter().map(|frame| resize(frame, w, h, FilterType::Triangle)).collect(),
    ];
    for (row, frames) in rows.iter().enumerate() {
        for (column, small) in frames.iter().enumerate() {
            let x = large[0] + GAP + column as u32 * (w + GAP);
            replace(&mut sheet, small, i64::from(x), i64::from(row as u32 * (h + GAP)));
        }
    }
    sheet.save(path)?;
    Ok(())
}
