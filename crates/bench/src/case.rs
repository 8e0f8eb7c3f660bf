//! What can be measured.

use std::fmt;
use std::str::FromStr;

use dit::Attention;
use kernels::Compute;
use offload::MemoryMode;
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
    /// Wan 2.1 text to video, 14 billion.
    Wan14b,
    /// Wan 2.1 image to video, 14 billion.
    WanI2v14b,
    /// SteadyDancer.
    SteadyDancer14b,
    /// SteadyDancer's wiring with next to no weights, to see that measuring works.
    Tiny,
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
    /// Something on a GPU.
    OnGpu(OnGpu),
    /// The embedded demo model makes a whole clip, encoded and written.
    Clip {
        /// Frames.
        frames: usize,
        /// Of products.
        compute: Compute,
    },
}

/// What is done on a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum OnGpu {
    /// One product with a matrix, of inputs in the numbers that it is multiplied in.
    Product {
        /// Rows of the inputs, of the matrix, and columns of both.
        shape: [usize; 3],
        /// Of the matrix.
        form: Form,
    },
    /// Attention of tokens to each other.
    Attention {
        /// Tokens, heads, channels of a head.
        shape: [usize; 3],
        /// Of scores.
        precision: Attention,
    },
    /// One forward of a transformer, with its weights where a plan of this mode has them.
    Transformer(Forward),
}

/// A forward of a transformer on a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forward {
    /// Which.
    pub model: Model,
    /// Width, height, frames.
    pub size: [usize; 3],
    /// Of its matrices.
    pub form: Form,
    /// How much stays on the GPU. In `partial` half of the blocks do.
    pub mode: MemoryMode,
    /// How tokens attend to each other.
    pub attention: Attention,
}

impl Model {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Wan1_3b, Self::Wan14b, Self::WanI2v14b, Self::SteadyDancer14b, Self::Tiny];

    /// As it is called in names of cases.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Wan1_3b => "1.3b",
            Self::Wan14b => "14b",
            Self::WanI2v14b => "i2v-14b",
            Self::SteadyDancer14b => "steadydancer-14b",
            Self::Tiny => "tiny",
        }
    }

    /// All of it.
    pub fn config(self) -> dit::Config {
        match self {
            Self::Wan1_3b => dit::Config::wan_t2v_1_3b(),
            Self::Wan14b => dit::Config::wan_t2v_14b(),
            Self::WanI2v14b => dit::Config::wan_i2v_14b(),
            Self::SteadyDancer14b => dit::Config::steadydancer_14b(),
            // Matrices of a width that every form can have, and more blocks than staging buffers.
            Self::Tiny => dit::Config { dim: 256, ffn_dim: 512, num_heads: 4, num_layers: 3, ..dit::Config::tiny() },
        }
    }

    /// Steps of a clip as the models' own programs make it, and forwards of all of them: with guidance two a step. SteadyDancer
    /// has a third where the poses guide, from a tenth to 0.4 of the steps (spec performance §2.1).
    pub fn clip(self) -> (usize, usize) {
        match self {
            Self::Wan1_3b | Self::Wan14b => (50, 100),
            Self::WanI2v14b => (40, 80),
            Self::SteadyDancer14b | Self::Tiny => (40, 92),
        }
    }
}

impl FromStr for Model {
    type Err = UnknownModel;

    fn from_str(text: &str) -> Result<Self, UnknownModel> {
        Self::ALL.into_iter().find(|model| model.label() == text).ok_or_else(|| UnknownModel(text.to_owned()))
    }
}

/// A name that no transformer has here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no transformer is called {0:?}; take one of 1.3b, 14b, i2v-14b, steadydancer-14b, tiny")]
pub struct UnknownModel(pub String);

impl fmt::Display for OnGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Product { shape: [m, n, k], form } => write!(f, "gemm-{m}x{n}x{k}-{form}"),
            Self::Attention { shape: [l, heads, dim], precision } => {
                write!(f, "attention-{l}x{heads}x{dim}-{}", precision.name())
            }
            Self::Transformer(Forward { model, size: [w, h, t], form, mode, attention }) => {
                write!(f, "dit-{}-{w}x{h}x{t}-{form}-{mode}", model.label())?;
                match attention {
                    Attention::Int8 => f.write_str("-attention-int8"),
                    _ => Ok(()),
                }
            }
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
            Self::OnGpu(what) => what.fmt(f),
            Self::Clip { frames, compute } => write!(f, "clip-demo-{frames}-{}", compute.name()),
        }
    }
}

/// All cases for a GPU, in the order in which they are run. The usual ones take some minutes on an H200.
pub fn gpu_cases() -> Vec<Case> {
    let form = |name: &str| name.parse().unwrap_or(Form::BF16);
    let mut all = Vec::new();
    let mut add = |usual, what: OnGpu| all.push(Case { name: what.to_string(), what: What::OnGpu(what), usual });
    // The three products of a 14B block over the tokens of 480x832x81.
    for (n, k) in [(5120, 5120), (13_824, 5120), (5120, 13_824)] {
        for name in ["bf16", "fp8", "int8", "int8-rotated", "q8_0", "q4_k_m"] {
            let usual = ["bf16", "fp8", "int8"].contains(&name);
            add(usual, OnGpu::Product { shape: [32_760, n, k], form: form(name) });
        }
    }
    let precisions = [Attention::Bf16, Attention::Int8];
    for (usual, tokens) in [(true, 32_760), (false, 75_600)] {
        for precision in precisions {
            add(usual, OnGpu::Attention { shape: [tokens, 40, 128], precision });
        }
    }
    let modes = [MemoryMode::Full, MemoryMode::Stage, MemoryMode::Partial, MemoryMode::Stream, MemoryMode::Minimal];
    for model in [Model::Wan1_3b, Model::Wan14b, Model::WanI2v14b, Model::SteadyDancer14b] {
        for size in [[480, 832, 81], [576, 1024, 81], [720, 1280, 81]] {
            for name in ["bf16", "fp8", "int8", "int8-rotated"] {
                for mode in modes {
                    let usual = matches!(
                        (model, size[0], name, mode),
                        (Model::Wan1_3b, 480, "bf16", MemoryMode::Full)
                            | (Model::WanI2v14b, 480, "bf16" | "fp8" | "int8", MemoryMode::Full)
                            | (Model::WanI2v14b, 480, "fp8", MemoryMode::Stream)
                            | (Model::SteadyDancer14b, 576, "fp8" | "int8", MemoryMode::Full)
                            | (Model::WanI2v14b, 720, "fp8", MemoryMode::Full)
                    );
                    let with = |attention| Forward { model, size, form: form(name), mode, attention };
                    add(usual, OnGpu::Transformer(with(Attention::Bf16)));
                    // What 8 bits are for, in one mode: where weights are makes no difference to it.
                    if mode == MemoryMode::Full {
                        let usual = usual && model != Model::Wan1_3b && name == "fp8";
                        add(usual, OnGpu::Transformer(with(Attention::Int8)));
                    }
                }
            }
        }
    }
    for name in ["bf16", "fp8", "int8"] {
        for mode in modes {
            let attention = Attention::Bf16;
            let forward = Forward { model: Model::Tiny, size: [96, 96, 9], form: form(name), mode, attention };
            add(false, OnGpu::Transformer(forward));
        }
    }
    add(false, OnGpu::Product { shape: [300, 200, 256], form: form("int8") });
    for precision in precisions {
        add(false, OnGpu::Attention { shape: [200, 2, 128], precision });
    }
    all
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

    #[test]
    fn names_of_gpu_cases_have_the_same_pattern() {
        let all = gpu_cases();
        let names: BTreeSet<_> = all.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), all.len());
        for name in [
            "dit-1.3b-480x832x81-bf16-full",
            "dit-14b-720x1280x81-fp8-minimal",
            "dit-i2v-14b-480x832x81-int8-stream",
            "dit-steadydancer-14b-576x1024x81-int8-rotated-partial",
            "gemm-32760x13824x5120-q4_k_m",
            "dit-i2v-14b-480x832x81-fp8-full-attention-int8",
            "attention-32760x40x128-bf16",
            "attention-32760x40x128-int8",
        ] {
            assert!(names.contains(name), "{name} of {names:?}");
        }
        let config = Model::Tiny.config();
        assert!(config.is_steadydancer() && config.dim.is_multiple_of(config.num_heads));
    }
}
