//! Convolutions of pictures whose channels lie last, `[B, H, W, C]`, with bias, activation and residual in the same
//! pass; depthwise convolutions and maximum pooling in the same layout.
//!
//! Channels last makes a 1×1 convolution a plain matrix product, lets every other kernel run along channels, and makes
//! concatenation of channels free: an [`Input`] is a list of parts that lie side by side.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{DType, Result, Tensor};

/// What follows the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `x/(1 + e⁻ˣ)`.
    Silu,
}

/// Weights `[O, I, k, k]` and a bias `[O]`, in f32; zero padding of `k/2` on all sides (k odd).
#[derive(Debug, Clone)]
pub struct Filter {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
    activation: Activation,
}

impl Filter {
    /// From `weight` `[O, I, k, k]` and `bias` `[O]`, both f32, with k odd and a stride of 1 or 2: the sides of the
    /// output are those of the input divided by the stride, rounded up.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn new(weight: &Tensor, bias: &Tensor, stride: usize, activation: Activation) -> Result<Self> {
        let (out_channels, _, height, width) = weight.dims4()?;
        if bias.dims() != [out_channels] || height != width || height % 2 == 0 || !(1..=2).contains(&stride) {
            let (weight, bias) = (weight.dims(), bias.dims());
            candle_core::bail!("conv2d: weight {weight:?}, bias {bias:?} and stride {stride} do not fit");
        }
        if weight.dtype() != DType::F32 || bias.dtype() != DType::F32 {
            candle_core::bail!("conv2d: weights are {:?} and {:?}; expected F32", weight.dtype(), bias.dtype());
        }
        Ok(Self { weight: weight.clone(), bias: bias.clone(), stride, activation })
    }

    /// `[O, I, k, k]`.
    pub fn dims(&self) -> &[usize] {
        self.weight.dims()
    }
}

/// Channels of an input.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    /// `[B, H, W, C]` f32; half of H and W if `doubled`.
    pub x: &'a Tensor,
    /// Every pixel is repeated 2×2 (nearest-neighbour upsampling).
    pub doubled: bool,
    /// `[B, C]` f32: factors of the channels, the same for all pixels.
    pub gate: Option<&'a Tensor>,
}

impl<'a> Part<'a> {
    /// The picture as it is.
    pub fn plain(x: &'a Tensor) -> Self {
        Self { x, doubled: false, gate: None }
    }
}

/// The tensors of one convolution.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Parts whose channels, one after the other, are the input's.
    pub parts: &'a [Part<'a>],
    /// `[B, H', W', O]` f32, added after the activation.
    pub residual: Option<&'a Tensor>,
}

/// `activation(x ∗ weight + bias) + residual` → `[B, ⌈H/stride⌉, ⌈W/stride⌉, O]` f32.
///
/// # Errors
/// Shapes that do not fit.
pub fn conv2d(filter: &Filter, input: Input) -> Result<Tensor> {
    reference::conv2d(filter, input)
}

/// Every channel alone: `weight` `[C, 1, k, k]`, `bias` `[C]`, stride 1, zero padding of `k/2`; then the activation.
/// `x` `[B, H, W, C]` f32 → the same shape.
///
/// # Errors
/// Shapes that do not fit.
pub fn depthwise(weight: &Tensor, bias: &Tensor, x: &Tensor, activation: Activation) -> Result<Tensor> {
    reference::depthwise(weight, bias, x, activation)
}

/// Largest value of each channel under a window of `size`×`size` (odd) at stride 1, which ends at the picture's edge.
/// `x` `[B, H, W, C]` f32 → the same shape.
///
/// # Errors
/// `x` has not four dimensions, or `size` is even.
pub fn max_pool(x: &Tensor, size: usize) -> Result<Tensor> {
    reference::max_pool(x, size)
}
