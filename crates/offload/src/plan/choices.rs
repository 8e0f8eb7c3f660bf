//! All manners in which one phase can run, each with its memory and its time. Choosing is `chosen.rs`.
//!
//! Time (spec performance §4). A group of `b` bytes takes `c = flops / rate · time factor / (passes · groups)` seconds of
//! arithmetic a pass, and its copy takes `b / bandwidth`. With prefetching the copy of the next group runs beside the
//! arithmetic and a group takes the longer of both, else their sum. On the first pass every weight comes from the disk,
//! wherever it is kept afterwards.

use super::job::{Precision, Way};
use super::machine::{DeviceKind, Machine};
use super::placement::{After, Piece, Placement, Tier};
use super::{Budgets, Phase, PhaseJob};
use crate::{MemoryFlags, MemoryMode, OffloadTo, PinMemory, Place};

/// What copies of single matrices instead of whole blocks cost in arithmetic that waits (spec memory_and_avatars §4.5, with
/// the token chunks' own factor 1.1 to 1.5 for `minimal`).
const MATRIX_FACTOR: f64 = 1.15;

/// Everything besides the phase that its choices depend on.
pub(super) struct Setting<'a> {
    pub machine: &'a Machine,
    pub flags: &'a MemoryFlags,
    pub mode: MemoryMode,
    /// On the device before the phase's own: the context, what is held, and in `full` the other networks.
    pub device_base_bytes: u64,
    /// In RAM before the phase's own.
    pub ram_base_bytes: u64,
    /// Networks that stay in RAM with `--offload-to ram`.
    pub kept_bytes: u64,
}

/// One manner of running a phase.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Choice<'a> {
    pub on: Place,
    pub placement: Placement,
    pub way: &'a Way,
    /// Weights in memory at once where the phase computes.
    pub weights_bytes: u64,
    pub device_bytes: u64,
    pub pinned_bytes: u64,
    pub ram_bytes: u64,
    pub disk_read_bytes: u64,
    /// Predicted time in whole microseconds, so that comparing and adding are exact.
    pub micros: u64,
    /// Whether copies take no time of their own after the first pass.
    pub hidden: bool,
}

impl Choice<'_> {
    /// The least memory with which it can be chosen; pinned memory is at most 60 % of the host's (§5, S3-31).
    pub fn needs(&self) -> Budgets {
        let pinned = self.pinned_bytes.saturating_mul(5).div_ceil(3);
        Budgets { device_bytes: self.device_bytes, ram_bytes: self.ram_bytes.max(pinned) }
    }
}

/// Where a phase may compute under the flags.
pub(super) fn places(phase: &PhaseJob, setting: &Setting) -> Vec<Place> {
    let flags = setting.flags;
    let has_device = !phase.ways.is_empty() && !setting.machine.is_cpu() && setting.mode != MemoryMode::Cpu;
    let has_cpu = !phase.host_ways.is_empty();
    let wish = match phase.phase {
        Phase::Pose => flags.pose.or(Some(Place::Cpu)),
        Phase::TextEncode => flags.text_encoder,
        Phase::ImageEncode => flags.clip,
        Phase::VaeEncode | Phase::Decode => flags.vae,
        // Hours are not to be lost by a guess: the loop is on the CPU only if all is.
        _ => Some(Place::Device),
    };
    let strict = matches!(setting.mode, MemoryMode::Full | MemoryMode::Stage | MemoryMode::Minimal);
    match (has_device, has_cpu, wish) {
        (false, ..) => vec![Place::Cpu],
        (true, true, Some(Place::Cpu)) => vec![Place::Cpu],
        (true, true, None) if !strict => vec![Place::Device, Place::Cpu],
        (true, ..) => vec![Place::Device],
    }
}

/// Every manner in which the phase can run under the flags, whether or not it fits.
pub(super) fn choices<'a>(phase: &'a PhaseJob, setting: &Setting) -> Vec<Choice<'a>> {
    let mut all = Vec::new();
    for on in places(phase, setting) {
        let ways = if on == Place::Cpu { &phase.host_ways } else { &phase.ways };
        // Who asks for everything at once wants no pieces of activations either (spec memory_and_avatars §4.4).
        let most = if setting.mode == MemoryMode::Full { 1 } else { ways.len() };
        for way in ways.iter().take(most) {
            for (tier, piece) in sources(phase, setting, on) {
                all.extend(of_source(phase, setting, on, way, tier, piece));
            }
        }
    }
    all
}

/// Where streamed weights may come from, and in which pieces. What is resident is so under the first of them.
fn sources(phase: &PhaseJob, setting: &Setting, on: Place) -> Vec<(Tier, Piece)> {
    let flags = setting.flags;
    let allowed = |tier: &Tier| {
        let target = match flags.offload_to {
            Some(OffloadTo::Ram) => *tier != Tier::Disk,
            Some(OffloadTo::Disk) => *tier == Tier::Disk,
            Some(OffloadTo::Drop) | None => true,
        };
        target
            && match flags.pin_memory {
                Some(PinMemory::On) => *tier == Tier::Pinned,
                Some(PinMemory::Off) => *tier != Tier::Pinned,
                Some(PinMemory::Auto) | None => true,
            }
    };
    let tiers: Vec<Tier> = match on {
        Place::Cpu => vec![Tier::Disk],
        Place::Device => [Tier::Disk, Tier::Host, Tier::Pinned].into_iter().filter(allowed).collect(),
    };
    let blocks_asked = phase.phase == Phase::Denoise && flags.blocks_resident.is_some();
    let pieces: &[Piece] = match setting.mode {
        MemoryMode::Minimal => &[Piece::Matrix],
        MemoryMode::Auto if !blocks_asked => &[Piece::Group, Piece::Matrix],
        _ => &[Piece::Group],
    };
    pieces.iter().flat_map(|piece| tiers.iter().map(|tier| (*tier, *piece))).collect()
}

/// The choices that differ in how many groups are resident.
fn of_source<'a>(
    phase: &'a PhaseJob,
    setting: &Setting,
    on: Place,
    way: &'a Way,
    tier: Tier,
    piece: Piece,
) -> Vec<Choice<'a>> {
    let groups = phase.network.group_bytes.as_slice();
    let count = groups.len();
    let counts = match (setting.mode, piece) {
        _ if count == 0 => 0..=0,
        (_, Piece::Matrix) => 0..=0,
        (MemoryMode::Full | MemoryMode::Stage, _) => count..=count,
        (MemoryMode::Stream, _) => 0..=0,
        _ => match setting.flags.blocks_resident.filter(|_| phase.phase == Phase::Denoise) {
            Some(asked) => asked.min(count)..=asked.min(count),
            None => 0..=count,
        },
    };
    let times = Times::new(phase, setting, on, way, tier, piece);
    let whole = groups.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
    let first: f64 = groups.iter().map(|bytes| times.first(*bytes)).sum();
    let build = |resident: usize| {
        // Of the groups that do not stay: their bytes, the largest, their seconds in a pass after the first.
        let (mut streamed, mut largest, mut rest) = (0u64, 0u64, 0.0);
        for (_, bytes) in groups.iter().enumerate().filter(|(i, _)| !Placement::stays(*i, resident, count)) {
            (streamed, largest, rest) =
                (streamed.saturating_add(*bytes), largest.max(*bytes), rest + times.rest(*bytes));
        }
        let placement = placement(setting, on, tier, piece, resident, count);
        let buffer = if piece == Piece::Matrix { phase.network.largest_matrix_bytes.min(largest) } else { largest };
        let staging = buffer.saturating_mul(placement.ring as u64).min(streamed);
        let fixed = phase.network.fixed_bytes;
        let vectors = if piece == Piece::Matrix { phase.network.vector_bytes } else { 0 };
        let weights_bytes = fixed.saturating_add(whole - streamed).saturating_add(staging).saturating_add(vectors);
        let at_work = weights_bytes.saturating_add(way.bytes);
        let (device_bytes, pinned_bytes, ram_own) = match on {
            Place::Cpu => (0, 0, at_work),
            Place::Device => {
                let own = match setting.mode {
                    // The network itself is in the base, with all others.
                    MemoryMode::Full => way.bytes,
                    _ => at_work,
                };
                let (pinned, ram) = match tier {
                    Tier::Pinned => (streamed, streamed),
                    Tier::Host => (0, streamed),
                    Tier::Disk if setting.flags.pin_memory == Some(PinMemory::Off) => (0, staging),
                    Tier::Disk => (staging, staging),
                };
                (setting.device_base_bytes.saturating_add(own), pinned, ram.saturating_add(way.host_bytes))
            }
        };
        // What is kept in RAM is this phase's own too: it is not counted twice.
        let own_kept = if setting.kept_bytes > 0 { phase.network.bytes() } else { 0 };
        let kept = setting.kept_bytes.saturating_sub(own_kept);
        let ram_own = if setting.kept_bytes > 0 { ram_own.max(own_kept) } else { ram_own };
        let later = phase.passes.saturating_sub(1);
        let resident_rest = resident as f64 * times.compute;
        let seconds = times.load(fixed) + first + later as f64 * (resident_rest + rest) + times.whole;
        let rereads = if tier == Tier::Disk { later } else { 0 };
        Choice {
            on,
            placement,
            way,
            weights_bytes,
            device_bytes,
            pinned_bytes,
            ram_bytes: setting.ram_base_bytes.saturating_add(kept).saturating_add(ram_own),
            disk_read_bytes: fixed.saturating_add(whole).saturating_add(streamed.saturating_mul(rereads)),
            micros: (seconds * 1e6).round() as u64,
            hidden: rest <= times.compute * (count - resident) as f64 * 1.001,
        }
    };
    counts.map(build).collect()
}

fn placement(setting: &Setting, on: Place, tier: Tier, piece: Piece, resident: usize, groups: usize) -> Placement {
    let all = resident == groups;
    let prefetches = on == Place::Cpu || setting.flags.async_offload != Some(false);
    let keeps =
        on == Place::Device && (setting.mode == MemoryMode::Full || setting.flags.offload_to == Some(OffloadTo::Ram));
    Placement {
        resident,
        ring: if all { 0 } else { 1 + usize::from(prefetches) },
        piece: if all { Piece::Group } else { piece },
        tier: if all { Tier::Disk } else { tier },
        after: if keeps { After::Keep } else { After::Drop },
    }
}

/// Seconds of the parts of a phase.
struct Times {
    /// Arithmetic of one group in one pass.
    compute: f64,
    /// Arithmetic of a network without groups, all passes.
    whole: f64,
    /// Bytes a second from the disk to where the phase computes.
    from_disk: f64,
    /// Bytes a second of streamed groups after the first pass.
    from_tier: f64,
    overlaps: bool,
}

impl Times {
    fn new(phase: &PhaseJob, setting: &Setting, on: Place, way: &Way, tier: Tier, piece: Piece) -> Self {
        let Setting { machine, flags, .. } = *setting;
        let device = &machine.device;
        let rate = match (on, phase.work.precision) {
            (Place::Cpu, _) => machine.host.of(phase.work.compute),
            (Place::Device, Precision::Single) => device.rates.single,
            (Place::Device, Precision::Half) => device.rates.half,
        };
        let piece_factor = if piece == Piece::Matrix { MATRIX_FACTOR } else { 1.0 };
        let arithmetic = phase.work.flops / rate.max(1.0) * way.time_factor.max(1.0) * piece_factor;
        let turns = phase.passes.max(1) as f64 * phase.network.group_bytes.len() as f64;
        let disk = machine.disk_bytes_per_second;
        let on_device = on == Place::Device && device.kind != DeviceKind::Cpu;
        let from_disk = if on_device { disk.min(device.pinned_bytes_per_second) } else { disk };
        let from_tier = match tier {
            Tier::Pinned => device.pinned_bytes_per_second,
            Tier::Host => device.pageable_bytes_per_second,
            Tier::Disk => from_disk,
        };
        Self {
            compute: if turns > 0.0 { arithmetic / turns } else { 0.0 },
            whole: if turns > 0.0 { 0.0 } else { arithmetic },
            from_disk: from_disk.max(1.0),
            from_tier: from_tier.max(1.0),
            // On the CPU the same cores read and compute.
            overlaps: on_device && flags.async_offload != Some(false),
        }
    }

    fn both(&self, copy: f64) -> f64 {
        if self.overlaps { self.compute.max(copy) } else { self.compute + copy }
    }

    /// A group on the first pass.
    fn first(&self, bytes: u64) -> f64 {
        self.both(self.load(bytes))
    }

    /// A streamed group on another pass.
    fn rest(&self, bytes: u64) -> f64 {
        self.both(bytes as f64 / self.from_tier)
    }

    fn load(&self, bytes: u64) -> f64 {
        bytes as f64 / self.from_disk
    }
}
