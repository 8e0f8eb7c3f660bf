//! Activation memory of encoding prompts, from sizes alone: what `encoder.rs` holds at its hungriest point.

use kernels::Compute;
use kernels::attention::AttentionShape;
use kernels::cuda::ops::decoded_bytes;
use kernels::linear::workspace_bytes;

use crate::Config;

/// Bytes of an activation.
const F32: u64 = 4;

/// What products repack for themselves, and vectors.
const SCRATCH: u64 = 3 << 17;

/// Most bytes that [`Encoder::encode_all`](crate::Encoder::encode_all) takes on the host for `prompts` prompts of `tokens`
/// tokens each, whose layers multiply in `compute`: their states, and the working set of a layer with what the kernels widen or repack of 16-bit and
/// quantised weights. Weights are not in it.
pub fn activation_bytes(config: &Config, prompts: usize, tokens: usize, compute: Compute) -> u64 {
    let rows = |width: usize| F32 * tokens as u64 * width as u64;
    let Config { dim, dim_attn, dim_ffn, num_heads, .. } = *config;
    let shape =
        AttentionShape { heads: num_heads, queries: tokens, keys: tokens, width: dim_attn / num_heads.max(1), compute };
    let square = workspace_bytes(tokens, [dim_attn, dim], compute);
    // The normed input, queries, keys, values; then the product instead of the first.
    let project = rows(dim) + 3 * rows(dim_attn) + square;
    let attend = 3 * rows(dim_attn) + shape.peak_bytes();
    let out = rows(dim_attn) + rows(dim) + square;
    // The new state, its norm, the gate and the product with it.
    let ffn = rows(dim)
        + (rows(dim) + 2 * rows(dim_ffn) + workspace_bytes(tokens, [dim_ffn, dim], compute))
            .max(rows(dim_ffn) + rows(dim) + workspace_bytes(tokens, [dim, dim_ffn], compute));
    let layer = project.max(attend).max(out).max(ffn);
    SCRATCH + prompts as u64 * rows(dim) + layer
}

/// Most bytes that [`Encoder::encode_all`](crate::Encoder::encode_all) takes in a GPU's memory with its layers there, for as many prompts:
/// their states in f32, and the working set of a layer in bf16 with what is decoded of a matrix that is stored in another form. Weights
/// are not in it, nor what differences beside a matrix take while they are added. What the host takes meanwhile is within
/// [`activation_bytes`].
pub fn gpu_activation_bytes(config: &Config, prompts: usize, tokens: usize) -> u64 {
    let rows = |width: usize| F32 * tokens as u64 * width as u64;
    let half = |width: usize| rows(width) / 2;
    let Config { dim, dim_attn, dim_ffn, num_heads, .. } = *config;
    let offsets = rows(2 * num_heads);
    // Normed inputs, or those of a matrix that is rotated: twice.
    let attend = 2 * half(dim) + 4 * half(dim_attn);
    let out = 2 * half(dim_attn) + rows(dim);
    let ffn = rows(dim) + (2 * half(dim) + 2 * half(dim_ffn)).max(2 * half(dim_ffn) + rows(dim));
    let decoded = [[dim_attn, dim], [dim, dim_attn], [dim_ffn, dim], [dim, dim_ffn]].map(decoded_bytes);
    let decoded = decoded.into_iter().max().unwrap_or(0);
    // Everything begins at a multiple of some bytes.
    const PADDING: u64 = 64 << 10;
    PADDING + prompts as u64 * rows(dim) + prompts as u64 * rows(2) + offsets + attend.max(out).max(ffn) + decoded
}
