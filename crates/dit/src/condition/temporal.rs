//! Temporal motion coherence: three factorised convolutions over the pose latents (`condition_embedding_temporal`).

use candle_core::{Result, Tensor};
use weights::Weights;

/// Depthwise 3×3 per frame, SiLU, then a symmetric three-frame mix of all channels.
struct FactorConv {
    spatial: Tensor,
    /// The temporal kernel, one `[C, C]` matrix for each of its three frames.
    temporal: [Tensor; 3],
    bias: Tensor,
    channels: usize,
}

impl FactorConv {
    fn new(channels: usize, w: &Weights) -> Result<Self> {
        let c = channels;
        let spatial = w.tensor((c, 1, 1, 3, 3), "spatial.weight")?.reshape((c, 1, 3, 3))?;
        let kernel = w.tensor((c, c, 3, 1, 1), "temporal.weight")?.reshape((c, c, 3))?;
        let tap = |k: usize| kernel.narrow(2, k, 1)?.reshape((1, c, c));
        Ok(Self {
            spatial,
            temporal: [tap(0)?, tap(1)?, tap(2)?],
            bias: w.tensor(c, "temporal.bias")?.reshape((1, c, 1))?,
            channels,
        })
    }

    /// `x` `[F, C, h, w]` → the same shape. Frames outside the clip are zeros.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (f, c, h, w) = x.dims4()?;
        let mixed = x.conv2d(&self.spatial, 1, 1, 1, self.channels)?.silu()?;
        let padded = mixed.reshape((f, c, h * w))?.pad_with_zeros(0, 1, 1)?;
        let mut sum: Option<Tensor> = None;
        for (k, tap) in self.temporal.iter().enumerate() {
            let term = tap.broadcast_matmul(&padded.narrow(0, k, f)?)?;
            sum = Some(match sum {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
        match sum {
            Some(sum) => sum.broadcast_add(&self.bias)?.reshape((f, c, h, w)),
            None => candle_core::bail!("a temporal kernel has three frames"),
        }
    }
}

pub(crate) struct Temporal {
    layers: [FactorConv; 3],
}

impl Temporal {
    pub fn new(channels: usize, w: &Weights) -> Result<Self> {
        let layer = |i: usize| FactorConv::new(channels, &w.pp(i));
        Ok(Self { layers: [layer(0)?, layer(2)?, layer(4)?] })
    }

    /// `pose` `[F, C, h, w]` → the same shape. SiLU follows every layer, the last included.
    pub fn forward(&self, pose: &Tensor) -> Result<Tensor> {
        let mut x = pose.clone();
        for layer in &self.layers {
            x = layer.forward(&x)?.silu()?;
        }
        Ok(x)
    }
}
