//! Reading a graph against the flow of data: from a value to what made it.
//!
//! Nodes that leave values as they are (`Identity`, `Cast`, `Dropout`) are looked through, so that exporters may differ in
//! them.

use std::collections::{HashMap, HashSet};

use candle_core::{DType, Device};
use weights::Entry;
use weights::onnx::{Model, Node};

/// What was looked for, or how the graph differs, in words.
pub(super) type Found<T> = std::result::Result<T, String>;

/// Looks through at most so many nodes in a row; no export has more than a few.
pub(super) const MAX_CHAIN: usize = 64;

/// A graph with the makers of its values.
pub(super) struct Flow<'m> {
    pub model: &'m Model,
    makers: HashMap<&'m str, (&'m Node, usize)>,
}

impl<'m> Flow<'m> {
    pub fn new(model: &'m Model) -> Self {
        let mut makers = HashMap::new();
        for node in &model.nodes {
            for (index, name) in node.outputs.iter().enumerate() {
                makers.insert(name.as_str(), (node, index));
            }
        }
        Self { model, makers }
    }

    /// The value itself behind nodes that change nothing.
    pub fn source(&self, name: &'m str) -> &'m str {
        let mut name = name;
        for _ in 0..MAX_CHAIN {
            match self.makers.get(name) {
                Some((node, 0)) if matches!(node.op.as_str(), "Identity" | "Cast" | "Dropout") => {
                    let Some(input) = node.inputs.first() else { return name };
                    name = input;
                }
                _ => return name,
            }
        }
        name
    }

    /// The node that makes a value, and which of its outputs the value is.
    pub fn maker(&self, name: &'m str) -> Option<(&'m Node, usize)> {
        self.makers.get(self.source(name)).copied()
    }

    /// The node that makes a value, if it is one of these operations.
    pub fn made_by(&self, name: &'m str, ops: &[&str]) -> Option<&'m Node> {
        let (node, _) = self.maker(name)?;
        (node.domain.is_empty() && ops.contains(&node.op.as_str())).then_some(node)
    }

    /// The same, or what was found in its place.
    pub fn expect(&self, name: &'m str, ops: &[&str], what: &str) -> Found<&'m Node> {
        self.made_by(name, ops)
            .ok_or_else(|| format!("{what}: found {}; expected {}", self.describe(name), ops.join(" or ")))
    }

    /// What makes a value, for messages.
    pub fn describe(&self, name: &'m str) -> String {
        match self.maker(name) {
            Some((node, _)) if node.domain.is_empty() => node.to_string(),
            Some((node, _)) => format!("{node} of {}, an operator beyond the standard", node.domain),
            None if self.constant(name).is_some() => format!("the constant {name}"),
            None => format!("the input {name}"),
        }
    }

    /// An input of a node.
    pub fn input(&self, node: &'m Node, index: usize) -> Found<&'m str> {
        match node.inputs.get(index) {
            Some(name) if !name.is_empty() => Ok(self.source(name)),
            _ => Err(format!("{node} has no input {index}")),
        }
    }

    /// The two inputs of a node, in both orders.
    pub fn both(&self, node: &'m Node) -> Found<[(&'m str, &'m str); 2]> {
        let (a, b) = (self.input(node, 0)?, self.input(node, 1)?);
        Ok([(a, b), (b, a)])
    }

    /// A constant, also behind nodes that change its shape only.
    pub fn constant(&self, name: &'m str) -> Option<&'m Entry> {
        let mut name = self.source(name);
        for _ in 0..MAX_CHAIN {
            if let Some(entry) = self.model.weights.entry(name) {
                return Some(entry);
            }
            let node = self.made_by(name, &["Unsqueeze", "Squeeze", "Reshape", "Flatten", "Slice"])?;
            if node.op == "Slice" && !self.takes_all(node) {
                return None;
            }
            name = self.input(node, 0).ok()?;
        }
        None
    }

    /// Whether a slice leaves nothing out, as that of `[:]` does.
    fn takes_all(&self, slice: &'m Node) -> bool {
        let of = |attribute, input| self.list(slice, attribute, input).unwrap_or_default();
        let (starts, ends, steps) = (of("starts", 1), of("ends", 2), of("steps", 4));
        let endless = !ends.is_empty() && ends.iter().all(|end| *end >= i64::from(i32::MAX));
        endless && starts.iter().all(|start| *start == 0) && steps.iter().all(|step| *step == 1)
    }

    /// A constant of one number.
    pub fn scalar(&self, name: &'m str) -> Option<f32> {
        let entry = self.constant(name).filter(|entry| entry.elements() == 1)?;
        if let Some(&[integer]) = self.model.integers(&entry.name).as_deref() {
            return Some(integer as f32);
        }
        let loaded = self.model.weights.load(&entry.name, &entry.shape, Some(DType::F32), &Device::Cpu);
        loaded.ok()?.flatten_all().ok()?.to_vec1::<f32>().ok()?.first().copied()
    }

    /// Whether a value is a constant close to this.
    pub fn is_scalar(&self, name: &'m str, value: f64) -> bool {
        self.scalar(name).is_some_and(|found| (f64::from(found) - value).abs() <= 1e-4 * value.abs())
    }

    /// A constant list of integers.
    pub fn integers(&self, name: &'m str) -> Option<Vec<i64>> {
        self.model.integers(&self.constant(name)?.name)
    }

    /// A list that older operator sets hold in an attribute and newer ones in an input.
    pub fn list(&self, node: &'m Node, attribute: &str, input: usize) -> Option<Vec<i64>> {
        match node.ints(attribute) {
            Some(values) => Some(values.to_vec()),
            None => self.integers(node.inputs.get(input)?),
        }
    }

    /// All convolutions that these values come from, each after those it depends on, first inputs first.
    pub fn convolutions(&self, values: &[&'m str]) -> Vec<&'m Node> {
        let mut seen: HashSet<&str> = HashSet::new();
        let mut out = Vec::new();
        // A node is put on the stack to be opened and again to be closed.
        let mut stack: Vec<(&'m str, bool)> = values.iter().rev().map(|name| (*name, false)).collect();
        while let Some((name, close)) = stack.pop() {
            let Some((node, _)) = self.makers.get(name) else { continue };
            let key = node.outputs.first().map_or("", String::as_str);
            if close {
                if node.op == "Conv" {
                    out.push(*node);
                }
            } else if seen.insert(key) {
                stack.push((name, true));
                stack.extend(node.inputs.iter().rev().map(|input| (input.as_str(), false)));
            }
        }
        out
    }

    /// Shape of a convolution's weight.
    pub fn weight_dims(&self, conv: &'m Node) -> Option<&'m [usize]> {
        self.constant(conv.inputs.get(1)?).map(|entry| entry.shape.as_slice())
    }
}
