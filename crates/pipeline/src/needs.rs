//! How much memory each phase takes, from sizes alone.

use std::collections::BTreeMap;

use candle_core::DType;
use offload::{Phase, PhaseNeeds};
use weights::{Manifest, TensorSpec};

use crate::PipelineError;

/// Sizes of all four networks: all that a plan needs to know of a model.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    pub dit: dit::Config,
    pub vae: vae::Config,
    pub text_encoder: umt5::Config,
    pub image_encoder: clip::Config,
}

impl Blueprint {
    /// Networks of the published SteadyDancer-14B.
    pub fn steadydancer_14b() -> Self {
        Self {
            dit: dit::Config::steadydancer_14b(),
            vae: vae::Config::wan21(),
            text_encoder: umt5::Config::xxl(),
            image_encoder: clip::Config::vit_h_14(),
        }
    }

    /// Title and networks of a published model that animates.
    pub fn published(name: &str) -> Result<(String, Self), PipelineError> {
        let known = models::known_models();
        let animating: Vec<_> = known.into_iter().filter(|m| m.animates() && !m.files.is_empty()).collect();
        match animating.iter().find(|m| m.name == name) {
            Some(model) => Ok((model.title.clone(), Self::steadydancer_14b())),
            None => {
                let names: Vec<&str> = animating.iter().map(|m| m.name.as_str()).collect();
                let problem = format!("no published model has this name; there are {}", names.join(", "));
                Err(PipelineError::Model { path: name.into(), problem })
            }
        }
    }

    /// Tensors of the four networks: transformer, VAE, text encoder, image encoder.
    pub fn manifests(&self) -> Result<[Manifest; 4], PipelineError> {
        let place = |source| PipelineError::Compute { place: "model sizes".into(), source };
        Ok([
            dit::manifest(&self.dit).map_err(place)?,
            vae::manifest(&self.vae).map_err(place)?,
            umt5::manifest(&self.text_encoder).map_err(place)?,
            clip::manifest(&self.image_encoder).map_err(place)?,
        ])
    }
}

/// What a clip's size means in latents and tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClipShape {
    pub width: usize,
    pub height: usize,
    pub num_frames: usize,
}

impl ClipShape {
    /// Latent frames F.
    pub fn latent_frames(&self) -> usize {
        (self.num_frames - 1) / crate::geometry::LATENT_FRAMES + 1
    }

    /// Elements of one `[16, F, h, w]`.
    pub fn latent_elements(&self, channels: usize) -> usize {
        let side = |v: usize| v / crate::geometry::LATENT;
        channels * self.latent_frames() * side(self.width) * side(self.height)
    }

    /// Tokens of one forward with `extra` appended frames.
    pub fn tokens(&self, extra: usize) -> usize {
        (self.latent_frames() + extra) * (self.width / crate::SIDE_MULTIPLE) * (self.height / crate::SIDE_MULTIPLE)
    }
}

const F32: u64 = 4;
/// Score buffers of attention: the bound of the kernel, twice for the softmax's copy.
const SCORES: u64 = 2 * (64 << 20);

/// What a tensor of a network takes in memory.
pub(crate) type HeldBytes<'a> = Box<dyn Fn(&TensorSpec) -> u64 + 'a>;

/// With matrices of one precision and f32 else.
pub(crate) fn held_as(dtype: DType) -> HeldBytes<'static> {
    Box::new(move |spec| (spec.elements() * if spec.matrix { dtype.size_in_bytes() } else { 4 }) as u64)
}

/// Bytes of all weights, of those outside of `group`s, and of the largest of these (`blocks.7`), which need not be alike:
/// quantised files mix types.
fn split(manifest: &Manifest, group: &str, held: &HeldBytes) -> (u64, u64, u64) {
    let (mut fixed, mut groups) = (0, BTreeMap::<&str, u64>::new());
    for spec in manifest.tensors() {
        let rest = spec.name.strip_prefix(group).and_then(|rest| rest.strip_prefix('.'));
        match rest.and_then(|rest| rest.split_once('.')) {
            Some((index, _)) => *groups.entry(index).or_default() += held(spec),
            None => fixed += held(spec),
        }
    }
    (fixed + groups.values().sum::<u64>(), fixed, groups.values().copied().max().unwrap_or(0))
}

/// The needs of all phases, of which `pose` is known. `held` is for transformer, text and image encoder; `merge_bytes` is
/// what LoRAs take besides while a block is read.
pub(crate) fn needs(
    blueprint: &Blueprint,
    clip: ClipShape,
    held: &[HeldBytes; 3],
    pose: PhaseNeeds,
    merge_bytes: u64,
) -> Result<Vec<PhaseNeeds>, PipelineError> {
    let [dit, vae, text, image] = blueprint.manifests()?;
    let with_groups = |phase, (weights_bytes, fixed_bytes, largest_group_bytes), activation_bytes| PhaseNeeds {
        phase,
        weights_bytes,
        fixed_bytes,
        largest_group_bytes,
        activation_bytes,
    };
    let t = &blueprint.text_encoder;
    let text_tokens = umt5::MAX_TOKENS as u64;
    let text_activations = text_tokens * F32 * (6 * t.dim + 3 * t.dim_ffn) as u64
        + 3 * text_tokens * text_tokens * t.num_heads as u64 * F32;
    let i = &blueprint.image_encoder;
    let side = (i.image_size / i.patch_size) as u64;
    let image_tokens = side * side + 1;
    let image_activations =
        image_tokens * F32 * (14 * i.dim) as u64 + 2 * image_tokens * image_tokens * i.num_heads as u64 * F32;
    let d = &blueprint.dit;
    let extra = if d.is_steadydancer() { 2 } else { 0 };
    let tokens = clip.tokens(extra) as u64;
    // The caller's residual and ours, the modulated input, q, k, v, their head-major copies, the attended values in
    // chunks and joined; or the feed-forward's inner rows in tiles and joined, or before and after the activation.
    let attention_floats = 12 * d.dim as u64;
    let ffn_floats = (5 * d.dim + 2 * d.ffn_dim) as u64;
    let dit_activations = tokens * F32 * attention_floats.max(ffn_floats) + SCORES + merge_bytes;
    let encode = vae::encode_activation_bytes(&blueprint.vae, clip.height, clip.width);
    let decode = vae::decode_activation_bytes(&blueprint.vae, clip.height, clip.width);
    let vae_bytes = vae.bytes(DType::F32);
    let [dit_held, text_held, image_held] = held;
    Ok(vec![
        pose,
        with_groups(Phase::TextEncode, split(&text, "blocks", text_held), text_activations),
        with_groups(Phase::ImageEncode, split(&image, "transformer", image_held), image_activations),
        PhaseNeeds::whole(Phase::VaeEncode, vae_bytes, encode),
        with_groups(Phase::Denoise, split(&dit, "blocks", dit_held), dit_activations),
        PhaseNeeds::whole(Phase::Decode, vae_bytes, decode),
    ])
}

/// What a run holds through all phases: the program itself, pictures, embeddings, latents of every condition.
pub(crate) fn held_bytes(blueprint: &Blueprint, clip: ClipShape) -> u64 {
    const PROGRAM: u64 = 128 << 20;
    let latents = clip.latent_elements(blueprint.dit.out_dim.max(16)) as u64 * F32;
    let text = 2 * umt5::MAX_TOKENS as u64 * blueprint.text_encoder.dim as u64 * F32;
    let picture = (clip.width * clip.height * 3) as u64 * F32;
    PROGRAM + 16 * latents + text + 8 * picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_are_not_alike_are_counted_one_by_one() {
        let manifest = Manifest::record(|w| {
            w.tensor(3, "head.bias")?;
            w.matrix((2, 5), "blocks")?;
            for (block, rows) in [(0, 4), (1, 8), (11, 2)] {
                w.matrix((rows, 10), &format!("blocks.{block}.w"))?;
                w.tensor(1, &format!("blocks.{block}.b"))?;
            }
            Ok(())
        });
        let held: HeldBytes =
            Box::new(|spec| if spec.name.starts_with("blocks.11.") { 1000 } else { held_as(DType::BF16)(spec) });
        let manifest = manifest.unwrap();
        assert_eq!(split(&manifest, "blocks", &held_as(DType::BF16)), (12 + 20 + 84 + 164 + 44, 32, 164));
        assert_eq!(split(&manifest, "blocks", &held), (12 + 20 + 84 + 164 + 2000, 32, 2000));
        assert_eq!(manifest.bytes(DType::BF16), split(&manifest, "blocks", &held_as(DType::BF16)).0);
    }
}
