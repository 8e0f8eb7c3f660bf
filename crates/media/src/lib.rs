//! Images and video in and out; the only crate that knows FFmpeg.
