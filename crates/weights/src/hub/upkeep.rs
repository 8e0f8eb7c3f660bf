//! Checking and removing what is in the cache.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::cache::{Cache, Folder, Found, entries, files_below, unfinished_name};
use super::checksum::{Checksum, hash_file};
use super::names::check_file;
use super::{HubError, WantedFile};

/// What checking a file found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The file, as the repository names it.
    pub file: String,
    /// Its size here.
    pub size_bytes: u64,
    /// Whether its bytes were hashed; otherwise only its size was checked.
    pub hashed: bool,
    /// What is wrong with it.
    pub damage: Option<Damage>,
}

/// What can be wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Damage {
    /// It is not there, or its blob is not.
    Missing,
    /// It is longer or shorter than is known.
    Size {
        /// Known size in bytes.
        expected: u64,
    },
    /// Its bytes are others.
    Hash {
        /// What they hash to.
        found: String,
        /// What they should.
        expected: String,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Size { expected } => write!(f, "wrong size, {expected} B expected"),
            Self::Hash { found, expected } => write!(f, "damaged, hash {found}, {expected} expected"),
        }
    }
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Removed {
    /// Files and links.
    pub files: usize,
    /// Bytes that are free now.
    pub bytes: u64,
}

impl Cache {
    /// Reads every byte of `files` in a snapshot and compares sizes and hashes: with what is known, and with the names
    /// of the blobs, which are hashes. `go_on` is told how many bytes were read and may end it with an error.
    ///
    /// # Errors
    /// A file cannot be read, or `go_on` failed. Damage is no error but in the result.
    pub fn verify(
        &self,
        found: &Found,
        files: &[WantedFile],
        go_on: &mut dyn FnMut(u64) -> Result<(), HubError>,
    ) -> Result<Vec<Checked>, HubError> {
        let check = |file: &WantedFile| -> Result<Checked, HubError> {
            check_file(&file.path)?;
            let path = found.folder.join(&file.path);
            let missing =
                Checked { file: file.path.clone(), size_bytes: 0, hashed: false, damage: Some(Damage::Missing) };
            let Some(info) = fs::metadata(&path).ok().filter(|i| i.is_file()) else { return Ok(missing) };
            let checked = Checked { size_bytes: info.len(), damage: None, ..missing };
            if let Some(expected) = file.size_bytes.filter(|s| *s != info.len()) {
                return Ok(Checked { damage: Some(Damage::Size { expected }), ..checked });
            }
            let blob = fs::canonicalize(&path).ok().and_then(|p| Some(p.file_name()?.to_str()?.to_owned()));
            let known = file.sha256.clone().or(blob).unwrap_or_default();
            let checksum = Checksum::of_blob(&known);
            let Some(expected) = checksum.expected() else { return Ok(checked) };
            let mut hasher = checksum.hasher(info.len());
            hash_file(&path, info.len(), &mut hasher, go_on)?;
            let found = hasher.finish().unwrap_or_default();
            let damage = (found != expected).then(|| Damage::Hash { found, expected: expected.to_owned() });
            Ok(Checked { hashed: true, damage, ..checked })
        };
        files.iter().map(check).collect()
    }

    /// Removes `files` of a repository from all snapshots, their blobs unless another file of the cache needs them, and
    /// folders that are empty then. Files of others in the same repository stay. Unfinished downloads go too if they may
    /// be of these files: if one of them is not here, or if no other file of the repository is.
    ///
    /// # Errors
    /// Another process is downloading, a link leads out of the cache (nothing is removed then), or the disk fails.
    pub fn remove(&self, repository: &str, files: &[&str]) -> Result<Removed, HubError> {
        files.iter().try_for_each(|f| check_file(f))?;
        let folder = self.repository(repository)?;
        let mut removed = Removed::default();
        if folder.path.symlink_metadata().is_err() {
            return Ok(removed);
        }
        let removal = Removal { root: self.root(), folder: &folder };
        let pointers = removal.pointers(files)?;
        let unfinished =
            if removal.may_be_unfinished(files, &pointers) { removal.unfinished(repository)? } else { vec![] };
        let blobs: HashSet<PathBuf> = pointers.iter().filter_map(|p| removal.blob_of(p)).collect();

        for path in pointers.iter().chain(&unfinished) {
            removed.take(path)?;
        }
        let needed: HashSet<PathBuf> = folder
            .snapshots()
            .iter()
            .flat_map(|s| files_below(&s.folder))
            .filter_map(|p| removal.blob_of(&p))
            .collect();
        for blob in blobs.difference(&needed) {
            removed.take(blob)?;
        }
        removal.tidy();
        Ok(removed)
    }
}

impl Removed {
    fn take(&mut self, path: &Path) -> Result<(), HubError> {
        let Ok(info) = path.symlink_metadata() else { return Ok(()) };
        fs::remove_file(path).map_err(|source| HubError::Io { action: "remove", path: path.to_owned(), source })?;
        self.files += 1;
        self.bytes += if info.is_file() { info.len() } else { 0 };
        Ok(())
    }
}

struct Removal<'a> {
    root: &'a Path,
    folder: &'a Folder,
}

impl Removal<'_> {
    /// The links of all snapshots under these names, none of which leads out of the cache.
    fn pointers(&self, files: &[&str]) -> Result<Vec<PathBuf>, HubError> {
        let root = fs::canonicalize(self.root).unwrap_or_else(|_| self.root.to_owned());
        let inside = |path: &Path| fs::canonicalize(path).is_ok_and(|p| p.starts_with(&root));
        let outside = |path: &Path| HubError::OutsideCache { path: path.to_owned(), cache: self.root.to_owned() };
        if !inside(&self.folder.path) {
            return Err(outside(&self.folder.path));
        }
        let mut found = Vec::new();
        for snapshot in self.folder.snapshots() {
            for file in files {
                let path = snapshot.folder.join(file);
                let Ok(info) = path.symlink_metadata() else { continue };
                // A folder on the way may be a link as well; a link whose blob is gone leads nowhere.
                let above = path.parent().is_some_and(inside);
                if !above || info.is_dir() || (path.exists() && !inside(&path)) {
                    return Err(outside(&path));
                }
                found.push(path);
            }
        }
        Ok(found)
    }

    /// Whether unfinished downloads may be of `files`.
    fn may_be_unfinished(&self, files: &[&str], pointers: &[PathBuf]) -> bool {
        let snapshots = self.folder.snapshots();
        let all: usize = snapshots.iter().map(|s| files_below(&s.folder).len()).sum();
        let here = |file: &&str| snapshots.iter().any(|s| s.folder.join(file).is_file());
        all == pointers.len() || !files.iter().all(here)
    }

    /// Unfinished downloads, none of which is being written.
    fn unfinished(&self, repository: &str) -> Result<Vec<PathBuf>, HubError> {
        let blobs = entries(&self.folder.blobs());
        let found: Vec<_> = blobs.into_iter().filter(|p| unfinished_name(p).is_some()).collect();
        for path in &found {
            let name = unfinished_name(path).unwrap_or_default();
            let lock = File::open(self.folder.lock(name));
            if lock.is_ok_and(|l| matches!(l.try_lock(), Err(TryLockError::WouldBlock))) {
                return Err(HubError::Busy { repository: repository.to_owned() });
            }
        }
        Ok(found)
    }

    /// The blob that a link leads to.
    fn blob_of(&self, pointer: &Path) -> Option<PathBuf> {
        let blobs = fs::canonicalize(self.folder.blobs()).ok()?;
        fs::canonicalize(pointer).ok().filter(|p| p.parent() == Some(&blobs))
    }

    /// Removes folders that are empty, and refs to snapshots that are gone. What cannot be removed does no harm.
    fn tidy(&self) {
        for snapshot in self.folder.snapshots() {
            remove_empty(&snapshot.folder);
        }
        let left: Vec<_> = self.folder.snapshots().into_iter().map(|s| s.commit).collect();
        for path in files_below(&self.folder.refs()) {
            if fs::read_to_string(&path).is_ok_and(|commit| !left.iter().any(|l| l == commit.trim())) {
                let _ = fs::remove_file(path);
            }
        }
        if left.is_empty() {
            remove_empty(&self.folder.path);
        }
    }
}

/// Removes a folder with all folders in it, as far as there are no files.
fn remove_empty(folder: &Path) {
    for path in entries(folder) {
        if path.symlink_metadata().is_ok_and(|info| info.is_dir()) {
            remove_empty(&path);
        }
    }
    let _: io::Result<()> = fs::remove_dir(folder);
}
