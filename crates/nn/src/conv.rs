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
        conv3d(&self.filter, self.geometry, Input { x, history: &[], residual })
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
        let y = conv3d(&self.filter, geometry, Input { x, history: &history.frames, residual })?;
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
        let geometry =
            Geometry { frames_before: history.frames.len(), temporal_stride: 2, spatial: Spatial::Same };
        let y = conv3d(&self.filter, geometry, Input { x, history: &history.frames, residual: None })?;
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
        channel_rms_norm(x, &self.gamma, self.silu)
    }
}
