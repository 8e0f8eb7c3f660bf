//! Graphs that differ from the networks in one place each, and graphs that only look different.

use std::path::Path;

use proptest::prelude::*;
use weights::onnx::{Attribute, Dim, Model, Node, Value};

use super::{dwpose, yolox};

fn open(name: &str) -> Model {
    Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nets").join(name)).unwrap()
}

/// What is said of the graph after a change.
fn detector(change: impl FnOnce(&mut Model)) -> Option<String> {
    let mut model = open("yolox.onnx");
    change(&mut model);
    said(yolox(&model).map(drop))
}

fn keypoints(change: impl FnOnce(&mut Model)) -> Option<String> {
    let mut model = open("pose.onnx");
    change(&mut model);
    said(dwpose(&model).map(drop))
}

fn said(result: candle_core::Result<()>) -> Option<String> {
    let text = result.err().map(|e| e.to_string().lines().next().unwrap_or_default().to_owned());
    assert!(text.as_ref().is_none_or(|t| !t.contains("Some(")), "{text:?}");
    text
}

fn assert_says(found: Option<String>, words: &str) {
    let found = found.unwrap_or_else(|| panic!("accepted; expected an error with {words:?}"));
    assert!(found.contains(words), "{found:?} does not say {words:?}");
}

/// The `n`th node of an operation.
fn node<'a>(model: &'a mut Model, op: &str, n: usize) -> &'a mut Node {
    model.nodes.iter_mut().filter(|node| node.op == op).nth(n).unwrap()
}

fn set(node: &mut Node, name: &str, value: Attribute) {
    node.attributes.insert(name.into(), value);
}

fn value(name: &str, element_type: i32, dims: &[i64]) -> Value {
    Value { name: name.into(), element_type, dims: Some(dims.iter().map(|d| Dim::Fixed(*d)).collect()) }
}

#[test]
fn other_operator_sets_inputs_and_outputs_are_named() {
    for (version, says) in [(Some(8), "version 8 of"), (Some(22), "version 22 of"), (None, "version none of")] {
        let change = |model: &mut Model| {
            model.opsets.clear();
            model.opsets.extend(version.map(|v| (String::new(), v)));
        };
        assert_says(detector(change), says);
        assert_says(keypoints(change), "9 to 21");
    }
    let inputs = [
        (vec![], "the inputs none"),
        (vec![value("images", 1, &[1, 3, 64, 90])], "images f32 [1, 3, 64, 90]"),
        (vec![value("images", 2, &[1, 3, 64, 96])], "images u8 [1, 3, 64, 96]"),
        (vec![value("images", 1, &[1, 64, 96, 3])], "images f32 [1, 64, 96, 3]"),
        (vec![value("images", 1, &[1, 3, -64, 96])], "images f32 [1, 3, -64, 96]"),
        (vec![value("images", 1, &[1, 3, 64, 96]), value("size", 7, &[2])], "size i64 [2]"),
    ];
    for (inputs, says) in inputs {
        assert_says(detector(|model| model.inputs = inputs), says);
    }
    assert_says(keypoints(|model| model.inputs = vec![value("input", 1, &[1, 3, 256, 192])]), "pictures of 32x64");
    let boxes = vec![value("dets", 1, &[1, 100, 5]), value("labels", 7, &[1, 100])];
    assert_says(detector(|model| model.outputs = boxes), "dets f32 [1, 100, 5], labels i64 [1, 100]");
    assert_says(keypoints(|model| model.outputs.truncate(1)), "expected simcc_x and simcc_y");
}

#[test]
fn one_other_operation_in_the_detector_is_found() {
    let cases: [(&str, usize, &str, &str); 6] = [
        ("Sigmoid", 3, "Tanh", "expected SiLU"),
        ("Mul", 5, "Add", "expected SiLU"),
        ("Add", 0, "Sub", "expected Add"),
        ("MaxPool", 1, "AveragePool", "expected MaxPool"),
        ("Transpose", 0, "Exp", "boxes must not be decoded"),
        ("Resize", 0, "ConvTranspose", "expected Resize"),
    ];
    for (op, n, other, says) in cases {
        assert_says(detector(|model| node(model, op, n).op = other.into()), says);
    }
    let foreign = |model: &mut Model| node(model, "Conv", 7).domain = "com.microsoft".into();
    assert_says(detector(foreign), "com.microsoft, an operator beyond the standard");
}

#[test]
fn one_other_attribute_in_the_detector_is_found() {
    let cases: [(&str, usize, &str, Attribute, &str); 9] = [
        ("Conv", 4, "dilations", Attribute::Ints(vec![2, 2]), "no dilation"),
        ("Conv", 4, "group", Attribute::Int(2), "2 groups"),
        ("Conv", 1, "pads", Attribute::Ints(vec![0, 0, 0, 0]), "pads 1"),
        ("Conv", 1, "strides", Attribute::Ints(vec![1, 1]), "make no pyramid behind"),
        ("MaxPool", 2, "kernel_shape", Attribute::Ints(vec![15, 15]), "at most 13"),
        ("MaxPool", 2, "strides", Attribute::Ints(vec![2, 2]), "keep the size"),
        ("Resize", 1, "mode", Attribute::Text("linear".into()), "expected nearest"),
        ("Concat", 1, "axis", Attribute::Int(2), "expected 2 along 1"),
        ("Transpose", 0, "perm", Attribute::Ints(vec![0, 1, 2]), "expected [0, 2, 1]"),
    ];
    for (op, n, name, attribute, says) in cases {
        assert_says(detector(|model| set(node(model, op, n), name, attribute)), says);
    }
}

#[test]
fn other_connections_in_the_detector_are_found() {
    // The two halves of a cross-stage layer, the quarters of a 2×2 square, box and classes, two levels.
    for n in 0..3 {
        assert!(detector(|model| node(model, "Concat", n).inputs.swap(0, 1)).is_some(), "Concat {n}");
    }
    let last = open("yolox.onnx").nodes.iter().filter(|node| node.op == "Concat").count() - 1;
    assert!(detector(|model| node(model, "Concat", last).inputs.swap(0, 2)).is_some());
    let skip = |model: &mut Model| {
        let input = node(model, "Conv", 2).inputs[0].clone();
        node(model, "Conv", 4).inputs[0] = input;
    };
    assert!(detector(skip).is_some());
    assert_says(detector(|model| node(model, "Conv", 9).inputs.truncate(1)), "has no input 1");
    assert!(detector(|model| model.nodes.clear()).is_some());
}

#[test]
fn one_difference_in_the_keypoint_network_is_found() {
    let attributes: [(&str, usize, &str, Attribute, &str); 5] = [
        ("HardSigmoid", 0, "alpha", Attribute::Float(0.2), "expected 1/6 and 0.5"),
        ("Split", 0, "split", Attribute::Ints(vec![24, 25, 7]), "not three parts"),
        ("ReduceL2", 1, "axes", Attribute::Ints(vec![1]), "not the length"),
        ("Transpose", 0, "perm", Attribute::Ints(vec![0, 1, 2]), "expected [0, 2, 1]"),
        ("Concat", 0, "axis", Attribute::Int(3), "along axis 3"),
    ];
    for (op, n, name, attribute, says) in attributes {
        assert_says(keypoints(|model| set(node(model, op, n), name, attribute)), says);
    }
    let depthwise = |model: &mut Model| {
        let conv = model.nodes.iter_mut().find(|n| n.int("group").is_some_and(|g| g > 1)).unwrap();
        set(conv, "group", Attribute::Int(1));
    };
    assert_says(keypoints(depthwise), "and 1 groups; expected pads 2");
    let operations = [
        ("Relu", "Softmax", "expected Relu"),
        ("Clip", "Abs", "expected Clip"),
        ("GlobalAveragePool", "GlobalMaxPool", "expected GlobalAveragePool"),
    ];
    for (op, other, says) in operations {
        assert_says(keypoints(|model| node(model, op, 0).op = other.into()), says);
    }
    let swapped = |model: &mut Model| {
        // Queries for keys.
        let (a, b) = (node(model, "Squeeze", 0).inputs[0].clone(), node(model, "Squeeze", 1).inputs[0].clone());
        node(model, "Squeeze", 0).inputs[0] = b;
        node(model, "Squeeze", 1).inputs[0] = a;
    };
    assert_says(keypoints(swapped), "queries and keys");
    // The root that scores are divided by, for one of the same kind.
    let scaled = |model: &mut Model| {
        let other = node(model, "Clip", 0).inputs[1].clone();
        let div = model.nodes.iter_mut().filter(|n| n.op == "Div").last().unwrap();
        div.inputs[1] = other;
    };
    assert_says(keypoints(scaled), "expected a division by 2.8");
}

#[test]
fn one_difference_in_spelled_out_arithmetic_is_found() {
    let say = |change: &dyn Fn(&mut Model)| {
        let mut model = open("pose_unfolded.onnx");
        change(&mut model);
        said(dwpose(&model).map(drop))
    };
    assert_eq!(say(&|_| {}), None);
    // Bounds of the hard sigmoid, the exponent, the place of the queries, the axis of a length.
    assert_says(say(&|model| node(model, "Clip", 0).inputs.swap(1, 2)), "expected a hard sigmoid");
    let other = |model: &mut Model, op: &str, n: usize, from: &str| {
        let constant = node(model, from, 0).inputs[1].clone();
        node(model, op, n).inputs[1] = constant;
    };
    assert_says(say(&|model| other(model, "Pow", 0, "Clip")), "is no square");
    assert_says(say(&|model| other(model, "Gather", 1, "Gather")), "queries and keys");
    assert_says(say(&|model| other(model, "ReduceSum", 0, "Gather")), "not the length");
    assert_says(say(&|model| node(model, "BatchNormalization", 3).inputs.truncate(4)), "has no input 4");
}

#[test]
fn graphs_that_only_look_different_are_the_same_network() {
    let commute = |model: &mut Model| {
        for node in model.nodes.iter_mut().filter(|n| matches!(n.op.as_str(), "Add" | "Mul")) {
            node.inputs.swap(0, 1);
        }
    };
    let behind_identities = |model: &mut Model| {
        let mut added = Vec::new();
        for (n, node) in model.nodes.iter_mut().enumerate() {
            for input in node.inputs.iter_mut().filter(|name| !name.is_empty()) {
                let output = format!("same {n} {input}");
                added.push(Node {
                    op: "Identity".into(),
                    domain: String::new(),
                    name: String::new(),
                    inputs: vec![std::mem::replace(input, output.clone())],
                    outputs: vec![output],
                    attributes: Default::default(),
                });
            }
        }
        // Named alike where an operation uses a value twice.
        added.dedup_by(|a, b| a.outputs == b.outputs);
        model.nodes.extend(added);
    };
    assert_eq!(detector(commute), None);
    assert_eq!(keypoints(commute), None);
    assert_eq!(detector(behind_identities), None);
    assert_eq!(keypoints(behind_identities), None);
    assert_eq!(keypoints(|model| model.outputs.swap(0, 1)), None, "outputs are told by their names");
    assert_eq!(detector(|model| model.inputs[0].dims = None), None);
    let logits = |model: &mut Model| {
        // Without the sigmoids of the head.
        for node in model.nodes.iter_mut().filter(|n| n.op == "Concat" && n.inputs.len() == 3) {
            for input in node.inputs.iter_mut() {
                if let Some(conv) = input.strip_prefix("/bbox_head/Sigmoid") {
                    let n: usize = conv.trim_start_matches('_').split('_').next().unwrap().parse().unwrap_or(0);
                    let kind = if n.is_multiple_of(2) { "obj" } else { "cls" };
                    *input = format!("/bbox_head/multi_level_conv_{kind}.{}/Conv_output_0", n / 2);
                }
            }
        }
    };
    assert_eq!(detector(logits), None);
}

#[test]
fn depths_are_told_from_the_graph() {
    // Of the last stage and the pyramid the graph's convolutions tell a sum only, which five blocks and one would also make.
    let model = open("yolox.onnx");
    let (config, _) = yolox(&model).unwrap();
    assert_eq!((config.blocks, config.neck_blocks, config.input_size), ([1, 2, 1, 1], 2, [64, 96]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// One node at a time is given another operation, other inputs or an attribute.
    #[test]
    fn no_change_of_a_graph_panics(at in 0..1000usize, from in 0..1000usize, kind in 0..5usize, n in -3..4i64) {
        for (name, is_pose) in [("yolox.onnx", false), ("pose.onnx", true)] {
            let mut model = open(name);
            let count = model.nodes.len();
            let other = model.nodes[from % count].clone();
            let node = &mut model.nodes[at % count];
            match kind {
                0 => node.op = other.op,
                1 => node.inputs = other.inputs,
                2 if node.inputs.len() > 1 => node.inputs.rotate_left(1),
                2 => {}
                3 => node.attributes.values_mut().for_each(|value| {
                    if let Attribute::Ints(values) = value {
                        values.iter_mut().for_each(|v| *v = v.wrapping_add(n));
                    }
                }),
                _ => node.attributes.clear(),
            }
            let _ = if is_pose { dwpose(&model).map(drop) } else { yolox(&model).map(drop) };
        }
    }
}
