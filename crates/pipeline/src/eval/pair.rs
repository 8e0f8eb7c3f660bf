//! One pair: its clip, and what is found in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use image::RgbImage;
use media::video::VideoReader;
use pose::{FrameRole, PoseEstimator, Warning, WholeBody};

use super::run::Evaluation;
use super::scores::{Reference, judge};
use super::set::{clip_in, read_frames};
use super::sheet::{Sheet, moments};
use super::unfinished::Unfinished;
use super::write::{SHEETS, VIDEOS};
use super::{Drive, EvalError, EvalSource, JointScore, Judged, PairInfo, SetInfo, Truth, joint_score};
use crate::poses::hash_of_bytes;
use crate::preview::{advice, failed};
use crate::{Event, Observer, PipelineError};

/// What all pairs are judged with.
pub(super) struct Judging {
    pub networks: Option<Box<dyn PoseEstimator>>,
    /// References as the model sees them and after its VAE, by the SHA-256 of the picture's pixels.
    pub references: HashMap<String, [RgbImage; 2]>,
}

impl Evaluation<'_> {
    /// Makes and judges a pair's clip; gives the outcome and the contact sheet as a JPEG.
    pub(super) fn judge_pair(
        &self,
        pair: &PairInfo,
        work: &Unfinished,
        judging: &mut Judging,
        observer: &mut dyn Observer,
    ) -> Result<(Judged, Vec<u8>), PipelineError> {
        let files = self.set.files(pair);
        let truth = self.set.truth(pair, self.num_frames)?;
        let picture = media::image::read_rgb(&files.reference).map_err(PipelineError::Media)?;
        let SetInfo { width, height, fps, .. } = *self.set.info();
        let mut made = Made::default();
        let (frames, seen, reconstructed) = match self.source {
            EvalSource::Engine(engine) => {
                let mut collector =
                    Collector { observer, frames: Vec::new(), exact: self.request.drive == Drive::Exact };
                let report = engine.animate(&self.animation(pair, work.file(&pair.name, "mp4"))?, &mut collector)?;
                made = Made { forwards: Some(report.forwards), seconds: Some(report.seconds) };
                let frames = collector.frames;
                let key = hash_of_bytes(&[picture.as_raw()]);
                let [seen, after] = match judging.references.get(&key) {
                    Some(known) => known.clone(),
                    None => {
                        let both = engine.reconstructed(&picture, [width as usize, height as usize])?;
                        judging.references.entry(key).or_insert(both).clone()
                    }
                };
                (frames, seen, Some(after))
            }
            EvalSource::Videos(folder) => {
                (read_frames(&video_of(folder, pair)?, [width, height], self.num_frames)?, picture, None)
            }
        };
        let joints = match &mut judging.networks {
            Some(networks) => self.joints(pair, &frames, &truth, &mut **networks, observer)?,
            None => None,
        };
        let reference = Reference { seen: &seen, reconstructed: reconstructed.as_ref() };
        let judged = Judged {
            name: pair.name.clone(),
            seed: pair.seed,
            scores: judge(&frames, &truth, &reference, joints),
            forwards: made.forwards,
            seconds: made.seconds,
            sheet: format!("{SHEETS}/{}.jpg", pair.name),
            video: self
                .request
                .keep_videos
                .then(|| format!("{VIDEOS}/{}.mp4", pair.name))
                .filter(|_| reconstructed.is_some()),
        };
        let chosen = moments(frames.len());
        let driving = VideoReader::open(&files.driving).map_err(PipelineError::Media)?.frames_at(chosen.clone());
        let sheet = Sheet {
            reference: &seen,
            moments: &chosen,
            fps,
            driving: driving.collect::<media::Result<_>>().map_err(PipelineError::Media)?,
            output: chosen.iter().filter_map(|i| frames.get(*i)).collect(),
            truth: chosen.iter().filter_map(|i| truth.frames.get(*i)).collect(),
        };
        let jpeg = sheet.jpeg().map_err(|e| failed(&work.file(&pair.name, "jpg"), &e))?;
        Ok((judged, jpeg))
    }

    /// Finds the joints of a result where the truth has a target.
    fn joints(
        &self,
        pair: &PairInfo,
        frames: &[RgbImage],
        truth: &Truth,
        networks: &mut dyn PoseEstimator,
        observer: &dyn Observer,
    ) -> Result<Option<JointScore>, PipelineError> {
        let mut found: Vec<Option<WholeBody>> = Vec::with_capacity(frames.len());
        for (i, frame) in frames.iter().enumerate() {
            check_cancelled(pair, observer)?;
            found.push(match truth.targets.get(i) {
                Some(Some(_)) => networks.estimate(FrameRole::Driving(i), frame)?.people.into_iter().next(),
                _ => None,
            });
        }
        Ok(joint_score(&found, &truth.targets, f64::from(self.set.info().height)))
    }
}

/// Whether the observer asks to stop before or while a pair is judged.
pub(super) fn check_cancelled(pair: &PairInfo, observer: &dyn Observer) -> Result<(), PipelineError> {
    match observer.cancelled() {
        true => Err(EvalError::Cancelled { pair: pair.name.clone() }.into()),
        false => Ok(()),
    }
}

/// What making a clip took.
#[derive(Default)]
struct Made {
    forwards: Option<usize>,
    seconds: Option<f64>,
}

/// The ready-made video of a pair.
pub(super) fn video_of(folder: &Path, pair: &PairInfo) -> Result<PathBuf, PipelineError> {
    let path = clip_in(folder, &pair.name);
    match path.exists() {
        true => Ok(path),
        false => Err(EvalError::Video { path, problem: "there is no such file".to_owned() }.into()),
    }
}

/// Passes everything on and keeps the frames, as they are before any encoder.
struct Collector<'a> {
    observer: &'a mut dyn Observer,
    frames: Vec<RgbImage>,
    /// Whether the poses are exact, and need no fit that could be missed.
    exact: bool,
}

impl Observer for Collector<'_> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Note { message } if self.exact && *message == advice(&Warning::NotAligned) => {}
            _ => self.observer.event(event),
        }
    }

    fn latents(&mut self, step: usize, latents: &Tensor) {
        self.observer.latents(step, latents);
    }

    fn tensor(&mut self, name: &str, tensor: &Tensor) {
        self.observer.tensor(name, tensor);
    }

    fn initial_noise(&mut self) -> Option<Tensor> {
        self.observer.initial_noise()
    }

    fn frame(&mut self, index: usize, frame: &RgbImage) {
        self.observer.frame(index, frame);
        self.frames.push(frame.clone());
    }

    fn cancelled(&self) -> bool {
        self.observer.cancelled()
    }
}
