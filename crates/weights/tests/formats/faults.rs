//! Scales that do not belong to their weights.

use weights::{Checkpoint, WeightsError};

use super::support::file;

type Tensor<'a> = (&'a str, &'a str, &'a [usize], &'a [u8]);

fn said(tensors: &[Tensor], metadata: &[(&str, &str)]) -> String {
    match Checkpoint::from_bytes("m", file(tensors, metadata)) {
        Err(error @ (WeightsError::Quantised { .. } | WeightsError::Damaged { .. })) => {
            assert!(!error.to_string().contains('\n'));
            error.to_string()
        }
        other => panic!("{other:?}"),
    }
}

const FP8: Tensor = ("a.weight", "F8_E4M3", &[2, 4], &[0; 8]);
const INT8: Tensor = ("a.weight", "I8", &[2, 4], &[0; 8]);
const FLOAT: Tensor = ("a.weight", "F16", &[2, 4], &[0; 16]);

fn scale<'a>(name: &'a str, shape: &'a [usize]) -> Tensor<'a> {
    (name, "F32", shape, &[0; 64][..4 * shape.iter().product::<usize>()])
}

#[test]
fn each_fault_is_one_line_with_the_tensors() {
    let cases: [(&[Tensor], &str); 12] = [
        (&[scale("a.weight_scale", &[])], "1 of its tensors belong to no weight in 8 bits (a.weight_scale)"),
        (&[FLOAT, scale("a.scale_weight", &[])], "a.scale_weight beside F16"),
        (&[scale("a.scale_input", &[])], "belong to no weight in 8 bits (a.scale_input)"),
        (&[FP8, scale("a.scale_weight", &[3])], "(a.scale_weight [3] for [2, 4])"),
        (&[FP8, scale("a.weight_scale", &[2, 2])], "of another shape"),
        (&[FP8, scale("a.weight_scale", &[]), scale("a.input_scale", &[2])], "(a.input_scale)"),
        (&[INT8], "are 8-bit integers without a scale (a.weight)"),
        (&[FP8, scale("a.weight_scale", &[]), scale("a.scale_weight", &[])], "two ways of quantising at once"),
        (&[FP8, ("a.int8_weight", "I8", &[2, 4], &[0; 8])], "(a.weight, a.int8_weight)"),
        (&[FP8, ("a.weight_scale", "U8", &[1], &[0])], "a.weight_scale as U8"),
        (&[("a.int8_weight", "I8", &[2, 4], &[0; 8]), scale("a.scale", &[2])], "(a.scale [2] for [2, 4])"),
        (&[("a.weight_int8", "I8", &[2, 4], &[0; 8]), scale("a.weight_scale", &[4])], "for [2, 4])"),
    ];
    for (tensors, says) in cases {
        let said = said(tensors, &[]);
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn names_that_are_no_line_of_text_are_refused() {
    for (name, shown) in [("a\nb", r"a\nb"), ("a\u{1b}[31m", r"a\u{1b}[31m"), ("\0", r"\u{0}"), ("\u{85}", r"\u{85}")] {
        let said = said(&[(name, "F16", &[1], &[0; 2])], &[]);
        assert!(said.contains(&format!("tensor {shown} has control characters")), "{said}");
    }
}

#[test]
fn ten_of_many_are_listed() {
    let names: Vec<String> = (0..12).map(|i| format!("b{i:02}.weight")).collect();
    let tensors: Vec<Tensor> =
        names.iter().map(|n| (n.as_str(), "I8", [1usize, 1].as_slice(), [0u8].as_slice())).collect();
    let said = said(&tensors, &[]);
    assert!(said.contains("12 of its tensors") && said.contains("b09.weight, …)"), "{said}");
}

#[test]
fn descriptions_decide_and_may_not_contradict() {
    let of =
        |text: &'static str| -> Tensor { ("a.comfy_quant", "U8", Box::leak(Box::new([text.len()])), text.as_bytes()) };
    let rows = scale("a.weight_scale", &[2, 1]);
    let cases: [(&[Tensor], &str); 7] = [
        (&[INT8, rows, of("{\"format\":\"nvfp4\"}")], "in a form that is not read"),
        (&[FP8, rows, of("{\"format\":\"mxfp8\"}")], "a.weight as mxfp8"),
        (&[FP8, rows, scale("a.weight_scale_2", &[])], "a.weight as nvfp4"),
        (&[INT8, rows, of("{\"format\":\"float8_e4m3fn\"}")], "a.weight is I8, described as F8_E4M3"),
        (&[FLOAT, rows, of("{\"format\":\"float8_e4m3fn\"}")], "a.weight is F16"),
        (&[INT8, rows, of("{\"format\":\"int8_tensorwise\",\"convrot\":true}")], "rotated in groups of 256"),
        (&[INT8, rows, of("[]")], "a.comfy_quant is no description"),
    ];
    for (tensors, says) in cases {
        let said = said(tensors, &[]);
        assert!(said.contains(says), "{said}");
    }
    let header = |text| [("_quantization_metadata", text)];
    let tensors = [INT8, rows];
    assert!(said(&tensors, &header("{")).contains("not the JSON of descriptions"));
    assert!(said(&tensors, &header("{\"layers\":{\"a\":{}}}")).contains("layer a has no format"));
    let other = "{\"layers\":{\"b\":{\"format\":\"int8_tensorwise\"}}}";
    assert!(said(&tensors, &header(other)).contains("b of _quantization_metadata"));
    // Found by fuzzing: the name of a layer is the header's own text.
    let steering =
        r#"{"layers": {"a": {"format": "float8_e5m2"}, "bl\u007fcks\n\u001b[1m": {"format": "float8_e4m3fn"}}}"#;
    let message = said(&tensors, &header(steering));
    assert!(message.contains(r"(bl\u{7f}cks\n\u{1b}[1m of _quantization_metadata)"), "{message}");
    // 8-bit floats of a writer that had no type for them.
    let bytes = [
        ("a.weight", "U8", [2usize, 4].as_slice(), [0x38u8; 8].as_slice()),
        rows,
        of("{\"format\":\"float8_e4m3fn\"}"),
    ];
    let read = Checkpoint::from_bytes("m", file(&bytes, &[])).unwrap();
    assert_eq!(read.entry("a.weight").unwrap().encoding(), Some(kernels::quant::Encoding::F8E4M3));
}

#[test]
fn names_that_only_look_like_scales_are_left_alone() {
    let tensors = [FLOAT, scale("norm.scale", &[2]), scale("a.scale", &[2]), scale("a.scale_input", &[])];
    let names: Vec<String> =
        Checkpoint::from_bytes("m", file(&tensors, &[])).unwrap().entries().map(|e| e.name.clone()).collect();
    assert_eq!(names, ["a.scale", "a.weight", "norm.scale"]);
}
