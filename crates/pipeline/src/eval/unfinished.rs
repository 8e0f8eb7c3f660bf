//! The work of an evaluation until all of it is there: outcomes pair by pair, which an interrupted one leaves for the
//! next.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::marker::{LOCK, MARKER, Marker, create, differences, is_free, lock, not_ours, read_marker};
use super::set::MOST_BYTES;
use super::{EvalError, Judged, PairInfo};
use crate::PipelineError;
use crate::files::small_text;
use crate::preview::{failed, write_file, write_json};

/// Ending of a finished pair's file.
const OUTCOME: &str = "outcome";
/// Endings of the files of a pair.
const ENDINGS: [&str; 3] = [OUTCOME, "jpg", "mp4"];
/// Ending of latents that an error message promised to keep.
const LATENTS: &str = ".latents.safetensors";
/// Most settings that a message names.
const MOST_NAMED: usize = 6;

/// What an evaluation looks for in the folder.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Everything that outcomes depend on, the pairs apart.
    pub settings: Value,
    /// Whether outcomes are worth going on from.
    pub resumable: bool,
    /// Names of the set's pairs, chosen or not.
    pub pairs: BTreeSet<String>,
    /// Whether outcomes of other settings may be dropped.
    pub restart: bool,
}

/// `<output>.unfinished`, beside the output. It goes when it is dropped with nothing finished in it.
#[derive(Debug)]
pub(super) struct Unfinished {
    folder: PathBuf,
    marker: Marker,
    lock: Option<File>,
    finished: usize,
    /// Whether it was found to be of this evaluation: before that, nothing of it may go.
    taken: bool,
}

impl Unfinished {
    /// The folder of this output, with what an evaluation of just these settings has finished. Nothing in a folder that
    /// is not ours, is in use, or holds finished pairs of other settings is touched.
    pub fn open(output: &Path, wanted: Wanted) -> Result<Self, PipelineError> {
        let mut name = output.file_name().map(OsString::from).unwrap_or_default();
        name.push(".unfinished");
        let folder = output.with_file_name(name);
        let Wanted { settings, resumable, pairs, restart } = wanted;
        let mut marker = Marker::new(settings, resumable, pairs);
        if is_free(&folder) {
            create(&folder, &marker)?;
        }
        let mut known = read_marker(&folder)?;
        let lock = lock(&folder)?;
        let mut own = Self { folder, marker: known.clone(), lock: Some(lock), finished: 0, taken: false };
        let held = own.list()?;
        let outcomes = held.iter().filter(|name| own.pair_of(name, OUTCOME).is_some()).count();
        if known.settings != marker.settings || !known.resumable {
            if outcomes > 0 && known.resumable && !restart {
                let mut differs = Vec::new();
                differences("", &known.settings, &marker.settings, &mut differs);
                let more = if differs.len() > MOST_NAMED { ", …" } else { "" };
                differs.truncate(MOST_NAMED);
                let differs = format!("{}{more}", differs.join(", "));
                let path = own.folder.clone();
                return Err(EvalError::OtherSettings { path, finished: outcomes, differs }.into());
            }
            own.clear(&held, &known.pairs).map_err(|e| own.fail(&e))?;
        } else {
            own.finished = outcomes;
        }
        marker.pairs.append(&mut known.pairs);
        own.marker = marker;
        write_json(&own.folder.join(MARKER), &own.marker)?;
        own.taken = true;
        Ok(own)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Pairs that are finished and worth going on from.
    pub fn finished(&self) -> usize {
        if self.marker.resumable { self.finished } else { 0 }
    }

    /// A file of a pair.
    pub fn file(&self, pair: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{pair}.{ending}"))
    }

    /// What is known of a pair that is finished.
    pub fn outcome(&self, pair: &PairInfo) -> Option<Judged> {
        let text = small_text(&self.file(&pair.name, OUTCOME), MOST_BYTES).ok()?;
        let judged: Judged = serde_json::from_str(&text).ok()?;
        let whole =
            |ending| fs::metadata(self.file(&pair.name, ending)).is_ok_and(|info| info.is_file() && info.len() > 0);
        let has_files = whole("jpg") && (judged.video.is_none() || whole("mp4"));
        Some(judged).filter(|judged| has_files && (&judged.name, judged.seed) == (&pair.name, pair.seed))
    }

    /// Keeps a pair's outcome and contact sheet; its clip is there already, if it is kept.
    pub fn keep(&mut self, judged: &Judged, sheet: &[u8]) -> Result<(), PipelineError> {
        write_file(&self.file(&judged.name, "jpg"), sheet)?;
        let path = self.file(&judged.name, OUTCOME);
        write_file(&path, &serde_json::to_vec(judged).map_err(|e| failed(&path, &e))?)?;
        self.finished += 1;
        Ok(())
    }

    /// Removes what is of these pairs: it is elsewhere now. Finished pairs that are not among them stay, with the
    /// folder.
    pub fn remove(mut self, pairs: &[PairInfo]) -> Result<(), PipelineError> {
        let names = pairs.iter().map(|pair| pair.name.clone()).collect();
        let held = self.list()?;
        self.clear(&held, &names).map_err(|e| self.fail(&e))?;
        self.finished =
            held.iter().filter(|name| self.pair_of(name, OUTCOME).is_some_and(|p| !names.contains(p))).count();
        Ok(())
    }

    /// Names of all entries; an error if one is not ours.
    fn list(&self) -> Result<Vec<String>, PipelineError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|e| self.fail(&e))? {
            let entry = entry.map_err(|e| self.fail(&e))?;
            let shown = entry.file_name().to_string_lossy().into_owned();
            // A link's type is that of the link.
            let plain = entry.file_type().map_err(|e| self.fail(&e))?.is_file();
            match entry.file_name().into_string() {
                Ok(name) if plain && self.is_ours(&name) => names.push(name),
                _ => return Err(not_ours(&self.folder, format!("{shown} in it is not of it"))),
            }
        }
        Ok(names)
    }

    fn is_ours(&self, name: &str) -> bool {
        [MARKER, LOCK].contains(&name)
            || is_partial(name)
            || name.ends_with(LATENTS)
            || ENDINGS.iter().any(|ending| self.pair_of(name, ending).is_some())
    }

    /// The pair whose file of this ending it is.
    fn pair_of<'n>(&self, name: &'n str, ending: &str) -> Option<&'n str> {
        let pair = name.strip_suffix(ending)?.strip_suffix('.')?;
        Some(pair).filter(|pair| self.marker.pairs.contains(*pair))
    }

    /// Removes the files of some pairs and what killed runs left half written. Latents stay.
    fn clear(&self, held: &[String], pairs: &BTreeSet<String>) -> io::Result<()> {
        let of_pair = |name: &str| ENDINGS.iter().any(|e| self.pair_of(name, e).is_some_and(|p| pairs.contains(p)));
        for name in held.iter().filter(|name| is_partial(name) || of_pair(name)) {
            fs::remove_file(self.folder.join(name))?;
        }
        Ok(())
    }

    fn fail(&self, error: &io::Error) -> PipelineError {
        failed(&self.folder, error)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.taken || self.finished() > 0 {
            return;
        }
        // Nothing of worth is lost when something stays.
        let Ok(held) = self.list() else { return };
        let _ = self.clear(&held, &self.marker.pairs);
        if !held.iter().any(|name| name.ends_with(LATENTS)) {
            let _ = fs::remove_file(self.folder.join(MARKER));
            self.lock = None;
            let _ = fs::remove_file(self.folder.join(LOCK));
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

/// What [`write_file`] and the encoders call a file until it is complete.
fn is_partial(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".part")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Scores;
    use super::*;

    fn judged(name: &str) -> Judged {
        let scores = Scores { psnr: Some(20.125), ..Scores::default() };
        let (forwards, seconds) = (Some(3), Some(0.5));
        Judged { name: name.into(), seed: Some(1), scores, forwards, seconds, sheet: "s".into(), video: None }
    }

    fn pair(name: &str) -> PairInfo {
        PairInfo { name: name.into(), seed: Some(1) }
    }

    fn wanted(steps: u64) -> Wanted {
        let settings = json!({ "settings": { "steps": steps, "seed": 1 }, "model": "m" });
        Wanted { settings, resumable: true, pairs: ["a", "b"].map(String::from).into(), restart: false }
    }

    fn count(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn finished_pairs_are_found_again_by_the_same_settings_and_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("report.d");
        let open = |steps: u64| Unfinished::open(&output, wanted(steps));
        drop(open(1).unwrap());
        assert_eq!(count(dir.path()), 0, "nothing finished, nothing left");
        open(1).unwrap().keep(&judged("a"), b"sheet").unwrap();
        let again = open(1).unwrap();
        assert_eq!(
            (again.finished(), again.outcome(&pair("a")), again.outcome(&pair("b"))),
            (1, Some(judged("a")), None)
        );
        assert_eq!(again.outcome(&PairInfo { seed: Some(2), ..pair("a") }), None, "another pair of that name");
        fs::write(again.file("a", "jpg"), "").unwrap();
        assert_eq!(again.outcome(&pair("a")), None, "its sheet was emptied");
        let error = open(1).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        drop(again);
        let error = open(2).unwrap_err().to_string();
        assert!(error.contains("settings.steps") && !error.contains("seed") && error.contains("--restart"), "{error}");
        assert_eq!(open(1).unwrap().finished(), 1, "a refusal loses nothing");
        let restarted = Unfinished::open(&output, Wanted { restart: true, ..wanted(2) }).unwrap();
        assert_eq!(restarted.finished(), 0);
        drop(restarted);
        assert_eq!(count(dir.path()), 0);
    }

    #[test]
    fn what_is_not_in_the_report_stays() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out");
        let open = || Unfinished::open(&output, wanted(1)).unwrap();
        let mut done = open();
        done.keep(&judged("a"), b"sheet").unwrap();
        done.keep(&judged("b"), b"sheet").unwrap();
        done.remove(&[pair("a")]).unwrap();
        let rest = open();
        assert_eq!((rest.outcome(&pair("a")), rest.outcome(&pair("b"))), (None, Some(judged("b"))));
        let latents = rest.folder().join("b.latents.safetensors");
        fs::write(&latents, "hours").unwrap();
        rest.remove(&[pair("a"), pair("b")]).unwrap();
        assert!(latents.is_file());
        // They bar nobody from the name.
        drop(Unfinished::open(&output, wanted(2)).unwrap());
        assert!(latents.is_file());
        fs::remove_file(&latents).unwrap();
        drop(open());
        assert_eq!(count(dir.path()), 0);
    }

    #[test]
    fn outcomes_that_are_quickly_had_again_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out");
        let open = || Unfinished::open(&output, Wanted { resumable: false, ..wanted(1) }).unwrap();
        open().keep(&judged("a"), b"sheet").unwrap();
        assert_eq!(count(dir.path()), 0);
        let mut killed = open();
        killed.keep(&judged("a"), b"sheet").unwrap();
        killed.lock = None;
        std::mem::forget(killed);
        assert_eq!(open().outcome(&pair("a")), None);
    }

    #[test]
    fn other_peoples_folders_stay() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out");
        let folder = dir.path().join("out.unfinished");
        let error = |steps| Unfinished::open(&output, wanted(steps)).err().map(|e| e.to_string()).unwrap_or_default();
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("settings.json"), "2").unwrap();
        assert!(error(1).contains("-o"));
        fs::remove_dir_all(&folder).unwrap();
        Unfinished::open(&output, wanted(1)).unwrap().keep(&judged("a"), b"sheet").unwrap();
        for name in ["thesis.doc", "c.jpg", "holiday.mp4"] {
            fs::write(folder.join(name), "").unwrap();
            let before = count(&folder);
            let restart = Unfinished::open(&output, Wanted { restart: true, ..wanted(2) }).unwrap_err().to_string();
            assert!(restart.contains(name) && error(1).contains(name), "{restart}");
            assert_eq!(count(&folder), before);
            fs::remove_file(folder.join(name)).unwrap();
        }
        assert_eq!(error(1), "");
    }

    #[test]
    fn a_kill_does_not_bar_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out");
        fs::create_dir(dir.path().join("out.unfinished")).unwrap();
        let mut work = Unfinished::open(&output, wanted(1)).unwrap();
        fs::write(work.folder().join(".a.mp4.x1.part"), "half").unwrap();
        work.keep(&judged("a"), b"sheet").unwrap();
        work.lock = None;
        std::mem::forget(work);
        let again = Unfinished::open(&output, wanted(1)).unwrap();
        assert_eq!(again.finished(), 1);
        again.remove(&[pair("a")]).unwrap();
        assert_eq!(count(dir.path()), 0);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out");
        let folder = dir.path().join("out.unfinished");
        let elsewhere = dir.path().join("elsewhere.unfinished");
        Unfinished::open(&dir.path().join("elsewhere"), wanted(1)).unwrap().keep(&judged("a"), b"sheet").unwrap();
        std::os::unix::fs::symlink(&elsewhere, &folder).unwrap();
        let error = Unfinished::open(&output, wanted(1)).unwrap_err().to_string();
        assert!(error.contains("out.unfinished"), "{error}");
        let link = elsewhere.join("b.jpg");
        std::os::unix::fs::symlink(dir.path().join("gone"), &link).unwrap();
        let error = Unfinished::open(&dir.path().join("elsewhere"), wanted(1)).unwrap_err().to_string();
        assert!(error.contains("b.jpg"), "{error}");
    }
}
