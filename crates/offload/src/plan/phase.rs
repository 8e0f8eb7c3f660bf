//! The phases of a run.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The phases of a run, in order. Each is loaded once and released before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Driving motion to poses.
    Pose,
    /// Pictures and videos that show the poses; no part of a plan.
    Preview,
    /// Prompts to text tokens.
    TextEncode,
    /// Pictures to image tokens.
    ImageEncode,
    /// Pixels to latents.
    VaeEncode,
    /// The sampling loop.
    Denoise,
    /// Latents to pixels, and pixels into the file.
    Decode,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Phase; 7] = [
        Phase::Pose,
        Phase::Preview,
        Phase::TextEncode,
        Phase::ImageEncode,
        Phase::VaeEncode,
        Phase::Denoise,
        Phase::Decode,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Pose => "pose",
            Phase::Preview => "preview",
            Phase::TextEncode => "text encode",
            Phase::ImageEncode => "image encode",
            Phase::VaeEncode => "VAE encode",
            Phase::Denoise => "denoise",
            Phase::Decode => "VAE decode",
        })
    }
}
