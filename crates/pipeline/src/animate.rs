//! The whole story of a clip: one function whose numbered steps are the phases of the project's design.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use dit::Dit;
use image::RgbImage;
use media::output::PendingFolder;
use media::video::{AudioOutcome, AudioSource, FrameRate, ReadOptions, VideoWriter, WriterOptions, Written};
use offload::{Charge, DeviceError, DeviceMemory, OnPressure, Phase, PhasePlan, Place, Use};
use scheduler::{INITIAL_NOISE_STREAM, Polarity, Sampler};
use weights::WeightSource;

use crate::denoise::{Conditions, Denoise, Watch, frame_mask, go_on};
use crate::geometry::LATENT;
use crate::kept::{Keeper, LoopInputs, Position};
use crate::model::{OpenModel, Part};
use crate::motion::{ReadyMotion, Side};
use crate::poses::title;
use crate::pressure::{Pressure, Rung};
use crate::preview::{self, Preview};
use crate::progress::Progress;
use crate::resolve::{Resolved, latent_settings, latent_shape, metadata, uses};
use crate::{
    AnimatePlan, AnimateRequest, Audio, FinderOptions, Observer, PhaseMemory, PipelineError, Report, RequestError,
    clips, kept, pixels,
};

/// One clip on its way.
struct Clip<'a> {
    model: &'a OpenModel,
    request: &'a AnimateRequest,
    resolved: &'a Resolved,
    poses: &'a FinderOptions,
    pressure: &'a Pressure<'a>,
}

/// A phase on a rung.
struct Running<'a> {
    phase: Phase,
    rung: &'a Rung,
    memory: &'a Arc<dyn DeviceMemory>,
}

impl Running<'_> {
    /// Weights of a network where the rung has them.
    fn placed(&self, part: &Part) -> candle_core::Result<Arc<dyn WeightSource>> {
        part.placed(self.rung.residence, self.memory)
    }

    /// Counts what the phase computes with besides its weights, and what is held through all phases.
    fn counted(&self) -> Result<Charge, PipelineError> {
        let counted = self.memory.reserve(self.rung.working_bytes, Use::Activations);
        counted.map_err(|e| PipelineError::from_compute(self.phase.to_string(), e.into_candle()))
    }
}

/// Makes the clip that `resolved` decided on.
pub(crate) fn animate(
    model: &OpenModel,
    request: &AnimateRequest,
    resolved: &Resolved,
    poses: &FinderOptions,
    pressure: &Pressure,
    observer: &mut dyn Observer,
) -> Result<Report, PipelineError> {
    let started = Instant::now();
    let plan = &resolved.plan;
    let clip = Clip { model, request, resolved, poses, pressure };
    let mut progress = Progress::new(observer);
    for note in &plan.notes {
        progress.note(note.as_str());
    }

    // 1 to 3 are the request, its validation and the plan, which has come in.
    // 4 to 8. What conditions the clip. 9 and 10. Noise, and the sampling loop. Both are skipped when the finished latents of an
    // earlier run are there.
    let settings = latent_settings(plan, request, &model.loras);
    let finished = match &request.latents {
        Some(file) => kept::finished(file, &latent_shape(plan), &settings)?,
        None => None,
    };
    let mut keeper = Keeper::new(request, settings);
    let (latents, sampler, forwards) = match finished {
        Some(latents) => (latents, None, 0),
        None => {
            let conditions = clip.conditions(&mut progress)?;
            let (Position { sampler, latents }, forwards) = clip.sample(conditions, &mut keeper, &mut progress)?;
            (latents, Some(sampler), forwards)
        }
    };
    // 11 and 12. Latents to pixels, and pixels into the file. Hours may lie behind the latents: they outlive a failure.
    let (written, num_frames) = match clip.decode(&latents, &mut progress) {
        Ok(done) => done,
        Err(e) => return Err(keeper.keep_finished(e, sampler.as_ref(), &latents)),
    };
    keeper.done();

    let audio = written.as_ref().map(|w| w.audio);
    Ok(Report {
        output: written.map(|w| w.path),
        width: plan.width,
        height: plan.height,
        num_frames,
        fps: plan.fps,
        seed: plan.seed,
        forwards,
        has_audio: matches!(audio, Some(AudioOutcome::Copied | AudioOutcome::Encoded)),
        seconds: started.elapsed().as_secs_f64(),
        memory: phase_memory(plan, &progress),
        phase_seconds: progress.seconds,
        replans: progress.replans,
        predicted_peak_bytes: plan.stages.main_budget_and_peak().1,
        peak_rss_bytes: offload::peak_rss_bytes(),
    })
}

/// What was predicted and what was measured.
fn phase_memory(plan: &AnimatePlan, progress: &Progress) -> Vec<PhaseMemory> {
    let measured = |phase| progress.peaks.iter().rev().find(|(p, _)| *p == phase).map(|(_, bytes)| *bytes);
    let of = |p: &PhasePlan| PhaseMemory {
        phase: p.phase,
        placement: p.placement.to_string(),
        way: p.way.how.to_string(),
        predicted_bytes: p.ram_peak_bytes,
        measured_bytes: measured(p.phase),
    };
    plan.stages.phases.iter().map(of).collect()
}

impl Clip<'_> {
    /// Runs a phase as planned, and in smaller ways when memory runs out.
    fn on_rungs<T>(
        &self,
        phase: Phase,
        progress: &mut Progress,
        mut attempt: impl FnMut(&Running, &mut Progress) -> Result<T, PipelineError>,
    ) -> Result<T, PipelineError> {
        let plan = &self.resolved.plan;
        let first = Rung::of(&plan.stages, plan.activations, phase);
        self.pressure.run(phase, first, progress, |rung, progress| {
            let running = Running { phase, rung, memory: self.pressure.memory.of(rung.on) };
            (0, running.counted().and_then(|_working| attempt(&running, progress)))
        })
    }

    /// How the VAE cuts pictures of the clip's size.
    fn tiles(&self, tile: Option<vae::Tile>) -> Result<vae::Tiles, PipelineError> {
        let plan = &self.resolved.plan;
        vae::Tiles::new(&self.model.blueprint.vae, plan.height, plan.width, tile)
            .map_err(|e| RequestError::VaeTile(e).into())
    }

    fn conditions(&self, progress: &mut Progress) -> Result<Conditions, PipelineError> {
        let Clip { model, request, resolved, .. } = *self;
        let plan = &resolved.plan;
        let clip = [plan.width, plan.height];

        // 4. Reference picture, poses, and the first pose frame; later frames are drawn or read when the VAE takes them.
        progress.begin(Phase::Pose, resolved.motion.work())?;
        let picture = media::image::read_rgb(&request.reference).map_err(PipelineError::Media)?;
        let on = plan.stages.phase(Phase::Pose).map_or(Place::Cpu, |p| p.on);
        let gpu = self.pressure.memory.of(on).gpu();
        let found = resolved.motion.ready(request, self.poses, &picture, gpu, progress);
        let motion = match found {
            // The networks let go of all that they had there.
            Err(PipelineError::Pose(error))
                if error.is_out_of_gpu_memory() && self.pressure.policy != OnPressure::Fail =>
            {
                progress.replanned(format!("{error}; poses are found on the CPU"));
                resolved.motion.ready(request, self.poses, &picture, None, progress)?
            }
            found => found?,
        };
        let first_pose = match motion.frames(Side::Positive, resolved.geometry)?.next() {
            Some(frame) => frame?,
            None => return Err(PipelineError::Media(media::MediaError::NoFrames { path: request.reference.clone() })),
        };
        progress.end()?;
        if let Some(folder) = &request.debug_dir {
            self.show_poses(folder, &motion, &picture, progress)?;
        }
        let reference = resolved.geometry.cropped(picture);

        // 5. Prompts. The negative one is only needed when a branch of the guidance has it.
        let needs_negative_text = uses(&plan.guidance, |b| b.text == Polarity::Negative);
        let (text_embeds, neg_text_embeds) = self.on_rungs(Phase::TextEncode, progress, |running, progress| {
            let layers = model.blueprint.text_encoder.num_layers;
            progress.begin(Phase::TextEncode, layers)?;
            let mut prompts = vec![request.prompt.as_str()];
            let negative = negative_prompt(request);
            if needs_negative_text {
                prompts.push(negative);
            }
            let ids = prompts
                .iter()
                .map(|p| model.tokenizer.encode(p, model.blueprint.dit.text_len.min(umt5::MAX_TOKENS)))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| PipelineError::Model { path: "tokenizer".into(), problem: e.to_string() })?;
            let ids: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            let encoded = running
                .placed(&model.text_encoder)
                .and_then(|source| umt5::Encoder::new(&model.blueprint.text_encoder, source))
                .map(|net| match running.memory.gpu() {
                    Some(gpu) => net.on_gpu(gpu.clone()),
                    None => net,
                })
                .and_then(|net| net.encode_all(&ids, &mut |done, _| progress.set(done).map_err(stop)));
            let mut encoded = encoded.map_err(|e| progress.explain(|| "text encoder".into(), e))?.into_iter();
            progress.end()?;
            let row = |t: Option<Tensor>| t.map(|t| t.squeeze(0)).transpose();
            let rows = row(encoded.next()).and_then(|a| Ok((a, row(encoded.next())?)));
            let (positive, negative) = rows.map_err(|e| progress.explain(|| "text encoder".into(), e))?;
            let Some(positive) = positive else {
                return Err(PipelineError::from_compute("text encoder".into(), candle_core::Error::msg("no output")));
            };
            Ok((positive, negative))
        })?;
        progress.tensor("text_embeds", &text_embeds);
        if let Some(t) = &neg_text_embeds {
            progress.tensor("neg_text_embeds", t);
        }

        // 7. Image tokens of the reference and of the first pose.
        let (ref_image_embeds, pose_image_embeds) =
            self.on_rungs(Phase::ImageEncode, progress, |running, progress| {
                let config = &model.blueprint.image_encoder;
                progress.begin(Phase::ImageEncode, 2)?;
                let net = running
                    .placed(&model.image_encoder)
                    .and_then(|source| clip::VisionTower::new(config, source))
                    .map(|net| match running.memory.gpu() {
                        Some(gpu) => net.on_gpu(gpu.clone()),
                        None => net,
                    })
                    .map_err(|e| progress.explain(|| "image encoder".into(), e))?;
                let mut encode = |image, what: &str| -> Result<Tensor, PipelineError> {
                    let input = pixels::clip_pixels(image, config.image_size)?;
                    let tokens =
                        net.forward(&input).map_err(|e| progress.explain(|| format!("image encoder, {what}"), e))?;
                    progress.advance(1)?;
                    Ok(tokens)
                };
                let pair = (encode(&reference, "reference")?, encode(&first_pose, "first pose")?);
                progress.end()?;
                Ok(pair)
            })?;
        progress.tensor("ref_image_embeds", &ref_image_embeds);
        progress.tensor("pose_image_embeds", &pose_image_embeds);

        // 8. Latents of the reference followed by grey, of the poses, and of their negative twins.
        let needs_negative_pose = uses(&plan.guidance, |b| b.pose == Polarity::Negative);
        let conditions = self.on_rungs(Phase::VaeEncode, progress, |running, progress| {
            let clips_to_encode = if needs_negative_pose { 3 } else { 2 };
            let tiles = self.tiles(running.rung.activations.encode_tile)?;
            progress.begin(Phase::VaeEncode, clips_to_encode * tiles.len() * plan.num_frames)?;
            let net = running
                .placed(&model.vae)
                .and_then(|source| clips::encoder(&model.blueprint.vae, source, running.memory.gpu()))
                .map_err(|e| progress.explain(|| "VAE encoder".into(), e))?;
            let reference = pixels::vae_pixels(&reference, clip)?;
            let grey = Tensor::zeros_like(&reference).map_err(|e| progress.explain(|| "VAE encoder".into(), e))?;
            let grey = || std::iter::repeat_with(|| Ok(grey.clone()));
            let still = || Ok(std::iter::once(Ok(reference.clone())).chain(grey()));
            let image_latents = clips::encode(&net, &tiles, still, plan.num_frames, progress)?;
            let mut encode_side = |side| {
                let poses = || {
                    let frames = motion.frames(side, resolved.geometry)?;
                    Ok(frames.map(|frame| pixels::vae_pixels(&frame?, clip)))
                };
                clips::encode(&net, &tiles, poses, plan.num_frames, progress)
            };
            let pose_latents = encode_side(Side::Positive)?;
            let neg_pose_latents = if needs_negative_pose { Some(encode_side(Side::Negative)?) } else { None };
            progress.end()?;
            // The encoder is causal and takes the first frame alone: a picture's latent is its clip's first frame.
            let first =
                |t: &Tensor| t.narrow(1, 0, 1).map_err(|e| PipelineError::from_compute("VAE encoder".into(), e));
            let mask = frame_mask(plan.latent_frames, plan.height / LATENT, plan.width / LATENT, &Device::Cpu)
                .map_err(|e| PipelineError::from_compute("frame mask".into(), e))?;
            Ok(Conditions {
                text_embeds: text_embeds.clone(),
                neg_text_embeds: neg_text_embeds.clone(),
                ref_image_embeds: ref_image_embeds.clone(),
                pose_image_embeds: pose_image_embeds.clone(),
                ref_latents: first(&image_latents)?,
                pose_ref_latents: first(&pose_latents)?,
                image_latents,
                frame_mask: mask,
                pose_latents,
                neg_pose_latents,
            })
        })?;
        for (name, tensor) in [
            ("image_latents", &conditions.image_latents),
            ("frame_mask", &conditions.frame_mask),
            ("ref_latents", &conditions.ref_latents),
            ("pose_ref_latents", &conditions.pose_ref_latents),
            ("pose_latents", &conditions.pose_latents),
        ] {
            progress.tensor(name, tensor);
        }
        if let Some(t) = &conditions.neg_pose_latents {
            progress.tensor("neg_pose_latents", t);
        }
        Ok(conditions)
    }

    /// Writes what there is to see of the poses. Poses that came drawn have nothing to show but themselves.
    fn show_poses(
        &self,
        folder: &Path,
        motion: &ReadyMotion,
        picture: &RgbImage,
        progress: &mut Progress,
    ) -> Result<(), PipelineError> {
        let Some((frames, driving)) = motion.poses() else {
            progress.note("no contact sheet is written: drawn poses cannot be compared with the video they came from");
            return Ok(());
        };
        let fps = self.resolved.plan.fps;
        let drive = self.request.motion.drive();
        let name = drive.or(self.request.motion.file()).and_then(Path::file_name).unwrap_or_default();
        let preview = Preview {
            frames,
            video: drive,
            options: &ReadOptions::default(),
            driving,
            fps,
            reference: Some(picture),
            title: title(&name.to_string_lossy(), frames.report(), fps),
        };
        progress.begin(Phase::Preview, preview.len() + 1)?;
        let pending = PendingFolder::replacing(folder, preview::is_ours).map_err(PipelineError::Output)?;
        preview.report_files(pending.path(), &|| progress.check())?;
        progress.advance(1)?;
        preview.overlay(&pending.path().join(preview::OVERLAY), &mut || progress.advance(1))?;
        pending.commit().map_err(PipelineError::Output)?;
        progress.end()
    }

    /// Runs the loop over the conditions, which are dropped with it → `[16, F, h, w]`, and the number of forwards.
    fn sample(
        &self,
        conditions: Conditions,
        keeper: &mut Keeper,
        progress: &mut Progress,
    ) -> Result<(Position, usize), PipelineError> {
        let Clip { model, request, resolved, .. } = *self;
        let plan = &resolved.plan;

        // 9 and 10. Noise, and the sampling loop.
        progress.begin(Phase::Denoise, plan.forwards * model.blueprint.dit.num_layers)?;
        let shape = latent_shape(plan);
        let noise = match progress.observer().initial_noise() {
            Some(noise) if noise.dims() == shape => noise,
            Some(noise) => {
                let problem = format!("initial noise is {:?}; this clip needs {shape:?}", noise.dims());
                return Err(PipelineError::from_compute("noise".into(), candle_core::Error::msg(problem)));
            }
            None => scheduler::noise(shape.to_vec(), request.settings.seed, INITIAL_NOISE_STREAM, &Device::Cpu)
                .map_err(|e| PipelineError::from_compute("noise".into(), e))?,
        };
        progress.tensor("noise", &noise);
        let sampler = Sampler::new(plan.schedule.clone(), request.settings.seed);
        let scale = plan.schedule.initial_noise_scale();
        let scaled = if scale == 1.0 { Ok(noise) } else { noise * scale };
        let latents = scaled.map_err(|e| PipelineError::from_compute("noise".into(), e))?;
        let inputs = LoopInputs { conditions: &conditions, weights: model.dit.sketch() };
        let mut position = keeper.begin(&inputs, Position { sampler, latents })?;
        let done = position.sampler.next_step();
        if let Some(file) = keeper.resumed() {
            let (of, all) = (file.display(), plan.schedule.num_steps());
            progress.note(format!("steps 1 to {done} of {all} are those of an earlier run, kept in {of}"));
        }
        if let Some(why) = keeper.passed_over() {
            progress.note(format!("{why}; it is left alone and all steps are made"));
        }
        let first = Rung::of(&plan.stages, plan.activations, Phase::Denoise);
        let result = self.pressure.run(Phase::Denoise, first, progress, |rung, progress| {
            let memory = self.pressure.memory.of(rung.on);
            let running = Running { phase: Phase::Denoise, rung, memory };
            let result = running
                .counted()
                .and_then(|_working| self.go_on(&running, &conditions, &mut position, keeper, progress));
            (position.sampler.next_step(), result)
        });
        if let Err(e) = result {
            return Err(keeper.keep_position(e, &position));
        }
        progress.end()?;
        Ok((position, (done..plan.schedule.num_steps()).map(|step| plan.guidance.forwards(step)).sum()))
    }

    /// The loop from the step that the sampler stands before.
    fn go_on(
        &self,
        running: &Running,
        conditions: &Conditions,
        Position { sampler, latents }: &mut Position,
        keeper: &mut Keeper,
        progress: &mut Progress,
    ) -> Result<(), PipelineError> {
        let (model, plan) = (self.model, &self.resolved.plan);
        let done: usize = (0..sampler.next_step()).map(|step| plan.guidance.forwards(step)).sum();
        progress.set(done * model.blueprint.dit.num_layers)?;
        let net = running
            .placed(&model.dit)
            .and_then(|source| Dit::new(&model.blueprint.dit, source))
            .and_then(|net| match running.memory.gpu() {
                Some(gpu) => net.on_gpu(gpu.clone(), plan.attention),
                None => Ok(net),
            })
            .map_err(|e| progress.explain(|| "dit".into(), e))?;
        let mut watch = LoopWatch {
            progress,
            keeper,
            plan,
            memory: running.memory,
            layers: model.blueprint.dit.num_layers,
            step_started: Instant::now(),
            place: "dit".into(),
            not_finite: false,
        };
        let activations = running.rung.activations;
        let run = Denoise { dit: &net, conditions, guidance: &plan.guidance, activations };
        let result = go_on(&run, sampler, latents, &mut watch);
        let (place, not_finite) = (watch.place, watch.not_finite);
        result.map_err(|e| match not_finite {
            true => PipelineError::NotFinite { place },
            false => progress.explain(|| place, e),
        })
    }

    /// `latents` `[16, F, h, w]` → the file, if one was asked for, and the number of frames.
    fn decode(&self, latents: &Tensor, progress: &mut Progress) -> Result<(Option<Written>, usize), PipelineError> {
        self.on_rungs(Phase::Decode, progress, |running, progress| self.decode_on(running, latents, progress))
    }

    fn decode_on(
        &self,
        running: &Running,
        latents: &Tensor,
        progress: &mut Progress,
    ) -> Result<(Option<Written>, usize), PipelineError> {
        let Clip { model, request, resolved, .. } = *self;

        // 11 and 12. Latents to pixels, chunk by chunk in time, straight into the file.
        let plan = &resolved.plan;
        // Tiles are all computed before the first frame is there.
        let tile = running.rung.activations.decode_tile;
        let tiles = self.tiles(tile)?.len();
        progress.begin(Phase::Decode, if tiles > 1 { tiles * plan.latent_frames } else { plan.num_frames })?;
        let net = running
            .placed(&model.vae)
            .and_then(|source| clips::decoder(&model.blueprint.vae, source, running.memory.gpu()))
            .map_err(|e| progress.explain(|| "VAE decoder".into(), e))?;
        let mut writer = match &request.output {
            Some(path) => {
                Some(VideoWriter::create(path, &writer_options(request, resolved)?).map_err(PipelineError::Output)?)
            }
            None => None,
        };
        let mut index = 0;
        clips::decode(&net, latents, tile, progress, &mut |chunk, progress| {
            progress.tensor("video", chunk);
            let explain = |e| PipelineError::from_compute("VAE decoder".into(), e);
            for i in 0..chunk.dim(1).map_err(explain)? {
                let frame = chunk.narrow(1, i, 1).and_then(|f| f.squeeze(1)).map_err(explain)?;
                let frame = pixels::picture(&frame).map_err(explain)??;
                progress.observer().frame(index, &frame);
                if let Some(writer) = &mut writer {
                    writer.write(&frame).map_err(PipelineError::Output)?;
                }
                index += 1;
                if tiles > 1 { progress.check()? } else { progress.advance(1)? }
            }
            Ok(())
        })?;
        let written = writer.map(VideoWriter::finish).transpose().map_err(PipelineError::Output)?;
        progress.end()?;
        match written.as_ref().map(|w| w.audio) {
            Some(AudioOutcome::ContainerCannot) => {
                progress.note("this kind of output cannot hold sound; it has none");
            }
            Some(AudioOutcome::NoCodec) => {
                progress.note("FFmpeg here cannot convert the driving video's sound; the clip has none");
            }
            _ => {}
        }
        Ok((written, index))
    }
}

/// The request's, or the customary one: an empty negative prompt means that too, as upstream.
pub(crate) fn negative_prompt(request: &AnimateRequest) -> &str {
    let given = request.negative_prompt.as_deref().filter(|p| !p.trim().is_empty());
    given.unwrap_or(umt5::DEFAULT_NEGATIVE_PROMPT_I2V)
}

/// Stops a network from inside; [`Progress::explain`] knows that it was a wish to stop.
fn stop(_: PipelineError) -> candle_core::Error {
    candle_core::Error::Msg("cancelled".into())
}

fn writer_options(request: &AnimateRequest, resolved: &Resolved) -> Result<WriterOptions, PipelineError> {
    let plan = &resolved.plan;
    let fps = FrameRate::from_f64(plan.fps).map_err(PipelineError::Output)?;
    let mut options = WriterOptions::new(plan.width as u32, plan.height as u32, fps);
    options.crf = Some(request.crf);
    if let (Audio::Keep, Some(drive)) = (request.audio, request.motion.drive())
        && drive.is_file()
    {
        options.audio = Some(AudioSource { path: drive.to_owned(), start_s: 0.0 });
    }
    if request.metadata {
        options.comment = Some(metadata(&resolved.plan, request));
    }
    Ok(options)
}

struct LoopWatch<'a, 'b, 'c> {
    progress: &'a mut Progress<'b>,
    keeper: &'a mut Keeper<'c>,
    plan: &'a AnimatePlan,
    memory: &'a Arc<dyn DeviceMemory>,
    /// Blocks of the transformer.
    layers: usize,
    step_started: Instant,
    /// Where the loop is, for error messages.
    place: String,
    not_finite: bool,
}

impl LoopWatch<'_, '_, '_> {
    fn check_finite(&mut self, place: String, tensor: &Tensor) -> candle_core::Result<()> {
        // A sum is finite unless an element is not (or magnitudes reach 1e38, which is as wrong).
        let finite = tensor.sum_all()?.to_scalar::<f32>()?.is_finite();
        self.place = place;
        self.not_finite = !finite;
        if finite { Ok(()) } else { Err(candle_core::Error::Msg("not finite".into())) }
    }
}

impl Watch for LoopWatch<'_, '_, '_> {
    fn block(&mut self, step: usize, block: usize, output: &Tensor) -> candle_core::Result<()> {
        let total = self.plan.schedule.num_steps();
        self.check_finite(format!("dit, block {block}, step {}/{total}", step + 1), output)?;
        self.progress.advance(1).map_err(stop)
    }

    fn blocks(&mut self, count: usize) -> candle_core::Result<()> {
        self.progress.advance(count).map_err(stop)
    }

    fn position(&mut self, sampler: &Sampler, latents: &Tensor) {
        if let Err(problem) = self.keeper.after_step(sampler, latents) {
            self.progress.note(format!("the steps done cannot be kept ({problem}); the clip goes on"));
        }
    }

    fn step(&mut self, step: usize, velocity: &Tensor, latents: &Tensor) -> candle_core::Result<()> {
        let schedule = &self.plan.schedule;
        self.check_finite(format!("sampler, step {}/{}", step + 1, schedule.num_steps()), latents)?;
        self.progress.tensor("velocity", velocity);
        // The last of a GPU's blocks are not told of by themselves.
        if self.memory.gpu().is_some() {
            let done: usize = (0..=step).map(|step| self.plan.guidance.forwards(step)).sum();
            self.progress.set(done * self.layers).map_err(stop)?;
        }
        let event = crate::Event::Step {
            step: step + 1,
            total: schedule.num_steps(),
            timestep: schedule.timesteps()[step],
            sigma: schedule.sigmas()[step],
            forwards: self.plan.guidance.forwards(step),
            seconds: self.step_started.elapsed().as_secs_f64(),
        };
        self.step_started = Instant::now();
        self.progress.observer().event(&event);
        self.progress.observer().latents(step + 1, latents);
        // Whoever has taken memory meanwhile is told of here, where the loop can go on from.
        self.place = format!("dit, after step {}/{}", step + 1, schedule.num_steps());
        self.memory.check().map_err(DeviceError::into_candle)?;
        self.progress.check().map_err(stop)
    }
}
