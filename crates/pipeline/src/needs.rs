//! How much memory each phase takes, from sizes alone.

use std::collections::BTreeMap;

use candle_core::DType;
use dit::{Attention, Chunking};
use kernels::Compute;
use offload::{How, Job, Machine, NetworkSize, Phase, PhaseJob, Place, Precision, StagePlan, Way, Work};
use vae::Tile;
use weights::convert::Form;
use weights::{Manifest, TensorSpec};

use crate::activations::{Activations, BranchCount, Branches};
use crate::geometry::LATENT;
use crate::predict::{POSE_FLOPS, VaeSide, encoder_flops, forward_flops, transformer_ways, vae_flops, vae_ways};
use crate::work::Transformer;
use crate::{PipelineError, RequestError};

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

    /// A published model that animates, its networks, and the forms in which it stores transformer, text and image encoder.
    pub fn published(name: &str) -> Result<(models::KnownModel, Self, [Form; 3]), PipelineError> {
        let known = models::known_models();
        let animating = || known.iter().filter(|m| m.animates() && !m.files.is_empty());
        let Some(model) = animating().find(|m| m.name == name) else {
            let names: Vec<&str> = animating().map(|m| m.name.as_str()).collect();
            let what = match known.iter().find(|m| m.name == name && m.network.starts_with("wan-")) {
                Some(wan) if wan.network != "wan-vae" => {
                    format!("{} makes no clip yet: there is no pipeline for it", wan.title)
                }
                _ => "no published model that makes clips has this name".to_owned(),
            };
            let problem = format!("{what}; there are {}", names.join(", "));
            return Err(PipelineError::Model { path: name.into(), problem });
        };
        let part = |network: &str| {
            let of = known.iter().find(|m| m.network == network && model.with.contains(&m.name));
            of.map_or("", |m| m.format.as_str())
        };
        // The image encoder is published in f16 only.
        let forms = [model.format.as_str(), part("umt5"), "fp16"].map(held_form);
        Ok((model.clone(), Self::steadydancer_14b(), forms))
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
/// Pictures that are encoded into tokens one after the other: the reference and the first pose.
const PICTURES: u64 = 2;

/// What a tensor of a network takes in memory.
pub(crate) type HeldBytes<'a> = Box<dyn Fn(&TensorSpec) -> u64 + 'a>;

/// With matrices of one precision and f32 else.
pub(crate) fn held_as(dtype: DType) -> HeldBytes<'static> {
    Box::new(move |spec| (spec.elements() * if spec.matrix { dtype.size_in_bytes() } else { 4 }) as u64)
}

/// As a file that was converted to this form is held: what the form leaves alone is in 16 bits.
pub(crate) fn held_in(form: Form) -> HeldBytes<'static> {
    Box::new(move |spec| match spec.matrix {
        true => form.matrix_bytes(&spec.name, &spec.shape).unwrap_or(2 * spec.elements() as u64),
        false => 4 * spec.elements() as u64,
    })
}

/// The form in which matrices are held that are published in `format`: f32 files in what the reference computes in.
fn held_form(format: &str) -> Form {
    let name = match format.strip_prefix("GGUF ") {
        Some(quant) => quant.to_lowercase(),
        None if format.starts_with("fp8") => "fp8".to_owned(),
        None if format == "fp16" => "f16".to_owned(),
        None => "bf16".to_owned(),
    };
    name.parse().unwrap_or(Form::BF16)
}

/// Sizes of a network for the planner. Its groups are `group.0` and so on, which need not be alike: quantised files mix
/// types. Of `table` a few rows are read.
fn network(name: &str, manifest: &Manifest, group: &str, table: Option<&str>, held: &HeldBytes) -> NetworkSize {
    let mut size = NetworkSize { name: name.to_owned(), ..NetworkSize::default() };
    let mut groups = BTreeMap::<usize, u64>::new();
    for spec in manifest.tensors() {
        let rest = spec.name.strip_prefix(group).and_then(|rest| rest.strip_prefix('.'));
        match rest.and_then(|rest| rest.split_once('.')).and_then(|(index, _)| index.parse().ok()) {
            Some(index) => {
                // As they lie in a slab.
                let bytes = held(spec).next_multiple_of(offload::SLAB_ALIGNMENT as u64);
                *groups.entry(index).or_default() += bytes;
                match spec.matrix {
                    true => size.largest_matrix_bytes = size.largest_matrix_bytes.max(bytes),
                    false => size.vector_bytes += bytes,
                }
            }
            None if table == Some(spec.name.as_str()) => size.table_bytes += held(spec),
            None => size.fixed_bytes += held(spec),
        }
    }
    size.group_bytes = groups.into_values().collect();
    size
}

/// What a run consists of besides the sizes of networks and clip.
pub(crate) struct Extent {
    /// Forwards of the whole loop.
    pub forwards: usize,
    /// Prompts that are encoded.
    pub prompts: usize,
    /// Clips that the VAE encodes.
    pub encodes: usize,
    /// Conditions that are held, and how many go through the blocks together.
    pub branches: BranchCount,
    /// Passes over all blocks: steps, times branches if these go one at a time.
    pub passes: usize,
    /// The VAE's tile, if it was asked for.
    pub vae_tile: Option<Tile>,
    /// What LoRAs take besides while a block is read.
    pub merge_bytes: u64,
    /// Whether the VAE computes in 16 bits where it can.
    pub half_vae: bool,
    /// Numbers that the transformer multiplies in on the host.
    pub compute: Compute,
    /// How its tokens attend to each other on a GPU.
    pub attention: Attention,
    /// Whether the GPU is computed on, and not only planned for: then what its blocks take is known.
    pub on_own_gpu: bool,
}

/// The pose phase: networks that are held whole, frames in flight, and arithmetic for so many frames. On a GPU it takes as much, unless
/// somebody knows better.
pub(crate) fn pose_phase(weights_bytes: u64, activation_bytes: u64, frames: usize) -> PhaseJob {
    PhaseJob {
        phase: Phase::Pose,
        network: NetworkSize::whole("pose", weights_bytes),
        passes: 1,
        work: Work { flops: POSE_FLOPS * frames as f64, precision: Precision::Half, compute: Compute::F32 },
        ways: vec![Way::whole(activation_bytes)],
        host_ways: vec![Way::whole(activation_bytes)],
    }
}

/// All phases, of which `pose` is known. `held` is for transformer, text and image encoder.
pub(crate) fn job(
    blueprint: &Blueprint,
    clip: ClipShape,
    held: &[HeldBytes; 3],
    pose: PhaseJob,
    extent: &Extent,
) -> Result<Vec<PhaseJob>, PipelineError> {
    let [dit, vae, text, image] = blueprint.manifests()?;
    let [dit_held, text_held, image_held] = held;
    let half = |flops, compute| Work { flops, precision: Precision::Half, compute };
    let encoder = |phase, network, passes, work, [on_gpu, on_host]: [u64; 2]| PhaseJob {
        phase,
        network,
        passes,
        work,
        ways: vec![Way::whole(on_gpu)],
        host_ways: vec![Way::whole(on_host)],
    };
    let (text_sizes, image_sizes) = (&blueprint.text_encoder, &blueprint.image_encoder);
    let text_compute = text_compute(extent.compute);
    let text_tokens = umt5::MAX_TOKENS as u64 * extent.prompts as u64;
    let text_flops = encoder_flops(&text, "blocks", text_tokens);
    let image_flops = encoder_flops(&image, "transformer", PICTURES * blueprint.image_encoder.tokens() as u64);
    let (encode_flops, decode_flops) = vae_flops(&vae, clip, extent.encodes);
    let vae_bytes = vae.bytes(DType::F32);
    let size = [clip.num_frames, clip.height, clip.width];
    let whole = |config: &vae::Config| vae::decode_activation_bytes(config, size, None).unwrap_or(u64::MAX);
    let scale = whole(&blueprint.vae) as f64 / whole(&vae::Config::wan21()).max(1) as f64;
    let autoencoder = |phase, side, flops| -> Result<PhaseJob, PipelineError> {
        let network = NetworkSize::whole("vae", vae_bytes);
        let work = if extent.half_vae || extent.on_own_gpu {
            half(flops, Compute::F32)
        } else {
            Work { flops, precision: Precision::Single, compute: Compute::F32 }
        };
        let ways = match extent.on_own_gpu {
            true if blueprint.vae.check_gpu().is_err() => Vec::new(),
            true => vae_tiled_ways(&blueprint.vae, side, Place::Device, size, extent.vae_tile)?,
            false => vae_ways(side, clip, extent.half_vae, scale),
        };
        let host_ways = vae_tiled_ways(&blueprint.vae, side, Place::Cpu, size, extent.vae_tile)?;
        Ok(PhaseJob { phase, network, passes: 1, work, ways, host_ways })
    };
    let d = &blueprint.dit;
    let tokens = clip.tokens(appended_frames(d));
    Ok(vec![
        pose,
        encoder(
            Phase::TextEncode,
            network("text encoder", &text, "blocks", Some(umt5::EMBEDDING), text_held),
            1,
            half(text_flops, text_compute),
            [
                umt5::gpu_activation_bytes(text_sizes, extent.prompts, umt5::MAX_TOKENS),
                umt5::activation_bytes(text_sizes, extent.prompts, umt5::MAX_TOKENS, text_compute),
            ],
        ),
        encoder(
            Phase::ImageEncode,
            network("image encoder", &image, "transformer", None, image_held),
            PICTURES,
            half(image_flops, Compute::F32),
            [clip::gpu_activation_bytes(image_sizes, 1), clip::activation_bytes(image_sizes, 1, Compute::F32)],
        ),
        autoencoder(Phase::VaeEncode, VaeSide::Encode, encode_flops)?,
        PhaseJob {
            phase: Phase::Denoise,
            network: network("transformer", &dit, "blocks", None, dit_held),
            passes: extent.passes as u64,
            work: half(forward_flops(d, tokens) * extent.forwards as f64, extent.compute),
            ways: match extent.on_own_gpu {
                true => dit_ways(blueprint, clip, extent, dit::gpu_activation_bytes),
                false => transformer_ways(d, tokens, extent.merge_bytes),
            },
            host_ways: dit_ways(blueprint, clip, extent, dit::activation_bytes),
        },
        autoencoder(Phase::Decode, VaeSide::Decode, decode_flops)?,
    ])
}

/// Numbers that the text encoder multiplies in, beside a transformer that does so: its activations have outliers that eight bits do
/// not hold.
pub(crate) fn text_compute(compute: Compute) -> Compute {
    compute.min(Compute::Bf16)
}

/// Latent frames that SteadyDancer appends.
fn appended_frames(config: &dit::Config) -> usize {
    if config.is_steadydancer() { 2 } else { 0 }
}

/// Pieces of the feed-forward layer, and runs of tokens where everything is computed by runs.
const FFN_PIECES: usize = 8;
const RUNS: usize = 16;

/// The transformer's way as it computes: `tokens` of a forward.
fn chunking(how: How, tokens: usize) -> Chunking {
    match how {
        How::FfnChunks(pieces) => Chunking::FeedForward { tokens: tokens.div_ceil(pieces.max(1) as usize) },
        How::TokenChunks => Chunking::Minimal { tokens: tokens.div_ceil(RUNS) },
        _ => Chunking::Whole,
    }
}

/// The transformer where its `activations` are known: all of them give the same bits.
fn dit_ways(
    blueprint: &Blueprint,
    clip: ClipShape,
    extent: &Extent,
    activations: fn(&dit::Config, &dit::PassShape) -> u64,
) -> Vec<Way> {
    let d = &blueprint.dit;
    let tokens = clip.tokens(appended_frames(d));
    let bytes = |how| {
        let shape = dit::PassShape {
            latent: [clip.latent_frames(), clip.height / LATENT, clip.width / LATENT],
            image_tokens: blueprint.image_encoder.tokens(),
            text_tokens: d.text_len,
            conditions: extent.branches.conditions,
            branches: extent.branches.together,
            chunking: chunking(how, tokens),
            compute: extent.compute,
            attention: extent.attention,
        };
        activations(d, &shape) + extent.merge_bytes
    };
    let way = |how, time_factor| Way { how, bytes: bytes(how), host_bytes: 0, time_factor, exact: true };
    less_and_less([way(How::Whole, 1.0), way(How::FfnChunks(FFN_PIECES as u32), 1.02), way(How::TokenChunks, 1.1)])
}

/// The VAE as this program computes it: whole, or in tiles; in the tile that was asked for if one was.
fn vae_tiled_ways(
    config: &vae::Config,
    side: VaeSide,
    on: Place,
    size: [usize; 3],
    asked: Option<Tile>,
) -> Result<Vec<Way>, PipelineError> {
    let bytes = |tile: Option<Tile>| {
        let bytes = match (side, on) {
            (VaeSide::Encode, Place::Cpu) => vae::encode_activation_bytes(config, size, tile).map(|own| (own, 0)),
            (VaeSide::Decode, Place::Cpu) => vae::decode_activation_bytes(config, size, tile).map(|own| (own, 0)),
            (VaeSide::Encode, Place::Device) => vae::gpu_encode_bytes(config, size, tile).map(|b| (b.device, b.host)),
            (VaeSide::Decode, Place::Device) => vae::gpu_decode_bytes(config, size, tile).map(|b| (b.device, b.host)),
        };
        bytes.map_err(|e| PipelineError::from(RequestError::VaeTile(e)))
    };
    let [_, height, width] = size;
    let way = |tile: Tile| -> Result<Way, PipelineError> {
        let covers = tile.size >= height.max(width);
        let computed = (tile.size as f64 / (tile.size - tile.overlap).max(1) as f64).powi(2);
        let (how, time_factor) = if covers { (How::Whole, 1.0) } else { (How::Tiles(tile.size as u32), computed) };
        let (bytes, host_bytes) = bytes(Some(tile))?;
        Ok(Way { how, bytes, host_bytes, time_factor, exact: covers })
    };
    if let Some(tile) = asked {
        return Ok(vec![way(tile)?]);
    }
    let smaller = [512, 320, 256].into_iter().filter(|side| *side < height.max(width));
    let smaller = smaller.map(|side| way(Tile::new(side))).collect::<Result<Vec<_>, _>>()?;
    let (whole, host_bytes) = bytes(None)?;
    Ok(less_and_less(std::iter::once(Way { host_bytes, ..Way::whole(whole) }).chain(smaller)))
}

/// Those ways that take less memory than all before them.
fn less_and_less(ways: impl IntoIterator<Item = Way>) -> Vec<Way> {
    let mut all: Vec<Way> = Vec::new();
    for way in ways {
        if all.last().is_none_or(|last| way.bytes < last.bytes) {
            all.push(way);
        }
    }
    all
}

/// What the plan's ways are for the networks.
pub(crate) fn activations(
    stages: &StagePlan,
    blueprint: &Blueprint,
    clip: ClipShape,
    branches: Branches,
    asked: Option<Tile>,
) -> Activations {
    let how = |phase| stages.phase(phase).map_or(How::Whole, |p| p.way.how);
    let tile = |phase| match how(phase) {
        How::Tiles(side) => Some(asked.unwrap_or_else(|| Tile::new(side as usize))),
        _ => None,
    };
    Activations {
        dit: chunking(how(Phase::Denoise), clip.tokens(appended_frames(&blueprint.dit))),
        branches,
        encode_tile: tile(Phase::VaeEncode),
        decode_tile: tile(Phase::Decode),
    }
}

/// A transformer alone on a GPU, with one condition, as the denoising phase of a clip of this shape.
pub(crate) fn transformer_job(
    transformer: &Transformer,
    clip: ClipShape,
    machine: &Machine,
) -> Result<Job, PipelineError> {
    let Transformer { config, form, forwards, attention, .. } = *transformer;
    let blueprint = Blueprint { dit: config.clone(), ..Blueprint::steadydancer_14b() };
    let manifest =
        dit::manifest(config).map_err(|source| PipelineError::Compute { place: "model sizes".into(), source })?;
    let extent = Extent {
        forwards,
        prompts: 1,
        encodes: 0,
        branches: BranchCount { conditions: 1, together: 1 },
        passes: forwards,
        vae_tile: None,
        merge_bytes: 0,
        half_vae: false,
        compute: Compute::Bf16,
        attention,
        on_own_gpu: true,
    };
    let flops = forward_flops(config, clip.tokens(appended_frames(config))) * forwards as f64;
    let phase = PhaseJob {
        phase: Phase::Denoise,
        network: network("transformer", &manifest, "blocks", None, &held_in(form)),
        passes: forwards as u64,
        work: Work { flops, precision: Precision::Half, compute: extent.compute },
        ways: dit_ways(&blueprint, clip, &extent, dit::gpu_activation_bytes),
        host_ways: Vec::new(),
    };
    Ok(whole_job(&blueprint, clip, vec![phase], machine))
}

/// What a plan of [`transformer_job`] says of its tokens.
pub(crate) fn transformer_activations(stages: &StagePlan, config: &dit::Config, clip: ClipShape) -> Chunking {
    let how = stages.phase(Phase::Denoise).map_or(How::Whole, |p| p.way.how);
    chunking(how, clip.tokens(appended_frames(config)))
}

/// The whole job on a machine: its phases and what is held through all of them, the program itself, pictures, embeddings,
/// latents of every condition. A driver and its libraries take their share of the host (spec memory_and_avatars §4.5).
pub(crate) fn whole_job(blueprint: &Blueprint, clip: ClipShape, phases: Vec<PhaseJob>, machine: &Machine) -> Job {
    const PROGRAM: u64 = 20 << 20;
    // x264 with its lookahead, of a pixel: 290 to 320 bytes were measured.
    const ENCODER: u64 = 380;
    const DRIVER: u64 = 3 << 29;
    let latents = 16 * clip.latent_elements(blueprint.dit.out_dim.max(16)) as u64 * F32;
    let text = 2 * umt5::MAX_TOKENS as u64 * blueprint.text_encoder.dim as u64 * F32;
    let picture = (clip.width * clip.height * 3) as u64 * F32;
    let driver = if machine.is_cpu() { 0 } else { DRIVER };
    let program = PROGRAM + ENCODER * (clip.width * clip.height) as u64;
    Job { phases, held_device_bytes: latents + text, held_ram_bytes: program + latents + text + 8 * picture + driver }
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
        let of = |held: &HeldBytes| network("n", &manifest, "blocks", Some("head.bias"), held);
        let bf16 = of(&held_as(DType::BF16));
        assert_eq!((bf16.fixed_bytes, bf16.table_bytes, bf16.largest_matrix_bytes), (20, 12, 256));
        // As they lie in slabs, each tensor at a multiple of 256.
        assert_eq!((bf16.group_bytes, bf16.vector_bytes), (vec![512; 3], 768));
        assert_eq!(of(&held).group_bytes, [512, 512, 2048]);
    }

    #[test]
    fn on_a_gpu_the_vae_shrinks_to_tiles_that_the_host_puts_together() {
        let (config, size) = (vae::Config::wan21(), [81, 480, 832]);
        for side in [VaeSide::Encode, VaeSide::Decode] {
            let ways = |on, asked| vae_tiled_ways(&config, side, on, size, asked).unwrap();
            let there = ways(Place::Device, None);
            let hows: Vec<How> = there.iter().map(|w| w.how).collect();
            assert_eq!(hows, [How::Whole, How::Tiles(512), How::Tiles(320), How::Tiles(256)]);
            assert!(there.windows(2).all(|pair| pair[0].bytes > pair[1].bytes && pair[1].host_bytes > 0));
            // Frames of 16 bits take less than those of 32 do on the host.
            assert!(there[0].bytes < ways(Place::Cpu, None)[0].bytes && there[0].exact && !there[1].exact);
            assert!(ways(Place::Cpu, None).iter().all(|way| way.host_bytes == 0));
            assert_eq!(ways(Place::Device, Some(Tile::new(256))), there[3..]);
        }
        let decoded = vae_tiled_ways(&config, VaeSide::Decode, Place::Device, size, None).unwrap();
        assert!(decoded[1].host_bytes > 81 * 480 * 832 * 3 * 2 && decoded[0].host_bytes < 200 << 20);
    }

    #[test]
    fn published_forms_are_those_of_their_names() {
        let forms = |name: &str| Blueprint::published(name).unwrap().2.map(Form::name);
        assert_eq!(forms("steadydancer-14b"), ["bf16", "bf16", "f16"]);
        assert_eq!(forms("steadydancer-14b-fp16")[0], "f16");
        assert_eq!(forms("steadydancer-14b-fp8"), ["fp8", "fp8", "f16"]);
        assert_eq!(forms("steadydancer-14b-q4_k_m")[0], "q4_k_m");
        let gib = |form: Form| {
            let manifest = dit::manifest(&dit::Config::steadydancer_14b()).unwrap();
            let size = network("dit", &manifest, "blocks", None, &held_in(form));
            (size.bytes() as f64 / f64::from(1 << 30), size.fixed_bytes as f64 / f64::from(1 << 30))
        };
        // spec memory_and_avatars §4.1: 30.5, 15.5 and 8.9 GiB.
        for (name, want) in [("bf16", 30.6), ("fp8", 15.6), ("int8", 15.6), ("q8_0", 16.5), ("q4_0", 9.1)] {
            let (all, fixed) = gib(name.parse().unwrap());
            assert!((all / want - 1.0).abs() < 0.03 && fixed < 0.7, "{name}: {all} GiB, {fixed} fixed");
        }
    }
}
