//! `models pull`: the only command that uses the network.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use glob::Pattern;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use steadydance::hub::{self, Bytes, Hub, PullEvent, PullObserver, PullPlan, Wanted, WantedFile};
use steadydance::{CancelToken, StoredModel};

use super::args::PullArgs;
use super::failure::{self, Failure};
use super::progress::{LINE_EVERY, Told, clock, write_event};
use super::stop::Stop;
use super::target::Target;
use super::terminal::{self, Terminal};

/// Events about the same file come no faster than this.
const EVENT_EVERY: Duration = Duration::from_millis(500);

/// What the command adds to the hub's own events.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Said<'a> {
    /// What will be done.
    Plan { name: &'a str, licence: Option<&'a str>, files: usize, bytes: u64, missing_bytes: u64, cache: &'a Path },
    /// The last line of a pull that succeeded.
    Done { name: &'a str, path: &'a Path, bytes: u64, seconds: f64 },
}

/// Downloads a model. Its place is all that goes to stdout, or events when `--json` is given.
///
/// # Errors
/// See `docs/cli.md`.
pub fn pull(args: &PullArgs, terminal: Terminal) -> Result<(), Failure> {
    let result = failure::catch_panic(|| download(args, terminal));
    if let (Err(failure), true) = (&result, args.model.json) {
        write_event(&Told::Error(failure));
    }
    result
}

fn download(args: &PullArgs, terminal: Terminal) -> Result<(), Failure> {
    let json = args.model.json;
    let target = Target::of(&args.model.name, args.model.revision.as_deref())?;
    if let (Target::Known { model, .. }, false) = (&target, args.include.is_empty()) {
        let name = &model.name;
        return Err(Failure::usage(format!("--include is for ORG/NAME; {name} is made of files that it needs all")));
    }
    let stop = Stop::install(json, terminal)?;
    let hub = Hub::new(hub::Settings { connections: args.jobs.into(), ..hub::Settings::from_env() });
    let began = Instant::now();
    let observer = Progress::new(stop.token().clone(), json, terminal);
    let (wanted, bytes) = stop.guard(|| {
        let wanted = wanted(&target, &args.include, &hub, &observer)?;
        let files: usize = wanted.iter().map(|w| w.files.len()).sum();
        terminal.detail(&format!("asking the hub about {files} files"));
        let plan = hub.plan(&wanted, &observer)?;
        announce(&plan, &target, &hub, &observer);
        plan.check_space()?;
        observer.begin(target.name(), &plan);
        let result = plan.run(&observer);
        observer.finish();
        result?;
        let place = |w: Wanted| plan.folder(&w.repository).map(|folder| (folder, w.files));
        let places: Vec<_> = wanted.into_iter().filter_map(place).collect();
        Ok((places, plan.missing().0))
    })?;
    let path = match wanted.as_slice() {
        [(folder, files)] if files.len() == 1 => folder.join(&files[0].path),
        [(folder, _), ..] => folder.clone(),
        [] => return Err(Failure::other("the model has no files")),
    };
    if json {
        let seconds = began.elapsed().as_secs_f64();
        write_event(&Said::Done { name: target.name(), path: &path, bytes, seconds });
        return Ok(());
    }
    terminal.say(&match bytes {
        0 => format!("{}: everything was here", target.name()),
        b => format!("{}: {} in {}", target.name(), Bytes(b), clock(began.elapsed())),
    });
    terminal::write_out(&format!("{}\n", path.display()))
}

/// What to ask the hub for.
fn wanted(target: &Target, include: &[Pattern], hub: &Hub, observer: &Progress) -> Result<Vec<Wanted>, Failure> {
    let (repository, revision) = match target {
        Target::Known { model, revision } => return Ok(StoredModel::wanted(model, revision.as_deref())),
        Target::Repository { repository, revision } => (repository, revision),
    };
    let listing = hub.list(repository, revision.as_deref(), observer)?;
    let fits = |file: &&String| include.is_empty() || include.iter().any(|glob| glob.matches(file));
    let file = |path: &String| WantedFile { path: path.clone(), ..WantedFile::default() };
    let files: Vec<_> = listing.files.iter().filter(fits).map(file).collect();
    if files.is_empty() {
        let globs: Vec<_> = include.iter().map(Pattern::as_str).collect();
        let some: Vec<_> = listing.files.iter().take(3).map(String::as_str).collect();
        return Err(Failure::usage(format!(
            "{repository} has no file for --include {}; it has {} files: {}{}",
            globs.join(" --include "),
            listing.files.len(),
            some.join(", "),
            if listing.files.len() > some.len() { ", …" } else { "" }
        )));
    }
    Ok(vec![Wanted { repository: repository.clone(), revision: revision.clone(), files }])
}

fn announce(plan: &PullPlan, target: &Target, hub: &Hub, observer: &Progress) {
    let (files, cache) = (plan.files().len(), hub.cache().root());
    let (all, missing, name) = (plan.bytes(), plan.missing(), target.name());
    let licence = match target {
        Target::Known { model, .. } => Some(model.licence.as_str()),
        Target::Repository { .. } => None,
    };
    if observer.json {
        return write_event(&Said::Plan { name, licence, files, bytes: all.0, missing_bytes: missing.0, cache });
    }
    if missing.0 > 0 {
        let (licence, place) = (licence.unwrap_or("on its page"), cache.display());
        let text = format!("{name}: {files} files, {missing} of {all} to come; licence {licence}; into {place}");
        observer.terminal.say(&text);
        if let Target::Known { model, .. } = target {
            let notes = [("licence", &model.licence_note), ("note", &model.note)];
            for (what, note) in notes.into_iter().filter_map(|(what, note)| Some((what, note.as_ref()?))) {
                observer.terminal.say(&format!("{what}: {note}"));
            }
        }
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
            let (passed, missing) = (self.began.0.elapsed(), self.total.saturating_sub(here));
            let left = passed.mul_f64(missing as f64 / come as f64);
            let speed = Bytes((come as f64 / passed.as_secs_f64()) as u64);
            let (here, total) = (Bytes(here), Bytes(self.total));
            self.terminal.say(&format!("{}: {here} of {total}, {speed}/s, about {} left", self.title, clock(left)));
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
    here: HashMap<FileName, u64>,
    /// When an event was last written about a file.
    told: HashMap<FileName, Instant>,
}

/// Repository and path: two repositories may have files of one name.
type FileName = (String, String);

fn named(repository: &str, file: &str) -> FileName {
    (repository.to_owned(), file.to_owned())
}

impl Progress {
    fn new(token: CancelToken, json: bool, terminal: Terminal) -> Self {
        Self { token, terminal, json, shown: Mutex::default() }
    }

    fn begin(&self, title: &str, plan: &PullPlan) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.here = plan.files().iter().map(|f| (named(&f.repository, &f.path), f.here_bytes)).collect();
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
            if let PullEvent::Progress { repository, file, here_bytes, size_bytes } = event {
                let name = named(repository, file);
                let fresh = shown.told.get(&name).is_some_and(|t| t.elapsed() < EVENT_EVERY);
                if fresh && here_bytes != size_bytes {
                    return;
                }
                shown.told.insert(name, Instant::now());
            }
            return write_event(event);
        }
        let moved = match event {
            PullEvent::Progress { repository, file, here_bytes, .. } => Some((repository, file, here_bytes)),
            // Another process, or another name of the same content, may have brought it.
            PullEvent::FileFinished { repository, file, size_bytes } => Some((repository, file, size_bytes)),
            _ => None,
        };
        if let Some((repository, file, here)) = moved {
            shown.here.insert(named(repository, file), *here);
            let here = shown.here.values().sum();
            shown.bar.iter().for_each(|bar| bar.advance(here));
        }
        let line = match event {
            PullEvent::Waiting { file, .. } => format!("note: another process is downloading {file}; waiting for it"),
            PullEvent::Retry { what, problem, seconds } => {
                format!("note: {what}: {problem}; trying again in {seconds:.0} s")
            }
            PullEvent::FileFinished { file, size_bytes, .. } if self.terminal.verbosity >= 1 => {
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
