//! What a video says about itself before anything is decoded.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use ffmpeg_next::{DictionaryRef, Error, Packet};

use super::reader::{ReadOptions, VideoReader};
use super::stream;
use crate::error::{MediaError, Result};

/// What a video says about itself.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VideoInfo {
    /// Width in pixels of the frames as returned, after the rotation.
    pub width: u32,
    /// Height in pixels of the frames as returned, after the rotation.
    pub height: u32,
    /// Clockwise turn the stream asks for, in degrees: 0, 90, 180 or 270. Already applied to frames and size.
    pub rotation: u32,
    /// Mean frames a second; 0 if unknown.
    pub avg_fps: f64,
    /// Lowest rate in which all frame times can be said (FFmpeg's `r_frame_rate`); 0 if unknown.
    pub r_frame_rate: f64,
    /// Seconds, if known.
    pub duration_s: Option<f64>,
    /// Number of frames, if the container says.
    pub frames: Option<u64>,
    /// Codec, e.g. `h264`; `pictures` for a folder.
    pub codec: String,
    /// Container as FFmpeg names it, e.g. `mov,mp4,m4a,3gp,3g2,mj2`; `folder` for a folder.
    pub container: String,
    /// Whether there is a sound track.
    pub has_audio: bool,
    /// Codec of the sound track.
    pub audio_codec: Option<String>,
    /// Whether the frame rate varies, judged from the times of the first 500 frames; gif times are too coarse to tell
    /// small variations.
    pub variable_frame_rate: bool,
    /// Tags of the file, keys in lower case; `comment` holds the settings of files written here.
    pub metadata: BTreeMap<String, String>,
}

/// Something that went wrong while decoding, but left usable frames.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MediaWarning {
    /// The file ends before its content does.
    Truncated {
        /// Frames that could be decoded.
        decoded: u64,
        /// Frames the file should have, if known.
        expected: Option<u64>,
    },
    /// Packets that could not be decoded; their frames are missing or patched up.
    Corrupt {
        /// Number of packets.
        packets: u64,
    },
    /// The frame size changed; later frames are scaled to the first size.
    SizeChanged {
        /// Number of the first such frame, from 0.
        frame: u64,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },
}

impl fmt::Display for MediaWarning {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Truncated { decoded, expected: Some(expected) } => {
                write!(f, "the video is cut off: {decoded} of {expected} frames could be decoded")
            }
            Self::Truncated { decoded, expected: None } => {
                write!(f, "the video is cut off after {decoded} frames")
            }
            Self::Corrupt { packets } => write!(f, "{packets} damaged packets in the video; frames may be missing"),
            Self::SizeChanged { frame, width, height } => {
                write!(f, "the frame size changes to {width}x{height} at frame {frame}; scaled to the first size")
            }
        }
    }
}

/// Checks that a path is a video (or a folder of pictures) with at least one frame's data, and says what it is.
/// Reads headers and the first packet; decodes no frame for the caller. Meant to fail early.
///
/// # Errors
/// As [`VideoReader::open`], and [`MediaError::NoFrames`] for a video stream without data.
pub fn probe(path: impl AsRef<Path>) -> Result<VideoInfo> {
    let path = path.as_ref();
    let reader = VideoReader::open_with(path, &ReadOptions::default())?;
    if !path.is_dir() {
        let mut opened = stream::open(path)?;
        let index = stream::video_stream(&opened, path)?;
        next_packet(&mut opened, index).ok_or_else(|| MediaError::NoFrames { path: path.to_owned() })?;
    }
    Ok(reader.info().clone())
}

/// The times of all frames in seconds, rising, the first at 0, from the container alone: nothing is decoded. For a
/// folder of pictures, `options.folder_fps` gives the times.
///
/// # Errors
/// As [`VideoReader::open_with`], and [`MediaError::NoFrames`].
pub fn timestamps(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Vec<f64>> {
    let path = path.as_ref();
    if path.is_dir() {
        let reader = VideoReader::open_with(path, options)?;
        let count = reader.info().frames.unwrap_or(0);
        return Ok((0..count).map(|i| i as f64 / options.folder_fps.as_f64()).collect());
    }
    let mut input = stream::open(path)?;
    let index = stream::video_stream(&input, path)?;
    let (time_base, start) = input.stream(index).map_or((0.0, 0), |s| (f64::from(s.time_base()), s.start_time()));
    let mut times = Vec::new();
    while let Some(packet) = next_packet(&mut input, index) {
        // What an edit list cuts off the front comes with times before the start.
        match packet.pts().or(packet.dts()) {
            Some(pts) if start != ffmpeg_next::ffi::AV_NOPTS_VALUE && pts < start => {}
            Some(pts) => times.push(pts),
            None => {}
        }
    }
    times.sort_unstable();
    times.dedup();
    let first = *times.first().ok_or_else(|| MediaError::NoFrames { path: path.to_owned() })?;
    Ok(times.iter().map(|t| (t - first) as f64 * time_base).collect())
}

/// How many frames to look at to tell a variable frame rate.
const RATE_SAMPLE: usize = 500;
/// Frames that may be missing from the end of a sample because they are stored out of order.
const REORDERED: usize = 16;

/// Whether the steps between the first frames differ by more than the container's rounding.
pub(super) fn rate_varies(path: &Path) -> Result<bool> {
    let mut input = stream::open(path)?;
    let index = stream::video_stream(&input, path)?;
    let tick_s = input.stream(index).map_or(0.0, |s| f64::from(s.time_base()));
    let mut times = Vec::new();
    let mut cut = false;
    while let Some(packet) = next_packet(&mut input, index) {
        times.extend(packet.pts());
        if times.len() == RATE_SAMPLE {
            cut = true;
            break;
        }
    }
    times.sort_unstable();
    times.truncate(times.len() - if cut { REORDERED } else { 0 });
    let mut steps: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    steps.sort_unstable();
    let (Some(shortest), Some(longest)) = (steps.first(), steps.last()) else {
        return Ok(false);
    };
    let middle = steps[steps.len() / 2] as f64;
    // Rounded times make steps one tick longer or shorter.
    let rounding = if tick_s < 1e-4 { 0.02 * middle } else { 2.0 };
    Ok((longest - shortest) as f64 > rounding.max(1.0))
}

/// The next non-empty packet of a stream; none at the end or at the first read error.
fn next_packet(input: &mut ffmpeg_next::format::context::Input, index: usize) -> Option<Packet> {
    loop {
        let mut packet = Packet::empty();
        match packet.read(input) {
            Ok(()) if packet.stream() == index && packet.size() > 0 => return Some(packet),
            Ok(()) | Err(Error::Other { errno: ffmpeg_next::error::EAGAIN }) => {}
            Err(_) => return None,
        }
    }
}

/// Tags with lower-case keys. Values come from files and need not be UTF-8.
pub(super) fn tags(dictionary: &DictionaryRef) -> BTreeMap<String, String> {
    let lossy = |text: &str| String::from_utf8_lossy(text.as_bytes()).into_owned();
    dictionary.iter().map(|(key, value)| (lossy(key).to_lowercase(), lossy(value))).collect()
}
