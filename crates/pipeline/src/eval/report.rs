//! What an evaluation tells: `report.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::set::MOST_BYTES;
use super::{Drive, EvalError, METRICS, Scores, SetInfo};
use crate::files::small_text;
use crate::{HeldDType, PipelineError, PoseSettings, Settings};

/// Value of the report's `format`.
pub(super) const FORMAT: &str = "steadydance-eval-report";
/// Value of its `version`; a number goes up when a field changes its meaning.
pub(super) const VERSION: u64 = 1;

/// The whole outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalReport {
    /// Always `steadydance-eval-report`.
    pub format: String,
    /// 1.
    pub version: u64,
    /// Name and version of the program.
    pub program: String,
    /// Folder of the set, as it was given.
    pub set_folder: String,
    /// What the set says of itself, with the pairs that were judged.
    pub set: SetInfo,
    /// The model; `None` when ready-made videos were judged.
    pub model: Option<ModelNote>,
    /// Folder of the ready-made videos.
    pub outputs: Option<String>,
    /// What drove the clips; `None` for ready-made videos.
    pub drive: Option<Drive>,
    /// Numbers of every clip, the seed among them; `None` for ready-made videos.
    pub settings: Option<Settings>,
    /// How poses were found and fitted; its canvas is the model's, and `None` SteadyDancer's.
    pub pose: PoseSettings,
    /// The networks that found the driving poses; `None` unless the plain clips drove.
    #[serde(default)]
    pub driver: Option<NetworksNote>,
    /// The prompt of every clip; `None` means each pair's own.
    pub prompt: Option<String>,
    /// What no clip must show; `None` is the model's customary negative prompt.
    pub negative_prompt: Option<String>,
    /// Frames of each clip that were made and judged.
    pub num_frames: usize,
    /// The networks that looked for joints in the results; without them joints are not judged.
    pub judge: Option<JudgeNote>,
    /// Mean and median over pairs by metric.
    pub summary: BTreeMap<String, Summary>,
    /// The pairs, in the set's order.
    pub pairs: Vec<Judged>,
    /// Mean wall-clock seconds that a clip took to make; `None` for ready-made videos.
    pub seconds_per_clip: Option<f64>,
    /// Wall-clock seconds of this call, judging included; of pairs that an interrupted call had finished, nothing.
    pub seconds: f64,
    /// Largest resident size that the process had, in bytes, where the system tells.
    pub peak_rss_bytes: Option<u64>,
}

/// The model of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelNote {
    /// Say `SteadyDancer-14B`.
    pub label: String,
    /// Parameters of all components.
    pub parameters: u64,
    /// Its files.
    pub files: Vec<String>,
    /// Tells weights apart: of the embedded model the SHA-256 of its bytes, of files (shards among them) their sizes
    /// and times of change, and of the files with the model's sizes the SHA-256.
    pub identity: String,
    /// Precision of matrices that was asked for.
    pub dtype: Option<HeldDType>,
    /// LoRAs in the order in which they are added.
    #[serde(default)]
    pub loras: Vec<LoraNote>,
}

/// A LoRA of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraNote {
    /// Its file's name, or that of an embedded one.
    pub name: String,
    /// By which its differences are multiplied.
    pub strength: f64,
    /// Tells its content apart: path, size and time of change of a file, the SHA-256 of bytes.
    pub identity: String,
}

/// Networks that find poses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworksNote {
    /// File of the detector; `embedded` for the one inside the program.
    pub detector: String,
    /// File of the estimator.
    pub estimator: String,
    /// Tells their contents apart: sizes and times of change of files, the SHA-256 of the embedded ones.
    #[serde(default)]
    pub identity: String,
}

/// The networks of a judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeNote {
    /// Which.
    #[serde(flatten)]
    pub networks: NetworksNote,
    /// Whether the very same networks found the driving poses: their mistakes then count as right.
    pub same_as_driver: bool,
}

/// One pair's outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Name of the pair.
    pub name: String,
    /// Seed that the pair was made of.
    pub seed: Option<u64>,
    /// The metrics.
    pub scores: Scores,
    /// Forwards of the transformer; `None` for ready-made videos.
    pub forwards: Option<usize>,
    /// Wall-clock seconds that the clip took to make; `None` for ready-made videos.
    pub seconds: Option<f64>,
    /// The contact sheet, in the report's folder.
    pub sheet: String,
    /// The clip, in the report's folder, if it was kept.
    pub video: Option<String>,
}

/// A metric over all pairs that have it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median; of an even number of values the mean of the middle two.
    pub median: f64,
    /// Pairs that have the metric.
    pub pairs: usize,
}

impl Summary {
    /// Of some values; none of nothing.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (count, half) = (values.len(), values.len() / 2);
        let middle = values.get(half)?;
        let median = if count % 2 == 0 { (values.get(half.wrapping_sub(1))? + middle) / 2.0 } else { *middle };
        Some(Self { mean: values.iter().sum::<f64>() / count as f64, median, pairs: count })
    }
}

/// Every metric that some pair has.
pub(super) fn summarize(pairs: &[Judged]) -> BTreeMap<String, Summary> {
    let of = |metric: &super::Metric| {
        let values = pairs.iter().filter_map(|p| (metric.of)(&p.scores)).collect();
        Some((metric.key.to_owned(), Summary::of(values)?))
    };
    METRICS.iter().filter_map(of).collect()
}

impl EvalReport {
    /// Reads a `report.json`.
    ///
    /// # Errors
    /// It cannot be read, is something else, or is of another version.
    pub fn read(path: &Path) -> Result<Self, PipelineError> {
        let wrong = |problem: String| EvalError::Report { path: path.to_owned(), problem };
        let text = small_text(path, MOST_BYTES).map_err(|e| wrong(format!("cannot be read ({e})")))?;
        let head: Head = serde_json::from_str(&text).map_err(|e| wrong(format!("no report ({e})")))?;
        if head.format != FORMAT || head.version != VERSION {
            let found = format!("format {:?} version {}", head.format, head.version);
            return Err(wrong(format!("{found}; this program reads {FORMAT:?} version {VERSION}")).into());
        }
        Ok(serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?)
    }

    /// The pairs from the worst on: by the gain over the baselines, then by the PSNR of the figure.
    pub fn worst_first(&self) -> Vec<&Judged> {
        let key = |pair: &Judged| pair.scores.gain.or(pair.scores.psnr_figure).unwrap_or(f64::NEG_INFINITY);
        let mut pairs: Vec<&Judged> = self.pairs.iter().collect();
        pairs.sort_by(|a, b| key(a).total_cmp(&key(b)));
        pairs
    }
}

/// What tells reports from other files.
#[derive(Deserialize)]
struct Head {
    format: String,
    version: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        let of = |values: &[f64]| Summary::of(values.to_vec()).map(|s| (s.mean, s.median, s.pairs));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3.0]), Some((3.0, 3.0, 1)));
        assert_eq!(of(&[9.0, 1.0, 2.0]), Some((4.0, 2.0, 3)));
        assert_eq!(of(&[1.0, 9.0, 2.0, 4.0]), Some((4.0, 3.0, 4)));
    }
}
