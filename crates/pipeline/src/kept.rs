//! Finished latents that outlive a failure after them, and the way back in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use weights::Checkpoint;

use crate::{AnimateRequest, PipelineError};

/// Where the file's metadata holds the settings of the run.
const SETTINGS: &str = "settings";
/// Name of the tensor in the file.
const NAME: &str = "latents";

/// Saves `latents` `[16, F, h, w]` beside the output, or in the system's temporary folder when that cannot be written,
/// and tells so in the error. Where nothing can be written, the error stays as it is.
pub(crate) fn keep(error: PipelineError, latents: &Tensor, request: &AnimateRequest, settings: &str) -> PipelineError {
    let stem = request.output.as_ref().and_then(|o| o.file_stem()).unwrap_or("clip".as_ref());
    let name = format!("{}.latents.safetensors", stem.to_string_lossy());
    let beside = request.output.as_ref().and_then(|o| o.parent()).map(|folder| folder.join(&name));
    // The process id keeps runs apart that fail at the same time.
    let elsewhere = std::env::temp_dir().join(format!("{}-{name}", std::process::id()));
    let saved = |path: &PathBuf| {
        let tensors = BTreeMap::from([(NAME.to_owned(), latents.clone())]);
        let metadata = BTreeMap::from([(SETTINGS.to_owned(), settings.to_owned())]);
        weights::save_safetensors(path, &tensors, &metadata).is_ok()
    };
    // Latents of another run that failed are not replaced.
    let candidates = beside.into_iter().chain([elsewhere]).filter(|path| !path.exists());
    match candidates.into_iter().find(saved) {
        Some(latents) => PipelineError::AfterDenoise { source: Box::new(error), latents },
        None => error,
    }
}

/// Opens latents that [`keep`] saved and checks that they are of a clip of this shape and these settings.
///
/// # Errors
/// The file cannot be read, or its latents are of a clip of another size or length.
pub(crate) fn open(file: &Path, shape: [usize; 4], settings: &str) -> Result<Checkpoint, PipelineError> {
    let unusable = |problem: String| PipelineError::Latents { path: file.to_owned(), problem };
    let checkpoint = Checkpoint::open(file).map_err(|e| unusable(format!("no latents of an earlier run ({e})")))?;
    let found = checkpoint.shape(NAME).map(<[usize]>::to_vec);
    if found.as_deref() != Some(&shape) {
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

/// Reads them, `[16, F, h, w]` f32.
///
/// # Errors
/// As [`open`].
pub(crate) fn read(file: &Path, shape: [usize; 4], settings: &str) -> Result<Tensor, PipelineError> {
    let latents = open(file, shape, settings)?.load(NAME, &shape, Some(DType::F32), &Device::Cpu);
    latents.map_err(|e| PipelineError::from_compute("latents".into(), e))
}
