//! The network: what is prepared once per clip, and one forward pass.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use kernels::cuda::Gpu;
use weights::{Manifest, WeightSource, Weights};

use crate::backend::{Backend, Host, OnGpu};
use crate::block::{Block, Context};
use crate::condition::{Spatial, Temporal};
use crate::conditioning::{Conditioning, Embedded, EmbeddedPose, Inputs, Place, PoseInputs};
use crate::embed::{ImageEmbedding, TextEmbedding, TimeEmbedding, TimeRows};
use crate::passes::{Passes, Step, not_told};
use crate::vace::VaceBlock;
use crate::{Attention, Chunking, Config};

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

/// The diffusion transformer. Everything but the blocks is held; blocks come from the [`WeightSource`] one at a time.
pub struct Dit {
    config: Config,
    blocks: Arc<dyn WeightSource>,
    text: TextEmbedding,
    time: TimeEmbedding,
    image: Option<ImageEmbedding>,
    extractors: Option<Extractors>,
    /// Embeddings of the timesteps that were announced.
    times: Mutex<Vec<(f64, TimeRows)>>,
    passes: Where,
}

/// SteadyDancer's two extractors of pose features.
struct Extractors {
    temporal: Temporal,
    spatial: Spatial,
    channels: usize,
}

/// Where passes are computed.
enum Where {
    Host(Box<Passes<Host>>),
    Gpu(Box<Passes<OnGpu>>),
}

/// How the velocities of a step's branches become one.
#[derive(Clone, Copy)]
pub struct Guide<'a> {
    /// What each velocity is multiplied with on a GPU, where the products are added up in f32. One with the factor 0 leaves no trace.
    pub factors: &'a [f64],
    /// What the host does with all of them.
    pub combine: &'a dyn Fn(&[Tensor]) -> Result<Tensor>,
}

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
        let extractors = match config.in_dim_c {
            Some(channels) => Some(Extractors {
                temporal: Temporal::new(channels, &w.pp("condition_embedding_temporal"))?,
                spatial: Spatial::new(channels, &w.pp("condition_embedding_spatial"))?,
                channels,
            }),
            None => None,
        };
        Ok(Self {
            text: TextEmbedding::new(config, w)?,
            time: TimeEmbedding::new(config, w)?,
            passes: Where::Host(Box::new(Passes::new(Host, config, w, blocks.clone())?)),
            config: config.clone(),
            blocks,
            image,
            extractors,
            times: Mutex::default(),
        })
    }

    /// The same with its passes computed on a GPU, whose memory the source brings blocks to: all that a step does between the latents
    /// and the guided velocity. Conditions and timesteps are embedded on the host, once per clip. Matrices must be in a form that the GPU
    /// multiplies with ([`kernels::cuda::ops::input_form`]), and a head's channels a multiple of 8.
    ///
    /// # Errors
    /// There is no room for what is held there, or the attention is for other heads.
    pub fn on_gpu(self, gpu: Gpu, attention: Attention) -> Result<Self> {
        let head = self.config.head_dim();
        if !attention.fits(head) {
            candle_core::bail!("attention in {} is for heads of 128 channels; these have {head}", attention.name());
        }
        let passes =
            Passes::new(OnGpu::new(gpu, attention), &self.config, &self.blocks.group("")?, self.blocks.clone())?;
        Ok(Self { passes: Where::Gpu(Box::new(passes)), ..self })
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
        let pose = match (&self.extractors, &inputs.pose) {
            (None, _) => None,
            (Some(_), None) => candle_core::bail!("pose inputs are missing"),
            (Some(net), Some(pose)) => Some(net.embed(pose, tap)?),
        };
        let vace = match (&self.config.vace, &inputs.vace) {
            (None, _) => None,
            (Some(_), None) => candle_core::bail!("vace inputs are missing"),
            (Some(_), Some(vace)) => Some(vace.clone()),
        };
        let context = match image {
            Some(image) if self.extractors.is_none() => split_context(text, image)?,
            image => Context { text, counts: None, image, kept: None },
        };
        let padding = self.config.text_len.saturating_sub(words);
        let context = self.kept(context.collapsed(padding)?)?;
        let embedded = Embedded { context, image_latents: inputs.image_latents.clone(), pose, vace };
        Ok(Conditioning(match &self.passes {
            Where::Host(passes) => Place::Host(Box::new(passes.prepare(embedded)?)),
            Where::Gpu(passes) => Place::Gpu(Box::new(passes.prepare(embedded)?)),
        }))
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

    fn time_of(&self, timestep: f64) -> Result<TimeRows> {
        let times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, rows)) = times.iter().find(|(t, _)| *t == timestep) {
            return Ok(rows.clone());
        }
        drop(times);
        let rows = self.time.forward(&[timestep], &Device::Cpu)?.pop();
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
    /// On a GPU a pass is computed without anybody looking on: `tap` sees velocities, and what comes before only when one of them is not
    /// finite, in a second pass that shows where that began. [`guided`](Self::guided) tells more.
    ///
    /// # Errors
    /// As there, and conditions with different numbers of tokens, or prepared elsewhere.
    pub fn forward_branches(
        &self,
        latents: &Tensor,
        timestep: f64,
        branches: &[&Conditioning],
        chunking: Chunking,
        tap: Tap,
    ) -> Result<Vec<Tensor>> {
        let step = Step { latents, timestep, passes: &[branches.to_vec()], chunking, done: &not_told };
        let rows = self.time_of(timestep)?;
        match &self.passes {
            Where::Host(passes) => passes.velocities(&step, &rows, true, tap),
            Where::Gpu(passes) => {
                let there = passes.velocities(&step, &rows, false, tap)?;
                let velocities = there.iter().map(|v| passes.backend.fetch_latents(v)).collect::<Result<Vec<_>>>()?;
                match all_finite(&velocities)? {
                    true => velocities.iter().try_for_each(|v| tap("velocity", v))?,
                    false => drop(passes.velocities(&step, &rows, true, tap)?),
                }
                Ok(velocities)
            }
        }
    }

    /// The guided velocity of a step → `[16, F, h, w]` f32. On a GPU latents go there and this comes back, and nobody waits in
    /// between but for [`Step::done`]; what is not finite is looked for as in [`forward_branches`](Self::forward_branches).
    ///
    /// # Errors
    /// As there, whatever `guide` returns, and a number of factors that is not that of branches.
    pub fn guided(&self, step: &Step, guide: &Guide, tap: Tap) -> Result<Tensor> {
        let branches: usize = step.passes.iter().map(Vec::len).sum();
        if guide.factors.len() != branches {
            candle_core::bail!("{} factors for {branches} branches", guide.factors.len());
        }
        let rows = self.time_of(step.timestep)?;
        match &self.passes {
            Where::Host(passes) => (guide.combine)(&passes.velocities(step, &rows, true, tap)?),
            Where::Gpu(passes) => {
                let velocities = passes.velocities(step, &rows, false, tap)?;
                let guided = passes.backend.combined(&velocities, guide.factors)?;
                drop(velocities);
                let guided = passes.backend.fetch_latents(&guided)?;
                if !all_finite(std::slice::from_ref(&guided))? {
                    passes.velocities(step, &rows, true, tap)?;
                }
                Ok(guided)
            }
        }
    }
}

impl Extractors {
    fn embed(&self, pose: &PoseInputs, tap: Tap) -> Result<EmbeddedPose> {
        // [C, F, h, w] → [F, C, h, w]: the modules work frame by frame.
        let latents = pose.pose_latents.to_dtype(DType::F32)?.transpose(0, 1)?.contiguous()?;
        let temporal = self.temporal.forward(&latents)?;
        tap("condition_temporal", &temporal)?;
        let spatial = self.spatial.forward(&latents)?;
        tap("condition_spatial", &spatial)?;
        let features = ((latents + temporal)? + spatial)?;
        Ok(EmbeddedPose {
            features: features.transpose(0, 1)?.contiguous()?,
            ref_latents: pose.ref_latents.clone(),
            pose_ref_latents: pose.pose_ref_latents.narrow(0, 0, self.channels)?,
        })
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
