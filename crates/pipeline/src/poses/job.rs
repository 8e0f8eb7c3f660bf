//! Poses on their own: a video becomes keypoints, drawn poses, and pictures that show whether they are good.

use std::path::{Path, PathBuf};
use std::time::Instant;

use image::RgbImage;
use kernels::cuda::Gpu;
use media::output::PendingFolder;
use media::video::{self, FrameMode, FrameRate, ReadOptions, ShortClip};
use offload::Phase;
use pose::keypoints::COCO_BODY_POINTS;
use pose::net::On;
use pose::{PoseClip, QualityReport};
use serde::{Deserialize, Serialize};

use super::extract::{OpenNetworks, PoseFinder, Wanted};
use super::{PoseModelPlaces, PoseModels, PoseSettings};
use crate::error::{MOST_POSE_FRAMES, PUPPETS_ONLY};
use crate::motion::{complete_times, driving_frames, keypoint_times, read_keypoints, video_note};
use crate::preview::{self, Preview};
use crate::progress::Progress;
use crate::resolve::{check_not_inside, ordinary};
use crate::{Motion, Observer, PipelineError, RequestError};

/// How poses are found: what does not change them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinderOptions {
    /// Where the networks are looked for.
    pub models: PoseModelPlaces,
    /// Folder in which found keypoints are kept, so that an unchanged video is looked at once; `None` keeps nothing.
    pub cache: Option<PathBuf>,
}

/// Poses to be found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoseRequest {
    /// A video or a keypoint file; drawn poses cannot be read back.
    pub motion: Motion,
    /// Picture of the person whom the poses shall fit; without one they keep their proportions.
    pub reference: Option<PathBuf>,
    /// How.
    pub settings: PoseSettings,
    /// Frames a second at which the motion is sampled; `None` takes every frame.
    pub fps: Option<f64>,
    /// Most frames; `None` takes all.
    pub max_frames: Option<usize>,
    /// Seed of the negative poses.
    pub seed: u64,
    /// Whether a folder that this program wrote may be replaced.
    pub replace: bool,
    /// The folder to be written: keypoints.json, pose.mp4, neg_pose.mp4, overlay.mp4, sheet.png, report.json.
    pub output: PathBuf,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PoseOutcome {
    /// The folder that was written.
    #[serde(serialize_with = "lossy")]
    pub folder: PathBuf,
    /// Its files.
    pub files: Vec<String>,
    /// Frames of the clip.
    pub frames: usize,
    /// Frames that networks looked at.
    pub estimated: usize,
    /// Frames that were looked at in an earlier run.
    pub cached: usize,
    /// How good it is.
    pub quality: QualityReport,
    /// Wall-clock seconds in all.
    pub seconds: f64,
    /// Wall-clock seconds by phase.
    pub phase_seconds: Vec<(Phase, f64)>,
    /// Largest resident size that the process had, in bytes, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// Finds the poses of a motion, fits them to the reference and writes all that there is to see.
///
/// # Errors
/// Unusable inputs, networks that are missing or damaged, nobody in the pictures, an output that cannot be written. No
/// partial folder is left; keypoints that were found stay in the cache.
pub fn find_poses(
    request: &PoseRequest,
    options: &FinderOptions,
    observer: &mut dyn Observer,
) -> Result<PoseOutcome, PipelineError> {
    let started = Instant::now();
    let mut progress = Progress::new(observer);
    let mut job = Job::open(request, options)?;
    progress.begin(Phase::Pose, job.chosen.indices.len())?;
    job.notes().into_iter().for_each(|note| progress.note(note));
    let Searched { clip, estimated, cached } = job.keypoints(&mut progress)?;
    let drive = request.motion.drive();
    let source = request.motion.file().or(drive).unwrap_or(Path::new(""));
    let mut notes: Vec<String> = job.chosen.note.iter().cloned().chain(video_note(&request.motion, &clip)?).collect();
    let size = job.picture_size(&clip);
    let (frames, more) = request.settings.poses(clip, size, request.seed, source)?;
    progress.end()?;
    notes.extend(more);
    notes.into_iter().for_each(|note| progress.note(note));

    let name = drive.or(request.motion.file()).and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let report = frames.report();
    let preview = Preview {
        frames: &frames,
        video: drive,
        options: &job.read_options,
        driving: &job.chosen.driving,
        fps: job.chosen.fps,
        reference: job.reference.as_ref(),
        title: title(&name, report, job.chosen.fps),
    };
    let files = write_all(&preview, &job.folder, &mut progress)?;
    job.folder.commit().map_err(PipelineError::Output)?;
    Ok(PoseOutcome {
        folder: request.output.clone(),
        files,
        frames: report.frames,
        estimated,
        cached,
        quality: report.clone(),
        seconds: started.elapsed().as_secs_f64(),
        phase_seconds: progress.seconds,
        peak_rss_bytes: offload::peak_rss_bytes(),
    })
}

/// A request whose inputs and output's place are there.
struct Job<'a> {
    request: &'a PoseRequest,
    options: &'a FinderOptions,
    read_options: ReadOptions,
    /// The networks, if the motion is a plain video.
    models: Option<PoseModels>,
    reference: Option<RgbImage>,
    chosen: Chosen,
    folder: PendingFolder,
}

impl<'a> Job<'a> {
    /// What is cheap fails first: numbers, inputs, the output's place.
    fn open(request: &'a PoseRequest, options: &'a FinderOptions) -> Result<Self, PipelineError> {
        request.check()?;
        let models = match &request.motion {
            Motion::Video { .. } => Some(PoseModels::find(&options.models)?),
            _ => None,
        };
        let reference = match &request.reference {
            Some(path) => Some(media::image::read_rgb(path).map_err(PipelineError::Media)?),
            None => None,
        };
        let ours: fn(&str) -> bool = if request.replace { preview::is_ours } else { |_| false };
        let folder = PendingFolder::replacing(&request.output, ours).map_err(PipelineError::Output)?;
        let read_options = ReadOptions::default();
        let chosen = Chosen::new(request, &read_options)?;
        request.settings.check_frames(chosen.indices.len())?;
        if let Some(picture) = &reference {
            request.settings.canvas_for(size_of(picture))?;
        }
        Ok(Self { request, options, read_options, models, reference, chosen, folder })
    }

    /// What one should know before the work begins.
    fn notes(&self) -> Vec<String> {
        let puppets = (self.models == Some(PoseModels::Embedded)).then(|| PUPPETS_ONLY.to_owned());
        self.request.settings.ignored().into_iter().chain(puppets).collect()
    }

    /// The people of the chosen frames: searched for, or from the file.
    fn keypoints(&mut self, progress: &mut Progress) -> Result<Searched, PipelineError> {
        let chosen = &mut self.chosen;
        match (&self.models, self.request.motion.drive(), chosen.clip.take()) {
            (Some(models), Some(drive), _) => {
                let wanted = Wanted { video: drive, options: &self.read_options, indices: &chosen.indices };
                let picture = self.request.reference.as_deref().zip(self.reference.as_ref());
                let search = Search { models, settings: &self.request.settings, options: self.options, gpu: None };
                search.run(&wanted, picture, chosen.fps, progress)
            }
            (_, _, Some(clip)) => {
                progress.advance(chosen.indices.len())?;
                Ok(Searched { clip, estimated: 0, cached: 0 })
            }
            // `check` refused it.
            (_, _, None) => Err(RequestError::PosesNeedMotion.into()),
        }
    }

    /// Size of the picture that poses are fitted to; without one, of the video.
    fn picture_size(&self, clip: &PoseClip) -> pose::Size {
        match (&self.reference, &clip.reference) {
            (Some(picture), _) => size_of(picture),
            (None, Some(known)) => pose::Size::new(known.width, known.height),
            (None, None) => clip.size(),
        }
    }
}

fn size_of(picture: &RgbImage) -> pose::Size {
    pose::Size::new(picture.width(), picture.height())
}

/// Every file of a preview, into a folder that is not in place yet.
fn write_all(preview: &Preview, folder: &PendingFolder, progress: &mut Progress) -> Result<Vec<String>, PipelineError> {
    let at = |name: &str| folder.path().join(name);
    progress.begin(Phase::Preview, 3 * preview.len() + 1)?;
    preview.report_files(folder.path(), &|| progress.check())?;
    progress.advance(1)?;
    let mut done = || progress.advance(1);
    preview.overlay(&at(preview::OVERLAY), &mut done)?;
    preview.poses(&at(preview::POSES), false, &mut done)?;
    preview.poses(&at(preview::NEG_POSES), true, &mut done)?;
    progress.end()?;
    let names =
        [preview::KEYPOINTS, preview::REPORT, preview::SHEET, preview::OVERLAY, preview::POSES, preview::NEG_POSES];
    Ok(names.map(str::to_owned).to_vec())
}

/// A path as text, whatever bytes its name has.
pub(crate) fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// The line above a contact sheet.
pub(crate) fn title(name: &str, report: &QualityReport, fps: f64) -> String {
    let percent = 100.0 * report.detection_rate;
    format!("{name}: {} frames at {fps:.2} fps, person found in {percent:.0} %", report.frames)
}

/// Which frames of the motion are taken.
struct Chosen {
    /// Frames of the video, or entries of the keypoint file.
    indices: Vec<usize>,
    /// The video's frame of each.
    driving: Vec<usize>,
    fps: f64,
    /// The keypoints of just these frames, if they came from a file.
    clip: Option<PoseClip>,
    /// What one might not expect.
    note: Option<String>,
}

impl Chosen {
    fn new(request: &PoseRequest, options: &ReadOptions) -> Result<Self, PipelineError> {
        let (path, times, own_fps, clip) = match &request.motion {
            Motion::Keypoints { file, drive } => {
                let clip = read_keypoints(file, drive.as_deref(), request.fps.unwrap_or(16.0))?;
                (file, keypoint_times(&clip), clip.fps, Some(clip))
            }
            Motion::Video { drive } => {
                let times = complete_times(drive, options)?;
                let info = video::probe(drive).map_err(PipelineError::Media)?;
                (drive, times, if info.avg_fps > 0.0 { info.avg_fps } else { 16.0 }, None)
            }
            Motion::Drawn { .. } => return Err(RequestError::PosesNeedMotion.into()),
        };
        // Frames that do not come evenly would play at a wrong pace one by one.
        let late = |(i, time): (usize, &f64)| (time - i as f64 / own_fps).abs() > 1.5 / own_fps;
        let uneven = request.fps.is_none() && times.iter().enumerate().any(late);
        let note =
            uneven.then(|| format!("the video's frame rate varies; it is sampled evenly at {own_fps:.2} fps (--fps)"));
        let wanted = request.fps.or(uneven.then_some(own_fps));
        let fps = wanted.unwrap_or(own_fps);
        FrameRate::from_f64(fps).map_err(PipelineError::Media)?;
        let available = match wanted {
            None => times.len(),
            Some(fps) => video::available_frames(&times, fps, FrameMode::KeepTime),
        };
        let count = request.max_frames.unwrap_or(usize::MAX).min(available);
        if count > MOST_POSE_FRAMES {
            return Err(RequestError::TooManyFrames { path: path.clone(), found: count }.into());
        }
        let indices = match wanted {
            None => (0..count).collect(),
            Some(fps) => video::resample_indices(&times, fps, count, FrameMode::KeepTime, ShortClip::Error)
                .map_err(PipelineError::Media)?,
        };
        let driving = driving_frames(&request.motion, &indices, own_fps)?;
        let clip = clip.map(|clip| clip.select(&indices, fps)).transpose()?;
        Ok(Self { indices, driving, fps, clip, note })
    }
}

impl PoseRequest {
    /// A request for every frame with the usual settings.
    pub fn new(motion: Motion, output: impl Into<PathBuf>) -> Self {
        let settings = PoseSettings::default();
        Self {
            motion,
            reference: None,
            settings,
            fps: None,
            max_frames: None,
            seed: 0,
            replace: false,
            output: output.into(),
        }
    }

    fn check(&self) -> Result<(), PipelineError> {
        if matches!(self.motion, Motion::Drawn { .. }) {
            return Err(RequestError::PosesNeedMotion.into());
        }
        if let Some(found) = self.fps.filter(|fps| !(1.0..=240.0).contains(fps)) {
            return Err(RequestError::Fps { found }.into());
        }
        if self.max_frames == Some(0) {
            return Err(RequestError::NoFramesWanted.into());
        }
        self.settings.validate()?;
        let inputs = [self.motion.file(), self.motion.drive(), self.reference.as_deref()];
        for input in inputs.into_iter().flatten() {
            ordinary(input).map_err(PipelineError::Media)?;
        }
        check_not_inside(&self.output, inputs.into_iter().flatten())?;
        Ok(())
    }
}

/// A search for people, by these networks and what is known from before.
pub(crate) struct Search<'a> {
    pub models: &'a PoseModels,
    pub settings: &'a PoseSettings,
    pub options: &'a FinderOptions,
    /// The GPU that the networks compute on; `None` for the host.
    pub gpu: Option<&'a Gpu>,
}

/// What a search gave.
pub(crate) struct Searched {
    pub clip: PoseClip,
    /// Frames that networks looked at.
    pub estimated: usize,
    /// Frames that were known from an earlier run.
    pub cached: usize,
}

impl Search<'_> {
    /// The keypoints of a video's wanted frames at `fps`, and of the reference picture. Progress advances by a unit for
    /// each wanted frame.
    pub fn run(
        &self,
        wanted: &Wanted,
        reference: Option<(&Path, &RgbImage)>,
        fps: f64,
        progress: &mut Progress,
    ) -> Result<Searched, PipelineError> {
        let on = self.gpu.map_or(On::Host, On::Gpu);
        let open: &OpenNetworks = &|models: &PoseModels, profile| super::networks::open(models, profile, on);
        let profile = self.settings.recipe.profile();
        let mut finder =
            PoseFinder::new(self.models, profile, self.options.cache.clone(), open).on_gpu(self.gpu.is_some());
        let puppets_only = *self.models == PoseModels::Embedded;
        let reference = match reference {
            Some((path, picture)) => {
                let mut found = finder.reference(path, picture)?;
                self.keep_people(&mut found.people);
                if found.people.is_empty() {
                    let (what, path) = ("picture", path.to_owned());
                    return Err(PipelineError::NobodyFound { what, path, frames: 1, puppets_only });
                }
                Some(found)
            }
            None => None,
        };
        let mut found = finder.video(wanted, &mut |done| progress.set(done))?;
        for remark in finder.remarks() {
            progress.note(remark);
        }
        for frame in &mut found.frames {
            self.keep_people(&mut frame.people);
        }
        if found.frames.iter().all(|f| f.people.is_empty()) {
            let (path, frames) = (wanted.video.to_owned(), found.frames.len());
            return Err(PipelineError::NobodyFound { what: "video", path, frames, puppets_only });
        }
        let [width, height] = found.size;
        let clip = PoseClip { width, height, fps, frames: found.frames, reference };
        Ok(Searched { clip, estimated: found.estimated, cached: found.cached })
    }

    /// Upstream's detector takes the whole picture for a person when it finds none, and the estimator then dreams one
    /// up; such people have hardly a joint above the threshold.
    fn keep_people(&self, people: &mut Vec<pose::WholeBody>) {
        if !self.settings.upstream_parity {
            let threshold = self.settings.threshold();
            people.retain(|p| p.scores[..COCO_BODY_POINTS].iter().filter(|s| **s > threshold).count() >= LEAST_JOINTS);
        }
    }
}

/// Body keypoints that make a person: head and shoulders of a half-hidden one.
const LEAST_JOINTS: usize = 5;
