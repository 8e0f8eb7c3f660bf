//! What outlives a run that does not come to its end: finished latents, or the loop after its last whole step; and the way back in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use scheduler::{NamedTensor, Sampler, SamplerState, StateHeader};
use sha2::{Digest, Sha256};
use weights::Checkpoint;

use crate::denoise::Conditions;
use crate::{AnimateRequest, PipelineError};

/// Where the file's metadata holds the settings of the run.
const SETTINGS: &str = "settings";
/// Where they hold the hash of what goes into the loop.
const INPUTS: &str = "inputs";
/// Where they hold the sampler's position.
const SAMPLER: &str = "sampler";
/// Name of the tensor in the file.
const NAME: &str = "latents";
/// What the names of the sampler's tensors begin with.
const MEMORY: &str = "sampler.";

/// A loop between two steps.
pub(crate) struct Position {
    pub sampler: Sampler,
    /// `[16, F, h, w]` f32.
    pub latents: Tensor,
}

/// The file in which a run keeps what it has computed.
pub(crate) struct Keeper<'a> {
    request: &'a AnimateRequest,
    settings: String,
    inputs: String,
    /// The file of this run, once there is one.
    file: Option<PathBuf>,
    /// Whether the file is this run's own, and goes with its success.
    ours: bool,
    began: Instant,
    saved: Instant,
    /// Whether steps of an earlier run are in it.
    resumed: bool,
    /// A file that lies where this run's would, and why it is not gone on from.
    passed_over: Option<String>,
}

impl<'a> Keeper<'a> {
    /// For a run of these `latent_settings`.
    pub fn new(request: &'a AnimateRequest, settings: String) -> Self {
        let now = Instant::now();
        Self {
            request,
            settings,
            inputs: String::new(),
            file: None,
            ours: false,
            began: now,
            saved: now,
            resumed: false,
            passed_over: None,
        }
    }

    /// Where the loop begins: as `fresh` with these inputs, or where an earlier run with the same left off. The latter is in the
    /// named file, which must fit, or in the file that a run with this output leaves, which may.
    ///
    /// # Errors
    /// The named file is of other inputs or cannot be read.
    pub fn begin(&mut self, inputs: &LoopInputs, fresh: Position) -> Result<Position, PipelineError> {
        self.inputs = inputs.fingerprint(&fresh.latents)?;
        (self.began, self.saved) = (Instant::now(), Instant::now());
        let (shape, schedule) = (fresh.latents.dims().to_vec(), fresh.sampler.schedule().clone());
        let resume = |file: &Path| -> Result<Option<Position>, PipelineError> {
            let checkpoint = self.open(file, &shape)?;
            let unusable = |problem: String| PipelineError::Latents { path: file.to_owned(), problem };
            let Some(header) = checkpoint.metadata().get(SAMPLER) else { return Ok(None) };
            if checkpoint.metadata().get(INPUTS) != Some(&self.inputs) {
                return Err(unusable("its latents are of another picture, motion or model; give those of then".into()));
            }
            let header: StateHeader =
                serde_json::from_str(header).map_err(|e| unusable(format!("its sampler is damaged ({e})")))?;
            let read = |name: &str| {
                checkpoint
                    .load(name, &shape, Some(DType::F32), &Device::Cpu)
                    .map_err(|e| PipelineError::from_compute("latents".into(), e))
            };
            let names = checkpoint.entries().filter_map(|t| t.name.strip_prefix(MEMORY).map(str::to_owned));
            let tensors = names
                .map(|name| Ok(NamedTensor { tensor: read(&format!("{MEMORY}{name}"))?, name }))
                .collect::<Result<Vec<_>, PipelineError>>()?;
            let state = SamplerState { header, tensors };
            let sampler = Sampler::resume(schedule.clone(), &state, &Device::Cpu)
                .map_err(|e| unusable(format!("its sampler does not fit ({e})")))?;
            Ok(Some(Position { sampler, latents: read(NAME)? }))
        };
        let (found, ours) = match &self.request.latents {
            Some(file) => (resume(file)?.map(|position| (file.clone(), position)), false),
            // What lies there of its own may be of anything: it is taken if it fits, and left alone if not.
            None => {
                let beside = self.beside().filter(|file| file.is_file());
                let result = beside.map(|file| resume(&file).map(|found| Some((file, found?)))).transpose();
                self.passed_over = result.as_ref().err().map(ToString::to_string);
                (result.ok().flatten().flatten(), true)
            }
        };
        Ok(match found {
            Some((file, position)) => {
                (self.file, self.ours, self.resumed) = (Some(file), ours, true);
                position
            }
            None => fresh,
        })
    }

    /// The file that steps of an earlier run came from.
    pub fn resumed(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| self.resumed)
    }

    /// Why the file that lies where this run's would is left alone, if there is one and it does not fit.
    pub fn passed_over(&self) -> Option<&str> {
        self.passed_over.as_deref()
    }

    /// After a whole step: writes where the loop stands, if that was long ago.
    ///
    /// # Errors
    /// Why it cannot be written; the loop can go on.
    pub fn after_step(&mut self, sampler: &Sampler, latents: &Tensor) -> Result<(), String> {
        match self.request.snapshot_interval {
            Some(interval) if self.saved.elapsed() >= interval && self.request.output.is_some() => {
                self.save(Some(sampler), latents)
            }
            _ => Ok(()),
        }
    }

    /// The loop ended before its end: keeps where it stands, unless it is quickly had again, and tells so in the error.
    pub fn keep_position(&mut self, error: PipelineError, position: &Position) -> PipelineError {
        let Position { sampler, latents } = position;
        let worth = self.request.snapshot_interval.is_some_and(|interval| self.began.elapsed() >= interval);
        let done = sampler.next_step();
        if done == 0 || self.request.output.is_none() || (!worth && self.file.is_none()) {
            return error;
        }
        let steps = Some([done, sampler.schedule().num_steps()]);
        self.kept(error, steps, Some(sampler), latents)
    }

    /// Decoding or writing failed, or was stopped: keeps the finished latents, and tells so in the error.
    pub fn keep_finished(
        &mut self,
        error: PipelineError,
        sampler: Option<&Sampler>,
        latents: &Tensor,
    ) -> PipelineError {
        let worth = self.request.snapshot_interval.is_some_and(|interval| self.began.elapsed() >= interval);
        match error {
            // Who stops a short run does not want its remains.
            PipelineError::Cancelled { .. } if !worth && self.file.is_none() => error,
            error => self.kept(error, None, sampler, latents),
        }
    }

    /// The clip is written: what was kept of it goes.
    pub fn done(&self) {
        if let Some(file) = self.file.as_ref().filter(|_| self.ours) {
            // What stays there is taken for what it is by the next run.
            let _ = std::fs::remove_file(file);
        }
    }

    /// Where nothing can be written, the error stays as it is.
    fn kept(
        &mut self,
        error: PipelineError,
        steps: Option<[usize; 2]>,
        sampler: Option<&Sampler>,
        latents: &Tensor,
    ) -> PipelineError {
        match (self.save(sampler, latents), &self.file) {
            (Ok(()), Some(file)) => {
                let found_again = self.beside().as_ref() == Some(file) && sampler.is_some();
                PipelineError::Kept { source: Box::new(error), latents: file.clone(), steps, found_again }
            }
            _ => error,
        }
    }

    /// Writes the file, anew or for the first time: beside the output, or in the system's temporary folder when that cannot
    /// be written or something else has the name.
    fn save(&mut self, sampler: Option<&Sampler>, latents: &Tensor) -> Result<(), String> {
        let mut tensors = BTreeMap::from([(NAME.to_owned(), latents.clone())]);
        let mut metadata = BTreeMap::from([(SETTINGS.to_owned(), self.settings.clone())]);
        if let Some(sampler) = sampler {
            let state = sampler.state().map_err(|e| e.to_string())?;
            let header = serde_json::to_string(&state.header).map_err(|e| e.to_string())?;
            metadata.extend([(SAMPLER.to_owned(), header), (INPUTS.to_owned(), self.inputs.clone())]);
            tensors.extend(state.tensors.into_iter().map(|t| (format!("{MEMORY}{}", t.name), t.tensor)));
        }
        let write = |path: &Path| weights::save_safetensors(path, &tensors, &metadata).map_err(|e| e.to_string());
        // Its place may have gone meanwhile: then it is written as if for the first time.
        let rewritten = self.file.as_ref().filter(|_| self.ours).is_some_and(|file| write(file).is_ok());
        if !rewritten {
            // The process id keeps runs apart that fail at the same time.
            let elsewhere = std::env::temp_dir().join(format!("{}-{}", std::process::id(), self.name()));
            // Latents of another run are not replaced.
            let free = self.beside().into_iter().chain([elsewhere]).filter(|path| !path.exists());
            let mut result = Err("every name for it is taken".to_owned());
            let file = free.into_iter().find(|path| {
                result = write(path);
                result.is_ok()
            });
            result?;
            (self.file, self.ours) = (file, true);
        }
        self.saved = Instant::now();
        Ok(())
    }

    fn name(&self) -> String {
        let stem = self.request.output.as_ref().and_then(|o| o.file_stem()).unwrap_or("clip".as_ref());
        format!("{}.latents.safetensors", stem.to_string_lossy())
    }

    fn beside(&self) -> Option<PathBuf> {
        self.request.output.as_ref().and_then(|o| o.parent()).map(|folder| folder.join(self.name()))
    }

    fn open(&self, file: &Path, shape: &[usize]) -> Result<Checkpoint, PipelineError> {
        open(file, shape, &self.settings)
    }
}

/// Opens latents that were kept and checks that they are of a clip of this shape and these settings.
///
/// # Errors
/// The file cannot be read, or its latents are of a clip of another size or length.
pub(crate) fn open(file: &Path, shape: &[usize], settings: &str) -> Result<Checkpoint, PipelineError> {
    let unusable = |problem: String| PipelineError::Latents { path: file.to_owned(), problem };
    let checkpoint = Checkpoint::open(file).map_err(|e| unusable(format!("no latents of an earlier run ({e})")))?;
    let found = checkpoint.shape(NAME).map(<[usize]>::to_vec);
    if found.as_deref() != Some(shape) {
        let found = found.map_or_else(|| "no latents".to_owned(), |found| format!("latents of shape {found:?}"));
        return Err(unusable(format!(
            "it has {found}, this clip needs {shape:?}; give the inputs, size and frames of then"
        )));
    }
    if checkpoint.metadata().get(SETTINGS).map(String::as_str) != Some(settings) {
        let problem = "its latents are of a run with another seed, prompt, LoRA, pose or setting; give those of then";
        return Err(unusable(problem.to_owned()));
    }
    Ok(checkpoint)
}

/// Finished latents, `[16, F, h, w]` f32; `None` if the loop that made them did not come to its end.
///
/// # Errors
/// As [`open`].
pub(crate) fn finished(file: &Path, shape: &[usize], settings: &str) -> Result<Option<Tensor>, PipelineError> {
    let checkpoint = open(file, shape, settings)?;
    let header = checkpoint.metadata().get(SAMPLER).map(|text| serde_json::from_str::<StateHeader>(text));
    match header {
        Some(Ok(header)) if header.next_step < header.schedule.num_steps() => return Ok(None),
        Some(Err(e)) => {
            let problem = format!("its sampler is damaged ({e})");
            return Err(PipelineError::Latents { path: file.to_owned(), problem });
        }
        _ => {}
    }
    let latents = checkpoint.load(NAME, shape, Some(DType::F32), &Device::Cpu);
    latents.map(Some).map_err(|e| PipelineError::from_compute("latents".into(), e))
}

/// What a loop computes from, besides its noise and its settings.
pub(crate) struct LoopInputs<'a> {
    pub conditions: &'a Conditions,
    /// The transformer's [`sketch`](Checkpoint::sketch).
    pub weights: String,
}

impl LoopInputs<'_> {
    /// Tells whether two loops compute the same.
    fn fingerprint(&self, noise: &Tensor) -> Result<String, PipelineError> {
        let of = self.conditions;
        let all = [
            Some(noise),
            Some(&of.text_embeds),
            of.neg_text_embeds.as_ref(),
            Some(&of.ref_image_embeds),
            Some(&of.pose_image_embeds),
            Some(&of.image_latents),
            Some(&of.frame_mask),
            Some(&of.ref_latents),
            Some(&of.pose_ref_latents),
            Some(&of.pose_latents),
            of.neg_pose_latents.as_ref(),
        ];
        let mut hasher = Sha256::new();
        hasher.update(&self.weights);
        for tensor in all {
            let Some(tensor) = tensor else {
                hasher.update("none;");
                continue;
            };
            let values = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>());
            let values = values.map_err(|e| PipelineError::from_compute("conditions".into(), e))?;
            hasher.update(format!("{:?};", tensor.dims()));
            let mut bytes = Vec::with_capacity(4 << 14);
            for part in values.chunks(1 << 14) {
                bytes.clear();
                bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
                hasher.update(&bytes);
            }
        }
        Ok(crate::poses::hex(&hasher.finalize()))
    }
}
