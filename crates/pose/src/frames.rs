//! A clip of keypoints → drawn positive and negative pose frames, one at a time.

use std::borrow::Cow;

use image::RgbImage;

use crate::align::joint::NECK;
use crate::align::{
    AlignedPose, Alignment, Aspects, DegenerateScale, ScaleGuard, facing, nearest_frame, shape_distance,
};
use crate::augment::{Augmentation, Augmenter};
use crate::draw::{Palette, draw_poses};
use crate::keypoints::{COCO_BODY_POINTS, FrameKeypoints, PoseClip};
use crate::openpose::{HIDDEN, OpenPose};
use crate::options::PoseOptions;
use crate::people::{Cast, cast, choose_in_picture};
use crate::performance::{Performance, Shown};
use crate::quality::{self, FrameRange, QualityReport, Warning};
use crate::sizes::{Size, canvas_of_area};
use crate::{PoseError, Result};

/// Aspect ratios that differ by more than this factor belong to different pictures.
const ASPECT_TOLERANCE: f64 = 1.05;

/// One frame drawn twice, at twice the canvas size ([`PoseFrames::drawn_size`]).
#[derive(Clone, Debug, PartialEq)]
pub struct PosePair {
    /// The pose to follow.
    pub positive: RgbImage,
    /// Its perturbed twin.
    pub negative: RgbImage,
}

/// Iterator over the drawn frames of a clip. Memory: the keypoints and poses (5 kB a person and frame) and the frame at hand.
#[derive(Clone, Debug)]
pub struct PoseFrames {
    clip: PoseClip,
    /// What each frame shows.
    poses: Vec<Vec<AlignedPose>>,
    /// The same before alignment.
    found: Vec<Vec<AlignedPose>>,
    shown: Vec<Shown>,
    scores: Vec<f64>,
    alignment: Alignment,
    augmenter: Augmenter,
    augmentations: Option<Vec<Augmentation>>,
    palette: Palette,
    canvas: Size,
    report: QualityReport,
    next: usize,
}

impl PoseFrames {
    /// Prepares a clip for a reference picture of the given size. Draws nothing yet, but finds every error there is.
    ///
    /// With [`PersonChoice::All`](crate::PersonChoice::All) everybody is drawn, each with an alignment of their own: the
    /// people shown in the align frame (if the picture has fewer, the largest) and those of the picture (likewise) are
    /// paired from left to right. Whoever has no counterpart gets the alignment of the largest who has.
    ///
    /// # Errors
    /// Invalid clips and settings, pictures without a canvas, a clip or reference without the chosen person, and reference
    /// keypoints of another picture.
    pub fn new(clip: PoseClip, reference: Size, options: PoseOptions) -> Result<Self> {
        clip.validate()?;
        options.validate(clip.frames.len())?;
        let canvas = canvas_of_area(reference, options.canvas_area)?;
        let aspects = Aspects { drive: clip.size().aspect(), canvas: canvas.aspect() };
        let targets = reference_poses(&clip, reference, &options)?;
        let cast = cast(&clip, options.person, options.identity, options.score_threshold)?;
        let driving = if options.mirror { Cow::Owned(clip.clone().mirrored()) } else { Cow::Borrowed(&clip) };
        let perform = |(i, role)| Performance::new(&driving, role, &cast.shots, i == 0, &options);
        let mut performances: Vec<Performance> = cast.roles.iter().enumerate().map(perform).collect();

        let align_frame = align_frame(&performances[0], &targets, aspects, &options, clip.fps);
        let fitted = fit(&performances, &targets, align_frame, aspects, options.guard);
        // The main role last, so that it is drawn over the others.
        let everyone = || performances.iter().zip(&fitted.alignments).rev();
        let pose = |i: usize| everyone().filter_map(move |(p, a)| Some(a.apply(p.poses.get(i)?.as_ref()?)));
        let poses: Vec<Vec<AlignedPose>> = (0..clip.frames.len()).map(|i| pose(i).collect()).collect();
        let report = Stage { clip: &driving, options: &options, cast: &cast, performances: &performances, aspects }
            .report(&poses, targets.first(), align_frame, &fitted);
        let found =
            |i: usize| performances.iter().rev().filter_map(move |p| Some(in_picture(p.poses.get(i)?.as_ref()?)));
        let mut found: Vec<Vec<AlignedPose>> = (0..clip.frames.len()).map(|i| found(i).collect()).collect();
        if options.mirror {
            found.iter_mut().flatten().for_each(flip);
        }
        let score = |(frame, person): (&FrameKeypoints, &Option<usize>)| {
            person.and_then(|p| frame.people.get(p)).map_or(0.0, |body| mean(&body.scores[..COCO_BODY_POINTS]))
        };
        let scores = clip.frames.iter().zip(&cast.roles[0].sightings).map(score).collect();
        let shown = performances.swap_remove(0).shown;
        drop(driving);
        Ok(Self {
            clip,
            poses,
            found,
            shown,
            scores,
            alignment: fitted.alignments[0],
            augmenter: Augmenter::new(options.seed),
            augmentations: options.augmentations,
            palette: options.palette,
            canvas,
            report,
            next: 0,
        })
    }

    /// The keypoints as they were given: not cleaned, not mirrored, everybody.
    pub fn clip(&self) -> &PoseClip {
        &self.clip
    }

    /// The poses of frame `index` before alignment, in fractions of the driving frame: cleaned, and where the people are.
    pub fn found(&self, index: usize) -> &[AlignedPose] {
        self.found.get(index).map_or(&[], Vec::as_slice)
    }

    /// Where the main person's pose of frame `index` comes from.
    pub fn shown(&self, index: usize) -> Shown {
        self.shown.get(index).copied().unwrap_or(Shown::Nothing)
    }

    /// Mean score of the main person's 17 body keypoints in frame `index`, 0 if the person was not found there.
    pub fn score(&self, index: usize) -> f64 {
        self.scores.get(index).copied().unwrap_or(0.0)
    }

    /// What was noticed about the clip.
    pub fn report(&self) -> &QualityReport {
        &self.report
    }

    /// Size of the drawn frames: twice the canvas.
    pub fn drawn_size(&self) -> Size {
        self.canvas.doubled()
    }

    /// The transform in use, with several people the main one's.
    pub fn alignment(&self) -> &Alignment {
        &self.alignment
    }

    /// The aligned poses that frame `index` shows, in the order of drawing, which is the main person last. Empty for an empty
    /// canvas or a frame beyond the clip.
    pub fn poses(&self, index: usize) -> &[AlignedPose] {
        self.poses.get(index).map_or(&[], Vec::as_slice)
    }

    /// The numbers of frame `index`'s negative pose.
    pub fn augmentation(&self, index: usize) -> Augmentation {
        let given = self.augmentations.as_ref();
        given.and_then(|given| given.get(index).copied()).unwrap_or_else(|| self.augmenter.frame(index))
    }

    /// Draws frame `index`, in any order; `None` beyond the clip.
    pub fn draw(&self, index: usize) -> Option<PosePair> {
        let positive = self.poses.get(index)?;
        let augmentation = self.augmentation(index);
        let negative: Vec<AlignedPose> = positive.iter().map(|p| augmentation.apply(p)).collect();
        let draw = |poses: &[AlignedPose]| draw_poses(poses, self.drawn_size(), self.palette);
        Some(PosePair { positive: draw(positive), negative: draw(&negative) })
    }
}

/// A pose where it was found, as something to be drawn.
fn in_picture(pose: &OpenPose) -> AlignedPose {
    AlignedPose { body: pose.body, visible: pose.visible, hands: pose.hands }
}

/// Left becomes right; hidden hand points stay hidden.
fn flip(pose: &mut AlignedPose) {
    let hands = pose.hands.iter_mut().flatten().filter(|p| **p != [HIDDEN; 2]);
    for point in pose.body.iter_mut().chain(hands) {
        point[0] = 1.0 - point[0];
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The reference people to be matched, the main one first; none if the clip has no reference.
fn reference_poses(clip: &PoseClip, picture: Size, options: &PoseOptions) -> Result<Vec<OpenPose>> {
    let Some(reference) = &clip.reference else {
        return Ok(Vec::new());
    };
    let size = Size::new(reference.width, reference.height);
    let change = size.aspect() / picture.aspect();
    if change.max(1.0 / change) > ASPECT_TOLERANCE {
        return Err(PoseError::ReferenceMismatch { keypoints: size, picture });
    }
    let threshold = options.score_threshold;
    let chosen =
        choose_in_picture(&reference.people, options.person, options.reference_person, reference.width, threshold)?;
    let pose = |i: usize| {
        let pose = OpenPose::from_whole_body(&reference.people[i], size, threshold);
        if options.guard == ScaleGuard::Upstream { pose } else { pose.settled() }
    };
    Ok(chosen.into_iter().map(pose).collect())
}

/// The frame to be measured, one in which the main person was found.
fn align_frame(main: &Performance, targets: &[OpenPose], aspects: Aspects, options: &PoseOptions, fps: f64) -> usize {
    let frames = main.poses.len();
    let seen: Vec<bool> = main.shown.iter().map(|&shown| shown == Shown::Seen).collect();
    // Without the neck the robust guard has no place to put the person.
    let with_neck: Vec<bool> = main
        .poses
        .iter()
        .zip(&seen)
        .map(|(pose, &seen)| seen && pose.as_ref().is_some_and(|pose| pose.visible[NECK]))
        .collect();
    let usable = if options.guard != ScaleGuard::Upstream && with_neck.contains(&true) { with_neck } else { seen };
    let nearest = || {
        let pose = |(pose, &usable): (&Option<OpenPose>, &bool)| pose.clone().filter(|_| usable);
        let candidates: Vec<Option<OpenPose>> = main.poses.iter().zip(&usable).map(pose).collect();
        targets.first().and_then(|target| nearest_frame(target, &candidates, aspects)).unwrap_or(0)
    };
    let wanted = options.align_frame.index(frames, fps).unwrap_or_else(nearest);
    (wanted..frames).chain((0..wanted).rev()).find(|&i| usable[i]).unwrap_or(wanted)
}

/// How each person is moved onto the canvas.
struct Fitted {
    /// One a performance.
    alignments: Vec<Alignment>,
    /// Of all pairs.
    degenerate: Vec<DegenerateScale>,
}

/// See [`PoseFrames::new`].
fn fit(performances: &[Performance], targets: &[OpenPose], at: usize, aspects: Aspects, guard: ScaleGuard) -> Fitted {
    let mut shown: Vec<usize> = (0..performances.len()).filter(|&i| performances[i].poses[at].is_some()).collect();
    shown.sort_by(|&a, &b| performances[b].area.total_cmp(&performances[a].area));
    let pairs = shown.len().min(targets.len());
    shown.truncate(pairs);
    let x = |pose: &OpenPose| pose.body[NECK][0];
    let mut targets: Vec<&OpenPose> = targets.iter().take(pairs).collect();
    targets.sort_by(|a, b| x(a).total_cmp(&x(b)));
    let mut from_left = shown.clone();
    let place = |i: usize| performances[i].poses[at].as_ref().map_or(0.0, x);
    from_left.sort_by(|&a, &b| place(a).total_cmp(&place(b)));

    let mut alignments = vec![None; performances.len()];
    let mut degenerate = Vec::new();
    for (&person, target) in from_left.iter().zip(targets) {
        let motion = performances[person].own_or_held_at(at);
        if let Some((alignment, found)) = Alignment::measure_clip(target, &motion, at, aspects, guard) {
            alignments[person] = Some(alignment);
            degenerate.extend(found);
        }
    }
    let rest = shown.first().and_then(|&largest| alignments[largest]).unwrap_or(Alignment::centred(aspects));
    Fitted { alignments: alignments.into_iter().map(|a| a.unwrap_or(rest)).collect(), degenerate }
}

/// What a report is about.
struct Stage<'a> {
    clip: &'a PoseClip,
    options: &'a PoseOptions,
    cast: &'a Cast,
    performances: &'a [Performance],
    aspects: Aspects,
}

impl Stage<'_> {
    fn report(
        &self,
        poses: &[Vec<AlignedPose>],
        target: Option<&OpenPose>,
        align_frame: usize,
        fitted: &Fitted,
    ) -> QualityReport {
        let main = &self.performances[0];
        let frames = poses.len();
        let own = main.own_poses();
        let facing = target.map(|target| facing(target, &own, self.aspects)).unwrap_or_default();
        let measured = main.poses[align_frame].as_ref();
        let presence = quality::presence(&own);
        let found = main.shown.iter().filter(|&&shown| shown == Shown::Seen).count();
        let ranges = |kind| FrameRange::of(main.frames(kind));
        let mut report = QualityReport {
            frames,
            detection_rate: found as f64 / frames as f64,
            missing: FrameRange::of((0..frames).filter(|&i| main.shown[i] != Shown::Seen)),
            interpolated: ranges(Shown::Interpolated),
            held: ranges(Shown::Held),
            blank: FrameRange::of((0..frames).filter(|&i| poses[i].is_empty())),
            tracks: self.cast.tracks,
            people: self.performances.len(),
            frames_with_several: self.clip.frames.iter().filter(|f| f.people.len() > 1).count(),
            cuts: self.cast.shots.iter().skip(1).map(|shot| shot.start).collect(),
            switches: self.cast.switches,
            mean_score: main.mean_score,
            jitter_px: main.jitter,
            filled_keypoints: main.cleaned.filled_keypoints,
            spikes: main.cleaned.spikes,
            limb_drift: quality::limb_drift(&own, self.aspects.drive),
            rarely_seen: quality::rarely_seen(&presence),
            hands_seen: quality::hands_seen(&own),
            out_of_frame_fraction: out_of_frame_fraction(poses),
            aligned: target.is_some(),
            align_frame,
            align_distance: target.zip(measured).and_then(|(target, pose)| shape_distance(target, pose, self.aspects)),
            scales: *fitted.alignments[0].scales(),
            degenerate_scales: fitted.degenerate.clone(),
            mirror: self.options.mirror,
            likely_mirrored: facing.mirrored,
            seen_from_behind: facing.behind,
            warnings: Vec::new(),
        };
        report.warnings = Warning::all(&report, &presence, target);
        report
    }
}

fn out_of_frame_fraction(poses: &[Vec<AlignedPose>]) -> f64 {
    let inside = |p: &[f64; 2]| p.iter().all(|v| (0.0..1.0).contains(v));
    let (mut visible, mut outside) = (0u64, 0u64);
    for pose in poses.iter().flatten() {
        for (point, _) in pose.body.iter().zip(pose.visible).filter(|(_, seen)| *seen) {
            visible += 1;
            outside += u64::from(!inside(point));
        }
    }
    if visible == 0 {
        return 0.0;
    }
    outside as f64 / visible as f64
}

impl Iterator for PoseFrames {
    type Item = PosePair;

    fn next(&mut self) -> Option<PosePair> {
        let pair = self.draw(self.next)?;
        self.next += 1;
        Some(pair)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.poses.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for PoseFrames {}
