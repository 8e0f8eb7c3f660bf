//! Spatial structure adaptive extractor: a dynamic convolution per frame (`condition_embedding_spatial`, after
//! MobileNetV2-DCD, BatchNorm replaced by per-channel normalisation over the frame).

use candle_core::{Result, Tensor};
use nn::{LayerNorm, Linear};
use weights::Weights;

/// Normalisation of every channel of a frame over its positions, with gain and bias per channel.
struct InstanceNorm {
    norm: LayerNorm,
    weight: Tensor,
    bias: Tensor,
}

impl InstanceNorm {
    fn new(channels: usize, w: &Weights) -> Result<Self> {
        Ok(Self {
            norm: LayerNorm::plain(1e-5),
            weight: w.tensor(channels, "weight")?.reshape((1, channels, 1))?,
            bias: w.tensor(channels, "bias")?.reshape((1, channels, 1))?,
        })
    }

    /// `x` `[F, C, h·w]` → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(x)?.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

pub(crate) struct Spatial {
    conv: Tensor,
    conv_q: Tensor,
    conv_p: Tensor,
    squeeze: Linear,
    gate: Linear,
    phi: Linear,
    scale: Linear,
    norm_q: InstanceNorm,
    norm_phi: InstanceNorm,
    inner: usize,
}

impl Spatial {
    pub fn new(channels: usize, w: &Weights) -> Result<Self> {
        let c = channels;
        let (inner, squeezed) = inner_sizes(c);
        let conv = |out: usize, input: usize, name: &str| -> Result<Tensor> {
            w.pp(name).tensor((out, input, 1, 1), "weight")?.reshape((1, out, input))
        };
        Ok(Self {
            conv: conv(c, c, "conv")?,
            conv_q: conv(inner, c, "conv_q")?,
            conv_p: conv(c, inner, "conv_p")?,
            squeeze: small_linear(c, squeezed, &w.pp("fc.0"))?,
            gate: small_linear(squeezed, squeezed, &w.pp("fc.1.fc.0"))?,
            phi: small_linear(squeezed, inner * inner, &w.pp("fc_phi"))?,
            scale: small_linear(squeezed, c, &w.pp("fc_scale"))?,
            norm_q: InstanceNorm::new(inner, &w.pp("bn1"))?,
            norm_phi: InstanceNorm::new(inner, &w.pp("bn2"))?,
            inner,
        })
    }

    /// `pose` `[F, C, h, w]` → the same shape.
    pub fn forward(&self, pose: &Tensor) -> Result<Tensor> {
        let (f, c, h, w) = pose.dims4()?;
        let x = pose.reshape((f, c, h * w))?;
        let y = self.squeeze.forward(&x.mean(2)?)?;
        let y = (&y * hard_sigmoid(&self.gate.forward(&y)?)?)?;
        let phi = self.phi.forward(&y)?.reshape((f, self.inner, self.inner))?;
        let scale = hard_sigmoid(&self.scale.forward(&y)?)?.unsqueeze(2)?;
        let residual = self.conv.broadcast_matmul(&x)?.broadcast_mul(&scale)?;
        let q = self.norm_q.forward(&self.conv_q.broadcast_matmul(&x)?)?;
        let z = (self.norm_phi.forward(&phi.matmul(&q)?)? + &q)?;
        (self.conv_p.broadcast_matmul(&z)? + residual)?.reshape((f, c, h, w))
    }
}

/// These layers are always computed in f32.
fn small_linear(input: usize, out: usize, w: &Weights) -> Result<Linear> {
    Ok(Linear::from_tensors(w.tensor((out, input), "weight")?, None))
}

/// relu6(v + 3)/3, range 0 to 2 (not the usual /6).
fn hard_sigmoid(v: &Tensor) -> Result<Tensor> {
    (v + 3.0)?.clamp(0f32, 6f32)? / 3.0
}

/// Sides of the dynamic matrix and of the squeeze layer for `c` channels, after the module's own rule: the matrix
/// side starts at c/2, is halved while its square exceeds 2·c, and is at least 4; the squeeze has c/8, at least 4.
fn inner_sizes(c: usize) -> (usize, usize) {
    let mut inner = c / 2;
    while inner * inner > 2 * c {
        inner /= 2;
    }
    (inner.max(4), (c / 8).max(4))
}
