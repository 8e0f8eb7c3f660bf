//! What conditions a branch: as it is given, and brought to the network's width.

use candle_core::{Result, Tensor};

use crate::backend::{Backend, Host, OnGpu};
use crate::block::Context;

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

/// Conditions brought to the network's width, the same in every step: made once per clip and branch, where passes are computed.
pub struct Conditioning(pub(crate) Place);

pub(crate) enum Place {
    Host(Box<Prepared<Host>>),
    Gpu(Box<Prepared<OnGpu>>),
}

impl Conditioning {
    pub(crate) fn on_host(&self) -> Result<&Prepared<Host>> {
        match &self.0 {
            Place::Host(prepared) => Ok(prepared),
            Place::Gpu(_) => candle_core::bail!("conditions that were prepared on a GPU, and a network on the host"),
        }
    }

    pub(crate) fn on_gpu(&self) -> Result<&Prepared<OnGpu>> {
        match &self.0 {
            Place::Gpu(prepared) => Ok(prepared),
            Place::Host(_) => candle_core::bail!("conditions that were prepared on the host, and a network on a GPU"),
        }
    }
}

/// A condition where passes are computed.
pub(crate) struct Prepared<B: Backend + ?Sized> {
    pub context: Context<B>,
    /// `[20, F, h, w]`.
    pub image_latents: Option<B::Latents>,
    pub pose: Option<PreparedPose<B>>,
    pub vace: Option<PreparedVace<B>>,
}

pub(crate) struct PreparedPose<B: Backend + ?Sized> {
    /// `[C, F, h, w]`: pose latents plus both feature extractors (`C_f`).
    pub features: B::Latents,
    /// `[36, 1, h, w]`: the first of the two frames that are appended.
    pub ref_latents: B::Latents,
    /// `[C, 1, h, w]`: the second.
    pub pose_ref_latents: B::Latents,
}

pub(crate) struct PreparedVace<B: Backend + ?Sized> {
    /// `[1, L, D]`.
    pub tokens: B::Activations,
    pub scale: f64,
}

/// A condition on its way there: what the host has computed of it, f32.
pub(crate) struct Embedded {
    pub context: Context<Host>,
    pub image_latents: Option<Tensor>,
    pub pose: Option<EmbeddedPose>,
    pub vace: Option<VaceInputs>,
}

pub(crate) struct EmbeddedPose {
    /// `[C, F, h, w]`.
    pub features: Tensor,
    /// `[36, 1, h, w]`.
    pub ref_latents: Tensor,
    /// `[C, 1, h, w]`.
    pub pose_ref_latents: Tensor,
}
