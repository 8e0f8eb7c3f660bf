//! The one error type of this crate. Every message is one line: what was found, what is allowed, what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = MediaError> = std::result::Result<T, E>;

/// Everything that can be wrong with a picture, a video or an output path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// The path names nothing.
    #[error("{}: no such file; check the path", path.display())]
    NotFound {
        /// The path asked for.
        path: PathBuf,
    },
    /// The path exists but cannot be opened or read.
    #[error("{}: cannot be read ({source}); check its permissions", path.display())]
    Unreadable {
        /// The path asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder where a file is needed.
    #[error("{}: is a folder; expected a file", path.display())]
    IsDirectory {
        /// The path asked for.
        path: PathBuf,
    },
    /// A file of zero bytes.
    #[error("{}: the file is empty (0 bytes); it was probably not copied or downloaded completely", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Not a picture in a known format.
    #[error("{}: not a picture, looks like {looks_like}; expected png, jpeg, webp, bmp, tiff or gif", path.display())]
    NotAnImage {
        /// The file.
        path: PathBuf,
        /// What the first bytes look like.
        looks_like: String,
    },
    /// Not a video in a known format.
    #[error("{}: not a readable video, looks like {looks_like}; expected mp4, mov, webm, mkv, avi or gif, or a folder of pictures", path.display())]
    NotAVideo {
        /// The file.
        path: PathBuf,
        /// What the first bytes look like.
        looks_like: String,
    },
    /// The format is known, but the content is broken or stops early.
    #[error("{}: damaged or truncated {kind} ({reason}); get a complete copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What it claims to be, e.g. `png`.
        kind: String,
        /// What the decoder said.
        reason: String,
    },
    /// More pixels than this program accepts; found in the header, nothing was allocated.
    #[error("{}: {width}x{height} pixels is too large; at most {max_side} a side and {max_megapixels} megapixels, scale it down first", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Width in pixels.
        width: u64,
        /// Height in pixels.
        height: u64,
        /// Largest allowed side.
        max_side: u32,
        /// Largest allowed area, in millions of pixels.
        max_megapixels: u64,
    },
    /// Fewer pixels a side than is useful.
    #[error("{}: {width}x{height} pixels is too small; at least {min_side} a side", path.display())]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Smallest allowed side.
        min_side: u32,
    },
    /// A media file without moving pictures, e.g. sound only.
    #[error("{}: the {container} file has no video stream; give a file with pictures", path.display())]
    NoVideoStream {
        /// The file.
        path: PathBuf,
        /// Container name.
        container: String,
    },
    /// A video stream of which not one frame could be decoded.
    #[error("{}: the video has no frame that can be decoded; give another file or re-encode it", path.display())]
    NoFrames {
        /// The file.
        path: PathBuf,
    },
    /// The installed FFmpeg cannot decode this codec.
    #[error("{}: no decoder for {codec}; re-encode the file as H.264", path.display())]
    UnsupportedCodec {
        /// The file.
        path: PathBuf,
        /// Codec name.
        codec: String,
    },
    /// A folder without a picture in it.
    #[error("{}: no picture (png, jpg, webp, bmp, tiff, gif) in this folder", path.display())]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The pictures of a folder differ in size.
    #[error("{}: {width}x{height} pixels, but the first picture of the folder is {first_width}x{first_height}; all must be the same size", path.display())]
    MixedSizes {
        /// The first picture that differs.
        path: PathBuf,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// Width of the first picture.
        first_width: u32,
        /// Height of the first picture.
        first_height: u32,
    },
    /// The clip does not last long enough for the frames asked for.
    #[error("the clip gives {available} frames, but num_frames is {wanted}; {}", short_hint(*.largest))]
    ClipTooShort {
        /// Frames asked for.
        wanted: usize,
        /// Frames the clip gives at the target rate.
        available: usize,
        /// The largest 4·n+1 that fits, if any.
        largest: Option<usize>,
    },
    /// A frame rate that is not a number of frames a second above 0.
    #[error("frame rate is {fps}; expected more than 0 and at most {max}")]
    FrameRate {
        /// What was given.
        fps: f64,
        /// Largest allowed.
        max: f64,
    },
    /// The output name ends in something that cannot be written.
    #[error("{}: unknown output type {extension:?}; allowed: .mp4, .webm, .gif, or a name without extension for a folder of png files", path.display())]
    UnknownExtension {
        /// The output path.
        path: PathBuf,
        /// Its extension.
        extension: String,
    },
    /// 4:2:0 video needs even sides.
    #[error("frame size is {width}x{height}; H.264 and VP9 need even sides, crop or pad by one pixel")]
    OddSize {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A frame that is not of the size the writer was made for.
    #[error("frame {index} is {width}x{height}; this video was begun with {expected_width}x{expected_height}")]
    FrameSize {
        /// Number of the frame, from 0.
        index: usize,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
        /// Width of the video.
        expected_width: u32,
        /// Height of the video.
        expected_height: u32,
    },
    /// A frame time that does not come after the one before.
    #[error("frame {index} has time {time_s} s, but the frame before has {previous_s} s; times must rise")]
    TimeOrder {
        /// Number of the frame, from 0.
        index: usize,
        /// Its time in seconds.
        time_s: f64,
        /// Time of the frame before.
        previous_s: f64,
    },
    /// `finish` without a single frame.
    #[error("{}: no frame was written; nothing to finish", path.display())]
    NothingWritten {
        /// The output path.
        path: PathBuf,
    },
    /// The output cannot be created.
    #[error("{}: cannot be created ({source}); choose another output path", path.display())]
    Unwritable {
        /// The output path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The output names an existing folder, but a file is to be written.
    #[error("{}: is a folder; give a file name such as {}", path.display(), path.join("out.mp4").display())]
    OutputIsDirectory {
        /// The output path.
        path: PathBuf,
    },
    /// A folder would be written over something that is neither an empty folder nor one with our own files only.
    #[error("{}: exists and is not an empty folder, nor one with this program's files only; choose another name or remove it", path.display())]
    OutputExists {
        /// The output path.
        path: PathBuf,
    },
    /// FFmpeg takes only UTF-8 paths for output.
    #[error("{}: the path is not valid UTF-8; choose another output path", path.display())]
    PathNotUtf8 {
        /// The output path.
        path: PathBuf,
    },
    /// Writing failed half way, e.g. the disk is full. The partial file is removed.
    #[error("{}: writing failed ({reason}); the partial file is removed", path.display())]
    Write {
        /// The output path.
        path: PathBuf,
        /// What the system or the encoder said.
        reason: String,
    },
    /// The installed FFmpeg has no encoder for this output.
    #[error("{}: the installed FFmpeg has no {codec} encoder; install a full FFmpeg or choose another output type", path.display())]
    EncoderMissing {
        /// The output path.
        path: PathBuf,
        /// Encoder looked for.
        codec: &'static str,
    },
    /// An encoder setting out of range.
    #[error("{name} is {value}; expected {allowed}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A buffer whose length does not match the sizes given with it.
    #[error("buffer holds {found} values; expected {expected} for the given size")]
    BufferLength {
        /// Values in the buffer.
        found: usize,
        /// Values expected.
        expected: usize,
    },
}

fn short_hint(largest: Option<usize>) -> String {
    match largest {
        Some(n) => {
            format!("use num_frames {n} (the largest 4·n+1 that fits) or hold the last frame")
        }
        None => "give a longer clip".to_owned(),
    }
}

impl MediaError {
    /// The error for a path that could not be opened for reading.
    pub(crate) fn open(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            _ => Self::Unreadable { path, source },
        }
    }

    /// A file that cannot be written.
    pub fn write(path: &Path, reason: impl ToString) -> Self {
        Self::Write { path: path.to_owned(), reason: one_line(&reason.to_string()) }
    }

    pub(crate) fn damaged(path: &Path, kind: &str, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), kind: kind.to_owned(), reason: one_line(&reason.to_string()) }
    }
}

/// Library messages may span lines; ours never do.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
