//! Room and speed of the disk that models are on.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use weights::hub::free_space;

use crate::poses::lossy;

/// Most that is read of a file that is there.
const MOST_READ: u64 = 256 << 20;
/// Files that are smaller say little.
const LEAST_READ: u64 = 32 << 20;
/// What is written where there is no such file.
const WRITTEN: u64 = 64 << 20;
/// Reading ends after so long.
const LONGEST: Duration = Duration::from_secs(3);
const CHUNK: usize = 4 << 20;

/// A disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Disk {
    /// The folder that it was asked about: that of the hub's cache.
    #[serde(serialize_with = "lossy")]
    pub folder: PathBuf,
    /// Free bytes, where the system tells.
    pub free_bytes: Option<u64>,
    /// Whether files can be made in the folder, or where it would be made.
    pub writable: bool,
    /// How fast files are read; `None` where it was not asked for or could not be measured.
    pub read: Option<ReadSpeed>,
}

/// A measured speed of reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReadSpeed {
    /// Bytes a second.
    pub bytes_per_s: f64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Whether the system was asked to drop the file's pages before: what it holds in memory is read at memory's speed. A
    /// disk's own cache, and that of a virtual machine's host, stay.
    pub pages_dropped: bool,
}

/// Looks at the disk of a folder, which need not exist; `contents` are its files with their sizes.
pub(super) fn examine(folder: &Path, contents: &[(PathBuf, u64)], measure: bool) -> Disk {
    let place = folder.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("."));
    Disk {
        folder: folder.to_owned(),
        free_bytes: free_space(folder).ok(),
        writable: tempfile::tempfile_in(place).is_ok(),
        read: measure.then(|| speed(place, contents)).flatten(),
    }
}

/// Of the largest file that is there, or of one that is written for it and removed.
fn speed(place: &Path, contents: &[(PathBuf, u64)]) -> Option<ReadSpeed> {
    let largest = contents.iter().max_by_key(|(_, bytes)| *bytes).filter(|(_, bytes)| *bytes >= LEAST_READ);
    if let Some(speed) = largest.and_then(|(path, _)| read(File::open(path).ok()?)) {
        return Some(speed);
    }
    // A disk that is nearly full is left alone.
    free_space(place).ok().filter(|free| *free > 4 * WRITTEN)?;
    let mut file = tempfile::tempfile_in(place).ok()?;
    // Nothing that a file system could compress.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut chunk = vec![0; CHUNK];
    for _ in 0..WRITTEN / CHUNK as u64 {
        for word in chunk.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&chunk).ok()?;
    }
    // Only pages that are on the disk can be dropped.
    file.sync_all().ok()?;
    file.rewind().ok()?;
    read(file)
}

fn read(mut file: File) -> Option<ReadSpeed> {
    let pages_dropped = drop_pages(&file);
    let mut chunk = vec![0; CHUNK];
    let (began, mut bytes) = (Instant::now(), 0);
    while bytes < MOST_READ && began.elapsed() < LONGEST {
        match file.read(&mut chunk).ok()? {
            0 => break,
            count => bytes += count as u64,
        }
    }
    let seconds = began.elapsed().as_secs_f64().max(1e-6);
    (bytes > 0).then(|| ReadSpeed { bytes_per_s: bytes as f64 / seconds, bytes, pages_dropped })
}

/// Asks the system to let a file's pages go; others that use them read them again.
#[cfg(target_os = "linux")]
fn drop_pages(file: &File) -> bool {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn drop_pages(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_read_and_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let bytes = vec![7u8; LEAST_READ as usize + 5];
        std::fs::write(&path, &bytes).unwrap();
        let disk = examine(folder.path(), &[(path.clone(), bytes.len() as u64)], true);
        assert_eq!(disk.read.as_ref().unwrap().bytes, bytes.len() as u64);
        assert!(disk.writable && disk.free_bytes.is_some());
        assert!(std::fs::read(&path).unwrap() == bytes && std::fs::read_dir(folder.path()).unwrap().count() == 1);
    }

    #[test]
    fn without_one_a_file_is_written_and_nothing_stays() {
        let folder = tempfile::tempdir().unwrap();
        let small = folder.path().join("small");
        std::fs::write(&small, "x").unwrap();
        // A cache that is not there yet.
        let disk = examine(&folder.path().join("a/b"), &[(small, 1)], true);
        assert_eq!(disk.read.unwrap().bytes, WRITTEN);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(examine(folder.path(), &[], false).read, None);
    }
}
