//! Two checkpoints, tensor by tensor.

use std::path::PathBuf;

use serde::Serialize;

use super::ConvertError;
use crate::Checkpoint;

/// How one tensor differs between two checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// Stored type in the first and in the second.
    pub dtypes: [String; 2],
    /// Elements.
    pub elements: u64,
    /// ‖b − a‖ / ‖a‖; 0 where both are the same, infinite where only a is zero.
    pub relative_error: f64,
    /// The largest |b − a|.
    pub largest_error: f64,
}

/// How two checkpoints differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The first, against which errors are relative, and the second.
    pub paths: [PathBuf; 2],
    /// Tensors that both have in the same shape, the largest relative error first.
    pub tensors: Vec<TensorDifference>,
    /// Tensors of the first that the second lacks.
    pub missing: Vec<String>,
    /// Tensors of the second that the first lacks.
    pub added: Vec<String>,
    /// Tensors of different shapes, with both.
    pub misshapen: Vec<String>,
    /// Tensors of types that are no numbers to compute with, in one of them.
    pub skipped: Vec<String>,
    /// Of all tensors together, ‖b − a‖ / ‖a‖.
    pub relative_error: f64,
}

impl Comparison {
    /// Whether every number is the same and nothing is missing or added.
    pub fn is_equal(&self) -> bool {
        self.tensors.iter().all(|t| t.largest_error == 0.0)
            && [&self.missing, &self.added, &self.misshapen].iter().all(|names| names.is_empty())
    }
}

/// Compares every number of `b` with that of `a`, in f64; both under the same names. Reads everything, tile by tile; `go_on` is
/// told how many of how many tensors are done and stops by saying false.
///
/// # Errors
/// A damaged file, a value that is not finite, stopped by the caller.
pub fn compare(
    a: &Checkpoint,
    b: &Checkpoint,
    go_on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Comparison, ConvertError> {
    let lacks = |one: &Checkpoint, other: &Checkpoint| -> Vec<String> {
        one.entries().filter(|e| other.entry(&e.name).is_none()).map(|e| e.name.clone()).collect()
    };
    let mut found = Comparison {
        paths: [a.path().to_owned(), b.path().to_owned()],
        tensors: Vec::new(),
        missing: lacks(a, b),
        added: lacks(b, a),
        misshapen: Vec::new(),
        skipped: Vec::new(),
        relative_error: 0.0,
    };
    let common: Vec<_> = a.entries().filter_map(|one| Some((one, b.entry(&one.name)?))).collect();
    let (mut away, mut size) = (0.0, 0.0);
    for (i, (one, other)) in common.iter().enumerate() {
        let name = &one.name;
        if !one.is_loadable() || !other.is_loadable() {
            found.skipped.push(name.clone());
        } else if one.elements() != other.elements() || !(one.fits(&other.shape) || other.fits(&one.shape)) {
            found.misshapen.push(format!("{name} is {:?} and {:?}", one.shape, other.shape));
        } else {
            let [squares, norm, largest] = difference(a, b, name)?;
            away += squares;
            size += norm;
            found.tensors.push(TensorDifference {
                name: name.clone(),
                dtypes: [one.dtype.to_string(), other.dtype.to_string()],
                elements: one.elements() as u64,
                relative_error: relative(squares, norm),
                largest_error: largest,
            });
        }
        if !go_on(i + 1, common.len()) {
            return Err(ConvertError::Stopped { done: i + 1, total: common.len() });
        }
    }
    found.tensors.sort_by(|x, y| y.relative_error.total_cmp(&x.relative_error).then_with(|| x.name.cmp(&y.name)));
    found.relative_error = relative(away, size);
    Ok(found)
}

fn relative(squares: f64, norm: f64) -> f64 {
    if squares == 0.0 { 0.0 } else { (squares / norm).sqrt() }
}

/// Σ(b − a)², Σa², max |b − a|.
fn difference(a: &Checkpoint, b: &Checkpoint, name: &str) -> Result<[f64; 3], ConvertError> {
    let mut sums = [0.0f64; 3];
    let mut theirs = b.tiles(name)?;
    let mut rest: Vec<f32> = Vec::new();
    let mut at = 0;
    a.for_each_tile(name, |tile| {
        for value in tile {
            if at == rest.len() {
                theirs.next(&mut rest)?;
                at = 0;
            }
            let (x, y) = (f64::from(*value), f64::from(rest.get(at).copied().unwrap_or_default()));
            at += 1;
            let error = (y - x).abs();
            sums = [sums[0] + error * error, sums[1] + x * x, sums[2].max(error)];
        }
        Ok::<_, ConvertError>(())
    })?;
    Ok(sums)
}
