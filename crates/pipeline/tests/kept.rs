//! What outlives a run that does not come to its end, and that going on from it gives the same file.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::{Device, Tensor};
use offload::Phase;
use pipeline::{
    AnimateRequest, Engine, EngineOptions, ErrorKind, Event, Lora, LoraSource, ModelFiles, ModelOverrides, ModelSource,
    Motion, Observer, PipelineError, Settings, SizeRule,
};
use weights::{RandomWeights, TensorSource};

const STEPS: usize = 4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/pipeline_tiny")
}

fn open() -> Engine {
    let files = ModelFiles::find(&fixtures().join("model"), &ModelOverrides::default()).unwrap();
    Engine::open(&ModelSource::Files(files), &EngineOptions::default()).unwrap()
}

/// UniPC, which remembers earlier steps; every step is saved.
fn request(case: &Path) -> AnimateRequest {
    let settings = Settings {
        size: Some([48, 32]),
        size_rule: SizeRule::Area,
        num_frames: Some(5),
        num_inference_steps: STEPS,
        ..Settings::from_preset(&models::preset("official").unwrap()).unwrap()
    };
    let motion = Motion::Drawn { pose: case.join("pose"), neg_pose: Some(case.join("neg_pose")), drive: None };
    let mut request = AnimateRequest::new(case.join("ref.png"), motion, settings).prompt("a dancer");
    request.snapshot_interval = Some(Duration::ZERO);
    request
}

/// Spoils the output's place when the sampling loop is done.
struct Spoil<'a>(&'a dyn Fn());

impl Observer for Spoil<'_> {
    fn event(&mut self, event: &pipeline::Event) {
        if matches!(event, pipeline::Event::PhaseFinished { phase: Phase::Denoise, .. }) {
            (self.0)();
        }
    }
}

#[test]
fn finished_latents_outlive_a_failed_output_and_give_the_same_file() {
    let case = fixtures().join("landscape_5");
    let engine = open();
    let place = tempfile::tempdir().unwrap();
    let whole = place.path().join("whole.mp4");
    engine.animate(&request(&case).output(&whole), &mut ()).unwrap();

    // Something takes the name while the loop runs; or the folder goes away.
    let taken = place.path().join("taken.mp4");
    let take = || std::fs::create_dir(&taken).unwrap();
    let gone = place.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let remove = || {
        std::fs::remove_dir_all(&gone).unwrap();
        std::fs::write(&gone, b"").unwrap();
    };
    let spoiled: [(PathBuf, &dyn Fn()); 2] = [(taken.clone(), &take), (gone.join("clip.mp4"), &remove)];
    for (output, spoil) in spoiled {
        let error = engine.animate(&request(&case).output(&output), &mut Spoil(spoil)).unwrap_err();
        let PipelineError::Kept { latents, steps: None, .. } = &error else { panic!("{error}") };
        let text = error.to_string();
        assert!(text.contains("--latents") || text.contains("the same command goes on"), "{text}");
        let mut again = request(&case).output(place.path().join("again.mp4"));
        again.latents = Some(latents.clone());
        let report = engine.animate(&again, &mut ()).unwrap();
        assert_eq!(report.forwards, 0);
        // The bytes differ in nothing: settings, frames and metadata are the same.
        assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(place.path().join("again.mp4")).unwrap());
        let other_size = again.size(96, 96);
        let error = engine.animate(&other_size, &mut ()).unwrap_err().to_string();
        assert!(error.contains("needs [16,"), "{error}");
        std::fs::remove_file(latents).unwrap();
    }
}

/// A file with one difference.
fn lora(seed: u64) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    let difference = RandomWeights::new(seed).tensor("d", &[128], None, &Device::Cpu).unwrap();
    let tensors = [("diffusion_model.blocks.1.ffn.2.diff_b".to_owned(), difference)];
    weights::save_safetensors(&path, &tensors.into(), &BTreeMap::new()).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn kept_latents_know_the_loras_they_were_made_with() {
    let case = fixtures().join("landscape_5");
    let mut engine = open();
    let of = |seed, strength| Lora {
        source: LoraSource::Bytes { name: "style".to_owned(), bytes: lora(seed).into() },
        strength,
    };
    engine.set_loras(&[of(1, 1.0)]).unwrap();
    let place = tempfile::tempdir().unwrap();
    let taken = place.path().join("taken.mp4");
    let take = || std::fs::create_dir(&taken).unwrap();
    let error = engine.animate(&request(&case).output(&taken), &mut Spoil(&take)).unwrap_err();
    let PipelineError::Kept { latents, steps: None, .. } = &error else { panic!("{error}") };
    let mut again = request(&case).output(place.path().join("again.mp4"));
    again.latents = Some(latents.clone());
    assert!(engine.plan(&again).is_ok());
    // Another file of the same name and strength, another strength, none: each makes other latents.
    for loras in [vec![of(2, 1.0)], vec![of(1, 0.5)], vec![]] {
        engine.set_loras(&loras).unwrap();
        let error = engine.plan(&again).unwrap_err().to_string();
        assert!(error.contains("another seed, prompt, LoRA"), "{error}");
    }
    engine.set_loras(&[of(1, 1.0)]).unwrap();
    assert!(engine.plan(&again).is_ok());
}

/// Stops the run after a step, and looks what lies there at that moment.
#[derive(Default)]
struct Stop {
    after: usize,
    seen: Cell<usize>,
    steps: Vec<usize>,
    notes: Vec<String>,
    file: PathBuf,
    found: Vec<bool>,
}

impl Observer for Stop {
    fn latents(&mut self, step: usize, _: &Tensor) {
        self.seen.set(step);
        self.steps.push(step);
        self.found.push(self.file.is_file());
    }
    fn event(&mut self, event: &Event) {
        if let Event::Note { message } = event {
            self.notes.push(message.clone());
        }
    }
    fn cancelled(&self) -> bool {
        self.after > 0 && self.seen.get() >= self.after
    }
}

/// Stops a run of `request` after step 2 → its error, and the file with what was done.
fn stopped(engine: &Engine, request: &AnimateRequest) -> (PipelineError, PathBuf) {
    let mut stop = Stop { after: 2, ..Stop::default() };
    let error = engine.animate(request, &mut stop).unwrap_err();
    let PipelineError::Kept { latents, steps, .. } = &error else { panic!("{error}") };
    assert_eq!((error.kind(), *steps), (ErrorKind::Cancelled, Some([2, STEPS])));
    let latents = latents.clone();
    (error, latents)
}

#[test]
fn a_loop_that_is_stopped_goes_on_by_itself_and_gives_the_same_file() {
    let case = fixtures().join("landscape_5");
    let engine = open();
    let place = tempfile::tempdir().unwrap();
    let whole = place.path().join("whole.mp4");
    let mut seen = Stop { file: place.path().join("whole.latents.safetensors"), ..Stop::default() };
    let report = engine.animate(&request(&case).output(&whole), &mut seen).unwrap();
    // Whatever ends the process, steps that are done lie there; and nothing when all is well.
    assert_eq!((seen.found, seen.file.exists()), (vec![true; STEPS], false));

    let output = place.path().join("clip.mp4");
    let request = request(&case).output(&output);
    let (error, file) = stopped(&engine, &request);
    let text = error.to_string();
    assert!(text.contains("steps 1 to 2 of 4 are kept in") && text.contains("the same command goes on"), "{text}");
    assert!(!output.exists() && file == place.path().join("clip.latents.safetensors"));

    let mut seen = Stop::default();
    let again = engine.animate(&request, &mut seen).unwrap();
    assert_eq!(seen.steps, [3, 4]);
    assert!(seen.notes.iter().any(|n| n.contains("steps 1 to 2 of 4 are those of an earlier run")), "{:?}", seen.notes);
    assert!(again.forwards > 0 && again.forwards < report.forwards);
    assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&output).unwrap());
    assert!(!file.exists());
}

#[test]
fn steps_of_other_inputs_are_neither_taken_nor_lost() {
    let case = fixtures().join("landscape_5");
    let engine = open();
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("clip.mp4");
    let (_, file) = stopped(&engine, &request(&case).output(&output));
    let kept = std::fs::read(&file).unwrap();

    // Another picture under other settings that are the same: all steps are made, and what lies there stays.
    let picture = place.path().join("other.png");
    image::open(case.join("ref.png")).unwrap().flipv().save(&picture).unwrap();
    let other = || AnimateRequest { reference: picture.clone(), ..request(&case) };
    let mut seen = Stop::default();
    engine.animate(&other().output(&output), &mut seen).unwrap();
    assert_eq!((seen.steps.len(), std::fs::read(&file).unwrap() == kept), (STEPS, true));
    assert!(seen.notes.iter().any(|n| n.contains("left alone and all steps are made")), "{:?}", seen.notes);
    // By name it is an error, before a step is made.
    let named = AnimateRequest { latents: Some(file.clone()), ..other().output(place.path().join("named.mp4")) };
    let mut seen = Stop::default();
    let error = engine.animate(&named, &mut seen).unwrap_err();
    assert!(error.to_string().contains("another picture, motion or model") && seen.steps.is_empty(), "{error}");
    // The right inputs under another name go on from it, and what was named stays.
    let named = AnimateRequest { latents: Some(file.clone()), ..request(&case).output(place.path().join("named.mp4")) };
    let mut seen = Stop::default();
    engine.animate(&named, &mut seen).unwrap();
    assert_eq!((seen.steps, file.exists()), (vec![3, 4], true));

    // Half a file is no file: by itself it is left alone, by name it is told.
    std::fs::write(&file, &kept[..kept.len() / 2]).unwrap();
    assert!(engine.animate(&named, &mut ()).unwrap_err().to_string().contains("no latents of an earlier run"));
    let mut seen = Stop::default();
    std::fs::remove_file(&output).unwrap();
    engine.animate(&request(&case).output(&output), &mut seen).unwrap();
    assert_eq!(seen.steps.len(), STEPS);
}

#[test]
fn what_is_quickly_had_again_is_not_kept() {
    let case = fixtures().join("landscape_5");
    let place = tempfile::tempdir().unwrap();
    let mut request = request(&case).output(place.path().join("clip.mp4"));
    request.snapshot_interval = Some(Duration::from_secs(3600));
    let error = open().animate(&request, &mut Stop { after: 2, ..Stop::default() }).unwrap_err();
    assert!(matches!(error, PipelineError::Cancelled { .. }), "{error}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}
