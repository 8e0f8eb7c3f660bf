//! The forms that a checkpoint can be converted to.

use std::fmt;
use std::str::FromStr;

use candle_core::DType;
use kernels::quant::{Encoding, Scaling, Target};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConvertError;

/// A container with the form that matrices take in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    name: &'static str,
    pub(super) kind: Kind,
    about: &'static str,
}

/// What becomes of matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Every float tensor in this type, safetensors.
    Floats(DType),
    /// The layers' matrices in 8 bits with scales, safetensors.
    Scaled { target: Target, names: Names },
    /// The layers' matrices in ggml's blocks, GGUF.
    Gguf(GgufForm),
    /// Everything as it is, GGUF.
    GgufFloats(DType),
}

/// How the tensors of a quantised weight are called after the name of its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Names {
    pub weight: &'static str,
    pub scale: &'static str,
    /// Whether ComfyUI's `comfy_quant` describes each.
    pub described: bool,
    /// Whether ComfyUI's marker `scaled_fp8` stands in the file.
    pub marked: bool,
}

/// A GGUF file type: most matrices in one encoding, values and the second matrix of feed-forward layers in others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GgufForm {
    /// `general.file_type`.
    pub number: u32,
    pub usual: Encoding,
    /// Of `.v.weight`: of the first so many, and of the others.
    pub values: Option<(usize, Encoding, Encoding)>,
    /// Of `.ffn.2.weight`.
    pub down: Option<Encoding>,
}

const KIJAI: Names = Names { weight: "weight", scale: "scale_weight", described: false, marked: true };
const LIGHTX2V: Names = Names { weight: "weight", scale: "weight_scale", described: false, marked: false };
const COMFY: Names = Names { weight: "weight", scale: "weight_scale", described: true, marked: false };
const TURBO: Names = Names { weight: "int8_weight", scale: "scale", described: false, marked: false };

const fn scaled(encoding: Encoding, scaling: Scaling, rotation: Option<usize>, names: Names) -> Kind {
    Kind::Scaled { target: Target { encoding, scaling, rotation }, names }
}

const fn gguf(number: u32, usual: Encoding) -> GgufForm {
    GgufForm { number, usual, values: None, down: None }
}

const ALL: usize = usize::MAX;

impl Form {
    /// Every tensor in f32.
    pub const F32: Form = Self::ALL[0];
    /// Every tensor in f16.
    pub const F16: Form = Self::ALL[1];
    /// Every tensor in bf16.
    pub const BF16: Form = Self::ALL[2];

    /// All of them.
    pub const ALL: [Form; 26] = {
        use Encoding::*;
        const fn form(name: &'static str, kind: Kind, about: &'static str) -> Form {
            Form { name, kind, about }
        }
        const fn mixed(f: GgufForm, values: (usize, Encoding, Encoding), down: Option<Encoding>) -> Kind {
            Kind::Gguf(GgufForm { values: Some(values), down, ..f })
        }
        const fn down(f: GgufForm, down: Encoding) -> Kind {
            Kind::Gguf(GgufForm { down: Some(down), ..f })
        }
        [
            form("f32", Kind::Floats(DType::F32), "safetensors, every tensor in f32"),
            form("f16", Kind::Floats(DType::F16), "safetensors, every tensor in f16"),
            form("bf16", Kind::Floats(DType::BF16), "safetensors, every tensor in bf16"),
            form("fp8", scaled(F8E4M3, Scaling::Matrix, None, KIJAI), "fp8 e4m3, one scale a matrix (ComfyUI, kijai)"),
            form("fp8-e5m2", scaled(F8E5M2, Scaling::Matrix, None, KIJAI), "fp8 e5m2, one scale a matrix"),
            form("fp8-rows", scaled(F8E4M3, Scaling::Rows, None, LIGHTX2V), "fp8 e4m3, one scale a row (LightX2V)"),
            form("int8", scaled(I8, Scaling::Rows, None, LIGHTX2V), "int8, one scale a row (LightX2V)"),
            form(
                "int8-rotated",
                scaled(I8, Scaling::Rows, Some(256), COMFY),
                "int8 after a Hadamard rotation of 256, one scale a row (ComfyUI)",
            ),
            form(
                "int8-blocks",
                scaled(I8, Scaling::Blocks(128), None, TURBO),
                "int8, one scale for 128 x 128 (TurboDiffusion)",
            ),
            form("gguf-f16", Kind::GgufFloats(DType::F16), "GGUF, matrices in f16"),
            form("gguf-bf16", Kind::GgufFloats(DType::BF16), "GGUF, matrices in bf16"),
            form("q8_0", Kind::Gguf(gguf(7, Q8_0)), "GGUF, 8.5 bits a weight"),
            form("q6_k", Kind::Gguf(gguf(18, Q6K)), "GGUF, 6.6 bits a weight"),
            form(
                "q5_k_m",
                mixed(gguf(17, Q5K), (ALL, Q6K, Q6K), Some(Q6K)),
                "GGUF, 5.5 bits, values and second feed-forward matrices 6.6",
            ),
            form("q5_k_s", Kind::Gguf(gguf(16, Q5K)), "GGUF, 5.5 bits a weight"),
            form("q5_1", Kind::Gguf(gguf(9, Q5_1)), "GGUF, 6 bits a weight"),
            form("q5_0", down(gguf(8, Q5_0), Q5_1), "GGUF, 5.5 bits a weight"),
            form(
                "q4_k_m",
                mixed(gguf(15, Q4K), (ALL, Q6K, Q6K), Some(Q6K)),
                "GGUF, 4.5 bits, values and second feed-forward matrices 6.6",
            ),
            form(
                "q4_k_s",
                mixed(gguf(14, Q4K), (4, Q5K, Q4K), Some(Q5K)),
                "GGUF, 4.5 bits, second feed-forward matrices 5.5",
            ),
            form("q4_1", Kind::Gguf(gguf(3, Q4_1)), "GGUF, 5 bits a weight"),
            form("q4_0", down(gguf(2, Q4_0), Q4_1), "GGUF, 4.5 bits a weight"),
            form("iq4_nl", Kind::Gguf(gguf(25, Iq4Nl)), "GGUF, 4.5 bits, uneven levels"),
            form("iq4_xs", Kind::Gguf(gguf(30, Iq4Xs)), "GGUF, 4.25 bits, uneven levels"),
            form(
                "q3_k_m",
                mixed(gguf(12, Q3K), (2, Q5K, Q4K), Some(Q4K)),
                "GGUF, 3.4 bits, values and second feed-forward matrices 4.5",
            ),
            form("q3_k_s", Kind::Gguf(gguf(11, Q3K)), "GGUF, 3.4 bits a weight"),
            form("q2_k", mixed(gguf(10, Q2K), (ALL, Q3K, Q3K), None), "GGUF, 2.6 bits, values 3.4"),
        ]
    };

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// One line for people.
    pub fn about(self) -> &'static str {
        self.about
    }

    /// Ending of its files.
    pub fn extension(self) -> &'static str {
        if self.is_gguf() { "gguf" } else { "safetensors" }
    }

    /// What most matrices are encoded to; `None` for floats.
    pub fn target(self) -> Option<Target> {
        match self.kind {
            Kind::Scaled { target, .. } => Some(target),
            Kind::Gguf(gguf) => Some(Target::from(gguf.usual)),
            Kind::Floats(_) | Kind::GgufFloats(_) => None,
        }
    }

    /// The type of floats; `None` for quantised forms.
    pub fn float(self) -> Option<DType> {
        match self.kind {
            Kind::Floats(dtype) | Kind::GgufFloats(dtype) => Some(dtype),
            Kind::Scaled { .. } | Kind::Gguf(_) => None,
        }
    }

    /// The encoding of most matrices; `None` where they are floats.
    pub fn encoding(self) -> Option<Encoding> {
        match self.kind {
            Kind::Scaled { target, .. } => Some(target.encoding),
            Kind::Gguf(form) => Some(form.usual),
            Kind::Floats(_) | Kind::GgufFloats(_) => None,
        }
    }

    pub(super) fn is_gguf(self) -> bool {
        matches!(self.kind, Kind::Gguf(_) | Kind::GgufFloats(_))
    }
}

impl GgufForm {
    /// The encoding of a layer's matrix; `seen` counts the values' matrices that came before.
    pub(super) fn encoding(&self, name: &str, seen: &mut usize) -> Encoding {
        if let Some((first, theirs, others)) = self.values.filter(|_| name.ends_with(".v.weight")) {
            *seen += 1;
            return if *seen <= first { theirs } else { others };
        }
        self.down.filter(|_| name.ends_with(".ffn.2.weight")).unwrap_or(self.usual)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl FromStr for Form {
    type Err = ConvertError;

    fn from_str(text: &str) -> Result<Self, ConvertError> {
        Self::ALL.into_iter().find(|f| f.name.eq_ignore_ascii_case(text)).ok_or_else(|| {
            let known = Self::ALL.map(Form::name).join(", ");
            ConvertError::Form { found: text.to_owned(), known }
        })
    }
}

impl Serialize for Form {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for Form {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_are_one_each() {
        for (i, form) in Form::ALL.into_iter().enumerate() {
            assert_eq!(form.name().to_uppercase().parse::<Form>().unwrap(), form);
            let json = serde_json::to_string(&form).unwrap();
            assert_eq!(json, format!("\"{form}\""));
            assert_eq!(serde_json::from_str::<Form>(&json).unwrap(), form);
            assert!(Form::ALL[..i].iter().all(|f| f.name != form.name));
        }
        assert_eq!([Form::F32, Form::F16, Form::BF16].map(Form::name), ["f32", "f16", "bf16"]);
        assert!("q9".parse::<Form>().unwrap_err().to_string().contains("q4_k_m"));
    }

    #[test]
    fn mixed_forms_follow_city96s_table() {
        let of = |form: &str, names: &[&str]| {
            let Kind::Gguf(f) = form.parse::<Form>().unwrap().kind else { panic!("{form}") };
            let mut seen = 0;
            names.iter().map(|n| f.encoding(n, &mut seen).name()).collect::<Vec<_>>()
        };
        let v: Vec<String> =
            (0..3).flat_map(|i| ["self", "cross"].map(|a| format!("blocks.{i}.{a}_attn.v.weight"))).collect();
        let v: Vec<&str> = v.iter().map(String::as_str).collect();
        assert_eq!(of("q4_k_s", &v), ["Q5_K", "Q5_K", "Q5_K", "Q5_K", "Q4_K", "Q4_K"]);
        assert_eq!(of("q3_k_m", &v), ["Q5_K", "Q5_K", "Q4_K", "Q4_K", "Q4_K", "Q4_K"]);
        assert_eq!(of("q4_k_m", &v[..2]), ["Q6_K", "Q6_K"]);
        assert_eq!(of("q2_k", &["blocks.0.self_attn.v.weight", "blocks.0.ffn.2.weight"]), ["Q3_K", "Q2_K"]);
        let rest = ["blocks.0.ffn.2.weight", "blocks.0.ffn.0.weight", "blocks.0.cross_attn.v_img.weight"];
        assert_eq!(of("q4_0", &rest), ["Q4_1", "Q4_0", "Q4_0"]);
        assert_eq!(of("q5_k_m", &rest), ["Q6_K", "Q5_K", "Q5_K"]);
    }
}
