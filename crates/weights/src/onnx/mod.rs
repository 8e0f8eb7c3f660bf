//! ONNX files: the graph as a plain value, its weights as a [`Checkpoint`].
//!
//! Source: `onnx.proto` of the ONNX project (IR versions 3 and later). Weights stay in the memory map; nothing is run,
//! and nothing is inferred. What a graph means is for the network to say that wants its weights.

mod proto;
mod read;
mod scan;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

pub(crate) use read::{is_onnx, parse};

use crate::{Checkpoint, WeightsError};

/// An opened ONNX file.
#[derive(Debug, Clone)]
pub struct Model {
    /// The program that wrote it with its version, as far as the file says.
    pub producer: String,
    /// Versions of the operator sets by their domains; the standard one is the empty domain.
    pub opsets: BTreeMap<String, i64>,
    /// What must be given to the graph; initializers that older files list among the inputs are left out.
    pub inputs: Vec<Value>,
    /// What the graph gives.
    pub outputs: Vec<Value>,
    /// Operations, each after those whose results it uses, whatever their order in the file. `Constant` nodes are left
    /// out: their values are among the [`weights`](Self::weights).
    pub nodes: Vec<Node>,
    /// Initializers and constants by the names that nodes use.
    pub weights: Checkpoint,
}

impl Model {
    /// Opens an ONNX file. Weights are not read before they are asked for.
    ///
    /// # Errors
    /// [`WeightsError`] for a missing, damaged or hostile file, and for weights that lie in other files.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        read::open(path.as_ref())
    }

    /// The integers of a constant, say of a shape; `None` when the name is no constant of 64-bit integers.
    pub fn integers(&self, name: &str) -> Option<Vec<i64>> {
        self.weights.integers(name)
    }
}

/// An input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// Its name.
    pub name: String,
    /// The type of its elements as the format numbers them (1 is f32); 0 when the file does not say.
    pub element_type: i32,
    /// Its shape; `None` when the file does not say.
    pub dims: Option<Vec<Dim>>,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, read::element_type_name(self.element_type))?;
        let Some(dims) = &self.dims else { return Ok(()) };
        let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
        write!(f, " [{}]", dims.join(", "))
    }
}

/// A side of a shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Always so.
    Fixed(i64),
    /// Any, under this name (which may be empty).
    Any(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Any(name) if name.is_empty() => f.write_str("?"),
            Dim::Any(name) => f.write_str(name),
        }
    }
}

/// An operation.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// `Conv`, `Add`, ….
    pub op: String,
    /// The operator set that defines it; empty for the standard one.
    pub domain: String,
    /// Its name, for messages; may be empty.
    pub name: String,
    /// Names of what it uses, in order; the empty name stands for an input that is left out.
    pub inputs: Vec<String>,
    /// Names of what it makes, in order.
    pub outputs: Vec<String>,
    /// Attributes that the file gives; others have the operator's defaults.
    pub attributes: BTreeMap<String, Attribute>,
}

impl Node {
    /// An integer attribute.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.attributes.get(name) {
            Some(Attribute::Int(value)) => Some(*value),
            _ => None,
        }
    }

    /// A list of integers.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        match self.attributes.get(name) {
            Some(Attribute::Ints(values)) => Some(values),
            _ => None,
        }
    }

    /// A number.
    pub fn float(&self, name: &str) -> Option<f32> {
        match self.attributes.get(name) {
            Some(Attribute::Float(value)) => Some(*value),
            _ => None,
        }
    }

    /// A word.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.attributes.get(name) {
            Some(Attribute::Text(value)) => Some(value),
            _ => None,
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { self.outputs.first() } else { Some(&self.name) };
        write!(f, "{} ({})", self.op, name.map_or("", String::as_str))
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A number.
    Float(f32),
    /// Integers.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// A word.
    Text(String),
    /// A value of another kind.
    Other,
}

#[cfg(test)]
mod tests;
