//! What the two networks share: cross-stage layers, and the weights of a convolution with its batch norm folded into it.

use candle_core::{DType, Device, Result, Tensor};
use weights::Weights;

use super::graph::{Builder, Conv, Kernel, Piece, Value};

/// What a cross-stage layer repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    /// Darknet's bottleneck: 1×1, 3×3.
    Darknet,
    /// CSPNeXt's: 3×3, depthwise 5×5 with 1×1; the layer weighs its channels before the last convolution.
    CspNext,
}

/// How a cross-stage layer is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CspLayer {
    pub out_channels: usize,
    pub blocks: usize,
    /// Each block's input is added to its output.
    pub residual: bool,
    pub block: Block,
}

impl CspLayer {
    /// Source: CSPNet (Wang et al. 2019) as in mmdet's `CSPLayer`: half of the channels go through the blocks.
    pub fn build(self, net: &mut Builder, name: &str, pieces: &[Piece]) -> Value {
        let half = Kernel::new(self.out_channels / 2, 1);
        // First, so that the layer's input is let go before its blocks run.
        let short = net.norm_conv(format!("{name}.short_conv"), half, pieces);
        let mut main = net.norm_conv(format!("{name}.main_conv"), half, pieces);
        for n in 0..self.blocks {
            let name = format!("{name}.blocks.{n}");
            let residual = self.residual.then_some(main);
            main = match self.block {
                Block::Darknet => {
                    let x = net.same_width_conv(format!("{name}.conv1"), 1, main, None);
                    net.same_width_conv(format!("{name}.conv2"), 3, x, residual)
                }
                Block::CspNext => {
                    let x = net.same_width_conv(format!("{name}.conv1"), 3, main, None);
                    let x = net.depthwise_conv(format!("{name}.conv2.depthwise_conv"), 5, x);
                    net.same_width_conv(format!("{name}.conv2.pointwise_conv"), 1, x, residual)
                }
            };
        }
        let gate = (self.block == Block::CspNext).then(|| net.gate(format!("{name}.attention.fc"), &[main, short]));
        let last = Kernel::new(self.out_channels, 1);
        net.gated_conv(format!("{name}.final_conv"), last, &[main.into(), short.into()], gate)
    }
}

/// Spatial pyramid pooling with windows of 5, 9 and 13 between two 1×1 convolutions; as many channels out as in.
pub(crate) fn spp(net: &mut Builder, name: &str, of: Value) -> Value {
    let channels = net.channels(of);
    let x = net.norm_conv(format!("{name}.conv1"), Kernel::new(channels / 2, 1), &[of.into()]);
    let [a, b, c] = net.pools(x);
    let pieces = [x, a, b, c].map(Piece::from);
    net.norm_conv(format!("{name}.conv2"), Kernel::new(channels, 1), &pieces)
}

/// Four stages, each a 3×3 convolution of stride 2 and a cross-stage layer; the last has pooling between them and no
/// residuals. `width` is the number of channels of `x`, which doubles with each stage. Gives the stages' results.
pub(crate) fn stages(net: &mut Builder, x: Value, blocks: [usize; 4], block: Block) -> [Value; 4] {
    let mut x = x;
    let mut number = 0;
    blocks.map(|blocks| {
        number += 1;
        let (name, last) = (format!("backbone.stage{number}"), number == 4);
        let out_channels = 2 * net.channels(x);
        x = net.norm_conv(format!("{name}.0"), Kernel::down(out_channels), &[x.into()]);
        if last {
            x = spp(net, &format!("{name}.1"), x);
        }
        let layer = CspLayer { out_channels, blocks, residual: !last, block };
        x = layer.build(net, &format!("{name}.{}", if last { 2 } else { 1 }), &[x.into()]);
        x
    })
}

/// The tensors of one convolution as a checkpoint holds them.
pub(crate) struct Stored {
    /// `[O, I, k, k]`.
    pub weight: Tensor,
    /// `[O]`.
    pub bias: Option<Tensor>,
    pub norm: Option<BatchNorm>,
}

/// Statistics and gains of a batch norm, each `[O]`.
pub(crate) struct BatchNorm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub running_mean: Tensor,
    pub running_var: Tensor,
    pub eps: f64,
}

impl Stored {
    /// Asks for them under mmdet's and mmpose's names.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn named(conv: &Conv, weights: &Weights) -> Result<Self> {
        let weights = weights.pp(&conv.name);
        let Some(eps) = conv.norm else {
            let bias = Some(weights.tensor(conv.out_channels, "bias")?);
            return Ok(Self { weight: weights.tensor(&conv.weight_dims()[..], "weight")?, bias, norm: None });
        };
        let of = |name| weights.pp("bn").tensor(conv.out_channels, name);
        let norm = BatchNorm {
            weight: of("weight")?,
            bias: of("bias")?,
            running_mean: of("running_mean")?,
            running_var: of("running_var")?,
            eps,
        };
        let weight = weights.pp("conv").tensor(&conv.weight_dims()[..], "weight")?;
        Ok(Self { weight, bias: None, norm: Some(norm) })
    }

    /// Weight `[O, I, k, k]` and bias `[O]` of the one convolution that does the same, in f32. Sums in between are f64.
    ///
    /// # Errors
    /// A variance is not positive, or the sums leave f32.
    pub fn fold(self) -> Result<(Tensor, Tensor)> {
        let values = |t: &Tensor| t.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let (device, channels) = (self.weight.device().clone(), self.weight.dim(0)?);
        let mut bias: Vec<f64> = match &self.bias {
            Some(bias) => values(bias)?.into_iter().map(f64::from).collect(),
            None => vec![0.0; channels],
        };
        let weight = match self.norm {
            None => self.weight,
            Some(norm) => {
                let (gain, shift) = (values(&norm.weight)?, values(&norm.bias)?);
                let (mean, var) = (values(&norm.running_mean)?, values(&norm.running_var)?);
                let mut factors = Vec::with_capacity(channels);
                for (o, bias) in bias.iter_mut().enumerate() {
                    let factor = f64::from(gain[o]) / (f64::from(var[o]) + norm.eps).sqrt();
                    *bias = (*bias - f64::from(mean[o])) * factor + f64::from(shift[o]);
                    factors.push(factor);
                }
                let mut weight = values(&self.weight)?;
                let each = (weight.len() / channels.max(1)).max(1);
                for (row, factor) in weight.chunks_mut(each).zip(&factors) {
                    row.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
                }
                if weight.iter().any(|w| !w.is_finite()) {
                    candle_core::bail!("a batch norm has a variance below zero, or gains beyond all bounds");
                }
                Tensor::from_vec(weight, self.weight.dims(), &device)?
            }
        };
        let bias: Vec<f32> = bias.into_iter().map(|b| b as f32).collect();
        if bias.iter().any(|b| !b.is_finite()) {
            candle_core::bail!("a batch norm has a variance below zero, or gains beyond all bounds");
        }
        Ok((weight, Tensor::from_vec(bias, channels, &device)?))
    }
}
