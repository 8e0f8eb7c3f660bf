//! RTMPose's head: its matrices by the flow of data from the two outputs to the last convolution.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use weights::onnx::Node;
use weights::{Checkpoint, TensorMap, Weights};

use super::flow::{Flow, Found, MAX_CHAIN};
use super::trunk::silu;
use crate::net::rtmcc::{Dims, NORM_EPS};

/// A matrix in the file.
struct Matrix {
    name: String,
    /// `[in, out]`, as MatMul wants it; else `[out, in]`.
    in_first: bool,
    in_features: usize,
    out_features: usize,
}

/// Where the head's tensors stand in the file.
pub(in crate::net) struct HeadFound<'m> {
    /// What its sizes are.
    pub dims: Dims,
    /// What it is applied to.
    pub maps: &'m str,
    matrices: [(&'static str, Matrix); 5],
    /// By our name: the file's, and the shape.
    vectors: Vec<(&'static str, String, Vec<usize>)>,
}

impl HeadFound<'_> {
    /// The tensors under mmpose's names.
    ///
    /// # Errors
    /// Values that are not finite.
    pub fn weights(&self, file: &Checkpoint, device: &Device) -> Result<Weights> {
        let mut tensors: HashMap<String, Tensor> = HashMap::new();
        for (ours, matrix) in &self.matrices {
            let Matrix { name, in_first, in_features, out_features } = matrix;
            let tensor = if *in_first {
                file.load(name, &[*in_features, *out_features], Some(DType::F32), device)?.t()?.contiguous()?
            } else {
                file.load(name, &[*out_features, *in_features], Some(DType::F32), device)?
            };
            tensors.insert(format!("head.{ours}.weight"), tensor);
        }
        for (ours, name, shape) in &self.vectors {
            tensors.insert(format!("head.{ours}"), file.load(name, shape, Some(DType::F32), device)?);
        }
        Ok(Weights::new(Arc::new(TensorMap(tensors)), device.clone(), None))
    }
}

/// Finds the head behind the outputs `simcc_x` and `simcc_y`.
pub(super) fn find<'m>(flow: &Flow<'m>, x: &'m str, y: &'m str) -> Found<HeadFound<'m>> {
    let (tokens, cls_x) = linear(flow, x, "simcc_x")?;
    let (same, cls_y) = linear(flow, y, "simcc_y")?;
    if tokens != same {
        return Err(format!("simcc_x comes from {tokens} and simcc_y from {same}; expected one value"));
    }

    // The sum of the scaled input and of what the gate lets through.
    let sum = flow.expect(tokens, &["Add"], "the attention unit")?;
    let main = flow.both(sum)?.into_iter().find(|(_, main)| linear(flow, main, "").is_ok());
    let (scaled, gated) = main.ok_or_else(|| format!("{sum}: neither side is a matrix product"))?;
    let (gated, o) = linear(flow, gated, "gau.o")?;
    let (residual, res_scale) = factor(flow, scaled, "gau.res_scale")?;

    let product = flow.expect(gated, &["Mul"], "the gate")?;
    let weighed = flow.both(product)?.into_iter().find(|(_, weighed)| flow.made_by(weighed, &["MatMul"]).is_some());
    let (u, weighed) = weighed.ok_or_else(|| format!("{product}: neither side is a matrix product"))?;
    let weighed = flow.expect(weighed, &["MatMul"], "the weighed values")?;
    let (kernel, v) = (flow.input(weighed, 0)?, flow.input(weighed, 1)?);
    let (queries, keys) = scores(flow, kernel)?;
    let (query, key) = (part(flow, queries)?, part(flow, keys)?);
    if query.of != key.of || (query.start, key.start) != (0, 1) {
        return Err("the attention unit: queries and keys are not the first and second of one value".into());
    }
    let sum = flow.expect(query.of, &["Add"], "gau.beta")?;
    let sides = flow.both(sum)?.into_iter().find(|(_, beta)| flow.constant(beta).is_some());
    let (scaled, beta) = sides.ok_or_else(|| format!("{sum}: neither side is a constant"))?;
    let (base, gamma) = factor(flow, scaled, "gau.gamma")?;

    let (u, v, base) = (part(flow, u)?, part(flow, v)?, part(flow, base)?);
    let expanded = o.in_features;
    if u.of != v.of || v.of != base.of || [u.start, v.start, base.start] != [0, expanded, 2 * expanded] {
        return Err("the attention unit: gate, values and base are not three parts of one value".into());
    }
    let (normed, uv) = linear(flow, silu(flow, u.of, "gau.uv")?, "gau.uv")?;
    let (x, ln, ln_width) = scale_norm(flow, normed, "gau.ln")?;
    if x != residual {
        return Err(format!("the attention unit is applied to {x} and its residual is {residual}; expected one value"));
    }
    let (normed, mlp) = linear(flow, x, "mlp.1")?;
    let (flat, mlp_norm, mlp_width) = scale_norm(flow, normed, "mlp.0")?;
    let flat = flow.expect(flat, &["Reshape", "Flatten"], "mlp.0, before it")?;

    let attention = uv.out_features.saturating_sub(2 * expanded);
    let dims = Dims {
        features: mlp.in_features,
        hidden: mlp.out_features,
        expanded,
        attention,
        columns: cls_x.out_features,
        rows: cls_y.out_features,
    };
    let hidden = [o.out_features, uv.in_features, cls_x.in_features, cls_y.in_features, ln_width];
    if attention == 0 || hidden.iter().any(|n| *n != dims.hidden) || mlp_width != dims.features {
        return Err(format!("the head's matrices do not fit each other: {dims:?}"));
    }
    let mut vectors = Vec::new();
    for (ours, name, shape) in [
        ("mlp.0.g", mlp_norm, vec![1]),
        ("gau.ln.g", ln, vec![1]),
        ("gau.gamma", gamma, vec![2, attention]),
        ("gau.beta", beta, vec![2, attention]),
        ("gau.res_scale.scale", res_scale, vec![dims.hidden]),
    ] {
        let entry = flow.constant(name).filter(|entry| entry.elements() == shape.iter().product::<usize>());
        let entry = entry.ok_or_else(|| format!("{ours}: {name} has no shape {shape:?}"))?;
        vectors.push((ours, entry.name.clone(), shape));
    }
    let scale = (attention as f64).sqrt();
    check_scale(flow, kernel, scale)?;
    let matrices = [("mlp.1", mlp), ("gau.uv", uv), ("gau.o", o), ("cls_x", cls_x), ("cls_y", cls_y)];
    Ok(HeadFound { dims, maps: flow.input(flat, 0)?, matrices, vectors })
}

/// Input and matrix of a product with a constant.
fn linear<'m>(flow: &Flow<'m>, name: &'m str, what: &str) -> Found<(&'m str, Matrix)> {
    let node = flow.expect(name, &["MatMul"], what)?;
    let (x, w) = (flow.input(node, 0)?, flow.input(node, 1)?);
    let transposed = flow.made_by(w, &["Transpose"]).filter(|t| t.ints("perm").is_none_or(|perm| perm == [1, 0]));
    let (w, in_first) = match transposed {
        Some(node) => (flow.input(node, 0)?, false),
        None => (w, true),
    };
    match flow.constant(w) {
        Some(entry) => match entry.shape.as_slice() {
            &[a, b] => {
                let (in_features, out_features) = if in_first { (a, b) } else { (b, a) };
                Ok((x, Matrix { name: entry.name.clone(), in_first, in_features, out_features }))
            }
            other => Err(format!("{what}: {node} has a weight {other:?}; expected a matrix")),
        },
        None => Err(format!("{what}: {node} has no constant weight")),
    }
}

/// Input and constant of a product.
fn factor<'m>(flow: &Flow<'m>, name: &'m str, what: &str) -> Found<(&'m str, &'m str)> {
    let node = flow.expect(name, &["Mul"], what)?;
    let found = flow.both(node)?.into_iter().find(|(_, by)| flow.constant(by).is_some());
    found.ok_or_else(|| format!("{what}: {node} has no constant factor"))
}

/// Queries `[B, K, S]` and keys `[B, K, S]` of `relu(q·kᵀ/√S)²`.
fn scores<'m>(flow: &Flow<'m>, kernel: &'m str) -> Found<(&'m str, &'m str)> {
    let (product, _) = scaled_product(flow, kernel)?;
    let keys = flow.expect(flow.input(product, 1)?, &["Transpose"], "the keys")?;
    if keys.ints("perm") != Some(&[0, 2, 1]) {
        return Err(format!("the keys: {keys} by {:?}; expected [0, 2, 1]", keys.ints("perm").unwrap_or_default()));
    }
    Ok((flow.input(product, 0)?, flow.input(keys, 0)?))
}

/// The product of `relu(product·s)²`, and the node that multiplies by s or divides by 1/s.
fn scaled_product<'m>(flow: &Flow<'m>, kernel: &'m str) -> Found<(&'m Node, &'m Node)> {
    let square = flow.expect(kernel, &["Mul", "Pow"], "the attention's square")?;
    let (base, other) = (flow.input(square, 0)?, flow.input(square, 1)?);
    let squared = if square.op == "Mul" { base == other } else { flow.is_scalar(other, 2.0) };
    let relu = flow.expect(base, &["Relu"], "the attention's scores")?;
    let scale = flow.expect(flow.input(relu, 0)?, &["Div", "Mul"], "the attention's scale")?;
    let product = flow.both(scale)?.into_iter().find_map(|(x, _)| flow.made_by(x, &["MatMul"]));
    match product {
        Some(product) if squared => Ok((product, scale)),
        Some(_) => Err(format!("{square} is no square")),
        None => Err(format!("{scale}: neither side is a matrix product")),
    }
}

fn check_scale<'m>(flow: &Flow<'m>, kernel: &'m str, root: f64) -> Found<()> {
    let (_, scale) = scaled_product(flow, kernel)?;
    let value = if scale.op == "Div" { root } else { root.recip() };
    if flow.both(scale)?.into_iter().any(|(_, by)| flow.is_scalar(by, value)) {
        return Ok(());
    }
    Err(format!("{scale} scales the scores; expected a division by {root}"))
}

/// A stretch of the last axis, or one of two of the last but one.
struct Stretch<'m> {
    of: &'m str,
    start: usize,
}

/// What a value is cut from, and where the cut begins.
fn part<'m>(flow: &Flow<'m>, name: &'m str) -> Found<Stretch<'m>> {
    let mut name = name;
    for _ in 0..MAX_CHAIN {
        let Some(node) = flow.made_by(name, &["Squeeze", "Unsqueeze", "Reshape"]) else { break };
        name = flow.input(node, 0)?;
    }
    let node = flow.expect(name, &["Split", "Gather", "Slice"], "the attention's parts")?;
    let list = |attribute, input| flow.list(node, attribute, input);
    let start = match node.op.as_str() {
        "Split" => {
            let index = flow.maker(name).map_or(0, |(_, index)| index);
            // Without sizes the parts are alike, which only those of size one are here.
            let sizes = list("split", 1).unwrap_or_else(|| vec![1; node.outputs.len()]);
            sizes.iter().take(index).sum::<i64>()
        }
        "Gather" => match node.inputs.get(1).and_then(|i| flow.integers(i)).as_deref() {
            Some([index]) => *index,
            _ => return Err(format!("{node} has no constant index")),
        },
        _ => match list("starts", 1).as_deref() {
            Some([start]) => *start,
            _ => return Err(format!("{node} has no constant start")),
        },
    };
    let start = usize::try_from(start).map_err(|_| format!("{node} begins at {start}"))?;
    Ok(Stretch { of: flow.input(node, 0)?, start })
}

/// Input, factor and width of `x / max(‖x‖·width^−½, ε)·g`.
fn scale_norm<'m>(flow: &Flow<'m>, name: &'m str, what: &str) -> Found<(&'m str, &'m str, usize)> {
    let (quotient, g) = factor(flow, name, what)?;
    let quotient = flow.expect(quotient, &["Div"], what)?;
    let (x, length) = (flow.input(quotient, 0)?, flow.input(quotient, 1)?);
    let clip = flow.expect(length, &["Clip", "Max"], what)?;
    let least = match clip.float("min") {
        Some(min) => Some(min),
        None => clip.inputs.iter().skip(1).find_map(|name| flow.scalar(name)),
    };
    let least = least.unwrap_or(f32::NEG_INFINITY);
    if (f64::from(least) - NORM_EPS).abs() > 1e-3 * NORM_EPS {
        return Err(format!("{what}: {clip} has the lower bound {least}; expected {NORM_EPS}"));
    }
    let (norm, scale) = factor(flow, flow.input(clip, 0)?, what)?;
    let scale = flow.scalar(scale).ok_or_else(|| format!("{what}: the length's factor is no number"))?;
    let width = f64::from(scale).powi(-2);
    if !width.is_finite() || !(0.5..1e6).contains(&width) || (width - width.round()).abs() > 1e-3 * width {
        return Err(format!("{what}: the length is multiplied by {scale}; expected the root of 1/width"));
    }
    if length_of(flow, norm) != Some(x) {
        return Err(format!("{what}: {} is not the length of what it divides", flow.describe(norm)));
    }
    Ok((x, g, width.round() as usize))
}

/// x of ‖x‖ along the last axis.
fn length_of<'m>(flow: &Flow<'m>, name: &'m str) -> Option<&'m str> {
    let reduced = |node: &'m Node| {
        let axes = flow.list(node, "axes", 1)?;
        let kept = node.int("keepdims").unwrap_or(1) == 1 && matches!(axes.as_slice(), [2 | -1]);
        kept.then(|| flow.input(node, 0).ok()).flatten()
    };
    if let Some(node) = flow.made_by(name, &["ReduceL2"]) {
        return reduced(node);
    }
    let root = flow.made_by(name, &["Sqrt"])?;
    let sum = flow.made_by(flow.input(root, 0).ok()?, &["ReduceSum", "ReduceSumSquare"])?;
    let inner = reduced(sum)?;
    if sum.op == "ReduceSumSquare" {
        return Some(inner);
    }
    let square = flow.made_by(inner, &["Mul", "Pow"])?;
    let (base, other) = (flow.input(square, 0).ok()?, flow.input(square, 1).ok()?);
    let squared = if square.op == "Mul" { base == other } else { flow.is_scalar(other, 2.0) };
    squared.then_some(base)
}
