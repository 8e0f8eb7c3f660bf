//! Where the time goes: spans of phases, blocks and layers, as a table and as a trace that browsers show.
//!
//! The layers of the networks open spans of the `tracing` crate, which cost nothing while nobody listens.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use media::output::PendingFile;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::PipelineError;

/// Spans of this target are ours.
const TARGET: &str = "steadydance";
/// More spans than these are counted and not kept one by one: a gibibyte of text would help nobody.
const MOST_SPANS: usize = 4_000_000;

/// Listens to all of this process. Clones share what is heard.
#[derive(Clone)]
pub struct Recorder {
    heard: Arc<Heard>,
}

struct Heard {
    began: Instant,
    spans: Mutex<Vec<Span>>,
    totals: Mutex<BTreeMap<&'static str, Total>>,
}

/// One span that has ended.
struct Span {
    name: &'static str,
    detail: Option<Arc<str>>,
    thread: u64,
    start: Duration,
    time: Duration,
}

/// All spans of one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// How often.
    pub calls: u64,
    /// Wall-clock time in them, that in spans inside of them apart.
    pub own: Duration,
}

/// A span that is open, on its thread.
struct Open {
    start: Instant,
    inner: Duration,
}

thread_local! {
    static OPEN: RefCell<Vec<Open>> = const { RefCell::new(Vec::new()) };
}

fn thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|n| *n)
}

impl Recorder {
    /// Begins to listen, for the rest of the process. `None` if somebody listens already, say a program that this library is
    /// part of.
    pub fn install() -> Option<Self> {
        let recorder = Self::new();
        tracing_subscriber::registry().with(Ear(recorder.heard.clone())).try_init().ok()?;
        Some(recorder)
    }

    fn new() -> Self {
        let heard = Heard { began: Instant::now(), spans: Mutex::default(), totals: Mutex::default() };
        Self { heard: Arc::new(heard) }
    }

    /// What took how long, most first.
    pub fn totals(&self) -> Vec<(&'static str, Total)> {
        let totals = self.heard.totals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = totals.iter().map(|(name, total)| (*name, *total)).collect();
        all.sort_by_key(|(name, total)| (std::cmp::Reverse(total.own), *name));
        all
    }

    /// The totals as a table for people.
    pub fn table(&self) -> String {
        let totals = self.totals();
        let all: f64 = totals.iter().map(|(_, t)| t.own.as_secs_f64()).sum();
        let mut text = "where the time goes          seconds  share      calls\n".to_owned();
        for (name, Total { calls, own }) in totals {
            let seconds = own.as_secs_f64();
            let share = 100.0 * seconds / all.max(f64::MIN_POSITIVE);
            let _ = writeln!(text, "{name:<27} {seconds:>8.2} {share:>5.1} % {calls:>10}");
        }
        text
    }

    /// Writes all spans as a Chrome trace (chrome://tracing, ui.perfetto.dev); the file is there as a whole or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PipelineError> {
        let failed = |e: std::io::Error| PipelineError::Output(media::MediaError::write(path, e));
        let (pending, file) = PendingFile::create(path).map_err(PipelineError::Output)?;
        let mut file = std::io::BufWriter::new(file);
        let spans = self.heard.spans.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[").map_err(failed)?;
        for (i, span) in spans.iter().enumerate() {
            let comma = if i == 0 { "\n" } else { ",\n" };
            let event = serde_json::json!({
                "name": span.name,
                "cat": TARGET,
                "ph": "X",
                "pid": 1,
                "tid": span.thread,
                "ts": micros(span.start),
                "dur": micros(span.time),
                "args": span.detail.as_deref().map_or_else(|| serde_json::json!({}), |d| serde_json::json!({ "of": d })),
            });
            write!(file, "{comma}{event}").map_err(failed)?;
        }
        file.write_all(b"\n]}\n").and_then(|()| file.flush()).map_err(failed)?;
        drop(file);
        pending.commit().map_err(PipelineError::Output)
    }
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e9).round() / 1e3
}

/// The listener.
struct Ear(Arc<Heard>);

/// The fields of a span, in words.
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { ", " };
        let _ = write!(self.0, "{space}{} {value:?}", field.name());
    }
}

struct Detail(Arc<str>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Ear {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == TARGET && metadata.is_span()
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut words = Words(String::new());
        attributes.record(&mut words);
        if let Some(span) = context.span(id).filter(|_| !words.0.is_empty()) {
            span.extensions_mut().insert(Detail(words.0.into()));
        }
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        OPEN.with_borrow_mut(|open| open.push(Open { start: Instant::now(), inner: Duration::ZERO }));
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        let Some(Open { start, inner }) = OPEN.with_borrow_mut(Vec::pop) else { return };
        let time = start.elapsed();
        OPEN.with_borrow_mut(|open| {
            if let Some(outer) = open.last_mut() {
                outer.inner += time;
            }
        });
        let Some(span) = context.span(id) else { return };
        let name = span.metadata().name();
        {
            let mut totals = self.0.totals.lock().unwrap_or_else(PoisonError::into_inner);
            let total = totals.entry(name).or_default();
            total.calls += 1;
            total.own += time.saturating_sub(inner);
        }
        let detail = span.extensions().get::<Detail>().map(|d| d.0.clone());
        let start = start.saturating_duration_since(self.0.began);
        let mut spans = self.0.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() < MOST_SPANS {
            spans.push(Span { name, detail, thread: thread(), start, time });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(work: impl FnOnce()) -> Recorder {
        let recorder = Recorder::new();
        let subscriber = tracing_subscriber::registry().with(Ear(recorder.heard.clone()));
        tracing::subscriber::with_default(subscriber, work);
        recorder
    }

    #[test]
    fn time_inside_of_inner_spans_is_theirs() {
        let pause = Duration::from_millis(20);
        let recorder = listen(|| {
            let _outer = tracing::info_span!(target: "steadydance", "outer").entered();
            for i in 0..3 {
                let _inner = tracing::info_span!(target: "steadydance", "inner", i).entered();
                std::thread::sleep(pause);
            }
            let _foreign = tracing::info_span!(target: "another", "foreign").entered();
        });
        let totals = recorder.totals();
        assert_eq!(totals.iter().map(|(name, t)| (*name, t.calls)).collect::<Vec<_>>(), [("inner", 3), ("outer", 1)]);
        assert!(totals[0].1.own >= 3 * pause && totals[1].1.own < 3 * pause, "{totals:?}");
        let table = recorder.table();
        assert!(table.lines().count() == 3 && table.contains("inner"), "{table}");
    }

    #[test]
    fn the_file_is_a_chrome_trace() {
        let recorder = listen(|| {
            let _span = tracing::info_span!(target: "steadydance", "linear", rows = 7).entered();
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        recorder.write(&path).unwrap();
        let trace: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let event = &trace["traceEvents"][0];
        assert_eq!(
            (&event["name"], &event["ph"], &event["args"]["of"]),
            (&"linear".into(), &"X".into(), &"rows 7".into())
        );
        assert!(event["dur"].as_f64().unwrap() >= 0.0 && event["ts"].is_number());
        assert!(recorder.write(Path::new("/nowhere/at/all.json")).is_err());
    }
}
