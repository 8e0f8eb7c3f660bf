//! The network: what is prepared once per clip, and one forward pass.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use kernels::cuda::Gpu;
use weights::{Manifest, WeightSource, Weights};

use crate::backend::{Backend, Host, OnGpu};
use crate::block::{Block, Context, Pass};
use crate::condition::{Align, Spatial, Temporal};
use crate::embed::{Head, ImageEmbedding, PATCH, PatchEmbedding, TextEmbedding, TimeEmbedding};
use crate::vace::VaceBlock;
use crate::{Chunking, Config};

/// Called with the name of an intermediate result and its value. Returning an error stops the pass, which is how a
/// run is cancelled and how non-finite values are caught where they arise.
pub type Tap<'a> = &'a mut dyn FnMut(&str, &Tensor) -> Result<()>;

/// A [`Tap`] that looks at nothing.
///
/// # Errors
/// None.
pub fn no_tap(_: &str, _: &Tensor) -> Result<()> {
    Ok(())
}

/// Everything that conditions one guidance branch, f32 or convertible to it.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// `[n, text_dim]`, n ≤ S: the rows of the valid text tokens.
    pub text_embeds: Option<Tensor>,
    /// `[1 or 2, 257, clip_dim]`: CLIP tokens of the reference image (first and last frame for flf2v).
    pub ref_image_embeds: Option<Tensor>,
    /// `[20, F, h, w]`: four mask channels, then sixteen channels of image latents.
    pub image_latents: Option<Tensor>,
    /// SteadyDancer's pose conditions.
    pub pose: Option<PoseInputs>,
    /// VACE's control latents.
    pub vace: Option<VaceInputs>,
}

/// What SteadyDancer adds to Wan i2v.
#[derive(Debug, Clone)]
pub struct PoseInputs {
    /// `[16, F, h, w]`: latents of the drawn poses.
    pub pose_latents: Tensor,
    /// `[36, 1, h, w]`: reference latents, four ones, reference latents.
    pub ref_latents: Tensor,
    /// `[≥16, 1, h, w]`: latents of the first pose frame; the first sixteen channels are used.
    pub pose_ref_latents: Tensor,
    /// `[1, 257, clip_dim]`: CLIP tokens of the first pose frame, added to the reference's after projection.
    pub pose_image_embeds: Tensor,
}

/// Control of a VACE network.
#[derive(Debug, Clone)]
pub struct VaceInputs {
    /// `[96, F, h, w]`: inactive and reactive latents and the mask channels.
    pub context: Tensor,
    /// How strongly hints are added; 1 is the published default.
    pub scale: f64,
}

/// Conditions brought to the network's width, the same in every step: made once per clip and branch.
pub struct Conditioning {
    pub(crate) context: Context<Host>,
    /// The same in a GPU's memory, from the first pass there on.
    pub(crate) on_gpu: OnceLock<Context<OnGpu>>,
    image_latents: Option<Tensor>,
    pose: Option<PoseConditioning>,
    vace: Option<VaceConditioning>,
}

struct PoseConditioning {
    /// `[F, C, h, w]`: pose latents plus both feature extractors (`C_f`).
    features: Tensor,
    /// `[1, 2·(h/2)·(w/2), D]`: tokens of the two appended frames.
    appended: Tensor,
}

struct VaceConditioning {
    tokens: Tensor,
    scale: f64,
}

/// One branch on its way through the blocks.
struct Stream<T> {
    /// `[1, L, D]`, but for as long as a block has it.
    x: Option<T>,
    side: Option<Side<T>>,
}

/// VACE's side of a branch, `[1, L, D]` each.
struct Side<T> {
    tokens: T,
    control: T,
}

impl Stream<Tensor> {
    /// The same where blocks are computed.
    fn brought<B: Backend>(self, backend: &B) -> Result<Stream<B::Activations>> {
        let side = match self.side {
            Some(Side { tokens, control }) => {
                Some(Side { tokens: backend.bring(tokens)?, control: backend.bring(control)? })
            }
            None => None,
        };
        Ok(Stream { x: self.x.map(|x| backend.bring(x)).transpose()?, side })
    }
}

impl<T> Stream<T> {
    /// The tokens, so that whoever computes with them can let go of them.
    fn take(&mut self) -> Result<T> {
        self.x.take().ok_or_else(|| candle_core::Error::msg("the tokens of a branch are gone"))
    }
}

/// What all blocks of a pass share.
struct Passing<'a> {
    branches: &'a [&'a Conditioning],
    /// `[1, 6, D]` of the timestep.
    time: &'a Tensor,
    /// Tokens along (t, y, x).
    grid: (usize, usize, usize),
    chunking: Chunking,
    /// How many of the tokens are the clip's own; the frames appended to them have served after the last block.
    own_tokens: usize,
    /// Whether each block's result is looked at even if that takes waiting for it.
    each_block: bool,
}

/// The three condition modules and the two further patch embeddings of SteadyDancer.
struct SteadyDancer {
    temporal: Temporal,
    spatial: Spatial,
    align: Align,
    patch_fuse: PatchEmbedding,
    patch_ref_c: PatchEmbedding,
    channels: usize,
}

impl SteadyDancer {
    fn new(config: &Config, channels: usize, w: &Weights) -> Result<Self> {
        let fused = config.in_dim + 2 * channels;
        Ok(Self {
            temporal: Temporal::new(channels, &w.pp("condition_embedding_temporal"))?,
            spatial: Spatial::new(channels, &w.pp("condition_embedding_spatial"))?,
            align: Align::new(channels, &w.pp("condition_embedding_align"))?,
            patch_fuse: PatchEmbedding::new(fused, config.dim, &w.pp("patch_embedding_fuse"))?,
            patch_ref_c: PatchEmbedding::new(channels, config.dim, &w.pp("patch_embedding_ref_c"))?,
            channels,
        })
    }
}

/// The diffusion transformer. Everything but the blocks is held; blocks come from the [`WeightSource`] one at a time.
pub struct Dit {
    config: Config,
    blocks: Arc<dyn WeightSource>,
    patch: PatchEmbedding,
    text: TextEmbedding,
    time: TimeEmbedding,
    image: Option<ImageEmbedding>,
    steadydancer: Option<SteadyDancer>,
    vace_patch: Option<PatchEmbedding>,
    head: Head,
    /// Embeddings of the timesteps that were announced.
    times: Mutex<Vec<(f64, TimeRows)>>,
    /// Where blocks are computed, if not on the host.
    gpu: Option<OnGpu>,
}

/// Of one timestep: `[1, D]` and `[1, 6, D]`.
type TimeRows = (Tensor, Tensor);

/// Most bytes that keys and values of a condition's context may take to be kept from step to step. Of the large models' they would take
/// more than computing them again is worth.
pub(crate) const KEPT_CONTEXT_BYTES: u64 = 64 << 20;

impl Dit {
    /// # Errors
    /// A tensor outside the blocks is missing or misshapen, or the sizes contradict each other.
    pub fn new(config: &Config, source: Arc<dyn WeightSource>) -> Result<Self> {
        let w = source.group("")?;
        Self::with_blocks(config, &w, source)
    }

    fn with_blocks(config: &Config, w: &Weights, blocks: Arc<dyn WeightSource>) -> Result<Self> {
        if config.num_heads == 0
            || !config.dim.is_multiple_of(2 * config.num_heads)
            || !config.freq_dim.is_multiple_of(2)
        {
            candle_core::bail!(
                "dim {} in {} heads and freq_dim {} do not make a network",
                config.dim,
                config.num_heads,
                config.freq_dim
            );
        }
        let image =
            if config.has_image_context() { Some(ImageEmbedding::new(config, &w.pp("img_emb"))?) } else { None };
        let steadydancer = match config.in_dim_c {
            Some(channels) => Some(SteadyDancer::new(config, channels, w)?),
            None => None,
        };
        let vace_patch = match &config.vace {
            Some(vace) => Some(PatchEmbedding::new(vace.vace_in_dim, config.dim, &w.pp("vace_patch_embedding"))?),
            None => None,
        };
        Ok(Self {
            patch: PatchEmbedding::new(config.in_dim, config.dim, &w.pp("patch_embedding"))?,
            text: TextEmbedding::new(config, w)?,
            time: TimeEmbedding::new(config, w)?,
            head: Head::new(config, &w.pp("head"))?,
            config: config.clone(),
            blocks,
            image,
            steadydancer,
            vace_patch,
            times: Mutex::default(),
            gpu: None,
        })
    }

    /// The same with its blocks computed on a GPU, whose memory the source brings them to. Everything else stays on the host.
    /// Matrices must be in a form that the GPU multiplies with ([`kernels::cuda::ops::input_form`]), and a head's channels a
    /// multiple of 8.
    pub fn on_gpu(self, gpu: Gpu) -> Self {
        Self { gpu: Some(OnGpu::new(gpu)), ..self }
    }

    /// The sizes it was built with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Brings one branch's conditions to the network's width. `tap` sees `text_embedding` `[1, S, D]`,
    /// `condition_temporal` and `condition_spatial` `[F, C, h, w]`.
    ///
    /// # Errors
    /// A condition that this network needs is absent, or has another shape.
    pub fn prepare(&self, inputs: &Inputs, tap: Tap) -> Result<Conditioning> {
        let Some(text) = &inputs.text_embeds else { candle_core::bail!("text_embeds are missing") };
        let words = text.dim(0)?;
        let text = self.text.forward(text)?;
        tap("text_embedding", &text)?;
        let image = match (&self.image, &inputs.ref_image_embeds) {
            (None, _) => None,
            (Some(_), None) => candle_core::bail!("ref_image_embeds are missing"),
            (Some(embed), Some(tokens)) => {
                let mut tokens = embed.forward(tokens)?;
                if let Some(pose) = &inputs.pose {
                    tokens = (tokens + embed.forward(&pose.pose_image_embeds)?)?;
                }
                Some(tokens)
            }
        };
        let pose = match (&self.steadydancer, &inputs.pose) {
            (None, _) => None,
            (Some(_), None) => candle_core::bail!("pose inputs are missing"),
            (Some(net), Some(pose)) => Some(self.prepare_pose(net, pose, tap)?),
        };
        let vace = match (&self.vace_patch, &inputs.vace) {
            (None, _) => None,
            (Some(_), None) => candle_core::bail!("vace inputs are missing"),
            (Some(embed), Some(vace)) => Some(VaceConditioning {
                tokens: embed.forward(&vace.context.to_dtype(DType::F32)?)?,
                scale: vace.scale,
            }),
        };
        let image_latents = inputs.image_latents.as_ref().map(|y| y.to_dtype(DType::F32)).transpose()?;
        let context = match image {
            Some(image) if self.steadydancer.is_none() => split_context(text, image)?,
            image => Context { text, counts: None, image, kept: None },
        };
        let padding = self.config.text_len.saturating_sub(words);
        let context = self.kept(context.collapsed(padding)?)?;
        Ok(Conditioning { context, on_gpu: OnceLock::new(), image_latents, pose, vace })
    }

    fn prepare_pose(&self, net: &SteadyDancer, pose: &PoseInputs, tap: Tap) -> Result<PoseConditioning> {
        // [C, F, h, w] → [F, C, h, w]: the modules work frame by frame.
        let latents = pose.pose_latents.to_dtype(DType::F32)?.transpose(0, 1)?.contiguous()?;
        let temporal = net.temporal.forward(&latents)?;
        tap("condition_temporal", &temporal)?;
        let spatial = net.spatial.forward(&latents)?;
        tap("condition_spatial", &spatial)?;
        let features = ((latents + temporal)? + spatial)?;
        let ref_x = self.patch.forward(&pose.ref_latents.to_dtype(DType::F32)?)?;
        let pose_ref = pose.pose_ref_latents.to_dtype(DType::F32)?.narrow(0, 0, net.channels)?;
        let appended = Tensor::cat(&[ref_x, net.patch_ref_c.forward(&pose_ref)?], 1)?;
        Ok(PoseConditioning { features, appended })
    }

    /// Embeds all timesteps of a schedule at once, so that the weights for it are read once and branches share the result.
    ///
    /// # Errors
    /// Weights that cannot be multiplied with.
    pub fn embed_times(&self, timesteps: &[f64]) -> Result<()> {
        let rows = self.time.forward(timesteps, &Device::Cpu)?;
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        *times = timesteps.iter().copied().zip(rows).collect();
        Ok(())
    }

    fn time_of(&self, timestep: f64, device: &Device) -> Result<TimeRows> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, (e, e0))) = times.iter().find(|(t, _)| *t == timestep) {
            return Ok((e.to_device(device)?, e0.to_device(device)?));
        }
        drop(times);
        let rows = self.time.forward(&[timestep], device)?.pop();
        rows.ok_or_else(|| candle_core::Error::msg("no timestep"))
    }

    /// With room for keys and values, if they are few enough to be kept.
    fn kept(&self, context: Context<Host>) -> Result<Context<Host>> {
        let tokens = context.text.dim(1)? + context.image.as_ref().map_or(Ok(0), |t| t.dim(1))?;
        let keep = crate::memory::context_bytes(&self.config, tokens) <= KEPT_CONTEXT_BYTES;
        Ok(Context { kept: keep.then(Default::default), ..context })
    }

    /// Predicts the velocity of `latents` `[16, F, h, w]` f32 at `timestep` (0..=1000) → `[16, F, h, w]` f32.
    ///
    /// `tap` sees `condition_aligned` `[F, C, h, w]`, `patch_fuse` and `block_<i>` `[1, L, D]`, `time_projection`
    /// `[1, 6, D]` and `velocity`.
    ///
    /// # Errors
    /// Shapes that do not fit, weights that cannot be read, or whatever `tap` returns.
    pub fn forward(&self, latents: &Tensor, timestep: f64, cond: &Conditioning, tap: Tap) -> Result<Tensor> {
        let mut all = self.forward_branches(latents, timestep, &[cond], Chunking::Whole, tap)?;
        all.pop().ok_or_else(|| candle_core::Error::msg("no branch"))
    }

    /// As [`forward`](Self::forward), of the same latents under several conditions, which are branches of a guidance: each
    /// block's weights are asked for once and serve all branches in turn. What is computed for a branch depends neither on
    /// the others nor on `chunking`. `tap` sees each branch's results in the order of `branches`.
    ///
    /// On a GPU blocks are computed one after another without anybody looking on: `tap` sees a branch's blocks only when the tokens
    /// after the last are not finite, in a second pass that shows where that began. A wish to stop is heard between passes.
    ///
    /// # Errors
    /// As there, and conditions with different numbers of tokens.
    pub fn forward_branches(
        &self,
        latents: &Tensor,
        timestep: f64,
        branches: &[&Conditioning],
        chunking: Chunking,
        tap: Tap,
    ) -> Result<Vec<Tensor>> {
        let (_, frames, height, width) = latents.dims4()?;
        let grid = (frames, height / PATCH, width / PATCH);
        let frame_tokens = grid.1 * grid.2;
        let mut streams = Vec::with_capacity(branches.len());
        for cond in branches {
            streams.push(self.stream(latents, cond, tap)?);
        }
        let Some(tokens) = streams.iter().find_map(|s| s.x.as_ref()).map(|x| x.dim(1)).transpose()? else {
            return Ok(Vec::new());
        };
        let alike = |s: &Stream<Tensor>| s.x.as_ref().is_some_and(|x| x.dims() == [1, tokens, self.config.dim]);
        if !streams.iter().all(alike) {
            candle_core::bail!("the branches of one pass have different numbers of tokens");
        }
        let (e, time) = self.time_of(timestep, latents.device())?;
        tap("time_projection", &time)?;
        let mut pass = Passing {
            branches,
            time: &time,
            grid: (tokens / frame_tokens.max(1), grid.1, grid.2),
            chunking,
            own_tokens: frames * frame_tokens,
            each_block: false,
        };
        let computed = match &self.gpu {
            None => self.through_blocks(&Host, streams, &pass, tap)?,
            Some(gpu) => {
                let computed = self.through_blocks(gpu, streams, &pass, tap)?;
                if !all_finite(&computed)? {
                    pass.each_block = true;
                    let streams = branches.iter().map(|cond| self.stream(latents, cond, &mut no_tap));
                    self.through_blocks(gpu, streams.collect::<Result<_>>()?, &pass, tap)?;
                }
                computed
            }
        };
        let mut velocities = Vec::with_capacity(computed.len());
        for x in computed {
            let velocity = self.head.forward(&x, &e, grid)?;
            tap("velocity", &velocity)?;
            velocities.push(velocity);
        }
        Ok(velocities)
    }

    /// The branches' own tokens after all blocks, `[1, own_tokens, D]` each.
    fn through_blocks<B: Backend>(
        &self,
        backend: &B,
        streams: Vec<Stream<Tensor>>,
        passing: &Passing,
        tap: Tap,
    ) -> Result<Vec<Tensor>> {
        let Passing { branches, chunking, .. } = *passing;
        let (time, rope) = (backend.time(passing.time)?, backend.rope(self.config.head_dim(), passing.grid)?);
        let contexts = branches.iter().map(|c| backend.context(c)).collect::<Result<Vec<_>>>()?;
        let pass = |context, block| Pass { time: &time, context, rope: &rope, chunking, block };
        let brought = streams.into_iter().map(|s| s.brought(backend));
        let mut streams = brought.collect::<Result<Vec<Stream<B::Activations>>>>()?;

        for i in 0..self.config.num_layers {
            let _span = tracing::info_span!(target: "steadydance", "block", i).entered();
            let mut hints: Vec<Option<B::Activations>> = branches.iter().map(|_| None).collect();
            if let Some(index) = self.hint_index(i).filter(|_| branches.iter().any(|c| c.vace.is_some())) {
                let group = self.blocks.group(&format!("vace_blocks.{index}"))?;
                let block = VaceBlock::new(backend, &self.config, index, &group)?;
                for ((stream, hint), context) in streams.iter_mut().zip(&mut hints).zip(&contexts) {
                    if let Some(Side { tokens, control }) = stream.side.take() {
                        let (control, made) = block.forward(control, &tokens, &pass(context, None))?;
                        stream.side = Some(Side { tokens, control });
                        *hint = Some(made);
                    }
                }
            }
            self.blocks.prefetch(&format!("blocks.{}", (i + 1) % self.config.num_layers));
            let group = self.blocks.group(&format!("blocks.{i}"))?;
            let block = Block::new(backend, &self.config, &group, self.config.has_image_context())?;
            for (((stream, hint), cond), context) in streams.iter_mut().zip(hints).zip(branches).zip(&contexts) {
                let mut x = block.forward(stream.take()?, &pass(context, Some(i)))?;
                if let (Some(hint), Some(vace)) = (hint, &cond.vace) {
                    x = backend.add_scaled(x, hint, vace.scale)?;
                }
                if B::AT_ONCE || passing.each_block {
                    tap(&format!("block_{i}"), &backend.fetch(&x)?)?;
                }
                stream.x = Some(x);
            }
        }
        drop(rope);
        let own = |mut stream: Stream<B::Activations>| {
            let x = backend.run(&stream.take()?, 0..passing.own_tokens)?;
            backend.fetch(&x)
        };
        streams.into_iter().map(own).collect()
    }

    /// The tokens of one branch before any block.
    fn stream(&self, latents: &Tensor, cond: &Conditioning, tap: Tap) -> Result<Stream<Tensor>> {
        let stacked = match &cond.image_latents {
            Some(y) => Tensor::cat(&[latents, y], 0)?,
            None => latents.clone(),
        };
        let x = match (&self.steadydancer, &cond.pose) {
            (Some(net), Some(pose)) => {
                let noisy = latents.transpose(0, 1)?.contiguous()?;
                let aligned = net.align.forward(&pose.features, &noisy)?;
                drop(noisy);
                tap("condition_aligned", &aligned)?;
                let channels_first = |t: &Tensor| t.transpose(0, 1)?.contiguous();
                let fused = Tensor::cat(&[stacked, channels_first(&pose.features)?, channels_first(&aligned)?], 0)?;
                drop(aligned);
                let tokens = net.patch_fuse.forward(&fused)?;
                drop(fused);
                tap("patch_fuse", &tokens)?;
                Tensor::cat(&[&tokens, &pose.appended], 1)?
            }
            _ => self.patch.forward(&stacked)?,
        };
        // VACE's first side block starts from the tokens before any block.
        let side = cond.vace.as_ref().map(|v| Side { tokens: x.clone(), control: v.tokens.clone() });
        Ok(Stream { x: Some(x), side })
    }

    fn hint_index(&self, layer: usize) -> Option<usize> {
        self.config.vace.as_ref()?.vace_layers.iter().position(|l| *l == layer)
    }
}

/// Whether no number is infinite or none. A sum is finite unless one is not, or magnitudes reach 1e38, which is as wrong.
fn all_finite(tensors: &[Tensor]) -> Result<bool> {
    for tensor in tensors {
        if !tensor.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Wan i2v joins image and text tokens and takes all but the last 512 as image tokens, whatever the text length.
/// That is the true border for the published S = 512; for a shorter text (small test networks only) the border
/// moves as a negative index does in the source, and stays inside the tokens.
fn split_context(text: Tensor, image: Tensor) -> Result<Context<Host>> {
    const TEXT_TOKENS: usize = 512;
    let (s, n) = (text.dim(1)?, image.dim(1)?);
    if s == TEXT_TOKENS {
        return Ok(Context { text, counts: None, image: Some(image), kept: None });
    }
    let total = s + n;
    let border = if total >= TEXT_TOKENS { total - TEXT_TOKENS } else { (2 * total).saturating_sub(TEXT_TOKENS) };
    let all = Tensor::cat(&[image, text], 1)?;
    let image = if border > 0 { Some(all.narrow(1, 0, border)?) } else { None };
    Ok(Context { text: all.narrow(1, border, total - border)?, counts: None, image, kept: None })
}

/// Every tensor of the network with its shape; nothing is allocated.
///
/// # Errors
/// The sizes contradict each other.
pub fn manifest(config: &Config) -> Result<Manifest> {
    Manifest::record(|w| {
        let source = Arc::new(Fixed(w.clone()));
        Dit::with_blocks(config, w, source)?;
        for i in 0..config.num_layers {
            Block::new(&Host, config, &w.pp(format!("blocks.{i}")), config.has_image_context())?;
        }
        for i in 0..config.vace.as_ref().map_or(0, |v| v.vace_layers.len()) {
            VaceBlock::new(&Host, config, i, &w.pp(format!("vace_blocks.{i}")))?;
        }
        Ok(())
    })
}

/// A view that serves as its own source.
struct Fixed(Weights);

impl WeightSource for Fixed {
    fn group(&self, group: &str) -> Result<Weights> {
        Ok(self.0.pp(group))
    }
}
