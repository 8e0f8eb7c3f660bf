//! `steadydance run`.

use steadydance::trace::Recorder;
use steadydance::{AnimateRequest, Engine};

use super::args::RunArgs;
use super::failure::{self, Failure};
use super::plan;
use super::progress::{Progress, Told, write_event};
use super::request::{self, Job};
use super::stop::Stop;
use super::summary;
use super::terminal::{self, Terminal};

/// Makes a clip. Its path is all that goes to stdout, or events when `--json` is given.
///
/// # Errors
/// See `docs/cli.md`.
pub fn run(args: &RunArgs, terminal: Terminal) -> Result<(), Failure> {
    if args.dry_run {
        return plan::dry_run(args, terminal);
    }
    let result = failure::catch_panic(|| animate(args, terminal));
    if let (Err(failure), true) = (&result, args.json) {
        write_event(&Told::Error(failure));
    }
    result
}

fn animate(args: &RunArgs, terminal: Terminal) -> Result<(), Failure> {
    let stop = Stop::install(args.json, terminal)?;
    let recorder = if args.trace.is_some() || terminal.verbosity >= 1 { Recorder::install() } else { None };
    // What costs nothing is checked first: numbers, names, the output's place.
    let job = Job::new(args, terminal)?;
    let request = job.request(args)?;
    let output = request::output(args, &request)?;
    let request = request.output(output);

    let engine = Engine::open(&job.source()?, &job.options)?;
    if args.json {
        write_event(&Told::Model(engine.model()));
    }
    introduce(&engine, &request, terminal);

    let mut observer = Progress::new(stop.token().clone(), args.json, terminal);
    let report = stop.guard(|| engine.animate(&request, &mut observer).map_err(|e| request::explain(e, &request)));
    observer.finish();
    if let (Some(path), Some(recorder)) = (&args.trace, &recorder) {
        // Also of a run that failed: there it may say why.
        recorder.write(path)?;
    }
    let report = report?;
    if let Some(path) = &args.mem_report {
        report.write_memory(path)?;
    }
    summary::print(&report, engine.model(), terminal);
    if let Some(recorder) = recorder.filter(|_| terminal.verbosity >= 1) {
        recorder.table().lines().for_each(|line| terminal.detail(line));
    }
    if args.json {
        write_event(&Told::Done(&report));
        return Ok(());
    }
    let path = report.output.as_deref().or(request.output.as_deref());
    terminal::write_out(&path.map(|p| format!("{}\n", p.display())).unwrap_or_default())
}

fn introduce(engine: &Engine, request: &AnimateRequest, terminal: Terminal) {
    let info = engine.model();
    for part in &info.components {
        terminal.detail(&format!("{}: {} parameters, {}", part.name, part.parameters, part.path.display()));
    }
    if let (true, Ok(settings)) = (terminal.verbosity >= 1, serde_json::to_string(&request.settings)) {
        terminal.detail(&format!("settings: {settings}"));
    }
}
