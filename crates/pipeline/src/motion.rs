//! Where pose frames come from: a list of frame numbers that is known early, and pictures that are made or read when
//! their turn comes.

use std::path::{Path, PathBuf};

use image::RgbImage;
use media::resize::{self, Size};
use media::video::{self, FrameMode, FrameRate, ReadOptions, ShortClip, VideoReader};
use pose::{PoseFrames, PoseOptions, draw_poses};

use crate::geometry::Geometry;
use crate::{AnimateRequest, Motion, PipelineError, RequestError, Timing};

/// The motion with everything decided that headers and keypoints can tell.
pub(crate) struct ResolvedMotion {
    source: Source,
    /// Frames of the clip.
    pub num_frames: usize,
    /// Whether there are negative poses.
    pub has_negative: bool,
    /// What one might not expect.
    pub notes: Vec<String>,
}

enum Source {
    Keypoints(Box<PoseFrames>),
    Drawn { pose: PathBuf, neg_pose: Option<PathBuf>, indices: Vec<usize>, options: ReadOptions },
}

/// Positive or negative poses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Positive,
    Negative,
}

impl ResolvedMotion {
    /// Reads keypoints or container headers; draws and decodes nothing.
    pub fn new(request: &AnimateRequest, reference: [usize; 2]) -> Result<Self, PipelineError> {
        let fps = request.settings.fps;
        match &request.motion {
            Motion::Video { drive } => {
                video::probe(drive).map_err(PipelineError::Media)?;
                Err(PipelineError::NoDetector { drive: drive.clone() })
            }
            Motion::Keypoints { file, .. } => {
                // OpenPose files do not tell their frame rate; the driving video does, or the clip's is taken.
                let drive_fps = request.motion.drive().and_then(|d| video::probe(d).ok()).map(|info| info.avg_fps);
                let openpose_fps = drive_fps.filter(|f| *f > 0.0).unwrap_or(fps);
                let clip = pose::json::read(file, pose::json::ReadOptions { openpose_fps: Some(openpose_fps) })?;
                let times: Vec<f64> = (0..clip.frames.len()).map(|i| i as f64 / clip.fps).collect();
                let mut notes = Vec::new();
                let indices = choose_frames(request, &times, &mut notes)?;
                let options = PoseOptions {
                    person: pose::PersonChoice::Index(request.person),
                    seed: request.settings.seed,
                    ..PoseOptions::default()
                };
                let clip = clip.select(&indices, fps)?;
                let size = pose::Size::new(reference[0] as u32, reference[1] as u32);
                let frames = PoseFrames::new(clip, size, options)?;
                notes.extend(report_notes(&frames));
                Ok(Self {
                    num_frames: indices.len(),
                    source: Source::Keypoints(Box::new(frames)),
                    has_negative: true,
                    notes,
                })
            }
            Motion::Drawn { pose, neg_pose, .. } => {
                let options = ReadOptions { folder_fps: FrameRate::from_f64(fps).map_err(PipelineError::Media)? };
                let times = complete_times(pose, &options)?;
                let mut notes = Vec::new();
                let indices = choose_frames(request, &times, &mut notes)?;
                if let Some(neg_pose) = neg_pose {
                    let found = complete_times(neg_pose, &options)?.len();
                    let needed = indices.iter().max().map_or(0, |i| i + 1);
                    if found < needed {
                        let (pose, neg_pose) = (pose.clone(), neg_pose.clone());
                        return Err(PipelineError::PosePair { pose, neg_pose, found, needed });
                    }
                }
                notes.extend(aspect_note(pose, reference)?);
                Ok(Self {
                    num_frames: indices.len(),
                    has_negative: neg_pose.is_some(),
                    source: Source::Drawn { pose: pose.clone(), neg_pose: neg_pose.clone(), indices, options },
                    notes,
                })
            }
        }
    }

    /// The pose pictures of one side, at the size of the cropped reference, one at a time. Side by side with nothing:
    /// an absent negative side gives no frames.
    pub fn frames(&self, side: Side, geometry: Geometry) -> Result<PoseIter<'_>, PipelineError> {
        let inner = match (&self.source, side) {
            (Source::Keypoints(frames), _) => Inner::Drawing { frames, side, next: 0, count: self.num_frames },
            (Source::Drawn { pose, indices, options, .. }, Side::Positive) => reading(pose, indices, options)?,
            (Source::Drawn { neg_pose: Some(neg), indices, options, .. }, Side::Negative) => {
                reading(neg, indices, options)?
            }
            (Source::Drawn { .. }, Side::Negative) => Inner::Nothing,
        };
        Ok(PoseIter { inner, geometry })
    }
}

/// Times of all frames, in seconds, of a video that holds what its header promises; a picture folder always does.
pub(crate) fn complete_times(path: &Path, options: &ReadOptions) -> Result<Vec<f64>, PipelineError> {
    let times = video::timestamps(path, options).map_err(PipelineError::Media)?;
    let info = video::probe(path).map_err(PipelineError::Media)?;
    let min_side = media::image::MIN_SIDE;
    if info.width < min_side || info.height < min_side {
        let (path, width, height) = (path.to_owned(), info.width, info.height);
        return Err(PipelineError::Media(media::MediaError::TooSmall { path, width, height, min_side }));
    }
    let by_duration = info.duration_s.map(|seconds| (seconds * info.avg_fps) as usize);
    let expected = info.frames.map(|n| n as usize).or(by_duration).unwrap_or(0);
    // Edit lists and rounded durations cost some frames of a sound file; a cut one lacks more.
    if times.len() + 2 + expected / 20 < expected {
        return Err(PipelineError::Truncated { path: path.to_owned(), found: times.len(), expected });
    }
    Ok(times)
}

/// Which driving frames make the clip: as many as asked for, or the preset's number, or as many as there are.
fn choose_frames(
    request: &AnimateRequest,
    times: &[f64],
    notes: &mut Vec<String>,
) -> Result<Vec<usize>, PipelineError> {
    let s = &request.settings;
    let mode = match s.timing {
        Timing::KeepTime => FrameMode::KeepTime,
        Timing::OneToOne => FrameMode::OneToOne,
    };
    let available = video::available_frames(times, s.fps, mode);
    let largest = video::largest_clip_length(available).unwrap_or(0);
    let count = match s.num_frames {
        Some(asked) if asked > available => {
            return Err(RequestError::TooFewFrames { asked, available, largest, fps: s.fps }.into());
        }
        Some(asked) => asked,
        None => s.default_num_frames.min(largest),
    };
    if s.num_frames.is_none() && count < s.default_num_frames {
        notes.push(format!(
            "the motion gives {available} frames at {} fps: the clip has {count} (instead of {})",
            s.fps, s.default_num_frames
        ));
    }
    video::resample_indices(times, s.fps, count, mode, ShortClip::Error).map_err(PipelineError::Media)
}

fn report_notes(frames: &PoseFrames) -> Vec<String> {
    let report = frames.report();
    let mut notes = Vec::new();
    if !report.aligned {
        notes.push(
            "the keypoint file has no person of the reference picture: poses are centred, not fitted to it".into(),
        );
    }
    if !report.frames_without_person.is_empty() {
        let (n, of) = (report.frames_without_person.len(), report.frames);
        notes.push(format!("{n} of {of} frames have no person; the nearest earlier pose is held there"));
    }
    if report.out_of_frame_fraction > 0.25 {
        let percent = 100.0 * report.out_of_frame_fraction;
        notes.push(format!("{percent:.0} % of the joints lie outside the picture: the framings differ"));
    }
    if !report.degenerate_scales.is_empty() {
        notes.push(format!(
            "{} limb scale(s) could not be measured and were replaced by typical ones",
            report.degenerate_scales.len()
        ));
    }
    notes
}

/// Drawn poses are stretched to the reference's size, so another aspect deforms them.
fn aspect_note(pose: &Path, reference: [usize; 2]) -> Result<Option<String>, PipelineError> {
    let info = video::probe(pose).map_err(PipelineError::Media)?;
    let aspect = |w: f64, h: f64| w / h.max(1.0);
    let (a, b) =
        (aspect(f64::from(info.width), f64::from(info.height)), aspect(reference[0] as f64, reference[1] as f64));
    Ok(((a / b - 1.0).abs() > 0.03).then(|| {
        format!(
            "poses are {}x{}, the reference {}x{}: they are stretched to its shape; poses aligned to this reference would have its aspect",
            info.width, info.height, reference[0], reference[1]
        )
    }))
}

fn reading<'a>(path: &Path, indices: &'a [usize], options: &ReadOptions) -> Result<Inner<'a>, PipelineError> {
    let reader = VideoReader::open_with(path, options).map_err(PipelineError::Media)?;
    Ok(Inner::Reading { path: path.to_owned(), reader: Box::new(reader), indices, held: None })
}

/// See [`ResolvedMotion::frames`].
pub(crate) struct PoseIter<'a> {
    inner: Inner<'a>,
    geometry: Geometry,
}

enum Inner<'a> {
    Nothing,
    Drawing { frames: &'a PoseFrames, side: Side, next: usize, count: usize },
    Reading { path: PathBuf, reader: Box<VideoReader>, indices: &'a [usize], held: Option<(usize, RgbImage)> },
}

impl Inner<'_> {
    fn next_image(&mut self) -> Option<Result<RgbImage, PipelineError>> {
        match self {
            Inner::Nothing => None,
            Inner::Drawing { frames, side, next, count } => {
                if next == count {
                    return None;
                }
                let index = *next;
                *next += 1;
                let pose = frames.pose(index).map(|pose| match side {
                    Side::Positive => pose,
                    Side::Negative => frames.augmentation(index).apply(&pose),
                });
                let people = pose.as_slice();
                Some(Ok(draw_poses(people, frames.drawn_size(), pose::Palette::default())))
            }
            Inner::Reading { path, reader, indices, held } => {
                let (first, rest) = indices.split_first()?;
                *indices = rest;
                loop {
                    if let Some((index, image)) = held
                        && index == first
                    {
                        return Some(Ok(image.clone()));
                    }
                    match reader.next_frame() {
                        Ok(Some(frame)) => *held = Some((frame.index, frame.image)),
                        Err(e) => return Some(Err(PipelineError::Media(e))),
                        Ok(None) => {
                            let (last, image) = held.as_ref()?;
                            // Containers may promise one frame too many; the last one stands in. More is damage.
                            return Some(if *first <= last + 1 {
                                Ok(image.clone())
                            } else {
                                Err(PipelineError::PoseEnds { path: path.clone(), found: last + 1, needed: first + 1 })
                            });
                        }
                    }
                }
            }
        }
    }
}

impl Iterator for PoseIter<'_> {
    type Item = Result<RgbImage, PipelineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let image = match self.inner.next_image()? {
            Ok(image) => image,
            Err(e) => return Some(Err(e)),
        };
        let [width, height] = self.geometry.reference;
        // Upstream: antialiased bicubic to the reference's own size first, then the same way as the reference.
        let resized = resize::bicubic_pil(&image, Size::new(width, height));
        Some(Ok(self.geometry.cropped(resized)))
    }
}
