//! From arguments and settings to a request, a model and its options. Opens no input.

use std::path::{Path, PathBuf};

use steadydance::convert::Form;
use steadydance::{
    Aliases, AnimateRequest, EngineOptions, KnownModel, Lora, ModelFiles, ModelOverrides, ModelSource, Motion, Part,
    PipelineError, RequestError, Settings, StoredModel, hub, preset,
};

use super::args::RunArgs;
use super::config::Config;
use super::failure::Failure;
use super::known;
use super::target;
use super::terminal::Terminal;
use super::values::{AttentionChoice, ComputeChoice, LoraValue, Numbers, Size, Values};

/// The model that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Model {
    /// The one inside the program.
    Demo,
    /// Files.
    Path(PathBuf),
    /// A published one, by its name.
    Known(Box<KnownModel>),
}

/// Everything that a run or a plan begins with.
pub struct Job {
    /// The settings in effect.
    pub values: Values,
    /// Which model.
    pub model: Model,
    /// How it is opened.
    pub options: EngineOptions,
    /// The form of the transformer that a word of another program stands for. Files keep their own.
    alias_dtype: Option<Form>,
    /// Numbers of the clip.
    settings: Settings,
    terminal: Terminal,
}

impl Job {
    /// Merges the layers of settings below the flags.
    ///
    /// # Errors
    /// Settings that cannot be understood.
    pub fn new(args: &RunArgs, terminal: Terminal) -> Result<Self, Failure> {
        Self::of(&args.values.given(), terminal)
    }

    /// The same for flags of another command.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(given: &Values, terminal: Terminal) -> Result<Self, Failure> {
        let values = Config::load(given, terminal)?.values;
        let model = find_model(values.model.as_deref().unwrap_or("demo"));
        let aliases = Aliases::from_env(|name| std::env::var(name).ok()).map_err(Failure::usage)?;
        for note in &aliases.notes {
            terminal.warning(note);
        }
        let memory = values.memory.flags().or(aliases.flags);
        memory.check().map_err(Failure::usage)?;
        let alias_dtype = aliases.dit_dtype.and_then(|name| name.parse::<Form>().ok());
        let alias_dtype = alias_dtype.filter(|_| values.memory.dit_dtype.is_none());
        let options = EngineOptions {
            device: values.device.clone().unwrap_or_default(),
            dtype: values.dtype,
            dit_dtype: values.memory.dit_dtype,
            text_dtype: values.memory.text_dtype,
            compute: values.compute.and_then(ComputeChoice::compute),
            attention: values.attention.and_then(AttentionChoice::attention),
            vae_dtype: values.memory.vae_dtype,
            memory,
            vae_tile: values.vae_tile,
            loras: values.lora.iter().flatten().map(known_lora).collect::<Result<_, _>>()?,
            poses: values.pose.finder(values.model_folder(), None),
        };
        let settings = settings(&values)?;
        Ok(Self { values, model, options, alias_dtype, settings, terminal })
    }

    /// Options for a plan from shapes, which take every form: also one that a word of another program stands for.
    pub fn options_for_shapes(&self) -> EngineOptions {
        let dit_dtype = self.options.dit_dtype.or(self.alias_dtype);
        EngineOptions { dit_dtype, ..self.options.clone() }
    }

    /// Where the model's files are.
    ///
    /// # Errors
    /// A part is missing, or only the name is known.
    pub fn source(&self) -> Result<ModelSource, Failure> {
        let v = &self.values;
        if let Some(form) = self.alias_dtype {
            self.terminal.warning(&format!(
                "the environment asks for a transformer in {form}; its file's own form is used (convert --to {form} writes another)"
            ));
        }
        match &self.model {
            Model::Demo => match [&v.vae, &v.text_encoder, &v.image_encoder, &v.tokenizer].into_iter().flatten().next()
            {
                Some(file) => Err(Failure::usage(format!(
                    "{}: the embedded demo model has its own parts; give --model PATH too, or leave this file out",
                    file.display()
                ))),
                None => Ok(ModelSource::Demo),
            },
            Model::Path(path) if is_a_name_of_nothing(path) => {
                Err(Failure::model(target::unknown(&path.to_string_lossy())))
            }
            Model::Path(path) => Ok(ModelSource::Files(ModelFiles::find(path, &self.overrides()?)?)),
            Model::Known(known) if !known.animates() => {
                let animating = known::models().iter().filter(|m| m.animates());
                let others: Vec<_> = animating.map(|m| m.name.as_str()).collect();
                Err(Failure::usage(format!(
                    "{} ({}) makes no clip; --model takes {}, or a PATH",
                    known.name,
                    known.title,
                    others.join(", ")
                )))
            }
            Model::Known(known) => {
                let cache = hub::Cache::from_env();
                match StoredModel::find(known, &cache, None) {
                    Some(stored) => Ok(ModelSource::Files(stored.model_files(&self.overrides()?)?)),
                    None => Err(target::not_here(known, &cache)),
                }
            }
        }
    }

    /// Parts that were named apart, by their files or as models that are here.
    fn overrides(&self) -> Result<ModelOverrides, Failure> {
        let part = |given: &Option<PathBuf>, part: Part, flag: &str| -> Result<Option<PathBuf>, Failure> {
            let Some(path) = given else { return Ok(None) };
            let known = path.to_str().map(|text| target::known_file(text, part, flag)).transpose()?.flatten();
            Ok(Some(known.unwrap_or_else(|| path.clone())))
        };
        let v = &self.values;
        Ok(ModelOverrides {
            vae: part(&v.vae, Part::Vae, "--vae")?,
            text_encoder: part(&v.text_encoder, Part::TextEncoder, "--text-encoder")?,
            image_encoder: part(&v.image_encoder, Part::ImageEncoder, "--image-encoder")?,
            tokenizer: part(&v.tokenizer, Part::Tokenizer, "--tokenizer")?,
        })
    }

    /// The request, its numbers checked.
    ///
    /// # Errors
    /// An input is not named, or a number is impossible.
    pub fn request(&self, args: &RunArgs) -> Result<AnimateRequest, Failure> {
        // Wrong numbers are reported before missing inputs, so that they can be tried out.
        self.template()?;
        let Some(reference) = args.reference.clone() else {
            return Err(Failure::usage("no picture of a person; give one with --ref PICTURE"));
        };
        let Some(motion) = motion(args) else {
            return Err(Failure::usage(
                "no motion; give --keypoints JSON, or drawn poses with --pose and --neg-pose, or --drive VIDEO",
            ));
        };
        let unused = match &motion {
            Motion::Drawn { .. } => args.values.values.pose.unused(true),
            Motion::Keypoints { .. } => args.values.values.pose.unused(false),
            _ => None,
        };
        if let Some(sentence) = unused {
            self.terminal.warning(&sentence);
        }
        let mut request = self.build(reference, motion);
        request.latents.clone_from(&args.latents);
        request.snapshot_interval = args.snapshot_interval.0;
        request.debug_dir.clone_from(&args.debug_dir);
        Ok(request)
    }

    /// A request without inputs, its numbers checked.
    ///
    /// # Errors
    /// A number is impossible.
    pub fn template(&self) -> Result<AnimateRequest, Failure> {
        let request = self.build(PathBuf::new(), unnamed_motion());
        request.validate()?;
        Ok(request)
    }

    /// A request that is only planned from shapes: inputs that are not named are taken to suit.
    ///
    /// # Errors
    /// A number is impossible.
    pub fn request_for_shapes(&self, args: &RunArgs) -> Result<AnimateRequest, Failure> {
        let reference = args.reference.clone().unwrap_or_default();
        let request = self.build(reference, motion(args).unwrap_or_else(unnamed_motion));
        request.validate()?;
        Ok(request)
    }

    fn build(&self, reference: PathBuf, motion: Motion) -> AnimateRequest {
        let v = &self.values;
        let mut request = AnimateRequest::new(reference, motion, self.settings.clone());
        request.prompt = v.prompt.clone().unwrap_or_default();
        request.negative_prompt = v.negative_prompt.clone();
        request.pose = v.pose.settings();
        request.audio = v.audio.unwrap_or_default();
        request.crf = v.crf.unwrap_or(request.crf);
        request.metadata = v.metadata.unwrap_or(request.metadata);
        request
    }
}

/// What the engine said about a request. Errors in keypoints do not know their file: a library may have them from elsewhere.
pub fn explain(error: PipelineError, request: &AnimateRequest) -> Failure {
    match (&error, &request.motion) {
        (PipelineError::Pose(_), Motion::Keypoints { file, .. }) => Failure::from(error).about(file),
        _ => error.into(),
    }
}

/// Keypoints bring pose guidance with them, as a full run has.
fn unnamed_motion() -> Motion {
    Motion::Keypoints { file: PathBuf::new(), drive: None }
}

fn motion(args: &RunArgs) -> Option<Motion> {
    let drive = args.drive.clone();
    if let Some(file) = args.keypoints.clone() {
        return Some(Motion::Keypoints { file, drive });
    }
    if let Some(pose) = args.pose.clone() {
        return Some(Motion::Drawn { pose, neg_pose: args.neg_pose.clone(), drive });
    }
    drive.map(|drive| Motion::Video { drive })
}

pub(super) fn find_model(name: &str) -> Model {
    if name == "demo" {
        return Model::Demo;
    }
    // A folder that happens to have the name of a published model is that model's folder.
    match known::find(name) {
        Some(known) if !Path::new(name).exists() => Model::Known(Box::new(known.clone())),
        _ => Model::Path(name.into()),
    }
}

/// Whether a path is a single word without an ending, and there is nothing: a name that was misspelt.
fn is_a_name_of_nothing(path: &Path) -> bool {
    let word = path.components().count() == 1 && path.file_name().is_some_and(|n| n == path.as_os_str());
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    word && !["safetensors", "json", "pth", "pt", "gguf", "onnx"].contains(&ending) && !path.exists()
}

/// A LoRA by its file, or as a model that is here.
fn known_lora(value: &LoraValue) -> Result<Lora, Failure> {
    let known = target::known_file(&value.file, Part::Lora, "--lora")?;
    Ok(known.map_or_else(|| value.lora(), |file| Lora::file(file, value.strength)))
}

fn settings(values: &Values) -> Result<Settings, Failure> {
    let mut s = Settings::from_preset(&preset(values.preset.as_deref().unwrap_or("official"))?)?;
    s.size_rule = values.size_rule.unwrap_or_default();
    if let Some(profile) = values.memory.quality_profile {
        s = s.with_quality(profile);
    }
    if let Some(Size(size)) = values.size {
        (s.size, s.size_rule) = (Some(size), values.size_rule.unwrap_or_default());
    }
    s.num_frames = values.num_frames;
    s.sigmas = values.sigmas.clone().map(|Numbers(sigmas)| sigmas);
    s.timing = values.timing.unwrap_or_default();
    s.fps = values.fps.unwrap_or(s.fps);
    s.num_inference_steps = values.steps.unwrap_or(s.num_inference_steps);
    s.sampler = values.sampler.unwrap_or(s.sampler);
    s.shift = values.shift.unwrap_or(s.shift);
    s.guidance_scale = values.guidance_scale.unwrap_or(s.guidance_scale);
    s.pose_guidance_scale = values.pose_guidance_scale.unwrap_or(s.pose_guidance_scale);
    s.seed = values.seed.unwrap_or(s.seed);
    if let Some([start, end]) = values.pose_guidance_interval.as_ref().map(|n| n.0.as_slice()) {
        s.pose_guidance_interval = [*start, *end];
    }
    Ok(s)
}

/// The output's path: what was asked for, or `<picture>-dance.mp4` in the current folder.
///
/// # Errors
/// It is an input, or it exists and `--force` was not given.
pub fn output(args: &RunArgs, request: &AnimateRequest) -> Result<PathBuf, Failure> {
    let output = args.output.clone().unwrap_or_else(|| {
        let stem = request.reference.file_stem().map(|s| s.to_string_lossy().into_owned());
        PathBuf::from(format!("{}-dance.mp4", stem.unwrap_or_else(|| "clip".to_owned())))
    });
    let inputs = [args.reference.as_ref(), args.drive.as_ref(), args.pose.as_ref(), args.neg_pose.as_ref()];
    for input in inputs.into_iter().chain([args.keypoints.as_ref()]).flatten() {
        if same_file(&output, input) {
            return Err(RequestError::OutputIsInput { output, input: input.clone() }.into());
        }
    }
    // An empty folder is as good as none: a folder of PNGs may take its place.
    let empty_folder = output.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if output.symlink_metadata().is_ok() && !empty_folder && !args.force {
        return Err(Failure::usage(format!(
            "{}: exists already; replace it with --force, or choose another name with -o",
            output.display()
        )));
    }
    Ok(output)
}

pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_models_and_the_rest_are_paths() {
        assert_eq!(find_model("demo"), Model::Demo);
        assert!(matches!(find_model("steadydancer-14b"), Model::Known(_)));
        assert_eq!(find_model("no/such"), Model::Path("no/such".into()));
    }

    #[test]
    fn values_reach_the_settings() {
        let mut values = Values { size: "64x32".parse().ok(), sigmas: "1,0.5,0".parse().ok(), ..Values::defaults() };
        values.pose_guidance_interval = "0.2,0.3".parse().ok();
        values.preset = Some("distill-4step".to_owned());
        let s = settings(&values).unwrap();
        assert_eq!((s.size, s.sigmas), (Some([64, 32]), Some(vec![1.0, 0.5, 0.0])));
        assert_eq!((s.num_inference_steps, s.pose_guidance_interval), (4, [0.2, 0.3]));
        assert!(settings(&Values { preset: Some("nonsense".to_owned()), ..values }).is_err());
    }
}
