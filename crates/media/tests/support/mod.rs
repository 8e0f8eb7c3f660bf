//! Pictures and sounds for the tests, and a look into written files.
#![allow(dead_code)]

use std::f64::consts::TAU;
use std::path::{Path, PathBuf};

use image::{Rgb, RgbImage};
use media::video::{Frame, FrameRate, VideoReader, VideoWriter, WriterOptions, Written};

/// A smooth picture with a bright bar that moves with `k`, so that frames can be told apart after lossy coding.
pub fn picture(width: u32, height: u32, k: usize) -> RgbImage {
    let bar = bar_position(width, k);
    RgbImage::from_fn(width, height, |x, y| {
        if x / 4 == bar { Rgb([250, 250, 40]) } else { Rgb([(x * 120 / width) as u8, 60, (y * 120 / height) as u8]) }
    })
}

fn bar_position(width: u32, k: usize) -> u32 {
    k as u32 % (width / 4)
}

/// The `k` of the picture a decoded frame shows, modulo the number of bar positions.
pub fn shown(frame: &RgbImage) -> usize {
    let columns = frame.width() / 4;
    let brightness =
        |column: u32| -> u32 { (0..frame.height()).map(|y| u32::from(frame.get_pixel(column * 4 + 1, y)[1])).sum() };
    (0..columns).max_by_key(|&c| brightness(c)).expect("a column") as usize
}

pub fn fps(rate: f64) -> FrameRate {
    FrameRate::from_f64(rate).expect("rate")
}

pub fn options(width: u32, height: u32, rate: f64) -> WriterOptions {
    let mut options = WriterOptions::new(width, height, fps(rate));
    options.preset = "ultrafast".to_owned();
    options
}

/// Writes `count` frames at a constant rate.
pub fn write(path: &Path, options: &WriterOptions, count: usize) -> Written {
    let mut writer = VideoWriter::create(path, options).expect("create");
    for k in 0..count {
        writer.write(&picture(options.width, options.height, k)).expect("write");
    }
    writer.finish().expect("finish")
}

pub fn read_all(path: &Path) -> Vec<Frame> {
    VideoReader::open(path).expect("open").collect::<Result<_, _>>().expect("frames")
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("folder")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A 16-bit PCM wav of a tone, `seconds` long.
pub fn wav(path: &Path, seconds: f64, rate: u32, channels: u16) -> PathBuf {
    let count = (seconds * f64::from(rate)) as u32;
    let bytes = count * u32::from(channels) * 2;
    let mut file = Vec::new();
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(36 + bytes).to_le_bytes());
    file.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0");
    file.extend_from_slice(&channels.to_le_bytes());
    file.extend_from_slice(&rate.to_le_bytes());
    file.extend_from_slice(&(rate * u32::from(channels) * 2).to_le_bytes());
    file.extend_from_slice(&(channels * 2).to_le_bytes());
    file.extend_from_slice(&16u16.to_le_bytes());
    file.extend_from_slice(b"data");
    file.extend_from_slice(&bytes.to_le_bytes());
    for i in 0..count {
        let sample = ((f64::from(i) / f64::from(rate) * 440.0 * TAU).sin() * 12000.0) as i16;
        for _ in 0..channels {
            file.extend_from_slice(&sample.to_le_bytes());
        }
    }
    std::fs::write(path, file).expect("wav");
    path.to_owned()
}

/// Where `needle` first stands in `bytes`.
pub fn find(bytes: &[u8], needle: &[u8]) -> usize {
    bytes.windows(needle.len()).position(|window| window == needle).expect("needle")
}
