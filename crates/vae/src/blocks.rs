//! The layers, each with the frames that it remembers kept outside of it.

use candle_core::Result;
use kernels::conv3d::{Geometry, Spatial};
use weights::Weights;

use crate::backend::{Backend, Input, Output};
use crate::history::{Causal, History};
use crate::layers::{Kind, Layer};

/// One layer with its weights.
#[derive(Debug)]
pub(crate) enum Block<B: Backend> {
    Conv(Causal<B>),
    Residual(Box<ResidualBlock<B>>),
    Attention(Box<AttentionBlock<B>>),
    /// Each frame alone.
    PerFrame(B::Filter, Spatial),
    TemporalDown(Causal<B>),
    TemporalUp(Causal<B>),
    Head(B::Norm, Causal<B>),
}

/// What a layer remembers between chunks.
#[derive(Debug)]
pub(crate) struct BlockState<B: Backend> {
    first: History<B::Frames>,
    second: History<B::Frames>,
    /// Whether frame 0 has gone by, which is not resampled in time.
    started: bool,
}

impl<B: Backend> Default for BlockState<B> {
    fn default() -> Self {
        Self { first: History::default(), second: History::default(), started: false }
    }
}

impl<B: Backend> BlockState<B> {
    /// Whether all that is remembered is finite.
    pub fn is_finite(&self, backend: &B) -> Result<bool> {
        for frame in self.first.frames().iter().chain(self.second.frames()) {
            if !backend.is_finite(frame)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A k×k×k or k×1×1 convolution for `channels` (in, out).
fn causal<B: Backend>(
    backend: &B,
    (inputs, outputs): (usize, usize),
    [kt, k]: [usize; 2],
    output: Output,
    w: &Weights,
) -> Result<Causal<B>> {
    Ok(Causal { filter: backend.filter(&[outputs, inputs, kt, k, k], output, w)?, kernel_frames: kt })
}

impl<B: Backend> Block<B> {
    /// `output` is what becomes of its results.
    pub(crate) fn new(backend: &B, layer: &Layer, output: Output, weights: &Weights) -> Result<Self> {
        let (inputs, outputs) = (layer.in_channels, layer.out_channels);
        let w = &weights.pp(&layer.name);
        let per_frame = || backend.filter(&[outputs, inputs, 3, 3], Output::Inner, w);
        Ok(match layer.kind {
            Kind::Conv(k) => Self::Conv(causal(backend, (inputs, outputs), [k, k], output, w)?),
            Kind::Residual => Self::Residual(Box::new(ResidualBlock::new(backend, (inputs, outputs), w)?)),
            Kind::Attention => Self::Attention(Box::new(AttentionBlock::new(backend, inputs, w)?)),
            Kind::SpatialDown => Self::PerFrame(per_frame()?, Spatial::Halve),
            Kind::SpatialUp => Self::PerFrame(per_frame()?, Spatial::Double),
            Kind::TemporalDown => Self::TemporalDown(causal(backend, (inputs, outputs), [3, 1], Output::Inner, w)?),
            Kind::TemporalUp => Self::TemporalUp(causal(backend, (inputs, 2 * outputs), [3, 1], Output::Pairs, w)?),
            Kind::Head => {
                let norm = backend.norm(&[inputs, 1, 1, 1], true, &w.pp("0"))?;
                Self::Head(norm, causal(backend, (inputs, outputs), [3, 3], output, &w.pp("2"))?)
            }
        })
    }

    /// `x`, the frames after those seen so far → the frames that are complete now, in order, as none, one or several.
    pub(crate) fn forward(&self, backend: &B, x: B::Frames, state: &mut BlockState<B>) -> Result<Vec<B::Frames>> {
        let y = match self {
            Self::Conv(conv) => conv.forward(backend, &x, &mut state.first, None)?,
            Self::Residual(block) => block.forward(backend, &x, state)?,
            Self::Attention(block) => block.forward(backend, &x)?,
            Self::PerFrame(filter, spatial) => {
                let geometry = Geometry { spatial: *spatial, ..Geometry::causal(1) };
                backend.convolve(filter, geometry, Input { x: &x, history: &[], residual: None })?
            }
            Self::Head(norm, conv) => conv.forward(backend, &backend.normalise(&x, norm)?, &mut state.first, None)?,
            Self::TemporalDown(conv) => return temporal_down(backend, conv, &x, state),
            Self::TemporalUp(conv) => return temporal_up(backend, conv, &x, state),
        };
        Ok(vec![y])
    }
}

/// Frame 0 passes as it is; output frame j ≥ 1 is a convolution of the frames 2j − 2, 2j − 1 and 2j.
fn temporal_down<B: Backend>(
    backend: &B,
    conv: &Causal<B>,
    x: &B::Frames,
    state: &mut BlockState<B>,
) -> Result<Vec<B::Frames>> {
    let mut out = Vec::new();
    if !state.started {
        state.started = true;
        out.push(backend.frame(x, 0)?);
    }
    out.extend(conv.forward_stride2(backend, x, &mut state.first)?);
    Ok(out)
}

/// Frame 0 passes as it is and is not seen again; every later frame becomes two.
fn temporal_up<B: Backend>(
    backend: &B,
    conv: &Causal<B>,
    x: &B::Frames,
    state: &mut BlockState<B>,
) -> Result<Vec<B::Frames>> {
    let mut out = Vec::new();
    let mut x = x.clone();
    if !state.started {
        state.started = true;
        out.push(backend.frame(&x, 0)?);
        if backend.count(&x)? == 1 {
            return Ok(out);
        }
        x = backend.after(&x, 1)?;
    }
    out.extend(backend.pairs(conv.forward(backend, &x, &mut state.first, None)?)?);
    Ok(out)
}

/// `x + conv(silu(norm(conv(silu(norm(x))))))`, with a 1×1×1 convolution of x where the channels change.
#[derive(Debug)]
pub(crate) struct ResidualBlock<B: Backend> {
    norms: [B::Norm; 2],
    convs: [Causal<B>; 2],
    shortcut: Option<Causal<B>>,
}

impl<B: Backend> ResidualBlock<B> {
    fn new(backend: &B, channels: (usize, usize), weights: &Weights) -> Result<Self> {
        let (inputs, outputs) = channels;
        let residual = weights.pp("residual");
        let norm = |channels: usize, name| backend.norm(&[channels, 1, 1, 1], true, &residual.pp(name));
        let conv = |channels, name| causal(backend, channels, [3, 3], Output::Inner, &residual.pp(name));
        let shortcut = if inputs == outputs {
            None
        } else {
            Some(causal(backend, channels, [1, 1], Output::Inner, &weights.pp("shortcut"))?)
        };
        Ok(Self {
            norms: [norm(inputs, "0")?, norm(outputs, "3")?],
            convs: [conv(channels, "2")?, conv((outputs, outputs), "6")?],
            shortcut,
        })
    }

    fn forward(&self, backend: &B, x: &B::Frames, state: &mut BlockState<B>) -> Result<B::Frames> {
        let normed = |x: &B::Frames, i: usize| backend.normalise(x, &self.norms[i]);
        let hidden = self.convs[0].forward(backend, &normed(x, 0)?, &mut state.first, None)?;
        // The braces end the first result's life here, before the next large tensor is made.
        let hidden = normed(&{ hidden }, 1)?;
        let shortcut = match &self.shortcut {
            Some(conv) => conv.forward(backend, x, &mut History::default(), None)?,
            None => x.clone(),
        };
        self.convs[1].forward(backend, &hidden, &mut state.second, Some(&shortcut))
    }
}

/// Attention of one head among the pixels of each frame alone, added to its input.
#[derive(Debug)]
pub(crate) struct AttentionBlock<B: Backend> {
    norm: B::Norm,
    to_qkv: B::Filter,
    proj: B::Filter,
}

impl<B: Backend> AttentionBlock<B> {
    fn new(backend: &B, channels: usize, weights: &Weights) -> Result<Self> {
        let conv = |out, name| backend.filter(&[out, channels, 1, 1], Output::Inner, &weights.pp(name));
        Ok(Self {
            norm: backend.norm(&[channels, 1, 1], false, &weights.pp("norm"))?,
            to_qkv: conv(3 * channels, "to_qkv")?,
            proj: conv(channels, "proj")?,
        })
    }

    fn forward(&self, backend: &B, x: &B::Frames) -> Result<B::Frames> {
        let convolve = |filter, x: &B::Frames, residual| {
            backend.convolve(filter, Geometry::causal(1), Input { x, history: &[], residual })
        };
        let qkv = convolve(&self.to_qkv, &backend.normalise(x, &self.norm)?, None)?;
        convolve(&self.proj, &backend.attend(qkv)?, Some(x))
    }
}
