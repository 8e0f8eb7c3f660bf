//! `steadydance plan` and `run --dry-run`.

use std::fmt::Write;

use steadydance::{AnimatePlan, Engine, LoraInfo, Memory, PhasePlan, Placement, plan_known};

use super::args::RunArgs;
use super::failure::Failure;
use super::request::{self, Job, Model};
use super::terminal::{self, Terminal};

/// Width of the drawing in characters.
const BAR: usize = 32;

/// Shows what a run would do. A published model is planned from its shapes alone, whether or not its files are here; of a
/// model of one's own nothing is known without them.
///
/// # Errors
/// As a run's, before its first weight is read.
pub fn plan(args: &RunArgs, terminal: Terminal) -> Result<(), Failure> {
    let job = Job::new(args, terminal)?;
    let plan = match &job.model {
        Model::Known(known) if known.is_built_in() => {
            let host = Memory::of_host();
            let memory = match job.options.memory_budget_bytes {
                Some(budget) => Memory { total_bytes: host.total_bytes.max(budget), available_bytes: budget },
                None => host,
            };
            plan_known(&known.name, &job.request_for_shapes(args)?, &memory, &job.options)?
        }
        Model::Demo | Model::Path(_) | Model::Known(_) => {
            let mut request = job.request(args)?;
            // Without -o nothing would be checked that a plan can do without.
            if args.output.is_some() {
                request.output = Some(request::output(args, &request)?);
            }
            let engine = Engine::open(&job.source()?, &job.options)?;
            engine.plan(&request).map_err(|e| request::explain(e, &request))?
        }
    };
    if args.json { terminal::write_json(&plan) } else { terminal::write_out(&table(&plan)) }
}

/// The plan for people.
fn table(plan: &AnimatePlan) -> String {
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
    let _ = writeln!(text, "{:<14}{:<10}{:>12}{:>14}{:>12}", "phase", "weights", "in memory", "activations", "peak");
    let scale = plan.stages.budget_bytes.min(plan.stages.peak_bytes.saturating_mul(2)).max(1);
    for phase in &plan.stages.phases {
        let placement = match phase.placement {
            Placement::Resident => "resident",
            Placement::Streamed => "streamed",
        };
        let _ = writeln!(
            text,
            "{:<14}{placement:<10}{:>12}{:>14}{:>12}  {}",
            phase.phase.to_string(),
            bytes(phase.weights_bytes),
            bytes(phase.activation_bytes),
            bytes(phase.peak_bytes),
            drawing(phase, plan.stages.held_bytes, scale)
        );
    }
    let _ = writeln!(
        text,
        "\npeak {} of {} that may be used; # weights, = activations, - held through the run; a full bar is {}",
        bytes(plan.stages.peak_bytes),
        bytes(plan.stages.budget_bytes),
        bytes(scale)
    );
    for phase in plan.stages.phases.iter().filter(|p| p.placement == Placement::Streamed) {
        let _ = writeln!(text, "{} is streamed: {}", phase.phase, phase.reason);
    }
    for note in &plan.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// A LoRA in one line.
pub fn lora_line(lora: &LoraInfo) -> String {
    let LoraInfo { name, strength, fit, .. } = lora;
    format!("LoRA {name}, strength {strength}: changes {} tensors", fit.targets)
}

/// The memory of one phase as a bar of [`BAR`] characters; a full bar is `scale` bytes.
fn drawing(phase: &PhasePlan, held_bytes: u64, scale: u64) -> String {
    let column = |b: u64| (b as f64 / scale as f64 * BAR as f64).round().min(BAR as f64) as usize;
    let held = column(held_bytes);
    let weights = column(held_bytes.saturating_add(phase.weights_bytes));
    let all = column(phase.peak_bytes).max(weights);
    format!(
        "[{}{}{}{}]",
        "-".repeat(held),
        "#".repeat(weights - held),
        "=".repeat(all - weights),
        " ".repeat(BAR - all)
    )
}

/// Bytes for people.
pub fn bytes(bytes: u64) -> String {
    match bytes {
        u64::MAX => "unlimited".to_owned(),
        b if b >= 1 << 30 => format!("{:.2} GiB", b as f64 / f64::from(1u32 << 30)),
        b if b >= 1 << 20 => format!("{:.1} MiB", b as f64 / f64::from(1u32 << 20)),
        b if b >= 1 << 10 => format!("{:.1} KiB", b as f64 / 1024.0),
        b => format!("{b} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadydance::{GuidancePlan, Phase, Schedule, StagePlan, preset};

    fn example() -> AnimatePlan {
        let phase = |phase, placement, weights_bytes: u64| PhasePlan {
            phase,
            placement,
            weights_bytes,
            activation_bytes: 1 << 30,
            peak_bytes: weights_bytes + (2 << 30),
            reason: "33.00 GiB as a whole is above the budget".into(),
        };
        let phases = vec![
            phase(Phase::TextEncode, Placement::Resident, 11 << 30),
            phase(Phase::Denoise, Placement::Streamed, 3 << 30),
        ];
        let stages = StagePlan { phases, budget_bytes: 16 << 30, held_bytes: 1 << 30, peak_bytes: 13 << 30 };
        let settings = steadydance::Settings::from_preset(&preset("official").unwrap()).unwrap();
        let schedule: Schedule = settings.schedule().unwrap();
        let guidance: GuidancePlan = settings.guidance(40, true).unwrap();
        AnimatePlan {
            model: "SteadyDancer-14B".into(),
            width: 832,
            height: 480,
            num_frames: 81,
            latent_frames: 21,
            tokens: 35_880,
            fps: 16.0,
            seed: 106_060,
            forwards: guidance.total_forwards(),
            schedule,
            guidance,
            stages,
            loras: vec![],
            notes: vec!["the motion has 90 frames; the last 9 are left out".into()],
        }
    }

    #[test]
    fn the_table_has_a_row_and_a_bar_for_each_phase() {
        let text = table(&example());
        for part in
            ["40 steps, 91 forwards of 35880 tokens", "text encode", "11.00 GiB", "denoise       streamed", "note: "]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(text.contains(&format!("[--{}{}{}]", "#".repeat(22), "=".repeat(2), " ".repeat(6))), "{text}");
    }

    #[test]
    fn bars_never_overflow() {
        let mut phase = example().stages.phases[0].clone();
        for (held, peak, scale) in [(0, 0, 1), (u64::MAX, u64::MAX, 1), (5, 4, 3)] {
            phase.peak_bytes = peak;
            assert_eq!(drawing(&phase, held, scale).len(), BAR + 2);
        }
        assert_eq!(bytes(u64::MAX), "unlimited");
        assert_eq!(bytes(1536), "1.5 KiB");
    }
}
