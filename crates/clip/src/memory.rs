//! Activation memory of the tower, from sizes alone: what `vision.rs` holds at its hungriest point.

use kernels::Compute;
use kernels::attention::AttentionShape;
use kernels::cuda::ops::decoded_bytes;
use kernels::linear::workspace_bytes;

use crate::{Activation, Config};

/// Bytes of an activation.
const F32: u64 = 4;

/// What products repack for themselves, and vectors.
const SCRATCH: u64 = 1 << 20;

/// Most bytes that [`VisionTower::forward`](crate::VisionTower::forward) takes on the host for `images` pictures together, whose
/// blocks multiply in `compute`: the hidden state, and the working set of a block with what the kernels widen or repack of 16-bit and quantised weights. Weights
/// and the pixels are not in it.
pub fn activation_bytes(config: &Config, images: usize, compute: Compute) -> u64 {
    let tokens = images * config.tokens();
    let rows = |width: usize| F32 * tokens as u64 * width as u64;
    let (dim, wide) = (config.dim, config.dim * config.mlp_ratio);
    let workspace = |out, into| workspace_bytes(tokens, [out, into], compute);
    let (heads, queries) = (images * config.num_heads, config.tokens());
    let width = dim / config.num_heads.max(1);
    let shape = AttentionShape { heads, queries, keys: queries, width, compute };
    let patch = 3 * config.patch_size * config.patch_size;
    let stem = 2 * rows(patch).max(rows(dim)) + 2 * rows(dim);
    // The norm and all three projections; these with the product.
    let project = rows(4 * dim) + workspace(3 * dim, dim);
    let attend = rows(3 * dim) + shape.peak_bytes();
    let out = rows(2 * dim) + workspace(dim, dim).max(rows(dim));
    // With the new state: before and after the activation, and what stands between the two.
    let between = match config.activation {
        Activation::Gelu => 2,
        Activation::QuickGelu => 4,
    };
    let mlp = rows(dim) + rows(between * wide).max(rows(dim + wide) + workspace(wide, dim).max(workspace(dim, wide)));
    SCRATCH + stem.max(rows(dim) + project.max(attend).max(out).max(mlp))
}

/// Most bytes that [`VisionTower::forward`](crate::VisionTower::forward) takes in a GPU's memory with its blocks there, for so many
/// pictures together: hidden states in f32, and the working set of a block in bf16 with what is decoded of a matrix that is stored in
/// another form. Weights are not in it, nor what differences beside a matrix take while they are added. What the host takes meanwhile is
/// within [`activation_bytes`].
pub fn gpu_activation_bytes(config: &Config, images: usize) -> u64 {
    let rows = |width: usize| F32 * (images * config.tokens()) as u64 * width as u64;
    let half = |width: usize| rows(width) / 2;
    let (dim, wide) = (config.dim, config.dim * config.mlp_ratio);
    // Normed inputs, or those of a matrix that is rotated: twice.
    let attend = 2 * half(dim) + half(3 * dim);
    let out = 2 * half(dim) + rows(dim);
    let mlp = rows(dim) + (2 * half(dim) + half(wide)).max(2 * half(wide) + rows(dim));
    let decoded = [[3 * dim, dim], [dim, dim], [wide, dim], [dim, wide]].map(decoded_bytes);
    let decoded = decoded.into_iter().max().unwrap_or(0);
    // Everything begins at a multiple of some bytes.
    const PADDING: u64 = 64 << 10;
    PADDING + rows(dim) + attend.max(out).max(mlp) + decoded
}
