//! `models list`, `path`, `verify` and `rm`: what is in the cache. Nothing here uses the network.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;
use steadydance::hub::{Bytes, Cache, Checked, Removed};
use steadydance::{KnownModel, StoredModel, known_models};

use super::args::ModelArgs;
use super::failure::Failure;
use super::pull::ByteBar;
use super::request::not_here;
use super::terminal::{self, Terminal};

/// Where a model's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// In the program.
    Embedded,
    /// All in the cache.
    Cached,
    /// Some, or unfinished ones, in the cache.
    Partial,
    /// Nothing in the cache.
    Absent,
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    known: KnownModel,
    state: State,
    /// Folder of its snapshot.
    path: Option<PathBuf>,
    /// Bytes of its files that are in the cache, unfinished ones among them.
    cached_bytes: u64,
}

impl Listed {
    fn new(known: KnownModel, cache: &Cache) -> Self {
        let mut cached_bytes = 0;
        for (repository, files) in known.repositories() {
            let found = files.iter().filter_map(|f| cache.find(repository, &f.path));
            cached_bytes += found.filter_map(|p| p.metadata().ok()).map(|info| info.len()).sum::<u64>();
        }
        let stored = StoredModel::find(&known, cache, None);
        if stored.is_none() {
            cached_bytes += known.repositories().iter().map(|(r, _)| cache.unfinished_bytes(r)).sum::<u64>();
        }
        let state = match &stored {
            _ if known.repository.is_empty() => State::Embedded,
            Some(_) => State::Cached,
            None if cached_bytes > 0 => State::Partial,
            None => State::Absent,
        };
        Self { path: stored.map(|s| s.folder().to_owned()), state, cached_bytes, known }
    }

    fn told(&self) -> String {
        let all = self.known.size_bytes().map(|b| format!(" of {}", Bytes(b))).unwrap_or_default();
        match self.state {
            State::Embedded => "in this program".to_owned(),
            State::Cached => format!("here, {}", Bytes(self.cached_bytes)),
            State::Partial => {
                format!("partly here, {}{all}; steadydance models pull {}", Bytes(self.cached_bytes), self.known.name)
            }
            State::Absent => format!("not here; steadydance models pull {}", self.known.name),
        }
    }
}

/// The model of that name whose files are on the hub.
///
/// # Errors
/// There is none; the error lists those there are.
pub fn known(name: &str) -> Result<KnownModel, Failure> {
    let all = known_models();
    let names: Vec<_> = all.iter().filter(|m| !m.repository.is_empty()).map(|m| m.name.clone()).collect();
    match all.into_iter().find(|m| m.name == name) {
        Some(known) if !known.repository.is_empty() => Ok(known),
        Some(known) => Err(Failure::usage(format!(
            "{} is inside the program and has no files; models with files are {}",
            known.name,
            names.join(", ")
        ))),
        None => Err(Failure::usage(format!("there is no model {name:?}; there are {}", names.join(", ")))),
    }
}

/// Lists the models known by name.
///
/// # Errors
/// stdout cannot be written.
pub fn list(json: bool) -> Result<(), Failure> {
    let cache = Cache::from_env();
    let models: Vec<_> = known_models().into_iter().map(|known| Listed::new(known, &cache)).collect();
    if json {
        return terminal::write_json(&models);
    }
    let mut text = String::new();
    for listed in &models {
        let m = &listed.known;
        let size = match m.parameters as f64 {
            p if p >= 1e9 => format!("{:.1} B", p / 1e9),
            p => format!("{:.1} M", p / 1e6),
        };
        let _ = writeln!(text, "{:<24}{size:>10}  {:<32}{}", m.name, m.title, m.repository);
        let _ = writeln!(text, "{:<36}{}\n{:<36}{}", "", m.summary, "", listed.told());
    }
    terminal::write_out(&text)
}

/// Writes the folder of a model that is here.
///
/// # Errors
/// It is not, or stdout cannot be written.
pub fn path(args: &ModelArgs) -> Result<(), Failure> {
    let (_, stored) = stored(args)?;
    match args.json {
        true => terminal::write_json(&serde_json::json!({ "name": args.name, "path": stored.folder() })),
        false => terminal::write_out(&format!("{}\n", stored.folder().display())),
    }
}

fn stored(args: &ModelArgs) -> Result<(KnownModel, StoredModel), Failure> {
    let (known, cache) = (known(&args.name)?, Cache::from_env());
    match StoredModel::find(&known, &cache, args.revision.as_deref()) {
        Some(stored) => Ok((known, stored)),
        None => Err(not_here(&known, &cache)),
    }
}

/// Reads every byte of a model and compares it with what is known.
///
/// # Errors
/// A file is damaged or cannot be read, the model is not here, or stdout cannot be written.
pub fn verify(args: &ModelArgs, terminal: Terminal) -> Result<(), Failure> {
    let (known, stored) = stored(args)?;
    let cache = Cache::from_env();
    let total = Listed::new(known.clone(), &cache).cached_bytes;
    let bar = ByteBar::new("verify", total, 0, terminal);
    let mut read = 0;
    let mut checked: Vec<Checked> = Vec::new();
    for (wanted, (_, found)) in StoredModel::wanted(&known, args.revision.as_deref()).iter().zip(stored.snapshots()) {
        checked.extend(cache.verify(found, &wanted.files, &mut |n| {
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
            "{} of {} files of {} are damaged, first {}; get them anew with `steadydance models rm {}` and `steadydance models pull {}`",
            damaged.len(),
            checked.len(),
            known.name,
            first.file,
            known.name,
            known.name
        ))),
    }
}

/// Removes the files of a model, except those that another model which is here needs.
///
/// # Errors
/// Nothing of it is here, another process is downloading it, a link leads out of the cache, or the disk fails.
pub fn remove(name: &str, json: bool) -> Result<(), Failure> {
    let (known, cache) = (known(name)?, Cache::from_env());
    let others = known_models().into_iter().filter(|m| m.name != name && StoredModel::find(m, &cache, None).is_some());
    let others: Vec<KnownModel> = others.collect();
    let needed: HashSet<(&str, &str)> = others
        .iter()
        .flat_map(KnownModel::repositories)
        .flat_map(|(repository, files)| files.into_iter().map(move |f| (repository, f.path.as_str())))
        .collect();
    let mut all = Removed::default();
    for (repository, files) in known.repositories() {
        let files: Vec<&str> =
            files.iter().map(|f| f.path.as_str()).filter(|f| !needed.contains(&(repository, *f))).collect();
        if !files.is_empty() {
            let removed = cache.remove(repository, &files)?;
            all = Removed { files: all.files + removed.files, bytes: all.bytes + removed.bytes };
        }
    }
    if all.files == 0 {
        return Err(Failure::model(format!("nothing of {name} is in {}", cache.root().display())));
    }
    match json {
        true => terminal::write_json(&serde_json::json!({ "name": name, "files": all.files, "bytes": all.bytes })),
        false => terminal::write_out(&format!(
            "removed {name} from {}: {} files and links, {} free again\n",
            cache.root().display(),
            all.files,
            Bytes(all.bytes)
        )),
    }
}
