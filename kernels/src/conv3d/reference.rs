//! The definitions in candle's operations, on any device.

use candle_core::{Result, Tensor};

use super::{Geometry, Input, Spatial};

/// See [`conv3d`](super::conv3d()): for every kernel frame a 2-D convolution of the frames it falls on, summed.
/// `weight` `[O, I, kT, kH, kW]`, `bias` `[O]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn conv3d(weight: &Tensor, bias: &Tensor, geometry: Geometry, input: Input) -> Result<Tensor> {
    let (batch, channels, _, height, width) = input.x.dims5()?;
    let (out_channels, _, kernel_frames, kernel_height, _) = weight.dims5()?;
    let zeros = geometry.frames_before - input.history.len();
    let mut parts = Vec::new();
    if zeros > 0 {
        parts.push(Tensor::zeros((batch, channels, zeros, height, width), input.x.dtype(), input.x.device())?);
    }
    parts.extend(input.history.iter().cloned());
    parts.push(input.x.clone());
    let frames = Tensor::cat(&parts, 2)?;
    let out_frames = (frames.dim(2)? - kernel_frames) / geometry.temporal_stride + 1;

    let mut sum: Option<Tensor> = None;
    for k in 0..kernel_frames {
        let seen: Vec<u32> = (0..out_frames).map(|j| (j * geometry.temporal_stride + k) as u32).collect();
        let seen = frames.index_select(&Tensor::new(seen, frames.device())?, 2)?;
        // [B, C, T, H, W] → [B·T, C, H, W]
        let seen = seen.transpose(1, 2)?.contiguous()?.flatten(0, 1)?;
        let kernel = weight.narrow(2, k, 1)?.squeeze(2)?.contiguous()?;
        let term = match geometry.spatial {
            Spatial::Same => seen.conv2d(&kernel, kernel_height / 2, 1, 1, 1)?,
            Spatial::Halve => seen.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?.conv2d(&kernel, 0, 2, 1, 1)?,
            Spatial::Double => {
                seen.upsample_nearest2d(2 * height, 2 * width)?.conv2d(&kernel, kernel_height / 2, 1, 1, 1)?
            }
        };
        sum = Some(match sum {
            Some(sum) => (sum + term)?,
            None => term,
        });
    }
    let Some(sum) = sum else {
        candle_core::bail!("conv3d: a kernel of no frames");
    };
    let (_, _, out_height, out_width) = sum.dims4()?;
    let sum = sum.broadcast_add(&bias.reshape((1, out_channels, 1, 1))?)?;
    let sum = sum.reshape((batch, out_frames, out_channels, out_height, out_width))?.transpose(1, 2)?.contiguous()?;
    match input.residual {
        Some(residual) => sum + residual,
        None => Ok(sum),
    }
}

/// See [`channel_rms_norm`](super::channel_rms_norm).
///
/// # Errors
/// Shapes that do not fit.
pub fn channel_rms_norm(x: &Tensor, gamma: &Tensor, silu: bool) -> Result<Tensor> {
    let channels = x.dim(1)?;
    let norm = x.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
    let mut shape = vec![1; x.rank()];
    shape[1] = channels;
    let gain = (gamma.reshape(shape)? * (channels as f64).sqrt())?;
    let y = x.broadcast_div(&norm)?.broadcast_mul(&gain)?;
    if silu { y.silu() } else { Ok(y) }
}
