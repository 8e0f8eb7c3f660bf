//! Passes through the network, from latents to velocities, where they are computed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use candle_core::{Result, Tensor};
use weights::{WeightSource, Weights};

use crate::backend::Backend;
use crate::block::{Block, Pass};
use crate::chunking::Gathered;
use crate::condition::Align;
use crate::conditioning::{Conditioning, Embedded, Prepared, PreparedPose, PreparedVace};
use crate::embed::TimeRows;
use crate::ends::{Head, PATCH, PatchEmbedding};
use crate::model::Tap;
use crate::vace::VaceBlock;
use crate::{Chunking, Config};

/// One step for all of its branches.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// `[16, F, h, w]` f32.
    pub latents: &'a Tensor,
    /// 0..=1000.
    pub timestep: f64,
    /// Conditions by pass over the blocks: those of one pass go through a block one after another and share its weights. What
    /// is computed for one depends neither on the others nor on which are together.
    pub passes: &'a [Vec<&'a Conditioning>],
    /// Of no effect on the result.
    pub chunking: Chunking,
    /// Told as a GPU comes along, some blocks behind what it is given: how many forwards through a block it has done more. An error stops
    /// the step. Where every block is shown, this is not told.
    pub done: &'a dyn Fn(usize) -> Result<()>,
}

/// A [`Step::done`] that does nothing.
///
/// # Errors
/// None.
pub fn not_told(_: usize) -> Result<()> {
    Ok(())
}

/// Blocks that a GPU is given before the host waits for the first of them: as many as keep it at work, and no more, so that a wish to stop
/// is soon heard.
const AHEAD: usize = 4;

/// A backend, what stands before and after the blocks, and where blocks come from.
pub(crate) struct Passes<B: Backend> {
    pub backend: B,
    config: Config,
    blocks: Arc<dyn WeightSource>,
    patch: PatchEmbedding<B>,
    steadydancer: Option<SteadyDancer<B>>,
    vace_patch: Option<PatchEmbedding<B>>,
    head: Head<B>,
}

/// SteadyDancer's alignment of poses with the noisy latents, and its two further patch embeddings.
struct SteadyDancer<B: Backend> {
    align: Align<B>,
    patch_fuse: PatchEmbedding<B>,
    patch_ref_c: PatchEmbedding<B>,
}

impl<B: Backend> SteadyDancer<B> {
    fn new(backend: &B, config: &Config, channels: usize, w: &Weights) -> Result<Self> {
        let fused = config.in_dim + 2 * channels;
        let patch = |inputs, name| PatchEmbedding::new(backend, inputs, config.dim, &w.pp(name));
        Ok(Self {
            align: Align::new(backend, channels, &w.pp("condition_embedding_align"))?,
            patch_fuse: patch(fused, "patch_embedding_fuse")?,
            patch_ref_c: patch(channels, "patch_embedding_ref_c")?,
        })
    }
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

impl<T> Stream<T> {
    /// The tokens, so that whoever computes with them can let go of them.
    fn take(&mut self) -> Result<T> {
        self.x.take().ok_or_else(|| candle_core::Error::msg("the tokens of a branch are gone"))
    }
}

/// What the passes of a step share.
struct Shared<'a, B: Backend> {
    latents: B::Latents,
    rows: &'a TimeRows,
    /// Of all blocks, and of the head.
    time: B::Modulation,
    head: B::Modulation,
    chunking: Chunking,
    /// Whether results in between are shown.
    shows: bool,
    done: &'a dyn Fn(usize) -> Result<()>,
    /// Blocks that were given and are not known to be done, with how many branches each was for.
    ahead: RefCell<VecDeque<(usize, B::Mark)>>,
}

impl<B: Backend> Shared<'_, B> {
    /// After a block was given for so many branches.
    fn given(&self, backend: &B, branches: usize) -> Result<()> {
        let mut ahead = self.ahead.borrow_mut();
        ahead.push_back((branches, backend.mark()?));
        if ahead.len() > AHEAD
            && let Some((branches, mark)) = ahead.pop_front()
        {
            backend.wait(&mark)?;
            (self.done)(branches)?;
        }
        Ok(())
    }
}

impl<B: Backend> Passes<B> {
    pub fn new(backend: B, config: &Config, w: &Weights, blocks: Arc<dyn WeightSource>) -> Result<Self> {
        let steadydancer = match config.in_dim_c {
            Some(channels) => Some(SteadyDancer::new(&backend, config, channels, w)?),
            None => None,
        };
        let vace_patch = match &config.vace {
            Some(vace) => {
                let w = w.pp("vace_patch_embedding");
                Some(PatchEmbedding::new(&backend, vace.vace_in_dim, config.dim, &w)?)
            }
            None => None,
        };
        Ok(Self {
            patch: PatchEmbedding::new(&backend, config.in_dim, config.dim, &w.pp("patch_embedding"))?,
            head: Head::new(&backend, config, &w.pp("head"))?,
            config: config.clone(),
            blocks,
            steadydancer,
            vace_patch,
            backend,
        })
    }

    /// Brings a condition to where passes are computed.
    pub fn prepare(&self, embedded: Embedded) -> Result<Prepared<B>> {
        let backend = &self.backend;
        let there = |latents: &Tensor| backend.bring_latents(latents);
        let pose = match (&self.steadydancer, embedded.pose) {
            (Some(_), Some(pose)) => Some(PreparedPose {
                features: there(&pose.features)?,
                ref_latents: there(&pose.ref_latents)?,
                pose_ref_latents: there(&pose.pose_ref_latents)?,
            }),
            _ => None,
        };
        let vace = match (&self.vace_patch, embedded.vace) {
            (Some(patch), Some(vace)) => {
                Some(PreparedVace { tokens: patch.forward(backend, &[&there(&vace.context)?])?, scale: vace.scale })
            }
            _ => None,
        };
        let image_latents = embedded.image_latents.as_ref().map(there).transpose()?;
        Ok(Prepared { context: backend.context(embedded.context)?, image_latents, pose, vace })
    }

    /// The velocity of each branch, in order; nobody has waited for them. `tap` sees results in between if `shows` says so, and in
    /// any case where that takes no waiting.
    pub fn velocities(&self, step: &Step, rows: &TimeRows, shows: bool, tap: Tap) -> Result<Vec<B::Latents>> {
        let backend = &self.backend;
        let shared = Shared {
            latents: backend.bring_latents(step.latents)?,
            rows,
            time: backend.modulation_of(&rows.blocks)?,
            head: self.head.rows(backend, &rows.e)?,
            chunking: step.chunking,
            shows: shows || B::AT_ONCE,
            done: step.done,
            ahead: RefCell::default(),
        };
        let mut velocities = Vec::new();
        for branches in step.passes {
            let branches = branches.iter().map(|c| backend.prepared(c)).collect::<Result<Vec<_>>>()?;
            self.pass(&shared, &branches, &mut velocities, tap)?;
        }
        Ok(velocities)
    }

    fn pass(
        &self,
        shared: &Shared<B>,
        branches: &[&Prepared<B>],
        velocities: &mut Vec<B::Latents>,
        tap: Tap,
    ) -> Result<()> {
        let (config, backend) = (&self.config, &self.backend);
        let [_, frames, height, width] = backend.shape_of(&shared.latents)?;
        let (rows, columns) = (height / PATCH, width / PATCH);
        let mut streams = Vec::with_capacity(branches.len());
        for branch in branches {
            streams.push(self.stream(shared, branch, tap)?);
        }
        let counts = streams.iter().flat_map(|s| &s.x).map(|x| backend.tokens(x)).collect::<Result<Vec<_>>>()?;
        let Some(tokens) = counts.first() else { return Ok(()) };
        if counts.iter().any(|n| n != tokens) {
            candle_core::bail!("the branches of one pass have different numbers of tokens");
        }
        if shared.shows {
            tap("time_projection", &shared.rows.blocks)?;
        }
        let grid = (tokens / (rows * columns).max(1), rows, columns);
        let rope = backend.rope(config.head_dim(), grid)?;
        let pass = |context, block| Pass { time: &shared.time, context, rope: &rope, chunking: shared.chunking, block };

        for i in 0..config.num_layers {
            let _span = tracing::info_span!(target: "steadydance", "block", i).entered();
            let mut hints: Vec<Option<B::Activations>> = branches.iter().map(|_| None).collect();
            if let Some(index) = self.hint_index(i).filter(|_| branches.iter().any(|c| c.vace.is_some())) {
                let group = self.blocks.group(&format!("vace_blocks.{index}"))?;
                let block = VaceBlock::new(backend, config, index, &group)?;
                for ((stream, hint), branch) in streams.iter_mut().zip(&mut hints).zip(branches) {
                    if let Some(Side { tokens, control }) = stream.side.take() {
                        let (control, made) = block.forward(control, &tokens, &pass(&branch.context, None))?;
                        stream.side = Some(Side { tokens, control });
                        *hint = Some(made);
                    }
                }
            }
            self.blocks.prefetch(&format!("blocks.{}", (i + 1) % config.num_layers));
            let group = self.blocks.group(&format!("blocks.{i}"))?;
            let block = Block::new(backend, config, &group, config.has_image_context())?;
            for ((stream, hint), branch) in streams.iter_mut().zip(hints).zip(branches) {
                let mut x = block.forward(stream.take()?, &pass(&branch.context, Some(i)))?;
                if let (Some(hint), Some(vace)) = (hint, &branch.vace) {
                    x = backend.add_scaled(x, hint, vace.scale)?;
                }
                if shared.shows {
                    tap(&format!("block_{i}"), &backend.fetch(&x)?)?;
                }
                stream.x = Some(x);
            }
            if !shared.shows {
                shared.given(backend, branches.len())?;
            }
        }
        for mut stream in streams {
            // The frames appended to the clip's own have served.
            let own = backend.run(&stream.take()?, 0..frames * rows * columns)?;
            let velocity = self.head.forward(backend, &own, &shared.head, (frames, rows, columns))?;
            if shared.shows {
                tap("velocity", &backend.fetch_latents(&velocity)?)?;
            }
            velocities.push(velocity);
        }
        Ok(())
    }

    /// The tokens of one branch before any block.
    fn stream(&self, shared: &Shared<B>, branch: &Prepared<B>, tap: Tap) -> Result<Stream<B::Activations>> {
        let backend = &self.backend;
        let mut parts: Vec<&B::Latents> = [&shared.latents].into_iter().chain(&branch.image_latents).collect();
        let x = match (&self.steadydancer, &branch.pose) {
            (Some(net), Some(pose)) => {
                let aligned = net.align.forward(backend, &pose.features, &shared.latents)?;
                if shared.shows {
                    // Frame by frame, as the module has it.
                    let frames = backend.fetch_latents(&aligned)?.transpose(0, 1)?.contiguous()?;
                    tap("condition_aligned", &frames)?;
                }
                parts.extend([&pose.features, &aligned]);
                let tokens = net.patch_fuse.forward(backend, &parts)?;
                drop(aligned);
                if shared.shows {
                    tap("patch_fuse", &backend.fetch(&tokens)?)?;
                }
                // Made anew in each pass, which is next to nothing: held they would be two frames' tokens for every condition.
                let reference = self.patch.forward(backend, &[&pose.ref_latents])?;
                let first_pose = net.patch_ref_c.forward(backend, &[&pose.pose_ref_latents])?;
                joined(backend, [tokens, reference, first_pose])?
            }
            _ => self.patch.forward(backend, &parts)?,
        };
        // VACE's first side block starts from the tokens before any block.
        let side = branch.vace.as_ref().map(|v| Side { tokens: x.clone(), control: v.tokens.clone() });
        Ok(Stream { x: Some(x), side })
    }

    fn hint_index(&self, layer: usize) -> Option<usize> {
        self.config.vace.as_ref()?.vace_layers.iter().position(|l| *l == layer)
    }
}

/// Tokens behind each other.
fn joined<B: Backend>(backend: &B, parts: [B::Activations; 3]) -> Result<B::Activations> {
    let counts = parts.iter().map(|part| backend.tokens(part)).collect::<Result<Vec<_>>>()?;
    let mut all = Gathered::new(backend, counts.iter().sum());
    for part in parts {
        all.push(part)?;
    }
    all.finish()
}
