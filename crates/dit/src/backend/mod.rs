//! What blocks are computed with: one spelling of a block serves the host and a GPU.
//!
//! Each has its own tensors, weights and tables. On the host a block's numbers are f32; on a GPU the residual stream is f32 and what
//! lies between kernels is bf16, or the 8 bits that the next matrix is multiplied with.

mod gpu;
mod host;

use std::ops::Range;

use candle_core::{Result, Tensor};
use kernels::Compute;
use weights::Weights;

use crate::Conditioning;
use crate::block::{Context, KeysValues};

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

    /// `weight` `[outputs, inputs]` and `bias`.
    fn linear(&self, shape: [usize; 2], w: &Weights) -> Result<Self::Linear>;
    fn rms_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<Self::RmsNorm>;
    /// With gain and bias.
    fn layer_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<Self::LayerNorm>;
    fn modulation(&self, dim: usize, w: &Weights) -> Result<Self::Modulation>;

    /// A tensor of the host, `[1, L, D]`.
    fn bring(&self, x: Tensor) -> Result<Self::Activations>;
    /// The other way.
    fn fetch(&self, x: &Self::Activations) -> Result<Tensor>;
    /// `[1, 6, D]` of a timestep.
    fn time(&self, rows: &Tensor) -> Result<Self::Modulation>;
    /// Of tokens in (t, y, x) order.
    fn rope(&self, head_dim: usize, grid: (usize, usize, usize)) -> Result<Self::Rope>;
    /// Context tokens of a condition: brought once.
    fn context<'a>(&self, condition: &'a Conditioning) -> Result<&'a Context<Self>>;

    /// How many tokens there are.
    fn tokens(&self, x: &Self::Activations) -> Result<usize>;
    /// Some of the tokens, without a copy.
    fn run(&self, x: &Self::Activations, run: Range<usize>) -> Result<Self::Activations>;
    fn rope_run(&self, rope: &Self::Rope, run: Range<usize>) -> Result<Self::Rope>;
    /// Room for `total` tokens like those of `piece`.
    fn room(&self, piece: &Self::Activations, total: usize) -> Result<Self::Activations>;
    /// Copies the tokens of `piece` over those of `all` from `first` on.
    fn put(&self, piece: &Self::Activations, all: &Self::Activations, first: usize) -> Result<()>;

    /// What a block adds to a timestep's rows.
    fn modulate(&self, block: &Self::Modulation, time: &Self::Modulation) -> Result<Self::Modulation>;
    /// `LN(x)·(1 + scale) + shift`, LN without parameters; of the rows the first is the shift, the next the scale.
    fn norm_modulated(&self, x: &Self::Activations, rows: Rows<Self>, eps: f64) -> Result<Self::Input>;
    fn normalised(&self, x: &Self::Activations, norm: &Self::LayerNorm) -> Result<Self::Input>;
    /// `x` as it is.
    fn input(&self, x: Self::Activations) -> Result<Self::Input>;

    fn product(&self, x: &Self::Input, linear: &Self::Linear) -> Result<Self::Activations>;
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
    /// Queries in heads attend to keys and values → `[1, L, D]`. `counts` `[n]` is added to each query's scores.
    fn attention(
        &self,
        queries: &Self::Activations,
        keys_values: &KeysValues<Self>,
        counts: Option<&Self::Activations>,
        compute: Compute,
    ) -> Result<Self::Activations>;

    fn add(&self, x: &Self::Activations, y: Self::Activations) -> Result<Self::Activations>;
    /// `x + scale·y`.
    fn add_scaled(&self, x: Self::Activations, y: Self::Activations, scale: f64) -> Result<Self::Activations>;
}
