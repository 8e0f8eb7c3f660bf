//! On a GPU. Nothing here waits for it.
//!
//! Frames are `[T, H, W, C]` bf16 of one video, or what leaves the network, `[1, C, T, H, W]` f32.

use candle_core::{Result, Tensor};
use kernels::conv3d::Geometry;
use kernels::cuda::ops::{ConvInput, ConvOutput, GpuFilter, Heads, attention, channel_norm, channels_last, conv3d};
use kernels::cuda::{Gpu, GpuDtype, GpuTensor};
use weights::Weights;

use super::{Backend, Fetched, Input, Output};
use crate::VaeError;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct OnGpu {
    gpu: Gpu,
}

/// A filter, and how its results lie.
#[derive(Debug)]
pub(crate) struct LaidFilter {
    filter: GpuFilter,
    output: ConvOutput,
}

/// `gamma` `[C]` f32, and whether SiLU follows.
#[derive(Debug)]
pub(crate) struct GpuNorm {
    gamma: GpuTensor,
    silu: bool,
}

impl OnGpu {
    pub fn new(gpu: Gpu) -> Self {
        Self { gpu }
    }
}

/// `[T, H, W, C]` as a batch of one video.
fn one_video(x: &GpuTensor) -> Result<GpuTensor> {
    let shape: Vec<usize> = [1].into_iter().chain(x.shape().iter().copied()).collect();
    Ok(x.reshape(&shape)?)
}

fn dims4(x: &GpuTensor) -> Result<[usize; 4]> {
    match *x.shape() {
        [t, h, w, c] => Ok([t, h, w, c]),
        _ => candle_core::bail!("{x:?} where [T, H, W, C] is needed"),
    }
}

impl Backend for OnGpu {
    const AT_ONCE: bool = false;

    type Frames = GpuTensor;
    type Filter = LaidFilter;
    type Norm = GpuNorm;

    fn filter(&self, shape: &[usize], output: Output, w: &Weights) -> Result<LaidFilter> {
        let outputs = shape.first().copied().unwrap_or(0);
        let output = match output {
            Output::Inner => ConvOutput::ChannelsLast,
            Output::Pairs => ConvOutput::Pairs,
            Output::Last => ConvOutput::Planes,
        };
        let filter = GpuFilter::new(w.gpu_filter(shape, "weight")?, w.gpu_tensor(outputs, "bias")?)?;
        Ok(LaidFilter { filter, output })
    }

    fn norm(&self, shape: &[usize], silu: bool, w: &Weights) -> Result<GpuNorm> {
        let gamma = w.gpu_tensor(shape, "gamma")?;
        Ok(GpuNorm { gamma: gamma.reshape(&[gamma.elements()])?, silu })
    }

    fn bring(&self, frame: Tensor) -> Result<GpuTensor> {
        let (batch, _, _, height, width) = frame.dims5()?;
        if batch != 1 {
            return Err(VaeError::Batch { found: batch }.into());
        }
        let planes = GpuTensor::upload(&self.gpu, &frame, GpuDtype::F32)?;
        let pixels = channels_last(&self.gpu, &planes)?;
        let channels = pixels.shape().last().copied().unwrap_or(0);
        Ok(pixels.reshape(&[1, height, width, channels])?)
    }

    fn fetch(&self, x: GpuTensor) -> Result<Fetched> {
        Ok(Fetched::Coming(x.start_download(&self.gpu)?))
    }

    fn count(&self, x: &GpuTensor) -> Result<usize> {
        Ok(dims4(x)?[0])
    }

    fn frame(&self, x: &GpuTensor, t: usize) -> Result<GpuTensor> {
        Ok(x.narrow(t, 1)?)
    }

    fn alone(&self, x: GpuTensor) -> Result<GpuTensor> {
        let own = GpuTensor::empty(&self.gpu, x.shape(), x.dtype())?;
        x.copy_to_rows(&self.gpu, &own, 0)?;
        Ok(own)
    }

    fn after(&self, x: &GpuTensor, t: usize) -> Result<GpuTensor> {
        Ok(x.narrow(t, dims4(x)?[0].saturating_sub(t))?)
    }

    fn pairs(&self, x: GpuTensor) -> Result<Vec<GpuTensor>> {
        (0..dims4(&x)?[0]).map(|t| self.frame(&x, t)).collect()
    }

    fn is_finite(&self, x: &GpuTensor) -> Result<bool> {
        let sum = x.download(&self.gpu)?.to_dtype(candle_core::DType::F32)?.sum_all()?;
        Ok(sum.to_scalar::<f32>()?.is_finite())
    }

    fn convolve(&self, filter: &LaidFilter, geometry: Geometry, input: Input<GpuTensor>) -> Result<GpuTensor> {
        let history = input.history.iter().map(one_video).collect::<Result<Vec<_>>>()?;
        let residual = input.residual.map(one_video).transpose()?;
        let input = ConvInput { x: &one_video(input.x)?, history: &history, residual: residual.as_ref() };
        let y = conv3d(&self.gpu, &filter.filter, geometry, input, filter.output)?;
        match filter.output {
            ConvOutput::Planes => Ok(y),
            _ => {
                let shape = y.shape()[1..].to_vec();
                Ok(y.reshape(&shape)?)
            }
        }
    }

    fn normalise(&self, x: &GpuTensor, norm: &GpuNorm) -> Result<GpuTensor> {
        Ok(channel_norm(&self.gpu, x, &norm.gamma, norm.silu)?)
    }

    fn attend(&self, qkv: GpuTensor) -> Result<GpuTensor> {
        let [frames, height, width, channels] = dims4(&qkv)?;
        let channels = channels / 3;
        let tokens = qkv.reshape(&[frames, height * width, 3 * channels])?;
        let part = |i| Heads::part(&tokens, i * channels, 1, channels);
        let scale = (channels as f32).sqrt().recip();
        let mixed = attention(&self.gpu, [part(0)?, part(1)?, part(2)?], scale, None)?;
        Ok(mixed.reshape(&[frames, height, width, channels])?)
    }
}
