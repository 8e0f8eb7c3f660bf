//! The files of a preview, in a folder.

use std::io::Write;
use std::path::Path;

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ImageEncoder, RgbImage};
use media::MediaError;
use media::output::PendingFile;
use media::video::{AudioSource, Frame, FrameRate, ReadOptions, VideoReader, VideoWriter, WriterOptions};
use pose::keypoints::COCO_BODY_POINTS;
use pose::openpose::SCORE_THRESHOLD;
use pose::{Palette, PoseClip, PoseFrames, Warning, WholeBody, draw_poses};

use super::{Cell, Course, Panels, Scene, sheet, sheet_indices};
use crate::PipelineError;

/// Names of the files.
pub(crate) const KEYPOINTS: &str = "keypoints.json";
pub(crate) const POSES: &str = "pose.mp4";
pub(crate) const NEG_POSES: &str = "neg_pose.mp4";
pub(crate) const OVERLAY: &str = "overlay.mp4";
pub(crate) const SHEET: &str = "sheet.png";
pub(crate) const REPORT: &str = "report.json";

/// Whether a folder written here has files of this name.
pub(crate) fn is_ours(name: &str) -> bool {
    [KEYPOINTS, POSES, NEG_POSES, OVERLAY, SHEET, REPORT].contains(&name)
}

/// An error when the work shall stop.
type Check<'a> = &'a dyn Fn() -> Result<(), PipelineError>;

/// Everything that previews are made of.
pub(crate) struct Preview<'a> {
    pub frames: &'a PoseFrames,
    /// The driving video, if it is at hand.
    pub video: Option<&'a Path>,
    pub options: &'a ReadOptions,
    /// The driving video's frame of each pose, not falling.
    pub driving: &'a [usize],
    pub fps: f64,
    pub reference: Option<&'a RgbImage>,
    pub title: String,
}

impl Preview<'_> {
    /// Units of work of [`overlay`](Self::overlay) and [`poses`](Self::poses).
    pub fn len(&self) -> usize {
        self.driving.len()
    }

    fn panels(&self) -> Panels {
        let (driving, canvas) = (self.frames.clip().size(), self.frames.drawn_size());
        Panels::new([driving.width, driving.height], [canvas.width, canvas.height], self.reference)
    }

    /// What the frame `i` of the clip shows.
    fn scene(&self, i: usize) -> Scene {
        Scene {
            found: self.frames.found(i).to_vec(),
            aligned: self.frames.poses(i).to_vec(),
            boxes: boxes(self.frames.clip(), i),
            status: self.frames.shown(i),
        }
    }

    /// Calls `take` with the chosen poses' numbers (rising) and their driving frames; black pictures of the panels' size
    /// stand in for a video that is not at hand. `check` is asked at every frame that is decoded on the way.
    fn each_frame(
        &self,
        chosen: &[usize],
        panels: &Panels,
        check: Check,
        take: &mut dyn FnMut(usize, &RgbImage) -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let Some(video) = self.video else {
            let black = panels.black();
            return chosen.iter().try_for_each(|i| take(*i, &black));
        };
        let mut reader = VideoReader::open_with(video, self.options).map_err(PipelineError::Media)?;
        let mut current = None;
        for i in chosen {
            while current.as_ref().is_none_or(|frame: &Frame| frame.index < self.driving[*i]) {
                check()?;
                match reader.next_frame().map_err(PipelineError::Media)? {
                    Some(frame) => current = Some(frame),
                    // The last one stands in for what containers promise too much.
                    None => break,
                }
            }
            if let Some(frame) = &current {
                take(*i, &frame.image)?;
            }
        }
        Ok(())
    }

    fn sheet(&self, check: Check) -> Result<RgbImage, PipelineError> {
        let panels = self.panels();
        let mut cells = Vec::new();
        self.each_frame(&sheet_indices(self.len()), &panels, check, &mut |i, frame| {
            let shown = self.scene(i);
            cells.push(Cell {
                index: i,
                time_s: i as f64 / self.fps,
                found: panels.found(frame, &shown),
                fitted: panels.fitted(&shown),
                status: shown.status,
            });
            Ok(())
        })?;
        let report = self.frames.report();
        let course = Course {
            frames: (0..self.len()).map(|i| (self.frames.shown(i), self.frames.score(i))).collect(),
            align_frame: report.aligned.then_some(report.align_frame),
        };
        let warnings: Vec<String> = report.warnings.iter().map(advice).collect();
        Ok(sheet(&self.title, &cells, &course, &warnings))
    }

    /// Keypoints, report and contact sheet.
    pub fn report_files(&self, folder: &Path, check: Check) -> Result<(), PipelineError> {
        pose::json::write(&folder.join(KEYPOINTS), self.frames.clip())?;
        write_json(&folder.join(REPORT), self.frames.report())?;
        write_png(&folder.join(SHEET), &self.sheet(check)?)
    }

    /// The overlay video, with the driving video's sound.
    pub fn overlay(
        &self,
        path: &Path,
        done: &mut dyn FnMut() -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let panels = self.panels();
        let (width, height) = panels.size();
        let mut options = self.writer_options(width, height)?;
        options.crf = Some(20);
        options.audio = self.video.filter(|v| v.is_file()).map(|v| AudioSource { path: v.to_owned(), start_s: 0.0 });
        let mut writer = VideoWriter::create(path, &options).map_err(PipelineError::Output)?;
        let all: Vec<usize> = (0..self.len()).collect();
        self.each_frame(&all, &panels, &|| Ok(()), &mut |i, frame| {
            let picture = panels.frame(frame, i, i as f64 / self.fps, &self.scene(i));
            writer.write(&picture).map_err(PipelineError::Output)?;
            done()
        })?;
        writer.finish().map(drop).map_err(PipelineError::Output)
    }

    /// The poses as the network gets them, positive or negative, at twice the canvas.
    pub fn poses(
        &self,
        path: &Path,
        negative: bool,
        done: &mut dyn FnMut() -> Result<(), PipelineError>,
    ) -> Result<(), PipelineError> {
        let size = self.frames.drawn_size();
        let mut options = self.writer_options(size.width, size.height)?;
        // Flat colours on black: hardly larger, and edges stay where they are.
        options.crf = Some(10);
        let mut writer = VideoWriter::create(path, &options).map_err(PipelineError::Output)?;
        for i in 0..self.len() {
            let augmentation = self.frames.augmentation(i);
            let poses = self.frames.poses(i).iter();
            let poses: Vec<_> = poses.map(|p| if negative { augmentation.apply(p) } else { p.clone() }).collect();
            let picture = draw_poses(&poses, size, Palette::SteadyDancer);
            writer.write(&picture).map_err(PipelineError::Output)?;
            done()?;
        }
        writer.finish().map(drop).map_err(PipelineError::Output)
    }

    fn writer_options(&self, width: u32, height: u32) -> Result<WriterOptions, PipelineError> {
        let fps = FrameRate::from_f64(self.fps).map_err(PipelineError::Output)?;
        let mut options = WriterOptions::new(width, height, fps);
        options.preset = "veryfast".to_owned();
        Ok(options)
    }
}

/// A warning with the flag that may help.
pub(crate) fn advice(warning: &Warning) -> String {
    let flag = match warning {
        Warning::NotAligned => "--ref with --drive, or `reference` in the keypoint file",
        Warning::Mirrored => "--mirror",
        Warning::UnlikeReference { .. } | Warning::Scales { .. } => "--align-frame auto",
        Warning::Jitter { .. } => "--smooth 0.5",
        Warning::Switches { .. } => "--person",
        _ => return warning.to_string(),
    };
    format!("{warning} ({flag})")
}

/// Left, top, width and height of everybody in a frame, in fractions of it, around the body's keypoints that are seen.
fn boxes(clip: &PoseClip, index: usize) -> Vec<[f64; 4]> {
    let (width, height) = (f64::from(clip.width), f64::from(clip.height));
    let around = |person: &WholeBody| {
        let seen: Vec<[f64; 2]> =
            (0..COCO_BODY_POINTS).filter(|i| person.is_seen(*i, SCORE_THRESHOLD)).map(|i| person.points[i]).collect();
        let [x, y] = [0, 1].map(|axis| {
            let values = || seen.iter().map(|p| p[axis]);
            (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max))
        });
        (!seen.is_empty()).then(|| [x.0 / width, y.0 / height, (x.1 - x.0) / width, (y.1 - y.0) / height])
    };
    clip.frames.get(index).map(|frame| frame.people.iter().filter_map(around).collect()).unwrap_or_default()
}

/// Writes a PNG that appears only when complete.
fn write_png(path: &Path, picture: &RgbImage) -> Result<(), PipelineError> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive)
        .write_image(picture.as_raw(), picture.width(), picture.height(), image::ExtendedColorType::Rgb8)
        .map_err(|e| failed(path, &e))?;
    write_file(path, &bytes)
}

/// Writes a value as JSON that appears only when complete.
pub(crate) fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), PipelineError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| failed(path, &e))?;
    text.push(b'\n');
    write_file(path, &text)
}

/// Writes a file that appears only when complete.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), PipelineError> {
    let (pending, mut file) = PendingFile::create(path).map_err(PipelineError::Output)?;
    file.write_all(bytes).map_err(|e| failed(path, &e))?;
    pending.commit().map_err(PipelineError::Output)
}

/// The error of a file that cannot be written.
pub(crate) fn failed(path: &Path, error: &dyn std::fmt::Display) -> PipelineError {
    PipelineError::Output(MediaError::Write { path: path.to_owned(), reason: error.to_string() })
}
