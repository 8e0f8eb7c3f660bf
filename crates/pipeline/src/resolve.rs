//! From a request to a plan: everything that headers and sizes can decide.

use std::path::Path;

use dit::Attention;
use kernels::Compute;
use media::output::PendingFolder;
use offload::{Machine, MemoryFlags, Phase, PhaseJob, Place, StagePlan};
use scheduler::{Branch, GuidancePlan, Polarity};
use vae::Tile;

use crate::geometry::{Geometry, LATENT};
use crate::lora::Loras;
use crate::motion::ResolvedMotion;
use crate::needs::{Blueprint, ClipShape, Extent, HeldBytes, activations, job, whole_job};
use crate::preview;
use crate::request::check_size;
use crate::{
    Activations, AnimatePlan, AnimateRequest, Branches, FinderOptions, Motion, PipelineError, RequestError, kept,
};

/// A request with everything decided.
pub(crate) struct Resolved {
    pub geometry: Geometry,
    pub motion: ResolvedMotion,
    pub plan: AnimatePlan,
}

/// What the model contributes to a plan.
pub(crate) struct ModelSide<'a> {
    pub label: String,
    pub blueprint: &'a Blueprint,
    /// Of transformer, text encoder and image encoder.
    pub held: [HeldBytes<'a>; 3],
    /// The area that is used when no size is asked for.
    pub default_size: [usize; 2],
    pub machine: &'a Machine,
    /// What was asked of the planner.
    pub flags: &'a MemoryFlags,
    /// Whether the VAE shall compute in 16 bits.
    pub half_vae: bool,
    /// Side of the VAE's tiles, if it shall compute in tiles.
    pub vae_tile: Option<usize>,
    pub loras: &'a Loras,
    /// Numbers that the transformer's products are computed in.
    pub compute: Compute,
    /// How its tokens attend to each other on a GPU.
    pub attention: Attention,
    /// Whether the machine's GPU is the one that this program computes on.
    pub on_own_gpu: bool,
    /// What is to be said of where it is computed.
    pub device_note: Option<String>,
}

/// Checks inputs by their headers, output by its place, numbers and memory.
pub(crate) fn resolve(
    request: &AnimateRequest,
    model: &ModelSide,
    poses: &FinderOptions,
) -> Result<Resolved, PipelineError> {
    request.validate()?;
    for input in inputs(request) {
        ordinary(input).map_err(PipelineError::Media)?;
    }
    let info = media::image::probe(&request.reference).map_err(PipelineError::Media)?;
    let reference = [info.width as usize, info.height as usize];
    let geometry = Geometry::new(request, reference, model.default_size);
    check_size(geometry.clip[0], geometry.clip[1])?;
    let motion = ResolvedMotion::new(request, reference, &poses.models)?;
    if let Some(drive) = request.motion.drive() {
        media::video::probe(drive).map_err(PipelineError::Media)?;
        crate::motion::complete_times(drive, &media::video::ReadOptions::default())?;
    }
    check_output(request)?;
    check_debug_dir(request)?;
    let mut notes = motion.notes.clone();
    if geometry.crops() {
        let [w, h] = geometry.cropped_size();
        notes.push(format!(
            "the reference is cropped at the centre from {}x{} to {w}x{h} for the aspect of {}x{}; --size-rule area keeps all of it",
            reference[0], reference[1], geometry.clip[0], geometry.clip[1]
        ));
    }
    let clip = ClipShape { width: geometry.clip[0], height: geometry.clip[1], num_frames: motion.num_frames };
    let poses = PoseSide { has_negative: motion.has_negative, phase: motion.phase()? };
    let plan = make_plan(request, model, clip, poses, notes)?;
    if let Some(file) = &request.latents {
        kept::open(file, &latent_shape(&plan), &latent_settings(&plan, request, model.loras))?;
    }
    Ok(Resolved { geometry, motion, plan })
}

/// What the motion contributes to a plan.
pub(crate) struct PoseSide {
    /// Whether there are negative poses.
    pub has_negative: bool,
    /// Its phase.
    pub phase: PhaseJob,
}

/// The plan for a clip of known size: pure.
pub(crate) fn make_plan(
    request: &AnimateRequest,
    model: &ModelSide,
    clip: ClipShape,
    poses: PoseSide,
    mut notes: Vec<String>,
) -> Result<AnimatePlan, PipelineError> {
    if !model.blueprint.dit.is_steadydancer() {
        return Err(PipelineError::Model {
            path: model.label.clone().into(),
            problem: "it has no pose conditions; animating needs a SteadyDancer transformer".into(),
        });
    }
    let s = &request.settings;
    let schedule = s.schedule()?;
    let mut guidance = s.guidance(schedule.num_steps(), true)?;
    if !poses.has_negative && uses(&guidance, |b| b.pose == Polarity::Negative) {
        guidance = s.guidance(schedule.num_steps(), false)?;
        notes.push("pose guidance is off: it needs negative poses, and none were given (--neg-pose)".into());
    }
    if let ([832, 480] | [480, 832], true) = ([clip.width, clip.height], s.shift == 5.0 && schedule.num_steps() > 4) {
        notes.push("upstream's own default at this size is --shift 3; this run uses 5".into());
    }
    if s.distilled_timesteps.as_ref().is_some_and(|t| !s.uses_distilled(t)) {
        notes.push(
            "the preset's distilled timesteps fit its own sampler and steps only; a computed schedule is used".into(),
        );
    }
    notes.extend(model.device_note.clone());
    notes.extend(model.loras.notes());
    if let Some(profile) = model.flags.quality_profile {
        notes.push(format!(
            "quality profile {profile} changes the picture: {}x{}, {} frames, {} steps",
            clip.width,
            clip.height,
            clip.num_frames,
            schedule.num_steps()
        ));
    }
    if model.half_vae && model.machine.is_cpu() {
        notes.push("--vae-dtype does nothing here: on the CPU the VAE computes in f32".to_owned());
    }
    let (stages, activations) = stages(request, model, clip, poses.phase, &guidance)?;
    notes.extend(stages.notes.iter().cloned());
    let on_device = stages.phase(Phase::Denoise).is_some_and(|p| p.on == Place::Device);
    let head = model.blueprint.dit.head_dim();
    match model.attention {
        Attention::Bf16 => {}
        asked if !on_device => {
            notes.push(format!("--attention {} does nothing here: it is for GPUs", asked.name()));
        }
        asked if !asked.fits(head) => return Err(RequestError::Attention { asked: asked.name(), head }.into()),
        _ => {}
    }
    if model.compute != Compute::F32 && stages.phase(Phase::Denoise).is_some_and(|p| p.on == Place::Cpu) {
        let name = model.compute.name();
        notes.push(format!(
            "the transformer multiplies in {name} where the CPU can; --compute f32 is more exact and slower"
        ));
    }
    Ok(AnimatePlan {
        model: model.label.clone(),
        width: clip.width,
        height: clip.height,
        num_frames: clip.num_frames,
        latent_frames: clip.latent_frames(),
        tokens: clip.tokens(2),
        fps: s.fps,
        seed: s.seed,
        forwards: guidance.total_forwards(),
        schedule,
        guidance,
        stages,
        activations,
        compute: model.compute,
        attention: model.attention,
        loras: model.loras.infos.clone(),
        notes,
    })
}

/// One phase by itself, in an exact way, with what is left of the budget in `model`'s flags.
pub(crate) fn only_phase(
    model: &ModelSide,
    clip: ClipShape,
    guidance: &GuidancePlan,
    phase: Phase,
) -> Result<(StagePlan, Activations), PipelineError> {
    let pose = crate::needs::pose_phase(0, 0, clip.num_frames);
    stages_of(model, clip, pose, guidance, &|phases| {
        phases.retain(|p| p.phase == phase);
        for phase in phases {
            phase.ways.retain(|way| way.exact);
            phase.host_ways.retain(|way| way.exact);
        }
    })
}

/// Where weights live and what is computed at a time: branches together where blocks are streamed, which are then read once
/// for all, if there is memory for it.
fn stages(
    request: &AnimateRequest,
    model: &ModelSide,
    clip: ClipShape,
    pose: PhaseJob,
    guidance: &GuidancePlan,
) -> Result<(StagePlan, Activations), PipelineError> {
    stages_of(model, clip, pose, guidance, &|phases| {
        if request.latents.is_some() {
            phases.retain(|p| p.phase == Phase::Decode);
        }
    })
}

fn stages_of(
    model: &ModelSide,
    clip: ClipShape,
    pose: PhaseJob,
    guidance: &GuidancePlan,
    select: &dyn Fn(&mut Vec<PhaseJob>),
) -> Result<(StagePlan, Activations), PipelineError> {
    model.flags.check().map_err(RequestError::Flags)?;
    let vae_tile = model.vae_tile.map(Tile::new);
    if let Some(tile) = vae_tile {
        tile.check(&model.blueprint.vae).map_err(RequestError::VaeTile)?;
    }
    let forwards = guidance.total_forwards();
    let plan = |branches: Branches| -> Result<_, PipelineError> {
        let extent = Extent {
            forwards,
            prompts: 1 + usize::from(uses(guidance, |b| b.text == Polarity::Negative)),
            encodes: 2 + usize::from(uses(guidance, |b| b.pose == Polarity::Negative)),
            branches: branches.count(guidance),
            passes: if branches == Branches::Batched { guidance.num_steps() } else { forwards },
            vae_tile,
            merge_bytes: model.loras.merge_bytes,
            half_vae: model.half_vae,
            compute: model.compute,
            attention: model.attention,
            on_own_gpu: model.on_own_gpu,
        };
        let mut phases = job(model.blueprint, clip, &model.held, pose.clone(), &extent)?;
        select(&mut phases);
        let job = whole_job(model.blueprint, clip, phases, model.machine);
        let stages = offload::plan(&job, model.machine, model.flags)?;
        let activations = activations(&stages, model.blueprint, clip, branches, vae_tile);
        Ok((stages, activations))
    };
    let alone = plan(Branches::OneAtATime)?;
    if !alone.0.is_streamed(Phase::Denoise) || Branches::Batched.count(guidance).together < 2 {
        return Ok(alone);
    }
    Ok(plan(Branches::Batched).ok().filter(|batched| batched.0.seconds <= alone.0.seconds).unwrap_or(alone))
}

/// `[16, F, h, w]` of the clip.
pub(crate) fn latent_shape(plan: &AnimatePlan) -> [usize; 4] {
    [16, plan.latent_frames, plan.height / LATENT, plan.width / LATENT]
}

/// Whether a branch of this kind takes part in any step; a branch whose coefficient is zero does not.
pub(crate) fn uses(guidance: &GuidancePlan, kind: impl Fn(&Branch) -> bool) -> bool {
    (0..guidance.num_steps()).any(|step| guidance.active(step).iter().any(|active| kind(active.branch)))
}

/// Seed, settings and version as the JSON that is written into the file. Paths stay out of it.
pub(crate) fn metadata(plan: &AnimatePlan, request: &AnimateRequest) -> String {
    described(plan, request).to_string()
}

/// All that latents depend on besides the model and the inputs: the [`metadata`], and what it leaves out because people
/// do not read it, the contents of LoRAs and how poses were made.
pub(crate) fn latent_settings(plan: &AnimatePlan, request: &AnimateRequest, loras: &Loras) -> String {
    let mut value = described(plan, request);
    value["lora_contents"] = serde_json::json!(loras.contents());
    // Drawn poses are taken as they are.
    if !matches!(request.motion, Motion::Drawn { .. }) {
        value["pose"] = serde_json::json!(request.pose);
    }
    value.to_string()
}

fn described(plan: &AnimatePlan, request: &AnimateRequest) -> serde_json::Value {
    let mut value = serde_json::json!({
        "steadydance": env!("CARGO_PKG_VERSION"),
        "model": plan.model,
        "prompt": request.prompt,
        "negative_prompt": crate::animate::negative_prompt(request),
        "seed": plan.seed,
        "width": plan.width,
        "height": plan.height,
        "num_frames": plan.num_frames,
        "settings": request.settings,
    });
    if plan.compute != Compute::F32 {
        value["compute"] = serde_json::json!(plan.compute);
    }
    if plan.stages.phase(Phase::Denoise).is_some_and(|p| p.on == Place::Device) {
        value["device"] = serde_json::json!("cuda");
        if plan.attention != Attention::Bf16 {
            value["attention"] = serde_json::json!(plan.attention);
        }
    }
    if !plan.loras.is_empty() {
        value["loras"] =
            plan.loras.iter().map(|l| serde_json::json!({"name": l.name, "strength": l.strength})).collect();
    }
    value
}

/// Reading from a pipe or a device may never end.
pub(crate) fn ordinary(path: &std::path::Path) -> media::Result<()> {
    match std::fs::metadata(path) {
        Ok(info) if !info.is_file() && !info.is_dir() => Err(media::MediaError::Unreadable {
            path: path.to_owned(),
            source: std::io::Error::other("a pipe or device, not a file"),
        }),
        // What is missing is reported by whoever opens it.
        _ => Ok(()),
    }
}

/// The output must have a name we can write, in a folder that takes files, and be none of the inputs.
fn check_output(request: &AnimateRequest) -> Result<(), PipelineError> {
    let Some(output) = &request.output else { return Ok(()) };
    for input in inputs(request) {
        if media::video::same_file(output, input) {
            let (output, input) = (output.clone(), input.to_owned());
            return Err(RequestError::OutputIsInput { output, input }.into());
        }
    }
    media::video::check_output(output).map_err(|e| match e {
        media::MediaError::UnknownExtension { .. } => RequestError::OutputKind(e).into(),
        other => PipelineError::Output(other),
    })
}

/// The folder of previews must be new, empty or ours, with no input and no output in it: it is replaced as a whole.
fn check_debug_dir(request: &AnimateRequest) -> Result<(), PipelineError> {
    let Some(folder) = &request.debug_dir else { return Ok(()) };
    if let Some(output) = request.output.as_ref().filter(|output| media::video::same_file(output, folder)) {
        return Err(RequestError::FolderHolds { folder: folder.clone(), file: output.clone() }.into());
    }
    check_not_inside(folder, inputs(request).into_iter().chain(request.output.as_deref()))?;
    PendingFolder::replacing(folder, preview::is_ours).map(drop).map_err(PipelineError::Output)
}

/// A folder that may be replaced as a whole must not hold any of `files`.
pub(crate) fn check_not_inside<'a>(folder: &Path, files: impl Iterator<Item = &'a Path>) -> Result<(), RequestError> {
    let Ok(resolved) = folder.canonicalize() else { return Ok(()) };
    for file in files {
        let place = file.canonicalize().or_else(|_| file.parent().unwrap_or(Path::new(".")).canonicalize());
        if place.is_ok_and(|place| place.starts_with(&resolved)) {
            return Err(RequestError::FolderHolds { folder: folder.to_owned(), file: file.to_owned() });
        }
    }
    Ok(())
}

fn inputs(request: &AnimateRequest) -> Vec<&std::path::Path> {
    let mut all = vec![request.reference.as_path()];
    match &request.motion {
        Motion::Keypoints { file, .. } => all.push(file),
        Motion::Drawn { pose, neg_pose, .. } => {
            all.push(pose);
            all.extend(neg_pose.as_deref());
        }
        Motion::Video { .. } => {}
    }
    all.extend(request.motion.drive());
    all.extend(request.latents.as_deref());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latents_depend_on_how_poses_were_made_unless_they_were_drawn() {
        let settings = crate::Settings::from_preset(&models::preset("official").unwrap()).unwrap();
        let keypoints = Motion::Keypoints { file: "k.json".into(), drive: None };
        let drawn = Motion::Drawn { pose: "p".into(), neg_pose: None, drive: None };
        let ram = offload::Memory { total_bytes: 1 << 40, available_bytes: 1 << 40 };
        let machine = Machine::cpu(ram);
        let told = |motion: &Motion, canvas| {
            let mut request = AnimateRequest::new("r.png", motion.clone(), settings.clone());
            request.pose.canvas = canvas;
            let options = crate::EngineOptions::default();
            let plan = crate::plan_known("steadydancer-14b", &request, &machine, &options).unwrap();
            latent_settings(&plan, &request, &Loras::default())
        };
        let canvas = Some([256, 256]);
        assert_eq!(told(&keypoints, canvas), told(&keypoints, canvas));
        assert_ne!(told(&keypoints, canvas), told(&keypoints, None));
        assert_eq!(told(&drawn, canvas), told(&drawn, None));
    }
}
