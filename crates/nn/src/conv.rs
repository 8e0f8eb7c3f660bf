use candle_core::{Result, Shape, Tensor};
use kernels::conv3d::{Filter, Geometry, Input, Spatial, channel_rms_norm, conv3d};
use weights::Weights;

/// A convolution of each frame alone: 1×1 or 3×3, with the spatial forms of resampling.
#[derive(Debug, Clone)]
pub struct Conv2d {
    filter: Filter,
    geometry: Geometry,
}

impl Conv2d {
    /// `weight` `[out, in, size, size]` and `bias` `[out]` for `channels` (in, out).
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(channels: (usize, usize), size: usize, spatial: Spatial, weights: &Weights) -> Result<Self> {
        let (in_channels, out_channels) = channels;
        let weight = weights.tensor((out_channels, in_channels, size, size), "weight")?;
        let filter = Filter::new(&weight, &weights.tensor(out_channels, "bias")?)?;
        Ok(Self { filter, geometry: Geometry { spatial, ..Geometry::causal(1) } })
    }

    /// `x` `[B, in, T, H, W]` f32 → `[B, out, T, H', W']`, with `residual` of that shape added.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        convolved(&self.filter, self.geometry, Input { x, history: &[], residual })
    }
}

/// A convolution over time and space that sees no later frame than the one it computes.
#[derive(Debug, Clone)]
pub struct CausalConv3d {
    filter: Filter,
}

/// The last frames that a convolution has seen, each `[B, C, 1, H, W]`, oldest first. Empty before the first.
#[derive(Debug, Clone, Default)]
pub struct FrameHistory {
    frames: Vec<Tensor>,
}

impl FrameHistory {
    /// The frames, oldest first.
    pub fn frames(&self) -> &[Tensor] {
        &self.frames
    }

    /// Adds the frames of `x` `[B, C, T, H, W]` and forgets all but the last `keep`.
    ///
    /// # Errors
    /// Fails only where the device does.
    pub fn push(&mut self, x: &Tensor, keep: usize) -> Result<()> {
        let count = x.dim(2)?;
        for t in count.saturating_sub(keep)..count {
            // A frame of many is copied, so that it does not keep the others alive.
            let frame = x.narrow(2, t, 1)?;
            self.frames.push(if count == 1 { frame } else { frame.force_contiguous()? });
        }
        self.frames.drain(..self.frames.len().saturating_sub(keep));
        Ok(())
    }
}

impl CausalConv3d {
    /// `weight` `[out, in, kT, kH, kW]` and `bias` `[out]` for `channels` (in, out) and `kernel` `[kT, kH, kW]`.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(channels: (usize, usize), kernel: [usize; 3], weights: &Weights) -> Result<Self> {
        let ((in_channels, out_channels), [kt, kh, kw]) = (channels, kernel);
        let weight = weights.tensor((out_channels, in_channels, kt, kh, kw), "weight")?;
        Ok(Self { filter: Filter::new(&weight, &weights.tensor(out_channels, "bias")?)? })
    }

    /// `x` `[B, in, T, H, W]` f32, the frames that follow those in `history` → `[B, out, T, H, W]`, with `residual` of
    /// that shape added. `history` is moved on to the last kT − 1 frames.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor, history: &mut FrameHistory, residual: Option<&Tensor>) -> Result<Tensor> {
        let geometry = Geometry::causal(self.filter.dims()[2]);
        let y = convolved(&self.filter, geometry, Input { x, history: &history.frames, residual })?;
        history.push(x, geometry.frames_before)?;
        Ok(y)
    }

    /// The same weights at a temporal stride of two and without zero frames: output j sees frames 2j .. 2j + kT of
    /// `history` and `x` together. `None` while they are too few for one output; `history` is moved on to the frames
    /// that the next output needs.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward_stride2(&self, x: &Tensor, history: &mut FrameHistory) -> Result<Option<Tensor>> {
        let kernel_frames = self.filter.dims()[2];
        let have = history.frames.len() + x.dim(2)?;
        if have < kernel_frames {
            history.push(x, have)?;
            return Ok(None);
        }
        let geometry = Geometry { frames_before: history.frames.len(), temporal_stride: 2, spatial: Spatial::Same };
        let y = convolved(&self.filter, geometry, Input { x, history: &history.frames, residual: None })?;
        history.push(x, have - 2 * y.dim(2)?)?;
        Ok(Some(y))
    }
}

/// RMS norm over the channels of `[B, C, T, H, W]`, no epsilon inside the root, with or without SiLU behind it.
#[derive(Debug, Clone)]
pub struct ChannelRmsNorm {
    gamma: Tensor,
    silu: bool,
}

impl ChannelRmsNorm {
    /// With `gamma` of a shape `(channels, 1, ..)`.
    ///
    /// # Errors
    /// The tensor is missing or misshapen.
    pub fn new(gamma_shape: impl Into<Shape>, silu: bool, weights: &Weights) -> Result<Self> {
        Ok(Self { gamma: weights.tensor(gamma_shape, "gamma")?.flatten_all()?, silu })
    }

    /// `x` `[B, C, T, H, W]` f32 → the same shape.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let _span = tracing::info_span!(target: "steadydance", "channel norm").entered();
        channel_rms_norm(x, &self.gamma, self.silu)
    }
}

fn convolved(filter: &Filter, geometry: Geometry, input: Input) -> Result<Tensor> {
    let of = (filter.dims(), input.x.dims());
    let _span = tracing::info_span!(target: "steadydance", "conv3d", ?of).entered();
    conv3d(filter, geometry, input)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{Device, Tensor};
    use weights::{RandomWeights, Weights};

    use super::{CausalConv3d, FrameHistory};

    fn conv(kernel: [usize; 3]) -> CausalConv3d {
        let weights = Weights::new(Arc::new(RandomWeights::new(3)), Device::Cpu, None);
        CausalConv3d::new((2, 3), kernel, &weights).unwrap()
    }

    fn frames(count: usize) -> Tensor {
        let values: Vec<f32> = (0..2 * count * 12).map(|i| (i as f32).sin()).collect();
        Tensor::from_vec(values, (1, 2, count, 3, 4), &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn history_is_the_last_frames_whatever_the_chunks() {
        let x = frames(6);
        for sizes in [&[6][..], &[1, 1, 1, 1, 1, 1], &[4, 2], &[5, 1]] {
            let mut history = FrameHistory::default();
            let mut start = 0;
            for size in sizes {
                history.push(&x.narrow(2, start, *size).unwrap(), 2).unwrap();
                start += size;
            }
            let kept: Vec<Vec<f32>> = history.frames().iter().map(values).collect();
            assert_eq!(kept, [4, 5].map(|t| values(&x.narrow(2, t, 1).unwrap())), "{sizes:?}");
        }
    }

    #[test]
    fn stride_two_waits_for_its_frames() {
        let (conv, x) = (conv([3, 1, 1]), frames(7));
        let whole = conv.forward_stride2(&x, &mut FrameHistory::default()).unwrap().unwrap();
        assert_eq!(whole.dims(), [1, 3, 3, 3, 4]);
        let mut history = FrameHistory::default();
        let mut parts = Vec::new();
        for t in 0..7 {
            let y = conv.forward_stride2(&x.narrow(2, t, 1).unwrap(), &mut history).unwrap();
            assert_eq!(y.is_some(), t >= 2 && t % 2 == 0, "frame {t}");
            parts.extend(y);
        }
        assert_eq!(values(&Tensor::cat(&parts, 2).unwrap()), values(&whole));
        assert_eq!(history.frames().len(), 1);
    }

    #[test]
    fn a_causal_convolution_in_parts_is_the_whole() {
        let (conv, x) = (conv([3, 3, 3]), frames(5));
        let whole = conv.forward(&x, &mut FrameHistory::default(), None).unwrap();
        let mut history = FrameHistory::default();
        let parts = [(0, 1), (1, 3), (4, 1)]
            .map(|(start, count)| conv.forward(&x.narrow(2, start, count).unwrap(), &mut history, None).unwrap());
        assert_eq!(values(&Tensor::cat(&parts, 2).unwrap()), values(&whole));
    }
}
