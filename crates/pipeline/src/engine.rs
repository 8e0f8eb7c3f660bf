//! The engine: a model that is opened once and animates many pictures.

use std::path::PathBuf;

use candle_core::DType;
use offload::{Memory, Phase, PhaseNeeds, Placement, StagePlan};
use scheduler::{GuidancePlan, Schedule};
use serde::{Deserialize, Serialize};

use crate::animate::animate;
use crate::model::OpenModel;
use crate::motion::POSES_AT_HAND;
use crate::needs::{Blueprint, ClipShape};
use crate::poses::lossy;
use crate::resolve::{ModelSide, PoseSide, Resolved, make_plan, resolve};
use crate::{AnimateRequest, FinderOptions, ModelSource, Observer, PipelineError, RequestError};

/// The precision in which matrices are held. Arithmetic on a CPU is f32 whatever it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldDType {
    /// 32 bits.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
}

/// How a model is opened.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EngineOptions {
    /// `auto`, `cpu`, or `cuda:N`; empty is `auto`.
    pub device: String,
    /// Precision of matrices; `None` keeps 16-bit files as they are and holds f32 files as bf16.
    pub dtype: Option<HeldDType>,
    /// Memory that may be used, in bytes; `None` is what is available.
    pub memory_budget_bytes: Option<u64>,
    /// Where weights shall live; `None` lets the plan decide. It never changes the result.
    pub placement: Option<Placement>,
    /// How poses of plain videos are found.
    pub poses: FinderOptions,
}

/// What is known of an opened model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// Say `SteadyDancer-14B`.
    pub label: String,
    /// False for the embedded model while its weights are random.
    pub trained: bool,
    /// Parameters of all components.
    pub parameters: u64,
    /// Its parts.
    pub components: Vec<ComponentInfo>,
}

/// One part of a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComponentInfo {
    /// `dit`, `vae`, `text-encoder`, `image-encoder`.
    pub name: String,
    /// File, folder or index; a label for the embedded model.
    pub path: PathBuf,
    /// Parameters that are used.
    pub parameters: u64,
    /// Stored bytes of the file.
    pub stored_bytes: u64,
}

/// Everything that is decided before a weight is read. Printable and serialisable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnimatePlan {
    /// The model's label.
    pub model: String,
    /// Width of the clip in pixels.
    pub width: usize,
    /// Height of the clip in pixels.
    pub height: usize,
    /// Pixel frames T.
    pub num_frames: usize,
    /// Latent frames F.
    pub latent_frames: usize,
    /// Tokens L of one forward, appended frames included.
    pub tokens: usize,
    /// Frames per second.
    pub fps: f64,
    /// Seed.
    pub seed: u64,
    /// Noise levels and timesteps.
    pub schedule: Schedule,
    /// Branches and coefficients.
    pub guidance: GuidancePlan,
    /// Forwards of the whole loop.
    pub forwards: usize,
    /// Memory, phase by phase.
    pub stages: StagePlan,
    /// What was decided that one might not expect.
    pub notes: Vec<String>,
}

/// What a finished run was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was written.
    #[serde(serialize_with = "lossy_option")]
    pub output: Option<PathBuf>,
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Pixel frames.
    pub num_frames: usize,
    /// Frames per second.
    pub fps: f64,
    /// Seed.
    pub seed: u64,
    /// Forwards computed.
    pub forwards: usize,
    /// Whether the file has the driving video's sound.
    pub has_audio: bool,
    /// Wall-clock seconds in all.
    pub seconds: f64,
    /// Wall-clock seconds by phase.
    pub phase_seconds: Vec<(Phase, f64)>,
    /// Peak that the plan predicted, in bytes.
    pub predicted_peak_bytes: u64,
    /// Largest resident size that the process had, in bytes, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// A model that is opened and checked; weights are read phase by phase when it runs.
pub struct Engine {
    model: OpenModel,
    info: ModelInfo,
    options: EngineOptions,
}

impl Engine {
    /// Opens the model's files, reads their headers, and checks every tensor's name and shape.
    ///
    /// # Errors
    /// Missing or damaged files, tensors that do not fit, or a device that is not there.
    pub fn open(source: &ModelSource, options: &EngineOptions) -> Result<Self, PipelineError> {
        check_device(&options.device)?;
        let model = OpenModel::open(source, options.dtype)?;
        Ok(Self { info: model.info(), model, options: options.clone() })
    }

    /// What is known of the model.
    pub fn model(&self) -> &ModelInfo {
        &self.info
    }

    /// Checks a request against its files' headers and the memory, and decides everything; reads no weight.
    ///
    /// # Errors
    /// Impossible numbers, unusable inputs, or memory that does not suffice.
    pub fn plan(&self, request: &AnimateRequest) -> Result<AnimatePlan, PipelineError> {
        Ok(self.resolve(request)?.plan)
    }

    /// Makes the clip.
    ///
    /// # Errors
    /// See [`PipelineError`]. No partial file is left under any name.
    pub fn animate(&self, request: &AnimateRequest, observer: &mut dyn Observer) -> Result<Report, PipelineError> {
        let resolved = self.resolve(request)?;
        animate(&self.model, request, &resolved, &self.options.poses, observer)
    }

    fn resolve(&self, request: &AnimateRequest) -> Result<Resolved, PipelineError> {
        let mut memory = Memory::of_host();
        if let Some(budget) = self.options.memory_budget_bytes {
            memory.available_bytes = memory.available_bytes.min(budget);
        }
        let side = ModelSide {
            label: self.info.label.clone(),
            blueprint: &self.model.blueprint,
            dtypes: [self.model.dit.dtype(), self.model.text_encoder.dtype(), self.model.image_encoder.dtype()],
            default_size: self.model.default_size.unwrap_or(request.settings.default_size),
            memory,
            placement: self.options.placement,
        };
        resolve(request, &side, &self.options.poses)
    }
}

/// The plan for a published model (`steadydancer-14b`…), computed from its shapes: no file of it is needed. The
/// reference and motion of `request` are not opened, and `memory` stands for the options' budget.
///
/// # Errors
/// An unknown name, impossible numbers, or memory that does not suffice.
pub fn plan_known(
    name: &str,
    request: &AnimateRequest,
    memory: &Memory,
    options: &EngineOptions,
) -> Result<AnimatePlan, PipelineError> {
    request.validate()?;
    let known = models::known_models();
    let Some(model) = known.iter().find(|m| m.name == name && m.animates() && !m.files.is_empty()) else {
        let names: Vec<&str> =
            known.iter().filter(|m| m.animates() && !m.files.is_empty()).map(|m| m.name.as_str()).collect();
        let problem = format!("no published model has this name; there are {}", names.join(", "));
        return Err(PipelineError::Model { path: name.into(), problem });
    };
    let blueprint = Blueprint::steadydancer_14b();
    let held = match options.dtype {
        Some(HeldDType::F32) => DType::F32,
        _ => DType::BF16,
    };
    let side = ModelSide {
        label: model.title.clone(),
        blueprint: &blueprint,
        dtypes: [held; 3],
        default_size: request.settings.default_size,
        memory: *memory,
        placement: options.placement,
    };
    let [width, height] = request.settings.size.unwrap_or(request.settings.default_size);
    let num_frames = request.settings.num_frames.unwrap_or(request.settings.default_num_frames);
    let poses = PoseSide { has_negative: true, needs: PhaseNeeds::whole(Phase::Pose, 0, POSES_AT_HAND) };
    make_plan(request, &side, ClipShape { width, height, num_frames }, poses, Vec::new())
}

fn lossy_option<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy(path, serializer),
        None => serializer.serialize_none(),
    }
}

/// This build computes on the CPU.
fn check_device(device: &str) -> Result<(), RequestError> {
    match device {
        "" | "auto" | "cpu" => Ok(()),
        other => {
            let why = if other.starts_with("cuda") {
                "this build computes on the CPU only"
            } else {
                "devices are auto, cpu and cuda:N"
            };
            Err(RequestError::Device { found: other.to_owned(), why: why.to_owned() })
        }
    }
}
