//! `models list`, `path`, `verify` and `rm`: what is in the cache. Nothing here uses the network.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;
use steadydance::hub::{Bytes, Cache, Checked, Removed};
use steadydance::{KnownFile, KnownModel, StoredModel};

use super::args::{ListArgs, ModelArgs, PathArgs};
use super::failure::Failure;
use super::known;
use super::pull::ByteBar;
use super::target::{Here, Target};
use super::terminal::{self, Terminal};

/// Where a model's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// In the program.
    Embedded,
    /// All in the cache.
    Cached,
    /// Some of its own, or unfinished ones, in the cache.
    Partial,
    /// None of its own in the cache.
    Absent,
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    known: KnownModel,
    state: State,
    /// Its file, or folder of its snapshot.
    path: Option<PathBuf>,
    /// Bytes of its files that are in the cache, unfinished ones among them.
    cached_bytes: u64,
    /// Files that are not in the cache, with their repositories.
    missing: Vec<Missing>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Missing {
    repository: String,
    path: String,
}

impl Listed {
    fn new(known: KnownModel, all: &[KnownModel], cache: &Cache) -> Self {
        let (mut cached_bytes, mut own, mut missing) = (0, 0, Vec::new());
        for file in &known.files {
            let repository = known.repository_of(file);
            match cache.find(repository, &file.path).and_then(|p| p.metadata().ok()) {
                Some(info) => {
                    cached_bytes += info.len();
                    own += usize::from(file.of.is_none());
                }
                None => missing.push(Missing { repository: repository.to_owned(), path: file.path.clone() }),
            }
        }
        let unfinished = if missing.is_empty() { 0 } else { unfinished_bytes(&known, all, cache) };
        cached_bytes += unfinished;
        let here = Target::Known { model: Box::new(known.clone()), revision: None }.here(cache).ok();
        let state = match &here {
            _ if known.repository.is_empty() => State::Embedded,
            Some(_) => State::Cached,
            None if own > 0 || unfinished > 0 => State::Partial,
            None => State::Absent,
        };
        let path = here.filter(|_| state == State::Cached).map(|here| here.place());
        Self { path, state, cached_bytes, missing, known }
    }

    fn told(&self) -> String {
        let Self { known, cached_bytes, missing, .. } = self;
        let (here, pull) = (Bytes(*cached_bytes), format!("steadydance models pull {}", known.name));
        let all = known.size_bytes().map(|b| format!(" of {}", Bytes(b))).unwrap_or_default();
        match self.state {
            State::Embedded => "in this program".to_owned(),
            State::Cached => format!("here, {here}"),
            State::Partial => {
                let (missing, files) = (missing.len(), known.files.len());
                format!("partly here, {here}{all}, {missing} of {files} files missing; {pull}")
            }
            State::Absent if *cached_bytes > 0 => format!("not here but for {here} that others share; {pull}"),
            State::Absent => format!("not here; {pull}"),
        }
    }

    /// Whether it is shown without being asked for: what this program runs, and what is here.
    fn is_prominent(&self) -> bool {
        let network = self.known.network.as_str();
        self.known.animates() || ["dwpose", "lora"].contains(&network) || self.state != State::Absent
    }
}

/// Bytes of unfinished downloads that are a model's: under the hash of a file of it, or of its own repository where no
/// other model can have begun one.
fn unfinished_bytes(known: &KnownModel, all: &[KnownModel], cache: &Cache) -> u64 {
    let hashes: HashSet<&str> = all.iter().flat_map(|m| &m.files).filter_map(|f| f.sha256.as_deref()).collect();
    let incomplete = |m: &&KnownModel| {
        m.repository == known.repository && m.files.iter().any(|f| cache.find(m.repository_of(f), &f.path).is_none())
    };
    let alone = all.iter().filter(incomplete).count() <= 1;
    let mut bytes = 0;
    for (repository, files) in known.repositories() {
        for (name, here) in cache.unfinished(repository) {
            let of_it = files.iter().any(|f| f.sha256.as_ref() == Some(&name));
            let may_be = alone && repository == known.repository && !hashes.contains(name.as_str());
            bytes += if of_it || may_be { here } else { 0 };
        }
    }
    bytes
}

/// Lists the models known by name.
///
/// # Errors
/// stdout cannot be written.
pub fn list(args: &ListArgs, terminal: Terminal) -> Result<(), Failure> {
    let (cache, all) = (Cache::from_env(), known::models());
    let asked = args.filter.as_deref().unwrap_or_default().to_lowercase();
    let fits = |m: &&KnownModel| {
        [&m.name, &m.title, &m.network, &m.repository].iter().any(|text| text.to_lowercase().contains(&asked))
    };
    let models: Vec<_> = all.iter().filter(fits).map(|known| Listed::new(known.clone(), all, &cache)).collect();
    if args.json {
        return terminal::write_json(&models);
    }
    let mut text = String::new();
    let mut left_out = 0;
    for listed in &models {
        if !(args.all || args.filter.is_some() || listed.is_prominent()) {
            left_out += 1;
            continue;
        }
        let m = &listed.known;
        let held = m.held_gb.map(|gb| format!("{gb} GB")).unwrap_or_default();
        let _ = writeln!(text, "{:<34}{held:>8}  {}", m.name, m.title);
        let _ = writeln!(text, "{:<44}{}\n{:<44}{}", "", m.summary, "", listed.told());
    }
    terminal::write_out(&text)?;
    if left_out > 0 {
        terminal.say(&format!("{left_out} more with --all: Wan 2.1, encoders, VAEs in other packagings"));
    }
    if models.is_empty() {
        terminal.say(&format!("no name, title or repository has {asked:?} in it"));
    }
    Ok(())
}

/// Writes where a model is that is here.
///
/// # Errors
/// It is not, or stdout cannot be written.
pub fn path(args: &PathArgs) -> Result<(), Failure> {
    let target = Target::of(&args.model.name, args.model.revision.as_deref())?;
    let here = target.here(&Cache::from_env())?;
    let place = here.place();
    let parts = parts(&target, &here);
    if args.model.json {
        let value = serde_json::json!({ "name": target.name(), "path": place, "files": parts });
        return terminal::write_json(&value);
    }
    let text = match args.parts {
        false => format!("{}\n", place.display()),
        true => parts.iter().map(|p| format!("{}\t{}\n", p.part, p.path.display())).collect(),
    };
    terminal::write_out(&text)
}

#[derive(Serialize)]
struct PartPath {
    part: String,
    path: PathBuf,
}

/// What each file is for, and where it is.
fn parts(target: &Target, here: &Here) -> Vec<PartPath> {
    let mut parts = Vec::new();
    for (repository, found, files) in &here.snapshots {
        for file in files {
            let part = match target {
                Target::Known { model, .. } => {
                    let is_it = |f: &&KnownFile| f.path == file.path && model.repository_of(f) == repository;
                    model.files.iter().find(is_it).and_then(|f| serde_json::to_value(f.part).ok())
                }
                Target::Repository { .. } => None,
            };
            let part = part.and_then(|p| p.as_str().map(str::to_owned)).unwrap_or_else(|| "file".to_owned());
            parts.push(PartPath { part, path: found.folder.join(&file.path) });
        }
    }
    parts
}

/// Reads every byte of a model and compares it with what is known.
///
/// # Errors
/// A file is damaged or cannot be read, the model is not here, or stdout cannot be written.
pub fn verify(args: &ModelArgs, terminal: Terminal) -> Result<(), Failure> {
    let cache = Cache::from_env();
    let target = Target::of(&args.name, args.revision.as_deref())?;
    let here = target.here(&cache)?;
    let bar = ByteBar::new("verify", here.bytes(), 0, terminal);
    let mut read = 0;
    let mut checked: Vec<Checked> = Vec::new();
    for (_, found, files) in &here.snapshots {
        checked.extend(cache.verify(found, files, &mut |n| {
            read += n;
            bar.advance(read);
            Ok(())
        })?);
    }
    bar.finish();
    if args.json {
        terminal::write_json(&checked)?;
    } else {
        let mut text = String::new();
        for c in &checked {
            let state = match (&c.damage, c.hashed) {
                (Some(damage), _) => damage.to_string(),
                (None, true) => "ok".to_owned(),
                (None, false) => "ok, size only".to_owned(),
            };
            let _ = writeln!(text, "{:<64}{:>12}  {state}", c.file, Bytes(c.size_bytes).to_string());
        }
        terminal::write_out(&text)?;
    }
    let damaged: Vec<_> = checked.iter().filter(|c| c.damage.is_some()).collect();
    match damaged.first() {
        None => Ok(()),
        Some(first) => Err(Failure::model(format!(
            "{} of {} files of {name} are damaged, first {}; get them anew with `steadydance models rm {name}` and `steadydance models pull {name}`",
            damaged.len(),
            checked.len(),
            first.file,
            name = target.name()
        ))),
    }
}

/// Removes the files of a model, except those that another model which is here needs; or all files of a repository.
///
/// # Errors
/// Nothing of it is here, all of it is needed by others, another process is downloading it, a link leads out of the
/// cache, or the disk fails.
pub fn remove(name: &str, json: bool) -> Result<(), Failure> {
    let (cache, target) = (Cache::from_env(), Target::of(name, None)?);
    let users = users(&target, &cache);
    let needed: HashSet<(&str, &str)> =
        users.iter().flat_map(|m| m.files.iter().map(|f| (m.repository_of(f), f.path.as_str()))).collect();
    let mut kept = Vec::new();
    let mut all = Removed::default();
    for (repository, files) in candidates(&target, &cache) {
        let is_needed = |f: &&String| needed.contains(&(repository.as_str(), f.as_str()));
        let (stay, go): (Vec<_>, Vec<_>) = files.iter().partition(is_needed);
        kept.extend(stay.into_iter().filter(|f| cache.find(&repository, f).is_some()).cloned());
        let go: Vec<&str> = go.into_iter().map(String::as_str).collect();
        if !go.is_empty() || matches!(target, Target::Repository { .. }) {
            let removed = cache.remove(&repository, &go)?;
            all = Removed { files: all.files + removed.files, bytes: all.bytes + removed.bytes };
        }
    }
    if all.files == 0 {
        let cache = cache.root().display();
        let users: Vec<_> = users.iter().map(|m| m.name.as_str()).collect();
        return Err(Failure::model(match kept.is_empty() {
            true => format!("nothing of {name} is in {cache}"),
            false => format!("nothing of {name} was removed from {cache}: it is needed by {}", users.join(", ")),
        }));
    }
    match json {
        true => terminal::write_json(
            &serde_json::json!({ "name": name, "files": all.files, "bytes": all.bytes, "kept": kept }),
        ),
        false => {
            let (cache, freed) = (cache.root().display(), Bytes(all.bytes));
            let kept = if kept.is_empty() { String::new() } else { format!(", {} kept for other models", kept.len()) };
            terminal::write_out(&format!(
                "removed {name} from {cache}: {} files and links, {freed} free again{kept}\n",
                all.files
            ))
        }
    }
}

/// Files that go with a target, by repository. Of a repository that is named there may be unfinished ones only.
fn candidates(target: &Target, cache: &Cache) -> Vec<(String, Vec<String>)> {
    match target {
        Target::Known { model, .. } => {
            let names = |files: Vec<&KnownFile>| files.iter().map(|f| f.path.clone()).collect();
            model.repositories().into_iter().map(|(r, files)| (r.to_owned(), names(files))).collect()
        }
        Target::Repository { repository, .. } => {
            let found = cache.snapshot(repository, None, &[]).map(|found| found.files());
            vec![(repository.clone(), found.unwrap_or_default())]
        }
    }
}

/// Complete models that keep files of a target from being removed. A part of a model does not: it is here because that
/// model is. Whoever names a repository means all of it.
fn users(target: &Target, cache: &Cache) -> Vec<KnownModel> {
    let Target::Known { model, .. } = target else { return Vec::new() };
    let shares = |m: &KnownModel| {
        let of = |f: &KnownFile| (m.repository_of(f).to_owned(), f.path.clone());
        let files: HashSet<_> = m.files.iter().map(of).collect();
        model.files.iter().any(|f| files.contains(&(model.repository_of(f).to_owned(), f.path.clone())))
    };
    let others = known::models().iter().filter(|m| m.name != model.name && !model.with.contains(&m.name));
    others.filter(|m| shares(m) && StoredModel::find(m, cache, None).is_some()).cloned().collect()
}
