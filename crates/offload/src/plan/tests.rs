//! Properties of plans over random jobs and machines, and the choices of a known one.

use kernels::Compute;
use proptest::prelude::*;

use super::*;
use crate::{Memory, PinMemory};

const MIB: u64 = 1 << 20;

fn network() -> impl Strategy<Value = NetworkSize> {
    let names = prop_oneof![Just("a"), Just("b"), Just("vae")];
    let groups = proptest::collection::vec(1u64..400, 0..7);
    (names, 0u64..300, 0u64..100, groups).prop_map(|(name, fixed, table, groups)| NetworkSize {
        // One name is one network: sizes go with it.
        name: format!("{name}{fixed}{table}{groups:?}"),
        fixed_bytes: fixed * MIB,
        table_bytes: table * MIB,
        largest_matrix_bytes: groups.iter().max().map_or(0, |g| g * MIB / 3),
        vector_bytes: groups.iter().sum::<u64>() * 1000,
        group_bytes: groups.into_iter().map(|g| g * MIB).collect(),
    })
}

fn ways() -> impl Strategy<Value = Vec<Way>> {
    proptest::collection::vec((1u64..1000, 1.0f64..1.5, any::<bool>()), 1..4).prop_map(|list| {
        let how = [How::Whole, How::FfnChunks(8), How::TokenChunks];
        let way = |(how, (mib, time_factor, exact))| Way { how, bytes: mib * MIB, host_bytes: 0, time_factor, exact };
        how.into_iter().zip(list).map(way).collect()
    })
}

fn phase() -> impl Strategy<Value = PhaseJob> {
    (0usize..7, network(), 1u64..50, 1e9f64..1e15, any::<bool>(), ways(), ways()).prop_map(
        |(phase, network, passes, flops, half, ways, host_ways)| PhaseJob {
            phase: Phase::ALL[phase],
            network,
            passes,
            work: Work {
                flops,
                precision: if half { Precision::Half } else { Precision::Single },
                compute: Compute::F32,
            },
            ways,
            host_ways,
        },
    )
}

fn job() -> impl Strategy<Value = Job> {
    (proptest::collection::vec(phase(), 1..6), 0u64..200, 0u64..500).prop_map(|(phases, device, ram)| Job {
        phases,
        held_device_bytes: device * MIB,
        held_ram_bytes: ram * MIB,
    })
}

fn machine() -> impl Strategy<Value = Machine> {
    let rate = || 1e8f64..1e11;
    let kind = prop_oneof![Just(DeviceKind::Cpu), Just(DeviceKind::Cuda), Just(DeviceKind::Virtual)];
    ((kind, 0u64..6000, 0u64..9000), (rate(), rate(), rate()), (1e9f64..1e15, 1e9f64..1e15, 1e9f64..1e13)).prop_map(
        |((kind, free, ram), (pinned, pageable, disk), (single, half, host))| {
            let ram = Memory { total_bytes: ram * MIB, available_bytes: ram * MIB };
            let device = DeviceFacts {
                name: "made up".into(),
                kind,
                total_bytes: 2 * free * MIB,
                free_bytes: free * MIB,
                pinned_bytes_per_second: pinned,
                pageable_bytes_per_second: pageable,
                rates: Rates { single, half },
                has_bf16: true,
            };
            Machine { device, ram, disk_bytes_per_second: disk, host: HostRates::uniform(host) }
        },
    )
}

fn flags() -> impl Strategy<Value = MemoryFlags> {
    fn maybe<T: Clone + std::fmt::Debug + 'static>(list: Vec<T>) -> impl Strategy<Value = Option<T>> {
        prop_oneof![Just(None), proptest::sample::select(list).prop_map(Some)]
    }
    let place = || maybe(vec![Place::Device, Place::Cpu]);
    (
        (maybe(MemoryMode::ALL.to_vec()), maybe(MemoryMode::ALL.to_vec()), maybe(vec![0u64, 300 * MIB])),
        (place(), place(), place(), place()),
        maybe(vec![0usize, 1, 3, 99]),
        maybe(vec![OffloadTo::Ram, OffloadTo::Disk, OffloadTo::Drop]),
        maybe(vec![PinMemory::Auto, PinMemory::On, PinMemory::Off]),
        maybe(vec![true, false]),
    )
        .prop_map(
            |((mode, suggested_mode, reserve_bytes), (text_encoder, clip, vae, pose), blocks, to, pin, overlap)| {
                MemoryFlags {
                    mode,
                    suggested_mode,
                    text_encoder,
                    clip,
                    vae,
                    pose,
                    reserve_bytes,
                    blocks_resident: blocks,
                    offload_to: to,
                    pin_memory: pin,
                    async_offload: overlap,
                    ..MemoryFlags::default()
                }
            },
        )
        .prop_filter("contradiction", |flags| flags.check().is_ok())
}

fn with_memory(machine: &Machine, device: u64, ram: u64) -> Machine {
    let mut machine = machine.clone();
    machine.device.free_bytes = device;
    machine.ram = Memory { total_bytes: ram, available_bytes: ram };
    machine
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_peak_is_above_its_budget(job in job(), machine in machine(), flags in flags()) {
        let Ok(plan) = plan(&job, &machine, &flags) else { return Ok(()) };
        prop_assert_eq!(plan.phases.len(), job.phases.len());
        prop_assert!(plan.peaks.device_bytes <= plan.budgets.device_bytes);
        prop_assert!(plan.peaks.ram_bytes <= plan.budgets.ram_bytes.max(job.held_ram_bytes));
        prop_assert!(plan.peaks.pinned_bytes as u128 * 5 <= plan.budgets.ram_bytes as u128 * 3);
        for (p, j) in plan.phases.iter().zip(&job.phases) {
            let groups = j.network.group_bytes.len();
            prop_assert!(p.placement.resident <= groups && p.placement.ring <= 2);
            prop_assert_eq!(p.placement.is_resident(), p.placement.resident == groups);
            prop_assert!(p.device_peak_bytes <= plan.budgets.device_bytes && p.ram_peak_bytes <= plan.budgets.ram_bytes);
            prop_assert!(p.disk_read_bytes >= j.network.bytes() && p.pinned_bytes <= p.ram_peak_bytes);
            prop_assert!((p.on == Place::Cpu) == (p.device_peak_bytes == 0));
            let kept = p.peak_bytes() >= p.way.bytes + p.weights_bytes.min(j.network.bytes());
            prop_assert!(kept, "{:?}", p);
            if p.placement.piece == Piece::Group {
                // Groups differ in size: what is in memory is what stays and the largest of the others, as often as they lie there.
                let stays = |i: &usize| Placement::stays(*i, p.placement.resident, groups);
                let of = |kept: bool| (0..groups).filter(move |i| stays(i) == kept).map(|i| j.network.group_bytes[i]);
                prop_assert_eq!(of(true).count(), p.placement.resident);
                let moving = (of(false).max().unwrap_or(0) * p.placement.ring as u64).min(of(false).sum());
                prop_assert_eq!(p.weights_bytes.min(j.network.bytes()), j.network.fixed_bytes + of(true).sum::<u64>() + moving);
            }
        }
        prop_assert!(plan.mode != MemoryMode::Auto);
    }

    #[test]
    fn more_memory_is_never_slower(
        job in job(), machine in machine(), flags in flags(), device in 0u64..3000, ram in 0u64..6000,
    ) {
        // A suggestion gives way to the faster plan of `auto` where it does not fit: there the small card may win.
        let flags = MemoryFlags { suggested_mode: None, ..flags };
        let Ok(small) = plan(&job, &machine, &flags) else { return Ok(()) };
        let more = |have: u64, extra: u64| have + extra * MIB;
        let large = with_memory(&machine, more(machine.device.free_bytes, device), more(machine.ram.available_bytes, ram));
        let large = plan(&job, &large, &flags);
        prop_assert!(large.is_ok(), "{:?}", large);
        prop_assert!(large.unwrap().seconds <= small.seconds);
    }

    #[test]
    fn every_refusal_names_a_budget_that_does(job in job(), machine in machine(), flags in flags()) {
        let Err(error) = plan(&job, &machine, &flags) else { return Ok(()) };
        prop_assert!(error.needed != error.budgets);
        let reserve = flags.reserve_bytes.unwrap_or(RESERVE_BYTES);
        let enough = with_memory(&machine, error.needed.device_bytes + reserve, error.needed.ram_bytes);
        prop_assert!(plan(&job, &enough, &flags).is_ok(), "{error}");
        // Where only the device was short, not a byte less will do.
        let ram_was_enough = error.needed.ram_bytes == error.budgets.ram_bytes;
        if ram_was_enough && flags.suggested_mode.is_none() {
            let less = MemoryFlags { device_budget_bytes: Some(error.needed.device_bytes - 1), ..flags };
            prop_assert!(plan(&job, &enough, &less).is_err());
        }
        let text = error.to_string();
        prop_assert!(text.lines().count() == 1 && text.contains("--size"), "{text}");
    }
}

/// A transformer of 40 blocks of 0.4 GiB at 12 s a pass on a card with 25 GB/s.
fn known(device_gib: f64) -> (Job, Machine) {
    let way = |how, gib: f64, time_factor| Way {
        how,
        bytes: (gib * GIB as f64) as u64,
        host_bytes: 0,
        time_factor,
        exact: true,
    };
    let denoise = PhaseJob {
        phase: Phase::Denoise,
        network: NetworkSize {
            name: "dit".into(),
            fixed_bytes: GIB / 2,
            table_bytes: 0,
            group_bytes: vec![GIB * 4 / 10; 40],
            largest_matrix_bytes: 70 * MIB,
            vector_bytes: MIB,
        },
        passes: 10,
        work: Work { flops: 1.2e16, precision: Precision::Half, compute: Compute::F32 },
        ways: vec![way(How::Whole, 3.0, 1.0), way(How::FfnChunks(8), 2.4, 1.02), way(How::TokenChunks, 1.4, 1.1)],
        host_ways: vec![way(How::Whole, 6.0, 1.0)],
    };
    let pose = PhaseJob {
        phase: Phase::Pose,
        network: NetworkSize::whole("pose", GIB / 4),
        passes: 1,
        work: Work { flops: 1e12, precision: Precision::Single, compute: Compute::F32 },
        ways: vec![way(How::Whole, 0.5, 1.0)],
        host_ways: vec![way(How::Whole, 0.5, 1.0)],
    };
    let job = Job { phases: vec![pose, denoise], held_device_bytes: 0, held_ram_bytes: GIB };
    let ram = Memory { total_bytes: 64 * GIB, available_bytes: 64 * GIB };
    let device =
        DeviceFacts { rates: Rates { single: 5e13, half: 1e14 }, ..virtual_card((device_gib * GIB as f64) as u64) };
    (job, Machine::cpu(ram).with_device(device))
}

fn denoise(device_gib: f64, flags: &MemoryFlags) -> PhasePlan {
    let (job, machine) = known(device_gib);
    plan(&job, &machine, flags).unwrap().phase(Phase::Denoise).unwrap().clone()
}

#[test]
fn a_larger_card_climbs_the_ladder() {
    let auto = MemoryFlags::default();
    let mode = |gib: f64| {
        let (job, machine) = known(gib);
        plan(&job, &machine, &auto).unwrap().mode
    };
    assert_eq!(
        [2.8, 5.2, 10.0, 24.0].map(mode),
        [MemoryMode::Minimal, MemoryMode::Stream, MemoryMode::Partial, MemoryMode::Full]
    );
    // Hidden copies: as many blocks as fit stay, and the others are pinned, not read again.
    let partial = denoise(10.0, &auto);
    assert_eq!((partial.placement.resident, partial.placement.ring, partial.placement.tier), (12, 2, Tier::Pinned));
    assert!(partial.reason.contains("12 of 40 blocks fit") && partial.reason.contains("hidden"), "{}", partial.reason);
    // Poses are found on the CPU unless that is said.
    let (job, machine) = known(24.0);
    assert_eq!(plan(&job, &machine, &auto).unwrap().phases[0].on, Place::Cpu);
    let gpu = MemoryFlags { pose: Some(Place::Device), ..auto };
    assert_eq!(plan(&job, &machine, &gpu).unwrap().phases[0].on, Place::Device);
}

#[test]
fn each_switch_changes_what_it_says() {
    let with = |change: &dyn Fn(&mut MemoryFlags)| {
        let mut flags = MemoryFlags::default();
        change(&mut flags);
        flags
    };
    let stream = with(&|f| f.mode = Some(MemoryMode::Stream));
    let streamed = denoise(24.0, &stream);
    assert_eq!((streamed.placement.resident, streamed.placement.ring), (0, 2));
    let sequential = denoise(24.0, &with(&|f| (f.mode, f.async_offload) = (stream.mode, Some(false))));
    assert_eq!(sequential.placement.ring, 1);
    assert!(sequential.seconds > streamed.seconds && sequential.device_peak_bytes < streamed.device_peak_bytes);

    let disk = denoise(24.0, &with(&|f| (f.mode, f.offload_to) = (stream.mode, Some(OffloadTo::Disk))));
    assert_eq!((disk.placement.tier, disk.disk_read_bytes > 9 * streamed.disk_read_bytes), (Tier::Disk, true));
    assert!(disk.ram_peak_bytes < streamed.ram_peak_bytes);
    let unpinned = denoise(24.0, &with(&|f| (f.mode, f.pin_memory) = (stream.mode, Some(PinMemory::Off))));
    assert_eq!((unpinned.placement.tier, unpinned.pinned_bytes), (Tier::Host, 0));
    let kept = denoise(24.0, &with(&|f| f.offload_to = Some(OffloadTo::Ram)));
    assert_eq!((kept.placement.after, kept.ram_peak_bytes >= 16 * GIB), (After::Keep, true));

    let blocks = denoise(24.0, &with(&|f| f.blocks_resident = Some(7)));
    assert_eq!((blocks.placement.resident, blocks.reason.contains("--blocks-resident")), (7, true));
    let minimal = denoise(24.0, &with(&|f| f.mode = Some(MemoryMode::Minimal)));
    assert_eq!((minimal.placement.piece, minimal.way.how), (Piece::Matrix, How::TokenChunks));
    assert!(minimal.device_peak_bytes < 3 * GIB);
    let cpu = denoise(24.0, &with(&|f| f.mode = Some(MemoryMode::Cpu)));
    assert_eq!((cpu.on, cpu.device_peak_bytes), (Place::Cpu, 0));
    let (job, machine) = known(24.0);
    let reserve = plan(&job, &machine, &with(&|f| f.reserve_bytes = Some(5 * GIB))).unwrap();
    assert_eq!(reserve.budgets.device_bytes, 19 * GIB);
}

#[test]
fn pinned_memory_stays_below_its_share_of_the_host() {
    let (job, mut machine) = known(6.0);
    let tier = |ram: u64, machine: &mut Machine| {
        machine.ram = Memory { total_bytes: ram * GIB, available_bytes: ram * GIB };
        plan(&job, machine, &MemoryFlags::default()).unwrap().phase(Phase::Denoise).unwrap().placement.tier
    };
    // 16 GiB of blocks.
    assert_eq!(
        [64, 28, 20, 8].map(|ram| tier(ram, &mut machine)),
        [Tier::Pinned, Tier::Pinned, Tier::Host, Tier::Disk]
    );
}

#[test]
fn refusals_name_the_switch_that_gets_there() {
    let (job, machine) = known(8.0);
    let stage = MemoryFlags { mode: Some(MemoryMode::Stage), ..MemoryFlags::default() };
    let error = plan(&job, &machine, &stage).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("denoise in mode stage needs 18.50 GiB of device memory, 8.00 GiB may be used; "), "{text}");
    assert!(text.contains("--memory-mode auto fits"), "{text}");
    let (job, machine) = known(1.0);
    let text = plan(&job, &machine, &MemoryFlags::default()).unwrap_err().to_string();
    assert!(text.contains("--memory-mode cpu fits") && text.contains("--size"), "{text}");
    let cpu = Machine::cpu(Memory { total_bytes: GIB, available_bytes: GIB });
    let text = plan(&job, &cpu, &MemoryFlags::default()).unwrap_err().to_string();
    assert!(!text.contains("device") && text.contains("must be available"), "{text}");
}

#[test]
fn a_suggestion_is_taken_where_it_fits() {
    let suggests = MemoryFlags { suggested_mode: Some(MemoryMode::Stage), ..MemoryFlags::default() };
    let mode = |gib: f64| {
        let (job, machine) = known(gib);
        let plan = plan(&job, &machine, &suggests).unwrap();
        (plan.mode, plan.notes.len())
    };
    assert_eq!((mode(24.0), mode(10.0)), ((MemoryMode::Stage, 0), (MemoryMode::Partial, 1)));
}

#[test]
fn flags_that_do_nothing_on_a_cpu_are_told() {
    let (job, machine) = known(8.0);
    let cpu = Machine::cpu(machine.ram);
    let flags = MemoryFlags {
        device_budget_bytes: Some(GIB),
        vae: Some(Place::Device),
        async_offload: Some(false),
        mode: Some(MemoryMode::Full),
        ..MemoryFlags::default()
    };
    let plan = plan(&job, &cpu, &flags).unwrap();
    assert_eq!((plan.mode, plan.notes.len()), (MemoryMode::Stage, 2), "{:?}", plan.notes);
    for word in ["--vram-budget", "--gpu-vae", "--no-async-offload"] {
        assert!(plan.notes[1].contains(word), "{:?}", plan.notes);
    }
}
