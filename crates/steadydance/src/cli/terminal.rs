//! stdout and stderr. Neither may make the program panic, and a reader that goes away is no error.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::failure::Failure;

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Default)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Even into a file.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    /// Finds `--color` before the arguments are parsed: parse errors have a colour too.
    pub fn scan(arguments: &[OsString]) -> Self {
        let mut words = arguments.iter().filter_map(|a| a.to_str()).take_while(|a| *a != "--");
        let mut found = None;
        while let Some(word) = words.next() {
            match word.strip_prefix("--color") {
                Some("") => found = words.next(),
                Some(value) => found = value.strip_prefix('='),
                None => {}
            }
        }
        found.and_then(|f| Self::from_str(f, false).ok()).unwrap_or_default()
    }
}

/// What may be said on stderr, and how.
#[derive(Debug, Clone, Copy)]
pub struct Terminal {
    choice: Color,
    color: bool,
    /// Whether stderr is a terminal, so that bars make sense.
    pub interactive: bool,
    /// 0 usual, 1 and 2 more, -1 errors only.
    pub verbosity: i8,
}

impl Terminal {
    /// Of this process.
    pub fn new(choice: Color) -> Self {
        let interactive = io::stderr().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let forced = std::env::var_os("CLICOLOR_FORCE").is_some_and(|v| !v.is_empty() && v != "0");
        let color = match choice {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !set("NO_COLOR") && (forced || interactive),
        };
        Self { choice, color, interactive, verbosity: 0 }
    }

    /// With the numbers of `-v` and `-q`.
    pub fn with_verbosity(self, verbose: u8, quiet: bool) -> Self {
        Self { verbosity: if quiet { -1 } else { verbose.min(2) as i8 }, ..self }
    }

    /// The same choice for clap's help.
    pub fn clap_color(&self) -> clap::ColorChoice {
        match self.choice {
            Color::Auto => clap::ColorChoice::Auto,
            Color::Always => clap::ColorChoice::Always,
            Color::Never => clap::ColorChoice::Never,
        }
    }

    /// `text` in an ANSI style, where colours are wanted on stderr.
    pub fn paint(&self, style: &str, text: &str) -> String {
        if self.color { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Whether stderr has colours.
    pub fn has_color(&self) -> bool {
        self.color
    }

    /// Whether what goes to stdout may have characters beyond ASCII: it is a terminal that shows UTF-8, and nothing plain
    /// was asked for.
    pub fn draws_blocks(&self) -> bool {
        let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default().to_uppercase();
        let utf8 = locale.contains("UTF-8") || locale.contains("UTF8");
        utf8 && io::stdout().is_terminal() && self.choice != Color::Never && set("NO_COLOR").is_none()
    }

    /// The one line of a failure.
    pub fn error(&self, failure: &Failure) {
        talk(&format!("{} {}", self.paint("1;31", "error:"), failure.message));
    }

    /// Something that is not as one might expect.
    pub fn warning(&self, message: &str) {
        if self.verbosity >= 0 {
            talk(&format!("{} {message}", self.paint("1;33", "warning:")));
        }
    }

    /// A line that `-q` silences.
    pub fn say(&self, line: &str) {
        if self.verbosity >= 0 {
            talk(line);
        }
    }

    /// A line that needs `-v` to be seen.
    pub fn detail(&self, line: &str) {
        if self.verbosity >= 1 {
            talk(line);
        }
    }
}

fn talk(line: &str) {
    // Nobody is left to be told when stderr is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

/// Writes a result to stdout.
///
/// # Errors
/// The disk behind it is full or the like. A pipe whose reader has gone is no error.
pub fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::other(format!("cannot write to stdout: {e}"))),
        _ => Ok(()),
    }
}

/// Writes a value as readable JSON to stdout.
///
/// # Errors
/// As [`write_out`].
pub fn write_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(Failure::other)?;
    text.push('\n');
    write_out(&text)
}

/// Writes the help or version that clap made, with its colours where they belong.
///
/// # Errors
/// As [`write_out`].
pub fn write_help(help: &clap::Error) -> Result<(), Failure> {
    match help.print() {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::other(format!("cannot write to stdout: {e}"))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn color_is_found_before_parsing() {
        let scan = |words: &[&str]| Color::scan(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(scan(&["x", "--color", "never", "run"]), Color::Never);
        assert_eq!(scan(&["x", "run", "--color=always"]), Color::Always);
        assert_eq!(scan(&["x", "run", "--", "--color=always"]), Color::Auto);
        assert_eq!(scan(&["x", "--color=pink"]), Color::Auto);
    }
}
