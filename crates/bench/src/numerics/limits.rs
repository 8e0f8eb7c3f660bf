//! What a precision must reach.

/// The least that a precision may come to, on whatever device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Of matrices, as forms are called.
    pub form: &'static str,
    /// Tokens after each block, signal over error in dB.
    pub blocks_db: f64,
    /// The velocity, likewise.
    pub velocity_db: f64,
    /// Cosine of the latents at the end of the demo's loop.
    pub latents_cosine: f64,
    /// The demo's pixels in dB.
    pub pixels_db: f64,
}

/// One line a form, a few dB below what was measured (docs/numerics.md): what a kernel that is wrong somewhere falls below.
pub const LIMITS: [Limit; 6] = [
    limit("bf16", [45.0, 45.0], 0.9999, 60.0),
    limit("fp8", [24.0, 21.0], 0.998, 40.0),
    limit("int8", [33.0, 32.0], 0.9998, 50.0),
    limit("int8-rotated", [34.0, 33.0], 0.9998, 50.0),
    limit("q8_0", [38.0, 36.0], 0.9999, 54.0),
    limit("q4_k_m", [19.0, 16.0], 0.995, 36.0),
];

const fn limit(form: &'static str, [blocks_db, velocity_db]: [f64; 2], latents_cosine: f64, pixels_db: f64) -> Limit {
    Limit { form, blocks_db, velocity_db, latents_cosine, pixels_db }
}

impl Limit {
    /// Of a form; `None` of one that nobody has set any for.
    pub fn of(form: &str) -> Option<Self> {
        LIMITS.into_iter().find(|limit| limit.form == form)
    }
}
