//! `completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use super::failure::Failure;
use super::terminal;

/// Writes a completion script.
///
/// # Errors
/// stdout cannot be written.
pub fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "steadydance", &mut script);
    terminal::write_out(&String::from_utf8_lossy(&script))
}
