//! Frames one after another, from a file or a folder.

use std::path::Path;

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
        Ok(Self {
            source,
            info,
            warnings: Vec::new(),
            next_index: 0,
            failed: false,
        })
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
        let next = result?.map(|(image, time_s)| Frame {
            index: self.next_index,
            time_s,
            image,
        });
        self.next_index += usize::from(next.is_some());
        Ok(next)
    }
}

impl Iterator for VideoReader {
    type Item = Result<Frame>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_frame().transpose()
    }
}
