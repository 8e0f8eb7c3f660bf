//! The grammar of LoRA keys, `<prefix><module><suffix>`, as tables (spec wan_components §6.1).

use std::fmt;

use serde::Serialize;

/// Whose spelling a file has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Dialect {
    /// `diffusion_model.blocks.0.self_attn.q.…`
    #[serde(rename = "comfyui")]
    ComfyUi,
    /// The same with differences of biases, norms and modulation: step-distilled files of LightX2V.
    #[serde(rename = "lightx2v")]
    LightX2v,
    /// `transformer.blocks.0.attn1.to_q.…`
    Diffusers,
    /// `lora_unet_blocks_0_self_attn_q.…`: kohya's sd-scripts and musubi-tuner.
    Kohya,
    /// `lora___lorahyphen___blocks___lorahyphen___0…`
    LoraHyphen,
    /// `base_model.model.…`
    Peft,
    /// `pipe.dit.…`
    #[serde(rename = "diffsynth")]
    DiffSynth,
    /// The module's name alone.
    Plain,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Dialect::ComfyUi => "ComfyUI (diffusion_model.)",
            Dialect::LightX2v => "LightX2V (diffusion_model., with differences)",
            Dialect::Diffusers => "diffusers (transformer.)",
            Dialect::Kohya => "kohya (lora_unet_)",
            Dialect::LoraHyphen => "lora___lorahyphen___",
            Dialect::Peft => "PEFT (base_model.model.)",
            Dialect::DiffSynth => "DiffSynth (pipe.dit.)",
            Dialect::Plain => "plain names",
        })
    }
}

/// Dotted prefixes may stand before one another. A longer one comes before one that it begins with.
const DOTTED: &[(&str, Dialect)] = &[
    ("base_model.model.", Dialect::Peft),
    ("model.diffusion_model.", Dialect::ComfyUi),
    ("diffusion_model.", Dialect::ComfyUi),
    ("transformer.", Dialect::Diffusers),
    ("pipe.dit.", Dialect::DiffSynth),
    ("model.", Dialect::Plain),
    ("net.", Dialect::Plain),
];

/// Prefixes after which dots have become underscores.
const FLAT: &[&str] = &["lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_"];

const HYPHEN: &str = "___lorahyphen___";

/// Keys of the text encoder, whose LoRAs nobody trains for Wan on purpose.
const TEXT_ENCODER: &[&str] = &["lora_te_", "lora_te1_", "lora_te2_", "lora_te3_", "text_encoder.", "text_encoders."];

/// What one tensor is to its module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `[rank, in]`, or for n blocks of `up` `[n·rank, in]`.
    Down,
    /// `[out, rank]`, or the rows of one block of them.
    Up(usize),
    /// Difference of the bias that belongs to the pair, and is scaled as the pair is.
    UpBias,
    /// Scale times rank.
    Alpha,
    /// The scale itself.
    AlphaScale,
    /// Difference of the weight.
    Diff,
    /// Difference of the bias.
    DiffBias,
    /// Difference of the modulation.
    DiffModulation,
}

/// Suffixes; an adapter's name (`lora_A.default.weight`) has been taken out.
const SUFFIXES: &[(&str, Role)] = &[
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up(0)),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up(0)),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up(0)),
    (".lora_B.bias", Role::UpBias),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up(0)),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up(0)),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up(0)),
    (".alpha", Role::Alpha),
    (".alpha_scale", Role::AlphaScale),
    (".diff", Role::Diff),
    (".diff_b", Role::DiffBias),
    (".diff_m", Role::DiffModulation),
];

/// Endings that show a relative of LoRA.
const RELATIVES: &[(&str, &str)] = &[
    (".dora_scale", "DoRA"),
    (".lora_magnitude_vector", "DoRA"),
    (".lora_magnitude_vector.weight", "DoRA"),
    (".hada_w1_a", "LoHa"),
    (".hada_w1_b", "LoHa"),
    (".lokr_w1", "LoKr"),
    (".lokr_w2", "LoKr"),
    (".lokr_w1_a", "LoKr"),
    (".lokr_w2_a", "LoKr"),
    (".lora_mid.weight", "LoRA with a Tucker core"),
    (".oft_blocks", "OFT"),
    (".reshape_weight", "LoRA that reshapes its weight"),
];

/// What a key says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A part of the difference of `module`, whose name has dots, or underscores in [`Dialect::Kohya`].
    Of { module: String, role: Role, dialect: Dialect },
    /// Of the text encoder.
    TextEncoder,
    /// Of a relative of LoRA, by its name.
    Relative(&'static str),
    /// None of these.
    Unknown,
}

/// Reads a key.
pub(super) fn parse(key: &str) -> Key {
    if TEXT_ENCODER.iter().any(|p| key.starts_with(p)) {
        return Key::TextEncoder;
    }
    if let Some((_, kind)) = RELATIVES.iter().find(|(end, _)| key.ends_with(end)) {
        return Key::Relative(kind);
    }
    let Some((stem, role)) = strip_suffix(key) else { return Key::Unknown };
    let (module, dialect) = strip_prefix(&stem);
    if module.is_empty() { Key::Unknown } else { Key::Of { module, role, dialect } }
}

fn strip_suffix(key: &str) -> Option<(String, Role)> {
    if let Some((stem, block)) = key.strip_suffix(".weight").and_then(|k| k.rsplit_once(".lora_up.blocks.")) {
        return Some((stem.to_owned(), Role::Up(block.parse().ok()?)));
    }
    let key = without_adapter(key);
    let (end, role) = SUFFIXES.iter().find(|(end, _)| key.ends_with(end))?;
    Some((key[..key.len() - end.len()].to_owned(), *role))
}

/// PEFT may put an adapter's name between the matrix and its parameter.
fn without_adapter(key: &str) -> String {
    for matrix in [".lora_A.", ".lora_B."] {
        let Some((stem, rest)) = key.rsplit_once(matrix) else { continue };
        if let Some((_, parameter)) = rest.split_once('.').filter(|(_, p)| matches!(*p, "weight" | "bias")) {
            return format!("{stem}{matrix}{parameter}");
        }
    }
    key.to_owned()
}

fn strip_prefix(stem: &str) -> (String, Dialect) {
    if let Some(rest) = stem.strip_prefix("lora").and_then(|s| s.strip_prefix(HYPHEN)) {
        return (rest.replace(HYPHEN, "."), Dialect::LoraHyphen);
    }
    if let Some(rest) = FLAT.iter().find_map(|p| stem.strip_prefix(p)) {
        return (rest.to_owned(), Dialect::Kohya);
    }
    let (mut rest, mut dialect) = (stem, Dialect::Plain);
    while let Some((stripped, found)) = DOTTED.iter().find_map(|(p, d)| Some((rest.strip_prefix(p)?, *d))) {
        rest = stripped;
        if dialect == Dialect::Plain {
            dialect = found;
        }
    }
    (rest.to_owned(), dialect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_spelling_names_its_module_and_role() {
        let q = "blocks.0.self_attn.q";
        let cases = [
            ("diffusion_model.blocks.0.self_attn.q.lora_down.weight", q, Role::Down, Dialect::ComfyUi),
            ("diffusion_model.blocks.0.self_attn.q.lora_B.weight", q, Role::Up(0), Dialect::ComfyUi),
            ("model.diffusion_model.blocks.0.self_attn.q.diff_b", q, Role::DiffBias, Dialect::ComfyUi),
            ("diffusion_model.blocks.0.diff_m", "blocks.0", Role::DiffModulation, Dialect::ComfyUi),
            ("diffusion_model.blocks.0.self_attn.q.alpha", q, Role::Alpha, Dialect::ComfyUi),
            ("transformer.blocks.0.attn1.to_q.lora_A.weight", "blocks.0.attn1.to_q", Role::Down, Dialect::Diffusers),
            ("blocks.0.attn1.to_q.lora_B.fast_1.bias", "blocks.0.attn1.to_q", Role::UpBias, Dialect::Plain),
            ("base_model.model.blocks.0.self_attn.q.lora_A.default.weight", q, Role::Down, Dialect::Peft),
            ("base_model.model.model.blocks.0.self_attn.q.lora_A", q, Role::Down, Dialect::Peft),
            ("pipe.dit.blocks.0.self_attn.q.lora_B", q, Role::Up(0), Dialect::DiffSynth),
            ("lora_unet_blocks_0_self_attn_q.alpha", "blocks_0_self_attn_q", Role::Alpha, Dialect::Kohya),
            ("lora_unet__blocks_0_self_attn_q.lora_up.weight", "blocks_0_self_attn_q", Role::Up(0), Dialect::Kohya),
            ("blocks.0.self_attn.q_lora.down.weight", q, Role::Down, Dialect::Plain),
            ("blocks.0.self_attn.q.lora_linear_layer.up.weight", q, Role::Up(0), Dialect::Plain),
            (
                "lora___lorahyphen___blocks___lorahyphen___0___lorahyphen___self_attn___lorahyphen___q.lora_up.blocks.2.weight",
                q,
                Role::Up(2),
                Dialect::LoraHyphen,
            ),
            (
                "lora___lorahyphen___blocks___lorahyphen___0___lorahyphen___self_attn___lorahyphen___q.alpha_scale",
                q,
                Role::AlphaScale,
                Dialect::LoraHyphen,
            ),
        ];
        for (key, module, role, dialect) in cases {
            assert_eq!(parse(key), Key::Of { module: module.to_owned(), role, dialect }, "{key}");
        }
    }

    #[test]
    fn what_is_no_lora_of_the_transformer_is_told_apart() {
        assert_eq!(parse("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"), Key::TextEncoder);
        assert_eq!(parse("blocks.0.ffn.0.dora_scale"), Key::Relative("DoRA"));
        assert_eq!(parse("lora_unet_blocks_0_ffn_0.lokr_w1"), Key::Relative("LoKr"));
        for key in ["blocks.0.ffn.0.weight", "", ".diff", "x.lora_up.blocks.-1.weight", "lora_unet_.lora_down.weight"] {
            assert_eq!(parse(key), Key::Unknown, "{key}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(key in "\\PC{0,60}", middle in "[a-z_.0-9é]{0,12}") {
            parse(&key);
            for (end, _) in SUFFIXES {
                parse(&format!("{middle}{end}"));
                parse(&format!("lora{HYPHEN}{middle}.lora_up.blocks.{key}{end}"));
            }
        }
    }
}
