//! One way to fail: a line for people, a kind for programs, and an exit code.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;
use steadydance::hub::{HubError, HubErrorKind};
use steadydance::{ErrorKind, PipelineError, PresetError, RequestError};

/// Why the program ends without a result. `docs/cli.md` lists kinds and codes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Failure {
    /// For programs.
    pub kind: &'static str,
    /// For people; one line.
    pub message: String,
    /// Of the process.
    pub exit_code: u8,
}

impl Failure {
    fn new(kind: &'static str, exit_code: u8, message: impl ToString) -> Self {
        Self { kind, exit_code, message: one_line(&message.to_string()) }
    }

    /// Something that has no kind of its own.
    pub fn other(message: impl ToString) -> Self {
        Self::new("other", 1, message)
    }

    /// A result that is worse than it may be.
    pub fn regression(message: impl ToString) -> Self {
        Self::new("regression", 1, message)
    }

    /// A wrong command line, configuration file or variable.
    pub fn usage(message: impl ToString) -> Self {
        Self::new("usage", 2, message)
    }

    /// A model that is not there.
    pub fn model(message: impl ToString) -> Self {
        Self::new("model", 4, message)
    }

    /// Stopped by a signal.
    pub fn interrupted(message: impl ToString) -> Self {
        Self::new("interrupted", 130, message)
    }

    /// The same, begun with the file it is about unless that is named already.
    pub fn about(self, file: &Path) -> Self {
        let name = file.display().to_string();
        let message = if self.message.contains(&name) { self.message } else { format!("{name}: {}", self.message) };
        Self { message: one_line(&message), ..self }
    }

    /// clap's message without its usage block: what is wrong, and its tip.
    pub fn from_clap(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            let usage = text.lines().find(|l| l.starts_with("Usage:")).unwrap_or("try --help").to_owned();
            return Self::usage(format!("nothing to do; {usage} (see --help)"));
        }
        let end = text.find("\nUsage:").or_else(|| text.find("\nFor more information")).unwrap_or(text.len());
        let text = one_line(text[..end].trim_start_matches("error: "));
        Self::usage(format!("{text} (see --help)"))
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        let (kind, code) = match error.kind() {
            ErrorKind::Usage => ("usage", 2),
            ErrorKind::Input => ("input", 3),
            ErrorKind::Model => ("model", 4),
            ErrorKind::DoesNotFit => ("does-not-fit", 5),
            ErrorKind::Device => ("device", 7),
            ErrorKind::Cancelled => ("interrupted", 130),
            _ => ("other", 1),
        };
        Self::new(kind, code, error)
    }
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        let (kind, code) = match error.kind() {
            HubErrorKind::Usage => ("usage", 2),
            HubErrorKind::Model => ("model", 4),
            HubErrorKind::Network => ("network", 8),
            HubErrorKind::Cancelled => ("interrupted", 130),
            _ => ("other", 1),
        };
        Self::new(kind, code, error)
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        PipelineError::from(error).into()
    }
}

impl From<PresetError> for Failure {
    fn from(error: PresetError) -> Self {
        Self::usage(error)
    }
}

/// Messages of libraries may span lines; ours never do. Control characters of file names are made visible.
fn one_line(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    joined.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Keeps a panic's place for [`catch_panic`] instead of printing it. With `RUST_BACKTRACE` the usual report is printed
/// as well.
pub fn quiet_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v != "0") {
            usual(info);
        }
        let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        let message = format!("{}{place}", payload(info.payload()));
        PANIC.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(message);
    }));
}

/// Runs `work`; a panic in it, which is a mistake of ours, becomes an ordinary failure.
pub fn catch_panic<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|caught| {
        let kept = PANIC.lock().unwrap_or_else(|e| e.into_inner()).take();
        let what = kept.unwrap_or_else(|| payload(&*caught));
        Err(Failure::new(
            "internal",
            1,
            format!("internal error: {what}; this is a mistake in steadydance, please report it"),
        ))
    })
}

fn payload(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_documented_code() {
        let code = |e: PipelineError| Failure::from(e).exit_code;
        assert_eq!(code(RequestError::Crf { found: 99 }.into()), 2);
        assert_eq!(code(RequestError::Device { found: "cuda:9".into(), why: "none".into() }.into()), 7);
        assert_eq!(
            code(PipelineError::NobodyFound { what: "video", path: "a.mp4".into(), frames: 5, puppets_only: false }),
            3
        );
        assert_eq!(code(PipelineError::Model { path: "m".into(), problem: "gone".into() }), 4);
        assert_eq!(code(PipelineError::NotFinite { place: "dit".into() }), 4);
        assert_eq!(code(PipelineError::Cancelled { phase: steadydance::Phase::Decode }), 130);
        let hub = |e: HubError| Failure::from(e).exit_code;
        assert_eq!(hub(HubError::NotFound { url: "u".into() }), 8);
        assert_eq!(hub(HubError::Size { file: "f".into(), found: 1, expected: 2 }), 4);
        assert_eq!(hub(HubError::Busy { repository: "r".into() }), 1);
        assert_eq!(hub(HubError::Cancelled { cache: "c".into() }), 130);
        let compute = PipelineError::Compute { place: "dit".into(), source: candle_core::Error::Msg("a\nb".into()) };
        assert_eq!(code(compute), 1);
    }

    #[test]
    fn messages_have_one_line_and_panics_are_failures() {
        assert_eq!(Failure::other("a\n  b\u{1b}[1m").message, "a b\u{fffd}[1m");
        let about = Failure::other("bad").about(Path::new("a.json"));
        assert_eq!((about.message.as_str(), about.clone().about(Path::new("a.json"))), ("a.json: bad", about.clone()));
        let failure = catch_panic::<()>(|| std::panic::resume_unwind(Box::new("boom"))).unwrap_err();
        assert_eq!((failure.exit_code, failure.kind), (1, "internal"));
        assert!(failure.message.contains("boom") && failure.message.contains("report"));
    }
}
