//! Keypoints → alignment → negative twin → drawn frame.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use pose::sizes::{canvas_base, detect_size};
use pose::{
    AlignedPose, Alignment, Aspects, Augmentation, FrameKeypoints, HandPairing, OpenPose, Palette, ScaleGuard, Size,
    WHOLE_BODY_POINTS, WholeBody, draw_poses,
};
use testkit::Case;

use crate::checks::{Checks, Report, number};

/// A differing pixel is one of an edge when both pictures have the other's colour this near, in pixels. (A limb's angle
/// is cut to whole degrees: half a degree more or less moves its ends by this.)
const EDGE_PX: i64 = 3;
/// So many pixels may differ at edges, as a fraction of the picture.
const EDGE_FRACTION: f64 = 1e-3;

pub fn run(case: &Case) -> Result<Report> {
    let mut checks = Checks::new(case);
    let sizes = Sizes::read(case)?;
    let clip = Clip::read(case)?;
    let (poses, degenerate) = clip.align(&sizes, ScaleGuard::Upstream)?;
    let tensor = |values: Vec<f64>, shape: &[usize]| Tensor::from_vec(values, shape, &Device::Cpu);
    let frames = poses.len();

    let seen = poses.iter().flat_map(|p| p.visible.into_iter().enumerate());
    // The reference marks a visible joint of the first person with its index.
    let visible: Vec<f64> = seen.map(|(i, seen)| if seen { i as f64 } else { -1.0 }).collect();
    if checks.has("visible") {
        checks.exact("visible", &visible)?;
    }
    let body: Vec<f64> = poses.iter().flat_map(|p| p.body).flatten().collect();
    checks.output("body", &tensor(body, &[frames, 18, 2])?)?;
    let hands: Vec<f64> = poses.iter().flat_map(|p| p.hands).flatten().flatten().collect();
    checks.output("hands", &tensor(hands, &[frames, 2, 21, 2])?)?;

    let last = poses.last().context("the case has no frame")?.clone();
    let png = case.path.with_extension("png");
    if png.is_file() {
        let reference = image::open(&png).with_context(|| png.display().to_string())?.into_rgb8();
        let ours = draw_poses(&[last], sizes.drawn, Palette::SteadyDancer);
        let differing = compare_drawn(&ours, &reference)?;
        checks.note(format!("{differing} of {} drawn pixels differ", reference.pixels().len()));
    } else {
        checks.note("no PNG beside it".to_owned());
    }
    // The guard that the program uses must leave normal people alone.
    if degenerate == 0 {
        let (robust, _) = clip.align(&sizes, ScaleGuard::default())?;
        ensure!(robust == poses, "first wrong stage: alignment under the robust guard differs from upstream's");
    }
    checks.finish()
}

/// What the case says of sizes, and what our rules make of the pictures; they must agree.
struct Sizes {
    reference_seen: Size,
    drive: Size,
    drive_seen: Size,
    canvas: Size,
    drawn: Size,
}

impl Sizes {
    fn read(case: &Case) -> Result<Self> {
        let given = |key: &str| -> Result<Option<Size>> {
            let Some(value) = case.config.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
            let [width, height]: [u32; 2] = serde_json::from_value(value.clone()).with_context(|| key.to_owned())?;
            Ok(Some(Size::new(width, height)))
        };
        let needed = |key: &str| given(key)?.with_context(|| format!("the case's config has no {key:?}"));
        let agree = |key: &str, ours: Size| -> Result<Size> {
            let theirs = given(key)?.unwrap_or(ours);
            ensure!(theirs == ours, "first wrong stage: {key}: ours {ours}, reference {theirs}");
            Ok(ours)
        };
        let canvas = match given("reference_size")? {
            Some(picture) => agree("aligned_size", canvas_base(picture)?)?,
            None => needed("aligned_size")?,
        };
        let drive = needed("drive_size")?;
        Ok(Self {
            reference_seen: agree("reference_detect_size", detect_size(canvas)?)?,
            drive,
            drive_seen: agree("drive_detect_size", detect_size(drive)?)?,
            canvas,
            drawn: agree("drawn_size", canvas.doubled())?,
        })
    }
}

/// The inputs of a case.
struct Clip {
    reference: FrameKeypoints,
    frames: Vec<FrameKeypoints>,
    threshold: f64,
    /// One a frame, for the negative twin.
    augmentations: Option<Vec<Augmentation>>,
}

impl Clip {
    fn read(case: &Case) -> Result<Self> {
        let frames = people(case, "drive")?;
        let augmentations = augmentations(case)?;
        let rows = augmentations.as_ref().map_or(frames.len(), Vec::len);
        ensure!(rows == frames.len(), "{rows} augmentations for {} frames", frames.len());
        Ok(Self {
            reference: people(case, "reference")?.into_iter().next().context("no reference person")?,
            frames,
            threshold: number(&case.config, "score_threshold").unwrap_or(pose::openpose::SCORE_THRESHOLD),
            augmentations,
        })
    }

    /// The pose of every frame, and how many scales were out of the ordinary.
    fn align(&self, sizes: &Sizes, guard: ScaleGuard) -> Result<(Vec<AlignedPose>, usize)> {
        let convert = |frame: &FrameKeypoints, size| {
            let pose = OpenPose::from_frame(frame, 0, size, self.threshold, HandPairing::Upstream);
            pose.context("a frame without a person")
        };
        let poses = self.frames.iter().map(|frame| convert(frame, sizes.drive_seen)).collect::<Result<Vec<_>>>()?;
        let aspects = Aspects { drive: sizes.drive.aspect(), canvas: sizes.canvas.aspect() };
        let first = poses.first().context("the case has no frame")?;
        let reference = convert(&self.reference, sizes.reference_seen)?;
        let (alignment, degenerate) = Alignment::measure(&reference, first, aspects, guard);
        let aligned = poses.iter().enumerate().map(|(i, pose)| match &self.augmentations {
            Some(given) => given[i].apply(&alignment.apply(pose)),
            None => alignment.apply(pose),
        });
        Ok((aligned.collect(), degenerate.len()))
    }
}

fn floats(x: &Tensor) -> Result<Vec<f32>> {
    Ok(x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}

/// Frames of people: `[T, P, 133, 2]`, or `[P, 133, 2]` for one frame.
fn people(case: &Case, which: &str) -> Result<Vec<FrameKeypoints>> {
    let points = case.input(&format!("{which}_keypoints"))?;
    let dims = points.dims();
    ensure!(dims.len() >= 3 && dims.ends_with(&[WHOLE_BODY_POINTS, 2]), "{which}_keypoints are {dims:?}");
    let persons = dims[dims.len() - 3];
    ensure!(persons > 0, "{which}_keypoints are {dims:?}: nobody");
    let points = decimals(&floats(&points)?);
    let scores = floats(&case.input(&format!("{which}_scores"))?)?;
    ensure!(points.len() == 2 * scores.len(), "{which}_scores do not fit {which}_keypoints");
    let everyone: Vec<WholeBody> = points
        .chunks_exact(2 * WHOLE_BODY_POINTS)
        .zip(scores.chunks_exact(WHOLE_BODY_POINTS))
        .map(|(points, scores)| WholeBody {
            points: std::array::from_fn(|i| [points[2 * i], points[2 * i + 1]]),
            scores: std::array::from_fn(|i| f64::from(scores[i])),
        })
        .collect();
    Ok(everyone.chunks_exact(persons).map(|people| FrameKeypoints { people: people.to_vec() }).collect())
}

/// The reference ran on numbers with two decimals, which the file holds in single precision; where that is what they
/// are, the decimals come back. (It decides on which side of ±180° an exactly horizontal limb falls.)
fn decimals(stored: &[f32]) -> Vec<f64> {
    let rounded: Vec<f64> = stored.iter().map(|&v| (f64::from(v) * 100.0).round_ties_even() / 100.0).collect();
    if rounded.iter().zip(stored).all(|(d, s)| *d as f32 == *s) {
        return rounded;
    }
    stored.iter().map(|&v| f64::from(v)).collect()
}

fn augmentations(case: &Case) -> Result<Option<Vec<Augmentation>>> {
    let Some(columns) = case.config.get("augmentation_columns").and_then(|c| c.as_array()) else {
        ensure!(case.component != "pose.negative", "a negative pose without augmentation_columns");
        return Ok(None);
    };
    let values = floats(&case.input("augmentation")?)?;
    ensure!(!columns.is_empty() && values.len().is_multiple_of(columns.len()), "augmentation does not fit its columns");
    let column = |name: &str| columns.iter().position(|c| c == name);
    let rows = values.chunks_exact(columns.len()).map(|row| {
        let value = |name: &str, absent| column(name).map_or(absent, |i| f64::from(row[i]));
        Augmentation {
            offset_x: value("offset_x", 0.0),
            offset_y: value("offset_y", 0.0),
            scale: value("scale", 1.0),
            aspect_ratio: value("aspect_ratio", 1.0),
        }
    });
    Ok(Some(rows.collect()))
}

/// How many pixels differ, if they do so at edges only.
fn compare_drawn(ours: &RgbImage, reference: &RgbImage) -> Result<usize> {
    let (found, size) = (ours.dimensions(), reference.dimensions());
    ensure!(found == size, "first wrong stage: drawn frame is {found:?}, reference {size:?}");
    let near = |picture: &RgbImage, x: u32, y: u32, colour| {
        let around = |centre: u32, end: u32| {
            (i64::from(centre) - EDGE_PX).max(0)..(i64::from(centre) + EDGE_PX + 1).min(i64::from(end))
        };
        around(y, size.1).any(|y| around(x, size.0).any(|x| picture.get_pixel(x as u32, y as u32) == colour))
    };
    let mut differing = 0;
    for ((x, y, a), b) in ours.enumerate_pixels().zip(reference.pixels()) {
        if a == b {
            continue;
        }
        differing += 1;
        if !near(reference, x, y, a) || !near(ours, x, y, b) {
            bail!("first wrong stage: drawn frame at ({x}, {y}), not at an edge: ours {:?}, reference {:?}", a.0, b.0);
        }
    }
    let allowed = (EDGE_FRACTION * reference.pixels().len() as f64) as usize;
    ensure!(differing <= allowed, "first wrong stage: drawn frame: {differing} edge pixels differ, allowed {allowed}");
    Ok(differing)
}

#[test]
fn a_missing_limb_is_no_edge() {
    let black = RgbImage::new(200, 200);
    let mut limb = black.clone();
    (90..170).for_each(|x| (96..104).for_each(|y| limb.put_pixel(x, y, image::Rgb([0, 0, 153]))));
    let error = compare_drawn(&black, &limb).expect_err("a limb is missing").to_string();
    assert!(error.contains("first wrong stage: drawn frame at (90, 96)"), "{error}");
    let mut moved = black.clone();
    (91..171).for_each(|x| (96..104).for_each(|y| moved.put_pixel(x, y, image::Rgb([0, 0, 153]))));
    assert_eq!(compare_drawn(&moved, &limb).expect("an edge"), 16);
}
