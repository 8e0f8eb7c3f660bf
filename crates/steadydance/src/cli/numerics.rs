//! `steadydance bench numerics`.

use steadydance::bench::{
    NumericsModel, NumericsOptions, NumericsRow, ReportFile, UnknownModel, numerics as measure, numerics_of,
};
use steadydance::{MAX_SIDE, MIN_SIDE, SIDE_MULTIPLE};

use super::args::NumericsArgs;
use super::bench::{failure, open, ordinal};
use super::failure::Failure;
use super::stop::Stop;
use super::terminal::{self, Terminal};

/// Measures, tells each precision as it is done, and writes what was asked for.
///
/// # Errors
/// A precision is further from f32 than it may be; a network fails, or a file cannot be written.
pub fn numerics(args: &NumericsArgs, terminal: Terminal) -> Result<(), Failure> {
    let ordinal = ordinal(&args.device)?;
    let options = NumericsOptions { model: model(args)?, size: size(args)? };
    let mut which = numerics_of(ordinal.is_some());
    which.retain(|n| args.precisions.is_empty() || args.precisions.iter().any(|glob| glob.matches(&n.name())));
    if which.is_empty() {
        let names: Vec<String> = numerics_of(ordinal.is_some()).iter().map(|n| n.name()).collect();
        return Err(Failure::usage(format!("no precision has such a name; there are {}", names.join(", "))));
    }
    let create = |path: &Option<_>| path.as_deref().map(ReportFile::create).transpose().map_err(Failure::usage);
    let (json, markdown) = (create(&args.json)?, create(&args.markdown)?);
    let gpu = ordinal.map(|ordinal| open(&args.device, ordinal)).transpose()?;
    let stop = Stop::install(false, terminal)?;
    let mut told = |row: &NumericsRow| {
        terminal.detail(&format!("{}: worst block {:.1} dB", row.name, row.worst_block_db));
        !stop.token().is_cancelled()
    };
    let report = stop.guard(|| measure(&options, &which, gpu.as_ref(), &mut told).map_err(failure))?;
    let table = report.markdown();
    if let Some(file) = json {
        file.write(&report).map_err(Failure::other)?;
    }
    match markdown {
        Some(file) => file.write_text(&table).map_err(Failure::other)?,
        None => terminal::write_out(&table)?,
    }
    let failed = report.rows.iter().find(|row| !row.passes());
    match failed {
        Some(row) => Err(Failure::regression(format!("{}: {}", row.name, row.below.join("; ")))),
        None => Ok(()),
    }
}

fn model(args: &NumericsArgs) -> Result<NumericsModel, Failure> {
    let blocks = args.blocks.into();
    if args.model == "demo" {
        return Ok(NumericsModel::Demo);
    }
    let model = args
        .model
        .parse()
        .map_err(|e: UnknownModel| Failure::usage(format!("--model {}: {e}, or demo", args.model)))?;
    Ok(NumericsModel::Random { model, blocks })
}

fn size(args: &NumericsArgs) -> Result<[usize; 3], Failure> {
    let [width, height] = args.size.0;
    let frames = args.num_frames.into();
    let fits = |side: usize| side.is_multiple_of(SIDE_MULTIPLE) && (MIN_SIDE..=MAX_SIDE).contains(&side);
    if !fits(width) || !fits(height) {
        return Err(Failure::usage(format!(
            "--size {width}x{height}: sides are multiples of {SIDE_MULTIPLE} from {MIN_SIDE} to {MAX_SIDE}"
        )));
    }
    match frames % 4 == 1 {
        true => Ok([width, height, frames]),
        false => Err(Failure::usage(format!("--num-frames {frames}: a clip has 4n + 1 frames: 1, 5, 9, …"))),
    }
}
