//! What a name of `models` stands for: a model of the tables, or any repository of the hub.

use std::path::{Path, PathBuf};

use steadydance::hub::{Cache, Found, WantedFile};
use steadydance::{KnownModel, Part, StoredModel};

use super::failure::Failure;
use super::known;

/// Names that are offered when one is not found.
const MOST_OFFERED: usize = 4;

/// What was named.
pub enum Target {
    /// A model of the tables.
    Known {
        /// It.
        model: Box<KnownModel>,
        /// Of its own repository.
        revision: Option<String>,
    },
    /// A repository of the hub, written `ORG/NAME` or `ORG/NAME@REVISION`.
    Repository {
        /// `ORG/NAME`.
        repository: String,
        /// Branch, tag or commit.
        revision: Option<String>,
    },
}

/// What of a target is in the cache: repositories, their snapshots, and which files of them it is.
pub struct Here {
    /// Each with at least one file, the target's own repository first.
    pub snapshots: Vec<(String, Found, Vec<WantedFile>)>,
}

impl Target {
    /// The target of a name, at `revision` if one is given.
    ///
    /// # Errors
    /// There is no such model, it has no files, or two revisions are named.
    pub fn of(name: &str, revision: Option<&str>) -> Result<Self, Failure> {
        let revision = revision.map(str::to_owned);
        if !name.contains('/') {
            return Ok(Self::Known { model: Box::new(with_files(name)?), revision });
        }
        let (repository, inline) = match name.split_once('@') {
            Some((repository, inline)) => (repository, Some(inline.to_owned())),
            None => (name, None),
        };
        match (inline, revision) {
            (Some(a), Some(b)) if a != b => {
                Err(Failure::usage(format!("two revisions are named, {a:?} and {b:?}; leave one out")))
            }
            (inline, revision) => {
                Ok(Self::Repository { repository: repository.to_owned(), revision: inline.or(revision) })
            }
        }
    }

    /// As it is named on the command line, without a revision.
    pub fn name(&self) -> &str {
        match self {
            Self::Known { model, .. } => &model.name,
            Self::Repository { repository, .. } => repository,
        }
    }

    /// What of it is here.
    ///
    /// # Errors
    /// A file of a model is missing, or nothing of a repository is here.
    pub fn here(&self, cache: &Cache) -> Result<Here, Failure> {
        let snapshots = match self {
            Self::Known { model, revision } => {
                let stored = StoredModel::find(model, cache, revision.as_deref());
                let stored = stored.ok_or_else(|| not_here(model, cache))?;
                let wanted = StoredModel::wanted(model, revision.as_deref());
                let both = wanted.into_iter().zip(stored.snapshots());
                both.map(|(w, (repository, found))| (repository.clone(), found.clone(), w.files)).collect()
            }
            Self::Repository { repository, revision } => {
                let found = cache.snapshot(repository, revision.as_deref(), &[]).filter(|f| !f.files().is_empty());
                let found = found.ok_or_else(|| nothing_here(repository, revision.as_deref(), cache))?;
                let wanted = |path: String| WantedFile { path, ..WantedFile::default() };
                let files = found.files().into_iter().map(wanted).collect();
                vec![(repository.clone(), found, files)]
            }
        };
        Ok(Here { snapshots })
    }
}

impl Here {
    /// What stands for all of it: the file if it is one, or else the folder of its own repository's snapshot.
    pub fn place(&self) -> PathBuf {
        match self.snapshots.as_slice() {
            [(_, found, files)] if files.len() == 1 => found.folder.join(&files[0].path),
            [(_, found, _), ..] => found.folder.clone(),
            [] => PathBuf::new(),
        }
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        let files =
            self.snapshots.iter().flat_map(|(_, found, files)| files.iter().map(|f| found.folder.join(&f.path)));
        files.filter_map(|path| path.metadata().ok()).map(|info| info.len()).sum()
    }
}

/// The model of that name whose files are on the hub.
///
/// # Errors
/// There is none; the error offers names like it.
fn with_files(name: &str) -> Result<KnownModel, Failure> {
    match known::find(name) {
        Some(known) if !known.repository.is_empty() => Ok(known.clone()),
        Some(known) => Err(Failure::usage(format!(
            "{} is inside the program and has no files; `steadydance models list` shows models that have",
            known.name
        ))),
        None => Err(Failure::usage(unknown(name))),
    }
}

/// That there is no such model, and which ones have similar names.
pub fn unknown(name: &str) -> String {
    let mut near: Vec<(f64, &str)> =
        known::models().iter().map(|m| (likeness(name, &m.name), m.name.as_str())).collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    let near: Vec<&str> = near.into_iter().take_while(|(l, _)| *l > 0.8).map(|(_, n)| n).take(MOST_OFFERED).collect();
    let offer = if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(", ")) };
    format!(
        "there is no model {name:?}; {offer}`steadydance models list --all` shows them, and ORG/NAME is a repository of the hub"
    )
}

fn likeness(asked: &str, name: &str) -> f64 {
    let asked = asked.to_ascii_lowercase();
    if asked.len() >= 4 && name.contains(&asked) { 0.95 } else { strsim::jaro_winkler(&asked, name) }
}

/// A known model has to be pulled first.
pub fn not_here(known: &KnownModel, cache: &Cache) -> Failure {
    Failure::model(format!(
        "{} ({}) is not complete in {}; get it with `steadydance models pull {}`{}",
        known.name,
        known.repository,
        cache.root().display(),
        known.name,
        if known.animates() { ", or give a folder with --model PATH" } else { "" }
    ))
}

fn nothing_here(repository: &str, revision: Option<&str>, cache: &Cache) -> Failure {
    let at = revision.map(|r| format!("@{r}")).unwrap_or_default();
    let cache = cache.root().display();
    Failure::model(format!(
        "nothing of {repository}{at} is in {cache}; get it with `steadydance models pull {repository}{at}`"
    ))
}

/// The file of a known model for a setting that takes a file: `text` is its name, and no file has that name.
///
/// # Errors
/// It is not here, or has no such part.
pub fn known_file(text: &str, part: Part, flag: &str) -> Result<Option<PathBuf>, Failure> {
    let Some(known) = known::find(text).filter(|m| !m.files.is_empty()) else {
        return Ok(None);
    };
    if Path::new(text).exists() {
        return Ok(None);
    }
    if !known.files.iter().any(|f| f.part == part) {
        return Err(Failure::usage(format!("{text} ({}) has nothing for {flag}", known.title)));
    }
    let cache = Cache::from_env();
    let stored = StoredModel::find(known, &cache, None).ok_or_else(|| not_here(known, &cache))?;
    Ok(stored.part(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_slash_are_repositories() {
        let of = |name: &str, revision: Option<&str>| match Target::of(name, revision) {
            Ok(Target::Repository { repository, revision }) => Some((repository, revision)),
            _ => None,
        };
        assert_eq!(of("a/b", None), Some(("a/b".into(), None)));
        assert_eq!(of("a/b@v1", None), Some(("a/b".into(), Some("v1".into()))));
        assert_eq!(of("a/b@refs/pr/1", Some("refs/pr/1")).unwrap().1.as_deref(), Some("refs/pr/1"));
        assert_eq!(of("a/b", Some("v2")).unwrap().1.as_deref(), Some("v2"));
        assert_eq!(of("a/b@v1", Some("v2")), None);
        assert!(matches!(Target::of("dwpose", None), Ok(Target::Known { .. })));
    }

    #[test]
    fn a_name_that_is_none_is_answered_with_its_like() {
        for (asked, offered) in
            [("steadydancer-14b-fp9", "steadydancer-14b-fp8"), ("dwpos", "dwpose"), ("CausVid", "causvid-14b-rank32")]
        {
            let text = unknown(asked);
            assert!(text.contains(&format!("{asked:?}")) && text.contains(offered), "{text}");
        }
        assert!(!unknown("nonsense").contains("did you mean"));
    }
}
