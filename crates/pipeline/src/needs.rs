//! How much memory each phase takes, from sizes alone.

use std::collections::BTreeMap;

use candle_core::DType;
use offload::{Phase, PhaseNeeds};
use weights::{Manifest, TensorSpec};

use crate::activations::BranchCount;
use crate::{Activations, PipelineError, RequestError};

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

/// Bytes that activations depend on besides the networks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub clip: ClipShape,
    pub activations: Activations,
    pub branches: BranchCount,
    /// What LoRAs take besides while a block is read.
    pub merge_bytes: u64,
}

/// The needs of all phases, of which `pose` is known. `held` is for transformer, text and image encoder.
pub(crate) fn needs(
    blueprint: &Blueprint,
    work: &Work,
    held: &[HeldBytes; 3],
    pose: PhaseNeeds,
) -> Result<Vec<PhaseNeeds>, PipelineError> {
    let Work { clip, activations, branches, merge_bytes } = *work;
    let [dit, vae, text, image] = blueprint.manifests()?;
    let with_groups = |phase, (weights_bytes, fixed_bytes, largest_group_bytes), activation_bytes| PhaseNeeds {
        phase,
        weights_bytes,
        fixed_bytes,
        largest_group_bytes,
        activation_bytes,
    };
    // A positive and a negative prompt; pictures one by one.
    let text_activations = umt5::activation_bytes(&blueprint.text_encoder, 2, umt5::MAX_TOKENS);
    let image_activations = clip::activation_bytes(&blueprint.image_encoder, 1);
    let shape = dit::PassShape {
        latent: [clip.latent_frames(), clip.height / crate::geometry::LATENT, clip.width / crate::geometry::LATENT],
        image_tokens: blueprint.image_encoder.tokens(),
        conditions: branches.conditions,
        branches: branches.together,
        chunking: activations.dit,
    };
    let dit_activations = dit::activation_bytes(&blueprint.dit, &shape) + merge_bytes;
    let size = [clip.num_frames, clip.height, clip.width];
    let tile = |e| PipelineError::from(RequestError::VaeTile(e));
    let encode = vae::encode_activation_bytes(&blueprint.vae, size, activations.vae_tile).map_err(tile)?;
    let decode = vae::decode_activation_bytes(&blueprint.vae, size, activations.vae_tile).map_err(tile)?;
    let vae_bytes = vae.bytes(DType::F32);
    let [dit_held, text_held, image_held] = held;
    // Of the table of embeddings only the rows of the prompts are read.
    let text_held: HeldBytes = Box::new(|spec| if spec.name == umt5::EMBEDDING { 0 } else { text_held(spec) });
    Ok(vec![
        pose,
        with_groups(Phase::TextEncode, split(&text, "blocks", &text_held), text_activations),
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
