//! The library in one screen: open a model, say what is wanted, watch it, get a file.
//!
//! `cargo run --release --example animate -- out.mp4`
//!
//! It uses the demo model that is inside the program, which knows drawn puppets.

use std::io::Write;

use steadydance::{AnimateRequest, Engine, EngineOptions, Event, ModelSource, Motion, Observer, Settings, preset};

/// Hands every event to a closure.
struct Listener<F>(F);

impl<F: FnMut(&Event)> Observer for Listener<F> {
    fn event(&mut self, event: &Event) {
        (self.0)(event);
    }
}

fn main() -> anyhow::Result<()> {
    let output = std::env::args_os().nth(1).unwrap_or("out.mp4".into());
    let media = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/media");

    // A real model: ModelSource::Files(ModelFiles::find(folder, &ModelOverrides::default())?).
    let demo = preset("demo")?;
    let engine = Engine::open(&ModelSource::Demo, &EngineOptions::for_preset(&demo))?;
    let model = engine.model();
    println!("{}: {} parameters", model.label, model.parameters);

    let motion = Motion::Keypoints {
        file: format!("{media}/dance.json").into(),
        drive: Some(format!("{media}/dance.mp4").into()), // for its sound
    };
    let settings = Settings::from_preset(&demo)?;
    let request =
        AnimateRequest::new(format!("{media}/reference.png"), motion, settings).num_frames(33).seed(1).output(output);

    // A plan reads no weight and says everything that will happen.
    let plan = engine.plan(&request)?;
    println!("{} forwards of {} tokens, at most {} MiB", plan.forwards, plan.tokens, plan.stages.peaks.ram_bytes >> 20);

    let mut listener = Listener(|event: &Event| match event {
        Event::Note { message } => println!("note: {message}"),
        Event::Progress { phase, done, total } => {
            print!("\r{phase}: {done} of {total}   ");
            let _ = std::io::stdout().flush();
        }
        Event::PhaseFinished { phase, seconds } => println!("\r{phase}: {seconds:.2} s          "),
        _ => {}
    });
    let report = engine.animate(&request, &mut listener)?;
    if let Some(path) = report.output {
        println!("{}: {} frames in {:.1} s", path.display(), report.num_frames, report.seconds);
    }
    Ok(())
}
