//! Comparing the outputs of one case, in the order in which they arise: the first wrong one ends the case.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Tensor};
use serde::Serialize;
use serde::de::DeserializeOwned;
use testkit::Case;

/// What a passed case has to say.
#[derive(Debug)]
pub struct Report {
    /// Outputs that were compared.
    compared: usize,
    worst: f64,
    /// Where the largest error is.
    at: String,
    tolerance: f64,
    notes: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, worst, at, tolerance, notes } = self;
        write!(f, "{compared:>7} {worst:>9.1e} {tolerance:>8.0e}  {at}")?;
        notes.iter().try_for_each(|note| write!(f, "; {note}"))
    }
}

/// The comparisons made so far.
pub struct Checks<'a> {
    case: &'a Case,
    compared: BTreeSet<String>,
    worst: f64,
    at: String,
    notes: Vec<String>,
}

impl<'a> Checks<'a> {
    pub fn new(case: &'a Case) -> Self {
        Self { case, compared: BTreeSet::new(), worst: -1.0, at: String::new(), notes: Vec::new() }
    }

    /// Whether the case has this output.
    pub fn has(&self, name: &str) -> bool {
        self.case.outputs.contains_key(name)
    }

    /// Something the table shall say of the case.
    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The reference's output, which counts as compared from now on.
    pub fn reference(&mut self, name: &str) -> Result<&'a Tensor> {
        let reference = self.case.outputs.get(name).with_context(|| format!("the case has no output {name:?}"))?;
        self.compared.insert(name.to_owned());
        Ok(reference)
    }

    /// Compares an output by the case's tolerance.
    pub fn output(&mut self, name: &str, ours: &Tensor) -> Result<()> {
        let reference = self.reference(name)?;
        self.close(name, ours, reference)
    }

    /// Compares row `step` of an output that has one row a step.
    pub fn step(&mut self, name: &str, step: usize, ours: &Tensor) -> Result<()> {
        let reference = self.reference(name)?;
        let rows = reference.dim(0)?;
        ensure!(step < rows, "first wrong stage: {name}: it has {rows} steps, ours has a step {step}");
        self.close(&format!("{name}[{step}]"), ours, &reference.get(step)?)
    }

    /// Compares every value for equality.
    pub fn exact(&mut self, name: &str, ours: &[f64]) -> Result<()> {
        let reference = flat(self.reference(name)?)?;
        ensure!(
            reference.len() == ours.len(),
            "first wrong stage: {name} has {} values, the reference {}",
            ours.len(),
            reference.len()
        );
        let differing: Vec<usize> = (0..ours.len()).filter(|i| ours[*i] != reference[*i]).collect();
        if let Some(i) = differing.first() {
            bail!(
                "first wrong stage: {name} differs in {} of {} values, first at {i}: ours {}, reference {}",
                differing.len(),
                ours.len(),
                ours[*i],
                reference[*i]
            );
        }
        self.remember(name, 0.0);
        Ok(())
    }

    /// Compares any of our tensors with any of the reference's by the case's tolerance.
    pub fn close(&mut self, label: &str, ours: &Tensor, reference: &Tensor) -> Result<()> {
        let error = testkit::relative_error(ours, reference).with_context(|| format!("first wrong stage: {label}"))?;
        let allowed = self.case.tolerance;
        // Not `error > allowed`: NaN is wrong.
        if !matches!(error.partial_cmp(&allowed), Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)) {
            bail!(
                "first wrong stage: {label} differs by {error:.3e}, allowed {allowed:.0e}; {}",
                values(ours, reference)?
            );
        }
        self.remember(label, error);
        Ok(())
    }

    fn remember(&mut self, label: &str, error: f64) {
        if error > self.worst {
            self.worst = error;
            self.at = label.to_owned();
        }
    }

    /// The report, if all outputs were compared. Intermediate ones that no test knows are only told.
    pub fn finish(mut self) -> Result<Report> {
        let case = self.case;
        let left: Vec<&str> = case.outputs.keys().map(String::as_str).filter(|n| !self.compared.contains(*n)).collect();
        let (stages, outputs): (Vec<&str>, Vec<&str>) = left.into_iter().partition(|n| n.starts_with("stage."));
        ensure!(outputs.is_empty(), "no test knows the output {}", outputs.join(", "));
        ensure!(!self.compared.is_empty(), "the case has no output to compare");
        if !stages.is_empty() {
            self.note(format!("not compared: {}", stages.join(", ")));
        }
        let Self { compared, worst, at, notes, .. } = self;
        Ok(Report { compared: compared.len(), worst, at, tolerance: case.tolerance, notes })
    }
}

/// All values in order.
pub fn flat(x: &Tensor) -> Result<Vec<f64>> {
    Ok(x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?)
}

/// The first values of both, and the two that are furthest apart.
fn values(ours: &Tensor, reference: &Tensor) -> Result<String> {
    let (a, b) = (flat(ours)?, flat(reference)?);
    let apart = |i: usize| {
        let difference = (a[i] - b[i]).abs();
        if difference.is_nan() { f64::INFINITY } else { difference }
    };
    let furthest = (0..a.len()).max_by(|i, j| apart(*i).total_cmp(&apart(*j))).unwrap_or(0);
    let first = |v: &[f64]| format!("{:.5?}", &v[..v.len().min(5)]);
    Ok(format!(
        "ours {}, reference {}; furthest apart at {furthest} of {}: {:.6} against {:.6}",
        first(&a),
        first(&b),
        a.len(),
        a[furthest],
        b[furthest]
    ))
}

/// `base` with the fields that the case's configuration gives.
pub fn overlaid<C: Serialize + DeserializeOwned>(base: &C, config: &serde_json::Value) -> Result<C> {
    let mut merged = serde_json::to_value(base)?;
    if let (Some(merged), Some(given)) = (merged.as_object_mut(), config.as_object()) {
        merged.extend(given.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
    }
    serde_json::from_value(merged).context("the case's config")
}

/// A number of the case's configuration.
pub fn number(config: &serde_json::Value, key: &str) -> Result<f64> {
    config.get(key).and_then(serde_json::Value::as_f64).with_context(|| format!("the case's config has no {key:?}"))
}

/// A size or count of the case's configuration.
pub fn count(config: &serde_json::Value, key: &str) -> Result<usize> {
    let value = config.get(key).and_then(serde_json::Value::as_u64);
    Ok(value.with_context(|| format!("the case's config has no {key:?}"))?.try_into()?)
}

/// Without the leading dimension of size 1 that a tensor of `rank` dimensions would not have.
pub fn without_batch(x: &Tensor, rank: usize) -> Result<Tensor> {
    if x.rank() <= rank {
        return Ok(x.clone());
    }
    ensure!(x.rank() == rank + 1 && x.dim(0)? == 1, "{:?}: a batch of one was expected", x.dims());
    Ok(x.squeeze(0)?)
}
