//! What GPUs of a given memory would do with the 14-billion-parameter model, without any file of it.
//!
//! `cargo run --example plan -- 8 16 24 48`

use steadydance::{
    AnimateRequest, EngineOptions, Machine, Motion, Phase, PipelineError, Settings, plan_known, preset, virtual_card,
};

const GIB: f64 = (1u64 << 30) as f64;

fn main() -> anyhow::Result<()> {
    let mut budgets: Vec<f64> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    if budgets.is_empty() {
        budgets = vec![8.0, 12.0, 16.0, 24.0, 48.0];
    }
    println!("{:>8}  {:<10} {:>7}  {:>9}  {:<18} {:>9}", "memory", "size", "frames", "peak", "weights", "forwards");
    for budget in budgets {
        for (width, height, frames) in [(480, 832, 33), (480, 832, 81), (576, 1024, 81)] {
            // These files are never opened: only numbers count here.
            let motion = Motion::Keypoints { file: "dance.json".into(), drive: None };
            let settings = Settings::from_preset(&preset("official")?)?;
            let request = AnimateRequest::new("picture.png", motion, settings).size(width, height).num_frames(frames);

            let bytes = (budget * GIB) as u64;
            let machine = Machine::of_host().with_device(virtual_card(bytes));
            let start = format!("{budget:>4} GiB  {:<10} {frames:>7}", format!("{width}x{height}"));
            match plan_known("steadydancer-14b", &request, &machine, &EngineOptions::default()) {
                Ok(plan) => {
                    let denoise = plan.stages.phase(Phase::Denoise);
                    let weights = denoise.map(|phase| phase.placement.to_string()).unwrap_or_default();
                    let peak = plan.stages.peaks.device_bytes as f64 / GIB;
                    println!("{start}  {peak:>5.1} GiB  {weights:<18} {:>9}", plan.forwards);
                }
                // Too little memory is an answer here; anything else is a fault of this program.
                Err(PipelineError::DoesNotFit(error)) => {
                    println!("{start}  {:>5.1} GiB  does not fit", error.needed.device_bytes as f64 / GIB);
                }
                Err(other) => return Err(other.into()),
            }
        }
    }
    Ok(())
}
