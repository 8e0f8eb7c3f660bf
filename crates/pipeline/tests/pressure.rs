//! Memory that runs out on the way, on a tiny model: the same picture in another way, or one clear error.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use offload::{Fault, MemoryFlags, MemoryMode, OnPressure, QualityProfile, VirtualDevice};
use pipeline::{
    AnimateRequest, Engine, EngineOptions, ErrorKind, ModelFiles, ModelOverrides, ModelSource, Motion, Observer,
    PipelineError, Report, Settings, SizeRule,
};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pipeline_tiny")
}

#[derive(Default)]
struct Frames {
    video: Vec<Tensor>,
    notes: Vec<String>,
}

impl Observer for Frames {
    fn event(&mut self, event: &pipeline::Event) {
        if let pipeline::Event::Note { message } = event {
            self.notes.push(message.clone());
        }
    }
    fn tensor(&mut self, name: &str, tensor: &Tensor) {
        if name == "video" {
            self.video.push(tensor.clone());
        }
    }
    fn frame(&mut self, index: usize, _: &image::RgbImage) {
        if index == 0 {
            // A decoding that is begun anew gives all frames again.
            let last = self.video.split_off(self.video.len() - 1);
            self.video = last;
        }
    }
}

fn request() -> AnimateRequest {
    let case = fixtures().join("landscape_5");
    let text = std::fs::read_to_string(case.join("request.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let size: Vec<usize> = json["size"].as_str().unwrap().split('x').map(|v| v.parse().unwrap()).collect();
    let settings = Settings {
        size: Some([size[0], size[1]]),
        size_rule: SizeRule::Area,
        num_frames: json["num_frames"].as_u64().map(|n| n as usize),
        num_inference_steps: 3,
        ..Settings::from_preset(&models::preset("official").unwrap()).unwrap()
    };
    let motion = Motion::Drawn { pose: case.join("pose"), neg_pose: Some(case.join("neg_pose")), drive: None };
    AnimateRequest::new(case.join("ref.png"), motion, settings).prompt("a dancer").negative_prompt("blur")
}

/// The video's numbers, the report, and what was told.
type Outcome = (Result<Report, PipelineError>, Vec<f32>, Frames);

fn run(memory: Option<VirtualDevice>, flags: MemoryFlags) -> Outcome {
    let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
    let options = EngineOptions { memory: flags, ..EngineOptions::default() };
    let engine = Engine::open(&ModelSource::Files(files), &options).unwrap();
    let engine = match memory {
        Some(memory) => engine.with_memory(Arc::new(memory)),
        None => engine,
    };
    let mut seen = Frames::default();
    let report = engine.animate(&request(), &mut seen);
    let video = match seen.video.as_slice() {
        [] => Vec::new(),
        chunks => Tensor::cat(chunks, 1).unwrap().flatten_all().unwrap().to_vec1().unwrap(),
    };
    (report, video, seen)
}

fn undisturbed() -> &'static [f32] {
    static VIDEO: OnceLock<Vec<f32>> = OnceLock::new();
    VIDEO.get_or_init(|| {
        let (report, video, _) = run(None, MemoryFlags::default());
        assert!(report.unwrap().replans.is_empty());
        video
    })
}

#[test]
fn every_mode_gives_the_same_bits() {
    for mode in [MemoryMode::Full, MemoryMode::Stage, MemoryMode::Partial, MemoryMode::Stream, MemoryMode::Minimal] {
        for blocks_resident in [None, Some(1)] {
            let flags = MemoryFlags { mode: Some(mode), blocks_resident, ..MemoryFlags::default() };
            if flags.check().is_err() {
                continue;
            }
            let (report, video, _) = run(None, flags);
            report.unwrap();
            assert!(video == undisturbed(), "{mode:?} {blocks_resident:?}");
        }
    }
}

#[test]
fn what_is_counted_stays_within_the_plan_and_near_it() {
    for mode in [MemoryMode::Full, MemoryMode::Stage, MemoryMode::Partial, MemoryMode::Stream, MemoryMode::Minimal] {
        let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
        let memory = MemoryFlags { mode: Some(mode), ..MemoryFlags::default() };
        let options = EngineOptions { memory, ..EngineOptions::default() };
        let engine = Engine::open(&ModelSource::Files(files), &options).unwrap();
        let predicted = engine.plan(&request()).unwrap().stages.main_budget_and_peak().1;
        let device = Arc::new(VirtualDevice::host(u64::MAX));
        engine.with_memory(device.clone()).animate(&request(), &mut ()).unwrap();
        let measured = device.counts().peak_bytes;
        assert!(measured <= predicted, "{mode:?}: {measured} of {predicted}");
        assert!(predicted as f64 <= 1.25 * measured as f64, "{mode:?}: {measured} of {predicted}");
        // All is given back.
        assert_eq!(device.counts().used_bytes, 0, "{mode:?}");
    }
}

#[test]
fn an_allocation_that_fails_anywhere_costs_time_and_nothing_else() {
    let mut replanned = 0;
    for k in (0..60).step_by(3) {
        let (report, video, seen) =
            run(Some(VirtualDevice::host(u64::MAX).with(Fault::Allocation(k))), MemoryFlags::default());
        let report = report.unwrap_or_else(|e| panic!("{k}: {e}"));
        assert!(video == undisturbed(), "{k}");
        assert!(report.replans.iter().all(|what| seen.notes.contains(what)));
        replanned += usize::from(!report.replans.is_empty());
    }
    assert!(replanned >= 5, "{replanned}");
}

/// Takes memory away after the first step, and gives it back after the second.
struct Thief {
    device: Arc<VirtualDevice>,
    steps: Vec<usize>,
    frames: Frames,
}

impl Observer for Thief {
    fn event(&mut self, event: &pipeline::Event) {
        self.frames.event(event);
    }
    fn tensor(&mut self, name: &str, tensor: &Tensor) {
        self.frames.tensor(name, tensor);
    }
    fn latents(&mut self, step: usize, _: &Tensor) {
        self.steps.push(step);
        let used = self.device.counts().used_bytes;
        self.device.set_total(if step == 1 { used - 1 } else { u64::MAX });
    }
}

#[test]
fn memory_that_is_taken_away_moves_weights_out_and_the_loop_goes_on_from_its_step() {
    let device = Arc::new(VirtualDevice::host(u64::MAX));
    let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
    let engine = Engine::open(&ModelSource::Files(files), &EngineOptions::default()).unwrap();
    let mut thief = Thief { device: device.clone(), steps: Vec::new(), frames: Frames::default() };
    let report = engine.with_memory(device).animate(&request(), &mut thief).unwrap();
    // No step was made twice.
    assert_eq!(thief.steps, [1, 2, 3]);
    assert_eq!(report.replans.len(), 1, "{:?}", report.replans);
    assert!(report.replans[0].contains("after step 1/3") && report.replans[0].contains("denoise goes on as"));
    let video = Tensor::cat(&thief.frames.video, 1).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(video == undisturbed());
}

#[test]
fn with_fail_it_is_an_error_of_one_line_that_says_what_to_do() {
    let flags = || MemoryFlags { on_pressure: Some(OnPressure::Fail), ..MemoryFlags::default() };
    let mut failures = 0;
    for k in [0, 4, 9] {
        let (report, ..) = run(Some(VirtualDevice::host(u64::MAX).with(Fault::Allocation(k))), flags());
        let Err(error) = report else { continue };
        failures += 1;
        assert_eq!(error.kind(), ErrorKind::DoesNotFit);
        let text = error.to_string();
        assert!(text.contains("has no room for") && text.contains("--on-pressure") && !text.contains('\n'), "{text}");
    }
    assert!(failures >= 2, "{failures}");
    // What can never fit is refused after the ladder's end.
    let (report, ..) = run(Some(VirtualDevice::host(1 << 20)), MemoryFlags::default());
    assert_eq!(report.unwrap_err().kind(), ErrorKind::DoesNotFit);
}

#[test]
fn degrade_begins_anew_with_a_smaller_picture_and_says_so() {
    let flags = || MemoryFlags { on_pressure: Some(OnPressure::Degrade), ..MemoryFlags::default() };
    let files = || ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
    let engine =
        Engine::open(&ModelSource::Files(files()), &EngineOptions { memory: flags(), ..Default::default() }).unwrap();
    let of = |size, frames| {
        let request = request();
        let settings =
            Settings { size: Some(size), num_frames: Some(frames), size_rule: SizeRule::Exact, ..request.settings };
        AnimateRequest { settings, ..request }
    };
    // What the smallest profile needs is there, and nothing near what was asked for.
    let smallest = QualityProfile::ALL[0];
    let small = of([256, 160], 5);
    let small = AnimateRequest { settings: small.settings.with_quality(smallest), ..small };
    let room = engine.plan(&small).unwrap().stages.main_budget_and_peak().1 * 5 / 4;
    let mut seen = Frames::default();
    let engine = engine.with_memory(Arc::new(VirtualDevice::host(room)));
    let report = engine.animate(&of([832, 480], 5), &mut seen).unwrap();
    assert!(report.width < 832 && report.height < 480, "{}x{}", report.width, report.height);
    let changes: Vec<_> =
        report.replans.iter().filter(|what| what.contains("begun anew with --quality-profile")).collect();
    assert!(!changes.is_empty() && changes.iter().all(|what| seen.notes.contains(what)), "{:?}", report.replans);

    // The tiny clip is smaller than the smallest profile's: nothing is left to give up.
    let (report, _, seen) = run(Some(VirtualDevice::host(1 << 20)), flags());
    assert_eq!(report.unwrap_err().kind(), ErrorKind::DoesNotFit);
    assert!(seen.notes.iter().all(|n| !n.contains("quality-profile")));
}

#[test]
fn memory_is_reported_by_phase() {
    let (report, ..) = run(None, MemoryFlags::default());
    let report = report.unwrap();
    assert!(report.memory.len() >= 5);
    for phase in &report.memory {
        assert!(phase.predicted_bytes > 0 && !phase.placement.is_empty(), "{phase:?}");
        #[cfg(target_os = "linux")]
        assert!(phase.measured_bytes.is_some_and(|b| b > 0), "{phase:?}");
    }
}
