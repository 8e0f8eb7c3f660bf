//! The UMT5 text encoder with its tokenizer and text cleaning.
//!
//! Prompt → [`clean`] → [`Tokenizer::encode`] → [`Encoder::encode`] → text embeddings of the valid tokens.

mod clean;
mod encoder;
mod html;
mod keys;
mod memory;
mod position;
mod prompt;
mod tokenizer;

pub use clean::clean;
pub use encoder::{Config, EMBEDDING, Encoder, MAX_TOKENS, manifest};
pub use keys::key_map;
pub use memory::{activation_bytes, gpu_activation_bytes};
pub use position::relative_bucket;
pub use prompt::{DEFAULT_NEGATIVE_PROMPT_FLF2V, DEFAULT_NEGATIVE_PROMPT_I2V, DEFAULT_NEGATIVE_PROMPT_T2V};
pub use tokenizer::{Tokenizer, TokenizerError};

/// What the repeated parts are called under which weights are asked for, in the order of their use.
pub const GROUPS: &[&str] = &["blocks"];
