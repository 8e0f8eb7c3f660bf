//! One file from the hub into its blob, and the link to it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::cache::Folder;
use super::checksum::{CHUNK, Checksum, Hasher, hash_file};
use super::client::{Client, Trouble};
use super::events::{PullEvent, Watch};
use super::plan::PlannedFile;
use super::{Bytes, HubError, Settings};

/// The download of one file.
pub(super) struct Job<'a> {
    pub client: &'a Client,
    pub settings: &'a Settings,
    pub folder: &'a Folder,
    pub file: &'a PlannedFile,
    pub watch: Watch<'a>,
}

/// How one connection ended.
enum Outcome {
    /// All bytes are there, with this hash.
    Complete(Option<String>),
    /// It can go on from what is there.
    Broken { problem: String, wait: Option<Duration> },
}

impl Job<'_> {
    /// Brings the blob and the link to it.
    pub fn run(&self) -> Result<(), HubError> {
        let f = self.file;
        let blob = self.folder.blob(&f.etag);
        let whole = || fs::metadata(&blob).is_ok_and(|i| i.is_file() && i.len() == f.size_bytes);
        if !whole() {
            let lock = self.lock()?;
            // Another process may have brought it meanwhile.
            if !whole() {
                self.bring(&blob)?;
            }
            drop(lock);
        }
        link(self.folder, f)?;
        self.watch.observer.event(&PullEvent::FileFinished {
            repository: &f.repository,
            file: &f.path,
            size_bytes: f.size_bytes,
        });
        Ok(())
    }

    /// The lock that Python's library takes too. Where the file system has none, blobs are still whole: they get
    /// their name after their hash was checked.
    fn lock(&self) -> Result<Option<File>, HubError> {
        let path = self.folder.lock(&self.file.etag);
        make_folder(&self.folder.locks)?;
        make_folder(&self.folder.blobs())?;
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(io("open", &path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
            }
            if !told {
                let PlannedFile { repository, path: file, .. } = self.file;
                self.watch.observer.event(&PullEvent::Waiting { repository, file });
                told = true;
            }
            if self.watch.ends() {
                return Err(self.cancelled());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn bring(&self, blob: &Path) -> Result<(), HubError> {
        let f = self.file;
        let part = self.folder.unfinished(&f.etag);
        let checksum = f.sha256.clone().map_or_else(|| Checksum::of_blob(&f.etag), Checksum::Sha256);
        // Bytes of an earlier run may be wrong, and then are worth a second beginning.
        let mut from_earlier = length(&part) > 0;
        let mut tries = 1;
        self.watch.observer.event(&PullEvent::FileStarted {
            repository: &f.repository,
            file: &f.path,
            here_bytes: length(&part),
            size_bytes: f.size_bytes,
        });
        loop {
            let before = length(&part);
            let (problem, wait) = match self.connect(&part, &checksum)? {
                Outcome::Complete(found) => {
                    let (found, expected) = (found.as_deref(), checksum.expected());
                    if found == expected {
                        return finish(&part, blob);
                    }
                    remove(&part)?;
                    if from_earlier {
                        from_earlier = false;
                        self.progress(0);
                        continue;
                    }
                    return Err(HubError::Checksum {
                        file: f.path.clone(),
                        found: found.unwrap_or_default().to_owned(),
                        expected: expected.unwrap_or_default().to_owned(),
                    });
                }
                Outcome::Broken { problem, wait } => (problem, wait),
            };
            if length(&part) > before {
                tries = 1;
            }
            if tries >= self.settings.tries {
                return Err(HubError::Broken {
                    file: f.path.clone(),
                    done: Bytes(length(&part)),
                    size: Bytes(f.size_bytes),
                    problem,
                });
            }
            self.watch.pause(&f.path, &problem, wait, self.settings.backoff, tries);
            tries += 1;
            if self.watch.ends() {
                return Err(self.cancelled());
            }
        }
    }

    /// Goes on with the file over one connection.
    fn connect(&self, part: &Path, checksum: &Checksum) -> Result<Outcome, HubError> {
        let f = self.file;
        let mut here = length(part);
        if here > f.size_bytes {
            remove(part)?;
            here = 0;
        }
        let mut hasher = checksum.hasher(f.size_bytes);
        if here > 0 {
            self.hash(part, here, &mut hasher)?;
        }
        if here == f.size_bytes {
            // An empty file has no bytes to ask for, but must come to be.
            OpenOptions::new().create(true).append(true).open(part).map_err(io("write", part))?;
            return Ok(Outcome::Complete(hasher.finish()));
        }
        let body = match self.client.open(&f.repository, &f.commit, &f.path, here) {
            Ok(body) => body,
            Err(Trouble::Passing { problem, wait, .. }) => return Ok(Outcome::Broken { problem, wait }),
            Err(Trouble::Lasting(error)) => match *error {
                // Losing the network in the middle is passing, whatever it looks like.
                HubError::Unreachable { problem, .. } if here > 0 => {
                    return Ok(Outcome::Broken { problem, wait: None });
                }
                error => return Err(error),
            },
        };
        let Some(mut bytes) = body.bytes else {
            remove(part)?;
            return Ok(Outcome::Broken { problem: "the server has no such part".to_owned(), wait: None });
        };
        let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(io("write", part))?;
        if body.start != here {
            file.set_len(0).map_err(io("write", part))?;
            hasher = checksum.hasher(f.size_bytes);
            here = 0;
            self.progress(here);
        }
        if let Some(announced) = body.announced.filter(|a| here.saturating_add(*a) != f.size_bytes) {
            drop(file);
            remove(part)?;
            let found = here.saturating_add(announced);
            return Err(HubError::Size { file: f.path.clone(), found, expected: f.size_bytes });
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            if self.watch.ends() {
                return Err(self.cancelled());
            }
            let (n, broken) = match bytes.read(&mut buffer) {
                Ok(n) => (n, None),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => (0, Some(e.to_string())),
            };
            let piece = buffer.get(..n).unwrap_or_default();
            if here + n as u64 > f.size_bytes {
                drop(file);
                remove(part)?;
                return Err(HubError::Size { file: f.path.clone(), found: here + n as u64, expected: f.size_bytes });
            }
            file.write_all(piece).map_err(|e| self.unwritten(part, e))?;
            hasher.update(piece);
            here += n as u64;
            self.progress(here);
            match broken {
                Some(problem) => return Ok(Outcome::Broken { problem, wait: None }),
                None if n > 0 => {}
                None if here < f.size_bytes => {
                    let problem = "the server closed the connection".to_owned();
                    return Ok(Outcome::Broken { problem, wait: None });
                }
                None => {
                    file.sync_all().map_err(|e| self.unwritten(part, e))?;
                    return Ok(Outcome::Complete(hasher.finish()));
                }
            }
        }
    }

    fn hash(&self, part: &Path, length: u64, hasher: &mut Hasher) -> Result<(), HubError> {
        hash_file(part, length, hasher, &mut |_| if self.watch.ends() { Err(self.cancelled()) } else { Ok(()) })
    }

    fn progress(&self, here_bytes: u64) {
        let PlannedFile { repository, path: file, size_bytes, .. } = self.file;
        let size_bytes = *size_bytes;
        self.watch.observer.event(&PullEvent::Progress { repository, file, here_bytes, size_bytes });
    }

    /// Another program may have filled the disk since it was asked for its space.
    fn unwritten(&self, part: &Path, source: io::Error) -> HubError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => HubError::Full {
                file: self.file.path.clone(),
                folder: self.settings.cache.clone(),
                done: Bytes(length(part)),
                size: Bytes(self.file.size_bytes),
            },
            _ => io("write", part)(source),
        }
    }

    fn cancelled(&self) -> HubError {
        HubError::Cancelled { cache: self.settings.cache.clone() }
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Io { action, path, source }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |info| info.len())
}

pub(super) fn make_folder(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(io("create", path))
}

fn remove(path: &Path) -> Result<(), HubError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io("remove", path)(e)),
        _ => Ok(()),
    }
}

fn finish(part: &Path, blob: &Path) -> Result<(), HubError> {
    fs::rename(part, blob).map_err(io("create", blob))
}

/// Files of one content in one folder are linked at the same time; each link has a name of its own until it is in place.
static LINKS: AtomicU64 = AtomicU64::new(0);

/// Puts the link into the snapshot that leads to the blob, relative, so that the cache can be moved.
fn link(folder: &Folder, file: &PlannedFile) -> Result<(), HubError> {
    let pointer = folder.snapshot(&file.commit).folder.join(&file.path);
    let above = pointer.parent().unwrap_or(&folder.path);
    make_folder(above)?;
    // snapshots/<commit>, and a folder for each further piece of the path.
    let up = "../".repeat(1 + file.path.split('/').count());
    let target = PathBuf::from(format!("{up}blobs/{}", file.etag));
    let current = fs::canonicalize(&pointer).ok();
    if current.is_some() && current == fs::canonicalize(folder.blob(&file.etag)).ok() {
        return Ok(());
    }
    // Made beside it and moved into its place: nobody sees a moment without it.
    let fresh =
        above.join(format!(".{}.{}.{}.link", file.etag, std::process::id(), LINKS.fetch_add(1, Ordering::Relaxed)));
    remove(&fresh)?;
    make_link(&target, &folder.blob(&file.etag), &fresh).map_err(io("create", &pointer))?;
    fs::rename(&fresh, &pointer).map_err(io("create", &pointer))
}

#[cfg(unix)]
fn make_link(target: &Path, _blob: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

/// Links need a privilege on Windows; a second name for the same bytes does not.
#[cfg(not(unix))]
fn make_link(_target: &Path, blob: &Path, at: &Path) -> io::Result<()> {
    fs::hard_link(blob, at)
}

/// Tells programs that make backups to leave the cache out, as Python's library does (<https://bford.info/cachedir/>).
/// A cache without it works as well.
pub(super) fn write_tag(root: &Path) {
    let path = root.join("CACHEDIR.TAG");
    if let Ok(mut file) = File::create_new(path) {
        let _ = file.write_all(b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of model weights.\n");
    }
}

/// Lets a branch or tag stand for a commit.
pub(super) fn write_ref(path: &Path, commit: &str) -> Result<(), HubError> {
    if fs::read_to_string(path).is_ok_and(|old| old == commit) {
        return Ok(());
    }
    make_folder(path.parent().unwrap_or(path))?;
    fs::write(path, commit).map_err(io("write", path))
}
