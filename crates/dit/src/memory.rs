//! Activation memory of a pass, from sizes alone: what `model.rs` and `block.rs` hold at their hungriest points.

use kernels::Compute;
use kernels::attention::AttentionShape;
use kernels::cuda::ops::{Int8Keys, attention_int8_bytes};
use kernels::largest_piece;
use kernels::linear::workspace_bytes;

use crate::condition::Align;
use crate::ends::PATCH;
use crate::model::KEPT_CONTEXT_BYTES;
use crate::{Attention, Chunking, Config};

/// Bytes of an activation.
const F32: u64 = 4;

/// What products repack for themselves, and vectors.
const SCRATCH: u64 = 1 << 19;

/// Sizes of a pass through the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassShape {
    /// `[F, h, w]` of the latents.
    pub latent: [usize; 3],
    /// CLIP tokens of the reference: 257, or those of both pictures for flf2v. Of no effect where there are none.
    pub image_tokens: usize,
    /// Tokens of the text that are told apart, at most S: its words, and one for all padding.
    pub text_tokens: usize,
    /// Prepared conditions that are held.
    pub conditions: usize,
    /// Conditions that go through the blocks together.
    pub branches: usize,
    /// How many tokens are computed at a time.
    pub chunking: Chunking,
    /// Numbers that blocks multiply in on the host.
    pub compute: Compute,
    /// How a GPU attends.
    pub attention: Attention,
}

/// Most bytes that preparing the conditions with [`Dit::prepare`](crate::Dit::prepare) and one
/// [`Dit::forward_branches`](crate::Dit::forward_branches) take on the host, with f32 activations: conditions as they are
/// held, and the working set of the hungriest stage with what the kernels widen or repack of 16-bit and quantised weights.
/// Weights and the caller's tensors are not in it.
pub fn activation_bytes(config: &Config, shape: &PassShape) -> u64 {
    let s = Sizes::new(config, shape);
    SCRATCH + shape.conditions as u64 * s.condition() + s.prepare().max(s.embedding()).max(s.blocks()).max(s.head())
}

/// Most bytes that one [`Dit::guided`](crate::Dit::guided) takes in a GPU's memory, with what is held there of the conditions.
/// Weights are not in it, nor what differences beside a matrix take while they are added. What the host takes meanwhile is within
/// [`activation_bytes`].
pub fn gpu_activation_bytes(config: &Config, shape: &PassShape) -> u64 {
    let s = Sizes::new(config, shape);
    let stage = s.embedding_on_gpu().max(s.blocks_on_gpu()).max(s.head_on_gpu());
    SCRATCH + shape.conditions as u64 * s.condition_on_gpu() + s.latents_on_gpu() + stage
}

/// Keys and values of so many context tokens in all blocks.
pub(crate) fn context_bytes(config: &Config, tokens: usize) -> u64 {
    2 * config.num_layers as u64 * rows(tokens, config.dim)
}

struct Sizes<'a> {
    config: &'a Config,
    shape: &'a PassShape,
    /// Latent pixels.
    pixels: usize,
    /// Tokens of the clip, and with the appended frames.
    own: usize,
    all: usize,
    /// Text tokens, and image tokens N.
    text: usize,
    image: usize,
}

/// Bytes of `rows` rows of `width` floats.
fn rows(rows: usize, width: usize) -> u64 {
    F32 * rows as u64 * width as u64
}

impl<'a> Sizes<'a> {
    fn new(config: &'a Config, shape: &'a PassShape) -> Self {
        let [f, h, w] = shape.latent;
        let frame = (h / PATCH) * (w / PATCH);
        let extra = if config.is_steadydancer() { 2 } else { 0 };
        let image = if config.has_image_context() { shape.image_tokens } else { 0 };
        let text = shape.text_tokens.min(config.text_len);
        Self { config, shape, pixels: f * h * w, own: f * frame, all: (f + extra) * frame, text, image }
    }

    /// `count` tokens of full width.
    fn tokens(&self, count: usize) -> u64 {
        rows(count, self.config.dim)
    }

    fn is_vace(&self) -> bool {
        self.config.vace.is_some()
    }

    /// One prepared condition.
    fn condition(&self) -> u64 {
        context_bytes(self.config, self.text + self.image).min(KEPT_CONTEXT_BYTES) + self.given()
    }

    /// What of it is not kept from block to block.
    fn given(&self) -> u64 {
        let c = self.config;
        let image_latents = rows(self.pixels, c.in_dim.saturating_sub(c.out_dim));
        let [_, h, w] = self.shape.latent;
        let pose = c.in_dim_c.map_or(0, |channels| rows(self.pixels, channels) + rows(h * w, c.in_dim + channels));
        let side = if self.is_vace() { self.own } else { 0 };
        self.tokens(self.text + self.image + side) + image_latents + pose
    }

    /// Preparing one, beside its result: text, image, or the pose modules.
    fn prepare(&self) -> u64 {
        let c = self.config;
        let text = rows(self.text, c.text_dim)
            + self.tokens(c.text_len + 2 * self.text)
            + workspace_bytes(self.text, [c.dim; 2], Compute::F32);
        let image = rows(self.image, 3 * c.clip_dim) + self.tokens(3 * self.image);
        let pose = rows(self.pixels, 8 * c.in_dim_c.unwrap_or(0));
        let side = if self.is_vace() { rows(self.pixels, c.vace.as_ref().map_or(0, |v| v.vace_in_dim)) } else { 0 };
        text.max(image).max(pose).max(side)
    }

    /// From latents to the tokens of the last branch, beside those of the others.
    fn embedding(&self) -> u64 {
        let c = self.config;
        let others = self.shape.branches.saturating_sub(1) as u64 * self.tokens(self.all);
        let Some(channels) = c.in_dim_c else {
            // Latents with what conditions them, and patches of these; then the tokens.
            let stacked = if c.in_dim > c.out_dim { rows(self.pixels, c.in_dim) } else { 0 };
            return others + rows(self.pixels, c.in_dim) + stacked.max(self.tokens(self.own));
        };
        let aligned = rows(self.pixels, channels);
        let fused = rows(self.pixels, c.in_dim + 2 * channels);
        let align = Align::peak_bytes(channels, self.shape.latent);
        let patches = aligned + fused + fused.max(self.tokens(self.own));
        let appended = self.tokens(2 * self.all);
        others + align.max(patches).max(appended)
    }

    /// A pass of one branch through a block, beside the tokens of all branches.
    fn blocks(&self) -> u64 {
        let c = self.config;
        // With VACE a branch holds its first tokens, its side stream and a hint as well.
        let streams = (if self.is_vace() { 4 } else { 1 }) * self.shape.branches as u64 * self.tokens(self.all);
        let angles = rows(self.all, c.head_dim());
        let modulation = rows(24, c.dim);
        streams + angles + modulation + self.block()
    }

    fn block(&self) -> u64 {
        let (c, all) = (self.config, self.all);
        let minimal = matches!(self.shape.chunking, Chunking::Minimal { .. });
        let run = largest_piece(all, self.shape.chunking.attention_tokens(all));
        let ffn_run = largest_piece(all, self.shape.chunking.ffn_tokens(all));
        let compute = self.shape.compute;
        let square = workspace_bytes(run, [c.dim; 2], compute);
        let x = self.tokens(run);

        // Keys and values of all tokens: the modulated input, keys, values.
        let gathered = if run < all { 2 * self.tokens(all) } else { 0 };
        let keys_values = gathered + 3 * x + square;

        let kv = 2 * self.tokens(all);
        let attend = (2 * x + square).max(x + self.attention(run, all));
        let context_tokens = self.text.max(self.image);
        let context = 2 * self.tokens(self.text + self.image);
        let make_context = self.tokens(context_tokens) + workspace_bytes(context_tokens, [c.dim; 2], compute);
        let text = x + self.attention(run, self.text);
        let image = if self.image > 0 { 2 * x + self.attention(run, self.image) } else { 0 };
        let cross = (2 * x + square).max(text).max(image);
        let y = self.tokens(ffn_run);
        let hidden = rows(ffn_run, c.ffn_dim);
        let into = y + hidden + workspace_bytes(ffn_run, [c.ffn_dim, c.dim], compute);
        let ffn = into.max(hidden + y + workspace_bytes(ffn_run, [c.dim, c.ffn_dim], compute));

        if minimal {
            let out = if run < all { self.tokens(all) } else { 0 };
            let held = kv + context;
            let by_run = out + attend.max(x + cross).max(x + ffn);
            return keys_values.max(held + by_run.max(make_context));
        }
        let out = if ffn_run < all { self.tokens(all) } else { 0 };
        keys_values.max(kv + attend).max(context + make_context.max(cross)).max(out + ffn)
    }

    /// One condition as on the host, but for keys and values, which are bf16.
    fn condition_on_gpu(&self) -> u64 {
        let kept = context_bytes(self.config, self.text + self.image);
        self.given() + if kept <= KEPT_CONTEXT_BYTES { kept / 2 } else { 0 }
    }

    /// Latents of the step, and the velocity of each branch of it, with their sum.
    fn latents_on_gpu(&self) -> u64 {
        (self.shape.conditions as u64 + 2) * rows(self.pixels, self.config.out_dim)
    }

    /// Residual streams of so many branches.
    fn streams_on_gpu(&self, branches: usize) -> u64 {
        (if self.is_vace() { 4 } else { 1 }) * branches as u64 * self.tokens(self.all)
    }

    /// As [`embedding`](Self::embedding): pixels and patches in bf16.
    fn embedding_on_gpu(&self) -> u64 {
        let c = self.config;
        let others = self.streams_on_gpu(self.shape.branches.saturating_sub(1));
        let channels = c.in_dim_c.unwrap_or(0);
        let patches = rows(self.pixels, c.in_dim + 2 * channels) / 2 + self.tokens(self.own);
        let aligned = rows(self.pixels, channels);
        let align = if channels > 0 { Align::gpu_peak_bytes(channels, self.pixels) } else { 0 };
        others + align.max(aligned + patches).max(self.tokens(2 * self.all))
    }

    /// As [`head`](Self::head), of all streams.
    fn head_on_gpu(&self) -> u64 {
        let projected = rows(self.own, PATCH * PATCH * self.config.out_dim);
        self.streams_on_gpu(self.shape.branches) + self.tokens(self.own) / 2 + projected
    }

    /// As [`blocks`](Self::blocks): residual streams in f32, all else in bf16, and beside it in the 8 bits of a matrix.
    fn blocks_on_gpu(&self) -> u64 {
        let (c, all) = (self.config, self.all);
        let streams = self.streams_on_gpu(self.shape.branches);
        let angles = rows(all, c.head_dim());
        let modulation = rows(24, c.dim);

        let minimal = matches!(self.shape.chunking, Chunking::Minimal { .. });
        let run = largest_piece(all, self.shape.chunking.attention_tokens(all));
        let ffn_run = largest_piece(all, self.shape.chunking.ffn_tokens(all));
        let (residual, half) = (self.tokens(run), self.tokens(run) / 2);
        // What a matrix is multiplied with: bf16, or that and 8 bits.
        let input = |bf16: u64| bf16 + bf16 / 2;
        // Queries in 8 bits.
        let heads = c.num_heads;
        let eight_bits = self.shape.attention == Attention::Int8;
        let queries = if eight_bits { attention_int8_bytes(heads, run) } else { 0 };
        // Input and queries; queries and what they attend to, of text and of image; or what becomes of it.
        let attention = (input(half) + half).max(3 * half + queries).max(input(half) + residual);
        let (ffn, hidden) = (self.tokens(ffn_run), rows(ffn_run, c.ffn_dim) / 2);
        let feed_forward = (input(ffn / 2) + hidden).max(input(hidden) + ffn);

        // Keys and values of all tokens, and in 8 bits, for which they are let go of.
        let both = self.tokens(all);
        let keys_values = (if run < all { both } else { 0 }) + input(half) + 2 * half;
        let (kv, keys_values) = match eight_bits {
            true => {
                let held = Int8Keys::bytes(heads, all);
                (held, keys_values.max(both + held + Int8Keys::making_bytes(heads, all)))
            }
            false => (both, keys_values),
        };
        let context = self.tokens(self.text + self.image) + 2 * self.tokens(self.text.max(self.image));
        let block = if minimal {
            let out = if run < all { self.tokens(all) } else { 0 };
            kv + context + out + residual + attention.max(feed_forward)
        } else {
            let out = if ffn_run < all { self.tokens(all) } else { 0 };
            (kv + attention).max(context + attention).max(out + feed_forward)
        };
        // Everything begins at a multiple of some bytes.
        const PADDING: u64 = 64 << 10;
        streams + angles + modulation + PADDING + block.max(keys_values)
    }

    /// Attention of `run` tokens to `keys`, with its result.
    fn attention(&self, run: usize, keys: usize) -> u64 {
        let c = self.config;
        let compute = self.shape.compute;
        AttentionShape { heads: c.num_heads, queries: run, keys, width: c.head_dim(), compute }.peak_bytes()
    }

    /// The last norm and projection of the first branch.
    fn head(&self) -> u64 {
        let c = self.config;
        let streams = self.shape.branches as u64 * self.tokens(self.all);
        streams + self.tokens(self.own) + rows(self.own, 2 * PATCH * PATCH * c.out_dim)
    }
}
