//! From a video to keypoints: what the cache knows, and for the rest decoding in one thread, networks in the others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use image::RgbImage;
use media::video::{ReadOptions, VideoReader};
use pose::{FrameKeypoints, FrameRole, PoseEstimator, PoseProfile, ReferenceKeypoints};

use super::cache::{CacheKey, KeypointCache, hash_of, hash_of_bytes};
use super::files::PoseModels;
use crate::PipelineError;

/// Frames that are decoded ahead and estimated together, at most: bounds memory, not speed.
const MAX_BATCH: usize = 4;

/// Frames in flight on this machine.
pub(crate) fn batch_size() -> usize {
    rayon::current_num_threads().clamp(2, MAX_BATCH)
}

/// Finds people with networks that are opened at the first picture that the cache does not know.
pub(crate) struct PoseFinder<'a> {
    models: &'a PoseModels,
    profile: PoseProfile,
    cache: Option<PathBuf>,
    hashes: Option<[String; 2]>,
    networks: Option<Box<dyn PoseEstimator>>,
    /// Why keypoints were not kept.
    unsaved: Option<String>,
    open: &'a OpenNetworks<'a>,
    on_gpu: bool,
}

/// Opens detector and estimator.
pub(crate) type OpenNetworks<'a> =
    dyn Fn(&PoseModels, PoseProfile) -> Result<Box<dyn PoseEstimator>, PipelineError> + 'a;

/// The frames of a video that are wanted.
pub(crate) struct Wanted<'a> {
    pub video: &'a Path,
    pub options: &'a ReadOptions,
    /// Frame numbers, not falling.
    pub indices: &'a [usize],
}

/// Keypoints of chosen frames.
pub(crate) struct Found {
    /// Pixels of the frames.
    pub size: [u32; 2],
    /// One for each wanted index.
    pub frames: Vec<FrameKeypoints>,
    /// Different frames that were looked at.
    pub estimated: usize,
    /// Different frames that were known.
    pub cached: usize,
}

impl<'a> PoseFinder<'a> {
    pub fn new(models: &'a PoseModels, profile: PoseProfile, cache: Option<PathBuf>, open: &'a OpenNetworks) -> Self {
        Self { models, profile, cache, hashes: None, networks: None, unsaved: None, open, on_gpu: false }
    }

    /// The same with networks that compute on a GPU: what they find is near to what they find on the host, and kept apart from it.
    pub fn on_gpu(self, on_gpu: bool) -> Self {
        Self { on_gpu, ..self }
    }

    fn key(&mut self, role: &'static str, source: &Path) -> Result<CacheKey, PipelineError> {
        let hash = |path: &Path| hash_of(path).map_err(|e| unreadable(path, e));
        let [detector, estimator] = match &self.hashes {
            Some(hashes) => hashes.clone(),
            None => {
                let model = |path: &Path| {
                    hash_of(path).map_err(|e| PipelineError::Model { path: path.into(), problem: e.to_string() })
                };
                let hashes = match self.models {
                    PoseModels::Files(files) => [model(&files.detector)?, model(&files.estimator)?],
                    PoseModels::Embedded => models::DEMO.pose_networks().map(|bytes| hash_of_bytes(&[bytes])),
                };
                self.hashes.insert(hashes).clone()
            }
        };
        let profile = format!("{:?}{}", self.profile, if self.on_gpu { " on a GPU" } else { "" });
        Ok(CacheKey {
            role,
            source: hash(source)?,
            detector,
            estimator,
            profile,
            decoder: media::video::decoder_version(),
        })
    }

    fn open_cache(
        &mut self,
        role: &'static str,
        source: &Path,
        size: [u32; 2],
    ) -> Result<KeypointCache, PipelineError> {
        let Some(folder) = self.cache.clone() else {
            return Ok(KeypointCache::disabled(size));
        };
        Ok(KeypointCache::open(&folder, &self.key(role, source)?, size))
    }

    fn networks(&mut self) -> Result<&mut dyn PoseEstimator, PipelineError> {
        match &mut self.networks {
            Some(networks) => Ok(networks.as_mut()),
            none => Ok(none.insert((self.open)(self.models, self.profile)?).as_mut()),
        }
    }

    /// What one should know of the pictures that the networks saw.
    pub fn remarks(&self) -> Vec<String> {
        let seen = self.networks.as_ref().map(|networks| networks.remarks()).unwrap_or_default();
        seen.into_iter().chain(self.unsaved.clone()).collect()
    }

    /// The people of the reference picture, in pixels of the picture.
    pub fn reference(&mut self, path: &Path, picture: &RgbImage) -> Result<ReferenceKeypoints, PipelineError> {
        let (width, height) = picture.dimensions();
        let mut cache = self.open_cache("reference", path, [width, height])?;
        let people = match cache.get(0) {
            Some(known) => known.people.clone(),
            None => {
                let found = self.networks()?.estimate(FrameRole::Reference, picture)?;
                cache.insert(0, found.clone());
                found.people
            }
        };
        Ok(ReferenceKeypoints { width, height, people })
    }

    /// The people of the wanted frames. `done` hears the number of wanted frames that are ready, and may stop the work;
    /// what was found until then stays in the cache.
    pub fn video(
        &mut self,
        wanted: &Wanted,
        done: &mut dyn FnMut(usize) -> Result<(), PipelineError>,
    ) -> Result<Found, PipelineError> {
        let reader = VideoReader::open_with(wanted.video, wanted.options).map_err(PipelineError::Media)?;
        let size = [reader.info().width, reader.info().height];
        let mut cache = self.open_cache("driving", wanted.video, size)?;
        let all: BTreeSet<usize> = wanted.indices.iter().copied().collect();
        let missing: Vec<usize> = all.iter().copied().filter(|i| cache.get(*i).is_none()).collect();
        let ready = |count: usize| (wanted.indices.len() * count) / all.len().max(1);
        let mut count = all.len() - missing.len();
        done(ready(count))?;
        if !missing.is_empty() {
            let networks = self.networks()?;
            let found_frames = decode_ahead(reader, &missing, |first, frames| {
                let indices = &missing[first..first + frames.len()];
                let found = networks.estimate_batch(indices, &frames)?;
                for (index, keypoints) in indices.iter().zip(found) {
                    cache.insert(*index, keypoints);
                }
                count += frames.len();
                done(ready(count))
            })?;
            if all.iter().any(|i| cache.get(*i).is_none()) {
                let (path, needed) = (wanted.video.to_owned(), all.last().map_or(0, |i| i + 1));
                return Err(PipelineError::PoseEnds { path, found: found_frames, needed });
            }
        }
        cache.save();
        if let (Some(e), Some(folder)) = (cache.failure(), &self.cache) {
            self.unsaved = Some(format!("found keypoints could not be kept in {} ({e})", folder.display()));
        }
        let frames = wanted.indices.iter().map(|i| cache.get(*i).cloned().unwrap_or_default()).collect();
        Ok(Found { size, frames, estimated: missing.len(), cached: all.len() - missing.len() })
    }
}

/// Decodes the frames `indices` in a thread of its own and hands them over in batches, with the number of frames handed
/// over before → the number of frames decoded. Ends early where the video does; but containers may promise one frame too
/// many, and the last one stands in for that.
fn decode_ahead(
    mut reader: VideoReader,
    indices: &[usize],
    mut batch: impl FnMut(usize, Vec<RgbImage>) -> Result<(), PipelineError>,
) -> Result<usize, PipelineError> {
    let size = batch_size();
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(size);
        let decoder = scope.spawn(move || {
            let (mut rest, mut last, mut decoded) = (indices, None, 0);
            while let Some((wanted, after)) = rest.split_first() {
                let picture = match reader.next_frame() {
                    Ok(Some(frame)) => {
                        decoded = frame.index + 1;
                        last = Some(frame.image);
                        if frame.index != *wanted {
                            continue;
                        }
                        last.clone()
                    }
                    Ok(None) if *wanted == decoded => last.take(),
                    Ok(None) => None,
                    Err(e) => {
                        // The other side hangs up when it fails.
                        let _ = sender.send(Err(e));
                        None
                    }
                };
                rest = after;
                let Some(picture) = picture else { break };
                if sender.send(Ok(picture)).is_err() {
                    break;
                }
            }
            decoded
        });
        let mut handed = 0;
        while let Some(frames) = receive(&receiver, size)? {
            let count = frames.len();
            batch(handed, frames)?;
            handed += count;
        }
        Ok(decoder.join().unwrap_or_default())
    })
}

fn receive(receiver: &Receiver<media::Result<RgbImage>>, size: usize) -> Result<Option<Vec<RgbImage>>, PipelineError> {
    let frames: media::Result<Vec<RgbImage>> = receiver.iter().take(size).collect();
    let frames = frames.map_err(PipelineError::Media)?;
    Ok((!frames.is_empty()).then_some(frames))
}

fn unreadable(path: &Path, source: std::io::Error) -> PipelineError {
    PipelineError::Media(media::MediaError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use offload::Phase;
    use pose::{WHOLE_BODY_POINTS, WholeBody};

    use super::*;
    use crate::PoseModelFiles;

    /// Sees one person whose first coordinate is the picture's first sample, and counts its pictures.
    struct Fake(Arc<AtomicUsize>);

    impl PoseEstimator for Fake {
        fn estimate(&mut self, _: FrameRole, picture: &RgbImage) -> pose::Result<FrameKeypoints> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let points = [[f64::from(picture.as_raw()[0]), 0.0]; WHOLE_BODY_POINTS];
            Ok(FrameKeypoints { people: vec![WholeBody { points, scores: [1.0; WHOLE_BODY_POINTS] }] })
        }
    }

    /// A folder with a video of ten pictures, each in its own grey, and files that stand for networks.
    struct Scene {
        dir: tempfile::TempDir,
        models: PoseModels,
        seen: Arc<AtomicUsize>,
        on_gpu: bool,
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            std::fs::create_dir(at("video")).unwrap();
            for i in 0..10u8 {
                let picture = RgbImage::from_pixel(16, 16, image::Rgb([10 * i; 3]));
                picture.save(at(&format!("video/{i:02}.png"))).unwrap();
            }
            for name in ["detector", "estimator"] {
                std::fs::write(at(name), name).unwrap();
            }
            let files = PoseModelFiles { detector: at("detector"), estimator: at("estimator") };
            let models = PoseModels::Files(files);
            Self { models, seen: Arc::default(), dir, on_gpu: false }
        }

        fn find(
            &self,
            indices: &[usize],
            profile: PoseProfile,
            done: &mut dyn FnMut(usize) -> Result<(), PipelineError>,
        ) -> Result<Found, PipelineError> {
            let seen = self.seen.clone();
            let open: &OpenNetworks =
                &move |_: &PoseModels, _: PoseProfile| Ok(Box::new(Fake(seen.clone())) as Box<dyn PoseEstimator>);
            let cache = Some(self.dir.path().join("cache"));
            let mut finder = PoseFinder::new(&self.models, profile, cache, open).on_gpu(self.on_gpu);
            let video = self.dir.path().join("video");
            finder.video(&Wanted { video: &video, options: &ReadOptions::default(), indices }, done)
        }

        fn greys(&self, indices: &[usize]) -> Vec<f64> {
            let found = self.find(indices, PoseProfile::official(), &mut |_| Ok(())).unwrap();
            assert_eq!(found.size, [16, 16]);
            found.frames.iter().map(|f| f.people[0].points[0][0]).collect()
        }

        fn seen(&self) -> usize {
            self.seen.swap(0, Ordering::Relaxed)
        }
    }

    #[test]
    fn a_frame_is_looked_at_once() {
        let mut scene = Scene::new();
        assert_eq!(scene.greys(&[0, 2, 2, 5]), [0.0, 20.0, 20.0, 50.0]);
        assert_eq!(scene.seen(), 3);
        assert_eq!(scene.greys(&[0, 1, 2, 5, 9]), [0.0, 10.0, 20.0, 50.0, 90.0]);
        assert_eq!(scene.seen(), 2);
        // Other networks, another profile, another video: nothing is known.
        scene.find(&[0], PoseProfile::onnx(), &mut |_| Ok(())).unwrap();
        assert_eq!(scene.seen(), 1);
        std::fs::write(scene.dir.path().join("detector"), "another").unwrap();
        scene.greys(&[0]);
        assert_eq!(scene.seen(), 1);
        scene.on_gpu = true;
        scene.greys(&[0]);
        assert_eq!(scene.seen(), 1);
        RgbImage::new(16, 16).save(scene.dir.path().join("video/09.png")).unwrap();
        scene.greys(&[0]);
        assert_eq!(scene.seen(), 1);
    }

    #[test]
    fn what_was_found_outlives_an_interruption() {
        let scene = Scene::new();
        let all: Vec<usize> = (0..10).collect();
        let stopped = scene.find(&all, PoseProfile::official(), &mut |done| match done {
            0 => Ok(()),
            _ => Err(PipelineError::Cancelled { phase: Phase::Pose }),
        });
        assert!(matches!(stopped, Err(PipelineError::Cancelled { .. })));
        let before = scene.seen();
        assert!((1..10).contains(&before));
        scene.greys(&all);
        assert_eq!(scene.seen(), 10 - before);
    }

    #[test]
    fn progress_counts_wanted_frames_and_ends_complete() {
        let scene = Scene::new();
        let mut told = Vec::new();
        scene
            .find(&[0, 0, 1, 1, 2, 2], PoseProfile::official(), &mut |done| {
                told.push(done);
                Ok(())
            })
            .unwrap();
        assert!(told.is_sorted() && told.first() == Some(&0) && told.last() == Some(&6), "{told:?}");
    }

    #[test]
    fn one_frame_may_be_missing_at_the_end_and_no_more() {
        let scene = Scene::new();
        assert_eq!(scene.greys(&[8, 9, 10]), [80.0, 90.0, 90.0]);
        assert_eq!(scene.greys(&[0, 10]), [0.0, 90.0]);
        for lost in [&[0, 10, 11][..], &[0, 50]] {
            let lost = scene.find(lost, PoseProfile::onnx(), &mut |_| Ok(()));
            assert!(matches!(lost, Err(PipelineError::PoseEnds { found: 10, .. })));
        }
    }
}
