//! Which models are here, and which would run.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;

use ::models::KnownModel;
use image::{Rgb, RgbImage};
use offload::{Machine, Memory};
use serde::Serialize;
use weights::hub::Cache;

use super::DoctorOptions;
use crate::{
    AnimatePlan, AnimateRequest, Engine, EngineOptions, ModelOverrides, ModelSource, Motion, PipelineError, Settings,
    StoredModel, plan_known,
};

/// A model that makes clips.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostedModel {
    /// Its name.
    pub name: String,
    /// For people.
    pub title: String,
    /// Whether it is inside the program.
    pub embedded: bool,
    /// Whether all of it is here.
    pub here: bool,
    /// Bytes of its files, where every one's size is known.
    pub size_bytes: Option<u64>,
    /// Whether it would run; `None` for a model of one's own that is not here, whose shapes are not known.
    pub verdict: Option<Verdict>,
}

/// What the plan of a clip with a model's own settings says.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// It fits the memory.
    Fits {
        /// Width and height of the clip that was planned, in pixels.
        size: [usize; 2],
        /// Its frames.
        num_frames: usize,
        /// The largest predicted peak, in bytes.
        peak_bytes: u64,
        /// Phases whose weights are read from the file as they are used.
        streamed: Vec<String>,
    },
    /// It does not, or a file cannot be used.
    Refused {
        /// Why, and what would do.
        problem: String,
    },
}

/// Names of models that are complete in the cache, of whatever kind.
pub(super) fn complete(models: &[KnownModel], cache: &Cache) -> Vec<String> {
    models.iter().filter(|m| StoredModel::find(m, cache, None).is_some()).map(|m| m.name.clone()).collect()
}

/// All that make clips.
pub(super) fn hosted(options: &DoctorOptions, cache: &Cache, memory: &Memory) -> Vec<HostedModel> {
    // Packagings of one form, planned with one preset, have one plan.
    let mut planned: HashMap<(&str, Option<&str>), Verdict> = HashMap::new();
    let mut told = Vec::new();
    for known in options.models.iter().filter(|m| m.animates()) {
        let stored = StoredModel::find(known, cache, None);
        let embedded = known.repository.is_empty();
        let verdict = match &stored {
            _ if embedded => Some(Verdict::of(plan_of(&ModelSource::Demo, known, &options.engine))),
            Some(stored) => {
                let files = stored.model_files(&ModelOverrides::default());
                Some(Verdict::of(files.and_then(|f| plan_of(&ModelSource::Files(f), known, &options.engine))))
            }
            None if known.is_built_in() => {
                let form = (known.format.as_str(), known.preset.as_deref());
                let plan = || Verdict::of(plan_published(known, memory, &options.engine));
                Some(planned.entry(form).or_insert_with(plan).clone())
            }
            None => None,
        };
        told.push(HostedModel {
            name: known.name.clone(),
            title: known.title.clone(),
            embedded,
            here: embedded || stored.is_some(),
            size_bytes: known.size_bytes(),
            verdict,
        });
    }
    told
}

/// The plan of a published model from its shapes alone.
fn plan_published(known: &KnownModel, memory: &Memory, options: &EngineOptions) -> Result<AnimatePlan, PipelineError> {
    plan_known(&known.name, &template(known, Path::new(""))?, &Machine::cpu(*memory), options)
}

impl Verdict {
    fn of(plan: Result<AnimatePlan, PipelineError>) -> Self {
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => return Self::Refused { problem: error.to_string() },
        };
        let streamed = plan.stages.phases.iter().filter(|p| p.placement.is_streamed());
        Self::Fits {
            size: [plan.width, plan.height],
            num_frames: plan.num_frames,
            peak_bytes: plan.stages.main_budget_and_peak().1,
            streamed: streamed.map(|p| p.phase.to_string()).collect(),
        }
    }
}

/// The plan of a model whose files are here, for a grey picture and empty poses in a temporary folder: as far as a plan
/// goes everything is as in a run, which needs that folder too.
fn plan_of(source: &ModelSource, known: &KnownModel, options: &EngineOptions) -> Result<AnimatePlan, PipelineError> {
    let place = std::env::temp_dir();
    let refused = |problem: &dyn Display| PipelineError::Model {
        path: place.clone(),
        problem: format!("no temporary files can be made there ({problem}); name another folder in TMPDIR"),
    };
    let folder = tempfile::tempdir_in(&place).map_err(|e| refused(&e))?;
    let request = template(known, folder.path())?;
    let [width, height] = request.settings.default_size.map(|side| side as u32);
    RgbImage::from_pixel(width, height, Rgb([128; 3])).save(&request.reference).map_err(|e| refused(&e))?;
    if let Motion::Drawn { pose, .. } = &request.motion {
        std::fs::create_dir(pose).map_err(|e| refused(&e))?;
        for frame in 0..request.settings.default_num_frames {
            std::fs::copy(&request.reference, pose.join(format!("{frame:04}.png"))).map_err(|e| refused(&e))?;
        }
    }
    Engine::open(source, options)?.plan(&request)
}

/// A clip with the settings that a model is made for, of inputs in a folder.
fn template(known: &KnownModel, folder: &Path) -> Result<AnimateRequest, PipelineError> {
    let preset = known.preset.as_deref().unwrap_or("official");
    let preset = ::models::preset(preset)
        .map_err(|e| PipelineError::Model { path: known.name.clone().into(), problem: e.to_string() })?;
    let settings = Settings::from_preset(&preset)?;
    let motion = Motion::Drawn { pose: folder.join("pose"), neg_pose: None, drive: None };
    Ok(AnimateRequest::new(folder.join("reference.png"), motion, settings))
}
