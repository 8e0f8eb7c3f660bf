//! The layers, each with the frames that it remembers kept outside of it.

use candle_core::{Result, Tensor};
use nn::{CausalConv3d, ChannelRmsNorm, Conv2d, FrameHistory, Spatial, attention};
use weights::Weights;

use crate::layers::{Kind, Layer};

/// One layer with its weights.
#[derive(Debug)]
pub(crate) enum Block {
    Conv(CausalConv3d),
    Residual(Box<ResidualBlock>),
    Attention(Box<AttentionBlock>),
    PerFrame(Conv2d),
    TemporalDown(CausalConv3d),
    TemporalUp(CausalConv3d),
    Head(ChannelRmsNorm, CausalConv3d),
}

/// What a layer remembers between chunks.
#[derive(Debug, Default)]
pub(crate) struct BlockState {
    first: FrameHistory,
    second: FrameHistory,
    /// Whether frame 0 has gone by, which is not resampled in time.
    started: bool,
}

impl Block {
    pub(crate) fn new(layer: &Layer, weights: &Weights) -> Result<Self> {
        let channels = (layer.in_channels, layer.out_channels);
        let weights = &weights.pp(&layer.name);
        Ok(match layer.kind {
            Kind::Conv(k) => Self::Conv(CausalConv3d::new(channels, [k, k, k], weights)?),
            Kind::Residual => Self::Residual(Box::new(ResidualBlock::new(channels, weights)?)),
            Kind::Attention => Self::Attention(Box::new(AttentionBlock::new(layer.in_channels, weights)?)),
            Kind::SpatialDown => Self::PerFrame(Conv2d::new(channels, 3, Spatial::Halve, weights)?),
            Kind::SpatialUp => Self::PerFrame(Conv2d::new(channels, 3, Spatial::Double, weights)?),
            Kind::TemporalDown => Self::TemporalDown(CausalConv3d::new(channels, [3, 1, 1], weights)?),
            Kind::TemporalUp => {
                let channels = (layer.in_channels, 2 * layer.out_channels);
                Self::TemporalUp(CausalConv3d::new(channels, [3, 1, 1], weights)?)
            }
            Kind::Head => {
                let norm = ChannelRmsNorm::new((layer.in_channels, 1, 1, 1), true, &weights.pp("0"))?;
                Self::Head(norm, CausalConv3d::new(channels, [3, 3, 3], &weights.pp("2"))?)
            }
        })
    }

    /// `x` `[B, C, T, H, W]`, the frames after those seen so far → the frames that are complete now, in order, as none,
    /// one or several tensors.
    pub(crate) fn forward(&self, x: Tensor, state: &mut BlockState) -> Result<Vec<Tensor>> {
        let y = match self {
            Self::Conv(conv) => conv.forward(&x, &mut state.first, None)?,
            Self::Residual(block) => block.forward(&x, state)?,
            Self::Attention(block) => block.forward(&x)?,
            Self::PerFrame(conv) => conv.forward(&x, None)?,
            Self::Head(norm, conv) => conv.forward(&norm.forward(&x)?, &mut state.first, None)?,
            Self::TemporalDown(conv) => return temporal_down(conv, &x, state),
            Self::TemporalUp(conv) => return temporal_up(conv, &x, state),
        };
        Ok(vec![y])
    }
}

/// Frame 0 passes as it is; output frame j ≥ 1 is a convolution of the frames 2j − 2, 2j − 1 and 2j.
fn temporal_down(conv: &CausalConv3d, x: &Tensor, state: &mut BlockState) -> Result<Vec<Tensor>> {
    let mut out = Vec::new();
    if !state.started {
        state.started = true;
        out.push(x.narrow(2, 0, 1)?);
    }
    out.extend(conv.forward_stride2(x, &mut state.first)?);
    Ok(out)
}

/// Frame 0 passes as it is and is not seen again; every later frame becomes two.
fn temporal_up(conv: &CausalConv3d, x: &Tensor, state: &mut BlockState) -> Result<Vec<Tensor>> {
    let mut out = Vec::new();
    let mut x = x.clone();
    if !state.started {
        state.started = true;
        out.push(x.narrow(2, 0, 1)?);
        let rest = x.dim(2)? - 1;
        if rest == 0 {
            return Ok(out);
        }
        x = x.narrow(2, 1, rest)?.contiguous()?;
    }
    let y = conv.forward(&x, &mut state.first, None)?;
    let channels = y.dim(1)? / 2;
    let (even, odd) = (y.narrow(1, 0, channels)?, y.narrow(1, channels, channels)?);
    for t in 0..y.dim(2)? {
        out.push(even.narrow(2, t, 1)?);
        out.push(odd.narrow(2, t, 1)?);
    }
    Ok(out)
}

/// `x + conv(silu(norm(conv(silu(norm(x))))))`, with a 1×1×1 convolution of x where the channels change.
#[derive(Debug)]
pub(crate) struct ResidualBlock {
    norms: [ChannelRmsNorm; 2],
    convs: [CausalConv3d; 2],
    shortcut: Option<CausalConv3d>,
}

impl ResidualBlock {
    fn new(channels: (usize, usize), weights: &Weights) -> Result<Self> {
        let (in_channels, out_channels) = channels;
        let residual = weights.pp("residual");
        let norm = |channels: usize, name| ChannelRmsNorm::new((channels, 1, 1, 1), true, &residual.pp(name));
        let conv = |channels, name| CausalConv3d::new(channels, [3, 3, 3], &residual.pp(name));
        let shortcut = if in_channels == out_channels {
            None
        } else {
            Some(CausalConv3d::new(channels, [1, 1, 1], &weights.pp("shortcut"))?)
        };
        Ok(Self {
            norms: [norm(in_channels, "0")?, norm(out_channels, "3")?],
            convs: [conv(channels, "2")?, conv((out_channels, out_channels), "6")?],
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor, state: &mut BlockState) -> Result<Tensor> {
        let hidden = self.convs[0].forward(&self.norms[0].forward(x)?, &mut state.first, None)?;
        // The braces end the first result's life here, before the next large tensor is made.
        let hidden = self.norms[1].forward(&{ hidden })?;
        let shortcut = match &self.shortcut {
            Some(conv) => conv.forward(x, &mut FrameHistory::default(), None)?,
            None => x.clone(),
        };
        self.convs[1].forward(&hidden, &mut state.second, Some(&shortcut))
    }
}

/// Attention of one head among the pixels of each frame alone, added to its input.
#[derive(Debug)]
pub(crate) struct AttentionBlock {
    norm: ChannelRmsNorm,
    to_qkv: Conv2d,
    proj: Conv2d,
}

impl AttentionBlock {
    fn new(channels: usize, weights: &Weights) -> Result<Self> {
        let conv = |out, name| Conv2d::new((channels, out), 1, Spatial::Same, &weights.pp(name));
        Ok(Self {
            norm: ChannelRmsNorm::new((channels, 1, 1), false, &weights.pp("norm"))?,
            to_qkv: conv(3 * channels, "to_qkv")?,
            proj: conv(channels, "proj")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, channels, frames, height, width) = x.dims5()?;
        let mut out = Vec::with_capacity(frames);
        for t in 0..frames {
            let frame = x.narrow(2, t, 1)?;
            let qkv = self.to_qkv.forward(&self.norm.forward(&frame)?, None)?;
            // [B, 3·C, 1, H, W] → three of [B, 1, H·W, C]
            let qkv = qkv.reshape((batch, 3, channels, height * width))?;
            let part = |i| qkv.narrow(1, i, 1)?.transpose(2, 3);
            let mixed = attention(&part(0)?, &part(1)?, &part(2)?, (channels as f64).sqrt().recip())?;
            // [B, 1, H·W, C] → [B, C, 1, H, W]
            let mixed = mixed.transpose(2, 3)?.contiguous()?.reshape((batch, channels, 1, height, width))?;
            out.push(self.proj.forward(&mixed, Some(&frame))?);
        }
        if out.len() == 1 { Ok(out.remove(0)) } else { Tensor::cat(&out, 2) }
    }
}
