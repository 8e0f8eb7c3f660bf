//! Where pose frames come from: a list of frame numbers that is known early, and pictures that are made or read when
//! their turn comes.

use std::path::{Path, PathBuf};

use image::RgbImage;
use kernels::cuda::Gpu;
use media::resize::{self, Size};
use media::video::{self, FrameMode, FrameRate, ReadOptions, ShortClip, VideoReader};
use offload::PhaseJob;
use pose::{PoseClip, PoseFrames, draw_poses};

use crate::error::PUPPETS_ONLY;
use crate::geometry::Geometry;
use crate::needs::pose_phase;
use crate::poses::{FinderOptions, Search, Wanted};
use crate::progress::Progress;
use crate::{AnimateRequest, Motion, PipelineError, PoseModelPlaces, PoseModels, RequestError, Timing};

/// The motion with everything decided that headers and keypoints can tell.
pub(crate) struct ResolvedMotion {
    source: Source,
    /// Frames of the clip.
    pub num_frames: usize,
    /// Whether there are negative poses.
    pub has_negative: bool,
    /// What one might not expect.
    pub notes: Vec<String>,
    /// Width and height of the reference picture.
    reference: [usize; 2],
}

enum Source {
    Keypoints { frames: Box<PoseFrames>, driving: Vec<usize> },
    Drawn { pose: PathBuf, neg_pose: Option<PathBuf>, indices: Vec<usize>, options: ReadOptions },
    Video { drive: PathBuf, indices: Vec<usize>, options: ReadOptions, models: PoseModels },
}

/// Keypoints, the pose being drawn, and the reference picture of this width and height as it is decoded and cropped.
pub(crate) fn poses_at_hand(picture: [usize; 2]) -> u64 {
    const BASE: u64 = 12 << 20;
    const COPIES: u64 = 5;
    BASE + COPIES * 3 * (picture[0] as u64).saturating_mul(picture[1] as u64)
}

/// Positive or negative poses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Positive,
    Negative,
}

impl ResolvedMotion {
    /// Reads keypoints or container headers; draws, detects and decodes nothing.
    pub fn new(
        request: &AnimateRequest,
        reference: [usize; 2],
        places: &PoseModelPlaces,
    ) -> Result<Self, PipelineError> {
        let fps = request.settings.fps;
        let size = pose::Size::new(reference[0] as u32, reference[1] as u32);
        let mut notes: Vec<String> = request.pose.ignored().into_iter().collect();
        match &request.motion {
            Motion::Video { drive } => {
                let options = read_options(fps)?;
                let indices = choose_frames(request, &complete_times(drive, &options)?, &mut notes)?;
                request.pose.check_frames(indices.len())?;
                request.pose.canvas_for(size)?;
                let models = PoseModels::find(places)?;
                if models == PoseModels::Embedded {
                    notes.push(PUPPETS_ONLY.to_owned());
                }
                let num_frames = indices.len();
                let source = Source::Video { drive: drive.clone(), indices, options, models };
                Ok(Self { source, num_frames, has_negative: true, notes, reference })
            }
            Motion::Keypoints { file, .. } => {
                let clip = read_keypoints(file, request.motion.drive(), fps)?;
                let indices = choose_frames(request, &keypoint_times(&clip), &mut notes)?;
                request.pose.check_frames(indices.len())?;
                let driving = driving_frames(&request.motion, &indices, clip.fps)?;
                let clip = clip.select(&indices, fps)?;
                notes.extend(video_note(&request.motion, &clip)?);
                let (frames, more) = request.pose.poses(clip, size, request.settings.seed, file)?;
                notes.extend(more);
                Ok(Self {
                    num_frames: indices.len(),
                    source: Source::Keypoints { frames: Box::new(frames), driving },
                    has_negative: true,
                    notes,
                    reference,
                })
            }
            Motion::Drawn { pose, neg_pose, .. } => {
                let options = read_options(fps)?;
                let times = complete_times(pose, &options)?;
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
                    reference,
                })
            }
        }
    }

    /// Units of work that [`ready`](Self::ready) reports.
    pub fn work(&self) -> usize {
        if matches!(self.source, Source::Video { .. }) { self.num_frames } else { 1 }
    }

    /// Memory for weights and frames in flight while poses are found; poses that are there need next to nothing.
    ///
    /// # Errors
    /// The detector cannot be used.
    pub fn phase(&self) -> Result<PhaseJob, PipelineError> {
        match &self.source {
            Source::Video { models, .. } => models.phase(self.num_frames),
            _ => Ok(pose_phase(0, poses_at_hand(self.reference), 0)),
        }
    }

    /// Finds poses if that is still to be done, on this GPU if there is one.
    ///
    /// # Errors
    /// Nobody in the pictures, networks that cannot be used, and damaged videos.
    pub fn ready(
        &self,
        request: &AnimateRequest,
        options: &FinderOptions,
        picture: &RgbImage,
        gpu: Option<&Gpu>,
        progress: &mut Progress,
    ) -> Result<ReadyMotion<'_>, PipelineError> {
        let Source::Video { drive, indices, options: read_options, models } = &self.source else {
            progress.advance(1)?;
            return Ok(ReadyMotion { motion: self, found: None });
        };
        let fps = request.settings.fps;
        let wanted = Wanted { video: drive, options: read_options, indices };
        let search = Search { models, settings: &request.pose, options, gpu };
        let clip = search.run(&wanted, Some((&request.reference, picture)), fps, progress)?.clip;
        let size = pose::Size::new(picture.width(), picture.height());
        let (frames, notes) = request.pose.poses(clip, size, request.settings.seed, drive)?;
        notes.into_iter().for_each(|note| progress.note(note));
        Ok(ReadyMotion { motion: self, found: Some(Box::new(frames)) })
    }
}

/// A motion whose poses are all there.
pub(crate) struct ReadyMotion<'a> {
    motion: &'a ResolvedMotion,
    found: Option<Box<PoseFrames>>,
}

impl ReadyMotion<'_> {
    /// The poses, unless they came as pictures, and the driving frame of each.
    pub fn poses(&self) -> Option<(&PoseFrames, &[usize])> {
        match (&self.motion.source, &self.found) {
            (Source::Video { indices, .. }, Some(frames)) => Some((frames, indices)),
            (Source::Keypoints { frames, driving }, _) => Some((frames, driving)),
            _ => None,
        }
    }

    /// The pose pictures of one side, at the size of the cropped reference, one at a time. Side by side with nothing:
    /// an absent negative side gives no frames.
    pub fn frames(&self, side: Side, geometry: Geometry) -> Result<PoseIter<'_>, PipelineError> {
        let inner = match (&self.motion.source, side, self.poses()) {
            (_, _, Some((frames, _))) => Inner::Drawing { frames, side, next: 0, count: self.motion.num_frames },
            (Source::Drawn { pose, indices, options, .. }, Side::Positive, _) => reading(pose, indices, options)?,
            (Source::Drawn { neg_pose: Some(neg), indices, options, .. }, Side::Negative, _) => {
                reading(neg, indices, options)?
            }
            _ => Inner::Nothing,
        };
        Ok(PoseIter { inner, geometry })
    }
}

fn read_options(folder_fps: f64) -> Result<ReadOptions, PipelineError> {
    Ok(ReadOptions { folder_fps: FrameRate::from_f64(folder_fps).map_err(PipelineError::Media)? })
}

/// Reads a keypoint file. OpenPose files do not tell their frame rate; the driving video does, or `fps` is taken.
pub(crate) fn read_keypoints(file: &Path, drive: Option<&Path>, fps: f64) -> Result<PoseClip, PipelineError> {
    let drive_fps = drive.and_then(|d| video::probe(d).ok()).map(|info| info.avg_fps);
    let openpose_fps = drive_fps.filter(|f| *f > 0.0).unwrap_or(fps);
    Ok(pose::json::read(file, pose::json::ReadOptions { openpose_fps: Some(openpose_fps) })?)
}

/// When each entry of a keypoint file is, in seconds.
pub(crate) fn keypoint_times(clip: &PoseClip) -> Vec<f64> {
    (0..clip.frames.len()).map(|i| i as f64 / clip.fps).collect()
}

/// The video's frame that goes with each chosen entry: its own number, or for entries of a keypoint file at `file_fps`
/// the video's frame nearest in time. The video may have another rate than its keypoints.
pub(crate) fn driving_frames(motion: &Motion, indices: &[usize], file_fps: f64) -> Result<Vec<usize>, PipelineError> {
    let (Motion::Keypoints { .. }, Some(drive)) = (motion, motion.drive()) else {
        return Ok(indices.to_vec());
    };
    let times = video::timestamps(drive, &ReadOptions::default()).map_err(PipelineError::Media)?;
    let nearest = |index: &usize| {
        let time = *index as f64 / file_fps;
        let after = times.partition_point(|t| *t < time).min(times.len().saturating_sub(1));
        let before = after.saturating_sub(1);
        let distance = |i: usize| times.get(i).map_or(f64::INFINITY, |t| (t - time).abs());
        if distance(before) <= distance(after) { before } else { after }
    };
    Ok(indices.iter().map(nearest).collect())
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

/// Keypoints and a video of another shape hardly belong together.
pub(crate) fn video_note(motion: &Motion, clip: &PoseClip) -> Result<Option<String>, PipelineError> {
    let (Motion::Keypoints { .. }, Some(drive)) = (motion, motion.drive()) else { return Ok(None) };
    let info = video::probe(drive).map_err(PipelineError::Media)?;
    let change = f64::from(info.width) / f64::from(info.height.max(1)) / clip.size().aspect();
    let differs = change.max(1.0 / change) > 1.05;
    let (width, height) = (info.width, info.height);
    Ok(differs.then(|| {
        format!(
            "the keypoints are of a {} video, {} is {width}x{height}: do they belong together?",
            clip.size(),
            drive.display()
        )
    }))
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
                let augmentation = frames.augmentation(index);
                let poses = frames.poses(index).iter().map(|pose| match side {
                    Side::Positive => pose.clone(),
                    Side::Negative => augmentation.apply(pose),
                });
                let poses: Vec<_> = poses.collect();
                Some(Ok(draw_poses(&poses, frames.drawn_size(), pose::Palette::default())))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The video has 16 frames a second (a folder's rate), the keypoints have other rates.
    #[test]
    fn keypoints_meet_the_frames_of_their_time() {
        let dir = tempfile::tempdir().unwrap();
        for i in 0..9 {
            RgbImage::new(16, 16).save(dir.path().join(format!("{i}.png"))).unwrap();
        }
        let file = PathBuf::from("keypoints.json");
        let motion = Motion::Keypoints { file: file.clone(), drive: Some(dir.path().to_owned()) };
        let frames = |indices: &[usize], fps| driving_frames(&motion, indices, fps).unwrap();
        assert_eq!(frames(&[0, 1, 2, 4], 16.0), [0, 1, 2, 4]);
        assert_eq!(frames(&[0, 1, 2], 4.0), [0, 4, 8]);
        assert_eq!(frames(&[0, 1, 2, 3, 4], 32.0), [0, 0, 1, 1, 2]);
        assert_eq!(frames(&[50], 16.0), [8]);
        let alone = Motion::Keypoints { file, drive: None };
        assert_eq!(driving_frames(&alone, &[3, 5], 1.0).unwrap(), [3, 5]);
    }
}
