//! Whose way of quantising a checkpoint follows, and the tensors that belong together by it.
//!
//! A quantised weight comes with others: its scale or scales, the scale of its inputs, a description. They are found by
//! their names, checked against the weight, and made a part of its entry, so that nobody else knows how they were spelt.
//! Sources: ComfyUI (`scaled_fp8`, `comfy_quant`, `_quantization_metadata`), comfy-kitchen (`int8_tensorwise`), kijai's
//! WanVideoWrapper, LightX2V, TurboDiffusion, LongCat-Video; the table of `wan_components.md` 7.1.

mod describe;
mod group;

use std::fmt;

use crate::checkpoint::Share;

pub(crate) use group::group;

/// The key of a safetensors header under which ComfyUI describes quantised layers.
pub(crate) const METADATA: &str = "_quantization_metadata";

/// Whose way of quantising a checkpoint follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Flavour {
    /// Nothing is quantised.
    Floats,
    /// Plain casts to 8-bit floats, without scales.
    PlainFp8,
    /// `scale_weight` beside `weight`: ComfyUI's first scaled fp8 files, and kijai's.
    ScaleWeight,
    /// `weight_scale` beside `weight`, one for the matrix, undescribed: kijai's newer files.
    WeightScale,
    /// `weight_scale` with a description, in `comfy_quant` tensors or in the header: ComfyUI's newer files.
    ComfyQuant,
    /// `weight_scale` beside `weight`, one a row: LightX2V.
    WeightScaleRows,
    /// `int8_weight` with a `scale` for each block of 128 x 128: TurboDiffusion.
    Int8Blocks,
    /// `weight_int8` with a `weight_scale` a row: LongCat-Video.
    Int8Rows,
    /// ggml's blocks, in a GGUF file.
    GgmlBlocks,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Flavour::Floats => "not quantised",
            Flavour::PlainFp8 => "plain fp8",
            Flavour::ScaleWeight => "scaled fp8 (ComfyUI's first form, kijai)",
            Flavour::WeightScale => "scaled, one weight_scale a tensor (kijai)",
            Flavour::ComfyQuant => "ComfyUI comfy_quant",
            Flavour::WeightScaleRows => "8 bits, one weight_scale a row (LightX2V)",
            Flavour::Int8Blocks => "int8 in blocks of 128 x 128 (TurboDiffusion)",
            Flavour::Int8Rows => "int8, one weight_scale a row (LongCat)",
            Flavour::GgmlBlocks => "GGUF blocks",
        })
    }
}

/// What the tensor of a quantised weight is called after its module's name, and how its scales are.
struct Form {
    weight: &'static str,
    scale: &'static str,
    share: Share,
    /// Whether a description must or must not stand beside it; `None` where either may be.
    described: Option<bool>,
    flavour: Flavour,
}

const fn form(weight: &'static str, scale: &'static str, share: Share, flavour: Flavour) -> Form {
    Form { weight, scale, share, described: None, flavour }
}

/// The first form that a weight, its scale's name and its scale's shape match is the one.
const FORMS: [Form; 8] = [
    form(".weight", ".scale_weight", Share::Matrix, Flavour::ScaleWeight),
    form(".weight", ".scale_weight", Share::Row, Flavour::ScaleWeight),
    Form { described: Some(true), ..form(".weight", ".weight_scale", Share::Matrix, Flavour::ComfyQuant) },
    Form { described: Some(true), ..form(".weight", ".weight_scale", Share::Row, Flavour::ComfyQuant) },
    form(".weight", ".weight_scale", Share::Matrix, Flavour::WeightScale),
    form(".weight", ".weight_scale", Share::Row, Flavour::WeightScaleRows),
    form(".int8_weight", ".scale", Share::Block(128), Flavour::Int8Blocks),
    form(".weight_int8", ".weight_scale", Share::Row, Flavour::Int8Rows),
];

/// What a weight may be called.
const WEIGHTS: [&str; 3] = [".weight", ".int8_weight", ".weight_int8"];
/// What its scales may be called; `.scale` beside `.int8_weight` only, it is a common name otherwise.
const SCALES: [&str; 3] = [".scale_weight", ".weight_scale", ".scale"];
/// What the scale of its inputs may be called.
const INPUT_SCALES: [&str; 2] = [".scale_input", ".input_scale"];
/// A second scale, for the scales: nvfp4.
const SECOND_SCALE: &str = ".weight_scale_2";
/// A description as JSON text.
const DESCRIPTION: &str = ".comfy_quant";
/// Says that a file is of ComfyUI's first form. Its type was to tell e4m3 (also when it is F32) from e5m2, which every
/// weight's own type does; two elements ask for multiplications in full precision, which is the only way here.
const MARKER: &str = "scaled_fp8";
