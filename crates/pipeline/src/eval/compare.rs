//! Two reports side by side.

use std::path::Path;

use serde::Serialize;

use super::{EvalError, EvalReport, Judged, METRICS, Metric, SetInfo};
use crate::PipelineError;

/// Metrics of which a fall is a failure.
const GUARDED: [&str; 2] = ["psnr", "psnr_figure"];

/// One metric of two reports: means over the pairs that both have, with that metric in both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// Key of the metric.
    pub metric: &'static str,
    /// For people.
    pub label: &'static str,
    /// Unit; empty for plain numbers.
    pub unit: &'static str,
    /// The earlier report's mean.
    pub before: f64,
    /// This report's mean.
    pub now: f64,
    /// Whether this report is better; `None` for the same, and for metrics that are no merit.
    pub better: Option<bool>,
    /// Pairs it is of.
    pub pairs: usize,
}

/// How a report differs from an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Metrics that both have, in the order of reports.
    pub metrics: Vec<Difference>,
    /// What makes the comparison lame: other settings, pairs that one of them lacks.
    pub notes: Vec<String>,
}

impl Comparison {
    /// The PSNR (of the picture or of the figure) that fell by more than `tolerance_db`, if one did.
    pub fn fall(&self, tolerance_db: f64) -> Option<&Difference> {
        let guarded = self.metrics.iter().filter(|d| GUARDED.contains(&d.metric));
        guarded
            .filter(|d| d.before - d.now > tolerance_db)
            .max_by(|a, b| (a.before - a.now).total_cmp(&(b.before - b.now)))
    }
}

impl EvalReport {
    /// Whether this report, which was read from `path`, can be compared with one of that set and those pairs.
    ///
    /// # Errors
    /// It is of another set, they have no pair in common, or it has no PSNR of such a pair.
    pub fn suits(&self, set: &SetInfo, path: &Path) -> Result<(), PipelineError> {
        let then = &self.set;
        let differs = [
            ("generator", set.generator != then.generator, format!("{:?}", then.generator)),
            ("split", set.split != then.split, format!("{:?}", then.split)),
            ("size", (set.width, set.height) != (then.width, then.height), format!("{}x{}", then.width, then.height)),
            ("frames", set.frames != then.frames, then.frames.to_string()),
            ("fps", set.fps != then.fps, then.fps.to_string()),
            ("settle", set.settle != then.settle, then.settle.to_string()),
        ];
        let differs: Vec<String> =
            differs.into_iter().filter(|d| d.1).map(|(name, _, value)| format!("its {name} is {value}")).collect();
        let path = path.to_owned();
        if !differs.is_empty() {
            return Err(EvalError::OtherSet { path, differs: differs.join(", ") }.into());
        }
        let mut common = set.pairs.iter().filter_map(|pair| self.pair(&pair.name, pair.seed)).peekable();
        if common.peek().is_none() {
            return Err(EvalError::NothingInCommon { path }.into());
        }
        match common.any(|pair| pair.scores.psnr.or(pair.scores.psnr_figure).is_some()) {
            true => Ok(()),
            false => Err(EvalError::Report { path, problem: "none of the pairs has a PSNR in it".to_owned() }.into()),
        }
    }

    fn pair(&self, name: &str, seed: Option<u64>) -> Option<&Judged> {
        self.pairs.iter().find(|pair| pair.name == name && pair.seed == seed)
    }

    /// Compares with an earlier report, which was read from `path`.
    ///
    /// # Errors
    /// As [`suits`](Self::suits).
    pub fn compare(&self, before: &EvalReport, path: &Path) -> Result<Comparison, PipelineError> {
        before.suits(&self.set, path)?;
        let common: Vec<_> =
            self.pairs.iter().filter_map(|now| Some((before.pair(&now.name, now.seed)?, now))).collect();
        let difference = |metric: &Metric| {
            let values: Vec<(f64, f64)> =
                common.iter().filter_map(|(b, n)| Some(((metric.of)(&b.scores)?, (metric.of)(&n.scores)?))).collect();
            let mean = |of: fn(&(f64, f64)) -> f64| values.iter().map(of).sum::<f64>() / values.len() as f64;
            let (before, now) = (mean(|v| v.0), mean(|v| v.1));
            let higher = metric.higher_is_better.filter(|_| before != now);
            let Metric { key, label, unit, .. } = *metric;
            let better = higher.map(|higher| (now > before) == higher);
            let pairs = values.len();
            (pairs > 0).then_some(Difference { metric: key, label, unit, before, now, better, pairs })
        };
        Ok(Comparison {
            metrics: METRICS.iter().filter_map(difference).collect(),
            notes: self.unlike(before, common.len()),
        })
    }

    /// In what both evaluations differ.
    fn unlike(&self, before: &EvalReport, common: usize) -> Vec<String> {
        let differs = [
            ("program", self.program != before.program),
            ("model", self.model != before.model),
            ("driver", self.drive != before.drive),
            ("settings", self.settings != before.settings),
            ("poses", self.pose != before.pose),
            ("prompts", (&self.prompt, &self.negative_prompt) != (&before.prompt, &before.negative_prompt)),
            ("frames", self.num_frames != before.num_frames),
            ("judge", self.judge != before.judge),
            ("driver's networks", self.driver != before.driver),
        ];
        let names: Vec<&str> = differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
        let mut notes = Vec::new();
        if !names.is_empty() {
            notes.push(format!("the reports differ in: {}", names.join(", ")));
        }
        let [now, then] = [self.pairs.len(), before.pairs.len()];
        if now != common || then != common {
            notes.push(format!("{common} pairs are compared; this report has {now}, the other {then}"));
        }
        notes
    }
}
