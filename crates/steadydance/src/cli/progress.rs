//! What a run shows while it goes on: a bar per phase on a terminal, sparse lines elsewhere, or JSON events.

use std::io::Write;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use steadydance::eval::{Comparison, EvalReport};
use steadydance::{CancelToken, Event, ModelInfo, Observer, Phase, PoseOutcome, Report};

use super::failure::Failure;
use super::plan::bytes;
use super::terminal::Terminal;

/// What the program adds to the engine's own events.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Told<'a> {
    /// The model is open.
    Model(&'a ModelInfo),
    /// The last line of a run that succeeded.
    Done(&'a Report),
    /// The last line of a search for poses that succeeded.
    Poses(&'a PoseOutcome),
    /// The last line of an evaluation that succeeded.
    Evaluated {
        /// What it found.
        #[serde(flatten)]
        report: &'a EvalReport,
        /// The folder that was written.
        folder: &'a str,
        /// How that differs from an earlier report, if one was given.
        comparison: Option<&'a Comparison>,
    },
    /// The last line of one that did not.
    Error(&'a Failure),
}

/// Lines about the same phase come no faster than this.
pub const LINE_EVERY: Duration = Duration::from_secs(10);

/// The observer of a run.
pub struct Progress {
    token: CancelToken,
    terminal: Terminal,
    json: bool,
    bar: Option<ProgressBar>,
    began: Instant,
    last_line: Instant,
}

impl Progress {
    /// Stops when `token` is cancelled.
    pub fn new(token: CancelToken, json: bool, terminal: Terminal) -> Self {
        let now = Instant::now();
        Self { token, terminal, json, bar: None, began: now, last_line: now }
    }

    /// Removes the bar that an error left behind.
    pub fn finish(&mut self) {
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

    fn begin(&mut self, phase: Phase, total: usize) {
        self.finish();
        (self.began, self.last_line) = (Instant::now(), Instant::now());
        if self.terminal.interactive && self.terminal.verbosity >= 0 {
            self.bar = Some(bar(&phase.to_string(), total, self.terminal.has_color()));
        } else {
            self.terminal.detail(&format!("{phase}: begins"));
        }
    }

    fn advance(&mut self, phase: Phase, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        } else if self.last_line.elapsed() >= LINE_EVERY && done > 0 {
            self.last_line = Instant::now();
            let left = self.began.elapsed().mul_f64(total.saturating_sub(done) as f64 / done as f64);
            self.line(&format!("{phase}: {done} of {total}, about {} left", clock(left)));
        }
    }

    fn end(&mut self, phase: Phase, seconds: f64) {
        self.finish();
        self.line(&format!("{phase:<12} {seconds:>8.1} s"));
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Note { message } => self.line(&format!("note: {message}")),
            Event::PhaseStarted { phase, total } => self.begin(*phase, *total),
            Event::Progress { phase, done, total } => self.advance(*phase, *done, *total),
            Event::PhaseFinished { phase, seconds } => self.end(*phase, *seconds),
            Event::Step { step, total, timestep, sigma, forwards, seconds } => {
                if let Some(bar) = &self.bar {
                    let memory = steadydance::own_bytes().map_or_else(String::new, |b| format!(", {}", bytes(b)));
                    bar.set_message(format!("step {step}/{total}{memory}"));
                }
                if self.terminal.verbosity >= 1 {
                    self.line(&format!(
                        "step {step}/{total}: timestep {timestep:.1}, sigma {sigma:.4}, {forwards} forward(s), {seconds:.2} s"
                    ));
                }
            }
            _ => {}
        }
    }
}

impl Observer for Progress {
    fn event(&mut self, event: &Event) {
        if self.json { write_event(event) } else { self.show(event) }
    }

    fn cancelled(&self) -> bool {
        self.token.is_cancelled()
    }
}

/// Writes one line of JSON to stdout at once. A reader that has gone does not end the run: its product is the file.
pub fn write_event(event: &impl Serialize) {
    if let Ok(mut line) = serde_json::to_string(event) {
        line.push('\n');
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    }
}

/// A bar on stderr with a name before it and a message behind it.
pub fn bar(name: &str, total: usize, color: bool) -> ProgressBar {
    let drawn = if color { "{bar:32.cyan/blue}" } else { "{bar:32}" };
    let template = format!("{{prefix:<12}} {drawn} {{pos}}/{{len}} {{elapsed}}, {{eta}} left {{msg}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
    bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// `1:02:03`, `2:03`, or `3 s`.
pub fn clock(duration: Duration) -> String {
    let s = duration.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_readable() {
        let texts = [3, 123, 3723].map(|s| clock(Duration::from_secs(s)));
        assert_eq!(texts, ["3 s", "2:03", "1:02:03"]);
    }
}
