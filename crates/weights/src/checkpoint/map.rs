//! Memory-mapped files, and giving their pages back.
//!
//! What was read through a map stays in this process's resident size until something lets go of it. A tensor of a file of 16 GB
//! is read once or once a step, so whoever is done with it lets go; the system keeps the bytes in its own cache as long as it
//! likes, and reading them again costs no more than faults.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use bytes::Bytes;
use memmap2::Mmap;

use crate::WeightsError;

/// All maps that are in use.
static MAPS: Mutex<Vec<Weak<MappedFile>>> = Mutex::new(Vec::new());

/// A file, open and mapped.
pub(super) struct MappedFile {
    path: PathBuf,
    file: File,
    map: Mmap,
    /// Of the time when it was opened.
    length: u64,
    modified: Option<SystemTime>,
}

struct FileMap(Arc<MappedFile>);

impl AsRef<[u8]> for FileMap {
    fn as_ref(&self) -> &[u8] {
        &self.0.map
    }
}

impl MappedFile {
    /// The mapped file that bytes are a part of, and where in it; `None` for bytes of other memory.
    pub fn of(bytes: &[u8]) -> Option<(Arc<Self>, usize)> {
        let within = |file: &Self| {
            let (all, part) = (file.map.as_ptr_range(), bytes.as_ptr_range());
            (all.start <= part.start && part.end <= all.end).then(|| part.start as usize - all.start as usize)
        };
        let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
        maps.iter().filter_map(Weak::upgrade).find_map(|file| within(&file).map(|at| (file, at)))
    }

    /// Reads bytes from `at` on by a call of the system: a file that is cut short, or a disk that fails, is an error, which a
    /// touched map would be killed for.
    ///
    /// # Errors
    /// [`WeightsError::Read`], and [`WeightsError::Changed`] when the file is not the one that was opened any more.
    pub fn read_at(&self, at: usize, out: &mut [u8]) -> Result<(), WeightsError> {
        let read = |source| WeightsError::Read { path: self.path.clone(), source };
        let done = read_exact_at(&self.file, at as u64, out);
        let now = self.file.metadata().map_err(read)?;
        if now.len() != self.length || modified(&now) != self.modified {
            return Err(WeightsError::Changed { path: self.path.clone() });
        }
        done.map_err(read)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut at: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, at)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => (at, out) = (at + count as u64, &mut out[count..]),
        }
    }
    Ok(())
}

fn modified(info: &Metadata) -> Option<SystemTime> {
    info.modified().ok()
}

pub(crate) fn map_file(path: &Path) -> Result<Bytes, WeightsError> {
    let open = |source| WeightsError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    let info = file.metadata().map_err(open)?;
    if info.len() == 0 {
        return Err(WeightsError::Damaged { path: path.to_owned(), problem: "it has zero bytes".into() });
    }
    // SAFETY: the map is read-only and private to this process. If another process cuts the file short while it is
    // mapped, reads fault; weight files are not written while they are in use.
    let map = unsafe { Mmap::map(&file) }.map_err(open)?;
    let (length, modified) = (info.len(), modified(&info));
    let map = Arc::new(MappedFile { path: path.to_owned(), file, map, length, modified });
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|known| known.strong_count() > 0);
    maps.push(Arc::downgrade(&map));
    Ok(Bytes::from_owner(FileMap(map)))
}

/// Lets go of the pages of bytes that are a part of a mapped file; does nothing to others.
pub(super) fn release(bytes: &[u8]) {
    let found = MappedFile::of(bytes);
    #[cfg(target_os = "linux")]
    if let Some((file, at)) = found {
        // SAFETY: the map is of a file and read-only, so pages that are let go have the same bytes when they are touched again:
        // whoever still borrows them sees no change. A failure costs memory only.
        let _ = unsafe { file.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, bytes.len()) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = found;
}

/// The same bytes, whose pages are let go with the last of them.
pub(super) fn released_after_use(bytes: Bytes) -> Bytes {
    struct Borrowed(Bytes);
    impl AsRef<[u8]> for Borrowed {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    impl Drop for Borrowed {
        fn drop(&mut self) {
            release(&self.0);
        }
    }
    Bytes::from_owner(Borrowed(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_short_or_written_to_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![3u8; 10_000]).unwrap();
        let bytes = map_file(&path).unwrap();
        let (file, _) = MappedFile::of(&bytes).unwrap();
        let mut out = vec![0; 100];
        file.read_at(9_900, &mut out).unwrap();
        // Another file under its name is another file.
        std::fs::write(dir.path().join("other"), vec![4u8; 10_000]).unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        file.read_at(9_900, &mut out).unwrap();
        assert_eq!(out, [3; 100]);
        let bytes = map_file(&path).unwrap();
        let (file, _) = MappedFile::of(&bytes).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(5_000).unwrap();
        let error = file.read_at(9_900, &mut out).unwrap_err();
        assert!(matches!(&error, WeightsError::Changed { path: found } if *found == path), "{error}");
        assert!(matches!(file.read_at(0, &mut out), Err(WeightsError::Changed { .. })));
    }

    #[test]
    fn bytes_are_the_same_after_they_were_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = map_file(&path).unwrap();
        let part = bytes.slice(4097..90_001);
        let used = released_after_use(part.clone());
        assert_eq!(used, content[4097..90_001]);
        drop(used.clone());
        assert_eq!(used, content[4097..90_001]);
        drop(used);
        release(&part);
        assert_eq!(part, content[4097..90_001]);
        assert_eq!(bytes, content);
        // The same by calls of the system.
        let (file, at) = MappedFile::of(&part).unwrap();
        let mut read = vec![0; 1000];
        file.read_at(at + 5, &mut read).unwrap();
        assert_eq!((at, read.as_slice()), (4097, &content[4102..5102]));
        assert!(MappedFile::of(&content).is_none());
        // What is not of a file stays, of all memory.
        let own = vec![7u8; 50_000];
        release(&own);
        assert!(own.iter().all(|b| *b == 7));
    }
}
