//! What can be measured.

use std::fmt;

use kernels::Compute;
use weights::convert::Form;

/// One thing that is measured, by its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What it is called, say `dit-1.3b-6of30-480x272x17-bf16`.
    pub name: String,
    /// What is done.
    pub what: What,
    /// Whether it is run when no case is named: all of these together take a few minutes on two cores.
    pub usual: bool,
}

/// A transformer that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Wan 2.1 text to video, 1.3 billion parameters.
    Wan1_3b,
    /// Wan 2.1 image to video, 14 billion.
    WanI2v14b,
    /// SteadyDancer.
    SteadyDancer14b,
}

/// What is done in a case.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// A file of so many bytes is opened and all of its tensors are brought into memory.
    Load {
        /// Of the file.
        bytes: u64,
    },
    /// The first layers of UMT5-XXL over one prompt.
    TextEncoder {
        /// Of 24.
        layers: usize,
        /// Of the prompt.
        tokens: usize,
        /// Of its matrices.
        form: Form,
        /// Of products.
        compute: Compute,
    },
    /// CLIP ViT-H/14 over one picture.
    ImageEncoder {
        /// Of its matrices.
        form: Form,
        /// Of products.
        compute: Compute,
    },
    /// Wan's VAE, pixels to latents.
    VaeEncode {
        /// Width, height, frames.
        size: [usize; 3],
    },
    /// Wan's VAE, latents to pixels.
    VaeDecode {
        /// Width, height, frames.
        size: [usize; 3],
    },
    /// One forward of a transformer.
    Transformer {
        /// Which.
        model: Model,
        /// Width, height, frames.
        size: [usize; 3],
        /// Blocks that are computed.
        blocks: usize,
        /// Of its matrices.
        form: Form,
        /// Of products.
        compute: Compute,
    },
    /// The embedded demo model makes a whole clip, encoded and written.
    Clip {
        /// Frames.
        frames: usize,
        /// Of products.
        compute: Compute,
    },
}

impl Model {
    const fn label(self) -> &'static str {
        match self {
            Self::Wan1_3b => "1.3b",
            Self::WanI2v14b => "i2v-14b",
            Self::SteadyDancer14b => "steadydancer-14b",
        }
    }

    /// All of it.
    pub fn config(self) -> dit::Config {
        match self {
            Self::Wan1_3b => dit::Config::wan_t2v_1_3b(),
            Self::WanI2v14b => dit::Config::wan_i2v_14b(),
            Self::SteadyDancer14b => dit::Config::steadydancer_14b(),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with = |f: &mut fmt::Formatter<'_>, form: Form, compute: Compute| match (form.name(), compute.name()) {
            (form, compute) if form == compute => write!(f, "{form}"),
            (form, compute) => write!(f, "{form}-in-{compute}"),
        };
        match *self {
            Self::Load { bytes } => write!(f, "load-{}mib", bytes >> 20),
            Self::TextEncoder { layers, tokens, form, compute } => {
                write!(f, "umt5-xxl-{layers}of24-{tokens}-")?;
                with(f, form, compute)
            }
            Self::ImageEncoder { form, compute } => {
                write!(f, "clip-vit-h-")?;
                with(f, form, compute)
            }
            Self::VaeEncode { size: [w, h, t] } => write!(f, "vae-encode-{w}x{h}x{t}"),
            Self::VaeDecode { size: [w, h, t] } => write!(f, "vae-decode-{w}x{h}x{t}"),
            Self::Transformer { model, size: [w, h, t], blocks, form, compute } => {
                write!(f, "dit-{}-", model.label())?;
                let all = model.config().num_layers;
                if blocks < all {
                    write!(f, "{blocks}of{all}-")?;
                }
                write!(f, "{w}x{h}x{t}-")?;
                with(f, form, compute)
            }
            Self::Clip { frames, compute } => write!(f, "clip-demo-{frames}-{}", compute.name()),
        }
    }
}

/// All cases, in the order in which they are run.
pub fn cases() -> Vec<Case> {
    let form = |name: &str| name.parse().unwrap_or(Form::BF16);
    let (f32, bf16, int8) = (Compute::F32, Compute::Bf16, Compute::Int8);
    let mut all = Vec::new();
    let mut add = |usual, what: What| all.push(Case { name: what.to_string(), what, usual });
    add(true, What::Load { bytes: 256 << 20 });
    add(false, What::Load { bytes: 2 << 30 });
    for (usual, layers, name, compute) in [
        (true, 2, "bf16", bf16),
        (true, 2, "bf16", f32),
        (true, 2, "int8", int8),
        (false, 2, "q8_0", bf16),
        (false, 24, "bf16", bf16),
    ] {
        add(usual, What::TextEncoder { layers, tokens: 512, form: form(name), compute });
    }
    add(true, What::ImageEncoder { form: Form::F16, compute: f32 });
    add(true, What::ImageEncoder { form: Form::F16, compute: bf16 });
    for (usual, size) in [(true, [240, 136, 5]), (false, [480, 272, 5]), (false, [480, 272, 17])] {
        add(usual, What::VaeEncode { size });
        add(usual, What::VaeDecode { size });
    }
    let precisions = [
        ("bf16", bf16),
        ("bf16", f32),
        ("int8", int8),
        ("int8-rotated", int8),
        ("fp8", bf16),
        ("q8_0", bf16),
        ("q4_k_m", bf16),
    ];
    let small = Model::Wan1_3b;
    for (size, blocks, usual) in [([480, 272, 17], 6, true), ([480, 272, 17], 30, false), ([832, 480, 5], 30, false)] {
        for (n, (name, compute)) in precisions.into_iter().enumerate() {
            add(usual && n < 3, What::Transformer { model: small, size, blocks, form: form(name), compute });
        }
    }
    for model in [Model::WanI2v14b, Model::SteadyDancer14b] {
        for (name, compute) in precisions {
            add(false, What::Transformer { model, size: [480, 832, 1], blocks: 2, form: form(name), compute });
        }
    }
    for compute in [f32, bf16] {
        add(compute == f32, What::Clip { frames: 33, compute });
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_tell_cases_apart_and_say_what_they_are() {
        let all = cases();
        let names: BTreeSet<_> = all.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        for name in ["dit-1.3b-480x272x17-bf16", "dit-1.3b-6of30-480x272x17-bf16-in-f32", "umt5-xxl-2of24-512-int8"] {
            assert!(names.contains(name), "{name} of {names:?}");
        }
        // A form whose name is not known would be another's.
        assert!(["int8-rotated", "q4_k_m", "q8_0", "fp8", "int8"].iter().all(|name| name.parse::<Form>().is_ok()));
        assert!((5..15).contains(&all.iter().filter(|c| c.usual).count()));
    }
}
