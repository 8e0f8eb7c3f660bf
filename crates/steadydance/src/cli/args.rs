//! The arguments. Flags that may also stand in a file or the environment are in [`Values`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::terminal::Color;
use super::values::Values;

/// Animates the person in a picture with the motion of a video.
#[derive(Debug, Parser)]
#[command(name = "steadydance", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "\
Exit codes: 0 ok, 1 other failure, 2 usage, 3 unusable input, 4 model missing or damaged,
5 does not fit the memory, 7 device or driver, 130 interrupted.
Settings come from flags, then STEADYDANCE_* variables, ./steadydance.toml, the user's
config.toml, the preset, and defaults; `steadydance config show` tells which.")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Colours: auto (as NO_COLOR and CLICOLOR_FORCE say), always or never
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_default_value = true)]
    #[arg(hide_possible_values = true)]
    pub color: Color,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a clip
    Run(Box<RunArgs>),
    /// Show what `run` would do, and the memory it would take; reads no weights
    Plan(Box<RunArgs>),
    /// Say what a checkpoint is: format, tensors, and the network it fits
    Inspect(InspectArgs),
    /// Models known by name
    Models {
        /// What about them.
        #[command(subcommand)]
        command: ModelsCommand,
    },
    /// The settings in effect
    Config {
        /// What about them.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Write a completion script to stdout
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// What can be asked about models.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List them
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// What can be asked about settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every setting and where its value comes from
    Show(Box<ShowArgs>),
}

/// Arguments of `config show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Settings.
    #[command(flatten)]
    pub values: FlagValues,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A .safetensors or .pth file, a shard index, or a folder with one
    pub file: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
}

/// Settings as flags.
#[derive(Debug, Args)]
pub struct FlagValues {
    /// All of them.
    #[command(flatten)]
    pub values: Values,
    /// Do not write seed, settings and version into the file
    #[arg(long, help_heading = "Output", conflicts_with = "metadata")]
    no_metadata: bool,
}

impl FlagValues {
    /// What was given on the command line.
    pub fn given(&self) -> Values {
        let metadata = if self.no_metadata { Some(false) } else { self.values.metadata };
        Values { metadata, ..self.values.clone() }
    }
}

/// Arguments of `run` and `plan`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Picture of the person to be animated
    #[arg(long = "ref", value_name = "PICTURE", help_heading = "Inputs")]
    pub reference: Option<PathBuf>,
    /// Driving video; with --keypoints or --pose only its sound is used
    #[arg(long, value_name = "VIDEO", help_heading = "Inputs")]
    pub drive: Option<PathBuf>,
    /// Aligned poses that are drawn already: a video, or a folder of pictures
    #[arg(long, value_name = "DIR|VIDEO", help_heading = "Inputs", conflicts_with = "keypoints")]
    pub pose: Option<PathBuf>,
    /// Their perturbed twins, for pose guidance
    #[arg(long, value_name = "DIR|VIDEO", help_heading = "Inputs", requires = "pose")]
    pub neg_pose: Option<PathBuf>,
    /// Keypoints of the driving video (docs/keypoints.md)
    #[arg(long, value_name = "JSON", help_heading = "Inputs")]
    pub keypoints: Option<PathBuf>,
    /// Finished latents that a run kept when its decoding or writing failed: go on from them
    #[arg(long, value_name = "FILE", help_heading = "Inputs")]
    pub latents: Option<PathBuf>,
    /// Settings.
    #[command(flatten)]
    pub values: FlagValues,
    /// .mp4, .webm, .gif, or a name without extension for a folder of PNGs [default: <picture>-dance.mp4]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Replace the output if it exists
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Only show the plan
    #[arg(long)]
    pub dry_run: bool,
    /// Write JSON to stdout: one event a line, or the plan as one value
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
