//! The negative pose: each frame's pose squeezed or stretched about the neck by random factors.
//!
//! Source: SteadyDancer's `pose_align_withdiffaug.py`. Upstream draws from Python's unseeded global generator; here a seed decides.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::AlignedPose;

/// The numbers drawn for one frame, in the order of drawing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Augmentation {
    /// Drawn from −0.2..0.2 and, as upstream, not used.
    pub offset_x: f64,
    /// Drawn from −0.2..0.2 and, as upstream, not used.
    pub offset_y: f64,
    /// Factor of x and y, 0.7..1.3.
    pub scale: f64,
    /// Further factor of x, 0.6..1.4.
    pub aspect_ratio: f64,
}

impl Augmentation {
    /// Changes nothing.
    pub const IDENTITY: Self = Self { offset_x: 0.0, offset_y: 0.0, scale: 1.0, aspect_ratio: 1.0 };

    /// The pose scaled about its neck: x by `aspect_ratio · scale`, y by `scale`. Hidden points are scaled like any other.
    pub fn apply(&self, pose: &AlignedPose) -> AlignedPose {
        // Upstream's order of operations, so that roundings agree.
        let stretch = |p: [f64; 2]| [p[0] * self.aspect_ratio * self.scale, p[1] * self.scale];
        let neck = pose.body[1];
        let stretched = stretch(neck);
        let back = [neck[0] - stretched[0], neck[1] - stretched[1]];
        let map = |p: [f64; 2]| {
            let s = stretch(p);
            [s[0] + back[0], s[1] + back[1]]
        };
        AlignedPose { body: pose.body.map(map), visible: pose.visible, hands: pose.hands.map(|hand| hand.map(map)) }
    }
}

/// The endless sequence of augmentations of a seed.
///
/// Generator: ChaCha20 (IETF block function, 64-bit counter) whose 32-byte key is the seed in little-endian order followed by
/// zeros, stream [`Augmenter::STREAM`], so that it never shares numbers with the latent noise of the same seed.
/// Every frame takes four u64, for `offset_x`, `offset_y`, `scale`, `aspect_ratio` in this order; a u64 `r` becomes
/// `low + (high − low) · (r >> 11) · 2⁻⁵³`. Frame i thus starts at word 8·i, and its numbers do not depend on other frames.
#[derive(Clone, Debug)]
pub struct Augmenter {
    seed: u64,
}

impl Augmenter {
    /// ChaCha stream ("pose").
    pub const STREAM: u64 = u64::from_le_bytes(*b"pose\0\0\0\0");
    /// 32-bit words a frame.
    const WORDS: u128 = 8;

    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The augmentation of frame `index`.
    pub fn frame(&self, index: usize) -> Augmentation {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        let mut rng = ChaCha20Rng::from_seed(key);
        rng.set_stream(Self::STREAM);
        rng.set_word_pos(index as u128 * Self::WORDS);
        let mut uniform = |low: f64, high: f64| {
            let unit = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            low + (high - low) * unit
        };
        Augmentation {
            offset_x: uniform(-0.2, 0.2),
            offset_y: uniform(-0.2, 0.2),
            scale: uniform(0.7, 1.3),
            aspect_ratio: uniform(0.6, 1.4),
        }
    }
}
