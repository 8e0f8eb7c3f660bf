//! The report's folder.

use std::fs;
use std::path::{Path, PathBuf};

use media::output::PendingFolder;

use super::unfinished::Unfinished;
use super::{EvalReport, page};
use crate::PipelineError;
use crate::preview::{failed, write_file, write_json};

/// Names in the report's folder.
const REPORT: &str = "report.json";
const PAGE: &str = "index.html";
pub(super) const SHEETS: &str = "sheets";
pub(super) const VIDEOS: &str = "videos";

/// Writes the report's folder as a whole.
pub(super) fn write_all(report: &EvalReport, work: &Unfinished, output: &Path) -> Result<(), PipelineError> {
    let pending = PendingFolder::create(output).map_err(PipelineError::Output)?;
    let at = |name: &str| pending.path().join(name);
    let copy = |from: PathBuf, to: &str| fs::copy(&from, at(to)).map(drop).map_err(|e| failed(&from, &e));
    fs::create_dir(at(SHEETS)).map_err(|e| failed(&at(SHEETS), &e))?;
    if report.pairs.iter().any(|p| p.video.is_some()) {
        fs::create_dir(at(VIDEOS)).map_err(|e| failed(&at(VIDEOS), &e))?;
    }
    for pair in &report.pairs {
        copy(work.file(&pair.name, "jpg"), &pair.sheet)?;
        if let Some(video) = &pair.video {
            copy(work.file(&pair.name, "mp4"), video)?;
        }
    }
    let html = page::page(report, &mut |pair| fs::read(work.file(&pair.name, "jpg")));
    write_file(&at(PAGE), html.map_err(|e| failed(&at(PAGE), &e))?.as_bytes())?;
    write_json(&at(REPORT), report)?;
    pending.commit().map_err(PipelineError::Output)
}
