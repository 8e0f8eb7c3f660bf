//! On the host: tensors and kernels in f32.

use candle_core::{Result, Tensor};
use kernels::conv3d::{Filter, Geometry, Input as Tensors, channel_rms_norm, conv3d};
use nn::attention;
use weights::Weights;

use super::{Backend, Fetched, Input, Output};

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host;

/// `gamma` `[C]`, and whether SiLU follows.
#[derive(Debug)]
pub(crate) struct HostNorm {
    gamma: Tensor,
    silu: bool,
}

impl Backend for Host {
    const AT_ONCE: bool = true;

    type Frames = Tensor;
    type Filter = Filter;
    type Norm = HostNorm;

    fn filter(&self, shape: &[usize], _: Output, w: &Weights) -> Result<Filter> {
        let outputs = shape.first().copied().unwrap_or(0);
        Filter::new(&w.tensor(shape, "weight")?, &w.tensor(outputs, "bias")?)
    }

    fn norm(&self, shape: &[usize], silu: bool, w: &Weights) -> Result<HostNorm> {
        Ok(HostNorm { gamma: w.tensor(shape, "gamma")?.flatten_all()?, silu })
    }

    fn bring(&self, frame: Tensor) -> Result<Tensor> {
        // Copied, because what layers remember must not keep a caller's chunk alive.
        frame.force_contiguous()
    }

    fn fetch(&self, x: Tensor) -> Result<Fetched> {
        Ok(Fetched::Here(x))
    }

    fn count(&self, x: &Tensor) -> Result<usize> {
        x.dim(2)
    }

    fn frame(&self, x: &Tensor, t: usize) -> Result<Tensor> {
        x.narrow(2, t, 1)
    }

    fn alone(&self, x: Tensor) -> Result<Tensor> {
        x.force_contiguous()
    }

    fn after(&self, x: &Tensor, t: usize) -> Result<Tensor> {
        x.narrow(2, t, x.dim(2)? - t)?.contiguous()
    }

    fn pairs(&self, x: Tensor) -> Result<Vec<Tensor>> {
        let channels = x.dim(1)? / 2;
        let halves = [x.narrow(1, 0, channels)?, x.narrow(1, channels, channels)?];
        (0..2 * x.dim(2)?).map(|i| halves[i % 2].narrow(2, i / 2, 1)).collect()
    }

    fn is_finite(&self, x: &Tensor) -> Result<bool> {
        Ok(x.sum_all()?.to_scalar::<f32>()?.is_finite())
    }

    fn convolve(&self, filter: &Filter, geometry: Geometry, input: Input<Tensor>) -> Result<Tensor> {
        let Input { x, history, residual } = input;
        let of = (filter.dims(), x.dims());
        let _span = tracing::info_span!(target: "steadydance", "conv3d", ?of).entered();
        conv3d(filter, geometry, Tensors { x, history, residual })
    }

    fn normalise(&self, x: &Tensor, norm: &HostNorm) -> Result<Tensor> {
        let _span = tracing::info_span!(target: "steadydance", "channel norm").entered();
        channel_rms_norm(x, &norm.gamma, norm.silu)
    }

    fn attend(&self, qkv: Tensor) -> Result<Tensor> {
        let (batch, channels, frames, height, width) = qkv.dims5()?;
        let channels = channels / 3;
        let mut out = Vec::with_capacity(frames);
        for t in 0..frames {
            // [B, 3·C, 1, H, W] → three of [B, 1, H·W, C]
            let frame = qkv.narrow(2, t, 1)?.reshape((batch, 3, channels, height * width))?;
            let part = |i| frame.narrow(1, i, 1)?.transpose(2, 3);
            let mixed = attention(&part(0)?, &part(1)?, &part(2)?, (channels as f64).sqrt().recip())?;
            // [B, 1, H·W, C] → [B, C, 1, H, W]
            out.push(mixed.transpose(2, 3)?.contiguous()?.reshape((batch, channels, 1, height, width))?);
        }
        if out.len() == 1 { Ok(out.remove(0)) } else { Tensor::cat(&out, 2) }
    }
}
