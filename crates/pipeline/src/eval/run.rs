//! Making and judging a clip for each pair of a set.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use media::output::PendingFolder;
use pose::net::On;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::identity::{model_note, networks_note};
use super::pair::{Judging, check_cancelled, video_of};
use super::report::{FORMAT, VERSION, summarize};
use super::unfinished::{Unfinished, Wanted};
use super::write::write_all;
use super::{Drive, EvalError, EvalReport, EvalRequest, EvalSet, EvalSource, JudgeNote, Judged, PairInfo};
use crate::preview::failed;
use crate::{
    AnimateRequest, Audio, Event, Motion, Observer, PipelineError, PoseModels, PoseSettings, Settings, SizeRule,
    Timing, poses,
};

/// Makes or reads a clip for each pair, judges it, and writes the report with a page that shows every pair.
///
/// Every pair is made with the same settings and seed. Everything that headers tell is checked, and the judge's
/// networks are opened, before anything is written. The folder appears when it is complete; until then outcomes are in
/// `<output>.unfinished`, and after an interruption the same request, of the same or other pairs, goes on from them.
///
/// # Errors
/// A set, video or setting that cannot be used, the errors of a run, an unfinished evaluation of other settings, and an
/// output that cannot be written.
pub fn evaluate(
    source: EvalSource,
    request: &EvalRequest,
    observer: &mut dyn Observer,
) -> Result<EvalReport, PipelineError> {
    let started = Instant::now();
    let set = EvalSet::open(&request.set, request.pairs.clone())?;
    let evaluation = Evaluation::new(source, request, &set)?;
    PendingFolder::create(&request.output).map(drop).map_err(PipelineError::Output)?;
    let mut judging = evaluation.check()?;
    let mut work = Unfinished::open(&request.output, evaluation.wanted()?)?;
    if work.finished() > 0 {
        let message =
            format!("going on from {}, where {} pair(s) are finished", work.folder().display(), work.finished());
        observer.event(&Event::Note { message });
    }
    let pairs = match evaluation.judge_all(&mut work, &mut judging, observer) {
        Ok(pairs) => pairs,
        Err(e) => {
            if work.finished() > 0 {
                let (count, folder) = (work.finished(), work.folder().display());
                let message =
                    format!("{count} finished pair(s) are kept in {folder}; the same command goes on from them");
                observer.event(&Event::Note { message });
            }
            return Err(e);
        }
    };
    let report = evaluation.report(pairs, started);
    write_all(&report, &work, &request.output)?;
    work.remove(&set.info().pairs)?;
    Ok(report)
}

/// A request whose numbers are decided.
pub(super) struct Evaluation<'a> {
    pub(super) source: EvalSource<'a>,
    pub(super) request: &'a EvalRequest,
    pub(super) set: &'a EvalSet,
    settings: Settings,
    pose: PoseSettings,
    pub(super) num_frames: usize,
    /// Keypoints that are made of others, and the place of clips while they are only planned.
    scratch: TempDir,
}

impl<'a> Evaluation<'a> {
    fn new(source: EvalSource<'a>, request: &'a EvalRequest, set: &'a EvalSet) -> Result<Self, PipelineError> {
        let info = set.info();
        let mut settings = request.settings.clone();
        let size = [info.width as usize, info.height as usize];
        if let Some([width, height]) = settings.size.filter(|asked| *asked != size) {
            let (found, expected) = (format!("{width}x{height}"), format!("{}x{}", size[0], size[1]));
            return Err(EvalError::Setting { name: "size", found, expected }.into());
        }
        if let Some(fps) = request.fps.filter(|fps| (fps - info.fps).abs() > 1e-6) {
            let (found, expected) = (fps.to_string(), info.fps.to_string());
            return Err(EvalError::Setting { name: "fps", found, expected }.into());
        }
        let largest = media::video::largest_clip_length(info.frames).unwrap_or(1);
        let num_frames = settings.num_frames.unwrap_or(largest);
        if num_frames > info.frames {
            return Err(EvalError::TooManyFrames { found: num_frames, available: info.frames, largest }.into());
        }
        settings.size = Some(size);
        settings.size_rule = SizeRule::Exact;
        settings.fps = info.fps;
        settings.timing = Timing::KeepTime;
        settings.num_frames = Some(num_frames);
        let pose = source.engine().map_or_else(|| request.pose.clone(), |engine| engine.complete_pose(&request.pose));
        let scratch = tempfile::tempdir().map_err(|e| failed(&std::env::temp_dir(), &e))?;
        Ok(Self { source, request, set, settings, pose, num_frames, scratch })
    }

    /// Everything that the outcomes depend on; which pairs are asked for is no part of it.
    fn wanted(&self) -> Result<Wanted, PipelineError> {
        let request = self.request;
        let mut info = serde_json::to_value(self.set.info()).map_err(|e| failed(&request.set, &e))?;
        if let Value::Object(map) = &mut info {
            map.remove("pairs");
        }
        let settings = json!({
            "program": program(),
            "set": { "folder": request.set.display().to_string(), "info": info },
            "model": self.source.engine().map(model_note),
            "outputs": self.outputs(),
            "drive": request.drive,
            "driver": self.driver().as_ref().map(networks_note),
            "settings": self.settings,
            "pose": self.pose,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "judge": self.judge(),
            "keep_videos": request.keep_videos.then_some(request.crf),
        });
        // Ready-made videos are read again: they may have changed, and that is quick.
        let resumable = self.source.engine().is_some();
        Ok(Wanted { settings, resumable, pairs: self.set.names().clone(), restart: request.restart })
    }

    fn outputs(&self) -> Option<String> {
        match self.source {
            EvalSource::Videos(folder) => Some(folder.display().to_string()),
            EvalSource::Engine(_) => None,
        }
    }

    /// The networks that find the driving poses, if any do.
    fn driver(&self) -> Option<PoseModels> {
        let engine = self.source.engine().filter(|_| self.request.drive == Drive::Video)?;
        PoseModels::find(&engine.options().poses.models).ok()
    }

    fn judge(&self) -> Option<JudgeNote> {
        let judge = self.request.judge.as_ref()?;
        let same = |a: &Path, b: &Path| media::video::same_file(a, b);
        let same_as_driver = match (self.driver(), judge) {
            (Some(PoseModels::Files(d)), PoseModels::Files(j)) => {
                same(&d.detector, &j.detector) && same(&d.estimator, &j.estimator)
            }
            (driver, judge) => driver.as_ref() == Some(judge),
        };
        Some(JudgeNote { networks: networks_note(judge), same_as_driver })
    }

    /// Plans every clip, or looks for every video; makes the keypoint files of exact poses; opens the judge's networks.
    fn check(&self) -> Result<Judging, PipelineError> {
        for pair in &self.set.info().pairs {
            match self.source {
                EvalSource::Videos(folder) => drop(video_of(folder, pair)?),
                EvalSource::Engine(engine) => {
                    if self.request.drive == Drive::Exact {
                        let path = self.set.files(pair).pose;
                        // Without a reference poses stay as and where they are.
                        let clip = pose::json::read(&path, pose::json::ReadOptions::default())?;
                        let clip = pose::PoseClip { reference: None, ..clip };
                        pose::json::write(&self.exact_keypoints(pair), &clip)?;
                    }
                    engine.plan(&self.animation(pair, self.scratch.path().join("clip.mp4"))?)?;
                }
            }
        }
        let networks =
            self.request.judge.as_ref().map(|judge| poses::open(judge, self.pose.recipe.profile(), On::Host));
        Ok(Judging { networks: networks.transpose()?, references: HashMap::new() })
    }

    fn exact_keypoints(&self, pair: &PairInfo) -> PathBuf {
        self.scratch.path().join(format!("{}.json", pair.name))
    }

    /// The request of a pair's clip, which is written to `output` if clips are kept.
    pub(super) fn animation(&self, pair: &PairInfo, output: PathBuf) -> Result<AnimateRequest, PipelineError> {
        let (request, files) = (self.request, self.set.files(pair));
        let motion = match request.drive {
            Drive::Video => Motion::Video { drive: files.driving },
            Drive::Keypoints => Motion::Keypoints { file: files.driving_keypoints, drive: None },
            Drive::Exact => Motion::Keypoints { file: self.exact_keypoints(pair), drive: None },
        };
        let mut animation = AnimateRequest::new(files.reference, motion, self.settings.clone());
        // What is half done of a pair is done again: the folder is the report's.
        animation.snapshot_interval = None;
        animation.pose = self.pose.clone();
        animation.prompt = match &request.prompt {
            Some(prompt) => prompt.clone(),
            None => self.set.prompt(pair)?,
        };
        animation.negative_prompt.clone_from(&request.negative_prompt);
        animation.audio = Audio::None;
        animation.crf = request.crf;
        animation.output = request.keep_videos.then_some(output);
        Ok(animation)
    }

    fn judge_all(
        &self,
        work: &mut Unfinished,
        judging: &mut Judging,
        observer: &mut dyn Observer,
    ) -> Result<Vec<Judged>, PipelineError> {
        let pairs = &self.set.info().pairs;
        let total = pairs.len();
        let mut all = Vec::with_capacity(total);
        for (i, pair) in pairs.iter().enumerate() {
            check_cancelled(pair, observer)?;
            let (started, name) = (Instant::now(), pair.name.clone());
            let known = work.outcome(pair).filter(|_| work.finished() > 0);
            let was_known = known.is_some();
            let judged = match known {
                Some(judged) => judged,
                None => {
                    observer.event(&Event::PairStarted { name: name.clone(), pair: i + 1, total });
                    let (judged, sheet) = self.judge_pair(pair, work, judging, observer)?;
                    work.keep(&judged, &sheet)?;
                    judged
                }
            };
            let seconds = if was_known { 0.0 } else { started.elapsed().as_secs_f64() };
            let scores = Box::new(judged.scores.clone());
            observer.event(&Event::PairFinished { name, pair: i + 1, total, scores, seconds });
            all.push(judged);
        }
        Ok(all)
    }

    fn report(&self, pairs: Vec<Judged>, started: Instant) -> EvalReport {
        let request = self.request;
        let model = self.source.engine().map(model_note);
        let seconds: Vec<f64> = pairs.iter().filter_map(|p| p.seconds).collect();
        EvalReport {
            format: FORMAT.to_owned(),
            version: VERSION,
            program: program(),
            set_folder: self.set.folder().display().to_string(),
            set: self.set.info().clone(),
            outputs: self.outputs(),
            drive: model.is_some().then_some(request.drive),
            settings: model.is_some().then(|| self.settings.clone()),
            pose: self.pose.clone(),
            driver: self.driver().as_ref().map(networks_note),
            prompt: request.prompt.clone(),
            negative_prompt: request.negative_prompt.clone(),
            num_frames: self.num_frames,
            judge: self.judge(),
            summary: summarize(&pairs),
            seconds_per_clip: super::fidelity::mean(&seconds),
            seconds: started.elapsed().as_secs_f64(),
            peak_rss_bytes: offload::peak_rss_bytes(),
            model,
            pairs,
        }
    }
}

fn program() -> String {
    format!("steadydance {}", env!("CARGO_PKG_VERSION"))
}
