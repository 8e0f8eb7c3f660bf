//! From bytes to the checked graph.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use safetensors::Dtype;

use super::{Attribute, Dim, Model, Node, Value, proto, scan};
use crate::checkpoint::{self, Entry, Part, StoredType, check_tensor};
use crate::error::visible;
use crate::{Checkpoint, Format, WeightsError};

/// The format's own limit.
const MAX_FILE_BYTES: usize = i32::MAX as usize;
/// A graph of five hundred operations takes a tenth of a megabyte.
const MAX_GRAPH_BYTES: usize = 2 << 20;
/// Tensors have four dimensions, seldom six.
const MAX_RANK: usize = 16;

/// Whether the beginning of a file, or its name, says ONNX: field 1, the version of the format, comes first.
pub(crate) fn is_onnx(path: &Path, bytes: &[u8]) -> bool {
    let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    // A safetensors header may begin with the same length byte; its text begins with a brace.
    named || matches!(bytes, [0x08, 1..=0x1f, ..] if bytes.get(8) != Some(&b'{'))
}

pub(super) fn open(path: &Path) -> Result<Model, WeightsError> {
    let info = std::fs::metadata(path).map_err(|source| WeightsError::Open { path: path.to_owned(), source })?;
    if !info.is_file() {
        let found = "not a file".to_owned();
        return Err(WeightsError::NotACheckpoint { path: path.to_owned(), found });
    }
    parse(path, checkpoint::map_file(path)?)
}

pub(crate) fn parse(path: &Path, bytes: Bytes) -> Result<Model, WeightsError> {
    Reader { path }.model(bytes)
}

/// What element types are called in messages.
pub(super) fn element_type_name(number: i32) -> String {
    match number {
        0 => "of unknown type".into(),
        1 => "f32".into(),
        2 => "u8".into(),
        6 => "i32".into(),
        7 => "i64".into(),
        10 => "f16".into(),
        11 => "f64".into(),
        16 => "bf16".into(),
        n => format!("of element type {n}"),
    }
}

fn dtype(number: i32) -> Option<Dtype> {
    Some(match number {
        1 => Dtype::F32,
        2 => Dtype::U8,
        3 => Dtype::I8,
        4 => Dtype::U16,
        5 => Dtype::I16,
        6 => Dtype::I32,
        7 => Dtype::I64,
        9 => Dtype::BOOL,
        10 => Dtype::F16,
        11 => Dtype::F64,
        12 => Dtype::U32,
        13 => Dtype::U64,
        16 => Dtype::BF16,
        _ => return None,
    })
}

struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn damaged(&self, problem: String) -> WeightsError {
        WeightsError::damaged(self.path, problem)
    }

    fn unsupported(&self, problem: String) -> WeightsError {
        WeightsError::Onnx { path: self.path.to_owned(), problem: visible(&problem) }
    }

    fn model(&self, bytes: Bytes) -> Result<Model, WeightsError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(self.unsupported(format!("it has {} bytes; an ONNX file has at most 2 GiB", bytes.len())));
        }
        let not_protobuf =
            || self.damaged("it is cut short, or no ONNX file at all (its protobuf cannot be read)".into());
        let graph_bytes = scan::graph_bytes(&bytes).ok_or_else(not_protobuf)?;
        if graph_bytes > MAX_GRAPH_BYTES {
            let problem =
                format!("its graph takes {graph_bytes} bytes besides the weights; at most {MAX_GRAPH_BYTES} are read");
            return Err(self.unsupported(problem));
        }
        let message =
            proto::Model::decode(bytes).map_err(|e| self.damaged(format!("its protobuf cannot be read ({})", e)))?;
        let Some(graph) = message.graph else {
            return Err(self.damaged("it holds no ONNX graph".into()));
        };
        if let Some(name) = names(&graph).find(|name| name.contains(char::is_control)) {
            return Err(self.damaged(format!("its name {name:.200} has control characters")));
        }
        let mut entries = BTreeMap::new();
        for tensor in graph.initializer {
            self.add_tensor(tensor, &mut entries)?;
        }
        let mut nodes = Vec::with_capacity(graph.node.len());
        for node in graph.node {
            self.add_node(node, &mut nodes, &mut entries)?;
        }
        let given: Vec<Value> =
            graph.input.into_iter().map(value).filter(|input| !entries.contains_key(&input.name)).collect();
        let nodes = self.sorted(nodes, &given, &entries)?;
        let opsets = message.opset_import.into_iter().map(|set| {
            let domain = if set.domain == "ai.onnx" { String::new() } else { set.domain };
            (domain, set.version)
        });
        Ok(Model {
            producer: format!("{} {}", message.producer_name, message.producer_version).trim().to_owned(),
            opsets: opsets.collect(),
            inputs: given,
            outputs: graph.output.into_iter().map(value).collect(),
            nodes,
            weights: Checkpoint::from_entries(self.path, Format::Onnx, entries),
        })
    }

    fn add_node(
        &self,
        node: proto::Node,
        nodes: &mut Vec<Node>,
        entries: &mut BTreeMap<String, Entry>,
    ) -> Result<(), WeightsError> {
        let standard = node.domain.is_empty() || node.domain == "ai.onnx";
        if standard && node.op_type == "Constant" {
            let Some(name) = node.output.into_iter().next() else {
                return Err(self.damaged(format!("constant {} has no output", node.name)));
            };
            // A constant of another kind (a word, a sparse tensor) is left out; who needs it finds it missing.
            let constant = node.attribute.into_iter().find_map(constant);
            return constant.map_or(Ok(()), |tensor| self.add_tensor(proto::Tensor { name, ..tensor }, entries));
        }
        let attributes = node.attribute.into_iter().map(|a| (a.name.clone(), attribute(a))).collect();
        nodes.push(Node {
            op: node.op_type,
            domain: if standard { String::new() } else { node.domain },
            name: node.name,
            inputs: node.input,
            outputs: node.output,
            attributes,
        });
        Ok(())
    }

    fn add_tensor(&self, tensor: proto::Tensor, entries: &mut BTreeMap<String, Entry>) -> Result<(), WeightsError> {
        let proto::Tensor { name, dims, data_type, .. } = &tensor;
        if tensor.data_location != 0 {
            let problem = format!(
                "tensor {name} lies in another file (external data); save the model as one file, with its weights inside"
            );
            return Err(self.unsupported(problem));
        }
        let dtype = dtype(*data_type).ok_or_else(|| {
            self.unsupported(format!("tensor {name} is {}, which is not read", element_type_name(*data_type)))
        })?;
        let shape: Option<Vec<usize>> = dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let Some(shape) = shape.filter(|shape| shape.len() <= MAX_RANK) else {
            let shown: Vec<_> = dims.iter().take(MAX_RANK).collect();
            return Err(self.damaged(format!("tensor {name} has the impossible shape {shown:?}")));
        };
        check_tensor(self.path, name, &shape)?;
        let elements: usize = shape.iter().product();
        let needed = elements * dtype.bitsize() / 8;
        let data = match &tensor.raw_data {
            Some(raw) => raw.clone(),
            None => typed(&tensor),
        };
        if data.len() != needed {
            let problem = format!("tensor {name} of shape {shape:?} has {} bytes; expected {needed}", data.len());
            return Err(self.damaged(problem));
        }
        let part = Part::plain(data, StoredType::Plain(dtype), shape.clone());
        let entry = Entry::new(name.clone(), shape, part);
        match entries.insert(name.clone(), entry) {
            None => Ok(()),
            Some(_) => Err(self.damaged(format!("tensor {name} stands in it twice"))),
        }
    }

    /// The nodes in an order in which each comes after those it needs, otherwise as they were.
    fn sorted(
        &self,
        nodes: Vec<Node>,
        given: &[Value],
        entries: &BTreeMap<String, Entry>,
    ) -> Result<Vec<Node>, WeightsError> {
        let mut maker: HashMap<&str, usize> = HashMap::new();
        for (index, node) in nodes.iter().enumerate() {
            for name in node.outputs.iter().filter(|n| !n.is_empty()) {
                if maker.insert(name, index).is_some() || entries.contains_key(name) {
                    return Err(self.damaged(format!("value {name} is made twice")));
                }
            }
        }
        let known: BTreeSet<&str> = given.iter().map(|v| v.name.as_str()).collect();
        let mut waits = vec![0usize; nodes.len()];
        let mut users: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        for (index, node) in nodes.iter().enumerate() {
            for name in node.inputs.iter().filter(|n| !n.is_empty() && !entries.contains_key(*n)) {
                match maker.get(name.as_str()) {
                    Some(made_by) => {
                        waits[index] += 1;
                        users[*made_by].push(index);
                    }
                    None if known.contains(name.as_str()) => {}
                    None => return Err(self.damaged(format!("{node} uses {name}, which nothing makes"))),
                }
            }
        }
        let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|i| waits[*i] == 0).collect();
        let mut order = Vec::with_capacity(nodes.len());
        while let Some(next) = ready.pop_first() {
            order.push(next);
            for user in &users[next] {
                waits[*user] -= 1;
                if waits[*user] == 0 {
                    ready.insert(*user);
                }
            }
        }
        if let Some(stuck) = waits.iter().position(|n| *n > 0) {
            return Err(self.damaged(format!("its graph has a circle through {}", nodes[stuck])));
        }
        let mut nodes: Vec<Option<Node>> = nodes.into_iter().map(Some).collect();
        Ok(order.into_iter().filter_map(|index| nodes[index].take()).collect())
    }
}

/// The names of a graph that may come into messages.
fn names(graph: &proto::Graph) -> impl Iterator<Item = &str> {
    let tensors = graph.initializer.iter().map(|t| t.name.as_str());
    tensors
        .chain(graph.node.iter().flat_map(names_of_node))
        .chain(graph.input.iter().chain(&graph.output).flat_map(names_of_value))
}

fn names_of_node(node: &proto::Node) -> impl Iterator<Item = &str> {
    let own = [&node.name, &node.op_type, &node.domain].into_iter();
    own.chain(&node.input).chain(&node.output).chain(node.attribute.iter().map(|a| &a.name)).map(String::as_str)
}

fn names_of_value(value: &proto::Value) -> impl Iterator<Item = &str> {
    let shape = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).and_then(|t| t.shape.as_ref());
    let dims = shape.into_iter().flat_map(|s| &s.dim).filter_map(|d| d.dim_param.as_deref());
    dims.chain([value.name.as_str()])
}

/// Elements that stand in a typed field, as bytes. Other fields than these hold types that no network here is stored in.
fn typed(tensor: &proto::Tensor) -> Bytes {
    match tensor.data_type {
        1 => tensor.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        7 => tensor.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        11 => tensor.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        _ => Bytes::new(),
    }
}

/// The tensor of a `Constant` node.
fn constant(attribute: proto::Attribute) -> Option<proto::Tensor> {
    let of = |data_type, dims| proto::Tensor { data_type, dims, ..Default::default() };
    match attribute.name.as_str() {
        "value" => attribute.t,
        "value_float" => Some(proto::Tensor { float_data: vec![attribute.f?], ..of(1, vec![]) }),
        "value_int" => Some(proto::Tensor { int64_data: vec![attribute.i?], ..of(7, vec![]) }),
        "value_floats" => {
            let dims = vec![attribute.floats.len() as i64];
            Some(proto::Tensor { float_data: attribute.floats, ..of(1, dims) })
        }
        "value_ints" => {
            let dims = vec![attribute.ints.len() as i64];
            Some(proto::Tensor { int64_data: attribute.ints, ..of(7, dims) })
        }
        _ => None,
    }
}

fn attribute(attribute: proto::Attribute) -> Attribute {
    // Numbers of `AttributeProto.AttributeType`; files older than that field leave it zero.
    match (attribute.kind, attribute.i, attribute.f, attribute.s) {
        (0 | 2, Some(i), ..) => Attribute::Int(i),
        (2, None, ..) => Attribute::Int(0),
        (0 | 1, _, Some(f), _) => Attribute::Float(f),
        (1, ..) => Attribute::Float(0.0),
        (0 | 3, .., Some(s)) => Attribute::Text(String::from_utf8_lossy(&s).into_owned()),
        (3, ..) => Attribute::Text(String::new()),
        (0, ..) if !attribute.ints.is_empty() => Attribute::Ints(attribute.ints),
        (7, ..) => Attribute::Ints(attribute.ints),
        (0, ..) if !attribute.floats.is_empty() => Attribute::Floats(attribute.floats),
        (6, ..) => Attribute::Floats(attribute.floats),
        _ => Attribute::Other,
    }
}

fn value(value: proto::Value) -> Value {
    let tensor = value.r#type.and_then(|t| t.tensor_type);
    let element_type = tensor.as_ref().map_or(0, |t| t.elem_type);
    let dim = |d: proto::Dimension| match d.dim_value {
        Some(n) => Dim::Fixed(n),
        None => Dim::Any(d.dim_param.unwrap_or_default()),
    };
    let dims = tensor.and_then(|t| t.shape).map(|shape| shape.dim.into_iter().map(dim).collect());
    Value { name: value.name, element_type, dims }
}
