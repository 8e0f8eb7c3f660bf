//! The convolutional part: our description of the network and the exported graph are compared step by step from the
//! outputs to the picture. Where they agree, the weights are known by their place; the first difference is an error.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use kernels::conv2d::Activation;
use weights::Checkpoint;
use weights::onnx::Node;

use super::flow::{Flow, Found};
use crate::net::graph::{Conv, Graph, Op, Piece, Value};
use crate::net::layers::{BatchNorm, Stored};

/// Where the tensors of the convolutions stand in the file, by the convolutions' names.
pub(in crate::net) struct Convs(HashMap<String, Names>);

struct Names {
    weight: String,
    bias: Option<String>,
    /// Gain, shift, mean, variance, and the epsilon.
    norm: Option<([String; 4], f64)>,
}

impl Convs {
    /// Weight `[O, I, k, k]` and bias `[O]` of a convolution, a batch norm folded into them.
    ///
    /// # Errors
    /// Values that are not finite, or an impossible batch norm.
    pub fn load(&self, conv: &Conv, file: &Checkpoint, device: &Device) -> Result<(Tensor, Tensor)> {
        let Some(names) = self.0.get(&conv.name) else {
            candle_core::bail!("{} was not found", conv.name);
        };
        let load = |name: &str, dims: &[usize]| file.load(name, dims, Some(DType::F32), device);
        let channels = [conv.out_channels];
        let norm = match &names.norm {
            None => None,
            Some(([gain, shift, mean, var], eps)) => Some(BatchNorm {
                weight: load(gain, &channels)?,
                bias: load(shift, &channels)?,
                running_mean: load(mean, &channels)?,
                running_var: load(var, &channels)?,
                eps: *eps,
            }),
        };
        let bias = names.bias.as_ref().map(|name| load(name, &channels)).transpose()?;
        Stored { weight: load(&names.weight, &conv.weight_dims())?, bias, norm }.fold()
    }
}

/// How a graph differs, and how many convolutions had been found when that showed.
pub(super) struct Difference {
    pub words: String,
    pub after: usize,
}

/// Finds the convolutions of `graph` whose outputs are the values `outputs` of the file.
pub(super) fn find<'m>(flow: &Flow<'m>, graph: &Graph, outputs: &[&'m str]) -> std::result::Result<Convs, Difference> {
    let mut search = Search { flow, graph, bound: vec![None; graph.ops.len()], found: HashMap::new() };
    match search.run(outputs) {
        Ok(()) => Ok(Convs(search.found)),
        Err(words) => Err(Difference { words, after: search.found.len() }),
    }
}

struct Search<'f, 'm, 'g> {
    flow: &'f Flow<'m>,
    graph: &'g Graph,
    /// The file's value of each of our steps.
    bound: Vec<Option<&'m str>>,
    found: HashMap<String, Names>,
}

impl<'m> Search<'_, 'm, '_> {
    fn run(&mut self, outputs: &[&'m str]) -> Found<()> {
        let graph = self.graph;
        for (value, name) in graph.outputs.iter().zip(outputs) {
            self.bind(*value, name, "the output")?;
        }
        // Backwards every step comes after those that use it, so its value is bound when its turn comes.
        for (step, op) in graph.ops.iter().enumerate().rev() {
            if let Some(name) = self.bound[step] {
                self.step(op, name)?;
            }
        }
        Ok(())
    }

    /// Our value is the file's value `name`, which `user` uses.
    fn bind(&mut self, value: Value, name: &'m str, user: &str) -> Found<()> {
        let name = self.flow.source(name);
        match self.bound[value.index()].replace(name) {
            Some(other) if other != name => {
                let ours = match &self.graph.ops[value.index()] {
                    Op::Picture => "the picture",
                    Op::Focus(_) => "the pixels side by side",
                    Op::Pool { .. } => "a maximum",
                    Op::Conv { conv, .. } | Op::Gate { fc: conv, .. } => &conv.name,
                };
                let (one, two) = (self.flow.describe(name), self.flow.describe(other));
                Err(format!("{user} uses {one} where {two} is used elsewhere; expected {ours} in both places"))
            }
            _ => Ok(()),
        }
    }

    fn step(&mut self, op: &Op, name: &'m str) -> Found<()> {
        match op {
            Op::Picture => match self.flow.model.inputs.as_slice() {
                [input] if input.name == name => Ok(()),
                _ => Err(format!("the first layer's input is {}; expected the picture", self.flow.describe(name))),
            },
            Op::Focus(of) => {
                let picture = focus(self.flow, name)?;
                self.bind(*of, picture, "the first layer")
            }
            Op::Pool { of, size, .. } => {
                let x = pool(self.flow, name, *size)?;
                self.bind(*of, x, "pooling")
            }
            Op::Gate { fc, of } => {
                let mean = self.convolution(fc, hard_sigmoid(self.flow, name, &fc.name)?)?;
                let mean = self.flow.expect(mean, &["GlobalAveragePool", "ReduceMean"], &fc.name)?;
                let axes = self.flow.list(mean, "axes", 1).unwrap_or_default();
                if mean.op == "ReduceMean" && axes != [2, 3] && axes != [-2, -1] {
                    return Err(format!("{}: a mean over axes {axes:?}; expected the pixels", fc.name));
                }
                let pieces: Vec<Piece> = of.iter().map(|v| Piece::from(*v)).collect();
                self.pieces(&pieces, self.flow.input(mean, 0)?, &fc.name)
            }
            Op::Conv { conv, pieces, gate, residual } => {
                let mut name = name;
                if let Some(residual) = residual {
                    let sum = self.flow.expect(name, &["Add"], &format!("{}, after it", conv.name))?;
                    let sides = self.flow.both(sum)?;
                    let (main, other) =
                        sides.into_iter().find(|(main, _)| self.looks_like(conv, main)).unwrap_or(sides[0]);
                    self.bind(*residual, other, &conv.name)?;
                    name = main;
                }
                let mut input = self.convolution(conv, activated(self.flow, name, conv)?)?;
                if let Some(gate) = gate {
                    let product = self.flow.expect(input, &["Mul"], &format!("{}, before it", conv.name))?;
                    let sides = self.flow.both(product)?;
                    let (x, factors) = sides
                        .into_iter()
                        .find(|(x, _)| self.flow.made_by(x, &["Concat"]).is_some())
                        .ok_or_else(|| format!("{}: {product} weighs no channels side by side", conv.name))?;
                    self.bind(*gate, factors, &conv.name)?;
                    input = x;
                }
                self.pieces(pieces, input, &conv.name)
            }
        }
    }

    /// Whether a value is this convolution with its activation, as far as the weight's shape tells.
    fn looks_like(&self, conv: &Conv, name: &'m str) -> bool {
        let sum = activated(self.flow, name, conv).unwrap_or(name);
        let sum =
            self.flow.made_by(sum, &["BatchNormalization"]).and_then(|n| self.flow.input(n, 0).ok()).unwrap_or(sum);
        let node = self.flow.made_by(sum, &["Conv"]);
        node.and_then(|node| self.flow.weight_dims(node)).is_some_and(|dims| dims == conv.weight_dims())
    }

    /// The convolution whose sum is `name`, with or without a batch norm; gives its input.
    fn convolution(&mut self, conv: &Conv, name: &'m str) -> Found<&'m str> {
        let mut sum = name;
        let mut norm = None;
        if let Some(node) = self.flow.made_by(name, &["BatchNormalization"]) {
            let mut names = [const { String::new() }; 4];
            for (index, slot) in names.iter_mut().enumerate() {
                *slot = self.vector(conv, self.flow.input(node, index + 1)?)?;
            }
            norm = Some((names, f64::from(node.float("epsilon").unwrap_or(1e-5))));
            sum = self.flow.input(node, 0)?;
        }
        let node = self.flow.expect(sum, &["Conv"], &conv.name)?;
        let weight = self.flow.constant(self.flow.input(node, 1)?);
        let weight = weight.ok_or_else(|| format!("{node}: its weight is no constant"))?;
        check_conv(node, &weight.shape, conv)?;
        let weight = weight.name.clone();
        let bias = match node.inputs.get(2).filter(|name| !name.is_empty()) {
            Some(bias) => Some(self.vector(conv, bias)?),
            None => None,
        };
        self.found.insert(conv.name.clone(), Names { weight, bias, norm });
        self.flow.input(node, 0)
    }

    /// A constant with one number a channel.
    fn vector(&self, conv: &Conv, name: &'m str) -> Found<String> {
        match self.flow.constant(name) {
            Some(entry) if entry.elements() == conv.out_channels => Ok(entry.name.clone()),
            Some(entry) => Err(format!("{}: {name} is {:?}; expected [{}]", conv.name, entry.shape, conv.out_channels)),
            None => Err(format!("{}: {name} is no constant", conv.name)),
        }
    }

    /// The value is these pieces side by side.
    fn pieces(&mut self, pieces: &[Piece], name: &'m str, user: &str) -> Found<()> {
        let parts = match pieces {
            [_] => vec![name],
            _ => {
                let node = self.flow.expect(name, &["Concat"], &format!("{user}, before it"))?;
                if !matches!(node.int("axis"), Some(1 | -3)) || node.inputs.len() != pieces.len() {
                    let (count, axis) = (node.inputs.len(), node.int("axis").unwrap_or(0));
                    let expected = pieces.len();
                    return Err(format!(
                        "{user}: {node} joins {count} values along axis {axis}; expected {expected} along 1"
                    ));
                }
                node.inputs.iter().map(String::as_str).collect()
            }
        };
        for (piece, part) in pieces.iter().zip(parts) {
            let part = if piece.doubled { doubled(self.flow, part, user)? } else { part };
            self.bind(piece.value, part, user)?;
        }
        Ok(())
    }
}

/// What stands before the activation.
fn activated<'m>(flow: &Flow<'m>, name: &'m str, conv: &Conv) -> Found<&'m str> {
    match conv.activation {
        Activation::Identity => Ok(name),
        Activation::Silu => silu(flow, name, &conv.name),
    }
}

/// x of x·sigmoid(x).
pub(super) fn silu<'m>(flow: &Flow<'m>, name: &'m str, what: &str) -> Found<&'m str> {
    let product = flow.made_by(name, &["Mul"]);
    let sides = product.map(|node| flow.both(node)).transpose()?.unwrap_or_default();
    let gate = |(x, gate): &(&'m str, &'m str)| {
        flow.made_by(gate, &["Sigmoid"]).is_some_and(|node| flow.input(node, 0).is_ok_and(|inner| inner == *x))
    };
    let found = sides.into_iter().find(gate).map(|(x, _)| x);
    found.ok_or_else(|| format!("{what}: its result comes from {}; expected SiLU, x·sigmoid(x)", flow.describe(name)))
}

/// x of min(max(x + 3, 0), 6)/6, as one operator or as its arithmetic.
fn hard_sigmoid<'m>(flow: &Flow<'m>, name: &'m str, what: &str) -> Found<&'m str> {
    let node = flow.expect(name, &["HardSigmoid", "Div", "Mul"], what)?;
    if node.op == "HardSigmoid" {
        let (alpha, beta) = (node.float("alpha").unwrap_or(0.2), node.float("beta").unwrap_or(0.5));
        if (alpha - 1.0 / 6.0).abs() > 1e-4 || beta != 0.5 {
            return Err(format!("{what}: {node} has alpha {alpha} and beta {beta}; expected 1/6 and 0.5"));
        }
        return flow.input(node, 0);
    }
    let factor = if node.op == "Div" { 6.0 } else { 1.0 / 6.0 };
    let scaled = flow.both(node)?.into_iter().find(|(_, by)| flow.is_scalar(by, factor));
    let clip = scaled.and_then(|(clipped, _)| flow.made_by(clipped, &["Clip"]));
    let bound = |clip: &'m Node, attribute, input: usize, value: f32| match clip.float(attribute) {
        Some(found) => found == value,
        None => clip.inputs.get(input).and_then(|name| flow.scalar(name)) == Some(value),
    };
    let clip = clip.filter(|clip| bound(clip, "min", 1, 0.0) && bound(clip, "max", 2, 6.0));
    let sum = clip.and_then(|clip| flow.made_by(flow.input(clip, 0).ok()?, &["Add"]));
    let sides = sum.map(|node| flow.both(node)).transpose()?.unwrap_or_default();
    let found = sides.into_iter().find(|(_, three)| flow.is_scalar(three, 3.0)).map(|(x, _)| x);
    found.ok_or_else(|| format!("{what}: found {node}; expected a hard sigmoid"))
}

/// What is enlarged twofold by repeating pixels.
fn doubled<'m>(flow: &Flow<'m>, name: &'m str, user: &str) -> Found<&'m str> {
    let node = flow.expect(name, &["Resize", "Upsample"], &format!("{user}, before it"))?;
    let mode = node.text("mode").unwrap_or("nearest");
    // Scales are the second input but one of Resize since operator set 11.
    let scales = node
        .inputs
        .iter()
        .skip(1)
        .filter_map(|name| flow.constant(name))
        .find(|entry| entry.elements() == 4 && entry.is_loadable());
    let scales = scales.and_then(|entry| {
        let loaded = flow.model.weights.load(&entry.name, &[4], Some(DType::F32), &Device::Cpu);
        loaded.ok()?.to_vec1::<f32>().ok()
    });
    // A file may give the size instead, which is then that of the other pieces.
    let scales = scales.unwrap_or(vec![1.0, 1.0, 2.0, 2.0]);
    if mode != "nearest" || scales != [1.0, 1.0, 2.0, 2.0] {
        return Err(format!("{user}: {node} is {mode} by {scales:?}; expected nearest by [1, 1, 2, 2]"));
    }
    flow.input(node, 0)
}

/// What the largest values in windows of `size` are taken of; smaller windows in a row make a larger one.
fn pool<'m>(flow: &Flow<'m>, name: &'m str, size: usize) -> Found<&'m str> {
    let (mut name, mut reached) = (name, 1);
    while reached < size {
        let node = flow.expect(name, &["MaxPool"], &format!("pooling by {size}"))?;
        let kernel = match node.ints("kernel_shape").unwrap_or_default() {
            [a, b] if a == b && (2..=size as i64).contains(a) => *a as usize,
            other => return Err(format!("{node} has windows {other:?}; expected squares of at most {size}")),
        };
        let half = (kernel / 2) as i64;
        let plain =
            same(node, "strides", 1, &[1]) && same(node, "dilations", 1, &[1]) && same(node, "pads", half, &[0]);
        if !plain || kernel % 2 == 0 || node.int("ceil_mode").unwrap_or(0) != 0 {
            return Err(format!("{node} does not keep the size of the picture; expected stride 1 and padding {half}"));
        }
        reached += kernel - 1;
        name = flow.input(node, 0)?;
    }
    if reached != size {
        return Err(format!("pooling windows of {reached}; expected {size}"));
    }
    Ok(name)
}

/// The picture whose pixels are put side by side: four slices with step 2, (row, column) (0, 0), (1, 0), (0, 1), (1, 1).
fn focus<'m>(flow: &Flow<'m>, name: &'m str) -> Found<&'m str> {
    let what = "the pixels side by side";
    let node = flow.expect(name, &["Concat"], what)?;
    let mut picture = None;
    for (index, corner) in [[0, 0], [1, 0], [0, 1], [1, 1]].into_iter().enumerate() {
        let mut starts = [None; 2];
        let mut x = flow.input(node, index)?;
        while let Some(slice) = flow.made_by(x, &["Slice"]) {
            let of = |input| flow.integers(slice.inputs.get(input).map_or("", String::as_str)).unwrap_or_default();
            let (begin, axes, steps) = (of(1), of(3), of(4));
            if axes.is_empty() || axes.len() != begin.len() || axes.len() != steps.len() {
                return Err(format!("{what}: {slice} has no constant axes and steps"));
            }
            for ((axis, begin), step) in axes.iter().zip(begin).zip(steps) {
                let slot = match axis {
                    2 | -2 => &mut starts[0],
                    3 | -1 => &mut starts[1],
                    _ => return Err(format!("{what}: {slice} along axis {axis}")),
                };
                if step != 2 || slot.replace(begin).is_some() {
                    return Err(format!("{what}: {slice} with step {step}; expected 2, once along each side"));
                }
            }
            x = flow.input(slice, 0)?;
        }
        if starts != corner.map(Some) {
            let starts = starts.map(|start| start.map_or("every".to_owned(), |n: i64| n.to_string())).join(", ");
            return Err(format!("{what}: part {index} begins at {starts}; expected row and column {corner:?}"));
        }
        if picture.replace(x).is_some_and(|other| other != x) {
            return Err(format!("{what}: the parts come from different pictures"));
        }
    }
    match picture {
        Some(picture) if node.inputs.len() == 4 && matches!(node.int("axis"), Some(1 | -3)) => Ok(picture),
        _ => Err(format!("{what}: {node} joins {} parts; expected 4 along axis 1", node.inputs.len())),
    }
}

/// All numbers of a list attribute are `value`; without the attribute, `absent` says what the operator takes.
fn same(node: &Node, attribute: &str, value: i64, absent: &[i64]) -> bool {
    node.ints(attribute).unwrap_or(absent).iter().all(|n| *n == value)
}

/// Weight, stride, padding, dilation and groups of a convolution.
fn check_conv(node: &Node, dims: &[usize], conv: &Conv) -> Found<()> {
    let describe = |dims: &[usize], stride: i64| match dims {
        [o, i, k, _] => format!("a {k}×{k} convolution of {i} to {o} channels at stride {stride}"),
        dims => format!("a convolution with a weight {dims:?}"),
    };
    let stride = node.ints("strides").and_then(|s| s.first().copied()).unwrap_or(1);
    let expected = describe(&conv.weight_dims(), conv.stride as i64);
    if dims != conv.weight_dims() || !same(node, "strides", conv.stride as i64, &[1]) {
        return Err(format!("{}: found {}, {node}; expected {expected}", conv.name, describe(dims, stride)));
    }
    let groups = if conv.depthwise { conv.in_channels as i64 } else { 1 };
    let half = (conv.kernel / 2) as i64;
    let padded = match node.text("auto_pad") {
        None | Some("NOTSET") => same(node, "pads", half, &[0]),
        Some("SAME_UPPER" | "SAME_LOWER") => conv.stride == 1,
        Some(_) => half == 0,
    };
    if !padded || !same(node, "dilations", 1, &[1]) || node.int("group").unwrap_or(1) != groups {
        let (pads, group) = (node.ints("pads").unwrap_or_default(), node.int("group").unwrap_or(1));
        return Err(format!(
            "{}: {node} has pads {pads:?} and {group} groups; expected pads {half}, {groups} groups and no dilation",
            conv.name
        ));
    }
    Ok(())
}
