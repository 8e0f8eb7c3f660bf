//! Settings of poses that have layers like all others (see [`values`](super::values)).

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};
use steadydance::{
    AlignFrame, EmbeddedPoses, FinderOptions, PersonChoice, PoseModelPlaces, PoseRecipe, PoseSettings, StoredModel, hub,
};

use super::known;
use super::values::named;

/// The pose networks' name among the known models.
const POSE_MODEL: &str = "dwpose";

/// The settings; what is not given is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(rename_all = "kebab-case")]
pub struct PoseValues {
    /// Who drives: largest, center, left, right, all, or a number counted from 0; decided for the whole clip [default: largest]
    #[arg(long, value_name = "WHO", help_heading = "Poses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub person: Option<PersonChoice>,
    /// Frame that is measured against the reference: a number as on the contact sheet, a time such as 1.5s, or auto for the
    /// most alike [default: 0]
    #[arg(long, value_name = "N|TIME|auto", help_heading = "Poses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub align_frame: Option<AlignFrame>,
    /// Smoothing of the motion, 0 (none) to 1; 0.5 is usual [default: 0]
    #[arg(long, value_name = "X", help_heading = "Poses", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smooth: Option<f64>,
    /// Longest gap in the motion that is filled by interpolation, in seconds [default: 0.5]
    #[arg(long, value_name = "SECONDS", help_heading = "Poses", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_gap: Option<f64>,
    /// Score below which a joint counts as unseen [default: the profile's, 0.35 or 0.3]
    #[arg(long, value_name = "X", help_heading = "Poses", allow_negative_numbers = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score_threshold: Option<f64>,
    /// Mirror the motion
    #[arg(long, value_name = "BOOL", help_heading = "Poses", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<bool>,
    /// Poses exactly as SteadyDancer's own program makes them: no tracking, no cleaning, no guards, its faults included
    #[arg(long, value_name = "BOOL", help_heading = "Poses", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_parity: Option<bool>,
    /// How people are found in a plain video: official (as SteadyDancer) or onnx (plain recipe, half the work)
    /// [default: official]
    #[arg(long, value_name = "HOW", help_heading = "Poses", value_parser = named::<PoseRecipe>)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pose_profile: Option<PoseRecipe>,
    /// YOLOX detector, .onnx or .pth [default: pulled by `models pull dwpose`, or beside the model]
    #[arg(long, value_name = "FILE", help_heading = "Poses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detector: Option<PathBuf>,
    /// DWPose keypoint network, .onnx or .pth [default: likewise]
    #[arg(long, value_name = "FILE", help_heading = "Poses")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimator: Option<PathBuf>,
    /// Whether found keypoints are kept for the next run with the same video [default: true]
    #[arg(long, value_name = "BOOL", help_heading = "Poses", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", hide_possible_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pose_cache: Option<bool>,
}

impl PoseValues {
    /// What is used when nothing is said.
    pub fn defaults() -> Self {
        let usual = PoseSettings::default();
        Self {
            person: Some(usual.person),
            align_frame: Some(usual.align_frame),
            smooth: Some(usual.smooth),
            max_gap: Some(usual.max_gap_s),
            mirror: Some(usual.mirror),
            upstream_parity: Some(usual.upstream_parity),
            pose_profile: Some(usual.recipe),
            pose_cache: Some(true),
            ..Self::default()
        }
    }

    /// Flags among these that count for nothing with keypoints, or (`drawn`) with poses that are drawn already; as a
    /// sentence.
    pub fn unused(&self, drawn: bool) -> Option<String> {
        let finding = [
            ("--pose-profile", self.pose_profile.is_some()),
            ("--detector", self.detector.is_some()),
            ("--estimator", self.estimator.is_some()),
            ("--pose-cache", self.pose_cache.is_some()),
        ];
        let fitting = [
            ("--person", self.person.is_some()),
            ("--align-frame", self.align_frame.is_some()),
            ("--smooth", self.smooth.is_some()),
            ("--max-gap", self.max_gap.is_some()),
            ("--score-threshold", self.score_threshold.is_some()),
            ("--mirror", self.mirror.is_some()),
            ("--upstream-parity", self.upstream_parity.is_some()),
        ];
        let flags = finding.into_iter().chain(fitting.into_iter().filter(|_| drawn));
        let given: Vec<&str> = flags.filter(|(_, given)| *given).map(|(flag, _)| flag).collect();
        let why = if drawn { "drawn poses are taken as they are" } else { "keypoints are known already" };
        (!given.is_empty()).then(|| format!("{why}: {} is not used", given.join(", ")))
    }

    /// As the engine takes them.
    pub fn settings(&self) -> PoseSettings {
        let usual = PoseSettings::default();
        PoseSettings {
            recipe: self.pose_profile.unwrap_or(usual.recipe),
            person: self.person.unwrap_or(usual.person),
            align_frame: self.align_frame.unwrap_or(usual.align_frame),
            smooth: self.smooth.unwrap_or(usual.smooth),
            max_gap_s: self.max_gap.unwrap_or(usual.max_gap_s),
            score_threshold: self.score_threshold.or(usual.score_threshold),
            canvas: None,
            mirror: self.mirror.unwrap_or(usual.mirror),
            upstream_parity: self.upstream_parity.unwrap_or(usual.upstream_parity),
        }
    }

    /// Where networks are looked for, and where found keypoints are kept. `beside` is the model's folder, `embedded` tells
    /// when the demo's own networks do; `None` leaves it to the model.
    pub fn finder(&self, beside: Option<PathBuf>, embedded: Option<EmbeddedPoses>) -> FinderOptions {
        let known = known::find(POSE_MODEL);
        let stored = known.and_then(|known| StoredModel::find(known, &hub::Cache::from_env(), None));
        let pulled = stored.map(|stored| stored.folder().to_owned());
        let cache = directories::ProjectDirs::from("", "", "steadydance").map(|d| d.cache_dir().join("poses"));
        FinderOptions {
            models: PoseModelPlaces {
                detector: self.detector.clone(),
                estimator: self.estimator.clone(),
                folders: beside.into_iter().chain(pulled).collect(),
                embedded,
            },
            cache: cache.filter(|_| self.pose_cache.unwrap_or(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_count_for_nothing_are_named() {
        let given = PoseValues { mirror: Some(true), detector: Some("d".into()), ..PoseValues::default() };
        assert_eq!(given.unused(false).unwrap(), "keypoints are known already: --detector is not used");
        assert!(given.unused(true).unwrap().contains("--detector, --mirror is"));
        assert_eq!(PoseValues::default().unused(true), None);
    }
}
