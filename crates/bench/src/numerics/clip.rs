//! A clip of the embedded model: its conditions are what a run makes, its loop is made again in every precision.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use dit::{Conditioning, Dit};
use offload::MemoryFlags;
use pipeline::{
    Activations, Conditions, Denoise, Engine, EngineOptions, ModelSource, Observer, PipelineError, denoise,
};
use scheduler::{GuidancePlan, Polarity, Sampler, Schedule};
use vae::Decoder;
use weights::{Checkpoint, CheckpointSource, Weights};

use super::network::demo_sizes;
use crate::run::{Failed, drawn_request};

/// All that a loop begins with, and what its end is decoded with.
pub(super) struct DemoClip {
    conditions: Conditions,
    noise: Tensor,
    schedule: Schedule,
    guidance: GuidancePlan,
    seed: u64,
    decoder: Decoder,
}

/// Keeps what a run tells, and stops it before its loop.
#[derive(Default)]
struct Taken(HashMap<String, Tensor>);

impl Observer for Taken {
    fn tensor(&mut self, name: &str, tensor: &Tensor) {
        self.0.insert(name.to_owned(), tensor.clone());
    }

    fn cancelled(&self) -> bool {
        self.0.contains_key("noise")
    }
}

impl DemoClip {
    /// Over pictures that are drawn on the spot, of this width, height and number of frames.
    pub fn prepare([width, height, frames]: [usize; 3]) -> Result<Self, Failed> {
        let preset = models::preset("demo").map_err(|e| Failed::Files(e.to_string()))?;
        let device = "cpu".to_owned();
        let options = EngineOptions { device, memory: MemoryFlags::default(), ..EngineOptions::for_preset(&preset) };
        let engine = Engine::open(&ModelSource::Demo, &options)?;
        let (_folder, mut request) = drawn_request([width, height], frames)?;
        request.output = None;
        let plan = engine.plan(&request)?;
        let mut taken = Taken::default();
        match engine.animate(&request, &mut taken) {
            Err(PipelineError::Cancelled { .. }) | Ok(_) => {}
            Err(other) => return Err(other.into()),
        }
        let mut take = |name: &str| {
            taken.0.remove(name).ok_or_else(|| Failed::Files(format!("a run of the demo did not tell its {name}")))
        };
        let conditions = Conditions {
            text_embeds: take("text_embeds")?,
            neg_text_embeds: take("neg_text_embeds").ok(),
            ref_image_embeds: take("ref_image_embeds")?,
            pose_image_embeds: take("pose_image_embeds")?,
            image_latents: take("image_latents")?,
            frame_mask: take("frame_mask")?,
            ref_latents: take("ref_latents")?,
            pose_ref_latents: take("pose_ref_latents")?,
            pose_latents: take("pose_latents")?,
            neg_pose_latents: take("neg_pose_latents").ok(),
        };
        let vae = Checkpoint::from_bytes("demo/vae.safetensors", models::DEMO.vae);
        let vae = vae.map_err(|e| Failed::Files(e.to_string()))?.rename(&vae::keymap());
        let weights = Weights::new(Arc::new(CheckpointSource(vae)), Device::Cpu, Some(DType::F32));
        Ok(Self {
            conditions,
            noise: take("noise")?,
            schedule: plan.schedule,
            guidance: plan.guidance,
            seed: plan.seed,
            decoder: Decoder::new(&demo_sizes()?.vae, &weights)?,
        })
    }

    pub fn noise(&self) -> &Tensor {
        &self.noise
    }

    /// The first.
    pub fn timestep(&self) -> f64 {
        self.schedule.timesteps().first().copied().unwrap_or(1000.0)
    }

    /// The conditions at a network's width.
    pub fn condition(&self, dit: &Dit) -> candle_core::Result<Conditioning> {
        let inputs = self.conditions.inputs(Polarity::Positive, Polarity::Positive)?;
        dit.prepare(&inputs, &mut dit::no_tap)
    }

    /// The whole loop: latents at its end, and pixels `[1, 3, T, H, W]` in −1..=1.
    pub fn run(&self, dit: &Dit) -> candle_core::Result<(Tensor, Tensor)> {
        let run = Denoise {
            dit,
            conditions: &self.conditions,
            guidance: &self.guidance,
            activations: Activations::default(),
        };
        let mut sampler = Sampler::new(self.schedule.clone(), self.seed);
        let latents = denoise(&run, &mut sampler, &self.noise, &mut ())?;
        let pixels = self.decoder.decode_all(&latents.unsqueeze(0)?)?;
        Ok((latents, vae::clamp_pixels(&pixels)?))
    }
}
