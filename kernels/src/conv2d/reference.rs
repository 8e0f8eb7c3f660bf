//! The definitions in candle's operations, on any device.

use candle_core::{Result, Tensor};

use super::{Activation, Input};

/// See [`conv2d`](super::conv2d()); `weight`, `bias`, `stride` and `activation` are the filter's.
///
/// # Errors
/// Shapes that do not fit.
pub fn conv2d(weight: &Tensor, bias: &Tensor, stride: usize, activation: Activation, input: Input) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(input.parts.len());
    for part in input.parts {
        let (batch, height, width, channels) = part.x.dims4()?;
        let mut x = to_channels_first(part.x)?;
        if part.doubled {
            x = x.upsample_nearest2d(2 * height, 2 * width)?;
        }
        if let Some(gate) = part.gate {
            x = x.broadcast_mul(&gate.reshape((batch, channels, 1, 1))?)?;
        }
        parts.push(x);
    }
    let x = Tensor::cat(&parts, 1)?;
    let sum = x.conv2d(weight, weight.dim(2)? / 2, stride, 1, 1)?;
    let y = finish(&sum, bias, activation)?;
    match input.residual {
        Some(residual) => y + residual,
        None => Ok(y),
    }
}

/// See [`depthwise`](super::depthwise()).
///
/// # Errors
/// Shapes that do not fit.
pub fn depthwise(weight: &Tensor, bias: &Tensor, x: &Tensor, activation: Activation) -> Result<Tensor> {
    let (channels, _, size, _) = weight.dims4()?;
    let sum = to_channels_first(x)?.conv2d(weight, size / 2, 1, 1, channels)?;
    finish(&sum, bias, activation)
}

/// See [`max_pool`](super::max_pool()).
///
/// # Errors
/// `x` has not four dimensions, or `size` is even.
pub fn max_pool(x: &Tensor, size: usize) -> Result<Tensor> {
    let (_, height, width, _) = x.dims4()?;
    if size.is_multiple_of(2) {
        candle_core::bail!("max_pool: size {size}; expected an odd number");
    }
    // Repeating the edge adds no value that the window would not see anyway.
    let padded = x.pad_with_same(1, size / 2, size / 2)?.pad_with_same(2, size / 2, size / 2)?;
    let mut largest: Option<Tensor> = None;
    for y in 0..size {
        for x in 0..size {
            let seen = padded.narrow(1, y, height)?.narrow(2, x, width)?;
            largest = Some(match largest {
                Some(largest) => largest.maximum(&seen)?,
                None => seen,
            });
        }
    }
    largest.map_or_else(|| Ok(padded.clone()), |t| t.contiguous())
}

fn to_channels_first(x: &Tensor) -> Result<Tensor> {
    x.permute((0, 3, 1, 2))?.contiguous()
}

/// Bias and activation; `[B, O, H, W]` → `[B, H, W, O]`.
fn finish(sum: &Tensor, bias: &Tensor, activation: Activation) -> Result<Tensor> {
    let sum = sum.permute((0, 2, 3, 1))?.contiguous()?.broadcast_add(bias)?;
    match activation {
        Activation::Identity => Ok(sum),
        Activation::Silu => sum.silu(),
    }
}
