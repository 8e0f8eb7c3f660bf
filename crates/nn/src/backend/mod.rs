//! What encoders' layers are computed with: one spelling of a layer serves the host and a GPU.
//!
//! On the host all numbers are f32. On a GPU the residual stream is f32 and what lies between kernels is bf16; matrices are
//! multiplied with bf16 numbers whatever they are stored in, because activations of encoders have outliers that 8 bits do not hold.

mod gpu;
mod host;

use candle_core::{Result, Tensor};
use kernels::Compute;
use weights::Weights;

pub use gpu::{GpuInput, GpuLinear, GpuNorm, OnGpu};
pub use host::Host;

/// Gaussian error linear units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// With the approximation by tanh.
    Tanh,
    /// By the error function.
    Erf,
    /// `x·sigmoid(1.702·x)`.
    Quick,
}

/// Attention of tokens to each other.
#[derive(Debug, Clone, Copy)]
pub struct SelfAttention<'a, O> {
    /// Heads that channels are cut into.
    pub heads: usize,
    /// Scores are multiplied with it.
    pub scale: f64,
    /// What is added to them by head and distance.
    pub offsets: Option<&'a O>,
    /// Numbers that the host multiplies in.
    pub compute: Compute,
}

/// See the module. Whoever gives a tensor away gives its memory: results may be in it.
pub trait Backend {
    /// `[B, N, C]`: a residual stream, or what is computed of it.
    type Activations;
    /// What matrices are multiplied with.
    type Input;
    /// A matrix, which may have a bias.
    type Linear;
    /// A root-mean-square norm with a gain.
    type RmsNorm;
    /// A layer norm with gain and bias.
    type LayerNorm;
    /// `[R, H]`: numbers of heads.
    type Table;
    /// Rows of a table.
    type Rows;
    /// Numbers of heads and distances, see [`offsets`](Self::offsets).
    type Offsets;

    /// `weight` `[outputs, inputs]`, and `bias` if `biased`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    fn linear(&self, shape: [usize; 2], biased: bool, w: &Weights) -> Result<Self::Linear>;
    /// `weight` `[dim]`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    fn rms_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<Self::RmsNorm>;
    /// `weight` and `bias` `[dim]`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    fn layer_norm(&self, dim: usize, eps: f64, w: &Weights) -> Result<Self::LayerNorm>;
    /// The tensor `name` `[rows, heads]`.
    ///
    /// # Errors
    /// As [`linear`](Self::linear).
    fn table(&self, shape: [usize; 2], name: &str, w: &Weights) -> Result<Self::Table>;

    /// A tensor of the host, `[B, N, C]` f32.
    ///
    /// # Errors
    /// There is no room.
    fn bring(&self, x: Tensor) -> Result<Self::Activations>;
    /// The other way, f32. What is computed may be waited for here only.
    ///
    /// # Errors
    /// What was to be computed failed.
    fn fetch(&self, x: &Self::Activations) -> Result<Tensor>;
    /// Numbers of rows.
    ///
    /// # Errors
    /// There is no room.
    fn rows(&self, numbers: &[u32]) -> Result<Self::Rows>;
    /// What [`SelfAttention`] adds: with N tokens and `2·N − 1` rows, key `j` and query `i` get row `rows[j − i + N − 1]`.
    ///
    /// # Errors
    /// The table has no such row, or there is no room.
    fn offsets(&self, table: &Self::Table, rows: &Self::Rows) -> Result<Self::Offsets>;

    /// The normalised.
    ///
    /// # Errors
    /// Shapes that do not fit, or there is no room; so it is for all that follow.
    fn rms_normed(&self, x: &Self::Activations, norm: &Self::RmsNorm) -> Result<Self::Input>;
    /// The normalised.
    ///
    /// # Errors
    /// As [`rms_normed`](Self::rms_normed).
    fn layer_normed(&self, x: &Self::Activations, norm: &Self::LayerNorm) -> Result<Self::Input>;
    /// `x` as it is.
    ///
    /// # Errors
    /// As [`rms_normed`](Self::rms_normed).
    fn input(&self, x: Self::Activations) -> Result<Self::Input>;

    /// `x·Wᵀ + b`.
    ///
    /// # Errors
    /// As [`rms_normed`](Self::rms_normed).
    fn product(&self, x: &Self::Input, linear: &Self::Linear) -> Result<Self::Activations>;
    /// `residual + x·Wᵀ + b`.
    ///
    /// # Errors
    /// As [`rms_normed`](Self::rms_normed).
    fn product_added(
        &self,
        x: Self::Input,
        linear: &Self::Linear,
        residual: &Self::Activations,
    ) -> Result<Self::Activations>;
    /// `gelu(x·Gᵀ)·(x·Wᵀ)` of two matrices, G first.
    ///
    /// # Errors
    /// As [`rms_normed`](Self::rms_normed).
    fn gated_product(&self, x: Self::Input, matrices: [&Self::Linear; 2], gelu: Gelu) -> Result<Self::Activations>;
    /// `gelu(x)`.
    ///
    /// # Errors
    /// As [`rms_normed`](Self::rms_normed).
    fn gelu(&self, x: Self::Activations, gelu: Gelu) -> Result<Self::Activations>;

    /// Queries, keys and values → `[B, N, C]`.
    ///
    /// # Errors
    /// As [`rms_normed`](Self::rms_normed).
    fn attention(
        &self,
        parts: [Self::Activations; 3],
        attention: SelfAttention<Self::Offsets>,
    ) -> Result<Self::Activations>;
    /// The same of queries, keys and values that lie behind each other, `[B, N, 3·C]`.
    ///
    /// # Errors
    /// As [`rms_normed`](Self::rms_normed).
    fn attention_of_thirds(
        &self,
        all: Self::Activations,
        attention: SelfAttention<Self::Offsets>,
    ) -> Result<Self::Activations>;
}
