//! Finding out early whether an output can be written.

use std::path::Path;

use super::png_folder;
use super::writer::OutputKind;
use crate::error::Result;
use crate::output::{PendingFile, PendingFolder};

/// Checks that an output of this name could be begun: a known kind, a place that takes files, not a folder where a
/// file is to go. Leaves nothing behind.
///
/// # Errors
/// What [`VideoWriter::create`](super::VideoWriter::create) would say of the path.
pub fn check_output(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    match OutputKind::of(path)? {
        OutputKind::PngFolder => PendingFolder::replacing(path, png_folder::is_ours).map(drop),
        _ => PendingFile::create(path).map(drop),
    }
}
