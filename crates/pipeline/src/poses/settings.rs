//! What can be asked of poses, the same for a run and for finding poses alone.

use std::path::Path;

use pose::keypoints::COCO_BODY_POINTS;
use pose::sizes::{CANVAS_AREA, CANVAS_AREAS, MAX_SIDE, canvas_of_area};
use pose::{AlignFrame, PersonChoice, PoseClip, PoseFrames, PoseOptions, PoseProfile, Size};
use serde::{Deserialize, Serialize};

use crate::preview::advice;
use crate::{PipelineError, RequestError};

/// Which of the two ways in circulation finds the keypoints; see [`PoseProfile`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoseRecipe {
    /// As SteadyDancer's own program, with the flip test.
    #[default]
    Official,
    /// The plain recipe that comes with the ONNX files; half the work.
    Onnx,
}

impl PoseRecipe {
    /// The constants.
    pub fn profile(self) -> PoseProfile {
        match self {
            PoseRecipe::Official => PoseProfile::official(),
            PoseRecipe::Onnx => PoseProfile::onnx(),
        }
    }
}

/// What [`canvas_fits`] takes, in words.
pub(crate) const CANVAS_WANTED: &str =
    "width and height of 16 to 65535 pixels and an area of 4096 to 16777216, such as 1024 and 576";

/// Whether poses can be drawn on a canvas of the area of this width and height.
pub(crate) fn canvas_fits([width, height]: [usize; 2]) -> bool {
    let sides = 16..=MAX_SIDE as usize;
    sides.contains(&width) && sides.contains(&height) && CANVAS_AREAS.contains(&(width as f64 * height as f64))
}

/// How people are found, chosen, cleaned and fitted to the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoseSettings {
    /// How keypoints are found in plain videos.
    pub recipe: PoseRecipe,
    /// Who drives.
    pub person: PersonChoice,
    /// The frame that is measured against the reference.
    pub align_frame: AlignFrame,
    /// Strength of smoothing, 0 (none) to 1.
    pub smooth: f64,
    /// Longest gap in the motion that is interpolated, in seconds, 0 to 10.
    pub max_gap_s: f64,
    /// Keypoints that score below are not seen; `None` is the recipe's.
    pub score_threshold: Option<f64>,
    /// Width and height of a canvas whose area poses are drawn on, each 16 to 65535 and their product 4096 to 16777216;
    /// `None` is the model's own, else SteadyDancer's 1024x576.
    pub canvas: Option<[usize; 2]>,
    /// Whether the motion is mirrored.
    pub mirror: bool,
    /// Everything as upstream does it, faults included: nothing else here counts then but `recipe` and `align_frame`.
    pub upstream_parity: bool,
}

impl Default for PoseSettings {
    fn default() -> Self {
        Self {
            recipe: PoseRecipe::default(),
            person: PersonChoice::default(),
            align_frame: AlignFrame::default(),
            smooth: 0.0,
            max_gap_s: 0.5,
            score_threshold: None,
            canvas: None,
            mirror: false,
            upstream_parity: false,
        }
    }
}

impl PoseSettings {
    /// Checks every number.
    ///
    /// # Errors
    /// Says what was found and what is allowed.
    pub fn validate(&self) -> Result<(), RequestError> {
        let check = |name, found: f64, low: f64, high: f64| match (low..=high).contains(&found) {
            true => Ok(()),
            false => Err(RequestError::PoseSetting { name, found, low, high }),
        };
        check("smooth", self.smooth, 0.0, 1.0)?;
        check("max_gap", self.max_gap_s, 0.0, 10.0)?;
        check("score_threshold", self.threshold(), 0.0, 2.0)?;
        match self.canvas {
            Some(found) if !canvas_fits(found) => Err(RequestError::PoseCanvas { found }),
            _ => Ok(()),
        }
    }

    /// Checks what depends on the number of frames.
    ///
    /// # Errors
    /// The align frame is beyond the clip.
    pub(crate) fn check_frames(&self, frames: usize) -> Result<(), RequestError> {
        match self.align_frame {
            AlignFrame::Index(found) if found >= frames => Err(RequestError::AlignFrame { found, frames }),
            _ => Ok(()),
        }
    }

    /// The settings that parity with upstream leaves out although they were changed, as a note.
    pub(crate) fn ignored(&self) -> Option<String> {
        let usual = Self::default();
        let changed = [
            ("person", self.person != usual.person),
            ("smooth", self.smooth != usual.smooth),
            ("max-gap", self.max_gap_s != usual.max_gap_s),
            ("score-threshold", self.score_threshold != usual.score_threshold),
            ("mirror", self.mirror != usual.mirror),
        ];
        let names: Vec<&str> = changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect();
        let ignored = self.upstream_parity && !names.is_empty();
        ignored.then(|| format!("upstream parity knows no {}: it counts for nothing here", names.join(", ")))
    }

    /// The poses of a clip from `path`, and what is to be said of them.
    pub(crate) fn poses(
        &self,
        clip: PoseClip,
        picture: Size,
        seed: u64,
        path: &Path,
    ) -> Result<(PoseFrames, Vec<String>), PipelineError> {
        let people = || clip.frames.iter().flat_map(|frame| &frame.people);
        let best = people().flat_map(|person| &person.scores[..COCO_BODY_POINTS]).copied().fold(0.0, f64::max);
        let (threshold, anybody) = (self.threshold(), people().next().is_some());
        if anybody && best <= threshold && !self.upstream_parity {
            return Err(PipelineError::NothingSeen { path: path.to_owned(), threshold, best });
        }
        let options = self.options(seed, clip.fps);
        let asked = options.align_frame.index(clip.frames.len(), clip.fps);
        let frames = PoseFrames::new(clip, picture, options)?;
        let mut notes: Vec<String> = frames.report().warnings.iter().map(advice).collect();
        let measured = frames.report().align_frame;
        if asked.is_some_and(|asked| asked != measured) && frames.report().aligned {
            notes.push(format!(
                "the align frame does not show the person well enough; frame {measured} is measured instead"
            ));
        }
        Ok((frames, notes))
    }

    /// The score from which on a keypoint counts as seen.
    pub(crate) fn threshold(&self) -> f64 {
        self.score_threshold.unwrap_or(self.recipe.profile().visibility_threshold)
    }

    /// The canvas for a picture of this size.
    ///
    /// # Errors
    /// The picture has none.
    pub(crate) fn canvas_for(&self, picture: Size) -> Result<Size, PipelineError> {
        Ok(canvas_of_area(picture, self.canvas_area())?)
    }

    fn canvas_area(&self) -> f64 {
        self.canvas.map_or(CANVAS_AREA, |[width, height]| width as f64 * height as f64)
    }

    /// As the pose chain takes them, for a clip at `fps`.
    pub(crate) fn options(&self, seed: u64, fps: f64) -> PoseOptions {
        if self.upstream_parity {
            let canvas_area = self.canvas_area();
            return PoseOptions { align_frame: self.align_frame, seed, canvas_area, ..PoseOptions::upstream() };
        }
        PoseOptions {
            person: self.person,
            align_frame: self.align_frame,
            smooth: self.smooth,
            max_gap: Some((self.max_gap_s * fps).round() as usize),
            score_threshold: self.threshold(),
            mirror: self.mirror,
            canvas_area: self.canvas_area(),
            seed,
            ..PoseOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_named() {
        let usual = PoseSettings::default();
        assert!(usual.validate().is_ok());
        for canvas in [[64, 64], [1024, 576], [4096, 4096]] {
            assert!(PoseSettings { canvas: Some(canvas), ..usual.clone() }.validate().is_ok());
        }
        for (name, wrong) in [
            ("smooth", PoseSettings { smooth: 1.5, ..usual.clone() }),
            ("max_gap", PoseSettings { max_gap_s: -1.0, ..usual.clone() }),
            ("score_threshold", PoseSettings { score_threshold: Some(f64::NAN), ..usual.clone() }),
            ("canvas", PoseSettings { canvas: Some([0, 0]), ..usual.clone() }),
            ("canvas", PoseSettings { canvas: Some([10_000, 10_000]), ..usual.clone() }),
            ("canvas", PoseSettings { canvas: Some([63, 64]), ..usual.clone() }),
            ("canvas", PoseSettings { canvas: Some([8, 4096]), ..usual.clone() }),
            ("canvas", PoseSettings { canvas: Some([usize::MAX; 2]), ..usual.clone() }),
        ] {
            let text = wrong.validate().unwrap_err().to_string();
            assert!(text.starts_with(name), "{text}");
        }
    }

    #[test]
    fn parity_says_what_it_leaves_out() {
        let usual = PoseSettings { upstream_parity: true, ..PoseSettings::default() };
        assert_eq!(usual.ignored(), None);
        let note = PoseSettings { mirror: true, smooth: 0.2, ..usual }.ignored().unwrap();
        assert!(note.contains("smooth, mirror") && !note.contains("person"), "{note}");
        assert_eq!(PoseSettings { mirror: true, ..PoseSettings::default() }.ignored(), None);
    }

    #[test]
    fn gaps_are_seconds_and_thresholds_the_recipes() {
        let settings = PoseSettings { recipe: PoseRecipe::Onnx, ..PoseSettings::default() };
        let options = settings.options(7, 30.0);
        assert_eq!((options.max_gap, options.score_threshold, options.seed), (Some(15), 0.3, 7));
    }
}
