//! Frames one after another, from a file or a folder.

use std::path::{Path, PathBuf};

use ::image::RgbImage;

use super::folder::FolderSource;
use super::info::{MediaWarning, VideoInfo};
use super::rate::FrameRate;
use super::stream::StreamSource;
use crate::error::{MediaError, Result};

/// One decoded frame.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Frame {
    /// Number of the frame, from 0.
    pub index: usize,
    /// Seconds since the first frame, as the file says; not derived from a frame rate.
    pub time_s: f64,
    /// The upright picture.
    pub image: RgbImage,
}

/// What the caller decides about reading.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadOptions {
    /// Frames a second of a folder of pictures, which cannot say; 16 by default, the models' rate.
    pub folder_fps: FrameRate,
}

impl Default for ReadOptions {
    fn default() -> Self {
        let folder_fps = FrameRate::SIXTEEN;
        Self { folder_fps }
    }
}

/// Streams the frames of a video file (mp4, mov, webm, mkv, avi, gif and what else FFmpeg reads) or of a folder of
/// pictures in natural name order.
///
/// Frames come upright, all of one size, in order, with true timestamps that rise; only the current one is held.
/// A damaged or truncated file gives the frames that are whole; [`warnings`](Self::warnings) then says what is missing.
pub struct VideoReader {
    path: PathBuf,
    source: Source,
    info: VideoInfo,
    warnings: Vec<MediaWarning>,
    next_index: usize,
    failed: bool,
}

enum Source {
    Stream(Box<StreamSource>),
    Folder(FolderSource),
}

impl VideoReader {
    /// Opens a video or a folder of pictures (at 16 frames a second). Reads headers only.
    ///
    /// # Errors
    /// Missing, unreadable, empty, not a video, without a video stream, without a decoder, or too large; for a folder:
    /// no picture in it, a picture that is none, or pictures of different sizes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, &ReadOptions::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self> {
        let path = path.as_ref();
        let meta = std::fs::metadata(path).map_err(|e| MediaError::open(path, e))?;
        let (source, info) = if meta.is_dir() {
            let (source, info) = FolderSource::open(path, options.folder_fps)?;
            (Source::Folder(source), info)
        } else {
            let (source, info) = StreamSource::open(path)?;
            (Source::Stream(Box::new(source)), info)
        };
        Ok(Self { path: path.to_owned(), source, info, warnings: Vec::new(), next_index: 0, failed: false })
    }

    /// The frames at `indices`, which must not fall, as [`resample_indices`](super::resample_indices) gives them:
    /// repeated where an index repeats, one frame held at a time, nothing decoded after the last. An index past the end
    /// gives the last frame.
    ///
    /// # Errors
    /// The items are those of [`next_frame`](Self::next_frame).
    pub fn frames_at(self, indices: Vec<usize>) -> FramesAt {
        FramesAt { reader: self, indices: indices.into_iter(), current: None }
    }

    /// What the file says about itself.
    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// What went wrong so far without stopping the frames; complete once the iterator has ended.
    pub fn warnings(&self) -> &[MediaWarning] {
        &self.warnings
    }

    /// The next frame; none at the end.
    ///
    /// # Errors
    /// [`MediaError::NoFrames`] at the end if there was not one frame; a frame over the size limit; for a folder, a
    /// damaged picture. After an error the reader has ended.
    pub fn next_frame(&mut self) -> Result<Option<Frame>> {
        if self.failed {
            return Ok(None);
        }
        let result = match &mut self.source {
            Source::Stream(source) => {
                let result = source.next_frame();
                self.warnings.extend(source.warnings());
                result
            }
            Source::Folder(source) => source.next_frame(),
        };
        self.failed = result.is_err();
        let next = result?.map(|(image, time_s)| Frame { index: self.next_index, time_s, image });
        self.next_index += usize::from(next.is_some());
        Ok(next)
    }
}

/// The frames of a [`VideoReader`] at chosen indices; see [`VideoReader::frames_at`].
pub struct FramesAt {
    reader: VideoReader,
    indices: std::vec::IntoIter<usize>,
    current: Option<Frame>,
}

impl FramesAt {
    /// The reader underneath, for its warnings.
    pub fn reader(&self) -> &VideoReader {
        &self.reader
    }

    fn frame(&mut self, index: usize) -> Result<RgbImage> {
        while self.current.as_ref().is_none_or(|frame| frame.index < index) {
            match self.reader.next_frame()? {
                Some(frame) => self.current = Some(frame),
                // The container promised a frame that does not decode; the last one stands in.
                None => break,
            }
        }
        match &self.current {
            Some(frame) => Ok(frame.image.clone()),
            None => Err(MediaError::NoFrames { path: self.reader.path.clone() }),
        }
    }
}

impl Iterator for FramesAt {
    type Item = Result<RgbImage>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.indices.next()?;
        let frame = self.frame(index);
        if frame.is_err() {
            self.indices = Vec::new().into_iter();
        }
        Some(frame)
    }
}

impl Iterator for VideoReader {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_frame().transpose()
    }
}
