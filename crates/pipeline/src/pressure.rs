//! What happens when memory runs out on the way: the phase lets go of all it has, is planned anew with what there is, and goes
//! on from where it was.

use std::sync::Arc;

use offload::{CONTEXT_BYTES, DeviceMemory, OnPressure, Phase, Place, Residence, StagePlan};

use crate::progress::Progress;
use crate::{Activations, PipelineError};

/// Plans that may be tried after one another without a step forward in between.
const MOST_RUNGS: usize = 3;

/// How a phase runs: one rung of the ladder from the fastest to the smallest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rung {
    /// Where it computes.
    pub on: Place,
    pub residence: Residence,
    pub activations: Activations,
    /// What is held through all phases and what this one computes with, weights apart.
    pub working_bytes: u64,
    /// The predicted peak where it computes.
    pub peak_bytes: u64,
}

impl Rung {
    /// What a plan says of a phase.
    pub fn of(stages: &StagePlan, activations: Activations, phase: Phase) -> Self {
        let plan = stages.phase(phase);
        let on = plan.map_or(Place::Cpu, |p| p.on);
        let held = match on {
            Place::Device => stages.held.device_bytes.saturating_sub(CONTEXT_BYTES),
            Place::Cpu => stages.held.ram_bytes,
        };
        Self {
            on,
            residence: plan.map_or(Residence::WHOLE, Residence::of),
            activations,
            working_bytes: held + plan.map_or(0, |p| p.way.bytes),
            peak_bytes: plan.map_or(0, |p| p.peak_bytes()),
        }
    }
}

/// Plans one phase within so many bytes, in an exact way.
pub(crate) type Replan<'a> = dyn Fn(Phase, u64) -> Result<(StagePlan, Activations), PipelineError> + 'a;

/// What phases compute in.
pub(crate) struct Memories {
    pub host: Arc<dyn DeviceMemory>,
    /// The GPU's, if something is computed there.
    pub gpu: Option<Arc<dyn DeviceMemory>>,
}

impl Memories {
    /// That of a place.
    pub fn of(&self, place: Place) -> &Arc<dyn DeviceMemory> {
        self.gpu.as_ref().filter(|_| place == Place::Device).unwrap_or(&self.host)
    }
}

/// Memory, and what to do without it.
#[derive(Clone, Copy)]
pub(crate) struct Pressure<'a> {
    pub memory: &'a Memories,
    pub policy: OnPressure,
    pub replan: &'a Replan<'a>,
}

impl Pressure<'_> {
    /// Runs `attempt` on `first`, and when memory runs out on smaller rungs. It tells how far it came beside its result; what
    /// it computes does not depend on the rung.
    ///
    /// # Errors
    /// The attempt's own; [`PipelineError::OutOfMemory`] when no rung is left.
    pub fn run<T>(
        &self,
        phase: Phase,
        first: Rung,
        progress: &mut Progress,
        mut attempt: impl FnMut(&Rung, &mut Progress) -> (usize, Result<T, PipelineError>),
    ) -> Result<T, PipelineError> {
        let (mut rung, mut tries, mut reached) = (first, 0, 0);
        loop {
            let (mark, result) = attempt(&rung, progress);
            let error = match result {
                Err(error @ PipelineError::OutOfMemory { .. }) => error,
                other => return other,
            };
            if mark > reached {
                (reached, tries) = (mark, 0);
            }
            tries += 1;
            if self.policy == OnPressure::Fail || tries > MOST_RUNGS {
                return Err(error);
            }
            let memory = self.memory.of(rung.on);
            memory.trim();
            // Plans count a GPU's context, which is there already.
            let context = memory.gpu().map_or(0, |_| CONTEXT_BYTES);
            let left = memory.memory().available_bytes.saturating_add(context);
            match (self.replan)(phase, left.min(rung.peak_bytes.saturating_sub(1))) {
                Ok((stages, activations)) => {
                    rung = Rung::of(&stages, activations, phase);
                    let placement = stages.phase(phase).map(|p| format!("{}, {}", p.placement, p.way.how));
                    progress.replanned(format!("{error}; {phase} goes on as {}", placement.unwrap_or_default()));
                }
                // There is no smaller way, but there is room: somebody else had taken it for a moment.
                Err(_) if left >= rung.peak_bytes => progress.replanned(format!("{error}; {phase} is tried again")),
                Err(_) => return Err(error),
            }
        }
    }
}
