//! `models list` and `completions`.

use clap::CommandFactory;
use clap_complete::Shell;
use steadydance::known_models;

use super::args::Cli;
use super::failure::Failure;
use super::terminal;

/// Lists the models known by name.
///
/// # Errors
/// stdout cannot be written.
pub fn models(json: bool) -> Result<(), Failure> {
    let models = known_models();
    if json {
        return terminal::write_json(&models);
    }
    let mut text = String::new();
    for m in &models {
        let size = match m.parameters as f64 {
            p if p >= 1e9 => format!("{:.1} B", p / 1e9),
            p => format!("{:.1} M", p / 1e6),
        };
        let place = if m.repository.is_empty() { "in this program" } else { &m.repository };
        text += &format!("{:<24}{size:>10}  {:<32}{place}\n{:<36}{}\n", m.name, m.title, "", m.summary);
    }
    terminal::write_out(&text)
}

/// Writes a completion script.
///
/// # Errors
/// stdout cannot be written.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "steadydance", &mut script);
    terminal::write_out(&String::from_utf8_lossy(&script))
}
