//! The arguments. Flags that may also stand in a file or the environment are in [`Values`].

use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use glob::Pattern;
use steadydance::convert::Form;
use steadydance::eval::Drive;

use super::interval::{Interval, interval};
use super::memory_values::MemorySwitches;
use super::pose_values::PoseValues;
use super::terminal::Color;
use super::values::{Size, Values, named};

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
    /// Folder of tables of your own models (docs/models.md) [default: manifests beside your config.toml]
    #[arg(long, global = true, value_name = "DIR", env = "STEADYDANCE_MANIFESTS", hide_env = true)]
    pub manifests: Option<PathBuf>,
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
    /// Make and judge clips for pairs whose truth is known: every change of speed or precision is measured by it
    Eval(Box<EvalArgs>),
    /// Show what `run` would do, and the memory it would take, here or on another card; reads no weights
    Plan(Box<PlanArgs>),
    /// Say what a checkpoint is: format, tensors, and the network it fits
    Inspect(InspectArgs),
    /// Write a checkpoint in another form: floats, fp8, int8, GGUF
    Convert(ConvertArgs),
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
    /// Say what this machine is, which models would run on it, and what to do about what is not well
    Doctor(DoctorArgs),
    /// Measure how fast the engine is here, with random weights, and compare with an earlier report
    Bench(BenchArgs),
    /// Write a completion script to stdout
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// What can be asked about models.
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// List them: what is here, its size, and what is missing
    List(ListArgs),
    /// Download one; goes on where an earlier download ended, and writes its place to stdout
    Pull(PullArgs),
    /// Write where one is that is here
    Path(PathArgs),
    /// Read every byte of one and compare sizes and hashes
    Verify(ModelArgs),
    /// Remove the files of one from the cache; what another model that is here needs stays
    Rm {
        /// Name of a model (see `models list`), or ORG/NAME for all of a repository
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Arguments of `models list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only those with this in their name, title or repository
    pub filter: Option<String>,
    /// Also Wan 2.1, encoders and VAEs that are not here
    #[arg(long)]
    pub all: bool,
    /// As JSON; always all
    #[arg(long)]
    pub json: bool,
}

/// Which model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// Name of a model (see `models list`), or ORG/NAME[@REVISION] for any repository of the hub
    pub name: String,
    /// Branch, tag or commit of its repository instead of main; sizes and hashes that are known for main do not count
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Write JSON to stdout: one event a line for pull, one value otherwise
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `models pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Which.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Of ORG/NAME: only files that match; `*` matches slashes too. May be given several times [default: all]
    #[arg(long, value_name = "GLOB", value_parser = glob)]
    pub include: Vec<Pattern>,
    /// Files that come at the same time, each over one connection
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32), default_value = "4")]
    pub jobs: u8,
}

fn glob(text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|e| format!("no pattern ({e}); expected one like *.safetensors"))
}

/// Arguments of `models path`.
#[derive(Debug, Args)]
pub struct PathArgs {
    /// Which.
    #[command(flatten)]
    pub model: ModelArgs,
    /// A line for each file: what it is for, a tab, its path
    #[arg(long, conflicts_with = "json")]
    pub parts: bool,
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
    /// A .safetensors, .gguf, .pth or .onnx file, a shard index, or a folder with one
    pub file: PathBuf,
    /// Compare every number with those of another checkpoint, in whatever form; this one is the exact one
    #[arg(long, value_name = "PATH", conflicts_with = "model")]
    pub compare: Option<PathBuf>,
    /// Of a LoRA: the model it is for; says how it fits, and fails if it does not
    #[arg(long, value_name = "PATH|NAME")]
    pub model: Option<String>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// List every tensor
    #[arg(long)]
    pub tensors: bool,
}

/// Arguments of `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A .safetensors, .gguf, .pth or .onnx file, a shard index, or a folder with one
    #[arg(required_unless_present = "list")]
    pub input: Option<PathBuf>,
    /// The file to be written [default: <input>-<form>.safetensors or .gguf in the current folder]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// What matrices shall be: bf16, fp8, int8, q8_0, q4_k_m, … (see --list)
    #[arg(long, value_name = "FORM", required_unless_present = "list")]
    pub to: Option<Form>,
    /// List the forms
    #[arg(long, conflicts_with_all = ["input", "to", "output"])]
    pub list: bool,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Only say what would be written
    #[arg(long)]
    pub dry_run: bool,
    /// Write JSON to stdout: one event a line
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Do not measure the disk, which reads, or writes and reads, at most 256 MB
    #[arg(long)]
    pub no_disk_speed: bool,
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
    /// Where things are computed.
    #[command(flatten)]
    memory: MemorySwitches,
}

impl FlagValues {
    /// What was given on the command line.
    pub fn given(&self) -> Values {
        let metadata = if self.no_metadata { Some(false) } else { self.values.metadata };
        Values { metadata, memory: self.memory.over(&self.values.memory), ..self.values.clone() }
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
    /// What a run kept that did not come to its end: go on from there [default: what lies beside the output, if it fits]
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
    /// Write predicted and measured memory of every phase into this JSON file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub mem_report: Option<PathBuf>,
    /// Write where the time goes into this file, as a Chrome trace; -v shows a table at the end
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub trace: Option<PathBuf>,
    /// Save the steps done beside the output this often, to go on after an interruption; 0 saves every step, off none
    #[arg(long, value_name = "SECONDS|off", help_heading = "Output", value_parser = interval, default_value = "30")]
    pub snapshot_interval: Interval,
    /// Only show the plan
    #[arg(long)]
    pub dry_run: bool,
    /// Write JSON to stdout: one event a line, or the plan as one value
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Something else than time.
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// What is measured: cpu, or cuda or cuda:N with cases of its own
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Cases whose names match, * standing for anything, several times for several [default: the usual ones, some minutes]
    #[arg(long = "case", value_name = "GLOB", value_parser = glob)]
    pub cases: Vec<Pattern>,
    /// Only list the cases
    #[arg(long)]
    pub list: bool,
    /// Fewest runs of a case that count [default: 3; on a GPU 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: Option<u32>,
    /// Runs before these
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000), default_value = "1")]
    pub warmups: u32,
    /// Cases that are quick are run for this long, at most ten times as often
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=3600), default_value = "2")]
    pub seconds: u32,
    /// Threads of the kernels [default: as many as may run at once]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Write the report into this file; - writes it to stdout
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// A report of before: tell what became faster or slower
    #[arg(long, value_name = "FILE")]
    pub compare: Option<PathBuf>,
}

/// What `bench` measures besides time.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// How far each precision is from f32, on the processor or a GPU; exit code 1 if one is further than it may be
    Numerics(NumericsArgs),
}

/// Arguments of `bench numerics`.
#[derive(Debug, Args)]
pub struct NumericsArgs {
    /// What computes: cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// The embedded model, or a size with random weights: 1.3b, 14b, i2v-14b, steadydancer-14b, tiny
    #[arg(long, value_name = "demo|SIZE", default_value = "demo")]
    pub model: String,
    /// Blocks of a network with random weights
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=40), default_value = "4")]
    pub blocks: u16,
    /// Size of the clip in pixels, multiples of 16
    #[arg(long, value_name = "WxH", default_value = "96x96")]
    pub size: Size,
    /// Frames of the clip, 4n + 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=81), default_value = "9")]
    pub num_frames: u16,
    /// Precisions whose names match, * standing for anything, several times for several [default: all]
    #[arg(long = "precision", value_name = "GLOB", value_parser = glob)]
    pub precisions: Vec<Pattern>,
    /// Write the report into this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the table into this file; without it the table goes to stdout
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Of the run.
    #[command(flatten)]
    pub run: RunArgs,
    /// Plan for this card, idle, instead of this machine's device: 4090, rtx-3060, a100-80 …
    #[arg(long, value_name = "NAME", help_heading = "Memory")]
    pub card: Option<String>,
    /// Measure this machine's processor and disk first, two seconds, and predict times by that
    #[arg(long, help_heading = "Memory")]
    pub probe: bool,
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
    /// The model that the poses are for: it has the canvas on which they are drawn, and may have networks beside it
    #[arg(long, value_name = "PATH|NAME", help_heading = "Poses")]
    pub model: Option<String>,
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

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// Folder of the evaluation set (docs/eval.md), say models/demo/eval
    pub set: PathBuf,
    /// Which pairs: the first N, or A..B counted from 0, B not included [default: all]
    #[arg(long, value_name = "N|A..B", help_heading = "Inputs")]
    pub pairs: Option<PairRange>,
    /// What drives: video (the plain clip), keypoints (its exact keypoints) or exact (the exact target poses)
    #[arg(long, value_name = "HOW", help_heading = "Inputs", value_parser = named::<Drive>, default_value = "keypoints")]
    pub drive: Drive,
    /// Judge videos that are there, NAME.mp4 or a folder NAME of pictures for each pair; no model runs
    #[arg(long, value_name = "DIR", help_heading = "Inputs")]
    pub outputs: Option<PathBuf>,
    /// Detector that looks for the figure in the results [default: the run's]
    #[arg(long, value_name = "FILE", help_heading = "Judge")]
    pub judge_detector: Option<PathBuf>,
    /// Keypoint network that looks for joints in the results [default: the run's]
    #[arg(long, value_name = "FILE", help_heading = "Judge")]
    pub judge_pose: Option<PathBuf>,
    /// Print the differences to an earlier report.json; exit code 1 if PSNR fell by more than the tolerance
    #[arg(long, value_name = "FILE", help_heading = "Judge")]
    pub compare: Option<PathBuf>,
    /// Fall of the mean PSNR, of picture or figure, that --compare lets pass
    #[arg(long, value_name = "DB", help_heading = "Judge", default_value = "0.5", allow_negative_numbers = true)]
    pub tolerance_db: f64,
    /// Settings.
    #[command(flatten)]
    pub values: FlagValues,
    /// New folder for report.json, index.html and contact sheets
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub output: PathBuf,
    /// Keep the clips in its folder `videos`
    #[arg(long, help_heading = "Output", conflicts_with = "outputs")]
    pub keep_videos: bool,
    /// Drop what an unfinished evaluation into this folder with other settings has finished
    #[arg(long, help_heading = "Output")]
    pub restart: bool,
    /// Write JSON to stdout: one event a line
    #[arg(long)]
    pub json: bool,
}

/// Some pairs of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairRange(pub Range<usize>);

impl FromStr for PairRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = match text.split_once("..") {
            Some((from, to)) => from.parse().ok().zip(to.parse().ok()).map(|(from, to)| from..to),
            None => text.parse().ok().map(|count| 0..count),
        };
        let range = range.filter(|range| range.start < range.end);
        range.map(Self).ok_or_else(|| "expected a number of pairs, or A..B with A below B".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn pairs_are_a_number_or_a_range() {
        assert_eq!("3".parse(), Ok(PairRange(0..3)));
        assert_eq!("2..5".parse(), Ok(PairRange(2..5)));
        for wrong in ["", "0", "..", "5..5", "5..2", "-1", "1..", "a..b", "1...2"] {
            assert!(wrong.parse::<PairRange>().unwrap_err().contains("A..B"), "{wrong}");
        }
    }

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
