//! Convolutions of pictures whose channels lie last, `[B, H, W, C]`, with bias, activation and residual in the same
//! pass; depthwise convolutions and maximum pooling in the same layout.
//!
//! Channels last makes a 1×1 convolution a plain matrix product, lets every other kernel run along channels, and makes
//! concatenation of channels free: an [`Input`] is a list of parts that lie side by side.

mod depthwise;
mod direct;
mod host;
mod plan;
mod pool;
pub mod reference;
#[cfg(test)]
mod tests;
mod winograd;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

use crate::level::Level;
use host::{Algorithm, Packed};
use plan::Plan;

/// What follows the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// Nothing.
    Identity,
    /// `x/(1 + e⁻ˣ)`.
    Silu,
}

/// Weights `[O, I, k, k]` and a bias `[O]`, in f32; zero padding of `k/2` on all sides (k odd). On the host they are
/// brought into the kernel's order once, and clones share them.
///
/// A 3×3 filter with stride 1 is then four times as large, because its convolutions are done by Winograd's method.
#[derive(Debug, Clone)]
pub struct Filter {
    dims: [usize; 4],
    stride: usize,
    activation: Activation,
    weight: Weight,
}

#[derive(Debug, Clone)]
enum Weight {
    Host(Arc<Packed>),
    Device { weight: Tensor, bias: Tensor },
}

impl Filter {
    /// From `weight` `[O, I, k, k]` and `bias` `[O]`, both f32, with k odd and a stride of 1 or 2: the sides of the
    /// output are those of the input divided by the stride, rounded up.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn new(weight: &Tensor, bias: &Tensor, stride: usize, activation: Activation) -> Result<Self> {
        let (out_channels, in_channels, height, width) = weight.dims4()?;
        let dims = [out_channels, in_channels, height, width];
        let fits = height == width && height % 2 == 1 && !dims.contains(&0) && (1..=2).contains(&stride);
        if bias.dims() != [out_channels] || !fits {
            let (weight, bias) = (weight.dims(), bias.dims());
            candle_core::bail!("conv2d: weight {weight:?}, bias {bias:?} and stride {stride} do not fit");
        }
        if weight.dtype() != DType::F32 || bias.dtype() != DType::F32 {
            candle_core::bail!("conv2d: weights are {:?} and {:?}; expected F32", weight.dtype(), bias.dtype());
        }
        let weight = match weight.device() {
            Device::Cpu => {
                Weight::Host(Arc::new(Packed::new(weight, bias, Algorithm::of(dims, stride), Level::detect())?))
            }
            _ => Weight::Device { weight: weight.clone(), bias: bias.clone() },
        };
        Ok(Self { dims, stride, activation, weight })
    }

    /// `[O, I, k, k]`.
    pub fn dims(&self) -> [usize; 4] {
        self.dims
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
/// On the host each output is made by one thread in one order, so neither threads nor the batch show in it. Parts that
/// are a range of another tensor's channels are read where they are. Every thread keeps up to 0.5 MiB for it, for 3×3
/// filters with stride 1 up to 1.5 MiB or 4 KiB for each input channel, whichever is more.
///
/// # Errors
/// Shapes that do not fit.
pub fn conv2d(filter: &Filter, input: Input) -> Result<Tensor> {
    let plan = Plan::new(filter.dims, filter.stride, filter.activation, &input)?;
    match &filter.weight {
        Weight::Host(packed) => host::conv2d(packed, plan, &input),
        Weight::Device { weight, bias } => reference::conv2d(weight, bias, filter.stride, filter.activation, input),
    }
}

/// Weights `[C, 1, k, k]` and a bias `[C]`, in f32, of a convolution of every channel alone: stride 1, zero padding of
/// `k/2` (k odd). On the host they are brought into the kernel's order once, and clones share them.
#[derive(Debug, Clone)]
pub struct DepthwiseFilter {
    channels: usize,
    activation: Activation,
    weight: DepthwiseWeight,
}

#[derive(Debug, Clone)]
enum DepthwiseWeight {
    Host(Arc<depthwise::Packed>),
    Device { weight: Tensor, bias: Tensor },
}

impl DepthwiseFilter {
    /// From `weight` `[C, 1, k, k]` with k odd and `bias` `[C]`, both f32.
    ///
    /// # Errors
    /// Shapes or types that do not fit.
    pub fn new(weight: &Tensor, bias: &Tensor, activation: Activation) -> Result<Self> {
        let (channels, one, height, width) = weight.dims4()?;
        if bias.dims() != [channels] || channels == 0 || one != 1 || height != width || height % 2 == 0 {
            candle_core::bail!("depthwise: weight {:?} and bias {:?} do not fit", weight.dims(), bias.dims());
        }
        if weight.dtype() != DType::F32 || bias.dtype() != DType::F32 {
            candle_core::bail!("depthwise: weights are {:?} and {:?}; expected F32", weight.dtype(), bias.dtype());
        }
        let weight = match weight.device() {
            Device::Cpu => DepthwiseWeight::Host(Arc::new(depthwise::Packed::new(weight, bias, Level::detect())?)),
            _ => DepthwiseWeight::Device { weight: weight.clone(), bias: bias.clone() },
        };
        Ok(Self { channels, activation, weight })
    }
}

/// `activation(x ∗ weight + bias)` of every channel alone; `x` `[B, H, W, C]` f32 → the same shape.
///
/// # Errors
/// Shapes that do not fit.
pub fn depthwise(filter: &DepthwiseFilter, x: &Tensor) -> Result<Tensor> {
    let (.., channels) = x.dims4()?;
    if channels != filter.channels || x.dtype() != DType::F32 {
        let channels = filter.channels;
        candle_core::bail!("depthwise: input {:?} {:?}; expected {channels} channels of F32", x.dims(), x.dtype());
    }
    match &filter.weight {
        DepthwiseWeight::Host(packed) => depthwise::depthwise(packed, x, filter.activation),
        DepthwiseWeight::Device { weight, bias } => reference::depthwise(weight, bias, x, filter.activation),
    }
}

/// Largest value of each channel under a window of `size`×`size` (odd) at stride 1, which ends at the picture's edge.
/// `x` `[B, H, W, C]` f32 → the same shape. On the host a window that holds NaN gives NaN.
///
/// # Errors
/// `x` has not four dimensions, or `size` is even.
pub fn max_pool(x: &Tensor, size: usize) -> Result<Tensor> {
    x.dims4()?;
    if size.is_multiple_of(2) || x.dtype() != DType::F32 {
        candle_core::bail!("max_pool: size {size} over {:?}; expected an odd size over F32", x.dtype());
    }
    match x.device() {
        Device::Cpu => pool::max_pool(x, size, Level::detect()),
        _ => reference::max_pool(x, size),
    }
}
