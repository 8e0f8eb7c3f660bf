//! The plan: where each phase's weights live and how much memory it will take. A pure function of sizes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Memory;

/// The phases of a run, in order. Each is loaded once and released before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// Driving motion to poses.
    Pose,
    /// Pictures and videos that show the poses; no part of a plan.
    Preview,
    /// Prompts to text tokens.
    TextEncode,
    /// Pictures to image tokens.
    ImageEncode,
    /// Pixels to latents.
    VaeEncode,
    /// The sampling loop.
    Denoise,
    /// Latents to pixels, and pixels into the file.
    Decode,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Phase; 7] = [
        Phase::Pose,
        Phase::Preview,
        Phase::TextEncode,
        Phase::ImageEncode,
        Phase::VaeEncode,
        Phase::Denoise,
        Phase::Decode,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Pose => "pose",
            Phase::Preview => "preview",
            Phase::TextEncode => "text encode",
            Phase::ImageEncode => "image encode",
            Phase::VaeEncode => "VAE encode",
            Phase::Denoise => "denoise",
            Phase::Decode => "VAE decode",
        })
    }
}

/// What one phase needs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseNeeds {
    /// Which phase.
    pub phase: Phase,
    /// All of its weights as they are held.
    pub weights_bytes: u64,
    /// Of these, what cannot be streamed (embeddings, heads).
    pub fixed_bytes: u64,
    /// The largest group (block) that is streamed; 0 when nothing can be.
    pub largest_group_bytes: u64,
    /// Activations at their peak.
    pub activation_bytes: u64,
}

impl PhaseNeeds {
    /// A phase whose weights cannot be streamed.
    pub fn whole(phase: Phase, weights_bytes: u64, activation_bytes: u64) -> Self {
        Self { phase, weights_bytes, fixed_bytes: weights_bytes, largest_group_bytes: 0, activation_bytes }
    }
}

/// Where the weights of a phase live while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// In memory as a whole.
    Resident,
    /// Block by block from the file.
    Streamed,
}

/// The plan of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhasePlan {
    /// Which phase.
    pub phase: Phase,
    /// Where its weights live.
    pub placement: Placement,
    /// Weights that are in memory at once.
    pub weights_bytes: u64,
    /// Activations at their peak.
    pub activation_bytes: u64,
    /// Predicted peak: weights, activations, and what the run holds between phases.
    pub peak_bytes: u64,
    /// Why.
    pub reason: String,
}

/// The whole plan. A value: printable, comparable, serialisable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePlan {
    /// The phases in order.
    pub phases: Vec<PhasePlan>,
    /// What the plan may use.
    pub budget_bytes: u64,
    /// Held through all phases: pictures, latents, embeddings.
    pub held_bytes: u64,
    /// The largest of the phases' peaks.
    pub peak_bytes: u64,
}

impl StagePlan {
    /// The plan of one phase.
    pub fn phase(&self, phase: Phase) -> Option<&PhasePlan> {
        self.phases.iter().find(|p| p.phase == phase)
    }

    /// Whether the phase's weights are streamed.
    pub fn is_streamed(&self, phase: Phase) -> bool {
        self.phase(phase).is_some_and(|p| p.placement == Placement::Streamed)
    }
}

/// No placement fits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{phase} needs {} even with its weights streamed, {} may be used; free memory, or ask for a smaller --size or fewer --num-frames (at least {} must be available)",
    gib(*.needed_bytes), gib(*.budget_bytes), gib(*.needed_bytes)
)]
pub struct PlanError {
    /// The phase that does not fit.
    pub phase: Phase,
    /// The smallest budget with which the whole request fits.
    pub needed_bytes: u64,
    /// What there is.
    pub budget_bytes: u64,
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Chooses for each phase: resident when it fits the budget, else streamed. More memory never gives a slower plan, and
/// no predicted peak is above the budget. `wish` asks for one placement wherever a phase can have it; resident is then
/// still given up where it does not fit.
///
/// # Errors
/// [`PlanError`] that names a budget which would do for all phases.
pub fn plan(
    needs: &[PhaseNeeds],
    held_bytes: u64,
    memory: &Memory,
    wish: Option<Placement>,
) -> Result<StagePlan, PlanError> {
    let budget = memory.available_bytes;
    let mut phases = Vec::with_capacity(needs.len());
    for n in needs {
        let base = held_bytes + n.activation_bytes;
        let resident = base + n.weights_bytes;
        // The block at work and the next one, while the second is read.
        let streamed_weights = (n.fixed_bytes + 2 * n.largest_group_bytes).min(n.weights_bytes);
        let streamed = base + streamed_weights;
        let asked = n.largest_group_bytes > 0 && wish == Some(Placement::Streamed);
        let (placement, weights_bytes, peak_bytes, reason) = if resident <= budget && !asked {
            (Placement::Resident, n.weights_bytes, resident, "fits as a whole".to_owned())
        } else if n.largest_group_bytes > 0 && streamed <= budget {
            let why = if asked {
                "asked for".to_owned()
            } else {
                format!("{} as a whole is above the budget", gib(resident))
            };
            (Placement::Streamed, streamed_weights, streamed, why)
        } else {
            // The neediest phase is named, so that the number and the name belong together.
            let needed = needs.iter().map(|n| (smallest(n, held_bytes), n.phase)).max_by_key(|(bytes, _)| *bytes);
            let (needed_bytes, phase) = needed.unwrap_or((0, n.phase));
            return Err(PlanError { phase, needed_bytes, budget_bytes: budget });
        };
        phases.push(PhasePlan {
            phase: n.phase,
            placement,
            weights_bytes,
            activation_bytes: n.activation_bytes,
            peak_bytes,
            reason,
        });
    }
    let peak_bytes = phases.iter().map(|p| p.peak_bytes).max().unwrap_or(held_bytes);
    Ok(StagePlan { phases, budget_bytes: budget, held_bytes, peak_bytes })
}

/// The least memory with which one phase runs.
fn smallest(n: &PhaseNeeds, held_bytes: u64) -> u64 {
    let weights = if n.largest_group_bytes > 0 {
        (n.fixed_bytes + 2 * n.largest_group_bytes).min(n.weights_bytes)
    } else {
        n.weights_bytes
    };
    held_bytes + n.activation_bytes + weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn needs() -> impl Strategy<Value = PhaseNeeds> {
        (0u64..1000, 0u64..100, 0u64..1000, 0usize..6).prop_map(|(blocks, group, activation, phase)| PhaseNeeds {
            phase: Phase::ALL[phase],
            weights_bytes: blocks.max(group) + 50,
            fixed_bytes: 50,
            largest_group_bytes: group,
            activation_bytes: activation,
        })
    }

    proptest! {
        #[test]
        fn peaks_stay_within_and_more_memory_never_streams_more(
            list in proptest::collection::vec(needs(), 1..7), held in 0u64..100, budget in 0u64..3000, more in 0u64..500,
        ) {
            let memory = |b: u64| Memory { total_bytes: b, available_bytes: b };
            match plan(&list, held, &memory(budget), None) {
                Ok(small) => {
                    prop_assert!(small.peak_bytes <= budget);
                    let large = plan(&list, held, &memory(budget + more), None).unwrap();
                    for (s, l) in small.phases.iter().zip(&large.phases) {
                        prop_assert!(s.placement == l.placement || l.placement == Placement::Resident);
                    }
                }
                Err(e) => {
                    prop_assert!(plan(&list, held, &memory(e.needed_bytes), None).is_ok());
                    prop_assert!(e.needed_bytes > budget);
                }
            }
        }
    }
}
