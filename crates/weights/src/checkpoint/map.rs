//! Memory-mapped files, and giving their pages back.
//!
//! What was read through a map stays in this process's resident size until something lets go of it. A tensor of a file of 16 GB
//! is read once or once a step, so whoever is done with it lets go; the system keeps the bytes in its own cache as long as it
//! likes, and reading them again costs no more than faults.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use memmap2::Mmap;

use crate::WeightsError;

/// All maps that are in use.
static MAPS: Mutex<Vec<Weak<Mmap>>> = Mutex::new(Vec::new());

struct FileMap(Arc<Mmap>);

impl AsRef<[u8]> for FileMap {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

pub(crate) fn map_file(path: &Path) -> Result<Bytes, WeightsError> {
    let open = |source| WeightsError::Open { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(open)?;
    if file.metadata().map_err(open)?.len() == 0 {
        return Err(WeightsError::Damaged { path: path.to_owned(), problem: "it has zero bytes".into() });
    }
    // SAFETY: the map is read-only and private to this process. If another process cuts the file short while it is
    // mapped, reads fault; weight files are not written while they are in use.
    let map = Arc::new(unsafe { Mmap::map(&file) }.map_err(open)?);
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|known| known.strong_count() > 0);
    maps.push(Arc::downgrade(&map));
    Ok(Bytes::from_owner(FileMap(map)))
}

/// Lets go of the pages of bytes that are a part of a mapped file; does nothing to others.
pub(super) fn release(bytes: &[u8]) {
    let within = |map: &Mmap| {
        let (all, part) = (map.as_ptr_range(), bytes.as_ptr_range());
        (all.start <= part.start && part.end <= all.end).then(|| part.start as usize - all.start as usize)
    };
    let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = maps.iter().filter_map(Weak::upgrade).find_map(|map| within(&map).map(|at| (map, at)));
    drop(maps);
    #[cfg(target_os = "linux")]
    if let Some((map, at)) = found {
        // SAFETY: the map is of a file and read-only, so pages that are let go have the same bytes when they are touched again:
        // whoever still borrows them sees no change. A failure costs memory only.
        let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, bytes.len()) };
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
        // What is not of a file stays, of all memory.
        let own = vec![7u8; 50_000];
        release(&own);
        assert!(own.iter().all(|b| *b == 7));
    }
}
