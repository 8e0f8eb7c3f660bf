//! Memory over time, drawn with characters.

use std::fmt::Write;

use steadydance::{Place, StagePlan};

use super::plan::bytes;

/// Width of the drawing, without its scale.
const WIDTH: usize = 64;
/// Lines of the drawing.
const HEIGHT: usize = 8;
/// Least columns of a phase.
const LEAST: usize = 3;

/// What bars are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Characters {
    /// `#`, `:` and `-`.
    Ascii,
    /// Eighths of blocks.
    Blocks,
}

/// A column for each stretch of time, as wide as the logarithm of its seconds, as high as its peak where most is computed;
/// phases are numbered as in the table. The budget is a line where it is not far above.
pub fn drawing(stages: &StagePlan, characters: Characters) -> String {
    let on_gpu = stages.phases.iter().any(|p| p.on == Place::Device);
    let (budget, peak) = stages.main_budget_and_peak();
    let heights: Vec<u64> =
        stages.phases.iter().map(|p| if on_gpu { p.device_peak_bytes } else { p.ram_peak_bytes }).collect();
    let seconds: Vec<f64> = stages.phases.iter().map(|p| p.seconds).collect();
    let widths = widths(&seconds);
    let shows_budget = budget <= peak.saturating_mul(2);
    let scale = if shows_budget { budget.max(peak) } else { peak }.max(1);
    let eighths = |b: u64| (b as f64 / scale as f64 * (8 * HEIGHT) as f64).round() as usize;
    let budget_line = shows_budget.then(|| eighths(budget).saturating_sub(1) / 8);
    let what = if on_gpu { "device memory" } else { "memory" };
    let mut text = format!("{what} over time (widths are logarithms of seconds)\n");
    for line in (0..HEIGHT).rev() {
        let mut row = String::new();
        for (bytes, width) in heights.iter().zip(&widths) {
            let filled = eighths(*bytes).saturating_sub(8 * line).min(8);
            let empty = if budget_line == Some(line) { '-' } else { ' ' };
            let cell = match (characters, filled) {
                (_, 0) => empty,
                (Characters::Ascii, 1..=3) => '.',
                (Characters::Ascii, _) => '#',
                (Characters::Blocks, n) => ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][n - 1],
            };
            row.extend(std::iter::repeat_n(cell, *width));
            // A gap between phases, which the budget's line crosses.
            row.push(empty);
        }
        let label = if line + 1 == HEIGHT { bytes(scale) } else { String::new() };
        let mark = if budget_line == Some(line) { format!(" budget {}", bytes(budget)) } else { String::new() };
        let _ = writeln!(text, "{}", format!("{label:>10} |{row}{mark}").trim_end());
    }
    let numbers: String = widths.iter().enumerate().map(|(i, w)| format!("{:<width$}", i + 1, width = w + 1)).collect();
    let _ = writeln!(text, "{:>10} |{}", "0 B", numbers.trim_end());
    text
}

/// Columns of phases of these seconds: at least [`LEAST`], the rest shared by the logarithm of 1 + seconds.
fn widths(seconds: &[f64]) -> Vec<usize> {
    let logs: Vec<f64> = seconds.iter().map(|s| s.max(0.0).ln_1p()).collect();
    let sum: f64 = logs.iter().sum();
    let free = WIDTH.saturating_sub(seconds.len() * (LEAST + 1)) as f64;
    let share = |log: &f64| if sum > 0.0 { (log / sum * free) as usize } else { 0 };
    logs.iter().map(|log| LEAST + share(log)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::Compute;
    use steadydance::{
        Job, Machine, Memory, MemoryFlags, NetworkSize, Phase, PhaseJob, Precision, Way, Work, plan_job, virtual_card,
    };

    fn stages(budget_gib: u64, flops: f64) -> StagePlan {
        let phase = |phase, gib: u64| PhaseJob {
            phase,
            network: NetworkSize::whole("n", gib << 30),
            passes: 1,
            work: Work { flops, precision: Precision::Half, compute: Compute::F32 },
            ways: vec![Way::whole(1 << 30)],
            host_ways: vec![],
        };
        let phases = vec![phase(Phase::TextEncode, 1), phase(Phase::Denoise, 4), phase(Phase::Decode, 2)];
        let job = Job { phases, held_device_bytes: 0, held_ram_bytes: 0 };
        let ram = Memory { total_bytes: 1 << 40, available_bytes: 1 << 40 };
        let mode = Some(steadydance::MemoryMode::Stage);
        let machine = Machine::cpu(ram).with_device(virtual_card(budget_gib << 30));
        plan_job(&job, &machine, &MemoryFlags { mode, ..MemoryFlags::default() }).unwrap()
    }

    #[test]
    fn the_drawing_is_this_one() {
        let text = drawing(&stages(6, 1e15), Characters::Ascii);
        assert_eq!(
            text,
            "device memory over time (widths are logarithms of seconds)
  6.00 GiB |---------------------####################---------------------- budget 6.00 GiB
           |                     ####################
           |                     ####################
           |                     #################### ####################
           |#################### #################### ####################
           |#################### #################### ####################
           |#################### #################### ####################
           |#################### #################### ####################
       0 B |1                    2                    3
"
        );
        let blocks = drawing(&stages(6, 1e15), Characters::Blocks);
        assert_eq!(blocks.lines().count(), text.lines().count());
        assert!(blocks.contains('█') && !blocks.contains('#'));
    }

    #[test]
    fn it_fits_and_a_far_budget_is_left_out() {
        for flops in [0.0, 1e10, 1e18] {
            let text = drawing(&stages(80, flops), Characters::Ascii);
            assert!(text.lines().all(|l| l.len() <= 12 + WIDTH + 24) && !text.contains("budget"), "{text}");
        }
        assert_eq!(widths(&[]), Vec::<usize>::new());
        assert!(widths(&[1.0, f64::MAX.ln(), 0.0, 1e9]).iter().sum::<usize>() <= WIDTH);
    }
}
