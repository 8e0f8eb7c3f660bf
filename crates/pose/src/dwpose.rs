//! DWPose: a person detector, then a keypoint network on every person, each between its own preparation and decoding.
//!
//! Sources: DWPose (Yang et al., 2023, arXiv:2307.15880) as SteadyDancer runs it; which variant is a [`PoseProfile`].

use std::borrow::Cow;
use std::num::NonZeroUsize;

use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use media::resize::{self, area_opencv, cubic_opencv};
use rayon::prelude::*;

use crate::crop::{CROP, CropWindow, mirror};
use crate::detector::{DETECTOR_SIDE, Letterbox, PersonBox, candidates};
use crate::error::Network;
use crate::estimator::{FrameRole, PoseEstimator};
use crate::keypoints::{FrameKeypoints, WHOLE_BODY_POINTS, WholeBody};
use crate::profile::PoseProfile;
use crate::simcc::{SPLIT, Simcc};
use crate::sizes::{DETECT_SIDE, Size, canvas_base, detect_size};
use crate::{PoseError, Result};

/// Largest ratio of a picture's sides. At 1024 pixels across, more would be hundreds of megabytes.
pub const MAX_SIDE_RATIO: u32 = 16;

/// The two networks. Tensors are f32, channels last, and come in host memory; results may lie on any device.
///
/// Frames are run in parallel, so that both functions are called from several threads at once. A row of a result must
/// depend on the same row of the input alone.
pub trait PoseNetworks: Send + Sync {
    /// Side of the detector's input in pixels, a multiple of 32: 640 in everything released.
    fn detector_side(&self) -> usize {
        DETECTOR_SIDE
    }

    /// The keypoint network's input: 288x384 pixels in everything released.
    fn crop_size(&self) -> Size {
        CROP
    }

    /// YOLOX: `pictures` [batch, side, side, 3] in 0..255 → [batch, cells (8400 at 640), 5 + classes]: dx, dy, dw, dh in
    /// cells, objectness logit, class logits with person first; cells row by row at strides 8, 16, 32.
    ///
    /// # Errors
    /// The implementation's.
    fn detect(&self, pictures: &Tensor) -> candle_core::Result<Tensor>;

    /// The keypoint network: normalised `crops` [batch, height, width, 3] → SimCC logits of x [batch, 133, 2 · width] and of
    /// y [batch, 133, 2 · height].
    ///
    /// # Errors
    /// The implementation's.
    fn keypoints(&self, crops: &Tensor) -> candle_core::Result<(Tensor, Tensor)>;
}

impl<N: PoseNetworks + ?Sized> PoseNetworks for Box<N> {
    fn detector_side(&self) -> usize {
        (**self).detector_side()
    }

    fn crop_size(&self) -> Size {
        (**self).crop_size()
    }

    fn detect(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        (**self).detect(pictures)
    }

    fn keypoints(&self, crops: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        (**self).keypoints(crops)
    }
}

/// Settings of [`DwPose`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DwPoseOptions {
    /// The variant.
    pub profile: PoseProfile,
    /// Whether a picture without a detected person is taken for one person who fills it, as upstream does.
    ///
    /// It helps where somebody is there but was missed, as in a close-up of a face. In a picture without anybody it
    /// yields 133 keypoints at random places, mostly with low scores. [`DwPoseStatistics::whole_pictures`] counts them.
    pub whole_picture_fallback: bool,
    /// People that are followed up, best first; further boxes are only counted. A person costs about a fifth of what the
    /// detector costs, twice that with the flip test.
    pub max_people: NonZeroUsize,
    /// Frames of a batch that are worked on at once. Results do not depend on it, memory does: see [`DwPose`].
    pub frames_in_flight: NonZeroUsize,
}

impl DwPoseOptions {
    /// A profile with the usual settings: fallback as upstream, at most 8 people, a frame per thread but at most 4.
    pub fn new(profile: PoseProfile) -> Self {
        let at_least_one = |n| NonZeroUsize::new(n).unwrap_or(NonZeroUsize::MIN);
        Self {
            profile,
            whole_picture_fallback: true,
            max_people: at_least_one(8),
            frames_in_flight: at_least_one(rayon::current_num_threads().min(4)),
        }
    }
}

impl Default for DwPoseOptions {
    fn default() -> Self {
        Self::new(PoseProfile::default())
    }
}

/// What an estimator has seen so far, the reference picture included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DwPoseStatistics {
    /// Pictures looked at without an error.
    pub pictures: usize,
    /// Pictures without a detected person.
    pub without_person: usize,
    /// Those of them that were taken for a person as a whole: their keypoints deserve no trust.
    pub whole_pictures: usize,
    /// People whose keypoints were found, those of whole pictures not counted.
    pub people: usize,
    /// People beyond the limit, detected and left out.
    pub people_left_out: usize,
}

/// Finds people and their keypoints with DWPose's networks.
///
/// [`PoseEstimator::estimate_batch`] gives bit for bit what one frame after another gives. Memory a frame in flight,
/// what the networks need apart: with the official profile 12 bytes × detected width × given height while a picture is
/// resized (15 MB for 1280x720, 46 MB for 3840x2160), and 6 MB for the result at 16:9; then, with either profile, at most
/// 16 MB around the detector and 4 MB around the keypoint network, which takes one person (with the mirror image) at a time.
#[derive(Clone, Debug)]
pub struct DwPose<N> {
    networks: N,
    options: DwPoseOptions,
    statistics: DwPoseStatistics,
}

impl<N: PoseNetworks> DwPose<N> {
    /// An estimator that has seen nothing yet.
    pub fn new(networks: N, options: DwPoseOptions) -> Self {
        Self { networks, options, statistics: DwPoseStatistics::default() }
    }

    /// The settings.
    pub fn options(&self) -> &DwPoseOptions {
        &self.options
    }

    /// The networks.
    pub fn into_networks(self) -> N {
        self.networks
    }

    /// Counts over all pictures so far.
    pub fn statistics(&self) -> DwPoseStatistics {
        self.statistics
    }

    /// The people detected in a picture, best first, in its pixels; without limit and without fallback, and not counted.
    ///
    /// # Errors
    /// [`PoseError::Picture`] with the reason: an impossible picture, or a fault of the detector.
    pub fn boxes(&self, role: FrameRole, picture: &RgbImage) -> Result<Vec<PersonBox>> {
        let found = self.prepare(role, picture).and_then(|seen| {
            let [x, y] = back(&seen, picture);
            Ok(self.detect(&seen)?.into_iter().map(|b| b.scaled(x, y)).collect())
        });
        found.map_err(|source| in_picture(role, source))
    }

    /// 1. Resize; 2. boxes; 3. keypoints of each, in pixels of `picture`.
    fn find(&self, role: FrameRole, picture: &RgbImage) -> Result<(FrameKeypoints, DwPoseStatistics)> {
        let seen = self.prepare(role, picture)?;
        let mut boxes = self.detect(&seen)?;
        let detected = boxes.len();
        boxes.truncate(self.options.max_people.get());
        let mut statistics = DwPoseStatistics {
            pictures: 1,
            without_person: usize::from(detected == 0),
            whole_pictures: 0,
            people: boxes.len(),
            people_left_out: detected - boxes.len(),
        };
        if boxes.is_empty() && self.options.whole_picture_fallback {
            statistics.whole_pictures = 1;
            boxes.push(PersonBox::whole(size_of(&seen)));
        }
        let [x, y] = back(&seen, picture);
        let people = boxes.iter().map(|person| Ok(self.keypoints(&seen, person)?.scaled(x, y)));
        Ok((FrameKeypoints { people: people.collect::<Result<_>>()? }, statistics))
    }

    /// The picture at the size at which the networks look at it.
    fn prepare<'a>(&self, role: FrameRole, picture: &'a RgbImage) -> Result<Cow<'a, RgbImage>> {
        let profile = &self.options.profile;
        let given = size_of(picture);
        given.check("picture")?;
        let (short, long) = (given.width.min(given.height), given.width.max(given.height));
        if long > short.saturating_mul(MAX_SIDE_RATIO) {
            return Err(PoseError::TooLong { width: given.width, height: given.height, max: MAX_SIDE_RATIO });
        }
        let mut seen = Cow::Borrowed(picture);
        if profile.reference_canvas && role == FrameRole::Reference {
            seen = resized(seen, canvas_base(given)?, cubic_opencv);
        }
        if profile.detect_resize {
            let size = size_of(&seen);
            let grows = f64::from(size.width.min(size.height)) < DETECT_SIDE;
            seen = resized(seen, detect_size(size)?, if grows { cubic_opencv } else { area_opencv });
        }
        Ok(seen)
    }

    fn detect(&self, picture: &RgbImage) -> Result<Vec<PersonBox>> {
        let profile = &self.options.profile;
        let side = self.networks.detector_side();
        let letterbox = Letterbox::new(size_of(picture), side, profile);
        let mut samples = vec![0f32; letterbox.samples()];
        letterbox.write(picture, profile.detector_channels, &mut samples);
        let input = tensor(samples, (1, side, side, 3))?;
        let output = self.networks.detect(&input).map_err(PoseError::of_network)?;
        if !matches!(output.dims(), [1, _, _]) {
            let found = output.dims().to_vec();
            let (network, expected) = (Network::Detector, format!("[1, {}, 5 + classes]", candidates(side)));
            return Err(PoseError::NetworkShape { network, found, expected });
        }
        letterbox.people(&host(&output)?, profile)
    }

    /// Keypoints in pixels of `picture`.
    fn keypoints(&self, picture: &RgbImage, person: &PersonBox) -> Result<WholeBody> {
        let profile = &self.options.profile;
        let size = self.networks.crop_size();
        let [width, height] = [size.width, size.height].map(|side| side as usize);
        let window = CropWindow::around(person, size);
        let crops = if profile.flip_test { 2 } else { 1 };
        let mut samples = vec![0f32; crops * window.samples()];
        let (crop, mirrored) = samples.split_at_mut(window.samples());
        window.write(picture, profile.keypoint_channels, crop);
        mirror(crop, width, mirrored);
        let input = tensor(samples, (crops, height, width, 3))?;
        let (x, y) = self.networks.keypoints(&input).map_err(PoseError::of_network)?;
        let [columns, rows] = [SPLIT * width, SPLIT * height];
        for (output, bins) in [(&x, columns), (&y, rows)] {
            if output.dims() != [crops, WHOLE_BODY_POINTS, bins] {
                let found = output.dims().to_vec();
                let (network, expected) =
                    (Network::Keypoints, format!("[crops, 133, {columns}] and [crops, 133, {rows}]"));
                return Err(PoseError::NetworkShape { network, found, expected });
            }
        }
        let (x, y) = (host(&x)?, host(&y)?);
        let (x, mirrored_x) = x.split_at(WHOLE_BODY_POINTS * columns);
        let (y, mirrored_y) = y.split_at(WHOLE_BODY_POINTS * rows);
        let mirrored = profile.flip_test.then(|| Simcc::new(mirrored_x, mirrored_y)).transpose()?;
        let mut body = Simcc::new(x, y)?.decode(mirrored.as_ref());
        body.points = body.points.map(|point| window.to_picture(point));
        Ok(body)
    }

    fn count(&mut self, seen: DwPoseStatistics) {
        let all = &mut self.statistics;
        all.pictures += seen.pictures;
        all.without_person += seen.without_person;
        all.whole_pictures += seen.whole_pictures;
        all.people += seen.people;
        all.people_left_out += seen.people_left_out;
    }
}

impl<N: PoseNetworks> PoseEstimator for DwPose<N> {
    /// # Errors
    /// [`PoseError::Picture`] with the reason: [`PoseError::ImageSize`] or [`PoseError::TooLong`] for an impossible
    /// picture, [`PoseError::Estimator`] for a network that failed, [`PoseError::NetworkShape`] and
    /// [`PoseError::NetworkNotFinite`] for one that gave nonsense.
    fn estimate(&mut self, role: FrameRole, picture: &RgbImage) -> Result<FrameKeypoints> {
        let (keypoints, statistics) = self.find(role, picture).map_err(|source| in_picture(role, source))?;
        self.count(statistics);
        Ok(keypoints)
    }

    /// # Errors
    /// As [`PoseEstimator::estimate`], for the first frame that fails.
    fn estimate_batch(&mut self, numbers: &[usize], frames: &[RgbImage]) -> Result<Vec<FrameKeypoints>> {
        let mut batch = Vec::with_capacity(frames.len());
        // Groups, not one parallel loop: a thread that waits inside a network may begin another frame.
        let size = self.options.frames_in_flight.get();
        for (numbers, group) in numbers.chunks(size).zip(frames.chunks(size)) {
            let find = |(frame, number): (&RgbImage, &usize)| {
                let role = FrameRole::Driving(*number);
                self.find(role, frame).map_err(|source| in_picture(role, source))
            };
            let found: Vec<Result<_>> = group.par_iter().zip(numbers).map(find).collect();
            for frame in found {
                let (keypoints, statistics) = frame?;
                self.count(statistics);
                batch.push(keypoints);
            }
        }
        Ok(batch)
    }

    fn remarks(&self) -> Vec<String> {
        let DwPoseStatistics { people_left_out, .. } = self.statistics;
        let most = self.options.max_people;
        let crowd =
            || format!("{people_left_out} people beyond the best {most} of a picture were left out of the search");
        (people_left_out > 0).then(crowd).into_iter().collect()
    }
}

fn size_of(picture: &RgbImage) -> Size {
    Size::new(picture.width(), picture.height())
}

type Resize = fn(&RgbImage, resize::Size) -> RgbImage;

fn resized(picture: Cow<'_, RgbImage>, to: Size, resize: Resize) -> Cow<'_, RgbImage> {
    if size_of(&picture) == to {
        return picture;
    }
    Cow::Owned(resize(&picture, resize::Size::new(to.width as usize, to.height as usize)))
}

/// Factors from pixels of the picture that the networks see to pixels of the picture given.
fn back(seen: &RgbImage, given: &RgbImage) -> [f64; 2] {
    [(given.width(), seen.width()), (given.height(), seen.height())].map(|(to, from)| f64::from(to) / f64::from(from))
}

fn tensor(samples: Vec<f32>, shape: (usize, usize, usize, usize)) -> Result<Tensor> {
    Tensor::from_vec(samples, shape, &Device::Cpu).map_err(PoseError::of_network)
}

fn host(output: &Tensor) -> Result<Vec<f32>> {
    let values = output.to_dtype(DType::F32).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1());
    values.map_err(PoseError::of_network)
}

fn in_picture(picture: FrameRole, source: PoseError) -> PoseError {
    PoseError::Picture { picture, source: Box::new(source) }
}
