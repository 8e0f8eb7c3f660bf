//! Small files, and what tells a changed file from an unchanged one without reading it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// A file, not a pipe or device, of at most `most_bytes`.
pub(crate) fn check_ordinary(path: &Path, most_bytes: u64) -> io::Result<()> {
    let info = fs::metadata(path)?;
    match info.is_file() && info.len() <= most_bytes {
        true => Ok(()),
        false => Err(io::Error::other(format!("expected a file of at most {most_bytes} bytes"))),
    }
}

/// The text of a file of at most `most_bytes`.
pub(crate) fn small_text(path: &Path, most_bytes: u64) -> io::Result<String> {
    check_ordinary(path, most_bytes)?;
    fs::read_to_string(path)
}

/// Size and time of change of a file, with its path; files that are not there have a state too.
pub(crate) fn state(path: &Path) -> String {
    let info = fs::metadata(path).ok();
    let time = info.as_ref().and_then(|i| i.modified().ok()?.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let bytes = info.map_or(0, |i| i.len());
    format!("{} {bytes} bytes {}.{:09}", path.display(), time.as_secs(), time.subsec_nanos())
}
