//! `steadydance pose`.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use steadydance::{
    EmbeddedPoses, FinderOptions, Motion, Part, PoseModels, PoseOutcome, PoseRequest, RequestError, find_poses,
    pose_canvas,
};

use super::args::PoseArgs;
use super::config::Config;
use super::failure::{self, Failure};
use super::plan::bytes;
use super::progress::{Progress, Told, clock, write_event};
use super::request::{Model, find_model, same_file};
use super::stop::Stop;
use super::target;
use super::terminal::{self, Terminal};
use super::values::Values;

/// Finds poses and writes all that there is to see. The folder's path is all that goes to stdout, or events when
/// `--json` is given.
///
/// # Errors
/// See `docs/cli.md`.
pub fn pose(args: &PoseArgs, terminal: Terminal) -> Result<(), Failure> {
    let result = failure::catch_panic(|| find(args, terminal));
    if let (Err(failure), true) = (&result, args.json) {
        write_event(&Told::Error(failure));
    }
    result
}

fn find(args: &PoseArgs, terminal: Terminal) -> Result<(), Failure> {
    let stop = Stop::install(args.json, terminal)?;
    let (pose, model) = (args.values.clone(), args.model.clone());
    let given = Values { pose, model, seed: args.seed, ..Values::default() };
    let values = Config::load(&given, terminal)?.values;
    let mut request = request(args, &values)?;
    if let (Some(sentence), Motion::Keypoints { .. }) = (args.values.unused(false), &request.motion) {
        terminal.warning(&sentence);
    }
    // Without a model this is about the demo's puppets as likely as about people; the networks for people come first.
    let demo = values.model.as_deref().is_none_or(|model| model == "demo");
    let options = values.pose.finder(values.model_folder(), demo.then_some(EmbeddedPoses::IfNoneFound));
    request.settings.canvas = canvas(&values, &request.motion, &options)?;

    let mut observer = Progress::new(stop.token().clone(), args.json, terminal);
    let outcome = stop.guard(|| find_poses(&request, &options, &mut observer).map_err(Failure::from));
    observer.finish();
    let outcome = outcome.map_err(|failure| about_keypoints(failure, &request))?;
    if args.json {
        write_event(&Told::Poses(&outcome));
        return Ok(());
    }
    for line in summary(&outcome) {
        terminal.say(&line);
    }
    terminal::write_out(&format!("{}\n", outcome.folder.display()))
}

/// The canvas of the model that is named; without a name that of the demo where its own networks look for puppets, else
/// SteadyDancer's.
fn canvas(values: &Values, motion: &Motion, options: &FinderOptions) -> Result<Option<[usize; 2]>, Failure> {
    let puppets = || {
        matches!(motion, Motion::Video { .. }) && PoseModels::find(&options.models).ok() == Some(PoseModels::Embedded)
    };
    Ok(match values.model.as_deref().map(find_model) {
        Some(Model::Path(path)) => pose_canvas(Some(&path))?,
        Some(Model::Demo) => pose_canvas(None)?,
        None if puppets() => pose_canvas(None)?,
        Some(Model::Known(known)) if !known.is_built_in() => {
            let file = target::known_file(&known.name, Part::Transformer, "--model")?;
            file.map(|file| pose_canvas(Some(&file))).transpose()?.flatten()
        }
        // The published models' canvas is SteadyDancer's.
        Some(Model::Known(_)) | None => None,
    })
}

/// Errors in keypoints do not know their file.
fn about_keypoints(failure: Failure, request: &PoseRequest) -> Failure {
    match &request.motion {
        Motion::Keypoints { file, .. } if failure.kind == "input" => failure.about(file),
        _ => failure,
    }
}

fn request(args: &PoseArgs, values: &Values) -> Result<PoseRequest, Failure> {
    let motion = match (&args.keypoints, &args.drive) {
        (Some(file), drive) => Motion::Keypoints { file: file.clone(), drive: drive.clone() },
        (None, Some(drive)) => Motion::Video { drive: drive.clone() },
        (None, None) => return Err(Failure::usage("no motion; give --drive VIDEO, or --keypoints JSON")),
    };
    let output = output(args)?;
    let mut request = PoseRequest::new(motion, output);
    request.reference.clone_from(&args.reference);
    request.settings = values.pose.settings();
    request.fps = args.fps;
    request.max_frames = args.max_frames;
    request.replace = args.force;
    request.seed = values.seed.unwrap_or(request.seed);
    Ok(request)
}

/// What was asked for, or `<video>-pose` in the current folder.
fn output(args: &PoseArgs) -> Result<PathBuf, Failure> {
    let source = args.drive.as_ref().or(args.keypoints.as_ref());
    let output = args.output.clone().unwrap_or_else(|| {
        let stem = source.and_then(|s| s.file_stem()).map(|s| s.to_string_lossy().into_owned());
        PathBuf::from(format!("{}-pose", stem.unwrap_or_else(|| "clip".to_owned())))
    });
    for input in [&args.drive, &args.keypoints, &args.reference].into_iter().flatten() {
        if same_file(&output, input) {
            return Err(
                steadydance::PipelineError::from(RequestError::OutputIsInput { output, input: input.clone() }).into()
            );
        }
    }
    let empty = output.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if output.symlink_metadata().is_ok() && !empty && !args.force {
        return Err(Failure::usage(format!(
            "{}: exists already; replace it with --force, or choose another name with -o",
            output.display()
        )));
    }
    Ok(output)
}

fn summary(outcome: &PoseOutcome) -> Vec<String> {
    let quality = &outcome.quality;
    let mut first = format!("{} frames, person found in {:.0} %", outcome.frames, 100.0 * quality.detection_rate);
    if outcome.cached > 0 {
        let _ = write!(first, " ({} known from before)", outcome.cached);
    }
    let phases: Vec<_> = outcome.phase_seconds.iter().map(|(phase, s)| format!("{phase} {s:.1} s")).collect();
    let memory = outcome.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    vec![
        first,
        format!(
            "{} in all ({}), peak memory {memory}",
            clock(Duration::from_secs_f64(outcome.seconds.max(0.0))),
            phases.join(", ")
        ),
        format!("see {}", outcome.folder.join("sheet.png").display()),
    ]
}
