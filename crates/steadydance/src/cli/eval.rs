//! `steadydance eval`.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use steadydance::eval::{Comparison, Drive, EvalReport, EvalRequest, EvalSet, EvalSource, METRICS, Scores, evaluate};
use steadydance::{CancelToken, Engine, Event, FinderOptions, Observer, PoseModels};

use super::args::EvalArgs;
use super::failure::{self, Failure};
use super::plan::bytes;
use super::progress::{LINE_EVERY, Told, bar, clock, write_event};
use super::request::Job;
use super::stop::Stop;
use super::terminal::{self, Terminal};
use super::values::Values;

/// Makes and judges clips. The folder's path and the comparison go to stdout, or events when `--json` is given.
///
/// # Errors
/// See `docs/cli.md`; a fall of PSNR beyond the tolerance is one.
pub fn eval(args: &EvalArgs, terminal: Terminal) -> Result<(), Failure> {
    let result = failure::catch_panic(|| judge(args, terminal));
    if let (Err(failure), true) = (&result, args.json) {
        write_event(&Told::Error(failure));
    }
    result
}

fn judge(args: &EvalArgs, terminal: Terminal) -> Result<(), Failure> {
    let stop = Stop::install(args.json, terminal)?;
    if !(args.tolerance_db.is_finite() && args.tolerance_db >= 0.0) {
        return Err(Failure::usage(format!("tolerance_db is {}; expected 0 or more", args.tolerance_db)));
    }
    let given = args.values.given();
    if let Some(sentence) = without_effect(&given) {
        return Err(Failure::usage(sentence));
    }
    let job = Job::of(&given, terminal)?;
    let mut request = request(args, given.fps, &job)?;
    let before = args.compare.as_deref().map(|path| Ok::<_, Failure>((EvalReport::read(path)?, path))).transpose()?;
    if let Some((before, path)) = &before {
        // Hours may lie between here and the comparison.
        before.suits(EvalSet::open(&request.set, request.pairs.clone())?.info(), path)?;
    }

    let engine = match &args.outputs {
        Some(_) => None,
        None => Some(Engine::open(&job.source()?, &job.options)?),
    };
    if let (Some(engine), true) = (&engine, args.json) {
        write_event(&Told::Model(engine.model()));
    }
    let source = match (&engine, &args.outputs) {
        (Some(engine), _) => EvalSource::Engine(engine),
        (None, Some(folder)) => EvalSource::Videos(folder),
        (None, None) => return Err(Failure::usage("nothing to judge; give --model, or --outputs DIR")),
    };
    // The engine knows which networks its model brings; without one there are those that are named or pulled.
    let finder = engine.as_ref().map_or(&job.options.poses, |engine| &engine.options().poses);
    request.judge = judges(args, engine.is_some(), finder)?;
    if request.judge.is_none() && !args.json {
        terminal.warning(NO_JUDGE);
    }

    let mut observer = EvalProgress::new(stop.token().clone(), args.json, terminal);
    let report = stop.guard(|| evaluate(source, &request, &mut observer).map_err(Failure::from));
    observer.finish();
    let report = report?;

    let comparison = before.map(|(before, path)| report.compare(&before, path)).transpose()?;
    let folder = request.output.display().to_string();
    if args.json {
        write_event(&Told::Evaluated { report: &report, folder: &folder, comparison: comparison.as_ref() });
    } else {
        summary(&report).iter().for_each(|line| terminal.say(line));
        let table = comparison.as_ref().map(table).unwrap_or_default();
        terminal::write_out(&format!("{folder}\n{table}"))?;
    }
    match comparison.as_ref().and_then(|c| c.fall(args.tolerance_db)) {
        Some(fall) => Err(Failure::regression(format!(
            "{} fell by {:.2} dB, from {:.2} to {:.2}; --tolerance-db lets {} pass",
            fall.label,
            fall.before - fall.now,
            fall.before,
            fall.now,
            args.tolerance_db
        ))),
        None => Ok(()),
    }
}

/// Said once; nobody should take it for a fault of the result.
const NO_JUDGE: &str = "no pose networks: joints are not judged; get them with `steadydance models pull dwpose`, or name \
                        others with --judge-detector and --judge-pose";

/// Flags of a run that change nothing here.
fn without_effect(given: &Values) -> Option<String> {
    let flags = [
        ("--size-rule", given.size_rule.is_some(), "clips have exactly the set's size"),
        ("--timing", given.timing.is_some(), "driving clips have the set's frame rate"),
        ("--audio", given.audio.is_some(), "clips have no sound"),
        ("--no-metadata", given.metadata.is_some(), "the report tells all settings"),
    ];
    let (flag, _, why) = flags.into_iter().find(|(_, given, _)| *given)?;
    Some(format!("{flag} has no effect in an evaluation: {why}; leave it out"))
}

fn request(args: &EvalArgs, fps: Option<f64>, job: &Job) -> Result<EvalRequest, Failure> {
    let template = job.template()?;
    Ok(EvalRequest {
        set: args.set.clone(),
        pairs: args.pairs.clone().map(|pairs| pairs.0),
        drive: args.drive,
        settings: template.settings,
        fps,
        pose: template.pose,
        // An empty prompt is nobody's wish for an empty prompt.
        prompt: Some(template.prompt).filter(|prompt| !prompt.trim().is_empty()),
        negative_prompt: template.negative_prompt,
        judge: None,
        keep_videos: args.keep_videos,
        crf: template.crf,
        restart: args.restart,
        output: args.output.clone(),
    })
}

/// The networks that were named, or the run's if they are here.
fn judges(args: &EvalArgs, runs: bool, poses: &FinderOptions) -> Result<Option<PoseModels>, Failure> {
    let mut places = poses.models.clone();
    places.detector = args.judge_detector.clone().or(places.detector);
    places.estimator = args.judge_pose.clone().or(places.estimator);
    let named = places.detector.is_some() || places.estimator.is_some();
    match PoseModels::find(&places) {
        Ok(models) => Ok(Some(models)),
        Err(e) if named || (runs && args.drive == Drive::Video) => Err(e.into()),
        Err(_) => Ok(None),
    }
}

fn summary(report: &EvalReport) -> Vec<String> {
    let width = METRICS.iter().map(|m| m.label.len()).max().unwrap_or(0);
    let mut lines = vec![format!("{:<width$} {:>9} {:>9}", "", "mean", "median")];
    for metric in METRICS {
        if let Some(s) = report.summary.get(metric.key) {
            lines.push(format!("{:<width$} {:>9.3} {:>9.3} {}", metric.label, s.mean, s.median, metric.unit));
        }
    }
    let each = report.seconds_per_clip.map_or_else(String::new, |s| format!(", {s:.1} s a clip"));
    let memory = report.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    let all = clock(Duration::from_secs_f64(report.seconds.max(0.0)));
    lines.push(format!("{} pairs in {all}{each}, peak memory {memory}", report.pairs.len()));
    lines
}

/// The comparison for people.
fn table(comparison: &Comparison) -> String {
    let width = comparison.metrics.iter().map(|d| d.label.len()).max().unwrap_or(0);
    let mut text = format!("{:<width$} {:>9} {:>9} {:>9}\n", "", "before", "now", "change");
    for d in &comparison.metrics {
        let verdict = match d.better {
            Some(true) => "better",
            Some(false) => "worse",
            None => "",
        };
        let line = format!(
            "{:<width$} {:>9.3} {:>9.3} {:>+9.3} {:<12} {verdict}",
            d.label,
            d.before,
            d.now,
            d.now - d.before,
            d.unit
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    for note in &comparison.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// The observer of an evaluation: one bar over all pairs, or a line for each.
struct EvalProgress {
    token: CancelToken,
    json: bool,
    terminal: Terminal,
    bar: Option<ProgressBar>,
    /// Every run has the same notes.
    told: HashSet<String>,
    last_line: Instant,
    pair: String,
    /// Pairs that were judged by this call, and the seconds they took.
    worked: (usize, f64),
}

impl EvalProgress {
    fn new(token: CancelToken, json: bool, terminal: Terminal) -> Self {
        let (told, last_line) = (HashSet::new(), Instant::now());
        Self { token, json, terminal, bar: None, told, last_line, pair: String::new(), worked: (0, 0.0) }
    }

    /// Removes the bar.
    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.terminal.say(text)),
            None => self.terminal.say(text),
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Note { message } if self.told.insert(message.clone()) => self.line(&format!("note: {message}")),
            Event::PairStarted { name, pair, total } => {
                self.pair = format!("{name} ({pair} of {total})");
                self.last_line = Instant::now();
                if self.bar.is_none() && self.terminal.interactive && self.terminal.verbosity >= 0 {
                    let bar = bar("pairs", *total, self.terminal.has_color());
                    bar.set_position(pair.saturating_sub(1) as u64);
                    bar.reset_eta();
                    self.bar = Some(bar);
                }
            }
            Event::Progress { phase, done, total } => {
                let text = format!("{}: {phase} {done} of {total}", self.pair);
                if let Some(bar) = &self.bar {
                    bar.set_message(text);
                } else if self.last_line.elapsed() >= LINE_EVERY {
                    self.last_line = Instant::now();
                    self.line(&text);
                }
            }
            Event::PairFinished { name, pair, total, scores, seconds } => {
                if *seconds > 0.0 {
                    self.worked = (self.worked.0 + 1, self.worked.1 + seconds);
                }
                let left = self.worked.1 / self.worked.0.max(1) as f64 * (total - pair.min(total)) as f64;
                let left = clock(Duration::from_secs_f64(left.max(0.0)));
                self.line(&format!("{name} ({pair} of {total}): {}; about {left} left", verdict(scores, *seconds)));
                if let Some(bar) = &self.bar {
                    bar.set_position(*pair as u64);
                }
            }
            _ => {}
        }
    }
}

/// The metrics that matter most, in a line.
fn verdict(scores: &Scores, seconds: f64) -> String {
    let mut parts = Vec::new();
    parts.extend(scores.psnr_figure.map(|v| format!("figure {v:.2} dB")));
    parts.extend(scores.gain.map(|v| format!("{v:+.2} dB over the baselines")));
    parts.extend(scores.pck.map(|v| format!("{:.0} % of joints right", 100.0 * v)));
    parts.push(if seconds > 0.0 { format!("{seconds:.1} s") } else { "known from before".to_owned() });
    parts.join(", ")
}

impl Observer for EvalProgress {
    fn event(&mut self, event: &Event) {
        if self.json { write_event(event) } else { self.show(event) }
    }

    fn cancelled(&self) -> bool {
        self.token.is_cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_better_from_worse() {
        let difference = |before: f64, now: f64, better| steadydance::eval::Difference {
            metric: "psnr",
            label: "PSNR, picture",
            unit: "dB",
            before,
            now,
            better,
            pairs: 2,
        };
        let metrics = vec![difference(20.0, 21.5, Some(true)), difference(20.0, 19.0, Some(false))];
        let comparison = Comparison { metrics, notes: vec!["the reports differ in: settings".into()] };
        let text = table(&comparison);
        for part in ["+1.500 dB           better", "-1.000 dB           worse", "note: the reports differ"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(comparison.fall(1.0), None);
        assert_eq!(comparison.fall(0.9).map(|d| d.now), Some(19.0));
    }
}
