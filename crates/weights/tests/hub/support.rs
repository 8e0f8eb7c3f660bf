use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use testkit::hub::{COMMIT, FakeHub, etag};
use weights::hub::{Cache, Hub, HubError, PullEvent, PullObserver, Settings, Token, Wanted, WantedFile};

pub const REPOSITORY: &str = "org/model";

/// A hub with one repository, and an empty cache.
pub struct Place {
    pub server: FakeHub,
    pub root: TempDir,
}

impl Place {
    /// `large.bin` of 3 MB and `sub/small.json`.
    pub fn new() -> Self {
        let place = Self { server: FakeHub::new(), root: tempfile::tempdir().unwrap() };
        place.server.put(REPOSITORY, "large.bin", large()).put(REPOSITORY, "sub/small.json", small());
        place
    }

    pub fn settings(&self) -> Settings {
        Settings {
            cache: self.root.path().join("hub"),
            endpoint: self.server.endpoint(),
            token: None,
            offline: false,
            read_timeout: Duration::from_secs(20),
            certificates: None,
            tries: 3,
            backoff: Duration::from_millis(1),
            connections: 4,
        }
    }

    pub fn with_token(&self, token: &str) -> Settings {
        Settings { token: Token::new(token), ..self.settings() }
    }

    pub fn cache(&self) -> Cache {
        Cache::new(self.root.path().join("hub"))
    }

    /// A path in the repository's folder.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join("hub/models--org--model").join(path)
    }

    pub fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.path("blobs").join(etag(bytes))
    }

    pub fn unfinished(&self, bytes: &[u8]) -> PathBuf {
        self.path("blobs").join(format!("{}.incomplete", etag(bytes)))
    }

    pub fn snapshot(&self) -> PathBuf {
        self.path("snapshots").join(COMMIT)
    }

    pub fn pull(&self) -> Result<PathBuf, HubError> {
        self.pull_with(self.settings(), &["large.bin", "sub/small.json"], &())
    }

    pub fn pull_with(
        &self,
        settings: Settings,
        files: &[&str],
        observer: &dyn PullObserver,
    ) -> Result<PathBuf, HubError> {
        pull(&Hub::new(settings), &[wanted(files)], observer)
    }
}

pub fn pull(hub: &Hub, wanted: &[Wanted], observer: &dyn PullObserver) -> Result<PathBuf, HubError> {
    let plan = hub.plan(wanted, observer)?;
    plan.run(observer)?;
    Ok(plan.folder(&wanted[0].repository).unwrap())
}

pub fn wanted(files: &[&str]) -> Wanted {
    let file = |path: &&str| WantedFile { path: (*path).to_owned(), ..WantedFile::default() };
    Wanted { repository: REPOSITORY.to_owned(), revision: None, files: files.iter().map(file).collect() }
}

pub fn large() -> Vec<u8> {
    (0..3_000_017u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

pub fn small() -> Vec<u8> {
    b"{\"small\": true}\n".to_vec()
}

/// Names of all files below a folder, relative to it.
pub fn tree(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => walk(&entry.path(), root, found),
                false => found.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned()),
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.sort();
    found
}

/// Keeps what it is told, and cancels once so many bytes of a file are here.
#[derive(Default)]
pub struct Recorder {
    pub lines: Mutex<Vec<String>>,
    pub cancel_at: Option<u64>,
    pub cancelled: AtomicBool,
}

impl PullObserver for Recorder {
    fn event(&self, event: &PullEvent) {
        if let PullEvent::Progress { here_bytes, .. } = event
            && self.cancel_at.is_some_and(|at| *here_bytes >= at)
        {
            self.cancelled.store(true, Ordering::SeqCst);
        }
        self.lines.lock().unwrap().push(format!("{event:?}"));
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }
}

impl Recorder {
    pub fn count(&self, event: &str) -> usize {
        self.lines.lock().unwrap().iter().filter(|l| l.starts_with(event)).count()
    }
}
