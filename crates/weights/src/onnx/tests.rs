use std::path::Path;

use candle_core::{DType, Device};
use proptest::prelude::*;
use prost::Message;

use super::{Attribute, Model, parse, proto};
use crate::{Checkpoint, Format, WeightsError};

fn tensor(name: &str, values: &[f32]) -> proto::Tensor {
    proto::Tensor {
        dims: vec![values.len() as i64],
        data_type: 1,
        name: name.into(),
        raw_data: Some(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ..Default::default()
    }
}

fn node(op: &str, inputs: &[&str], output: &str) -> proto::Node {
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    proto::Node { op_type: op.into(), input: names(inputs), output: names(&[output]), ..Default::default() }
}

/// `y = Relu(x + w) + c`, listed from its end.
fn graph() -> proto::Graph {
    let constant =
        proto::Attribute { name: "value".into(), t: Some(tensor("", &[5.0])), kind: 4, ..Default::default() };
    let value = |name: &str| proto::Value { name: name.into(), r#type: None };
    let mut relu = node("Relu", &["sum"], "positive");
    relu.attribute.push(proto::Attribute { name: "n".into(), i: Some(3), kind: 2, ..Default::default() });
    proto::Graph {
        node: vec![
            node("Add", &["positive", "c"], "y"),
            relu,
            node("Add", &["x", "w"], "sum"),
            proto::Node { attribute: vec![constant], ..node("Constant", &[], "c") },
        ],
        initializer: vec![tensor("w", &[1.0, 2.0])],
        input: vec![value("w"), value("x")],
        output: vec![value("y")],
    }
}

fn encode(graph: proto::Graph) -> Vec<u8> {
    let opset_import = vec![proto::OperatorSet { domain: String::new(), version: 11 }];
    proto::Model { ir_version: 6, graph: Some(graph), opset_import, ..Default::default() }.encode_to_vec()
}

fn read(graph: proto::Graph) -> Result<Model, WeightsError> {
    parse(Path::new("m.onnx"), encode(graph).into())
}

fn message(graph: proto::Graph) -> String {
    let text = read(graph).unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn nodes_are_sorted_and_constants_are_weights() {
    let model = read(graph()).unwrap();
    let ops: Vec<_> = model.nodes.iter().map(|n| n.outputs[0].as_str()).collect();
    assert_eq!(ops, ["sum", "positive", "y"]);
    assert_eq!(model.nodes[1].attributes["n"], Attribute::Int(3));
    let inputs: Vec<_> = model.inputs.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(inputs, ["x"], "initializers are no inputs");
    assert_eq!(model.opsets[""], 11);
    let load = |name: &str, count: usize| {
        let loaded = model.weights.load(name, &[count], Some(DType::F32), &Device::Cpu).unwrap();
        loaded.to_vec1::<f32>().unwrap()
    };
    assert_eq!((load("w", 2), load("c", 1)), (vec![1.0, 2.0], vec![5.0]));
}

#[test]
fn every_field_that_elements_may_stand_in_is_read() {
    let plain = |data_type| proto::Tensor { dims: vec![2], data_type, name: "w".into(), ..Default::default() };
    let cases = [
        proto::Tensor { float_data: vec![1.5, -2.0], ..plain(1) },
        proto::Tensor { double_data: vec![1.5, -2.0], ..plain(11) },
        proto::Tensor { raw_data: Some(vec![0x00, 0x3e, 0x00, 0xc0].into()), ..plain(10) },
        proto::Tensor { raw_data: Some(vec![0xc0, 0x3f, 0x00, 0xc0].into()), ..plain(16) },
    ];
    for case in cases {
        let model = read(proto::Graph { initializer: vec![case], ..graph() }).unwrap();
        let values = model.weights.load("w", &[2], Some(DType::F32), &Device::Cpu).unwrap();
        assert_eq!(values.to_vec1::<f32>().unwrap(), [1.5, -2.0]);
    }
    let shape = proto::Tensor { int64_data: vec![-1, 7], ..plain(7) };
    assert_eq!(read(proto::Graph { initializer: vec![shape], ..graph() }).unwrap().integers("w"), Some(vec![-1, 7]));
}

#[test]
fn weights_stay_where_they_lie() {
    let file = bytes::Bytes::from(encode(graph()));
    let range = file.as_ptr() as usize..file.as_ptr() as usize + file.len();
    let model = parse(Path::new("m.onnx"), file.clone()).unwrap();
    let data = &model.weights.entry("w").unwrap().parts[0].bytes;
    assert!(range.contains(&(data.as_ptr() as usize)));
}

#[test]
fn a_checkpoint_is_opened_from_onnx_under_any_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["m.onnx", "m.bin"] {
        let path = folder.path().join(name);
        std::fs::write(&path, encode(graph())).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!((checkpoint.format(), checkpoint.entries().len()), (Format::Onnx, 2));
    }
    let path = folder.path().join("empty.onnx");
    std::fs::write(&path, b"").unwrap();
    assert!(Model::open(&path).unwrap_err().to_string().contains("zero bytes"));
    assert!(Model::open(folder.path()).is_err() && Model::open(folder.path().join("gone.onnx")).is_err());
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    let with = |tensor: proto::Tensor| proto::Graph { initializer: vec![tensor], ..graph() };
    let w = || tensor("w", &[1.0, 2.0]);
    let cases = [
        (with(proto::Tensor { data_location: 1, ..w() }), "external data"),
        (with(proto::Tensor { dims: vec![3], ..w() }), "has 8 bytes; expected 12"),
        (with(proto::Tensor { dims: vec![-2], ..w() }), "impossible shape"),
        (with(proto::Tensor { dims: vec![i64::MAX, 0], ..w() }), "impossible shape"),
        (with(proto::Tensor { dims: vec![1; 1000], ..w() }), "impossible shape"),
        (with(proto::Tensor { data_type: 8, ..w() }), "element type 8"),
        (proto::Graph { initializer: vec![w(), w()], ..graph() }, "twice"),
        (proto::Graph { initializer: vec![], input: vec![], ..graph() }, "which nothing makes"),
        (proto::Graph { node: vec![node("Relu", &["a"], "b"), node("Relu", &["b"], "a")], ..graph() }, "circle"),
        (proto::Graph { node: vec![node("Relu", &["x"], "b"), node("Relu", &["x"], "b")], ..graph() }, "made twice"),
        (proto::Graph { node: vec![node("Relu", &["x"], "b"); 200_000], ..graph() }, "besides the weights"),
        (with(proto::Tensor { name: "w\n".into(), ..w() }), r"its name w\n has control characters"),
        (proto::Graph { node: vec![node("Re\u{1b}lu", &["x"], "b")], ..graph() }, r"name Re\u{1b}lu has control"),
        (proto::Graph { node: vec![node("Relu", &["x"], "b\0")], ..graph() }, r"name b\u{0} has control"),
    ];
    for (graph, says) in cases {
        let text = message(graph);
        assert!(text.contains(says), "{text}");
    }
    let model = read(with(tensor("w", &[1.0, f32::NAN]))).unwrap();
    let error = model.weights.load("w", &[2], None, &Device::Cpu).unwrap_err();
    assert!(matches!(WeightsError::from_candle(error), Ok(WeightsError::NotFinite { element: 1, .. })));
}

#[test]
fn deep_nesting_and_other_files_are_errors() {
    // An attribute's graph in a graph's node, again and again: passed over, not followed.
    let mut deep = Vec::new();
    for tag in [0x32u8, 0x2a, 0x0a].into_iter().cycle().take(30_000) {
        let mut outer = vec![tag];
        prost::encoding::encode_varint(deep.len() as u64, &mut outer);
        outer.append(&mut deep);
        deep = outer;
    }
    let mut file = vec![0x3a];
    prost::encoding::encode_varint(deep.len() as u64, &mut file);
    file.extend(deep);
    for bytes in [file, b"\x08\x07".to_vec(), vec![0xff; 64], b"<html>not found</html>".to_vec()] {
        let text = parse(Path::new("m.onnx"), bytes.into()).map(|m| m.nodes.len()).err().map(|e| e.to_string());
        assert!(text.as_ref().is_none_or(|t| !t.contains('\n')), "{text:?}");
    }
}

proptest! {
    #[test]
    fn a_file_cut_short_is_an_error(cut in 1..400usize) {
        let file = encode(graph());
        let cut = cut % file.len();
        // What ends between two fields of the model may still hold the graph; here the graph ends the file but for the opset.
        if let Ok(model) = parse(Path::new("m.onnx"), file[..cut].to_vec().into()) {
            prop_assert_eq!(model.nodes.len(), 3);
        }
    }

    #[test]
    fn wrong_bits_never_panic(at in 0..400usize, bits in 1..=255u8) {
        let mut file = encode(graph());
        let at = at % file.len();
        file[at] ^= bits;
        if let Ok(model) = parse(Path::new("m.onnx"), file.into()) {
            for entry in model.weights.entries() {
                let _ = model.weights.load(&entry.name, &entry.shape, None, &Device::Cpu);
            }
        }
    }
}
