//! `steadydance plan` and `run --dry-run`.

use std::fmt::Write;

use steadydance::{
    AnimatePlan, Engine, HostRates, LoraInfo, Machine, Memory, PhasePlan, Place, StagePlan, card, doctor, hub,
    plan_known, virtual_card,
};

use super::args::{PlanArgs, RunArgs};
use super::failure::Failure;
use super::plan_drawing::{Characters, drawing};
use super::request::{self, Job, Model};
use super::terminal::{self, Terminal};

/// Shows what a run would do, here or on another machine. A published model is planned from its shapes alone, whether or
/// not its files are here; of a model of one's own nothing is known without them.
///
/// # Errors
/// As a run's, before its first weight is read.
pub fn plan(args: &PlanArgs, terminal: Terminal) -> Result<(), Failure> {
    let job = Job::new(&args.run, terminal)?;
    let (machine, mut notes) = machine(&job, args.card.as_deref())?;
    let probed = args.probe.then(|| Probed::now(&mut notes));
    show(&args.run, &job, (machine, probed), notes, terminal)
}

/// Shows what a run would do on this machine.
///
/// # Errors
/// As [`plan`].
pub fn dry_run(args: &RunArgs, terminal: Terminal) -> Result<(), Failure> {
    show(args, &Job::new(args, terminal)?, (None, None), Vec::new(), terminal)
}

/// The machine that a plan is for, with what must be said about it: one with the card that was named, or with a card of the
/// budget that was named; `None` is this one.
fn machine(job: &Job, name: Option<&str>) -> Result<(Option<Machine>, Vec<String>), Failure> {
    let flags = &job.options.memory;
    let device = match (name, flags.device_budget_bytes) {
        (Some(name), _) => Some(card(name).map_err(Failure::usage)?),
        (None, Some(bytes)) if job.options.device != "cpu" => Some(virtual_card(bytes)),
        _ => None,
    };
    let host = Memory::of_host();
    // What is not opened here may be run elsewhere, with another memory.
    let elsewhere = device.is_some() || matches!(job.model, Model::Known(_));
    let ram = match flags.ram_budget_bytes.filter(|_| elsewhere) {
        Some(budget) => Memory { total_bytes: host.total_bytes.max(budget), available_bytes: budget },
        None => host,
    };
    let machine = Machine::cpu(ram);
    let Some(device) = device else { return Ok((elsewhere.then_some(machine), Vec::new())) };
    let notes = match flags.ram_budget_bytes {
        Some(_) => Vec::new(),
        None => {
            vec![format!("RAM is what is available here, {}; --ram-budget is another's", bytes(ram.available_bytes))]
        }
    };
    Ok((Some(machine.with_device(device)), notes))
}

/// What the processor and the disk of this machine do just now.
struct Probed {
    host: HostRates,
    disk_bytes_per_second: Option<f64>,
}

impl Probed {
    fn now(notes: &mut Vec<String>) -> Self {
        let host = HostRates::measured();
        let [single, half, int8] = [host.single, host.half, host.int8].map(|flops| flops / 1e9);
        let mut note =
            format!("probed: sustained products of {single:.0} GFLOP/s in f32, {half:.0} in bf16, {int8:.0} in int8");
        let disk_bytes_per_second = doctor::disk_speed(&hub::Settings::from_env()).map(|read| read.bytes_per_s);
        if let Some(speed) = disk_bytes_per_second {
            let _ = write!(note, "; the disk reads {}/s", bytes(speed as u64));
        }
        notes.push(note);
        Self { host, disk_bytes_per_second }
    }

    /// The machine with this of its host.
    fn applied(&self, machine: Machine) -> Machine {
        let mut machine = machine.with_host(self.host);
        machine.disk_bytes_per_second = self.disk_bytes_per_second.unwrap_or(machine.disk_bytes_per_second);
        machine
    }
}

fn show(
    args: &RunArgs,
    job: &Job,
    (machine, probed): (Option<Machine>, Option<Probed>),
    notes: Vec<String>,
    terminal: Terminal,
) -> Result<(), Failure> {
    let measured = |machine: &Machine| match &probed {
        Some(probed) => probed.applied(machine.clone()),
        None => machine.clone(),
    };
    let mut plan = match &job.model {
        Model::Known(known) if known.is_built_in() => {
            let machine = measured(&machine.unwrap_or_else(Machine::of_host));
            plan_known(&known.name, &job.request_for_shapes(args)?, &machine, &job.options_for_shapes())?
        }
        Model::Demo | Model::Path(_) | Model::Known(_) => {
            let mut request = job.request(args)?;
            // Without -o nothing would be checked that a plan can do without.
            if args.output.is_some() {
                request.output = Some(request::output(args, &request)?);
            }
            let engine = Engine::open(&job.source()?, &job.options)?;
            let plan = match &machine {
                Some(machine) => engine.plan_on(&request, &measured(machine)),
                None => engine.plan_here(&request, &measured(&engine.machine())),
            };
            plan.map_err(|e| request::explain(e, &request))?
        }
    };
    plan.notes.extend(notes);
    if args.json {
        return terminal::write_json(&plan);
    }
    let characters = if terminal.draws_blocks() { Characters::Blocks } else { Characters::Ascii };
    terminal::write_out(&table(&plan, characters))
}

/// The plan for people.
fn table(plan: &AnimatePlan, characters: Characters) -> String {
    let AnimatePlan { model, width, height, num_frames, fps, seed, forwards, tokens, latent_frames, .. } = plan;
    let mut text = format!(
        "{model}\n{width}x{height}, {num_frames} frames at {fps} fps ({:.2} s), {latent_frames} latent frames, seed {seed}\n",
        *num_frames as f64 / fps
    );
    let steps = plan.schedule.num_steps();
    let _ = writeln!(text, "{steps} steps, {forwards} forwards of {tokens} tokens");
    for lora in &plan.loras {
        let _ = writeln!(text, "{}", lora_line(lora));
    }
    text.push('\n');
    text += &stages(&plan.stages);
    text.push('\n');
    text += &drawing(&plan.stages, characters);
    for note in &plan.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// The phases as a table, and what they amount to.
fn stages(stages: &StagePlan) -> String {
    let on_gpu = stages.phases.iter().any(|p| p.on == Place::Device);
    let device = |cell: &str| if on_gpu { format!("{cell:>10}") } else { String::new() };
    let mut text = format!(
        "  {:<13}{:<5}{:<22}{:>10}  {:<20}{:>10}{}{:>10}{:>10}{:>10}  why\n",
        "phase",
        "on",
        "weights",
        "",
        "activations",
        "",
        device("device"),
        "RAM",
        "disk",
        "time"
    );
    for (number, p) in stages.phases.iter().enumerate() {
        let device = device(&if p.on == Place::Device { bytes(p.device_peak_bytes) } else { "-".to_owned() });
        let row = format!(
            "{} {:<13}{:<5}{:<22}{:>10}  {:<20}{:>10}{device}{:>10}{:>10}{:>10}  {}",
            number + 1,
            p.phase,
            if p.on == Place::Device { "GPU" } else { "CPU" },
            weights(p),
            bytes(p.weights_bytes),
            p.way.how,
            bytes(p.way.bytes),
            bytes(p.ram_peak_bytes),
            bytes(p.disk_read_bytes),
            duration(p.seconds),
            p.reason,
        );
        let _ = writeln!(text, "{}", row.trim_end());
    }
    let (peaks, budgets) = (stages.peaks, stages.budgets);
    let gpu = match on_gpu {
        true => format!("{} of {} on {}, ", bytes(peaks.device_bytes), bytes(budgets.device_bytes), stages.device),
        false => String::new(),
    };
    let pinned =
        if peaks.pinned_bytes > 0 { format!(" ({} pinned)", bytes(peaks.pinned_bytes)) } else { String::new() };
    let _ = writeln!(
        text,
        "\nmode {}: peak {gpu}{} of {} of RAM{pinned}; about {}, a rough guess",
        stages.mode,
        bytes(peaks.ram_bytes),
        bytes(budgets.ram_bytes),
        duration(stages.seconds)
    );
    text
}

fn weights(phase: &PhasePlan) -> String {
    if phase.weights_bytes == 0 { "-".to_owned() } else { phase.placement.to_string() }
}

/// A LoRA in one line.
pub fn lora_line(lora: &LoraInfo) -> String {
    let LoraInfo { name, strength, fit, .. } = lora;
    format!("LoRA {name}, strength {strength}: changes {} tensors", fit.targets)
}

/// A time for people, as roughly as it is known.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => "<0.1 s".to_owned(),
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// Bytes for people.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        u64::MAX => "unlimited".to_owned(),
        b if b >= 1 << 40 => format!("{:.2} TiB", b as f64 / (1u64 << 40) as f64),
        b if b >= 1 << 30 => format!("{:.2} GiB", b as f64 / f64::from(1u32 << 30)),
        b if b >= 1 << 20 => format!("{:.1} MiB", b as f64 / f64::from(1u32 << 20)),
        b if b >= 1 << 10 => format!("{:.1} KiB", b as f64 / 1024.0),
        b => format!("{b} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadydance::{AnimateRequest, EngineOptions, MemoryFlags, Motion, Settings, preset};

    fn example(machine: &Machine) -> AnimatePlan {
        let settings = Settings::from_preset(&preset("official").unwrap()).unwrap();
        let motion = Motion::Keypoints { file: "k".into(), drive: None };
        let request = AnimateRequest::new("r", motion, settings).size(832, 480);
        let options = EngineOptions { memory: MemoryFlags::default(), ..EngineOptions::default() };
        plan_known("steadydancer-14b-fp8", &request, machine, &options).unwrap()
    }

    fn host() -> Machine {
        let ram = Memory { total_bytes: 64 << 30, available_bytes: 64 << 30 };
        Machine { host: HostRates::uniform(1e12), ..Machine::cpu(ram) }
    }

    #[test]
    fn the_table_has_a_row_for_each_phase_and_says_why() {
        let text = table(&example(&host().with_device(virtual_card(8 << 30))), Characters::Ascii);
        for part in [
            "40 steps, 91 forwards of 35880 tokens",
            "1 pose         CPU",
            "5 denoise      GPU",
            "of 40 blocks fit",
            "hidden behind the arithmetic",
            "mode partial: peak",
            "of 8.00 GiB on a card of 8 GiB",
            "budget 8.00 GiB",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.is_ascii());
        let text = table(&example(&host()), Characters::Blocks);
        assert!(!text.contains("device") && text.contains("mode stage") && text.contains('█'), "{text}");
    }

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([u64::MAX, 1536, 3 << 40].map(bytes), ["unlimited", "1.5 KiB", "3.00 TiB"]);
        let times = [0.0, 3.21, 61.0, 600.0, 9000.0, 864_000.0].map(duration);
        assert_eq!(times, ["<0.1 s", "3.2 s", "61 s", "10 min", "2.5 h", "10 d"]);
    }
}
