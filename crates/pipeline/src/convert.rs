//! Converting and comparing checkpoints under the names that our networks use.

use std::path::Path;

use weights::Checkpoint;
use weights::convert::{Comparison, ConvertError, ConvertPlan, Form, compare};

use crate::PipelineError;
use crate::inspect::component_of;
use crate::model::canonical;

/// A checkpoint with what it is to become.
#[derive(Debug)]
pub struct Conversion {
    checkpoint: Checkpoint,
    plan: ConvertPlan,
}

impl Conversion {
    /// Opens `input` (reads headers only) and decides what becomes of each tensor. Tensors of networks that we know get the
    /// original release's names; others keep theirs.
    ///
    /// # Errors
    /// Missing, damaged, no checkpoint, or nothing in it is of the form's kind.
    pub fn new(input: &Path, form: Form) -> Result<Self, PipelineError> {
        let (checkpoint, architecture) = named(input)?;
        let plan = ConvertPlan::new(&checkpoint, form, architecture)?;
        Ok(Self { checkpoint, plan })
    }

    /// What will be written.
    pub fn plan(&self) -> &ConvertPlan {
        &self.plan
    }

    /// The input.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// See [`weights::convert::convert`].
    ///
    /// # Errors
    /// As there.
    pub fn run(
        &self,
        output: &Path,
        force: bool,
        go_on: &mut dyn FnMut(weights::convert::ConvertProgress) -> bool,
    ) -> Result<weights::convert::Converted, PipelineError> {
        Ok(weights::convert::convert(&self.checkpoint, &self.plan, output, force, go_on)?)
    }
}

/// Compares every number of two checkpoints, whatever names and forms each has; `go_on` is told how many of how many tensors
/// are done and stops by saying false.
///
/// # Errors
/// Missing or damaged files, values that are not finite, stopped by the caller.
pub fn compare_checkpoints(
    a: &Path,
    b: &Path,
    go_on: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Comparison, PipelineError> {
    Ok(compare(&named(a)?.0, &named(b)?.0, go_on)?)
}

/// A checkpoint under our names, and what GGUF calls its network.
fn named(path: &Path) -> Result<(Checkpoint, &'static str), ConvertError> {
    let checkpoint = Checkpoint::open(path)?;
    Ok(match component_of(&checkpoint) {
        Some((component, architecture)) => (canonical(checkpoint, component), architecture),
        None => (checkpoint, "unknown"),
    })
}
