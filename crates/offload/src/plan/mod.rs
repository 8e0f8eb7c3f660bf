//! The plan: where each phase's weights live, how much memory it will take, and how long. A pure function of sizes.

mod cards;
mod choices;
mod error;
mod job;
mod machine;
mod phase;
mod placement;
mod reasons;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::{MemoryFlags, MemoryMode, OffloadTo, Place, QualityProfile};
pub use cards::{UnknownCard, card, card_names, virtual_card};
use choices::{Choice, Setting, choices, places};
pub use error::{Instead, PlanError};
pub use job::{How, Job, NetworkSize, PhaseJob, Precision, Way, Work};
pub use machine::{CONTEXT_BYTES, DeviceFacts, DeviceKind, GIB, HostRates, Machine, RESERVE_BYTES, Rates};
pub use phase::Phase;
pub use placement::{After, Piece, Placement, Tier};

/// Memory that a plan may use, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budgets {
    /// Of the device; 0 where it has none of its own.
    pub device_bytes: u64,
    /// Of the host.
    pub ram_bytes: u64,
}

impl Budgets {
    /// What `flags` leave of a machine: `min(free − reserve, budget)`, and `min(available, budget)` of the host.
    pub fn new(machine: &Machine, flags: &MemoryFlags) -> Self {
        let reserve = flags.reserve_bytes.unwrap_or(match machine.device.kind {
            DeviceKind::Cuda => RESERVE_BYTES,
            _ => 0,
        });
        let device = match machine.device.kind {
            DeviceKind::Cpu => 0,
            _ => machine.device.free_bytes.saturating_sub(reserve),
        };
        Self {
            device_bytes: device.min(flags.device_budget_bytes.unwrap_or(u64::MAX)),
            ram_bytes: machine.ram.available_bytes.min(flags.ram_budget_bytes.unwrap_or(u64::MAX)),
        }
    }

    fn covers(&self, needs: Budgets) -> bool {
        needs.device_bytes <= self.device_bytes && needs.ram_bytes <= self.ram_bytes
    }
}

/// Predicted peaks in bytes; what is read from the disk is a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peaks {
    /// Of the device, its context included.
    pub device_bytes: u64,
    /// Pinned memory of the host, part of the next.
    pub pinned_bytes: u64,
    /// Of the host.
    pub ram_bytes: u64,
    /// Read from the disk in all.
    pub disk_read_bytes: u64,
}

/// The plan of one phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhasePlan {
    /// Which phase.
    pub phase: Phase,
    /// Where it computes.
    pub on: Place,
    /// Where its weights live.
    pub placement: Placement,
    /// How it computes.
    pub way: Way,
    /// Weights in memory at once where it computes, staging buffers included.
    pub weights_bytes: u64,
    /// Predicted peak of the device: context, what is held, weights, activations; 0 when it computes on the CPU.
    pub device_peak_bytes: u64,
    /// Pinned memory of the host, part of the next.
    pub pinned_bytes: u64,
    /// Predicted peak of the host.
    pub ram_peak_bytes: u64,
    /// Read from the disk.
    pub disk_read_bytes: u64,
    /// Predicted seconds, reading included.
    pub seconds: f64,
    /// Why.
    pub reason: String,
}

impl PhasePlan {
    /// The predicted peak where the phase computes.
    pub fn peak_bytes(&self) -> u64 {
        match self.on {
            Place::Device => self.device_peak_bytes,
            Place::Cpu => self.ram_peak_bytes,
        }
    }
}

/// The whole plan. A value: printable, comparable, serialisable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagePlan {
    /// The mode that it amounts to; never `auto`.
    pub mode: MemoryMode,
    /// The profile that the picture's size was taken from.
    pub quality: Option<QualityProfile>,
    /// Name of the device.
    pub device: String,
    /// The phases in order.
    pub phases: Vec<PhasePlan>,
    /// What the plan may use.
    pub budgets: Budgets,
    /// Held through all phases, in bytes: on the device with its context, and on the host.
    pub held: Budgets,
    /// The largest of the phases' peaks.
    pub peaks: Peaks,
    /// Predicted seconds of all phases.
    pub seconds: f64,
    /// Flags that do nothing here, and what else one might not expect.
    pub notes: Vec<String>,
}

impl StagePlan {
    /// The plan of one phase.
    pub fn phase(&self, phase: Phase) -> Option<&PhasePlan> {
        self.phases.iter().find(|p| p.phase == phase)
    }

    /// Whether some of the phase's weights are streamed.
    pub fn is_streamed(&self, phase: Phase) -> bool {
        self.phase(phase).is_some_and(|p| p.placement.is_streamed())
    }

    /// The budget of where most is computed, and the peak there: of the device, or of a machine without one of the host.
    pub fn main_budget_and_peak(&self) -> (u64, u64) {
        match self.phases.iter().any(|p| p.on == Place::Device) {
            true => (self.budgets.device_bytes, self.peaks.device_bytes),
            false => (self.budgets.ram_bytes, self.peaks.ram_bytes),
        }
    }
}

/// Chooses for each phase the fastest manner that fits; of equally fast ones an exact one, then the one that reads less from
/// the disk, takes less of the host, and last of the device. In `minimal` the least memory of the device comes first.
/// More memory never gives a slower plan, and no predicted peak is above its budget. The flags shall have been
/// [checked](MemoryFlags::check).
///
/// # Errors
/// [`PlanError`] names budgets that would do for all phases.
pub fn plan(job: &Job, machine: &Machine, flags: &MemoryFlags) -> Result<StagePlan, PlanError> {
    // Classes of cards say nothing where there is none.
    let suggested = flags.suggested_mode.filter(|_| !machine.is_cpu());
    let planned = match flags.mode.or(suggested) {
        None | Some(MemoryMode::Auto) => automatic(job, machine, flags),
        Some(mode) => match in_mode(job, machine, flags, mode) {
            Err(_) if flags.mode.is_none() => automatic(job, machine, flags).map(|mut plan| {
                plan.notes
                    .push(format!("mode {mode}, which the class of the card suggests, does not fit; planned anew"));
                plan
            }),
            planned => planned,
        },
    };
    planned.map_err(|error| PlanError { instead: instead(job, machine, flags, &error), ..error })
}

fn automatic(job: &Job, machine: &Machine, flags: &MemoryFlags) -> Result<StagePlan, PlanError> {
    let plan = in_mode(job, machine, flags, MemoryMode::Auto)?;
    let leaves = matches!(flags.offload_to, Some(OffloadTo::Ram | OffloadTo::Disk)) || flags.blocks_resident.is_some();
    if machine.is_cpu() || leaves {
        return Ok(plan);
    }
    // Nothing is lost by keeping what fits anyway, and the next run need not load it.
    match in_mode(job, machine, flags, MemoryMode::Full) {
        Ok(full) if full.seconds <= plan.seconds => Ok(full),
        _ => Ok(plan),
    }
}

fn in_mode(job: &Job, machine: &Machine, flags: &MemoryFlags, asked: MemoryMode) -> Result<StagePlan, PlanError> {
    // On the CPU there is nothing to stay on after the run, and no matrix comes alone.
    let mode = match (machine.is_cpu(), asked) {
        (true, MemoryMode::Full) => MemoryMode::Stage,
        (true, MemoryMode::Minimal) => MemoryMode::Stream,
        (true, MemoryMode::Cpu) => MemoryMode::Auto,
        (_, asked) => asked,
    };
    let budgets = Budgets::new(machine, flags);
    let mut setting = Setting {
        machine,
        flags,
        mode,
        device_base_bytes: CONTEXT_BYTES.saturating_add(job.held_device_bytes),
        ram_base_bytes: job.held_ram_bytes,
        kept_bytes: 0,
    };
    let held = Budgets {
        device_bytes: if machine.is_cpu() { 0 } else { setting.device_base_bytes },
        ram_bytes: job.held_ram_bytes,
    };
    if mode == MemoryMode::Full {
        let on_device = |p: &&PhaseJob| places(p, &setting) == [Place::Device];
        let networks = distinct_bytes(job.phases.iter().filter(on_device));
        setting.device_base_bytes = setting.device_base_bytes.saturating_add(networks);
    }
    if flags.offload_to == Some(OffloadTo::Ram) && !machine.is_cpu() && mode != MemoryMode::Full {
        setting.kept_bytes = distinct_bytes(job.phases.iter());
    }
    let mut chosen = Vec::with_capacity(job.phases.len());
    let mut lacking: Option<PlanError> = None;
    let mut needed = budgets;
    for phase in &job.phases {
        let all = choices(phase, &setting);
        let fitting = all.iter().filter(|c| budgets.covers(c.needs()));
        match fitting.min_by_key(|c| rank(c, mode)) {
            Some(choice) => chosen.push(reasons::explained(phase, choice, &all, &setting, &budgets)),
            None => {
                let least = least(&all, &budgets);
                let worse = least.device_bytes > needed.device_bytes || least.ram_bytes > needed.ram_bytes;
                needed.device_bytes = needed.device_bytes.max(least.device_bytes);
                needed.ram_bytes = needed.ram_bytes.max(least.ram_bytes);
                if worse || lacking.is_none() {
                    let (phase, has_device) = (phase.phase, !machine.is_cpu());
                    lacking = Some(PlanError { phase, mode, needed, budgets, has_device, instead: None });
                }
            }
        }
    }
    if let Some(error) = lacking {
        return Err(PlanError { needed, ..error });
    }
    let most = |of: fn(&PhasePlan) -> u64| chosen.iter().map(|(p, _)| of(p)).max().unwrap_or(0);
    let peaks = Peaks {
        device_bytes: most(|p| p.device_peak_bytes),
        pinned_bytes: most(|p| p.pinned_bytes),
        ram_bytes: most(|p| p.ram_peak_bytes).max(job.held_ram_bytes),
        disk_read_bytes: chosen.iter().fold(0, |sum, (p, _)| sum.saturating_add(p.disk_read_bytes)),
    };
    let micros = chosen.iter().fold(0u64, |sum, (_, micros)| sum.saturating_add(*micros));
    let phases: Vec<PhasePlan> = chosen.into_iter().map(|(plan, _)| plan).collect();
    Ok(StagePlan {
        mode: amounts_to(&phases, mode),
        quality: flags.quality_profile,
        device: machine.device.name.clone(),
        notes: reasons::notes(job, machine, flags, asked),
        phases,
        budgets,
        held,
        peaks,
        seconds: micros as f64 / 1e6,
    })
}

/// Less is better.
fn rank(choice: &Choice, mode: MemoryMode) -> impl Ord + use<> {
    let least_memory = if mode == MemoryMode::Minimal { choice.device_bytes } else { 0 };
    let needs = choice.needs();
    // The driver cannot queue copies from ordinary memory: it waits for them.
    let waits = choice.placement.is_streamed() && choice.placement.tier == Tier::Host;
    // On the CPU a weight that is kept is one that need not be read again, whatever the prediction says.
    let not_kept = match choice.on {
        Place::Cpu => usize::MAX - choice.placement.resident,
        Place::Device => 0,
    };
    let memory = (not_kept, needs.ram_bytes, needs.device_bytes);
    let single = choice.placement.piece == Piece::Matrix;
    (least_memory, choice.micros, !choice.way.exact, single, choice.disk_read_bytes, waits, memory)
}

/// Weights of all networks of these phases; encoder and decoder of one VAE are one.
fn distinct_bytes<'a>(phases: impl Iterator<Item = &'a PhaseJob>) -> u64 {
    let mut seen: Vec<&str> = Vec::new();
    phases.fold(0u64, |sum, p| match seen.contains(&p.network.name.as_str()) {
        true => sum,
        false => {
            seen.push(&p.network.name);
            sum.saturating_add(p.network.bytes())
        }
    })
}

/// The budgets that come nearest to what there is: more of the device if that alone does, else more of the host, else both.
fn least(all: &[Choice], budgets: &Budgets) -> Budgets {
    let needs = || all.iter().map(Choice::needs);
    let by_device = needs().filter(|n| n.ram_bytes <= budgets.ram_bytes).min_by_key(|n| n.device_bytes);
    let by_ram = needs().filter(|n| n.device_bytes <= budgets.device_bytes).min_by_key(|n| n.ram_bytes);
    let by_both = || needs().min_by_key(|n| n.device_bytes.saturating_add(n.ram_bytes));
    // A phase that can run nowhere needs what cannot be had.
    by_device.or(by_ram).or_else(by_both).unwrap_or(Budgets { device_bytes: u64::MAX, ram_bytes: u64::MAX })
}

/// The mode that a plan amounts to is that of its sampling loop, or of the most streamed phase where there is none.
fn amounts_to(phases: &[PhasePlan], mode: MemoryMode) -> MemoryMode {
    if matches!(mode, MemoryMode::Full | MemoryMode::Cpu) {
        return mode;
    }
    let of = |p: &PhasePlan| match (p.placement.ring, p.placement.piece, p.placement.resident) {
        (0, ..) => MemoryMode::Stage,
        (_, Piece::Matrix, _) => MemoryMode::Minimal,
        (_, Piece::Group, 0) => MemoryMode::Stream,
        (_, Piece::Group, _) => MemoryMode::Partial,
    };
    let denoise = phases.iter().find(|p| p.phase == Phase::Denoise);
    let order = |m: &MemoryMode| MemoryMode::ALL.iter().position(|x| x == m);
    denoise.map(of).or_else(|| phases.iter().map(of).max_by_key(order)).unwrap_or(MemoryMode::Stage)
}

/// A switch that helps where these flags do not.
fn instead(job: &Job, machine: &Machine, flags: &MemoryFlags, error: &PlanError) -> Option<Instead> {
    let mut tries: Vec<(&str, MemoryFlags)> = Vec::new();
    let with = |change: &dyn Fn(&mut MemoryFlags)| {
        let mut flags = flags.clone();
        change(&mut flags);
        flags
    };
    if flags.blocks_resident.is_some() {
        tries.push(("leaving out --blocks-resident", with(&|f| f.blocks_resident = None)));
    }
    if flags.offload_to == Some(OffloadTo::Ram) || flags.pin_memory == Some(crate::PinMemory::On) {
        let change = |f: &mut MemoryFlags| (f.offload_to, f.pin_memory) = (Some(OffloadTo::Disk), None);
        tries.push(("--offload-to disk", with(&change)));
    }
    if flags.mode.is_some_and(|m| m != MemoryMode::Auto) {
        let change = |f: &mut MemoryFlags| (f.mode, f.suggested_mode) = (Some(MemoryMode::Auto), None);
        tries.push(("--memory-mode auto", with(&change)));
    }
    if !machine.is_cpu() && flags.mode != Some(MemoryMode::Cpu) {
        let on_cpu = |f: &mut MemoryFlags| {
            (f.mode, f.blocks_resident) = (Some(MemoryMode::Cpu), None);
            (f.text_encoder, f.clip, f.vae, f.pose) = (None, None, None, None);
        };
        tries.push(("--memory-mode cpu", with(&on_cpu)));
    }
    let outcomes: Vec<Instead> = tries
        .into_iter()
        .map(|(switch, flags)| {
            let switch = switch.to_owned();
            let mode = flags.mode.unwrap_or(MemoryMode::Auto);
            match in_mode(job, machine, &flags, mode) {
                Ok(plan) => {
                    let needed = Budgets { device_bytes: plan.peaks.device_bytes, ram_bytes: plan.peaks.ram_bytes };
                    Instead { switch, needed, fits: true }
                }
                Err(e) => Instead { switch, needed: e.needed, fits: false },
            }
        })
        .collect();
    let less = |i: &Instead| {
        let (now, then) = (error.needed, i.needed);
        then.device_bytes <= now.device_bytes && then.ram_bytes <= now.ram_bytes && then != now
    };
    outcomes.iter().find(|i| i.fits).or_else(|| outcomes.iter().find(|i| less(i))).cloned()
}
