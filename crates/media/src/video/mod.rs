//! Video in and out.
//!
//! - [`VideoReader`] streams upright RGB frames with true timestamps from a file or a folder of pictures.
//! - [`resample_indices`] maps a clip of any rate to the frames a model wants.
//! - [`VideoWriter`] writes mp4, webm, gif or a folder of png, with sound and settings; the output appears under its
//!   name only when complete.
//!
//! FFmpeg's own log is silenced for the process; what went wrong is in the errors and warnings.

mod audio;
mod check;
mod codecs;
mod color;
mod folder;
mod gif;
mod info;
mod muxer;
mod orientation;
mod png_folder;
mod rate;
mod reader;
mod resample;
mod sheet;
mod stream;
mod transcode;
mod writer;

use std::sync::OnceLock;

pub use crate::output::same_file;
pub use audio::{AudioOutcome, AudioSource};
pub use check::check_output;
pub use codecs::{Codecs, OutputCodecs, codecs};
pub use info::{MediaWarning, VideoInfo, probe, timestamps};
pub use rate::FrameRate;
pub use reader::{Frame, FramesAt, ReadOptions, VideoReader};
pub use resample::{FrameMode, ShortClip, available_frames, largest_clip_length, resample_indices};
pub use sheet::contact_sheet;
pub use writer::{OutputKind, VideoWriter, WriterOptions, Written};

/// Versions of the libraries that decode and convert pixels, say `avcodec 4062820, swscale 590692`: other versions may
/// give other pixels.
pub fn decoder_version() -> String {
    format!("avcodec {}, swscale {}", ffmpeg_next::codec::version(), ffmpeg_next::software::scaling::version())
}

/// Prepares FFmpeg once: error texts, and no log on stderr.
fn init_ffmpeg() {
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| {
        // Only registers error texts; it has no failure of its own.
        let _ = ffmpeg_next::init();
        ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Quiet);
    });
}
