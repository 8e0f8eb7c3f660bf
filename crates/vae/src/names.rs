//! Tensor names of diffusers' `AutoencoderKLWan`. Shapes are the same, nothing is transposed.

use weights::KeyMap;

/// Whose names a checkpoint uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// The release's own: `encoder.downsamples.0.residual.0.gamma`. ComfyUI's and kijai's files too.
    Original,
    /// diffusers': `encoder.down_blocks.0.norm1.gamma`.
    Diffusers,
}

impl Layout {
    /// Tells the layout from the names in a file; `None` when it is neither.
    pub fn detect<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        names.into_iter().find_map(|name| {
            let of = |marks: &[&str]| marks.iter().any(|mark| name.starts_with(mark));
            if of(&["encoder.downsamples.0.residual.", "decoder.upsamples.0.residual."]) {
                Some(Self::Original)
            } else if of(&["encoder.down_blocks.0.", "decoder.up_blocks.0."]) {
                Some(Self::Diffusers)
            } else {
                None
            }
        })
    }
}

/// Builds the table: residual blocks with their five parts, then single layers.
macro_rules! table {
    (residual { $($block:literal => $ours:literal,)* } single { $($layer:literal => $name:literal,)* }) => {
        &[
            $(
                (concat!($block, ".norm1"), concat!($ours, ".residual.0")),
                (concat!($block, ".conv1"), concat!($ours, ".residual.2")),
                (concat!($block, ".norm2"), concat!($ours, ".residual.3")),
                (concat!($block, ".conv2"), concat!($ours, ".residual.6")),
                (concat!($block, ".conv_shortcut"), concat!($ours, ".shortcut")),
            )*
            $(($layer, $name),)*
        ]
    };
}

/// diffusers → original. Original names pass unchanged, so the map serves both layouts.
const TABLE: &[(&str, &str)] = table! {
    residual {
        "encoder.down_blocks.*" => "encoder.downsamples.*",
        "encoder.mid_block.resnets.0" => "encoder.middle.0",
        "encoder.mid_block.resnets.1" => "encoder.middle.2",
        "decoder.mid_block.resnets.0" => "decoder.middle.0",
        "decoder.mid_block.resnets.1" => "decoder.middle.2",
        "decoder.up_blocks.0.resnets.0" => "decoder.upsamples.0",
        "decoder.up_blocks.0.resnets.1" => "decoder.upsamples.1",
        "decoder.up_blocks.0.resnets.2" => "decoder.upsamples.2",
        "decoder.up_blocks.1.resnets.0" => "decoder.upsamples.4",
        "decoder.up_blocks.1.resnets.1" => "decoder.upsamples.5",
        "decoder.up_blocks.1.resnets.2" => "decoder.upsamples.6",
        "decoder.up_blocks.2.resnets.0" => "decoder.upsamples.8",
        "decoder.up_blocks.2.resnets.1" => "decoder.upsamples.9",
        "decoder.up_blocks.2.resnets.2" => "decoder.upsamples.10",
        "decoder.up_blocks.3.resnets.0" => "decoder.upsamples.12",
        "decoder.up_blocks.3.resnets.1" => "decoder.upsamples.13",
        "decoder.up_blocks.3.resnets.2" => "decoder.upsamples.14",
    }
    single {
        "quant_conv" => "conv1",
        "post_quant_conv" => "conv2",
        "encoder.conv_in" => "encoder.conv1",
        "encoder.conv_out" => "encoder.head.2",
        "encoder.norm_out" => "encoder.head.0",
        "encoder.mid_block.attentions.0" => "encoder.middle.1",
        "encoder.down_blocks.*" => "encoder.downsamples.*",
        "decoder.conv_in" => "decoder.conv1",
        "decoder.conv_out" => "decoder.head.2",
        "decoder.norm_out" => "decoder.head.0",
        "decoder.mid_block.attentions.0" => "decoder.middle.1",
        "decoder.up_blocks.0.upsamplers.0" => "decoder.upsamples.3",
        "decoder.up_blocks.1.upsamplers.0" => "decoder.upsamples.7",
        "decoder.up_blocks.2.upsamplers.0" => "decoder.upsamples.11",
    }
};

/// Brings either layout's names to the original ones. For networks of four stages with two residual blocks each, as
/// all released ones are.
pub fn keymap() -> KeyMap {
    KeyMap::identity().rename(TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_are_told_apart() {
        assert_eq!(Layout::detect(["conv1.bias", "encoder.downsamples.0.residual.0.gamma"]), Some(Layout::Original));
        assert_eq!(Layout::detect(["quant_conv.bias", "encoder.down_blocks.0.norm1.gamma"]), Some(Layout::Diffusers));
        assert_eq!(Layout::detect(["decoder.up_blocks.0.resnets.1.conv1.bias"]), Some(Layout::Diffusers));
        assert_eq!(Layout::detect(["blocks.0.norm1.weight"]), None);
    }

    #[test]
    fn original_names_pass_unchanged() {
        for spec in crate::manifest(&crate::Config::tiny()).unwrap().tensors() {
            assert_eq!(keymap().canonical(&spec.name).as_deref(), Some(spec.name.as_str()));
        }
    }
}
