//! The words of a plan: why each choice, and which flags do nothing.

use super::choices::{Choice, Setting};
use super::{Budgets, Job, Machine, Phase, PhaseJob, PhasePlan, Piece, Tier};
use crate::{MemoryFlags, MemoryMode, Place};

/// The plan of a phase from the choice that was made, with its exact time.
pub(super) fn explained(
    phase: &PhaseJob,
    choice: &Choice,
    all: &[Choice],
    setting: &Setting,
    budgets: &Budgets,
) -> (PhasePlan, u64) {
    let parts = [place(phase, choice, all, setting, budgets), weights(phase, choice, all, setting), way(choice, all)];
    let plan = PhasePlan {
        phase: phase.phase,
        on: choice.on,
        placement: choice.placement,
        way: choice.way.clone(),
        weights_bytes: choice.weights_bytes,
        device_peak_bytes: choice.device_bytes,
        pinned_bytes: choice.pinned_bytes,
        ram_peak_bytes: choice.ram_bytes,
        disk_read_bytes: choice.disk_read_bytes,
        seconds: choice.micros as f64 / 1e6,
        reason: parts.into_iter().flatten().collect::<Vec<_>>().join("; "),
    };
    (plan, choice.micros)
}

fn place(phase: &PhaseJob, choice: &Choice, all: &[Choice], setting: &Setting, budgets: &Budgets) -> Option<String> {
    if setting.machine.is_cpu() || choice.on == Place::Device {
        return None;
    }
    if setting.mode == MemoryMode::Cpu {
        return Some("everything is on the CPU as asked".to_owned());
    }
    let (flag, word) = component(phase.phase, setting.flags)?;
    Some(match flag {
        Some(Place::Cpu) => format!("on the CPU as asked (--cpu-{word})"),
        _ if phase.phase == Phase::Pose => "on the CPU unless --gpu-pose".to_owned(),
        _ if all.iter().any(|c| c.on == Place::Device && budgets.covers(c.needs())) => {
            "on the CPU: faster than what fits the device".to_owned()
        }
        _ => "on the CPU: nothing fits the device".to_owned(),
    })
}

/// The flag of a phase's component, and how it ends.
fn component(phase: Phase, flags: &MemoryFlags) -> Option<(Option<Place>, &'static str)> {
    match phase {
        Phase::Pose => Some((flags.pose, "pose")),
        Phase::TextEncode => Some((flags.text_encoder, "text-encoder")),
        Phase::ImageEncode => Some((flags.clip, "clip")),
        Phase::VaeEncode | Phase::Decode => Some((flags.vae, "vae")),
        _ => None,
    }
}

fn weights(phase: &PhaseJob, choice: &Choice, all: &[Choice], setting: &Setting) -> Option<String> {
    let placement = choice.placement;
    let groups = phase.network.group_bytes.len();
    if placement.is_resident() {
        return (phase.network.bytes() > 0).then(|| match setting.mode {
            MemoryMode::Full => "stays with all other networks".to_owned(),
            _ => "fits as a whole".to_owned(),
        });
    }
    let whole = all.iter().filter(|c| c.on == choice.on && c.placement.is_resident()).map(peak).min();
    let why = match (setting.mode, placement.piece, placement.resident) {
        (MemoryMode::Stream | MemoryMode::Minimal, ..) => format!("--memory-mode {}", setting.mode),
        _ if setting.flags.blocks_resident.is_some() && phase.phase == Phase::Denoise => {
            format!("--blocks-resident: {} of {groups} blocks", placement.resident)
        }
        (_, Piece::Matrix, _) => "not two blocks fit".to_owned(),
        (_, Piece::Group, 0) => "no block fits besides those at work".to_owned(),
        (_, Piece::Group, n) => format!("{n} of {groups} blocks fit"),
    };
    let above = match (whole, setting.mode) {
        (Some(bytes), MemoryMode::Auto | MemoryMode::Partial) => format!(" ({} as a whole)", gib(bytes)),
        _ => String::new(),
    };
    let others = if placement.resident == 0 { "all are" } else { "the others are" };
    let from = match (choice.on, placement.tier) {
        (Place::Cpu, _) => format!("{others} read on every pass"),
        (_, tier) => {
            let from = match tier {
                Tier::Pinned => "pinned memory",
                Tier::Host => "RAM",
                Tier::Disk => "the disk",
            };
            let cost = match (phase.passes, choice.hidden) {
                (0 | 1, _) => "once",
                (_, true) => "hidden behind the arithmetic",
                (_, false) => "not hidden",
            };
            format!("{others} copied from {from}, {cost}")
        }
    };
    Some(format!("{why}{above}; {from}"))
}

fn way(choice: &Choice, all: &[Choice]) -> Option<String> {
    let first = all.iter().find(|c| c.on == choice.on)?.way;
    let more = first.bytes.checked_sub(choice.way.bytes).filter(|_| first.how != choice.way.how)?;
    let exact = if choice.way.exact { "" } else { ", not exact at their seams" };
    Some(format!("{}{exact}: saves {}", choice.way.how, gib(more)))
}

fn peak(choice: &Choice) -> u64 {
    if choice.on == Place::Device { choice.device_bytes } else { choice.ram_bytes }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Flags that do nothing on this machine or with this job, and cards that are not what one expects.
pub(super) fn notes(job: &Job, machine: &Machine, flags: &MemoryFlags, asked: MemoryMode) -> Vec<String> {
    let mut notes = Vec::new();
    let blocks = job.phases.iter().find(|p| p.phase == Phase::Denoise).map(|p| p.network.group_bytes.len());
    if let (Some(asked), Some(blocks)) = (flags.blocks_resident, blocks)
        && asked > blocks
    {
        notes.push(format!("--blocks-resident {asked}: the transformer has {blocks} blocks"));
    }
    if !machine.is_cpu() {
        if !machine.device.has_bf16 {
            notes.push(format!("{} has no bf16; f16 stands in for it", machine.device.name));
        }
        if flags.pose == Some(Place::Device) && job.phases.iter().any(|p| p.phase == Phase::Pose && p.ways.is_empty()) {
            notes.push("--gpu-pose does nothing: poses are found on the CPU".to_owned());
        }
        return notes;
    }
    match asked {
        MemoryMode::Full => {
            notes.push("--memory-mode full is stage on the CPU: files stay in the system's cache".to_owned());
        }
        MemoryMode::Minimal => notes.push("--memory-mode minimal is stream on the CPU".to_owned()),
        _ => {}
    }
    let place = |place: Option<Place>, word: &str| match place {
        Some(Place::Device) => Some(format!("--gpu-{word}")),
        Some(Place::Cpu) => Some(format!("--cpu-{word}")),
        None => None,
    };
    let idle = [
        place(flags.text_encoder, "text-encoder"),
        place(flags.clip, "clip"),
        place(flags.vae, "vae"),
        place(flags.pose, "pose"),
        flags.suggested_mode.map(|_| "GPU_TIER".to_owned()),
        flags.reserve_bytes.map(|_| "--reserve-vram".to_owned()),
        flags.device_budget_bytes.map(|_| "--vram-budget".to_owned()),
        flags.async_offload.map(|on| if on { "--async-offload" } else { "--no-async-offload" }.to_owned()),
        flags.pin_memory.map(|_| "--pin-memory".to_owned()),
        flags.offload_to.map(|_| "--offload-to".to_owned()),
    ];
    let idle: Vec<String> = idle.into_iter().flatten().collect();
    if !idle.is_empty() {
        let verb = if idle.len() == 1 { "does" } else { "do" };
        notes.push(format!("{} {verb} nothing here: everything is computed on the CPU", idle.join(", ")));
    }
    notes
}
