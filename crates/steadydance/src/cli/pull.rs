//! `models pull`: the only command that uses the network.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use steadydance::hub::{Bytes, Hub, PullEvent, PullObserver, PullPlan};
use steadydance::{CancelToken, StoredModel};

use super::args::ModelArgs;
use super::failure::{self, Failure};
use super::models;
use super::progress::{LINE_EVERY, Told, clock, write_event};
use super::stop::Stop;
use super::terminal::{self, Terminal};

/// Events about the same file come no faster than this.
const EVENT_EVERY: Duration = Duration::from_millis(500);

/// What the command adds to the hub's own events.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Said<'a> {
    /// What will be done.
    Plan { name: &'a str, licence: &'a str, files: usize, bytes: u64, missing_bytes: u64, cache: PathBuf },
    /// The last line of a pull that succeeded.
    Done { name: &'a str, path: &'a PathBuf, bytes: u64, seconds: f64 },
}

/// Downloads a model. Its folder is all that goes to stdout, or events when `--json` is given.
///
/// # Errors
/// See `docs/cli.md`.
pub fn pull(args: &ModelArgs, terminal: Terminal) -> Result<(), Failure> {
    let result = failure::catch_panic(|| download(args, terminal));
    if let (Err(failure), true) = (&result, args.json) {
        write_event(&Told::Error(failure));
    }
    result
}

fn download(args: &ModelArgs, terminal: Terminal) -> Result<(), Failure> {
    let known = models::known(&args.name)?;
    let stop = Stop::install(args.json, terminal)?;
    let hub = Hub::from_env();
    let began = Instant::now();
    let observer = Progress::new(stop.token().clone(), args.json, terminal);
    let (path, bytes) = stop.guard(|| {
        terminal.detail(&format!("asking the hub about {} files", known.files.len()));
        let plan = hub.plan(&StoredModel::wanted(&known, args.revision.as_deref()), &observer)?;
        announce(&plan, &known.name, &known.licence, &hub, &observer);
        plan.check_space()?;
        observer.begin(&known.name, &plan);
        let result = plan.run(&observer);
        observer.finish();
        result?;
        let path = plan.folder(&known.repository).ok_or_else(|| Failure::other("the model has no files"))?;
        Ok((path, plan.missing().0))
    })?;
    let seconds = began.elapsed().as_secs_f64();
    if args.json {
        write_event(&Said::Done { name: &known.name, path: &path, bytes, seconds });
        return Ok(());
    }
    terminal.say(&match bytes {
        0 => format!("{}: everything was here", known.name),
        b => format!("{}: {} in {}", known.name, Bytes(b), clock(began.elapsed())),
    });
    terminal::write_out(&format!("{}\n", path.display()))
}

fn announce(plan: &PullPlan, name: &str, licence: &str, hub: &Hub, observer: &Progress) {
    let (files, cache) = (plan.files().len(), hub.cache().root());
    let (all, missing) = (plan.bytes(), plan.missing());
    if observer.json {
        let cache = cache.to_owned();
        write_event(&Said::Plan { name, licence, files, bytes: all.0, missing_bytes: missing.0, cache });
    } else if missing.0 > 0 {
        let place = cache.display();
        observer
            .terminal
            .say(&format!("{name}: {files} files, {missing} of {all} to come; licence {licence}; into {place}"));
    }
}

/// A bar of bytes on a terminal, sparse lines elsewhere.
pub struct ByteBar {
    title: String,
    total: u64,
    terminal: Terminal,
    bar: Option<ProgressBar>,
    began: (Instant, u64),
    last_line: Mutex<Instant>,
}

impl ByteBar {
    /// Begins at `here` of `total`.
    pub fn new(title: &str, total: u64, here: u64, terminal: Terminal) -> Self {
        let now = Instant::now();
        let bar = (terminal.interactive && terminal.verbosity >= 0).then(|| {
            let drawn = if terminal.has_color() { "{bar:28.cyan/blue}" } else { "{bar:28}" };
            let numbers = "{decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}, {eta} left";
            let style = ProgressStyle::with_template(&format!("{{prefix}} {drawn} {numbers}"));
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("█▉▊▋▌▍▎▏ "));
            bar.set_prefix(title.to_owned());
            bar.set_position(here);
            // What was here before says nothing about the speed.
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { title: title.to_owned(), total, terminal, bar, began: (now, here), last_line: Mutex::new(now) }
    }

    /// So many bytes are here.
    pub fn advance(&self, here: u64) {
        if let Some(bar) = &self.bar {
            return bar.set_position(here);
        }
        let mut last_line = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        let come = here.saturating_sub(self.began.1);
        if last_line.elapsed() >= LINE_EVERY && come > 0 {
            *last_line = Instant::now();
            let left = self.began.0.elapsed().mul_f64(self.total.saturating_sub(here) as f64 / come as f64);
            let (here, total) = (Bytes(here), Bytes(self.total));
            self.terminal.say(&format!("{}: {here} of {total}, about {} left", self.title, clock(left)));
        }
    }

    /// A line that does not tear the bar.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.terminal.say(text)),
            None => self.terminal.say(text),
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The observer of a pull.
struct Progress {
    token: CancelToken,
    terminal: Terminal,
    json: bool,
    shown: Mutex<Shown>,
}

#[derive(Default)]
struct Shown {
    bar: Option<ByteBar>,
    /// Bytes of each file that are here.
    here: HashMap<String, u64>,
    /// When an event was last written about a file.
    told: HashMap<String, Instant>,
}

impl Progress {
    fn new(token: CancelToken, json: bool, terminal: Terminal) -> Self {
        Self { token, terminal, json, shown: Mutex::default() }
    }

    fn begin(&self, title: &str, plan: &PullPlan) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.here = plan.files().iter().map(|f| (f.path.clone(), f.here_bytes)).collect();
        if plan.missing().0 > 0 && !self.json {
            shown.bar = Some(ByteBar::new(title, plan.bytes().0, shown.here.values().sum(), self.terminal));
        }
    }

    fn finish(&self) {
        if let Some(bar) = self.shown.lock().unwrap_or_else(PoisonError::into_inner).bar.take() {
            bar.finish();
        }
    }
}

impl PullObserver for Progress {
    fn event(&self, event: &PullEvent) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if self.json {
            if let PullEvent::Progress { file, here_bytes, size_bytes } = event {
                let fresh = shown.told.get(*file).is_some_and(|t| t.elapsed() < EVENT_EVERY);
                if fresh && here_bytes != size_bytes {
                    return;
                }
                shown.told.insert((*file).to_owned(), Instant::now());
            }
            return write_event(event);
        }
        let line = match event {
            PullEvent::Progress { file, here_bytes, .. } => {
                shown.here.insert((*file).to_owned(), *here_bytes);
                let here = shown.here.values().sum();
                return shown.bar.iter().for_each(|bar| bar.advance(here));
            }
            PullEvent::Waiting { file } => format!("note: another process is downloading {file}; waiting for it"),
            PullEvent::Retry { what, problem, seconds } => {
                format!("note: {what}: {problem}; trying again in {seconds:.0} s")
            }
            PullEvent::FileFinished { file, size_bytes } if self.terminal.verbosity >= 1 => {
                format!("{file}: complete, {}", Bytes(*size_bytes))
            }
            _ => return,
        };
        match &shown.bar {
            Some(bar) => bar.line(&line),
            None => self.terminal.say(&line),
        }
    }

    fn cancelled(&self) -> bool {
        self.token.is_cancelled()
    }
}
