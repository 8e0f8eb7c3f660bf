//! The command line: arguments in, one exit code out. Results go to stdout, talk goes to stderr.

mod args;
mod bench;
mod compare;
mod completions;
mod config;
mod convert;
mod doctor;
mod eval;
mod failure;
mod inspect;
mod interval;
mod known;
mod memory_values;
mod models;
mod numerics;
mod plan;
mod plan_drawing;
mod pose;
mod pose_values;
mod progress;
mod pull;
mod request;
mod run;
mod stop;
mod summary;
mod target;
mod terminal;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{BenchArgs, BenchCommand, Cli, Command, ConfigCommand, ModelsCommand};
use failure::Failure;
use terminal::{Color, Terminal};

/// Runs one command line and returns the exit code of `docs/cli.md`.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    failure::quiet_panics();
    let arguments: Vec<OsString> = arguments.collect();
    let terminal = Terminal::new(Color::scan(&arguments));
    match failure::catch_panic(|| parse_and_run(&arguments, terminal)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.error(&failure);
            ExitCode::from(failure.exit_code)
        }
    }
}

fn parse_and_run(arguments: &[OsString], terminal: Terminal) -> Result<(), Failure> {
    let command = Cli::command().color(terminal.clap_color());
    let cli = match command.try_get_matches_from(arguments).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => return terminal::write_help(&error),
        Err(error) => return Err(Failure::from_clap(&error)),
    };
    let terminal = terminal.with_verbosity(cli.verbose, cli.quiet);
    steadydance::check_cpu_level().map_err(Failure::usage)?;
    if !matches!(cli.command, Command::Completions { .. }) {
        known::load(cli.manifests.as_deref())?;
    }
    match cli.command {
        Command::Run(args) => run::run(&args, terminal),
        Command::Bench(BenchArgs { command: Some(BenchCommand::Numerics(args)), .. }) => {
            numerics::numerics(&args, terminal)
        }
        Command::Bench(args) => bench::bench(&args, terminal),
        Command::Pose(args) => pose::pose(&args, terminal),
        Command::Eval(args) => eval::eval(&args, terminal),
        Command::Plan(args) => plan::plan(&args, terminal),
        Command::Inspect(args) => inspect::inspect(&args, terminal),
        Command::Convert(args) => convert::convert(&args, terminal),
        Command::Models { command } => match command {
            ModelsCommand::List(args) => models::list(&args, terminal),
            ModelsCommand::Pull(args) => pull::pull(&args, terminal),
            ModelsCommand::Path(args) => models::path(&args),
            ModelsCommand::Verify(args) => models::verify(&args, terminal),
            ModelsCommand::Rm { name, json } => models::remove(&name, json),
        },
        Command::Config { command: ConfigCommand::Show(args) } => config::show(&args, terminal),
        Command::Doctor(args) => doctor::doctor(&args, terminal),
        Command::Completions { shell } => completions::completions(shell),
    }
}
