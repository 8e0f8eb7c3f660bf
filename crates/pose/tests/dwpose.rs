//! The estimator around networks that see painted people.

use candle_core::{Device, Tensor};
use image::{Rgb, RgbImage};
use pose::crop::{CROP, CropWindow};
use pose::profile::ChannelOrder;
use pose::{
    DwPose, DwPoseOptions, FrameRole, PersonBox, PoseError, PoseEstimator, PoseNetworks, PoseProfile, WholeBody,
};

const PROFILES: [PoseProfile; 2] = [PoseProfile::official(), PoseProfile::onnx()];
const DRIVING: FrameRole = FrameRole::Driving(0);

const BODY: [u8; 3] = [200, 20, 60];
/// The shoulders. The left one is on the viewer's right, so that mirror images can be told.
const MARK: [u8; 3] = [20, 220, 90];

/// Grey with upright red people, their shoulders marked at 30 % and 70 % of the width and 25 % of the height. The first
/// person is the reddest.
fn painted(width: u32, height: u32, people: &[[u32; 4]]) -> RgbImage {
    let mut picture = RgbImage::from_pixel(width, height, Rgb([110, 112, 114]));
    for (i, &[x1, y1, x2, y2]) in people.iter().enumerate() {
        let (w, h) = (x2 - x1, y2 - y1);
        let mark = (w.min(h) / 16).max(1);
        for (x, y) in (y1..y2).flat_map(|y| (x1..x2).map(move |x| (x, y))) {
            let near = |at: u32, v: u32| v.abs_diff(at) <= mark;
            let marked = near(y1 + h / 4, y) && (near(x1 + w * 3 / 10, x) || near(x1 + w * 7 / 10, x));
            let body = [BODY[0] - 15 * i as u8, BODY[1], BODY[2]];
            picture.put_pixel(x, y, Rgb(if marked { MARK } else { body }));
        }
    }
    picture
}

/// Where [`painted`] put the shoulders: right (keypoint 6), left (keypoint 5).
fn shoulders([x1, y1, x2, y2]: [u32; 4]) -> [[f64; 2]; 2] {
    let (w, h) = (x2 - x1, y2 - y1);
    [3, 7].map(|tenths| [x1 + w * tenths / 10, y1 + h / 4].map(f64::from))
}

/// Finds red rectangles, and marks within them, in tensors of the profile's channel order.
struct Painted(PoseProfile);

fn is_colour(pixel: &[f32], colour: [f32; 3], channels: ChannelOrder) -> bool {
    let rgb = match channels {
        ChannelOrder::Rgb => [pixel[0], pixel[1], pixel[2]],
        ChannelOrder::Bgr => [pixel[2], pixel[1], pixel[0]],
    };
    rgb.iter().zip(colour).all(|(a, b)| (a - b).abs() < 6.0)
}

impl PoseNetworks for Painted {
    fn detect(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, ..) = pictures.dims4()?;
        let samples: Vec<f32> = pictures.flatten_all()?.to_vec1()?;
        let mut raw = [[0.0f32, 0.0, 0.0, 0.0, -20.0, -20.0, -20.0]; 8400].concat().repeat(batch);
        for (picture, raw) in samples.chunks_exact(640 * 640 * 3).zip(raw.chunks_exact_mut(8400 * 7)) {
            let green = |p: &[f32]| (p[1] - f32::from(BODY[1])).abs() < 6.0;
            let bodies: Vec<_> = picture.chunks_exact(3).enumerate().filter(|(_, p)| green(p)).collect();
            for person in 0..10u8 {
                let colour = [BODY[0] - 15 * person, BODY[1], BODY[2]].map(f32::from);
                let hits = bodies.iter().filter(|(_, p)| is_colour(p, colour, self.0.detector_channels));
                let hits: Vec<_> = hits.map(|(i, _)| ((i % 640) as f32, (i / 640) as f32)).collect();
                if hits.is_empty() {
                    continue;
                }
                let edge = |axis: fn(&(f32, f32)) -> f32, pick: fn(f32, f32) -> f32| hits.iter().map(axis).reduce(pick);
                let sides = [|p: &(f32, f32)| p.0, |p: &(f32, f32)| p.1];
                let [(x, w), (y, h)] = sides.map(|axis| {
                    let (low, high) = (edge(axis, f32::min).unwrap_or(0.0), edge(axis, f32::max).unwrap_or(0.0) + 1.0);
                    ((low + high) / 2.0, high - low)
                });
                let (gx, gy) = ((x / 8.0).floor(), (y / 8.0).floor());
                let row = &mut raw[(gy * 80.0 + gx) as usize * 7..][..7];
                let confidence = 4.0 - f32::from(person) / 4.0;
                row.copy_from_slice(&[
                    x / 8.0 - gx,
                    y / 8.0 - gy,
                    (w / 8.0).ln(),
                    (h / 8.0).ln(),
                    confidence,
                    4.0,
                    -4.0,
                ]);
            }
        }
        Tensor::from_vec(raw, (batch, 8400, 7), &Device::Cpu)
    }

    fn keypoints(&self, crops: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (batch, ..) = crops.dims4()?;
        let samples: Vec<f32> = crops.flatten_all()?.to_vec1()?;
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for crop in samples.chunks_exact(384 * 288 * 3) {
            let (mean, deviation) = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]);
            let levels: Vec<f32> = crop.iter().enumerate().map(|(i, v)| v * deviation[i % 3] + mean[i % 3]).collect();
            let hits = levels.chunks_exact(3).enumerate();
            let hits = hits.filter(|(_, p)| is_colour(p, MARK.map(f32::from), self.0.keypoint_channels));
            let hits: Vec<_> = hits.map(|(i, _)| ((i % 288) as f32, (i / 288) as f32)).collect();
            let middle = hits.iter().map(|p| p.0).sum::<f32>() / hits.len().max(1) as f32;
            let centre = |right: bool| {
                let side: Vec<_> = hits.iter().filter(|p| (p.0 < middle) == right).collect();
                let n = side.len() as f32;
                (side.iter().map(|p| p.0).sum::<f32>() / n, side.iter().map(|p| p.1).sum::<f32>() / n)
            };
            for k in 0..133 {
                let at = match k {
                    5 if !hits.is_empty() => Some(centre(false)),
                    6 if !hits.is_empty() => Some(centre(true)),
                    _ => None,
                };
                let hill = |at: Option<f32>, bins: usize| {
                    let height = move |at: f32, bin: usize| 0.9 - (bin as f32 / 2.0 - at).abs() / 50.0;
                    (0..bins).map(move |bin| at.map_or(-0.2, |at| height(at, bin)))
                };
                xs.extend(hill(at.map(|p| p.0), 576));
                ys.extend(hill(at.map(|p| p.1), 768));
            }
        }
        let tensor = |values, bins| Tensor::from_vec(values, (batch, 133, bins), &Device::Cpu);
        Ok((tensor(xs, 576)?, tensor(ys, 768)?))
    }
}

fn estimator(profile: PoseProfile) -> DwPose<Painted> {
    DwPose::new(Painted(profile), DwPoseOptions::new(profile))
}

/// Roles between which a profile tells a difference.
fn roles(profile: &PoseProfile) -> &'static [FrameRole] {
    if profile.reference_canvas { &[DRIVING, FrameRole::Reference] } else { &[DRIVING] }
}

/// Largest distance of the shoulders from where they were painted, in pixels of the crop.
fn off(body: &WholeBody, person: [u32; 4]) -> f64 {
    let [x1, y1, x2, y2] = person.map(f64::from);
    let window = CropWindow::around(&PersonBox { x1, y1, x2, y2, score: 1.0 }, CROP);
    let pairs = shoulders(person).into_iter().zip([6, 5]);
    let distances = pairs.flat_map(|(expected, k)| {
        let (a, b) = (window.to_crop(body.points[k]), window.to_crop(expected));
        [(a[0] - b[0]).abs(), (a[1] - b[1]).abs()]
    });
    distances.fold(0.0, f64::max)
}

#[test]
fn people_are_found_where_they_are() {
    for profile in PROFILES {
        for (width, height, people) in [
            (640, 640, vec![[100, 100, 300, 600]]),
            (1280, 720, vec![[200, 60, 500, 700], [800, 100, 1100, 650]]),
            (720, 1280, vec![[100, 300, 600, 1200]]),
            (200, 150, vec![[20, 10, 100, 140]]),
            (3840, 2160, vec![[2200, 200, 3200, 2100], [100, 300, 900, 2000]]),
            // A tall one and a broad one at the edges.
            (900, 500, vec![[0, 0, 100, 500], [300, 200, 900, 450]]),
        ] {
            let picture = painted(width, height, &people);
            for &role in roles(&profile) {
                let mut estimator = estimator(profile);
                let found = estimator.estimate(role, &picture).unwrap().people;
                assert_eq!(found.len(), people.len(), "{profile} {width}x{height}");
                for (body, &person) in found.iter().zip(&people) {
                    let off = off(body, person);
                    assert!(off < 4.0, "{profile} {width}x{height} {person:?}: {off} pixels of the crop");
                    assert!(body.scores[5] > 0.8 && body.scores[6] > 0.8, "{:?}", &body.scores[5..7]);
                    assert!(body.scores[0] <= 0.0);
                }
                let boxes = estimator.boxes(role, &picture).unwrap();
                for (found, person) in boxes.iter().zip(&people) {
                    let tolerance = f64::from(width.max(height)) / 640.0 * 2.0;
                    for (found, painted) in [found.x1, found.y1, found.x2, found.y2].iter().zip(person) {
                        assert!((found - f64::from(*painted)).abs() < tolerance, "{found} for {painted}");
                    }
                }
                assert!(boxes.is_sorted_by(|a, b| a.score >= b.score));
            }
        }
    }
}

#[test]
fn a_network_that_expects_other_channels_finds_nobody() {
    let picture = painted(640, 480, &[[100, 100, 300, 400]]);
    let swapped = PoseProfile { detector_channels: ChannelOrder::Bgr, ..PoseProfile::official() };
    let estimator = DwPose::new(Painted(PoseProfile::official()), DwPoseOptions::new(swapped));
    assert_eq!(estimator.boxes(DRIVING, &picture).unwrap(), []);
}

#[test]
fn batches_are_bit_identical_to_single_frames() {
    let frames: Vec<RgbImage> = (0..5u32)
        .map(|i| match i {
            2 => painted(320, 240, &[]),
            3 => painted(150, 333, &[[10, 20, 130, 300]]),
            _ => painted(320, 240, &[[20 + 7 * i, 30, 130 + 5 * i, 230], [200, 40 + 3 * i, 300, 235]]),
        })
        .collect();
    for profile in PROFILES {
        let mut single = estimator(profile);
        let expected: Vec<_> =
            frames.iter().enumerate().map(|(i, f)| single.estimate(FrameRole::Driving(i), f).unwrap()).collect();
        for (in_flight, parts) in [(1, 5), (2, 3), (64, 4)] {
            let options =
                DwPoseOptions { frames_in_flight: in_flight.try_into().unwrap(), ..DwPoseOptions::new(profile) };
            let mut batched = DwPose::new(Painted(profile), options);
            let mut found = Vec::new();
            for part in frames.chunks(parts) {
                let numbers: Vec<usize> = (found.len()..).take(part.len()).collect();
                found.extend(batched.estimate_batch(&numbers, part).unwrap());
            }
            assert_eq!(found, expected);
            assert_eq!(batched.statistics(), single.statistics());
        }
    }
}

#[test]
fn a_batch_names_the_frame_that_failed() {
    let mut frames = vec![painted(64, 48, &[[10, 10, 40, 40]]); 6];
    frames[4] = RgbImage::new(0, 5);
    let onnx = DwPoseOptions::new(PoseProfile::onnx());
    let mut estimator =
        DwPose::new(Painted(onnx.profile), DwPoseOptions { frames_in_flight: 2.try_into().unwrap(), ..onnx });
    let error = estimator.estimate_batch(&[30, 31, 40, 50, 61, 62], &frames).unwrap_err();
    assert!(error.to_string().starts_with("driving frame 61: picture is 0x5"), "{error}");
    assert_eq!(estimator.statistics().pictures, 4);
}

#[test]
fn nobody_is_counted_and_may_be_left_out() {
    let empty = painted(100, 80, &[]);
    let mut upstream = estimator(PoseProfile::official());
    let found = upstream.estimate(DRIVING, &empty).unwrap();
    assert_eq!(found.people.len(), 1);
    let statistics = upstream.statistics();
    assert_eq!((statistics.pictures, statistics.without_person, statistics.whole_pictures), (1, 1, 1));
    assert_eq!(statistics.people, 0);
    // Score −0.2: bin −1, which is half a pixel outside of the crop of the whole picture.
    let window = CropWindow::around(&PersonBox::whole(pose::Size::new(100, 80)), CROP);
    let expected = window.to_picture([-0.5, -0.5]);
    for (ours, expected) in found.people[0].points[0].iter().zip(expected) {
        // The official profile rounds the sides before.
        assert!((ours - expected).abs() < 2.0, "{ours} {expected}");
    }

    let options = DwPoseOptions { whole_picture_fallback: false, ..DwPoseOptions::default() };
    let mut strict = DwPose::new(Painted(options.profile), options);
    assert_eq!(strict.estimate(DRIVING, &empty).unwrap().people, []);
    let statistics = strict.statistics();
    assert_eq!((statistics.pictures, statistics.without_person, statistics.whole_pictures), (1, 1, 0));
}

#[test]
fn a_crowd_is_cut_to_its_best() {
    let crowd: Vec<[u32; 4]> = (0..5).map(|i| [20 + 120 * i, 50, 110 + 120 * i, 300]).collect();
    let picture = painted(640, 360, &crowd);
    let options = DwPoseOptions { max_people: 2.try_into().unwrap(), ..DwPoseOptions::default() };
    let mut few = DwPose::new(Painted(options.profile), options);
    let all = estimator(options.profile).estimate(DRIVING, &picture).unwrap();
    assert_eq!(all.people.len(), 5);
    assert_eq!(few.estimate(DRIVING, &picture).unwrap().people, all.people[..2]);
    assert_eq!((few.statistics().people, few.statistics().people_left_out), (2, 3));
    assert_eq!(few.boxes(DRIVING, &picture).unwrap().len(), 5);
}

#[test]
fn pictures_of_any_possible_size_work() {
    for profile in PROFILES {
        for (width, height) in [(1, 1), (1, 16), (3, 2), (31, 3)] {
            let picture = painted(width, height, &[]);
            for &role in roles(&profile) {
                let found = estimator(profile).estimate(role, &picture).unwrap();
                assert_eq!(found.people.len(), 1, "{profile} {width}x{height}");
                assert!(found.people[0].points.iter().flatten().all(|v| v.is_finite()));
            }
        }
        let message = |picture: &RgbImage| estimator(profile).estimate(FrameRole::Driving(7), picture).unwrap_err();
        assert_eq!(
            message(&RgbImage::new(1, 17)).to_string(),
            "driving frame 7: picture is 1x17; people are looked for in pictures at most 16 times as long as wide: crop it"
        );
        assert_eq!(
            message(&RgbImage::new(0, 5)).to_string(),
            "driving frame 7: picture is 0x5; each side must be 1 to 65535 pixels"
        );
    }
}

/// Networks with one fault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    DetectorFails,
    DetectorShape,
    DetectorRank,
    DetectorNan,
    BoxOverflows,
    KeypointsFail,
    KeypointsShape,
    KeypointsInfinite,
}

impl PoseNetworks for Fault {
    fn detect(&self, pictures: &Tensor) -> candle_core::Result<Tensor> {
        let good = Painted(PoseProfile::official()).detect(pictures)?;
        let mut raw: Vec<f32> = good.flatten_all()?.to_vec1()?;
        match self {
            Fault::DetectorFails => candle_core::bail!("no weights"),
            Fault::DetectorShape => return good.narrow(1, 0, 8399),
            Fault::DetectorRank => return good.squeeze(0),
            Fault::DetectorNan => raw[8000 * 7 + 6] = f32::NAN,
            Fault::BoxOverflows => raw[..7].copy_from_slice(&[0.0, 0.0, 1e30, 0.0, 5.0, 5.0, 0.0]),
            _ => (),
        }
        Tensor::from_vec(raw, good.dims(), &Device::Cpu)
    }

    fn keypoints(&self, crops: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let (x, y) = Painted(PoseProfile::official()).keypoints(crops)?;
        match self {
            Fault::KeypointsFail => candle_core::bail!("no weights"),
            Fault::KeypointsShape => Ok((y, x)),
            Fault::KeypointsInfinite => Ok((x, (y / 0.0)?)),
            _ => Ok((x, y)),
        }
    }
}

#[test]
fn faults_of_networks_name_picture_and_network() {
    let frames = vec![painted(320, 240, &[[50, 50, 150, 200]]); 3];
    let detector = "the person detector (YOLOX) gave";
    let keypoints = "the keypoint network (DWPose) gave";
    let damaged = "expected finite numbers: its weights file is damaged or of another model";
    let other = "its weights are of another model";
    for (fault, message) in [
        (Fault::DetectorFails, "pose estimation failed: no weights".to_owned()),
        (Fault::DetectorShape, format!("{detector} [58793], expected [1, 8400, 5 + classes]: {other}")),
        (Fault::DetectorRank, format!("{detector} [8400, 7], expected [1, 8400, 5 + classes]: {other}")),
        (Fault::DetectorNan, format!("{detector} NaN, {damaged}")),
        (Fault::BoxOverflows, format!("{detector} -inf, {damaged}")),
        (Fault::KeypointsFail, "pose estimation failed: no weights".to_owned()),
        (
            Fault::KeypointsShape,
            format!("{keypoints} [2, 133, 768], expected [crops, 133, 576] and [crops, 133, 768]: {other}"),
        ),
        (Fault::KeypointsInfinite, format!("{keypoints} -inf, {damaged}")),
    ] {
        let mut estimator = DwPose::new(fault, DwPoseOptions::default());
        let error = estimator.estimate_batch(&(40..40 + frames.len()).collect::<Vec<_>>(), &frames).unwrap_err();
        let PoseError::Picture { picture, source } = error else { panic!("{fault:?}: {error}") };
        assert_eq!(picture, FrameRole::Driving(40), "the first of the frames");
        assert_eq!(source.to_string().lines().next().unwrap(), message, "{fault:?}");
        assert_eq!(estimator.statistics().pictures, 0);
    }
}
