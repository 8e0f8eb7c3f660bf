//! The tables of docs/memory.md are what the planner says today; `UPDATE_DOCS=1 cargo test --test memory` writes them.

use std::fmt::Write;
use std::path::PathBuf;

use steadydance::{
    AnimatePlan, AnimateRequest, EngineOptions, HostRates, Machine, Memory, MemoryFlags, MemoryMode, Motion, Phase,
    PipelineError, QualityProfile, Settings, card, plan_known, preset, virtual_card,
};

const GIB: u64 = 1 << 30;
const BUDGETS: [u64; 8] = [4, 6, 8, 12, 16, 24, 48, 80];
const FORMS: [&str; 4] = ["bf16", "fp8", "int8", "q4_k_m"];
const SIZES: [(usize, usize); 2] = [(480, 832), (576, 1024)];

/// 64 GiB of RAM, and a CPU of 1 TFLOP/s whatever this one is.
fn host() -> Machine {
    let ram = Memory { total_bytes: 64 * GIB, available_bytes: 64 * GIB };
    Machine { host: HostRates::uniform(1e12), ..Machine::cpu(ram) }
}

fn plan(
    machine: &Machine,
    form: &str,
    size: (usize, usize),
    memory: MemoryFlags,
) -> Result<AnimatePlan, PipelineError> {
    let motion = Motion::Keypoints { file: "dance.json".into(), drive: None };
    let settings = Settings::from_preset(&preset("official").unwrap()).unwrap();
    let request = AnimateRequest::new("picture.png", motion, settings).size(size.0, size.1).num_frames(81);
    // Encoders of 8 bits beside a quantised transformer, as they are published.
    let text_dtype = (form != "bf16").then(|| "fp8".parse().unwrap());
    let dit_dtype = form.parse().ok();
    let options = EngineOptions { dit_dtype, text_dtype, memory, ..EngineOptions::default() };
    plan_known("steadydancer-14b", &request, machine, &options)
}

fn on_card(gib: u64, form: &str, size: (usize, usize), memory: MemoryFlags) -> Result<AnimatePlan, PipelineError> {
    plan(&host().with_device(virtual_card(gib * GIB)), form, size, memory)
}

fn mode(mode: MemoryMode) -> MemoryFlags {
    MemoryFlags { mode: Some(mode), ..MemoryFlags::default() }
}

fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / GIB as f64)
}

/// What a plan amounts to, in a cell.
fn cell(plan: &Result<AnimatePlan, PipelineError>) -> String {
    match plan {
        Ok(plan) => {
            let stages = &plan.stages;
            let denoise = stages.phase(Phase::Denoise).unwrap();
            let kept = match stages.mode {
                MemoryMode::Partial => format!(" {}", denoise.placement.resident),
                _ => String::new(),
            };
            let minutes = stages.seconds / 60.0;
            format!(
                "{}{kept}: {}, {} RAM, {minutes:.0} min",
                stages.mode,
                gib(stages.peaks.device_bytes),
                gib(stages.peaks.ram_bytes)
            )
        }
        Err(PipelineError::DoesNotFit(e)) => format!("no: needs {}", gib(e.needed.device_bytes)),
        Err(other) => panic!("{other}"),
    }
}

fn auto_table(size: (usize, usize)) -> String {
    let mut text = format!("| budget | {} |\n|---|{}\n", FORMS.join(" | "), "---|".repeat(FORMS.len()));
    for budget in BUDGETS {
        let cells = FORMS.map(|form| cell(&on_card(budget, form, size, MemoryFlags::default())));
        let _ = writeln!(text, "| {budget} | {} |", cells.join(" | "));
    }
    text
}

fn mode_table() -> String {
    let mut text = "| mode | 480x832 | 576x1024 |\n|---|---|---|\n".to_owned();
    let modes = [MemoryMode::Full, MemoryMode::Stage, MemoryMode::Stream, MemoryMode::Minimal];
    for m in modes {
        // A large card, so that the mode alone decides.
        let cells = SIZES.map(|size| cell(&on_card(141, "fp8", size, mode(m))));
        let _ = writeln!(text, "| {m} | {} |", cells.join(" | "));
    }
    text
}

fn card_table() -> String {
    let mut text = "| card | free GiB | fp8 480x832 | bf16 576x1024 |\n|---|---|---|---|\n".to_owned();
    for name in ["RTX 3060", "RTX 4060 Ti", "RTX 3090", "RTX 4090", "RTX 5090", "L40S", "A100 80GB", "H200"] {
        let machine = host().with_device(card(name).unwrap());
        let free = gib(machine.device.free_bytes);
        let cells = [("fp8", SIZES[0]), ("bf16", SIZES[1])]
            .map(|(form, size)| cell(&plan(&machine, form, size, MemoryFlags::default())));
        let _ = writeln!(text, "| {name} | {free} | {} |", cells.join(" | "));
    }
    text
}

fn profile_table() -> String {
    let mut text = "| profile | area | frames | steps |\n|---|---|---|---|\n".to_owned();
    for profile in QualityProfile::ALL {
        let q = profile.quality();
        let _ = writeln!(text, "| `{profile}` | {0}x{0} | {1} | {2} |", q.side, q.num_frames, q.steps);
    }
    text
}

#[test]
fn the_documented_plans_are_those_of_today() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/memory.md");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let before = text.clone();
    for (name, table) in [
        ("480x832", auto_table(SIZES[0])),
        ("576x1024", auto_table(SIZES[1])),
        ("modes", mode_table()),
        ("cards", card_table()),
        ("profiles", profile_table()),
    ] {
        let (begin, end) = (format!("<!-- {name}: generated -->\n"), format!("<!-- end of {name} -->"));
        let from = text.find(&begin).unwrap_or_else(|| panic!("no {begin:?} in docs/memory.md")) + begin.len();
        let to = from + text[from..].find(&end).unwrap_or_else(|| panic!("no {end:?} in docs/memory.md"));
        text.replace_range(from..to, &table);
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    } else {
        assert!(
            text == before,
            "docs/memory.md has other tables; UPDATE_DOCS=1 cargo test --test memory writes:\n{text}"
        );
    }
}

#[test]
fn six_gibibytes_suffice_and_three_in_minimal() {
    for form in ["fp8", "int8", "q4_k_m"] {
        let plan = on_card(6, form, SIZES[0], mode(MemoryMode::Stream)).unwrap();
        assert!(plan.stages.peaks.device_bytes <= 6 * GIB && plan.stages.mode == MemoryMode::Stream, "{form}");
        let plan = on_card(3, form, SIZES[0], mode(MemoryMode::Minimal)).unwrap();
        assert!(plan.stages.peaks.device_bytes <= 3 * GIB, "{form}");
        on_card(3, form, SIZES[0], MemoryFlags::default()).unwrap();
    }
    let large = on_card(80, "bf16", SIZES[1], MemoryFlags::default()).unwrap();
    assert_eq!(large.stages.mode, MemoryMode::Full);
}

/// Predicted peaks of spec memory_and_avatars §4.5 for fp8, in GiB, and by how much ours may differ.
#[test]
fn peaks_are_near_the_specified_ones() {
    for (m, size, want) in [
        (MemoryMode::Stage, SIZES[0], 19.6),
        (MemoryMode::Stage, SIZES[1], 21.3),
        (MemoryMode::Minimal, SIZES[0], 2.7),
        (MemoryMode::Minimal, SIZES[1], 3.3),
    ] {
        let denoise = on_card(80, "fp8", size, mode(m)).unwrap().stages.phase(Phase::Denoise).unwrap().clone();
        let got = denoise.device_peak_bytes as f64 / GIB as f64;
        assert!((got / want - 1.0).abs() < 0.1, "{m} {size:?}: {got} instead of {want}");
    }
}
