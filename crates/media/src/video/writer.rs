//! Frames → mp4, webm, gif or a folder of png.

use std::path::{Path, PathBuf};

use ::image::RgbImage;

use super::audio::{AudioOutcome, AudioSource};
use super::gif::GifWriter;
use super::muxer::Muxer;
use super::png_folder::PngFolder;
use super::rate::FrameRate;
use crate::error::{MediaError, Result};
use crate::image::check_size;

/// x264's speed settings, fastest first.
const PRESETS: [&str; 10] =
    ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"];

/// What kind of output a path asks for, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// `.mp4`: H.264, yuv420p, BT.709, AAC sound, index in front.
    Mp4,
    /// `.webm`: VP9, yuv420p, BT.709, Opus sound.
    Webm,
    /// `.gif`: 256 colours a frame, no sound.
    Gif,
    /// No extension: a folder with `frame_0000.png` … and `settings.json`, no sound.
    PngFolder,
}

impl OutputKind {
    /// The kind a path's extension asks for.
    ///
    /// # Errors
    /// Any other extension.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("mp4") => Ok(Self::Mp4),
            Some("webm") => Ok(Self::Webm),
            Some("gif") => Ok(Self::Gif),
            None => Ok(Self::PngFolder),
            Some(other) => Err(MediaError::UnknownExtension { path: path.to_owned(), extension: format!(".{other}") }),
        }
    }
}

/// How to write a video. Make one with [`new`](Self::new) and change what differs.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct WriterOptions {
    /// Width of every frame in pixels; even for mp4 and webm.
    pub width: u32,
    /// Height of every frame in pixels; even for mp4 and webm.
    pub height: u32,
    /// Frames a second.
    pub fps: FrameRate,
    /// Constant rate factor, lower is better: 0-51 for mp4 (17 if unset), 0-63 for webm (24 if unset).
    pub crf: Option<u8>,
    /// x264's preset, for mp4; `medium` if unset.
    pub preset: String,
    /// Sound for mp4 and webm, cut to the clip.
    pub audio: Option<AudioSource>,
    /// The `title` tag (mp4, webm, folder).
    pub title: Option<String>,
    /// The `comment` tag: seed, settings and version as JSON. Kept in every kind of output.
    pub comment: Option<String>,
}

impl WriterOptions {
    /// Frames of `width`×`height` pixels at `fps`, no sound, no tags, default quality.
    pub fn new(width: u32, height: u32, fps: FrameRate) -> Self {
        Self { width, height, fps, crf: None, preset: "medium".to_owned(), audio: None, title: None, comment: None }
    }

    pub(super) fn crf_or_default(&self, kind: OutputKind) -> u8 {
        self.crf.unwrap_or(if kind == OutputKind::Webm { 24 } else { 17 })
    }

    fn check(&self, kind: OutputKind, path: &Path) -> Result<()> {
        let (width, height) = (self.width, self.height);
        check_size(path, u64::from(width), u64::from(height))?;
        let encoded = matches!(kind, OutputKind::Mp4 | OutputKind::Webm);
        if width == 0 || height == 0 || (encoded && (width % 2 == 1 || height % 2 == 1)) {
            return Err(MediaError::OddSize { width, height });
        }
        let (limit, allowed) = if kind == OutputKind::Webm { (63, "0 to 63") } else { (51, "0 to 51") };
        if encoded && self.crf_or_default(kind) > limit {
            return Err(MediaError::Setting { name: "crf", value: self.crf_or_default(kind).to_string(), allowed });
        }
        if !PRESETS.contains(&self.preset.as_str()) {
            return Err(MediaError::Setting {
                name: "preset",
                value: self.preset.clone(),
                allowed: "ultrafast, superfast, veryfast, faster, fast, medium, slow, slower, veryslow or placebo",
            });
        }
        if let Some(audio) = &self.audio
            && !(audio.start_s.is_finite() && audio.start_s >= 0.0)
        {
            return Err(MediaError::Setting {
                name: "audio start",
                value: audio.start_s.to_string(),
                allowed: "0 seconds or more",
            });
        }
        Ok(())
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Written {
    /// The output path.
    pub path: PathBuf,
    /// Number of frames.
    pub frames: usize,
    /// Seconds from the first frame to the end of the last.
    pub duration_s: f64,
    /// What became of the sound.
    pub audio: AudioOutcome,
}

/// Writes frames to a video file or a folder of pictures.
///
/// Until [`finish`](Self::finish) returns, nothing exists under the output's name (or what existed is untouched): the
/// data goes to a hidden `.part` beside it, which is put on disk, then renamed, and removed if the writer is dropped.
/// The same frames and options give the same bytes with the same FFmpeg.
pub struct VideoWriter {
    path: PathBuf,
    options: WriterOptions,
    sink: Sink,
    frames: usize,
    last_time_s: f64,
}

enum Sink {
    Muxer(Box<Muxer>),
    Gif(Box<GifWriter>),
    PngFolder(PngFolder),
}

impl VideoWriter {
    /// Begins an output; its kind follows the extension ([`OutputKind`]).
    ///
    /// # Errors
    /// An unknown extension, sizes or settings out of range, a folder where a file is to go, a place that cannot be
    /// written, a missing encoder, an audio source that cannot be opened.
    pub fn create(path: impl AsRef<Path>, options: &WriterOptions) -> Result<Self> {
        let path = path.as_ref();
        let kind =
            if path.is_dir() && path.extension().is_none() { OutputKind::PngFolder } else { OutputKind::of(path)? };
        options.check(kind, path)?;
        let sink = match kind {
            OutputKind::Mp4 | OutputKind::Webm => Sink::Muxer(Box::new(Muxer::create(path, kind, options)?)),
            OutputKind::Gif => Sink::Gif(Box::new(GifWriter::create(path, options)?)),
            OutputKind::PngFolder => Sink::PngFolder(PngFolder::create(path, options)?),
        };
        Ok(Self { path: path.to_owned(), options: options.clone(), sink, frames: 0, last_time_s: -1.0 })
    }

    /// Adds a frame, one frame's length after the one before.
    ///
    /// # Errors
    /// A frame of another size, or a write that fails (the disk is full).
    pub fn write(&mut self, image: &RgbImage) -> Result<()> {
        let time_s = match self.frames {
            0 => 0.0,
            _ if self.is_regular() => self.frames as f64 / self.options.fps.as_f64(),
            _ => self.last_time_s + 1.0 / self.options.fps.as_f64(),
        };
        self.write_at(image, time_s)
    }

    /// Adds a frame that is shown from `time_s` seconds on, for videos of variable frame rate. In a folder of pictures
    /// times are lost.
    ///
    /// # Errors
    /// As [`write`](Self::write), and a time that is not after the one before (or, for the first frame, not 0 or more).
    pub fn write_at(&mut self, image: &RgbImage, time_s: f64) -> Result<()> {
        let options = &self.options;
        if image.dimensions() != (options.width, options.height) {
            return Err(MediaError::FrameSize {
                index: self.frames,
                width: image.width(),
                height: image.height(),
                expected_width: options.width,
                expected_height: options.height,
            });
        }
        let rises = time_s > self.last_time_s && (0.0..1e7).contains(&time_s);
        if !rises {
            return Err(MediaError::TimeOrder { index: self.frames, time_s, previous_s: self.last_time_s });
        }
        match &mut self.sink {
            Sink::Muxer(muxer) => muxer.write(image, time_s)?,
            Sink::Gif(gif) => gif.write(image, time_s)?,
            Sink::PngFolder(folder) => folder.write(image)?,
        }
        self.frames += 1;
        self.last_time_s = time_s;
        Ok(())
    }

    /// Whether all frames so far lie on the grid of the frame rate, so that times need not be summed up.
    fn is_regular(&self) -> bool {
        let expected = (self.frames - 1) as f64 / self.options.fps.as_f64();
        (self.last_time_s - expected).abs() < 1e-9
    }

    /// Completes the output and gives it its name.
    ///
    /// # Errors
    /// No frame was written, or a write that fails; nothing is left then.
    pub fn finish(self) -> Result<Written> {
        if self.frames == 0 {
            return Err(MediaError::NothingWritten { path: self.path });
        }
        let duration_s = self.last_time_s + 1.0 / self.options.fps.as_f64();
        let silent = match self.options.audio {
            Some(_) => AudioOutcome::ContainerCannot,
            None => AudioOutcome::NotAsked,
        };
        let audio = match self.sink {
            Sink::Muxer(muxer) => {
                let outcome = muxer.audio;
                muxer.finish(duration_s)?;
                outcome
            }
            Sink::Gif(gif) => {
                gif.finish(duration_s)?;
                silent
            }
            Sink::PngFolder(folder) => {
                folder.finish()?;
                silent
            }
        };
        Ok(Written { path: self.path, frames: self.frames, duration_s, audio })
    }

    /// Throws away what was written; the same as dropping the writer.
    pub fn cancel(self) {}
}
