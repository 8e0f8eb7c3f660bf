//! Evaluation sets: pairs of a reference and a driving clip with the truth, in folders.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use image::RgbImage;
use media::video::{self, ReadOptions, VideoReader};
use pose::{PoseClip, WholeBody};
use serde::{Deserialize, Serialize};

use super::{EvalError, Mask};
use crate::PipelineError;
use crate::files::small_text;
use crate::resolve::ordinary;

/// Name of the file that makes a folder a set.
const HEAD: &str = "set.json";
/// Value of its `format`.
const FORMAT: &str = "steadydance-eval-set";
/// Value of its `version`.
const VERSION: u64 = 1;
/// Largest head, prompt or report that is read.
pub(super) const MOST_BYTES: u64 = 16 << 20;
/// By which a clip's frame rate may differ from the set's, as a share: containers round times.
const FPS_TOLERANCE: f64 = 0.005;
/// From this level on a mask's pixel is the figure's.
const FIGURE_LEVEL: u8 = 128;

/// What a set says of itself (`set.json`); other fields are passed over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetInfo {
    /// Always `steadydance-eval-set`.
    pub format: String,
    /// 1.
    pub version: u64,
    /// What made it, with its version.
    pub generator: String,
    /// Say `held-out`.
    pub split: String,
    /// Width of reference, truth and mask in pixels.
    pub width: u32,
    /// Their height.
    pub height: u32,
    /// Frames of each truth.
    pub frames: usize,
    /// Frames a second of truth and driving clip.
    pub fps: f64,
    /// First frames of the truth, which lead from the reference's pose to the driven one: its pose is not the target's
    /// there.
    #[serde(default)]
    pub settle: usize,
    /// The pairs, in order.
    pub pairs: Vec<PairInfo>,
}

/// One pair of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairInfo {
    /// Name of its folder.
    pub name: String,
    /// Seed that it was made of, if it was.
    #[serde(default)]
    pub seed: Option<u64>,
}

/// A set whose files are all there and fit together, as far as headers and keypoints tell.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalSet {
    folder: PathBuf,
    info: SetInfo,
    /// Of all pairs, chosen or not.
    names: BTreeSet<String>,
}

/// Paths of a pair's files.
#[derive(Debug, Clone, PartialEq)]
pub struct PairFiles {
    /// The reference picture, which is the truth's first frame.
    pub reference: PathBuf,
    /// The driving clip: another figure.
    pub driving: PathBuf,
    /// Its keypoints, with those of the reference.
    pub driving_keypoints: PathBuf,
    /// The keypoints that the result shall have: the reference's figure in the driven poses.
    pub pose: PathBuf,
    /// The clip that the result shall be.
    pub truth: PathBuf,
    /// Where the figure is in it.
    pub mask: PathBuf,
    /// The prompt.
    pub prompt: PathBuf,
}

/// What a result is judged by.
#[derive(Debug, Clone)]
pub struct Truth {
    /// The clip that the result shall be.
    pub frames: Vec<RgbImage>,
    /// Its figure's pixels.
    pub masks: Vec<Mask>,
    /// The target poses; none while the truth settles, and where the file has nobody.
    pub targets: Vec<Option<WholeBody>>,
    /// The driven poses from the first frame on.
    pub poses: Vec<Option<WholeBody>>,
    /// The reference's pose.
    pub reference_pose: Option<WholeBody>,
}

impl EvalSet {
    /// Reads `set.json` and checks every pair that is chosen: files, sizes, frame counts and keypoints. Decodes
    /// nothing.
    ///
    /// # Errors
    /// One that names the first file that cannot be used, or pairs that the set has not.
    pub fn open(folder: &Path, chosen: Option<Range<usize>>) -> Result<Self, PipelineError> {
        let head = folder.join(HEAD);
        let wrong = |problem: String| EvalError::Set { path: head.clone(), problem };
        let text = small_text(&head, MOST_BYTES).map_err(|e| wrong(format!("cannot be read ({e})")))?;
        let mut info: SetInfo = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        info.check().map_err(wrong)?;
        let names = info.pairs.iter().map(|pair| pair.name.clone()).collect();
        if let Some(Range { start, end }) = chosen {
            let found = info.pairs.len();
            let pairs = info.pairs.get(start..end).filter(|pairs| !pairs.is_empty());
            info.pairs = pairs.ok_or(EvalError::NoSuchPairs { from: start, to: end, found })?.to_vec();
        }
        let set = Self { folder: folder.to_owned(), info, names };
        set.info.pairs.iter().try_for_each(|pair| set.check(pair))?;
        Ok(set)
    }

    /// What it says of itself; of the pairs, those that were chosen.
    pub fn info(&self) -> &SetInfo {
        &self.info
    }

    /// Names of all its pairs, chosen or not.
    pub(super) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a pair's files are. A video may also be a folder of pictures without the extension.
    pub fn files(&self, pair: &PairInfo) -> PairFiles {
        let at = |name: &str| self.folder.join(&pair.name).join(name);
        let clip = |name: &str| clip_in(&self.folder.join(&pair.name), name);
        PairFiles {
            reference: at("reference.png"),
            driving: clip("driving"),
            driving_keypoints: at("driving.json"),
            pose: at("pose.json"),
            truth: clip("truth"),
            mask: clip("mask"),
            prompt: at("prompt.txt"),
        }
    }

    /// The prompt of a pair.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn prompt(&self, pair: &PairInfo) -> Result<String, PipelineError> {
        let path = self.files(pair).prompt;
        let text = small_text(&path, MOST_BYTES).map_err(|e| wrong(&path, format!("cannot be read ({e})")))?;
        Ok(text.trim().to_owned())
    }

    /// The first `count` frames of a pair's truth.
    ///
    /// # Errors
    /// Damaged files.
    pub fn truth(&self, pair: &PairInfo, count: usize) -> Result<Truth, PipelineError> {
        let files = self.files(pair);
        let info = &self.info;
        let pixels = [info.width, info.height];
        let size = pixels.map(f64::from);
        // A video that is too small or too short is the set's fault here, not that of one to be judged.
        let read = |path: &Path| match read_frames(path, pixels, count) {
            Err(PipelineError::Eval(EvalError::Video { path, problem })) => {
                Err(EvalError::Set { path, problem }.into())
            }
            other => other,
        };
        let frames = read(&files.truth)?;
        let figure = |frame: RgbImage| frame.chunks_exact(3).map(|p| p[0] >= FIGURE_LEVEL).collect();
        let masks = read(&files.mask)?.into_iter().map(figure).collect();
        let clip = keypoints(&files.pose)?;
        let person = |people: &[WholeBody]| people.first().cloned();
        let poses: Vec<_> = clip.frames.iter().take(count).map(|frame| person(&frame.people)).collect();
        let targets = poses.iter().enumerate().map(|(i, pose)| pose.clone().filter(|_| i >= info.settle)).collect();
        let reference_pose = clip.reference.as_ref().and_then(|r| {
            let [x, y] = [size[0] / f64::from(r.width), size[1] / f64::from(r.height)];
            person(&r.people).map(|p| p.scaled(x, y))
        });
        Ok(Truth { frames, masks, targets, poses, reference_pose })
    }

    fn check(&self, pair: &PairInfo) -> Result<(), PipelineError> {
        let (files, info) = (self.files(pair), &self.info);
        let size = [info.width, info.height];
        let sized = |path: &Path, found: [u32; 2]| match found == size {
            true => Ok(()),
            false => Err(wrong(path, format!("it is {}x{}, the set {}x{}", found[0], found[1], size[0], size[1]))),
        };
        let timed = |path: &Path, found: f64| match (found / info.fps - 1.0).abs() < FPS_TOLERANCE {
            true => Ok(()),
            false => Err(wrong(path, format!("it has {found:.3} frames a second, the set {}", info.fps))),
        };
        ordinary(&files.reference).map_err(PipelineError::Media)?;
        let picture = media::image::probe(&files.reference).map_err(PipelineError::Media)?;
        sized(&files.reference, [picture.width, picture.height])?;
        for path in [&files.truth, &files.mask] {
            let found = count_frames(path)?;
            if found != info.frames {
                return Err(wrong(path, format!("it has {found} frames, the set {}", info.frames)));
            }
            let clip = video::probe(path).map_err(PipelineError::Media)?;
            sized(path, [clip.width, clip.height])?;
        }
        for path in [&files.truth, &files.driving].into_iter().filter(|path| !path.is_dir()) {
            timed(path, video::probe(path).map_err(PipelineError::Media)?.avg_fps)?;
        }
        if count_frames(&files.driving)? < info.frames {
            return Err(wrong(&files.driving, format!("it has fewer than the set's {} frames", info.frames)));
        }
        let pose = keypoints(&files.pose)?;
        sized(&files.pose, [pose.width, pose.height])?;
        for (path, clip) in [(&files.pose, pose), (&files.driving_keypoints, keypoints(&files.driving_keypoints)?)] {
            if clip.frames.len() < info.frames {
                let found = clip.frames.len();
                return Err(wrong(path, format!("it has {found} frames, the set {}", info.frames)));
            }
            timed(path, clip.fps)?;
            if clip.reference.is_none_or(|r| r.people.is_empty()) {
                return Err(wrong(path, "it has no `reference` person".to_owned()));
            }
        }
        self.prompt(pair).map(drop)
    }
}

impl SetInfo {
    /// What is wrong with the numbers and names, if anything is.
    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT || self.version != VERSION {
            return Err(format!(
                "format {:?} version {}; expected {FORMAT:?} version {VERSION}",
                self.format, self.version
            ));
        }
        if self.pairs.is_empty() || self.frames == 0 {
            return Err(format!("{} pairs of {} frames; expected at least one of each", self.pairs.len(), self.frames));
        }
        if !(self.fps.is_finite() && self.fps > 0.0) {
            return Err(format!("fps is {}; expected a rate above 0", self.fps));
        }
        if self.settle >= self.frames {
            return Err(format!("settle is {}; expected less than its {} frames", self.settle, self.frames));
        }
        // Names become paths, here and in the report.
        let plain = |name: &str| {
            let mut parts = Path::new(name).components();
            matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name)
                && !name.contains(|c: char| c.is_control() || c == '\\')
        };
        let mut names = BTreeSet::new();
        match self.pairs.iter().find(|pair| !plain(&pair.name) || !names.insert(pair.name.as_str())) {
            Some(pair) => Err(format!("pair {:?}: expected the name of a folder, each once", pair.name)),
            None => Ok(()),
        }
    }
}

/// The clip of a name in a folder: a folder of pictures, or else an mp4.
pub(super) fn clip_in(folder: &Path, name: &str) -> PathBuf {
    let pictures = folder.join(name);
    if pictures.is_dir() { pictures } else { folder.join(format!("{name}.mp4")) }
}

/// The first `count` frames of a clip that has that size.
pub(super) fn read_frames(path: &Path, size: [u32; 2], count: usize) -> Result<Vec<RgbImage>, PipelineError> {
    let mut reader = VideoReader::open(path).map_err(PipelineError::Media)?;
    let mut frames = Vec::with_capacity(count.min(1024));
    while frames.len() < count {
        match reader.next_frame().map_err(PipelineError::Media)? {
            Some(frame) if frame.image.dimensions() == (size[0], size[1]) => frames.push(frame.image),
            Some(frame) => {
                let (w, h) = frame.image.dimensions();
                let problem = format!("it is {w}x{h}, {}x{} is needed", size[0], size[1]);
                return Err(EvalError::Video { path: path.to_owned(), problem }.into());
            }
            None => {
                let problem = format!("it has {} frames, {count} are needed", frames.len());
                return Err(EvalError::Video { path: path.to_owned(), problem }.into());
            }
        }
    }
    Ok(frames)
}

fn keypoints(path: &Path) -> Result<PoseClip, PipelineError> {
    ordinary(path).map_err(PipelineError::Media)?;
    let clip = pose::json::read(path, pose::json::ReadOptions::default());
    clip.map_err(|e| wrong(path, e.to_string()))
}

fn count_frames(path: &Path) -> Result<usize, PipelineError> {
    ordinary(path).map_err(PipelineError::Media)?;
    video::timestamps(path, &ReadOptions::default()).map(|times| times.len()).map_err(PipelineError::Media)
}

fn wrong(path: &Path, problem: String) -> PipelineError {
    EvalError::Set { path: path.to_owned(), problem }.into()
}
