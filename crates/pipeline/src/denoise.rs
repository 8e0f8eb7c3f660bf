//! The sampling loop (spec steadydancer §3.1).

use std::cell::RefCell;

use candle_core::{Result, Tensor};
use dit::{Conditioning, Dit, Guide, Inputs, PoseInputs, Step};
use scheduler::{GuidancePlan, Polarity, Sampler};

use crate::{Activations, Branches};

/// What conditions a SteadyDancer clip, named as in the project's design; f32, or convertible to it.
#[derive(Debug, Clone)]
pub struct Conditions {
    /// `[n, text_dim]`.
    pub text_embeds: Tensor,
    /// `[m, text_dim]`; needed when a branch of the guidance has negative text.
    pub neg_text_embeds: Option<Tensor>,
    /// `[1, tokens, clip_dim]` of the reference picture.
    pub ref_image_embeds: Tensor,
    /// `[1, tokens, clip_dim]` of the first pose frame.
    pub pose_image_embeds: Tensor,
    /// `[16, F, h, w]` of the reference followed by grey frames.
    pub image_latents: Tensor,
    /// `[4, F, h, w]`: ones in the first latent frame.
    pub frame_mask: Tensor,
    /// `[16, 1, h, w]` of the reference.
    pub ref_latents: Tensor,
    /// `[16, 1, h, w]` of the first pose frame.
    pub pose_ref_latents: Tensor,
    /// `[16, F, h, w]`.
    pub pose_latents: Tensor,
    /// `[16, F, h, w]`; needed when a branch of the guidance has the negative pose.
    pub neg_pose_latents: Option<Tensor>,
}

impl Conditions {
    /// The network's inputs for one branch.
    ///
    /// # Errors
    /// The branch needs a condition that is absent.
    pub fn inputs(&self, text: Polarity, pose: Polarity) -> Result<Inputs> {
        let missing = |what: &str| candle_core::Error::msg(format!("{what} are needed by the guidance and are absent"));
        let text_embeds = match text {
            Polarity::Positive => self.text_embeds.clone(),
            _ => self.neg_text_embeds.clone().ok_or_else(|| missing("neg_text_embeds"))?,
        };
        let pose_latents = match pose {
            Polarity::Positive => self.pose_latents.clone(),
            _ => self.neg_pose_latents.clone().ok_or_else(|| missing("neg_pose_latents"))?,
        };
        let ones = self.frame_mask.narrow(1, 0, 1)?.ones_like()?;
        let ref_latents = Tensor::cat(&[&self.ref_latents, &ones, &self.ref_latents], 0)?;
        Ok(Inputs {
            text_embeds: Some(text_embeds),
            ref_image_embeds: Some(self.ref_image_embeds.clone()),
            image_latents: Some(Tensor::cat(&[&self.frame_mask, &self.image_latents], 0)?),
            pose: Some(PoseInputs {
                pose_latents,
                ref_latents,
                pose_ref_latents: self.pose_ref_latents.clone(),
                pose_image_embeds: self.pose_image_embeds.clone(),
            }),
            vace: None,
        })
    }
}

/// Wan's mask of given frames for `latent_frames` F and `[h, w]` → `[4, F, h, w]` f32: frame 0 is given.
///
/// # Errors
/// Fails only where the device does.
pub fn frame_mask(latent_frames: usize, h: usize, w: usize, device: &candle_core::Device) -> Result<Tensor> {
    let first = Tensor::ones((4, 1, h, w), candle_core::DType::F32, device)?;
    first.pad_with_zeros(1, 0, latent_frames.saturating_sub(1))
}

/// What the loop tells and asks as it goes.
pub trait Watch {
    /// After block `block` (0-based), for one branch; `output` `[1, L, D]`. An error stops the loop.
    ///
    /// # Errors
    /// The implementation's own.
    fn block(&mut self, _step: usize, _block: usize, _output: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Instead of [`block`](Self::block) where nobody waits for each of them: so many more forwards through a block are done. An error
    /// stops the loop.
    ///
    /// # Errors
    /// The implementation's own.
    fn blocks(&mut self, _count: usize) -> Result<()> {
        Ok(())
    }

    /// After step `step` (0-based): the guided velocity and the new latents, both `[16, F, h, w]`.
    ///
    /// # Errors
    /// The implementation's own.
    fn step(&mut self, _step: usize, _velocity: &Tensor, _latents: &Tensor) -> Result<()> {
        Ok(())
    }

    /// After each step, before [`step`](Self::step): the sampler, which stands before the next, and its latents. With these the loop
    /// can go on at another time.
    fn position(&mut self, _sampler: &Sampler, _latents: &Tensor) {}
}

impl Watch for () {}

/// What the loop runs.
#[derive(Clone, Copy)]
pub struct Denoise<'a> {
    /// The network.
    pub dit: &'a Dit,
    /// What conditions the clip.
    pub conditions: &'a Conditions,
    /// Branches and coefficients.
    pub guidance: &'a GuidancePlan,
    /// What is computed at a time; of no effect on the result.
    pub activations: Activations,
}

/// Runs the loop from `noise` `[16, F, h, w]` f32 → latents of the same shape. Each branch's conditions are brought to
/// the network's width once, whatever the number of steps.
///
/// # Errors
/// Shapes that do not fit, absent conditions, weights that cannot be read, or whatever `watch` returns.
pub fn denoise(run: &Denoise, sampler: &mut Sampler, noise: &Tensor, watch: &mut dyn Watch) -> Result<Tensor> {
    let scale = sampler.schedule().initial_noise_scale();
    let mut latents = if scale == 1.0 { noise.clone() } else { (noise * scale)? };
    go_on(run, sampler, &mut latents, watch)?;
    Ok(latents)
}

/// The loop from where the sampler stands, with the latents of then. After an error both stand where the last whole step left
/// them, so that the loop can go on with another network of the same weights.
///
/// # Errors
/// As [`denoise`].
pub fn go_on(run: &Denoise, sampler: &mut Sampler, latents: &mut Tensor, watch: &mut dyn Watch) -> Result<()> {
    let Denoise { dit, conditions, guidance, activations } = *run;
    let mut prepared: Vec<((Polarity, Polarity), Conditioning)> = Vec::new();
    // Of the whole schedule, wherever the loop stands: so the bits do not depend on that.
    dit.embed_times(sampler.schedule().timesteps())?;
    for step in sampler.next_step()..sampler.schedule().num_steps() {
        let timestep = sampler.schedule().timesteps()[step];
        let active = guidance.active(step);
        let mut places = Vec::with_capacity(active.len());
        for active in &active {
            let key = (active.branch.text, active.branch.pose);
            let at = match prepared.iter().position(|(k, _)| *k == key) {
                Some(at) => at,
                None => {
                    let inputs = conditions.inputs(key.0, key.1)?;
                    prepared.push((key, dit.prepare(&inputs, &mut dit::no_tap)?));
                    prepared.len() - 1
                }
            };
            places.push(at);
        }
        let watching = RefCell::new(&mut *watch);
        let mut tap = |name: &str, output: &Tensor| match name.strip_prefix("block_").and_then(|n| n.parse().ok()) {
            Some(block) => watching.borrow_mut().block(step, block, output),
            None => Ok(()),
        };
        let done = |count| watching.borrow_mut().blocks(count);
        let together = match activations.branches {
            Branches::OneAtATime => 1,
            Branches::Batched => places.len(),
        };
        let branches = |places: &[usize]| places.iter().map(|at| &prepared[*at].1).collect();
        let passes: Vec<Vec<&Conditioning>> = places.chunks(together.max(1)).map(branches).collect();
        let factors: Vec<f64> = active.iter().map(|active| active.coefficient).collect();
        let guide = Guide { factors: &factors, combine: &|velocities| guidance.combine(step, velocities) };
        let work = Step { latents, timestep, passes: &passes, chunking: activations.dit, done: &done };
        let velocity = dit.guided(&work, &guide, &mut tap)?;
        *latents = sampler.step(step, &velocity, latents)?;
        watch.position(sampler, latents);
        watch.step(step, &velocity, latents)?;
    }
    Ok(())
}
