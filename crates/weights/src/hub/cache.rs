use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::names::{check_file, check_revision, is_commit, repository_folder};
use super::{HubError, MAIN, Settings};

/// The folder that files of the hub are kept in. Nothing here uses the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    root: PathBuf,
}

/// One state of a repository that is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its folder: `<cache>/models--org--name/snapshots/<commit>`.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
}

impl Found {
    /// Its files whose content is here, as the repository names them, sorted.
    pub fn files(&self) -> Vec<String> {
        let inside = |path: PathBuf| {
            let pieces = path.strip_prefix(&self.folder).ok()?.iter().map(|p| p.to_str());
            Some(pieces.collect::<Option<Vec<_>>>()?.join("/"))
        };
        let mut files: Vec<_> =
            files_below(&self.folder).into_iter().filter(|p| p.is_file()).filter_map(inside).collect();
        // A link that was not yet in its place when a pull was killed is none of them.
        let loose = |f: &str| f.rsplit('/').next().is_some_and(|n| n.starts_with('.') && n.ends_with(".link"));
        files.retain(|f| check_file(f).is_ok() && !loose(f));
        files.sort();
        files
    }
}

impl Cache {
    /// The one that the environment names ([`Settings::cache`]).
    pub fn from_env() -> Self {
        Self::new(Settings::from_env().cache)
    }

    /// A cache in `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `file` of `repository` (`org/name`) is, if it is here: in the snapshot that `main` stands for, or else in
    /// the newest one that has it.
    pub fn find(&self, repository: &str, file: &str) -> Option<PathBuf> {
        self.snapshot(repository, None, &[file]).map(|found| found.folder.join(file))
    }

    /// A snapshot with all of `files`: that of `revision`, or if none is named that of `main`, or else the newest one.
    pub fn snapshot(&self, repository: &str, revision: Option<&str>, files: &[&str]) -> Option<Found> {
        let folder = self.repository(repository).ok()?;
        if files.iter().any(|f| check_file(f).is_err()) {
            return None;
        }
        let complete = |found: &Found| {
            // `is_file` follows links: one whose blob is gone does not count.
            found.folder.is_dir() && files.iter().all(|f| found.folder.join(f).is_file())
        };
        let named = folder.commit(revision.unwrap_or(MAIN)).map(|c| folder.snapshot(&c)).filter(&complete);
        if named.is_some() || revision.is_some() {
            return named;
        }
        let mut others = folder.snapshots();
        others.sort_by_key(|found| std::cmp::Reverse(modified(&found.folder)));
        others.into_iter().find(complete)
    }

    /// Unfinished downloads of a repository: names of their blobs, which are SHA-256 where the hub is the public one,
    /// and bytes that are here.
    pub fn unfinished(&self, repository: &str) -> Vec<(String, u64)> {
        let Ok(folder) = self.repository(repository) else { return Vec::new() };
        let told = |path: PathBuf| Some((unfinished_name(&path)?.to_owned(), fs::metadata(&path).ok()?.len()));
        entries(&folder.blobs()).into_iter().filter_map(told).collect()
    }

    /// Every file of the cache with its size, links left out: contents are counted once, unfinished ones among them.
    pub fn contents(&self) -> Vec<(PathBuf, u64)> {
        let told = |path: PathBuf| {
            let info = path.symlink_metadata().ok().filter(|info| info.is_file())?;
            Some((path, info.len()))
        };
        files_below(&self.root).into_iter().filter_map(told).collect()
    }

    /// The folder of a repository, which need not exist.
    ///
    /// # Errors
    /// The name is not that of a repository.
    pub(super) fn repository(&self, repository: &str) -> Result<Folder, HubError> {
        let name = repository_folder(repository)?;
        Ok(Folder { path: self.root.join(&name), locks: self.root.join(".locks").join(name) })
    }
}

/// The folder of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    pub path: PathBuf,
    pub locks: PathBuf,
}

impl Folder {
    pub fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    pub fn blob(&self, name: &str) -> PathBuf {
        self.blobs().join(name)
    }

    /// A download of that blob that is not complete.
    pub fn unfinished(&self, name: &str) -> PathBuf {
        self.blobs().join(format!("{name}.incomplete"))
    }

    pub fn lock(&self, name: &str) -> PathBuf {
        self.locks.join(format!("{name}.lock"))
    }

    pub fn refs(&self) -> PathBuf {
        self.path.join("refs")
    }

    pub fn snapshot(&self, commit: &str) -> Found {
        Found { folder: self.path.join("snapshots").join(commit), commit: commit.to_owned() }
    }

    /// All snapshots that are here.
    pub fn snapshots(&self) -> Vec<Found> {
        let folders = entries(&self.path.join("snapshots"));
        let commits = folders.iter().filter_map(|p| p.file_name()?.to_str().filter(|n| is_commit(n)));
        commits.map(|commit| self.snapshot(commit)).collect()
    }

    /// The commit that a revision stands for here.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        check_revision(revision).ok()?;
        let path = self.refs().join(revision);
        let short = fs::metadata(&path).is_ok_and(|info| info.is_file() && info.len() <= 64);
        let text = short.then(|| fs::read_to_string(path).ok()).flatten()?;
        Some(text.trim().to_owned()).filter(|c| is_commit(c))
    }
}

/// The blob of which a file of a blob folder is an unfinished download. Python's library writes
/// `<etag>.<random>.incomplete`.
pub(super) fn unfinished_name(path: &Path) -> Option<&str> {
    path.extension().filter(|e| *e == "incomplete")?;
    path.file_name()?.to_str()?.split('.').next()
}

/// Files and links below a folder; links to folders are not followed.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(folder) {
        match path.symlink_metadata() {
            Ok(info) if info.is_dir() => found.extend(files_below(&path)),
            Ok(_) => found.push(path),
            Err(_) => {}
        }
    }
    found
}

/// What is in a folder; nothing if it cannot be read.
pub(super) fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    found.sort();
    found
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|info| info.modified()).ok()
}
