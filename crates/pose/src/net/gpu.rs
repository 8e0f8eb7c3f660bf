//! A [`Graph`] on a GPU: convolutions are products of windows with weights, in bf16 with sums in f32.
//!
//! Channels are filled up to multiples of 8 with zeros, which stay zeros: their weights and biases are zeros too.

use std::fmt;

use candle_core::{DType, Result, Tensor};
use kernels::conv2d;
use kernels::cuda::ops::{
    Activation, DepthwiseWeights, JoinPart, Terms, depthwise, join, linear, max_pool, means, picture, windows,
};
use kernels::cuda::{Gpu, GpuDtype, GpuMatrix, GpuTensor};

use super::graph::{Conv, Graph, Op, Piece, Value};
use super::run::Tap;

/// A convolution or a gate's matrix.
#[derive(Debug, Clone)]
struct Product {
    /// `[O, k²·I]`.
    weight: GpuMatrix,
    /// `[O]`.
    bias: GpuTensor,
    /// Given to the host, f32 and not filled up.
    is_output: bool,
}

#[derive(Debug, Clone)]
enum Layer {
    Nothing,
    Product(Product),
    Depthwise(DepthwiseWeights),
}

/// Weights and what they are for.
#[derive(Clone)]
pub(crate) struct GpuLayers {
    gpu: Gpu,
    layers: Vec<Layer>,
    /// Channels of each step's result, not filled up.
    channels: Vec<usize>,
}

impl fmt::Debug for GpuLayers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GpuLayers").field(&self.layers).finish()
    }
}

/// With those that fill up.
fn filled(channels: usize) -> usize {
    channels.next_multiple_of(8)
}

/// Channels of each step's result.
fn channels_of(graph: &Graph) -> Vec<usize> {
    let mut channels: Vec<usize> = Vec::with_capacity(graph.ops.len());
    for op in &graph.ops {
        let of = |value: &Value| channels.get(value.index()).copied().unwrap_or(0);
        channels.push(match op {
            Op::Picture => 3,
            Op::Focus(value) => 4 * of(value),
            Op::Conv { conv, .. } | Op::Gate { fc: conv, .. } => conv.out_channels,
            Op::Pool { of: value, .. } => of(value),
        });
    }
    channels
}

/// Whether the picture is only looked at in squares.
fn in_squares(graph: &Graph) -> bool {
    graph.ops.iter().any(|op| matches!(op, Op::Focus(_)))
}

/// Runs of `parts` channels along `dim`, each filled up with zeros.
fn fill_up(t: &Tensor, dim: usize, parts: &[usize]) -> Result<Tensor> {
    let mut start = 0;
    let mut all = Vec::with_capacity(parts.len());
    for part in parts {
        all.push(t.narrow(dim, start, *part)?.pad_with_zeros(dim, 0, filled(*part) - part)?);
        start += part;
    }
    Tensor::cat(&all, dim)
}

fn activation(of: conv2d::Activation) -> Activation {
    match of {
        conv2d::Activation::Identity => Activation::None,
        conv2d::Activation::Silu => Activation::Silu,
    }
}

/// What several pieces are, side by side.
struct Joined {
    pieces: Vec<Piece>,
    gate: Option<Value>,
    all: GpuTensor,
}

impl GpuLayers {
    /// With weight `[O, I, k, k]` and bias `[O]` of each convolution from `weigh`.
    ///
    /// # Errors
    /// Those of `weigh`, weights that do not fit, or there is no room.
    pub fn new(gpu: &Gpu, graph: &Graph, weigh: &mut dyn FnMut(&Conv) -> Result<(Tensor, Tensor)>) -> Result<Self> {
        let channels = channels_of(graph);
        let parts = |values: &mut dyn Iterator<Item = Value>| -> Vec<usize> {
            values.map(|v| channels.get(v.index()).copied().unwrap_or(0)).collect()
        };
        let mut layers = Vec::with_capacity(graph.ops.len());
        for (step, op) in graph.ops.iter().enumerate() {
            let is_output = graph.outputs.iter().any(|v| v.index() == step);
            let Some(conv) = op.conv() else {
                layers.push(Layer::Nothing);
                continue;
            };
            let (weight, bias) = weigh(conv)?;
            let upload = |t: &Tensor| GpuTensor::upload(gpu, t, GpuDtype::F32);
            let out = if is_output { 0 } else { filled(conv.out_channels) - conv.out_channels };
            layers.push(match op {
                Op::Conv { .. } if conv.depthwise => {
                    // [C, 1, k, k] → [k, k, C]
                    let weight = weight.squeeze(1)?.pad_with_zeros(0, 0, out)?.permute((1, 2, 0))?;
                    Layer::Depthwise(DepthwiseWeights::new(
                        upload(&weight)?,
                        upload(&bias.pad_with_zeros(0, 0, out)?)?,
                    )?)
                }
                Op::Gate { of, .. } => {
                    // As wide as what it is for.
                    let parts = parts(&mut of.iter().copied());
                    let square = fill_up(&fill_up(&weight.flatten_from(1)?, 1, &parts)?, 0, &parts)?;
                    let weight = GpuMatrix::upload(gpu, &square.to_dtype(DType::BF16)?.into())?;
                    Layer::Product(Product { weight, bias: upload(&fill_up(&bias, 0, &parts)?)?, is_output: true })
                }
                Op::Conv { pieces, .. } => {
                    let parts = parts(&mut pieces.iter().map(|p| p.value));
                    // [O, I, k, k] → [O, k, k, I]
                    let weight = fill_up(&weight, 1, &parts)?.permute((0, 2, 3, 1))?.contiguous()?;
                    let weight = weight.flatten_from(1)?.pad_with_zeros(0, 0, out)?.to_dtype(DType::BF16)?;
                    let weight = GpuMatrix::upload(gpu, &weight.into())?;
                    Layer::Product(Product { weight, bias: upload(&bias.pad_with_zeros(0, 0, out)?)?, is_output })
                }
                other => candle_core::bail!("{other:?} with weights"),
            });
        }
        Ok(Self { gpu: gpu.clone(), layers, channels })
    }

    /// As [`Network::forward`](super::run::Network::forward).
    ///
    /// # Errors
    /// As there, or there is no room.
    pub fn forward(
        &self,
        graph: &Graph,
        last_use: &[usize],
        seen: &Tensor,
        mut tap: Option<Tap>,
    ) -> Result<Vec<Tensor>> {
        let mut values: Vec<Option<GpuTensor>> = vec![None; graph.ops.len()];
        let mut joined = None;
        for (step, (op, layer)) in graph.ops.iter().zip(&self.layers).enumerate() {
            let y = match op {
                Op::Picture => {
                    let there = GpuTensor::upload(&self.gpu, seen, GpuDtype::F32)?;
                    if in_squares(graph) { there } else { picture(&self.gpu, &there, false)? }
                }
                _ => self.one(op, layer, &values, &mut joined)?,
            };
            if let (Some(tap), Some(conv)) = (&mut tap, op.conv()) {
                let all = y.download(&self.gpu)?.to_dtype(DType::F32)?;
                // Channels of a gate lie in runs of their own.
                if matches!(op, Op::Conv { .. }) {
                    let last = all.rank().saturating_sub(1);
                    tap(&conv.name, &all.narrow(last, 0, self.channels.get(step).copied().unwrap_or(0))?)?;
                }
            }
            values[step] = Some(y);
            for used in op.inputs() {
                if last_use.get(used.index()) == Some(&step) {
                    values[used.index()] = None;
                }
            }
        }
        graph.outputs.iter().map(|v| Ok(get(&values, *v)?.download(&self.gpu)?)).collect()
    }

    fn one(
        &self,
        op: &Op,
        layer: &Layer,
        values: &[Option<GpuTensor>],
        joined: &mut Option<Joined>,
    ) -> Result<GpuTensor> {
        let (gpu, get) = (&self.gpu, |value: Value| get(values, value));
        match (op, layer) {
            (Op::Focus(of), _) => Ok(picture(gpu, get(*of)?, true)?),
            (Op::Pool { of, size, inner }, _) => match inner {
                // Windows of five in a row see what one window of nine, thirteen, … sees.
                Some(inner) => Ok(max_pool(gpu, get(*inner)?, 5)?),
                None => Ok(max_pool(gpu, get(*of)?, *size)?),
            },
            (Op::Gate { of, .. }, Layer::Product(fc)) => {
                let of = of.iter().map(|v| get(*v)).collect::<Result<Vec<_>>>()?;
                self.product(&means(gpu, &of)?, fc, Activation::None, None)
            }
            (Op::Conv { conv, pieces, .. }, Layer::Depthwise(filter)) => match pieces.as_slice() {
                [piece] => Ok(depthwise(gpu, get(piece.value)?, filter, activation(conv.activation))?),
                _ => candle_core::bail!("{}: a depthwise convolution of {} pieces", conv.name, pieces.len()),
            },
            (Op::Conv { conv, pieces, gate, residual }, Layer::Product(product)) => {
                if joined.as_ref().is_some_and(|j| j.pieces != *pieces || j.gate != *gate) {
                    *joined = None;
                }
                let mut x = match (pieces.as_slice(), gate, &*joined) {
                    ([Piece { value, doubled: false }], None, _) => get(*value)?.clone(),
                    (_, _, Some(joined)) => joined.all.clone(),
                    _ => {
                        let parts = pieces.iter().map(|p| Ok(JoinPart { x: get(p.value)?, doubled: p.doubled }));
                        let all = join(gpu, &parts.collect::<Result<Vec<_>>>()?, gate.map(get).transpose()?)?;
                        *joined = Some(Joined { pieces: pieces.clone(), gate: *gate, all: all.clone() });
                        all
                    }
                };
                if conv.kernel > 1 || conv.stride > 1 {
                    x = windows(gpu, &x, conv.kernel, conv.stride)?;
                }
                self.product(&x, product, activation(conv.activation), residual.map(get).transpose()?)
            }
            (op, layer) => candle_core::bail!("{op:?} with {layer:?}"),
        }
    }

    fn product(
        &self,
        x: &GpuTensor,
        product: &Product,
        activation: Activation,
        residual: Option<&GpuTensor>,
    ) -> Result<GpuTensor> {
        let output = if product.is_output { GpuDtype::F32 } else { GpuDtype::Bf16 };
        let terms = Terms { bias: Some(&product.bias), activation, residual, output, gate: None };
        Ok(linear(&self.gpu, x, &product.weight, &terms)?)
    }
}

fn get(values: &[Option<GpuTensor>], value: Value) -> Result<&GpuTensor> {
    match values.get(value.index()) {
        Some(Some(tensor)) => Ok(tensor),
        _ => candle_core::bail!("step {} was not run", value.index()),
    }
}

/// Most bytes that the network takes in a GPU's memory for pictures `[batch, height, width]` together, weights apart.
pub(crate) fn activation_bytes(graph: &Graph, last_use: &[usize], [batch, height, width]: [usize; 3]) -> u64 {
    /// Everything begins at a multiple of some bytes.
    const PADDING: u64 = 256;
    let channels = channels_of(graph);
    let bytes = |[height, width]: [usize; 2], width_bytes: usize| {
        PADDING + (batch * height * width) as u64 * width_bytes as u64
    };
    let mut sides: Vec<[usize; 2]> = Vec::with_capacity(graph.ops.len());
    let mut taken: Vec<u64> = Vec::with_capacity(graph.ops.len());
    let (mut live, mut most, mut joined) = (0u64, 0u64, (0u64, None));
    for (step, op) in graph.ops.iter().enumerate() {
        let of = |v: &Value| sides.get(v.index()).copied().unwrap_or([0; 2]);
        let wide = |v: &Value| filled(channels.get(v.index()).copied().unwrap_or(0));
        let own = filled(channels.get(step).copied().unwrap_or(0));
        let is_output = graph.outputs.iter().any(|v| v.index() == step);
        // Its sides, bytes of a pixel, and what it takes besides while it is made.
        let (side, pixel, besides) = match op {
            Op::Picture if in_squares(graph) => ([height, width], 12, 0),
            Op::Picture => ([height, width], 16, bytes([height, width], 12)),
            Op::Focus(v) => (of(v).map(|s| s / 2), 2 * own, 0),
            Op::Pool { of: v, .. } => (of(v), 2 * own, 0),
            // With means of the channels, before and behind the matrix.
            Op::Gate { of: all, .. } => ([1, 1], 6 * all.iter().map(wide).sum::<usize>(), 0),
            Op::Conv { conv, pieces, gate, .. } => {
                let first = pieces.first().map_or([0; 2], |p| of(&p.value).map(|s| if p.doubled { 2 * s } else { s }));
                let inputs: usize = pieces.iter().map(|p| wide(&p.value)).sum();
                let alone = matches!(pieces.as_slice(), [Piece { doubled: false, .. }]) && gate.is_none();
                let key = Some((pieces, gate));
                if joined.1 != key {
                    joined = if alone { (0, None) } else { (bytes(first, 2 * inputs), key) };
                }
                let side = first.map(|s| s.div_ceil(conv.stride));
                let seen = !conv.depthwise && (conv.kernel > 1 || conv.stride > 1);
                let windows = if seen { bytes(side, 2 * conv.kernel * conv.kernel * inputs) } else { 0 };
                (side, if is_output { 4 * conv.out_channels } else { 2 * own }, windows)
            }
        };
        sides.push(side);
        taken.push(bytes(side, pixel));
        live += bytes(side, pixel);
        most = most.max(live + besides + joined.0);
        for used in op.inputs() {
            if last_use.get(used.index()) == Some(&step) {
                live -= std::mem::take(&mut taken[used.index()]);
            }
        }
    }
    most
}
