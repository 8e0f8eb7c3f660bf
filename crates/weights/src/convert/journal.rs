//! The unfinished file with what is known of it, and its way to its name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ConvertError;

/// Bytes after which what is written is put on the disk and noted.
const INTERVAL: u64 = 256 << 20;

/// How far the unfinished file is, by what is certainly on the disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Tells conversions apart: of input, form and program.
    pub key: String,
    /// Steps that are done.
    pub steps: usize,
    /// Bytes of the file that they make.
    pub bytes: u64,
}

/// `OUTPUT.part` and `OUTPUT.part.json`.
pub(super) struct Journal {
    part: PathBuf,
    note: PathBuf,
    file: File,
    now: Progress,
    /// Bytes up to the last whole step.
    whole: u64,
    noted: u64,
}

impl Journal {
    /// The unfinished file of that output, cut to what is certain if it is of the same conversion, else empty.
    pub fn open(output: &Path, key: &str) -> Result<Self, ConvertError> {
        let beside = |ending: &str| {
            let mut name = output.file_name().unwrap_or_default().to_owned();
            name.push(ending);
            output.with_file_name(name)
        };
        let (part, note) = (beside(".part"), beside(".part.json"));
        let failed = |source| ConvertError::Write { path: part.clone(), source };
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&part).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ConvertError::InUse { path: part }),
            // Some network file systems have no locks.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        let known = fs::read(&note).ok().and_then(|text| serde_json::from_slice::<Progress>(&text).ok());
        let length = file.metadata().map_err(failed)?.len();
        let now = known
            .filter(|p| p.key == key && p.bytes <= length)
            .unwrap_or_else(|| Progress { key: key.to_owned(), ..Progress::default() });
        file.set_len(now.bytes).map_err(failed)?;
        let mut journal = Self { noted: now.bytes, whole: now.bytes, part: part.clone(), note, file, now };
        journal.file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(journal)
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.now
    }

    /// Where it is.
    pub fn part(&self) -> &Path {
        &self.part
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ConvertError> {
        self.now.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|source| self.failed(source))
    }

    /// Notes a step that is written as a whole.
    pub fn step(&mut self) -> Result<(), ConvertError> {
        self.now.steps += 1;
        self.whole = self.now.bytes;
        if self.now.bytes - self.noted >= INTERVAL { self.sync() } else { Ok(()) }
    }

    /// Puts all of it on the disk and notes how far it is. Only whole steps may have been written.
    pub fn sync(&mut self) -> Result<(), ConvertError> {
        let note = || -> io::Result<()> {
            self.file.sync_data()?;
            let fresh = self.note.with_extension("json.new");
            let mut file = File::create(&fresh)?;
            file.write_all(&serde_json::to_vec(&self.now)?)?;
            file.sync_data()?;
            fs::rename(&fresh, &self.note)
        };
        note().map_err(|source| self.failed(source))?;
        self.noted = self.now.bytes;
        Ok(())
    }

    /// Cuts off the step that could not be written as a whole, and notes what is before it.
    pub fn keep(&mut self) {
        self.now.bytes = self.whole;
        // Best effort: the error that is reported is the one that stopped the writing, and what is not noted is written again.
        let _ = self.file.set_len(self.whole).map_err(|e| self.failed(e)).and_then(|()| self.sync());
    }

    /// Gives the file its name.
    pub fn finish(self, output: &Path) -> Result<(), ConvertError> {
        let done = || -> io::Result<()> {
            self.file.sync_all()?;
            fs::rename(&self.part, output)?;
            match fs::remove_file(&self.note) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                _ => Ok(()),
            }
        };
        done().map_err(|source| self.failed(source))
    }

    /// Removes an unfinished file that nobody can go on from.
    pub fn discard(self) {
        // Best effort: the error that is reported is the one that stopped the writing.
        let _ = fs::remove_file(&self.part);
        let _ = fs::remove_file(&self.note);
    }

    fn failed(&self, source: io::Error) -> ConvertError {
        ConvertError::Write { path: self.part.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_step_that_could_not_be_written_nothing_is_kept_and_of_those_before_all() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("out");
        let mut journal = Journal::open(&output, "k").unwrap();
        journal.write(b"whole").unwrap();
        journal.step().unwrap();
        journal.write(b"half of the next").unwrap();
        journal.keep();
        drop(journal);
        let again = Journal::open(&output, "k").unwrap();
        assert_eq!(*again.progress(), Progress { key: "k".into(), steps: 1, bytes: 5 });
        assert_eq!(fs::read(again.part()).unwrap(), b"whole");
        drop(again);
        assert_eq!(Journal::open(&output, "other").unwrap().progress().bytes, 0);
    }
}
