//! How far each precision is from f32, on the processor and on a GPU: the gate that a fast kernel has to pass.
//!
//! Everything is compared with the same network in f32 on the host: the tokens after each block (signal over error, in dB), the
//! velocity, and, of the embedded model, the latents at the end of its loop and the pixels that are decoded from them.

mod clip;
mod closeness;
mod limits;
mod network;
mod report;

use candle_core::Tensor;
use dit::Dit;
use kernels::Compute;
use weights::convert::Form;

use crate::gpu::OpenGpu;
use crate::run::{Failed, conditions, random};
use crate::{BenchError, Model};
use clip::DemoClip;
use closeness::{cosine, psnr, snr};
use network::Net;

pub use limits::{LIMITS, Limit};
pub use report::{NumericsReport, NumericsRow};

/// Whose numbers are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumericsModel {
    /// The embedded model with its LoRA: all measures, over a clip that is drawn on the spot.
    Demo,
    /// The first blocks of a network of this size, with random weights and inputs: blocks and velocity.
    Random {
        /// Which.
        model: Model,
        /// How many.
        blocks: usize,
    },
}

/// What is looked at.
#[derive(Debug, Clone)]
pub struct NumericsOptions {
    /// Whose numbers.
    pub model: NumericsModel,
    /// Width, height, frames of the clip.
    pub size: [usize; 3],
}

/// One precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numeric {
    /// Of matrices.
    pub form: Form,
    /// Of products on the processor; `None` on a GPU, where the form decides.
    pub compute: Option<Compute>,
}

impl Numeric {
    /// `int8`, `fp8-in-bf16`; on a GPU the form alone.
    pub fn name(&self) -> String {
        match self.compute {
            Some(compute) if compute.name() != self.form.name() => format!("{}-in-{}", self.form, compute.name()),
            _ => self.form.to_string(),
        }
    }
}

/// Forms that are looked at, with what the processor multiplies them in.
const FORMS: [(&str, Compute); 7] = [
    ("bf16", Compute::F32),
    ("bf16", Compute::Bf16),
    ("fp8", Compute::Bf16),
    ("int8", Compute::Int8),
    ("int8-rotated", Compute::Int8),
    ("q8_0", Compute::Bf16),
    ("q4_k_m", Compute::Bf16),
];

/// All precisions of a device.
pub fn numerics_of(on_gpu: bool) -> Vec<Numeric> {
    let numeric = |(name, compute): (&str, Compute)| {
        Some(Numeric { form: name.parse().ok()?, compute: (!on_gpu).then_some(compute) })
    };
    let mut all: Vec<Numeric> = FORMS.into_iter().filter_map(numeric).collect();
    all.dedup();
    all
}

/// Measures each precision on the processor or, where one was opened, on the GPU. `told` sees each row when it is done; what it
/// returns says whether to go on.
///
/// # Errors
/// A network cannot be made or fails; `told` says stop.
pub fn numerics(
    options: &NumericsOptions,
    which: &[Numeric],
    gpu: Option<&OpenGpu>,
    told: &mut dyn FnMut(&NumericsRow) -> bool,
) -> Result<NumericsReport, BenchError> {
    let net = Net::of(options.model).map_err(|e| e.of("the model"))?;
    let clip = match options.model {
        NumericsModel::Demo => Some(DemoClip::prepare(options.size).map_err(|e| e.of("the demo's clip"))?),
        NumericsModel::Random { .. } => None,
    };
    let exact = Numeric { form: Form::F32, compute: Some(Compute::F32) };
    let truth = outcome(&net, options, exact, clip.as_ref(), None).map_err(|e| e.of("f32"))?;
    let mut report = NumericsReport::new(options, gpu);
    for numeric in which {
        let name = numeric.name();
        let found = outcome(&net, options, *numeric, clip.as_ref(), gpu).map_err(|e| e.of(&name))?;
        let row = row(&name, gpu.is_some(), &found, &truth).map_err(|e| Failed::from(e).of(&name))?;
        let go_on = told(&row);
        report.rows.push(row);
        if !go_on {
            return Err(BenchError::Cancelled { case: name });
        }
    }
    Ok(report)
}

/// What a network gives.
struct Outcome {
    blocks: Vec<Tensor>,
    velocity: Tensor,
    /// Latents at the end, and pixels.
    clip: Option<(Tensor, Tensor)>,
}

fn outcome(
    net: &Net,
    options: &NumericsOptions,
    numeric: Numeric,
    clip: Option<&DemoClip>,
    gpu: Option<&OpenGpu>,
) -> Result<Outcome, Failed> {
    let gpu = gpu.filter(|_| numeric.compute.is_none());
    if let Some(gpu) = gpu {
        gpu.tidy()?;
    }
    let (latents, timestep) = match clip {
        Some(clip) => (clip.noise().clone(), clip.timestep()),
        None => (random("latents", &[&[16][..], &latent(options.size)].concat())?, 700.0),
    };
    let condition = |built: &Dit| match clip {
        Some(clip) => clip.condition(built),
        None => conditions(built, net.config(), latent(options.size)),
    };
    let built = net.build(numeric, gpu)?;
    let velocity = built.forward(&latents, timestep, &condition(&built)?, &mut dit::no_tap)?;
    let end = clip.map(|clip| clip.run(&built)).transpose()?;
    drop(built);

    let shown = net.showing_blocks(numeric, gpu)?;
    let mut blocks = Vec::with_capacity(net.blocks());
    let mut look = |name: &str, tensor: &Tensor| {
        // The last block is there to show the others.
        if name.strip_prefix("block_").and_then(|n| n.parse().ok()).is_some_and(|n: usize| n < net.blocks()) {
            blocks.push(tensor.clone());
        }
        Ok(())
    };
    shown.forward(&latents, timestep, &condition(&shown)?, &mut look)?;
    Ok(Outcome { blocks, velocity, clip: end })
}

/// `[F, h, w]` of a clip's latents.
fn latent([width, height, frames]: [usize; 3]) -> [usize; 3] {
    [(frames.max(1) - 1) / 4 + 1, height / 8, width / 8]
}

fn row(name: &str, on_gpu: bool, found: &Outcome, truth: &Outcome) -> candle_core::Result<NumericsRow> {
    if found.blocks.len() != truth.blocks.len() {
        candle_core::bail!("{} blocks were shown, of {}", found.blocks.len(), truth.blocks.len());
    }
    let pairs = found.blocks.iter().zip(&truth.blocks);
    let blocks_db = pairs.map(|(found, truth)| snr(found, truth)).collect::<candle_core::Result<Vec<_>>>()?;
    let (latents_cosine, pixels_db) = match (&found.clip, &truth.clip) {
        (Some((latents, pixels)), Some((true_latents, true_pixels))) => {
            (Some(cosine(latents, true_latents)?), Some(psnr(pixels, true_pixels)?))
        }
        _ => (None, None),
    };
    let device = if on_gpu { "gpu" } else { "cpu" };
    let velocity_db = snr(&found.velocity, &truth.velocity)?;
    Ok(NumericsRow::judged(name, device, blocks_db, velocity_db, latents_cosine.zip(pixels_db)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_are_near_f32_in_their_order() {
        let options =
            NumericsOptions { model: NumericsModel::Random { model: Model::Tiny, blocks: 2 }, size: [48, 48, 5] };
        let report = numerics(&options, &numerics_of(false), None, &mut |_| true).unwrap();
        let worst = |name: &str| report.rows.iter().find(|r| r.name == name).map(|r| r.worst_block_db).unwrap();
        assert!(report.rows.iter().all(|r| r.blocks_db.len() == 2 && r.latents_cosine.is_none()), "{report:?}");
        // Weights are bf16 in the first place.
        assert!(
            worst("bf16-in-f32") > 100.0 && worst("bf16") > worst("int8") && worst("int8") > worst("q4_k_m-in-bf16")
        );
        assert!(worst("fp8-in-bf16") < worst("q8_0-in-bf16"), "{report:?}");
        assert!(report.passes(), "{}", report.markdown());
        let stopped = numerics(&options, &numerics_of(false)[..1], None, &mut |_| false).unwrap_err();
        assert!(matches!(stopped, BenchError::Cancelled { .. }));
    }
}
