//! Images and video in and out; the only crate that knows FFmpeg.
//!
//! Pictures and frames are [`image::RgbImage`]: 8-bit RGB, upright, rows from the top. Nothing here knows a tensor;
//! [`resize`] works on plain buffers.

#![forbid(unsafe_code)]

pub mod error;
pub mod image;
pub mod output;
pub mod resize;
mod sniff;
pub mod video;

pub use error::{MediaError, Result};
