//! The engine: a model that is opened once and animates many pictures.

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dit::Attention;
use image::RgbImage;
use kernels::Compute;
use media::output::PendingFile;
use offload::{
    DeviceMemory, Machine, MemoryFlags, OnPressure, Phase, Place, QualityProfile, Residence, StagePlan, VirtualDevice,
};
use scheduler::{GuidancePlan, Schedule};
use serde::{Deserialize, Serialize};
use weights::convert::Form;

use crate::animate::animate;
use crate::gpu::Chosen;
use crate::lora::Loras;
use crate::model::{OpenModel, Part, compute_of};
use crate::motion::poses_at_hand;
use crate::needs::{Blueprint, ClipShape, held_in, pose_phase};
use crate::poses::lossy;
use crate::pressure::{Memories, Pressure};
use crate::progress::Progress;
use crate::resolve::{ModelSide, PoseSide, Resolved, make_plan, only_phase, resolve};
use crate::{
    Activations, AnimateRequest, EmbeddedPoses, FinderOptions, Lora, LoraInfo, ModelSource, Observer, PipelineError,
    PoseSettings, Settings, clips, pixels,
};

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
    /// The form of the transformer's matrices, before [`dtype`](Self::dtype). Files are decoded to floats; any other form
    /// must be the file's own. A plan of a published model takes every form.
    pub dit_dtype: Option<Form>,
    /// The same for the text encoder.
    pub text_dtype: Option<Form>,
    /// Numbers that products of the transformer and the text encoder are computed in on a CPU; `None` is bf16 for models of a billion
    /// parameters or more, as their own code computes, and f32 for small ones. Another result, by about as much as the
    /// reference's differs from exact arithmetic.
    pub compute: Option<Compute>,
    /// How the transformer's tokens attend to each other on a GPU; `None` is bf16. `int8` is for heads of 128 channels, and changes the picture
    /// a little.
    pub attention: Option<Attention>,
    /// Of the VAE in plans for a GPU; on the CPU it computes in f32, on this machine's GPU in bf16 with sums in f32, so that
    /// f32 leaves it to the CPU.
    pub vae_dtype: Option<HeldDType>,
    /// What is asked of the planner; by default it decides everything. Where weights live never changes the result; where a phase computes does, by rounding.
    pub memory: MemoryFlags,
    /// Side of the largest tile, in pixels, that the VAE computes at once, a multiple of 8 from 16 on; `None` computes pictures
    /// whole. Smaller tiles take less memory and change the result a little.
    pub vae_tile: Option<usize>,
    /// LoRAs for the transformer, added in this order.
    pub loras: Vec<Lora>,
    /// How poses of plain videos are found. With the embedded model the embedded networks find them, unless files are
    /// named or [`PoseModelPlaces::embedded`](crate::PoseModelPlaces::embedded) says when.
    pub poses: FinderOptions,
}

impl HeldDType {
    /// The form of a file that is held so.
    pub fn form(self) -> Form {
        match self {
            HeldDType::F32 => Form::F32,
            HeldDType::Bf16 => Form::BF16,
            HeldDType::F16 => Form::F16,
        }
    }
}

impl EngineOptions {
    fn half_vae(&self) -> bool {
        matches!(self.vae_dtype, Some(HeldDType::Bf16 | HeldDType::F16))
    }

    /// The usual ones, with the LoRAs that the preset's settings are made for.
    pub fn for_preset(preset: &models::Preset) -> Self {
        Self { loras: preset.loras.iter().map(|name| Lora::named(name, 1.0)).collect(), ..Self::default() }
    }
}

/// What is known of an opened model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelInfo {
    /// Say `SteadyDancer-14B`.
    pub label: String,
    /// Parameters of all components.
    pub parameters: u64,
    /// Its parts.
    pub components: Vec<ComponentInfo>,
    /// Its LoRAs, in the order in which they are added.
    pub loras: Vec<LoraInfo>,
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
    /// What is computed at a time.
    pub activations: Activations,
    /// Numbers that the transformer's products are computed in.
    pub compute: Compute,
    /// How its tokens attend to each other, where that is on a GPU.
    pub attention: Attention,
    /// LoRAs of the transformer.
    pub loras: Vec<LoraInfo>,
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
    /// Predicted and measured memory, phase by phase.
    pub memory: Vec<PhaseMemory>,
    /// What was done when memory ran out on the way.
    pub replans: Vec<String>,
}

impl Report {
    /// The most memory of its own that the process had in any phase, in bytes, where the system tells.
    pub fn measured_peak_bytes(&self) -> Option<u64> {
        self.memory.iter().filter_map(|phase| phase.measured_bytes).max()
    }

    /// Writes predicted and measured memory as JSON; the file is there as a whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_memory(&self, path: &Path) -> Result<(), PipelineError> {
        let value = serde_json::json!({
            "predicted_peak_bytes": self.predicted_peak_bytes,
            "measured_peak_bytes": self.measured_peak_bytes(),
            "phases": self.memory,
            "replans": self.replans,
        });
        let failed = |e: &dyn std::fmt::Display| PipelineError::Output(media::MediaError::write(path, e.to_string()));
        let (pending, mut file) = PendingFile::create(path).map_err(PipelineError::Output)?;
        let text = serde_json::to_string_pretty(&value).map_err(|e| failed(&e))?;
        writeln!(file, "{text}").map_err(|e| failed(&e))?;
        drop(file);
        pending.commit().map_err(PipelineError::Output)
    }
}

/// Memory of one phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PhaseMemory {
    /// Which.
    pub phase: Phase,
    /// Where its weights lay, in words.
    pub placement: String,
    /// How it computed, in words.
    pub way: String,
    /// The peak that the plan predicted for the host, the program included, in bytes.
    pub predicted_bytes: u64,
    /// The most memory of its own that the process had, in bytes; `None` where the system does not tell.
    pub measured_bytes: Option<u64>,
}

/// A model that is opened and checked; weights are read phase by phase when it runs.
pub struct Engine {
    model: OpenModel,
    source: ModelSource,
    info: ModelInfo,
    options: EngineOptions,
    /// What computes, and the wishes that are left to the planner then.
    device: Chosen,
    flags: MemoryFlags,
    memory: Option<Arc<dyn DeviceMemory>>,
}

impl Engine {
    /// Opens the model's files, reads their headers, and checks every tensor's name and shape.
    ///
    /// # Errors
    /// Missing or damaged files, tensors that do not fit, or a device that is not there.
    pub fn open(source: &ModelSource, options: &EngineOptions) -> Result<Self, PipelineError> {
        let model = OpenModel::open(source, options)?;
        let device = Chosen::of(&options.device, &model.blueprint.dit)?;
        let flags = device.flags(&options.memory, &model.blueprint)?;
        let flags = device.vae_in(options.vae_dtype, flags)?;
        let mut options = options.clone();
        if *source == ModelSource::Demo {
            options.poses.models.embedded.get_or_insert(EmbeddedPoses::UnlessNamed);
        }
        Ok(Self { info: model.info(), model, source: source.clone(), options, device, flags, memory: None })
    }

    /// The same with weights in other memory than the host's within the plan: one that counts, is behind a bus, or fails.
    pub fn with_memory(self, memory: Arc<dyn DeviceMemory>) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Runs the opened model with these LoRAs instead of those it has; an empty list gives the original weights back.
    /// Reads headers only. On an error everything stays as it was.
    ///
    /// # Errors
    /// A LoRA that cannot be used with this model.
    pub fn set_loras(&mut self, loras: &[Lora]) -> Result<(), PipelineError> {
        self.model.set_loras(loras)?;
        self.info = self.model.info();
        self.options.loras = loras.to_vec();
        Ok(())
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
        self.plan_here(request, &self.machine())
    }

    /// This machine as plans for it see it, with the GPU that is computed on.
    pub fn machine(&self) -> Machine {
        self.device.machine()
    }

    /// As [`plan`](Self::plan), by other figures for [`machine`](Self::machine), measured ones say.
    ///
    /// # Errors
    /// As there.
    pub fn plan_here(&self, request: &AnimateRequest, machine: &Machine) -> Result<AnimatePlan, PipelineError> {
        Ok(self.resolve(&self.complete(request), machine)?.plan)
    }

    /// As [`plan`](Self::plan), for another machine, and as if everything could be computed there.
    ///
    /// # Errors
    /// The same.
    pub fn plan_on(&self, request: &AnimateRequest, machine: &Machine) -> Result<AnimatePlan, PipelineError> {
        let request = self.complete(request);
        let side = ModelSide {
            flags: &self.options.memory,
            on_own_gpu: false,
            device_note: None,
            ..self.model_side(&request, machine)
        };
        Ok(resolve(&request, &side, &self.options.poses)?.plan)
    }

    /// Makes the clip.
    ///
    /// # Errors
    /// See [`PipelineError`]. No partial file is left under any name.
    pub fn animate(&self, request: &AnimateRequest, observer: &mut dyn Observer) -> Result<Report, PipelineError> {
        let request = &*self.complete(request);
        let machine = self.device.machine();
        let policy = self.options.memory.on_pressure.unwrap_or(OnPressure::Replan);
        let (mut smaller, mut changes) = (Cow::Borrowed(request), Vec::new());
        loop {
            let resolved = self.resolve(&smaller, &machine)?;
            let error = match self.animate_once(&smaller, &resolved, policy, observer) {
                Err(error) if error.is_out_of_memory() => error,
                Ok(report) => return Ok(Report { replans: [changes, report.replans].concat(), ..report }),
                other => return other,
            };
            let plan = &resolved.plan;
            let profile = (policy == OnPressure::Degrade)
                .then(|| QualityProfile::below([plan.width, plan.height], plan.num_frames))
                .flatten();
            let Some(profile) = profile else { return Err(error) };
            let change = format!("{error}; the clip is begun anew with --quality-profile {profile}");
            observer.event(&crate::Event::Note { message: change.clone() });
            changes.push(change);
            let settings = smaller.settings.clone();
            let settings = Settings { size: None, num_frames: None, ..settings }.with_quality(profile);
            smaller = Cow::Owned(AnimateRequest { settings, ..smaller.into_owned() });
        }
    }

    fn animate_once(
        &self,
        request: &AnimateRequest,
        resolved: &Resolved,
        policy: OnPressure,
        observer: &mut dyn Observer,
    ) -> Result<Report, PipelineError> {
        let machine = self.device.machine();
        let (stages, memory) = (&resolved.plan.stages, self.memory.clone());
        let memory = Memories {
            host: memory.unwrap_or_else(|| Arc::new(VirtualDevice::host(stages.budgets.ram_bytes))),
            gpu: self.device.memory(stages),
        };
        let replan = |phase, bytes| self.replan(request, resolved, &machine, phase, bytes);
        let pressure = Pressure { memory: &memory, policy, replan: &replan };
        animate(&self.model, request, resolved, &self.options.poses, &pressure, observer)
    }

    /// One phase within so many bytes, whatever mode was asked for, and in an exact way: the picture stays what it is.
    fn replan(
        &self,
        request: &AnimateRequest,
        resolved: &Resolved,
        machine: &Machine,
        phase: Phase,
        bytes: u64,
    ) -> Result<(StagePlan, Activations), PipelineError> {
        let plan = &resolved.plan;
        let mut flags = MemoryFlags { mode: None, blocks_resident: None, ..self.flags.clone() };
        match plan.stages.phase(phase).map(|p| p.on) {
            Some(Place::Device) => flags.device_budget_bytes = Some(bytes),
            _ => flags.ram_budget_bytes = Some(bytes),
        }
        let side = ModelSide { flags: &flags, ..self.model_side(request, machine) };
        let clip = ClipShape { width: plan.width, height: plan.height, num_frames: plan.num_frames };
        only_phase(&side, clip, &plan.guidance, phase)
    }

    /// The request with what it leaves to the model.
    fn complete<'a>(&self, request: &'a AnimateRequest) -> Cow<'a, AnimateRequest> {
        let pose = self.complete_pose(&request.pose);
        if pose == request.pose {
            Cow::Borrowed(request)
        } else {
            Cow::Owned(AnimateRequest { pose, ..request.clone() })
        }
    }

    /// Settings of poses with what they leave to the model.
    pub(crate) fn complete_pose(&self, pose: &PoseSettings) -> PoseSettings {
        PoseSettings { canvas: pose.canvas.or(self.model.pose_canvas), ..pose.clone() }
    }

    /// How the model was opened, with what it decides: the embedded model brings its own pose networks.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Where the model came from.
    pub(crate) fn source(&self) -> &ModelSource {
        &self.source
    }

    /// A picture as the networks see it in a clip of `size` (width, height), and the same after the VAE's encoder and
    /// decoder: what a first frame can be at best.
    pub(crate) fn reconstructed(&self, picture: &RgbImage, size: [usize; 2]) -> Result<[RgbImage; 2], PipelineError> {
        let model = &self.model;
        let explain = |e| PipelineError::from_compute("VAE".into(), e);
        let seen = pixels::vae_pixels(picture, size)?;
        let memory: Arc<dyn DeviceMemory> = Arc::new(VirtualDevice::host(u64::MAX));
        let source = model.vae.placed(Residence::WHOLE, &memory).map_err(explain)?;
        let encoder = clips::encoder(&model.blueprint.vae, source.clone(), None).map_err(explain)?;
        let mut silent = ();
        let mut progress = Progress::new(&mut silent);
        let tiles = vae::Tiles::new(&model.blueprint.vae, size[1], size[0], None).map_err(|e| explain(e.into()))?;
        let frame = || Ok(std::iter::once(Ok(seen.clone())));
        let latents = clips::encode(&encoder, &tiles, frame, 1, &mut progress)?;
        let decoder = clips::decoder(&model.blueprint.vae, source, None).map_err(explain)?;
        let mut decoded = None;
        clips::decode(&decoder, &latents, None, &mut progress, &mut |chunk, _| {
            let first = chunk.narrow(1, 0, 1).and_then(|f| f.squeeze(1)).map_err(explain)?;
            decoded.get_or_insert(pixels::picture(&first).map_err(explain)??);
            Ok(())
        })?;
        let nothing = || explain(candle_core::Error::msg("no output"));
        Ok([pixels::picture(&seen).map_err(explain)??, decoded.ok_or_else(nothing)?])
    }

    fn model_side<'a>(&'a self, request: &AnimateRequest, machine: &'a Machine) -> ModelSide<'a> {
        ModelSide {
            label: self.info.label.clone(),
            blueprint: &self.model.blueprint,
            held: [&self.model.dit, &self.model.text_encoder, &self.model.image_encoder].map(Part::held_bytes),
            default_size: self.model.default_size.unwrap_or(request.settings.default_size),
            machine,
            flags: &self.flags,
            half_vae: self.options.half_vae(),
            vae_tile: self.options.vae_tile,
            loras: &self.model.loras,
            compute: self.model.dit.compute,
            attention: self.options.attention.unwrap_or_default(),
            on_own_gpu: self.device.gpu.is_some(),
            device_note: self.device.note.clone(),
        }
    }

    fn resolve(&self, request: &AnimateRequest, machine: &Machine) -> Result<Resolved, PipelineError> {
        resolve(request, &self.model_side(request, machine), &self.options.poses)
    }
}

/// The plan for a published model (`steadydancer-14b`…), computed from its shapes: no file of it is needed. The
/// reference and motion of `request` are not opened.
///
/// # Errors
/// An unknown name, impossible numbers, or memory that does not suffice.
pub fn plan_known(
    name: &str,
    request: &AnimateRequest,
    machine: &Machine,
    options: &EngineOptions,
) -> Result<AnimatePlan, PipelineError> {
    request.validate()?;
    let (model, blueprint, published) = Blueprint::published(name)?;
    let place = |source| PipelineError::Compute { place: "model sizes".into(), source };
    let loras = match options.loras.as_slice() {
        [] => Loras::default(),
        asked => Loras::open(asked, &dit::manifest(&blueprint.dit).map_err(place)?, &blueprint.dit.label())?,
    };
    let everywhere = options.dtype.map(HeldDType::form);
    let [dit, text, image] = published;
    let dit = options.dit_dtype.or(everywhere).unwrap_or(dit);
    let side = ModelSide {
        label: if dit == published[0] { model.title } else { format!("{}, held as {dit}", blueprint.dit.label()) },
        blueprint: &blueprint,
        held: [
            held_in(dit),
            held_in(options.text_dtype.or(everywhere).unwrap_or(text)),
            held_in(everywhere.unwrap_or(image)),
        ],
        default_size: request.settings.default_size,
        machine,
        flags: &options.memory,
        half_vae: options.half_vae(),
        vae_tile: options.vae_tile,
        loras: &loras,
        compute: compute_of(options, blueprint.manifests()?[0].parameters()),
        attention: options.attention.unwrap_or_default(),
        on_own_gpu: false,
        device_note: None,
    };
    let [width, height] = request.settings.size.unwrap_or(request.settings.default_size);
    let num_frames = request.settings.num_frames.unwrap_or(request.settings.default_num_frames);
    let poses = PoseSide { has_negative: true, phase: pose_phase(0, poses_at_hand([width, height]), 0) };
    make_plan(request, &side, ClipShape { width, height, num_frames }, poses, Vec::new())
}

fn lossy_option<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => lossy(path, serializer),
        None => serializer.serialize_none(),
    }
}
