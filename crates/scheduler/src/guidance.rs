//! Guidance as data: which forwards a step needs, and with which weights their velocities are added.
//!
//! A plan is a list of branches; a branch is one forward of the network under its own conditions, and a list of
//! coefficients, some of them only within a window of steps. At each step the coefficients of all branches add up to 1.
//! Plain text guidance `u + g·(c − u)` is the branches c: g and u: 1 − g. SteadyDancer's three-way guidance
//! `u_t + g·(c − u_t) + gc·(c − u_p)` is c: g (+ gc in the window), u_t: 1 − g, u_p: −gc in the window.

use candle_core::{DType, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::{GuidanceError, StepError};

/// Scales beyond this are taken for mistakes.
const MAX_SCALE: f64 = 1000.0;

/// How far the coefficients of a step may be from adding up to 1.
const SUM_TOLERANCE: f64 = 1e-6;

/// Which of a pair of conditions a branch is given: the request's own or its negative twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Polarity {
    /// The condition that is asked for.
    Positive,
    /// The condition to move away from.
    Negative,
}

/// A window of steps: step i of n is inside when start < i/n < end, both strict, the quotient in f64 (SteadyDancer's
/// `st_cond_cfg`, `end_cond_cfg`). So step 0 is outside of every window that starts at 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Fraction of the steps after which the window opens.
    pub start: f64,
    /// Fraction of the steps before which it closes.
    pub end: f64,
}

impl Window {
    /// Whether step `step` (from 0) of `num_steps` is inside.
    pub fn contains(&self, step: usize, num_steps: usize) -> bool {
        let fraction = step as f64 / num_steps as f64;
        self.start < fraction && fraction < self.end
    }
}

/// A part of a branch's coefficient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// What is added to the coefficient.
    pub coefficient: f64,
    /// At which steps; at all of them without a window.
    pub window: Option<Window>,
}

impl Term {
    fn applies(&self, step: usize, num_steps: usize) -> bool {
        self.window.is_none_or(|window| window.contains(step, num_steps))
    }
}

/// One forward of the network: its conditions and its weight in the guided velocity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// For progress, logs and error messages: `positive`, `negative_text`, `negative_pose`.
    pub name: String,
    /// Which text embeddings it is given.
    pub text: Polarity,
    /// Which pose latents it is given, if the model takes any.
    pub pose: Polarity,
    /// Their sum at a step is the branch's coefficient there.
    pub terms: Vec<Term>,
}

/// A branch that takes part in a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ActiveBranch<'a> {
    /// Its place in [`GuidancePlan::branches`].
    pub index: usize,
    /// The branch.
    pub branch: &'a Branch,
    /// The weight of its velocity at this step.
    pub coefficient: f64,
}

/// Settings of SteadyDancer's guidance, under the names of the flags.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SteadyDancerGuidance {
    /// Weight g of the text guidance; 1 means none.
    pub guidance_scale: f64,
    /// Weight gc of the pose guidance, on top of the text guidance; 0 means none.
    pub pose_guidance_scale: f64,
    /// The steps with pose guidance, as fractions (start, end) with 0 ≤ start ≤ end ≤ 1, both strict.
    pub pose_guidance_interval: (f64, f64),
    /// `true`: evaluate the branches that upstream evaluates, even with a coefficient of exactly 0 (g = 1 or gc = 0).
    /// `false`: leave those out. The velocity is the same either way.
    pub parity: bool,
}

impl Default for SteadyDancerGuidance {
    /// The README's command: 5.0, 1.0, (0.1, 0.4), all of upstream's forwards.
    fn default() -> Self {
        Self { guidance_scale: 5.0, pose_guidance_scale: 1.0, pose_guidance_interval: (0.1, 0.4), parity: true }
    }
}

/// The guidance of a run of n steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct GuidancePlan {
    num_steps: usize,
    parity: bool,
    branches: Vec<Branch>,
}

/// The fields as written, before they are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    num_steps: usize,
    parity: bool,
    branches: Vec<Branch>,
}

impl TryFrom<Unchecked> for GuidancePlan {
    type Error = GuidanceError;

    fn try_from(raw: Unchecked) -> std::result::Result<Self, GuidanceError> {
        Self::new(raw.branches, raw.num_steps, raw.parity)
    }
}

impl GuidancePlan {
    /// A plan of your own. With `parity` a branch is evaluated at every step where one of its terms applies, otherwise
    /// only where its coefficient is not exactly 0.
    ///
    /// # Errors
    /// [`GuidanceError`] for 0 steps, a coefficient that is no number, or a step whose coefficients do not add up to 1
    /// (the plan without branches among them).
    pub fn new(branches: Vec<Branch>, num_steps: usize, parity: bool) -> std::result::Result<Self, GuidanceError> {
        if num_steps == 0 {
            return Err(GuidanceError::NoSteps);
        }
        for term in branches.iter().flat_map(|branch| &branch.terms) {
            // The terms of a branch may add two scales, or 1 and a scale.
            check_magnitude("a coefficient", term.coefficient, MAX_SCALE + 1.0)?;
        }
        let plan = Self { num_steps, parity, branches };
        for step in 0..num_steps {
            let sum: f64 = plan.active(step).iter().map(|active| active.coefficient).sum();
            if (sum - 1.0).abs() > SUM_TOLERANCE {
                return Err(GuidanceError::Sum { step, sum });
            }
        }
        Ok(plan)
    }

    /// No guidance, as for distilled models and rCM (`cfg 1`): one forward a step with the positive conditions.
    ///
    /// # Errors
    /// [`GuidanceError`] for 0 steps.
    pub fn unguided(num_steps: usize) -> std::result::Result<Self, GuidanceError> {
        Self::new(vec![positive(vec![always(1.0)])], num_steps, false)
    }

    /// Text guidance `u + g·(c − u)` at every step; without `parity` a scale of exactly 1 costs one forward.
    ///
    /// # Errors
    /// [`GuidanceError`] for 0 steps or a scale that is no number from −1000 to 1000.
    pub fn text(guidance_scale: f64, num_steps: usize, parity: bool) -> std::result::Result<Self, GuidanceError> {
        check_magnitude("guidance_scale", guidance_scale, MAX_SCALE)?;
        let branches = vec![positive(vec![always(guidance_scale)]), negative_text(guidance_scale)];
        Self::new(branches, num_steps, parity)
    }

    /// SteadyDancer's three-way guidance: `u_t + g·(c − u_t)`, within the window plus `gc·(c − u_p)`, where u_t has the
    /// negative text and u_p the negative pose. 40 steps with the defaults are 91 forwards.
    ///
    /// # Errors
    /// [`GuidanceError`] for 0 steps, a scale that is no number from −1000 to 1000, or an interval that is not ordered
    /// within 0..=1.
    pub fn steadydancer(settings: &SteadyDancerGuidance, num_steps: usize) -> std::result::Result<Self, GuidanceError> {
        let SteadyDancerGuidance { guidance_scale, pose_guidance_scale, pose_guidance_interval, parity } = *settings;
        check_magnitude("guidance_scale", guidance_scale, MAX_SCALE)?;
        check_magnitude("pose_guidance_scale", pose_guidance_scale, MAX_SCALE)?;
        let (start, end) = pose_guidance_interval;
        if !(0.0 <= start && start <= end && end <= 1.0) {
            return Err(GuidanceError::Interval { start, end });
        }
        let in_window = |coefficient| Term { coefficient, window: Some(Window { start, end }) };
        let branches = vec![
            positive(vec![always(guidance_scale), in_window(pose_guidance_scale)]),
            negative_text(guidance_scale),
            Branch {
                name: "negative_pose".to_owned(),
                text: Polarity::Positive,
                pose: Polarity::Negative,
                terms: vec![in_window(-pose_guidance_scale)],
            },
        ];
        Self::new(branches, num_steps, parity)
    }

    /// All branches, in the order in which they are evaluated.
    pub fn branches(&self) -> &[Branch] {
        &self.branches
    }

    /// The number of steps the plan is for.
    pub fn num_steps(&self) -> usize {
        self.num_steps
    }

    /// The forwards of step `step`, in order; none beyond the last step.
    pub fn active(&self, step: usize) -> Vec<ActiveBranch<'_>> {
        if step >= self.num_steps {
            return Vec::new();
        }
        let numbered = self.branches.iter().enumerate();
        let active = numbered.filter_map(|(index, branch)| {
            let mut terms = branch.terms.iter().filter(|term| term.applies(step, self.num_steps)).peekable();
            terms.peek()?;
            let coefficient: f64 = terms.map(|term| term.coefficient).sum();
            (self.parity || coefficient != 0.0).then_some(ActiveBranch { index, branch, coefficient })
        });
        active.collect()
    }

    /// How many forwards step `step` takes.
    pub fn forwards(&self, step: usize) -> usize {
        self.active(step).len()
    }

    /// How many forwards the run takes.
    pub fn total_forwards(&self) -> usize {
        (0..self.num_steps).map(|step| self.forwards(step)).sum()
    }

    /// The guided velocity of step `step` from the velocities of its [`Self::active`] branches, in that order.
    ///
    /// Any one shape and float dtype in; the same shape out, f64 for f64, else f32. Computed as
    /// `v0 + Σ coefficient·(v − v0)` over those with a coefficient other than 0, v0 the first of them: differences of
    /// near-equal velocities lose nothing, and a velocity with coefficient 0 leaves no trace.
    ///
    /// # Errors
    /// [`StepError`] inside the candle error for a step beyond the plan, another number of velocities or another shape;
    /// candle's own when the device fails.
    pub fn combine(&self, step: usize, velocities: &[Tensor]) -> Result<Tensor> {
        let active = self.active(step);
        if active.is_empty() || velocities.len() != active.len() {
            return Err(self.mismatch(step, velocities.len(), active.len()).into());
        }
        let dims = velocities[0].dims();
        for (velocity, ActiveBranch { branch, .. }) in velocities.iter().zip(&active) {
            if velocity.dims() != dims {
                let name = format!("the velocity of branch {}", branch.name);
                let (found, expected) = (velocity.dims().to_vec(), dims.to_vec());
                return Err(StepError::Shape { name, found, expected }.into());
            }
        }
        let dtype = if velocities[0].dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let mut weighted = velocities.iter().zip(&active).filter(|(_, active)| active.coefficient != 0.0);
        let Some((base, _)) = weighted.next() else {
            return Err(self.mismatch(step, velocities.len(), active.len()).into());
        };
        let base = base.to_dtype(dtype)?;
        let mut guided = base.clone();
        for (velocity, ActiveBranch { coefficient, .. }) in weighted {
            let difference = (velocity.to_dtype(dtype)? - &base)?;
            guided = (guided + difference.affine(*coefficient, 0.0)?)?;
        }
        Ok(guided)
    }

    fn mismatch(&self, step: usize, found: usize, expected: usize) -> StepError {
        if step >= self.num_steps {
            StepError::BeyondPlan { found: step, num_steps: self.num_steps }
        } else {
            StepError::Velocities { step, found, expected }
        }
    }
}

fn always(coefficient: f64) -> Term {
    Term { coefficient, window: None }
}

fn positive(terms: Vec<Term>) -> Branch {
    Branch { name: "positive".to_owned(), text: Polarity::Positive, pose: Polarity::Positive, terms }
}

fn negative_text(guidance_scale: f64) -> Branch {
    Branch {
        name: "negative_text".to_owned(),
        text: Polarity::Negative,
        pose: Polarity::Positive,
        terms: vec![always(1.0 - guidance_scale)],
    }
}

fn check_magnitude(name: &'static str, found: f64, max: f64) -> std::result::Result<(), GuidanceError> {
    if found.abs() <= max { Ok(()) } else { Err(GuidanceError::Scale { name, found, max }) }
}
