//! Activation memory of encoding prompts, from sizes alone: what `encoder.rs` holds at its hungriest point.

use kernels::Compute;
use kernels::attention::AttentionShape;
use kernels::linear::workspace_bytes;

use crate::Config;

/// Bytes of an activation, and of a bucket's number.
const F32: u64 = 4;

/// What products repack for themselves, and vectors.
const SCRATCH: u64 = 1 << 19;

/// Most bytes that [`Encoder::encode_all`](crate::Encoder::encode_all) takes on the host for `prompts` prompts of `tokens`
/// tokens each: their states and buckets, and the working set of a layer with what the kernels widen or repack of 16-bit and
/// quantised weights. Weights are not in it.
pub fn activation_bytes(config: &Config, prompts: usize, tokens: usize) -> u64 {
    let rows = |width: usize| F32 * tokens as u64 * width as u64;
    let pairs = F32 * (tokens * tokens) as u64;
    let Config { dim, dim_attn, dim_ffn, num_heads, .. } = *config;
    let shape = AttentionShape {
        heads: num_heads,
        queries: tokens,
        keys: tokens,
        width: dim_attn / num_heads.max(1),
        compute: Compute::F32,
    };
    let square = workspace_bytes(tokens, [dim_attn, dim]);
    let bias = num_heads as u64 * pairs;
    // The normed input, queries, keys, values in both orders; then the product instead, which comes in two orders.
    let project = rows(dim) + 3 * rows(dim_attn) + square.max(rows(dim_attn));
    let attend = 3 * rows(dim_attn) + shape.peak_bytes().max(2 * rows(dim_attn));
    let out = rows(dim_attn) + rows(dim) + square;
    // The new state, its norm, gate and inner values, and their product.
    let inner =
        rows(dim) + (rows(dim) + rows(dim_ffn) + workspace_bytes(tokens, [dim_ffn, dim])).max(2 * rows(dim_ffn));
    let ffn = (inner + rows(dim_ffn)).max(2 * rows(dim) + rows(dim_ffn) + workspace_bytes(tokens, [dim, dim_ffn]));
    let layer = (bias + project.max(attend)).max(out).max(ffn);
    SCRATCH + prompts as u64 * (rows(dim) + pairs) + layer.max(2 * bias).max(rows(dim))
}
