use serde::{Deserialize, Serialize};

/// Sizes of one diffusion transformer. Field names follow the `config.json` of the Wan releases, which can be
/// deserialised into it; what that file leaves out has the published value as its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `t2v`, `i2v`, `flf2v` or `vace`: which conditions the network has.
    #[serde(default = "default_model_type")]
    pub model_type: String,
    /// Channels of the patch embedding's input: 16, or 36 with mask and image latents.
    pub in_dim: usize,
    /// Channels of the velocity.
    #[serde(default = "sixteen")]
    pub out_dim: usize,
    /// Width D.
    pub dim: usize,
    /// Inner width of the feed-forward layer.
    pub ffn_dim: usize,
    /// Length of the sinusoidal time embedding.
    #[serde(default = "default_freq_dim")]
    pub freq_dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Width of a text token.
    #[serde(default = "default_text_dim")]
    pub text_dim: usize,
    /// Text tokens S after zero padding.
    #[serde(default = "default_text_len")]
    pub text_len: usize,
    /// Width of an image token.
    #[serde(default = "default_clip_dim")]
    pub clip_dim: usize,
    /// LayerNorm and RMSNorm epsilon.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// SteadyDancer: channels of the pose latents. `None` for plain Wan.
    #[serde(default)]
    pub in_dim_c: Option<usize>,
    /// VACE's side branch.
    #[serde(flatten, default)]
    pub vace: Option<VaceConfig>,
}

/// Sizes of VACE's side branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VaceConfig {
    /// Blocks of the main network after which a hint is added.
    pub vace_layers: Vec<usize>,
    /// Channels of the control latents.
    pub vace_in_dim: usize,
}

fn default_model_type() -> String {
    "t2v".into()
}
fn sixteen() -> usize {
    16
}
fn default_freq_dim() -> usize {
    256
}
fn default_text_dim() -> usize {
    4096
}
fn default_text_len() -> usize {
    512
}
fn default_clip_dim() -> usize {
    1280
}
fn default_eps() -> f64 {
    1e-6
}

impl Config {
    fn wan(model_type: &str, in_dim: usize, size: (usize, usize, usize, usize)) -> Self {
        let (dim, ffn_dim, num_heads, num_layers) = size;
        Self {
            model_type: model_type.into(),
            in_dim,
            out_dim: 16,
            dim,
            ffn_dim,
            freq_dim: default_freq_dim(),
            num_heads,
            num_layers,
            text_dim: default_text_dim(),
            text_len: default_text_len(),
            clip_dim: default_clip_dim(),
            eps: default_eps(),
            in_dim_c: None,
            vace: None,
        }
    }

    const SIZE_14B: (usize, usize, usize, usize) = (5120, 13824, 40, 40);
    const SIZE_1_3B: (usize, usize, usize, usize) = (1536, 8960, 12, 30);

    /// Wan 2.1 text-to-video, 1.3 billion parameters.
    pub fn wan_t2v_1_3b() -> Self {
        Self::wan("t2v", 16, Self::SIZE_1_3B)
    }

    /// Wan 2.1 text-to-video, 14 billion parameters.
    pub fn wan_t2v_14b() -> Self {
        Self::wan("t2v", 16, Self::SIZE_14B)
    }

    /// Wan 2.1 image-to-video, 16.4 billion parameters (480P and 720P have the same shape).
    pub fn wan_i2v_14b() -> Self {
        Self::wan("i2v", 36, Self::SIZE_14B)
    }

    /// Wan 2.1 first-and-last-frame-to-video.
    pub fn wan_flf2v_14b() -> Self {
        Self::wan("flf2v", 36, Self::SIZE_14B)
    }

    /// Wan 2.1 VACE, 1.3 billion parameters in the main network.
    pub fn wan_vace_1_3b() -> Self {
        let vace = VaceConfig { vace_layers: (0..30).step_by(2).collect(), vace_in_dim: 96 };
        Self { vace: Some(vace), ..Self::wan("vace", 16, Self::SIZE_1_3B) }
    }

    /// Wan 2.1 VACE, 14 billion parameters in the main network.
    pub fn wan_vace_14b() -> Self {
        let vace = VaceConfig { vace_layers: (0..40).step_by(5).collect(), vace_in_dim: 96 };
        Self { vace: Some(vace), ..Self::wan("vace", 16, Self::SIZE_14B) }
    }

    /// SteadyDancer-14B: Wan i2v with the three condition modules.
    pub fn steadydancer_14b() -> Self {
        Self { in_dim_c: Some(16), ..Self::wan_i2v_14b() }
    }

    /// A SteadyDancer small enough for the demo and for tests.
    pub fn tiny() -> Self {
        Self {
            freq_dim: 64,
            text_dim: 64,
            text_len: 64,
            clip_dim: 64,
            in_dim_c: Some(16),
            ..Self::wan("i2v", 36, (128, 256, 2, 2))
        }
    }

    /// Whether the blocks attend to image tokens.
    pub fn has_image_context(&self) -> bool {
        matches!(self.model_type.as_str(), "i2v" | "flf2v")
    }

    /// Whether it is SteadyDancer.
    pub fn is_steadydancer(&self) -> bool {
        self.in_dim_c.is_some()
    }

    /// Channels of one head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.num_heads.max(1)
    }

    /// Reads the sizes off the shapes of a checkpoint's tensors (canonical names), as spec wan_components §4.1 says.
    /// Heads are taken as 128 channels wide, which holds for every published model. `None` when it is no Wan DiT.
    pub fn detect<'a>(shape: impl Fn(&str) -> Option<&'a [usize]>) -> Option<Self> {
        let dims = |name: &str, rank: usize| shape(name).filter(|s| s.len() == rank);
        let patch = shape("patch_embedding.weight").filter(|s| s.len() >= 2)?;
        let (dim, in_dim) = (patch[0], patch[1]);
        let count =
            |prefix: &str| (0..10_000).take_while(|i| shape(&format!("{prefix}.{i}.modulation")).is_some()).count();
        let num_layers = count("blocks");
        let image = dims("img_emb.proj.1.weight", 2);
        let vace = shape("vace_patch_embedding.weight").filter(|s| s.len() >= 2).map(|s| {
            // The layers are not stored: hints are spread evenly, as in both published models.
            let hints = count("vace_blocks").max(1);
            VaceConfig {
                vace_layers: (0..num_layers).step_by(num_layers.div_ceil(hints).max(1)).collect(),
                vace_in_dim: s[1],
            }
        });
        let steadydancer = shape("condition_embedding_align.cross_attn.in_proj_bias").is_some();
        let in_dim_c =
            steadydancer.then(|| shape("patch_embedding_ref_c.weight").map_or(16, |s| s.get(1).copied().unwrap_or(16)));
        let model_type = match (&vace, image, shape("img_emb.emb_pos")) {
            (Some(_), ..) => "vace",
            (None, Some(_), Some(_)) => "flf2v",
            (None, Some(_), None) => "i2v",
            _ => "t2v",
        };
        Some(Self {
            model_type: model_type.into(),
            in_dim,
            out_dim: dims("head.head.weight", 2)?[0] / 4,
            dim,
            ffn_dim: dims("blocks.0.ffn.0.weight", 2)?[0],
            freq_dim: dims("time_embedding.0.weight", 2)?[1],
            num_heads: (dim / 128).max(1),
            num_layers,
            text_dim: dims("text_embedding.0.weight", 2)?[1],
            text_len: default_text_len(),
            clip_dim: image.map_or(default_clip_dim(), |s| s[1]),
            eps: default_eps(),
            in_dim_c,
            vace,
        })
    }

    /// A name for people, say `SteadyDancer-14B`.
    pub fn label(&self) -> String {
        let size = match (self.dim, self.num_layers) {
            (5120, 40) => "14B".to_owned(),
            (1536, 30) => "1.3B".to_owned(),
            (dim, layers) => format!("{layers}x{dim}"),
        };
        match (self.is_steadydancer(), self.model_type.as_str()) {
            (true, _) => format!("SteadyDancer-{size}"),
            (false, kind) => format!("Wan2.1-{}-{size}", kind.to_uppercase()),
        }
    }
}
