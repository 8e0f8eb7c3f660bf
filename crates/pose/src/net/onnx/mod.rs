//! Weights from an exported graph, by the flow of data and not by names: exporters fold batch norms into convolutions
//! and rename what they fold.
//!
//! The file's graph is compared with our description of the network from its outputs to the picture ([`trunk`],
//! [`head`]). That both finds the weights and proves that the graph is this network; the first difference is the error.

mod flow;
mod head;
#[cfg(test)]
mod tests;
mod trunk;

use candle_core::{Device, Result};
use weights::onnx::{Dim, Model, Node, Value};
use weights::{Checkpoint, Weights};

use self::flow::{Flow, Found};
use self::head::HeadFound;
pub(super) use self::trunk::Convs;
use super::dwpose::{BINS_PER_PIXEL, DwPoseConfig};
use super::yolox::{MAX_INPUT_SIDE, YoloxConfig};

/// Versions of the standard operators whose meaning is known here.
const OPSETS: std::ops::RangeInclusive<i64> = 9..=21;

/// The sizes of a YOLOX and where its weights stand.
///
/// # Errors
/// The first difference between the graph and a YOLOX.
pub(super) fn yolox(model: &Model) -> Result<(YoloxConfig, Convs)> {
    find_yolox(model).map_err(candle_core::Error::msg)
}

/// Height and width of a YOLOX's pictures: 640×640 where the file leaves them open.
///
/// # Errors
/// Its input is no picture, or too large a one.
pub(super) fn yolox_input(model: &Model) -> Result<[usize; 2]> {
    find_yolox_input(model).map_err(candle_core::Error::msg)
}

fn find_yolox_input(model: &Model) -> Found<[usize; 2]> {
    let expected = format!("one, f32 [B, 3, H, W] with sides that are multiples of 32 up to {MAX_INPUT_SIDE}");
    let fits = |side: &usize| side.is_multiple_of(32) && *side <= MAX_INPUT_SIDE;
    match input_size(model, &expected)? {
        Some(sides) if sides.iter().all(fits) => Ok(sides),
        None => Ok(YoloxConfig::yolox_l().input_size),
        Some(_) => Err(format!("it has the inputs {}; expected {expected}", listed(&model.inputs))),
    }
}

fn find_yolox(model: &Model) -> Found<(YoloxConfig, Convs)> {
    check_opset(model)?;
    let input_size = find_yolox_input(model)?;
    let [output] = model.outputs.as_slice() else {
        let found = listed(&model.outputs);
        return Err(format!(
            "it has the outputs {found}; expected one, f32 [1, N, 5 + classes], before boxes are decoded and selected"
        ));
    };
    let flow = Flow::new(model);
    let places = yolox_outputs(&flow, &output.name)?;
    let convs = flow.convolutions(&places);
    let segments = between_strides(&convs);
    let stage = |number: usize, others: usize, each: usize| stage_blocks(&segments, number, others, each);
    let [b1, b2, b3] = [stage(1, 4, 2)?, stage(2, 4, 2)?, stage(3, 4, 2)?];
    let config = |b4, neck_blocks| YoloxConfig {
        width: channels(&flow, convs.first()),
        blocks: [b1, b2, b3, b4],
        neck_blocks,
        classes: channels(&flow, places.get(2).and_then(|name| flow.made_by(name, &["Conv"])).as_ref()),
        input_size,
    };
    // The blocks of the last stage and of the pyramid can be told by their sum only: stage 4 has two a block, the pyramid's
    // four layers have eight. They are alike in all released sizes, so that is tried first.
    let one = config(1, 1);
    one.check().map_err(|e| e.to_string())?;
    let rest = (convs.len() + 2 + 8).saturating_sub(one.graph().convs().count()) / 2;
    let mut choices: Vec<(usize, usize)> = (1..=64).filter_map(|n| Some((rest.checked_sub(4 * n)?, n))).collect();
    choices.retain(|(b4, _)| (1..=64).contains(b4));
    choices.sort_by_key(|(b4, n)| b4 != n);
    let mut nearest: Option<trunk::Difference> = None;
    for (b4, n) in choices {
        let config = config(b4, n);
        match trunk::find(&flow, &config.graph(), &places) {
            Ok(convs) => return Ok((config, convs)),
            Err(difference) if nearest.as_ref().is_none_or(|d| d.after < difference.after) => {
                nearest = Some(difference)
            }
            Err(_) => {}
        }
    }
    let count = convs.len();
    Err(nearest.map_or_else(
        || format!("its {count} convolutions make no pyramid behind {b1}, {b2} and {b3} blocks"),
        |difference| difference.words,
    ))
}

/// Box, object and class values of the three levels, before their sigmoids.
fn yolox_outputs<'m>(flow: &Flow<'m>, output: &'m str) -> Found<Vec<&'m str>> {
    let what = "the output (boxes must not be decoded in the graph)";
    let node = flow.expect(output, &["Transpose"], what)?;
    if node.ints("perm") != Some(&[0, 2, 1]) {
        return Err(format!("{what}: {node} by {:?}; expected [0, 2, 1]", node.ints("perm").unwrap_or_default()));
    }
    let levels = flow.expect(flow.input(node, 0)?, &["Concat"], "the levels")?;
    if levels.inputs.len() != 3 || !matches!(levels.int("axis"), Some(2 | -1)) {
        return Err(format!("{levels} joins {} levels; expected 3 along axis 2", levels.inputs.len()));
    }
    let mut places = Vec::with_capacity(9);
    for level in 0..3 {
        let what = format!("level {level}");
        let flat = flow.expect(flow.input(levels, level)?, &["Reshape", "Flatten"], &what)?;
        let parts = flow.expect(flow.input(flat, 0)?, &["Concat"], &what)?;
        if parts.inputs.len() != 3 || !matches!(parts.int("axis"), Some(1 | -3)) {
            return Err(format!("{parts} joins {} parts; expected box, object and classes", parts.inputs.len()));
        }
        for part in 0..3 {
            let name = flow.input(parts, part)?;
            places.push(match flow.made_by(name, &["Sigmoid"]).filter(|_| part > 0) {
                Some(sigmoid) => flow.input(sigmoid, 0)?,
                None => name,
            });
        }
    }
    Ok(places)
}

/// The sizes of a DWPose network and where its weights stand.
pub(super) struct DwPoseFound<'m> {
    pub config: DwPoseConfig,
    pub convs: Convs,
    head: HeadFound<'m>,
}

impl DwPoseFound<'_> {
    /// The head's tensors under mmpose's names.
    ///
    /// # Errors
    /// Values that are not finite.
    pub fn head_weights(&self, file: &Checkpoint, device: &Device) -> Result<Weights> {
        self.head.weights(file, device)
    }
}

/// # Errors
/// The first difference between the graph and a DWPose network.
pub(super) fn dwpose(model: &Model) -> Result<DwPoseFound<'_>> {
    find_dwpose(model).map_err(candle_core::Error::msg)
}

fn find_dwpose(model: &Model) -> Found<DwPoseFound<'_>> {
    check_opset(model)?;
    let expected = "one, f32 [B, 3, H, W] with sides that are multiples of 32";
    let given = input_size(model, expected)?;
    let [first, second] = model.outputs.as_slice() else {
        let found = listed(&model.outputs);
        return Err(format!("it has the outputs {found}; expected simcc_x and simcc_y, f32 [B, K, bins]"));
    };
    let swapped = first.name == "simcc_y" || second.name == "simcc_x";
    let (x, y) = if swapped { (second, first) } else { (first, second) };
    let flow = Flow::new(model);
    let head = head::find(&flow, &x.name, &y.name)?;
    let convs = flow.convolutions(&[head.maps]);
    let segments = between_strides(&convs);
    let stage = |number: usize, others: usize| stage_blocks(&segments, number, others, 3);
    let config = DwPoseConfig {
        width: channels(&flow, convs.get(2)),
        blocks: [stage(2, 5)?, stage(3, 5)?, stage(4, 5)?, stage(5, 8)?],
        keypoints: channels(&flow, convs.last()),
        input_size: [head.dims.rows / BINS_PER_PIXEL, head.dims.columns / BINS_PER_PIXEL],
        hidden: head.dims.hidden,
        expanded: head.dims.expanded,
        attention: head.dims.attention,
        kernel: convs.last().and_then(|conv| flow.weight_dims(conv)?.last().copied()).unwrap_or(0),
    };
    config.check().map_err(|e| e.to_string())?;
    if given.is_some_and(|given| given != config.input_size) || config.head() != head.dims {
        let [height, width] = config.input_size;
        let found = listed(&model.inputs);
        return Err(format!(
            "it has the inputs {found}, but outputs and head are those of pictures of {width}x{height}"
        ));
    }
    let convs = trunk::find(&flow, &config.graph(), &[head.maps]).map_err(|difference| difference.words)?;
    Ok(DwPoseFound { config, convs, head })
}

fn check_opset(model: &Model) -> Found<()> {
    match model.opsets.get("") {
        Some(version) if OPSETS.contains(version) => Ok(()),
        found => {
            let found = found.map_or("none".to_owned(), i64::to_string);
            let (from, to) = (OPSETS.start(), OPSETS.end());
            Err(format!("it uses version {found} of the standard operators; {from} to {to} are known: export it again"))
        }
    }
}

/// Height and width of the one input, unless the file leaves them open.
fn input_size(model: &Model, expected: &str) -> Found<Option<[usize; 2]>> {
    let wrong = || format!("it has the inputs {}; expected {expected}", listed(&model.inputs));
    let [input] = model.inputs.as_slice() else { return Err(wrong()) };
    // 1 is f32, 10 f16, which a model in half precision takes; 0 stands for a file that does not say.
    if !matches!(input.element_type, 0 | 1 | 10) {
        return Err(wrong());
    }
    let Some(dims) = &input.dims else { return Ok(None) };
    match dims.as_slice() {
        [_, Dim::Fixed(3), Dim::Fixed(height), Dim::Fixed(width)] => {
            let side = |n: i64| usize::try_from(n).ok().filter(|n| (1..=8192).contains(n)).ok_or_else(wrong);
            Ok(Some([side(*height)?, side(*width)?]))
        }
        [_, Dim::Fixed(3) | Dim::Any(_), _, _] => Ok(None),
        _ => Err(wrong()),
    }
}

fn listed(values: &[Value]) -> String {
    match values {
        [] => "none".into(),
        values => values.iter().take(4).map(Value::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Channels that a convolution gives; 0 when there is none.
fn channels<'m>(flow: &Flow<'m>, conv: Option<&&'m Node>) -> usize {
    conv.and_then(|conv| flow.weight_dims(conv)?.first().copied()).unwrap_or(0)
}

/// Numbers of convolutions from each of stride 2 (inclusive) to the next; first those before any.
fn between_strides(convs: &[&Node]) -> Vec<usize> {
    let mut counts = vec![0];
    for conv in convs {
        if conv.ints("strides").is_some_and(|s| s.contains(&2)) {
            counts.push(0);
        }
        if let Some(last) = counts.last_mut() {
            *last += 1;
        }
    }
    counts
}

/// Blocks of a stage that has `others` convolutions beside them and `each` in each of them.
fn stage_blocks(segments: &[usize], number: usize, others: usize, each: usize) -> Found<usize> {
    let count = segments.get(number).copied().unwrap_or(0);
    match count.checked_sub(others) {
        Some(rest) if rest > 0 && rest % each == 0 => Ok(rest / each),
        _ => Err(format!("there are {count} convolutions at scale {number}; expected {others} and {each} a block")),
    }
}
