//! A [`Graph`] with its weights, run step by step.

use candle_core::{Result, Tensor};
use kernels::conv2d::{DepthwiseFilter, Filter, Input, Part, conv2d, depthwise, max_pool};
use kernels::cuda::Gpu;
use kernels::linear::{Matrix, linear};

use super::gpu::{self, GpuLayers};
use super::graph::{Conv, Graph, Op, Value};

/// Where a network computes.
#[derive(Clone, Copy, Default)]
pub enum On<'a> {
    /// On the host, in f32.
    #[default]
    Host,
    /// On a GPU, in bf16 with sums in f32.
    Gpu(&'a Gpu),
}

/// Is shown each convolution's result, `[B, h, w, C]` f32, under the convolution's name.
pub(crate) type Tap<'a> = &'a mut dyn FnMut(&str, &Tensor) -> Result<()>;

#[derive(Debug, Clone)]
enum Layers {
    Host(Vec<Layer>),
    Gpu(GpuLayers),
}

/// What a step has beside its description, on the host.
#[derive(Debug, Clone)]
enum Layer {
    Nothing,
    Filter(Filter),
    Depthwise(DepthwiseFilter),
    /// `[C, C]`, `[C]`.
    Gate(Matrix, Tensor),
}

/// A network ready to run.
#[derive(Debug, Clone)]
pub(crate) struct Network {
    graph: Graph,
    layers: Layers,
    /// By step: the last step that uses its result.
    last_use: Vec<usize>,
}

impl Network {
    /// With weight `[O, I, k, k]` and bias `[O]` of each convolution from `weigh`.
    ///
    /// # Errors
    /// Those of `weigh`, weights that do not fit, or a GPU has no room.
    pub fn new(graph: Graph, on: On, mut weigh: impl FnMut(&Conv) -> Result<(Tensor, Tensor)>) -> Result<Self> {
        let layers = match on {
            On::Host => Layers::Host(Self::host_layers(&graph, weigh)?),
            On::Gpu(gpu) => Layers::Gpu(GpuLayers::new(gpu, &graph, &mut weigh)?),
        };
        let last_use = last_uses(&graph);
        Ok(Self { graph, layers, last_use })
    }

    fn host_layers(graph: &Graph, mut weigh: impl FnMut(&Conv) -> Result<(Tensor, Tensor)>) -> Result<Vec<Layer>> {
        let mut layers = Vec::with_capacity(graph.ops.len());
        for op in &graph.ops {
            layers.push(match op.conv() {
                None => Layer::Nothing,
                Some(conv) => {
                    let (weight, bias) = weigh(conv)?;
                    match op {
                        Op::Gate { .. } => Layer::Gate(weight.flatten_from(1)?.into(), bias),
                        _ if conv.depthwise => Layer::Depthwise(DepthwiseFilter::new(&weight, &bias, conv.activation)?),
                        _ => Layer::Filter(Filter::new(&weight, &bias, conv.stride, conv.activation)?),
                    }
                }
            });
        }
        Ok(layers)
    }

    /// `picture` `[B, H, W, 3]` f32 → the outputs, each `[B, h, w, C]`. Each convolution's result is shown to `tap`, if there
    /// is one, for which a GPU is waited for.
    ///
    /// # Errors
    /// Shapes that do not fit, and those of `tap`.
    pub fn forward(&self, picture: &Tensor, mut tap: Option<Tap>) -> Result<Vec<Tensor>> {
        let layers = match &self.layers {
            Layers::Host(layers) => layers,
            Layers::Gpu(there) => return there.forward(&self.graph, &self.last_use, picture, tap),
        };
        let mut values: Vec<Option<Tensor>> = vec![None; self.graph.ops.len()];
        for (step, (op, layer)) in self.graph.ops.iter().zip(layers).enumerate() {
            let y = if matches!(op, Op::Picture) { picture.clone() } else { one(op, layer, &values)? };
            if let (Some(tap), Some(conv)) = (&mut tap, op.conv()) {
                tap(&conv.name, &y)?;
            }
            values[step] = Some(y);
            for used in op.inputs() {
                if self.last_use[used.index()] == step {
                    values[used.index()] = None;
                }
            }
        }
        self.graph.outputs.iter().map(|v| get(&values, *v).cloned()).collect()
    }
}

/// By step: the last step that uses its result.
fn last_uses(graph: &Graph) -> Vec<usize> {
    let mut last_use: Vec<usize> = (0..graph.ops.len()).collect();
    for (step, op) in graph.ops.iter().enumerate() {
        for used in op.inputs() {
            last_use[used.index()] = step;
        }
    }
    for output in &graph.outputs {
        last_use[output.index()] = usize::MAX;
    }
    last_use
}

/// Most bytes that a network takes in a GPU's memory for pictures `[batch, height, width]` together, weights apart.
pub(crate) fn gpu_activation_bytes(graph: &Graph, pictures: [usize; 3]) -> u64 {
    gpu::activation_bytes(graph, &last_uses(graph), pictures)
}

fn get(values: &[Option<Tensor>], value: Value) -> Result<&Tensor> {
    match values.get(value.index()) {
        Some(Some(tensor)) => Ok(tensor),
        _ => candle_core::bail!("step {} was not run", value.index()),
    }
}

fn one(op: &Op, layer: &Layer, values: &[Option<Tensor>]) -> Result<Tensor> {
    let get = |value: Value| get(values, value);
    match (op, layer) {
        (Op::Focus(of), _) => focus(get(*of)?),
        (Op::Pool { of, size, inner }, _) => match inner {
            // Windows of five in a row see what one window of nine, thirteen, … sees.
            Some(inner) => max_pool(get(*inner)?, 5),
            None => max_pool(get(*of)?, *size),
        },
        (Op::Gate { of, .. }, Layer::Gate(weight, bias)) => {
            let means: Vec<Tensor> = of.iter().map(|v| mean(get(*v)?)).collect::<Result<_>>()?;
            let y = linear(&Tensor::cat(&means, 1)?, weight, Some(bias))?;
            // Hard sigmoid: min(max(v + 3, 0), 6)/6
            ((y + 3.0)? / 6.0)?.clamp(0.0, 1.0)
        }
        (Op::Conv { conv, pieces, .. }, Layer::Depthwise(filter)) => match pieces.as_slice() {
            [piece] => depthwise(filter, get(piece.value)?),
            _ => candle_core::bail!("{}: a depthwise convolution of {} pieces", conv.name, pieces.len()),
        },
        (Op::Conv { pieces, gate, residual, .. }, Layer::Filter(filter)) => {
            let mut gates = Vec::with_capacity(pieces.len());
            if let Some(gate) = gate {
                let mut start = 0;
                for piece in pieces {
                    let channels = get(piece.value)?.dim(3)?;
                    gates.push(get(*gate)?.narrow(1, start, channels)?.contiguous()?);
                    start += channels;
                }
            }
            let mut parts = Vec::with_capacity(pieces.len());
            for (i, piece) in pieces.iter().enumerate() {
                parts.push(Part { x: get(piece.value)?, doubled: piece.doubled, gate: gates.get(i) });
            }
            let residual = residual.map(get).transpose()?;
            conv2d(filter, Input { parts: &parts, residual })
        }
        (op, layer) => candle_core::bail!("{op:?} with {layer:?}"),
    }
}

/// `[B, H, W, C]` → `[B, H/2, W/2, 4·C]`: (row, column) (0, 0), (1, 0), (0, 1), (1, 1).
fn focus(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    // [B, h, row, w, column, C] → [B, h, w, column, row, C]
    let squares = x.reshape(&[b, h / 2, 2, w / 2, 2, c][..])?.permute([0, 1, 3, 4, 2, 5])?;
    squares.reshape((b, h / 2, w / 2, 4 * c))
}

/// Mean over pixels, `[B, H, W, C]` → `[B, C]`, as a product with ones.
fn mean(x: &Tensor) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    let ones = Tensor::full(((h * w) as f32).recip(), (b, 1, h * w), x.device())?;
    ones.matmul(&x.reshape((b, h * w, c))?)?.reshape((b, c))
}
