//! `steadydance inspect A --compare B`.

use std::fmt::Write;
use std::path::Path;

use steadydance::compare_checkpoints;
use steadydance::convert::Comparison;

use super::args::InspectArgs;
use super::failure::{self, Failure};
use super::stop::Stop;
use super::terminal::{self, Terminal};

/// Tensors that are listed unless all are asked for.
const WORST: usize = 10;
/// Names that a line lists.
const NAMED: usize = 10;

/// Compares every number of two checkpoints.
///
/// # Errors
/// Missing or damaged files.
pub fn compare(args: &InspectArgs, other: &Path, terminal: Terminal) -> Result<(), Failure> {
    let stop = Stop::install(args.json, terminal)?;
    let found = failure::catch_panic(|| {
        stop.guard(|| Ok(compare_checkpoints(&args.file, other, &mut |_, _| !stop.token().is_cancelled())?))
    })?;
    if args.json {
        return terminal::write_json(&serde_json::to_value(&found).map_err(Failure::other)?);
    }
    terminal::write_out(&text(&found, args.tensors))
}

fn text(found: &Comparison, all: bool) -> String {
    let [a, b] = &found.paths;
    let mut text = format!("{}\n{}\n", a.display(), b.display());
    if found.is_equal() {
        let _ = writeln!(text, "equal: {} tensors, every number", found.tensors.len());
        return text;
    }
    let same = found.tensors.iter().filter(|t| t.largest_error == 0.0).count();
    let _ = writeln!(
        text,
        "{} tensors in both, {same} equal; relative error of all: {:.3e}",
        found.tensors.len(),
        found.relative_error
    );
    for (what, names) in [
        ("only in the first", &found.missing),
        ("only in the second", &found.added),
        ("of different shapes", &found.misshapen),
        ("not compared, no floats", &found.skipped),
    ] {
        if !names.is_empty() {
            let more = if names.len() > NAMED { ", …" } else { "" };
            let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "{} {what}: {shown}{more}", names.len());
        }
    }
    let count = if all { found.tensors.len() } else { WORST };
    let _ = writeln!(text, "{:>12}  {:>12}  tensor", "relative", "largest");
    for t in found.tensors.iter().take(count) {
        let [before, after] = &t.dtypes;
        let _ =
            writeln!(text, "{:>12.3e}  {:>12.3e}  {} ({before}, {after})", t.relative_error, t.largest_error, t.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use steadydance::convert::TensorDifference;

    use super::*;

    #[test]
    fn the_worst_come_first_and_what_is_missing_is_named() {
        let tensor = |name: &str, error: f64| TensorDifference {
            name: name.into(),
            dtypes: ["F32".into(), "Q8_0".into()],
            elements: 4,
            relative_error: error,
            largest_error: error * 2.0,
        };
        let mut found = Comparison {
            paths: ["a".into(), "b".into()],
            tensors: vec![tensor("w", 0.0)],
            missing: vec![],
            added: vec![],
            misshapen: vec![],
            skipped: vec![],
            relative_error: 0.0,
        };
        assert_eq!(text(&found, false), "a\nb\nequal: 1 tensors, every number\n");
        found.tensors.insert(0, tensor("v", 0.25));
        found.missing = (0..12).map(|i| format!("m{i}")).collect();
        let shown = text(&found, false);
        assert!(
            shown.contains("2 tensors in both, 1 equal") && shown.contains("12 only in the first: m0, "),
            "{shown}"
        );
        assert!(shown.contains("m9, …") && shown.contains("   2.500e-1      5.000e-1  v (F32, Q8_0)"), "{shown}");
    }
}
