//! What passes are computed with: one spelling of a block, and of what stands before and after all of them, serves the host and a GPU.
//!
//! Each has its own tensors, weights and tables. On the host a block's numbers are f32; on a GPU the residual stream is f32 and what
//! lies between kernels is bf16, or the 8 bits that the next matrix is multiplied with.

mod gpu;
mod host;

use std::ops::Range;

use candle_core::{Result, Tensor};
use kernels::Compute;
use kernels::linear::Matrix;
use weights::Weights;

use crate::Conditioning;
use crate::block::Context;
use crate::conditioning::Prepared;

pub(crate) use gpu::OnGpu;
pub(crate) use host::Host;

/// Rows of a modulation: one is scale, one shift, one gate of a part of a block.
pub(crate) struct Rows<'a, B: Backend + ?Sized> {
    /// `[1, 6, D]`.
    pub all: &'a B::Modulation,
    pub first: usize,
}

/// See the module. Whoever gives a tensor away gives its memory: results may be in it.
pub(crate) trait Backend {
    /// Whether what is computed can be fetched without waiting for it.
    const AT_ONCE: bool;

    /// `[1, L, D]`: a residual stream, or what is computed of it; `[1, L, H, D/H]` in heads. Clones are the same numbers.
    type Activations: Clone;
    /// What matrices are multiplied with.
    type Input;
    type Linear;
    type RmsNorm;
    type LayerNorm;
    /// `[1, 6, D]`.
    type Modulation;
    /// Angles of all tokens.
    type Rope;
    /// Keys and values of some tokens, as queries attend to them.
    type Keys;
    /// A point in what has been given to compute.
    type Mark;
    /// `[C, F, h, w]` f32. Clones are the same numbers.
    type Latents: Clone;

    /// `weight` `[outputs, inputs]` and `bias`.
    fn linear(&self, shape: [usize; 2], w: &Weights) -> Result<Self::Linear>;
    fn rms_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<Self::RmsNorm>;
    /// With gain and bias.
    fn layer_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<Self::LayerNorm>;
    fn modulation(&self, dim: usize, w: &Weights) -> Result<Self::Modulation>;

    /// Of what the host has, held for as long as this is: `weight` `[outputs, inputs]`, `bias` `[outputs]`.
    fn linear_of(&self, weight: Matrix, bias: Tensor) -> Result<Self::Linear>;
    /// The same of a gain and bias, `[D]` each.
    fn layer_norm_of(&self, gain: Tensor, bias: Tensor, eps: f64) -> Result<Self::LayerNorm>;

    /// A tensor of the host, `[1, L, D]`.
    fn fetch(&self, x: &Self::Activations) -> Result<Tensor>;
    /// Brings latents of the host.
    fn bring_latents(&self, latents: &Tensor) -> Result<Self::Latents>;
    /// The other way.
    fn fetch_latents(&self, latents: &Self::Latents) -> Result<Tensor>;
    /// `[C, F, h, w]`.
    fn shape_of(&self, latents: &Self::Latents) -> Result<[usize; 4]>;
    /// Rows of a timestep, `[1, n, D]`.
    fn modulation_of(&self, rows: &Tensor) -> Result<Self::Modulation>;
    /// Of tokens in (t, y, x) order.
    fn rope(&self, head_dim: usize, grid: (usize, usize, usize)) -> Result<Self::Rope>;
    /// Brings context tokens.
    fn context(&self, context: Context<Host>) -> Result<Context<Self>>;
    /// A condition that was prepared for this.
    fn prepared<'a>(&self, condition: &'a Conditioning) -> Result<&'a Prepared<Self>>;

    /// Everything up to here.
    fn mark(&self) -> Result<Self::Mark>;
    /// Waits until it is computed.
    fn wait(&self, mark: &Self::Mark) -> Result<()>;

    /// How many tokens there are.
    fn tokens(&self, x: &Self::Activations) -> Result<usize>;
    /// Some of the tokens, without a copy.
    fn run(&self, x: &Self::Activations, run: Range<usize>) -> Result<Self::Activations>;
    fn rope_run(&self, rope: &Self::Rope, run: Range<usize>) -> Result<Self::Rope>;
    /// Room for `total` tokens like those of `piece`.
    fn room(&self, piece: &Self::Activations, total: usize) -> Result<Self::Activations>;
    /// Copies the tokens of `piece` over those of `all` from `first` on.
    fn put(&self, piece: &Self::Activations, all: &Self::Activations, first: usize) -> Result<()>;

    /// Patches of 1 x 2 x 2 of latents whose channels lie behind each other: `[1, F·(h/2)·(w/2), 4·ΣC]`, columns (channel, y, x).
    fn patches(&self, parts: &[&Self::Latents]) -> Result<Self::Input>;
    /// The way back, of columns (y, x, channel), to latents of this shape.
    fn unpatched(&self, tokens: Self::Activations, shape: [usize; 4]) -> Result<Self::Latents>;
    /// Pixels with their channels as rows, in the order that [`attention_over_frames`](Self::attention_over_frames) takes.
    fn pixels(&self, latents: &Self::Latents) -> Result<Self::Input>;
    /// The way back, to latents of this shape.
    fn to_latents(&self, pixels: Self::Activations, shape: [usize; 4]) -> Result<Self::Latents>;

    /// What a block adds to a timestep's rows.
    fn modulate(&self, block: &Self::Modulation, time: &Self::Modulation) -> Result<Self::Modulation>;
    /// `LN(x)·(1 + scale) + shift`, LN without parameters; of the rows the first is the shift, the next the scale.
    fn norm_modulated(&self, x: &Self::Activations, rows: Rows<Self>, eps: f64) -> Result<Self::Input>;
    fn normalised(&self, x: &Self::Activations, norm: &Self::LayerNorm) -> Result<Self::Input>;
    /// `x` as it is.
    fn input(&self, x: Self::Activations) -> Result<Self::Input>;
    /// LayerNorm of `x`, for more than a matrix.
    fn norm(&self, x: Self::Activations, norm: &Self::LayerNorm) -> Result<Self::Activations>;

    fn product(&self, x: &Self::Input, linear: &Self::Linear) -> Result<Self::Activations>;
    /// The product in the numbers of a residual stream.
    fn product_stream(&self, x: &Self::Input, linear: &Self::Linear) -> Result<Self::Activations>;
    /// SiLU of the product.
    fn product_silu(&self, x: &Self::Input, linear: &Self::Linear) -> Result<Self::Activations>;
    /// GELU, with the approximation by tanh, of the product.
    fn product_gelu(&self, x: &Self::Input, linear: &Self::Linear) -> Result<Self::Activations>;
    /// `residual + gate·product`, `gate` the first row.
    fn product_gated(
        &self,
        x: &Self::Input,
        linear: &Self::Linear,
        residual: &Self::Activations,
        gate: Rows<Self>,
    ) -> Result<Self::Activations>;
    /// `residual + product`.
    fn product_added(
        &self,
        x: &Self::Input,
        linear: &Self::Linear,
        residual: &Self::Activations,
    ) -> Result<Self::Activations>;

    /// The same numbers in heads.
    fn in_heads(&self, x: Self::Activations, heads: usize) -> Result<Self::Activations>;
    /// RMSNorm over all channels, in heads.
    fn norm_in_heads(&self, x: Self::Activations, norm: &Self::RmsNorm, heads: usize) -> Result<Self::Activations>;
    /// The same, and then positions.
    fn norm_rope_in_heads(
        &self,
        x: Self::Activations,
        norm: &Self::RmsNorm,
        rope: &Self::Rope,
        heads: usize,
    ) -> Result<Self::Activations>;
    /// Keys and values `[1, L, H, D/H]` for the attention of all tokens to each other.
    fn own_keys(&self, kv: [Self::Activations; 2]) -> Result<Self::Keys>;
    /// The same for the attention to context tokens.
    fn context_keys(&self, kv: [Self::Activations; 2]) -> Result<Self::Keys>;
    /// Queries in heads attend to keys and values → `[1, L, D]`. `counts` `[n]` is added to each query's scores.
    fn attention(
        &self,
        queries: &Self::Activations,
        keys: &Self::Keys,
        counts: Option<&Self::Activations>,
        compute: Compute,
    ) -> Result<Self::Activations>;

    /// Pixels that attend to the same pixel of all frames, in `heads` heads.
    fn attention_over_frames(&self, qkv: [Self::Activations; 3], heads: usize) -> Result<Self::Activations>;

    fn add(&self, x: &Self::Activations, y: Self::Activations) -> Result<Self::Activations>;
    /// `x + scale·y`.
    fn add_scaled(&self, x: Self::Activations, y: Self::Activations, scale: f64) -> Result<Self::Activations>;
}
