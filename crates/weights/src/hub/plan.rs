use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::cache::{Cache, Folder, Found};
use super::client::{Client, Listing, Metadata, Trouble};
use super::download::{self, Job};
use super::events::{PullObserver, Watch};
use super::names::{check_file, check_revision, is_commit, repository_folder};
use super::{Bytes, HubError, MAIN, Settings};

/// Left free on the disk besides the files.
const RESERVE_BYTES: u64 = 256 << 20;

/// How free space of a folder's disk is asked for, in bytes. Tests put another function there.
pub type FreeSpace = fn(&Path) -> io::Result<u64>;

/// Free space of the disk that a folder is on, or its nearest parent that is there, in bytes.
///
/// # Errors
/// The system does not tell.
pub fn free_space(folder: &Path) -> io::Result<u64> {
    fs4::available_space(folder.ancestors().find(|p| p.is_dir()).unwrap_or(folder))
}

/// Files of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `org/name`.
    pub repository: String,
    /// Branch, tag or commit; `main` if none is named.
    pub revision: Option<String>,
    /// Which files.
    pub files: Vec<WantedFile>,
}

/// A file, and what is known about it beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WantedFile {
    /// Relative to the repository's root.
    pub path: String,
    /// Its size in bytes; another one on the hub is an error.
    pub size_bytes: Option<u64>,
    /// Its SHA-256 in lower-case hexadecimal; another one on the hub is an error.
    pub sha256: Option<String>,
}

/// The hub and the cache.
pub struct Hub {
    settings: Settings,
    cache: Cache,
    free_space: FreeSpace,
}

impl Hub {
    /// As the environment says. Nothing is sent before [`Self::plan`].
    pub fn from_env() -> Self {
        Self::new(Settings::from_env())
    }

    /// With these settings.
    pub fn new(settings: Settings) -> Self {
        Self { cache: Cache::new(&settings.cache), settings, free_space }
    }

    /// With another way to ask for free space.
    pub fn with_free_space(self, free_space: FreeSpace) -> Self {
        Self { free_space, ..self }
    }

    /// The cache that files go to.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Asks the hub for size and hash of every file, and the disk for what is here already. No file is written. All
    /// files of a repository are of one commit. When everything wanted of a fixed commit is here, or `HF_HUB_OFFLINE`
    /// is set, the network is not used.
    ///
    /// # Errors
    /// A name is none; offline and something is missing; the hub cannot be reached, refuses, does not have a file, or
    /// has another one than is known.
    pub fn plan(&self, wanted: &[Wanted], observer: &dyn PullObserver) -> Result<PullPlan<'_>, HubError> {
        for w in wanted {
            repository_folder(&w.repository)?;
            check_revision(w.revision.as_deref().unwrap_or(MAIN))?;
            w.files.iter().try_for_each(|f| check_file(&f.path))?;
        }
        let client = Client::new(&self.settings)?;
        let mut plan = PullPlan { hub: self, client, files: Vec::new(), here: Vec::new(), refs: Vec::new() };
        for w in wanted {
            let names: Vec<&str> = w.files.iter().map(|f| f.path.as_str()).collect();
            let fixed = w.revision.as_deref().is_some_and(is_commit);
            let here = (fixed || self.settings.offline)
                .then(|| self.cache.snapshot(&w.repository, w.revision.as_deref(), &names))
                .flatten();
            if let Some(found) = here {
                plan.here.push((w.repository.clone(), found));
                continue;
            }
            if self.settings.offline {
                return Err(self.offline(w));
            }
            // A cache that cannot be written makes every answer useless.
            download::make_folder(self.cache.root())?;
            plan.ask(w, observer)?;
        }
        Ok(plan)
    }

    /// What a repository has at a revision, `main` if none is named. With `HF_HUB_OFFLINE` it is what is here of it.
    ///
    /// # Errors
    /// A name is none; offline and nothing is here; the hub cannot be reached, refuses, does not have it, or lists what
    /// is no file inside a repository.
    pub fn list(
        &self,
        repository: &str,
        revision: Option<&str>,
        observer: &dyn PullObserver,
    ) -> Result<Listing, HubError> {
        repository_folder(repository)?;
        check_revision(revision.unwrap_or(MAIN))?;
        if self.settings.offline {
            let found = self.cache.snapshot(repository, revision, &[]);
            let found = found.filter(|f| !f.files().is_empty()).ok_or_else(|| HubError::Offline {
                repository: repository.to_owned(),
                file: "the list of files".to_owned(),
                cache: self.cache.root().to_owned(),
            })?;
            return Ok(Listing { files: found.files(), commit: found.commit });
        }
        let client = Client::new(&self.settings)?;
        self.patiently(&client, observer, || client.list(repository, revision.unwrap_or(MAIN)))
    }

    /// Asks again where that may help.
    fn patiently<T>(
        &self,
        client: &Client,
        observer: &dyn PullObserver,
        ask: impl Fn() -> Result<T, Trouble>,
    ) -> Result<T, HubError> {
        let watch = Watch { observer, stopped: &AtomicBool::new(false) };
        let mut tries = 1;
        loop {
            if watch.ends() {
                return Err(HubError::Cancelled { cache: self.cache.root().to_owned() });
            }
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Lasting(error)) => return Err(*error),
                Err(Trouble::Passing { error, .. }) if tries >= self.settings.tries => {
                    return Err(match *error {
                        HubError::Status { host, status, .. } => HubError::Status { host, status, tries },
                        other => other,
                    });
                }
                Err(Trouble::Passing { problem, wait, .. }) => {
                    watch.pause(client.host(), &problem, wait, self.settings.backoff, tries);
                    tries += 1;
                }
            }
        }
    }

    fn offline(&self, wanted: &Wanted) -> HubError {
        let revision = wanted.revision.as_deref();
        let missing = |f: &&WantedFile| self.cache.snapshot(&wanted.repository, revision, &[&f.path]).is_none();
        let file = wanted.files.iter().find(missing).map_or("a common snapshot", |f| &f.path).to_owned();
        HubError::Offline { repository: wanted.repository.clone(), file, cache: self.cache.root().to_owned() }
    }
}

/// A file that the plan has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedFile {
    /// The repository.
    pub repository: String,
    /// The file.
    pub path: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Bytes of it that are here, from earlier or from a download that broke off.
    pub here_bytes: u64,
    /// Name of its blob.
    pub etag: String,
    /// Its SHA-256 where that is known beforehand; the blob's name is no hash on every mirror.
    pub sha256: Option<String>,
    /// The commit.
    pub commit: String,
}

/// What is to be downloaded.
pub struct PullPlan<'a> {
    hub: &'a Hub,
    client: Client,
    files: Vec<PlannedFile>,
    here: Vec<(String, Found)>,
    refs: Vec<(PathBuf, String)>,
}

impl PullPlan<'_> {
    /// The files that the hub was asked for; those of a snapshot that is complete are not among them.
    pub fn files(&self) -> &[PlannedFile] {
        &self.files
    }

    /// Bytes of all of [`Self::files`].
    pub fn bytes(&self) -> Bytes {
        Bytes(sum(self.files.iter().map(|f| f.size_bytes)))
    }

    /// Bytes that are still to come. A blob that stands under two names counts once.
    pub fn missing(&self) -> Bytes {
        let mut seen = HashSet::new();
        let fresh = self.files.iter().filter(|f| seen.insert((&f.repository, &f.etag)));
        Bytes(sum(fresh.map(|f| f.size_bytes.saturating_sub(f.here_bytes))))
    }

    /// The folder of a repository's snapshot, complete after [`Self::run`].
    pub fn folder(&self, repository: &str) -> Option<PathBuf> {
        let here = self.here.iter().find(|(r, _)| r == repository).map(|(_, found)| found.folder.clone());
        here.or_else(|| {
            let file = self.files.iter().find(|f| f.repository == repository)?;
            Some(self.hub.cache.repository(repository).ok()?.snapshot(&file.commit).folder)
        })
    }

    /// Whether the disk has room for what is missing, and a reserve.
    ///
    /// # Errors
    /// It has not. A disk that cannot be asked counts as large enough.
    pub fn check_space(&self) -> Result<(), HubError> {
        let missing = self.missing().0;
        if missing == 0 {
            return Ok(());
        }
        let root = self.hub.cache.root();
        let needed = missing.saturating_add(RESERVE_BYTES);
        match (self.hub.free_space)(root) {
            Ok(free) if free < needed => {
                Err(HubError::NoSpace { folder: root.to_owned(), free: Bytes(free), needed: Bytes(needed) })
            }
            _ => Ok(()),
        }
    }

    /// Downloads what is missing, several files at a time, each checked against size and hash, and then lets the
    /// revision's name stand for the new snapshot.
    ///
    /// # Errors
    /// The disk is too full or fails, the network fails for longer than [`Settings::tries`], bytes are not those that
    /// were announced, or `observer` cancelled. What has come stays, and the next run goes on from there.
    pub fn run(&self, observer: &dyn PullObserver) -> Result<(), HubError> {
        self.check_space()?;
        let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
        let first: Mutex<Option<HubError>> = Mutex::new(None);
        let work = || {
            while let Some(file) = self.files.get(next.fetch_add(1, Ordering::SeqCst)) {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                if let Err(error) = self.fetch(file, observer, &stopped) {
                    // Files that end because another one failed must not hide why.
                    stopped.store(true, Ordering::SeqCst);
                    first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.hub.settings.connections.min(self.files.len()) {
                scope.spawn(work);
            }
            work();
        });
        if let Some(error) = first.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        download::write_tag(self.hub.cache.root());
        self.refs.iter().try_for_each(|(path, commit)| download::write_ref(path, commit))
    }

    fn fetch(&self, file: &PlannedFile, observer: &dyn PullObserver, stopped: &AtomicBool) -> Result<(), HubError> {
        let folder = self.hub.cache.repository(&file.repository)?;
        let job = Job {
            client: &self.client,
            settings: &self.hub.settings,
            folder: &folder,
            file,
            watch: Watch { observer, stopped },
        };
        job.run()
    }

    /// Asks for all files of one repository, all at the commit of the first one.
    fn ask(&mut self, wanted: &Wanted, observer: &dyn PullObserver) -> Result<(), HubError> {
        let folder = self.hub.cache.repository(&wanted.repository)?;
        let revision = wanted.revision.as_deref().unwrap_or(MAIN);
        let mut at = revision.to_owned();
        for file in &wanted.files {
            let ask = || self.client.metadata(&wanted.repository, &at, &file.path);
            let told = self.hub.patiently(&self.client, observer, ask)?;
            check_known(&wanted.repository, file, &told)?;
            let planned = PlannedFile {
                repository: wanted.repository.clone(),
                path: file.path.clone(),
                size_bytes: told.size_bytes,
                here_bytes: here_bytes(&folder, &told),
                etag: told.blob,
                sha256: file.sha256.clone(),
                commit: told.commit,
            };
            at.clone_from(&planned.commit);
            self.files.push(planned);
        }
        if !is_commit(revision) && at != revision {
            self.refs.push((folder.refs().join(revision), at));
        }
        Ok(())
    }
}

/// The sum of sizes that a server has announced.
fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

fn check_known(repository: &str, file: &WantedFile, told: &Metadata) -> Result<(), HubError> {
    let changed = |what, found: String, known: String| {
        let (repository, file) = (repository.to_owned(), file.path.clone());
        Err(HubError::Changed { repository, file, what, found, known })
    };
    match (&file.sha256, file.size_bytes) {
        (Some(known), _) if known.len() == told.blob.len() && *known != told.blob => {
            changed("sha256", told.blob.clone(), known.clone())
        }
        (_, Some(known)) if known != told.size_bytes => {
            changed("size", format!("{} B", told.size_bytes), format!("{known} B"))
        }
        _ => Ok(()),
    }
}

fn here_bytes(folder: &Folder, told: &Metadata) -> u64 {
    let length = |path: PathBuf| std::fs::metadata(path).ok().filter(|i| i.is_file()).map(|i| i.len());
    let whole = length(folder.blob(&told.blob)).filter(|l| *l == told.size_bytes);
    whole.or_else(|| length(folder.unfinished(&told.blob)).filter(|l| *l <= told.size_bytes)).unwrap_or(0)
}
