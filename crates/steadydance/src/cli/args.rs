//! The arguments. Flags that may also stand in a file or the environment are in [`Values`].

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::pose_values::PoseValues;
use super::terminal::Color;
use super::values::Values;

/// Animates the person in a picture with the motion of a video.
#[derive(Debug, Parser)]
#[command(name = "steadydance", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = "\
Exit codes: 0 ok, 1 other failure, 2 usage, 3 unusable input, 4 model missing or damaged,
5 does not fit the memory, 7 device or driver, 8 network or hub, 130 interrupted.
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
    /// Find the poses of a video, fit them to a picture, and show how well that went
    Pose(Box<PoseArgs>),
    /// Show what `run` would do, and the memory it would take; reads no weights
    Plan(Box<RunArgs>),
    /// Say what a checkpoint is: format, tensors, and the network it fits
    Inspect(InspectArgs),
    /// Models known by name: list, download, check and remove them
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
    /// List them, and whether they are here
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Download one; goes on where an earlier download ended, and writes its folder to stdout
    Pull(ModelArgs),
    /// Write the folder of one that is here
    Path(ModelArgs),
    /// Read every byte of one and compare sizes and hashes
    Verify(ModelArgs),
    /// Remove the files of one from the cache
    Rm {
        /// Name of a model (see `models list`)
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Which model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Name of a model (see `models list`)
    pub name: String,
    /// Branch, tag or commit of its repository instead of main; sizes and hashes that are known for main do not count
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Write JSON to stdout: one event a line for pull, one value otherwise
    #[arg(long)]
    pub json: bool,
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
    /// A .safetensors, .pth or .onnx file, a shard index, or a folder with one
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
    /// Driving video; with --pose only its sound is used, with --keypoints its sound and its pictures in previews
    #[arg(long, value_name = "VIDEO", help_heading = "Inputs")]
    pub drive: Option<PathBuf>,
    /// Aligned poses that are drawn already: a video, or a folder of pictures
    #[arg(long, value_name = "DIR|VIDEO", help_heading = "Inputs", conflicts_with = "keypoints")]
    pub pose: Option<PathBuf>,
    /// Their perturbed twins, for pose guidance
    #[arg(long, value_name = "DIR|VIDEO", help_heading = "Inputs", requires = "pose", conflicts_with = "keypoints")]
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
    /// Write a contact sheet, an overlay video, keypoints and their report into this folder
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub debug_dir: Option<PathBuf>,
    /// Only show the plan
    #[arg(long)]
    pub dry_run: bool,
    /// Write JSON to stdout: one event a line, or the plan as one value
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pose`.
#[derive(Debug, Args)]
pub struct PoseArgs {
    /// Driving video, or a folder of pictures
    #[arg(long, value_name = "VIDEO", help_heading = "Inputs")]
    pub drive: Option<PathBuf>,
    /// Picture of the person whom the poses shall fit
    #[arg(long = "ref", value_name = "PICTURE", help_heading = "Inputs")]
    pub reference: Option<PathBuf>,
    /// Keypoints that are known already (docs/keypoints.md); nothing is detected then
    #[arg(long, value_name = "JSON", help_heading = "Inputs")]
    pub keypoints: Option<PathBuf>,
    /// Frames a second at which the motion is sampled [default: every frame]
    #[arg(long, value_name = "N", help_heading = "Inputs")]
    pub fps: Option<f64>,
    /// Most frames [default: all]
    #[arg(long, value_name = "N", help_heading = "Inputs")]
    pub max_frames: Option<usize>,
    /// Settings.
    #[command(flatten)]
    pub values: PoseValues,
    /// Seed of the negative poses
    #[arg(long, value_name = "N", help_heading = "Poses")]
    pub seed: Option<u64>,
    /// Folder for keypoints, drawn poses, overlay video, contact sheet and report [default: <video>-pose]
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,
    /// Replace the folder if this program made it
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Write JSON to stdout: one event a line
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
