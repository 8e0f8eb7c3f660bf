//! Outputs that appear under their name only when complete.

use std::fs::{self, File, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir, TempPath};

use crate::error::{MediaError, Result};

/// A file being written beside its target; removed on drop, renamed to its name by [`commit`](Self::commit).
pub struct PendingFile {
    target: PathBuf,
    temp: TempPath,
}

impl PendingFile {
    /// Begins a file that will be called `target`.
    ///
    /// # Errors
    /// `target` is a folder, or its folder does not exist or takes no files.
    pub fn create(target: &Path) -> Result<(Self, File)> {
        if target.is_dir() {
            return Err(MediaError::OutputIsDirectory { path: target.to_owned() });
        }
        let (folder, prefix) = place(target)?;
        let mut builder = Builder::new();
        builder.prefix(&prefix).suffix(".part");
        if let Some(mode) = permissions(0o666) {
            builder.permissions(mode);
        }
        let file = builder.tempfile_in(folder).map_err(|e| unwritable(target, e))?;
        let (file, temp) = file.into_parts();
        Ok((Self { target: target.to_owned(), temp }, file))
    }

    /// Where the file is until then.
    pub fn temp_path(&self) -> &Path {
        &self.temp
    }

    /// Puts the content on disk and gives it its name, replacing what had it.
    ///
    /// # Errors
    /// The disk is full, or the name was taken by a folder meanwhile.
    pub fn commit(self) -> Result<()> {
        let fail = |e: io::Error| MediaError::write(&self.target, e);
        File::open(&self.temp).and_then(|file| file.sync_all()).map_err(fail)?;
        self.temp.persist(&self.target).map_err(|e| MediaError::write(&self.target, e.error))?;
        sync_parent(&self.target);
        Ok(())
    }
}

/// A folder being filled beside its target; removed on drop, renamed to its name by [`commit`](Self::commit).
pub struct PendingFolder {
    target: PathBuf,
    temp: TempDir,
    ours: fn(&str) -> bool,
}

impl PendingFolder {
    /// Begins a folder that will be called `target`; an empty folder of that name may be there.
    ///
    /// # Errors
    /// Something else has the name, or its folder does not exist or takes no files.
    pub fn create(target: &Path) -> Result<Self> {
        Self::replacing(target, |_| false)
    }

    /// The same, but a folder in which every file has a name that `ours` knows is replaced too. Anything else in it is
    /// somebody's work and keeps it.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn replacing(target: &Path, ours: fn(&str) -> bool) -> Result<Self> {
        check_free(target, ours)?;
        let (folder, prefix) = place(target)?;
        let mut builder = Builder::new();
        builder.prefix(&prefix).suffix(".part");
        if let Some(mode) = permissions(0o777) {
            builder.permissions(mode);
        }
        let temp = builder.tempdir_in(folder).map_err(|e| unwritable(target, e))?;
        Ok(Self { target: target.to_owned(), temp, ours })
    }

    /// Where the folder is until then.
    pub fn path(&self) -> &Path {
        self.temp.path()
    }

    /// Gives the folder its name; what it replaces goes only when it is in place.
    ///
    /// # Errors
    /// The name was taken meanwhile, or the file system refuses.
    pub fn commit(self) -> Result<()> {
        check_free(&self.target, self.ours)?;
        let fail = |e: io::Error| MediaError::write(&self.target, e);
        let mut former = None;
        if self.target.is_dir() {
            let (folder, prefix) = place(&self.target)?;
            let aside = Builder::new().prefix(&prefix).suffix(".old").tempdir_in(folder).map_err(fail)?;
            fs::rename(&self.target, aside.path().join("folder")).map_err(fail)?;
            former = Some(aside);
        }
        if let Err(e) = fs::rename(self.temp.path(), &self.target) {
            if let Some(aside) = &former {
                let _ = fs::rename(aside.path().join("folder"), &self.target);
            }
            return Err(fail(e));
        }
        // Nothing is left under the temporary name.
        let _ = self.temp.keep();
        sync_parent(&self.target);
        Ok(())
    }
}

/// A new folder may replace an empty one, and one that has nothing but our files.
fn check_free(target: &Path, ours: fn(&str) -> bool) -> Result<()> {
    let is_ours = |entry: &fs::DirEntry| {
        entry.file_name().to_str().is_some_and(ours) && entry.file_type().is_ok_and(|kind| kind.is_file())
    };
    let taken = match fs::read_dir(target) {
        Ok(mut entries) => entries.any(|entry| !entry.is_ok_and(|e| is_ours(&e))),
        Err(_) => target.symlink_metadata().is_ok(),
    };
    if taken { Err(MediaError::OutputExists { path: target.to_owned() }) } else { Ok(()) }
}

/// The folder of the target, which must exist, and the beginning of the temporary name.
fn place(target: &Path) -> Result<(PathBuf, String)> {
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let name = target
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .ok_or_else(|| unwritable(target, io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name")))?;
    if !folder.is_dir() {
        let reason = format!("the folder {} does not exist", folder.display());
        return Err(MediaError::Unwritable {
            path: target.to_owned(),
            source: io::Error::new(io::ErrorKind::NotFound, reason),
        });
    }
    // Long names must leave room for the random part.
    let short: String = name.chars().take(40).collect();
    Ok((folder, format!(".{short}.")))
}

fn unwritable(target: &Path, error: io::Error) -> MediaError {
    // tempfile's own text repeats a path the user never gave.
    let source = error.raw_os_error().map_or_else(|| io::Error::from(error.kind()), io::Error::from_raw_os_error);
    MediaError::Unwritable { path: target.to_owned(), source }
}

/// What a normally created file gets, instead of tempfile's owner-only.
#[cfg(unix)]
fn permissions(mode: u32) -> Option<Permissions> {
    Some(std::os::unix::fs::PermissionsExt::from_mode(mode))
}

#[cfg(not(unix))]
fn permissions(_: u32) -> Option<Permissions> {
    None
}

/// Makes the rename itself durable where the system allows it; the content already is.
fn sync_parent(target: &Path) {
    let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}

/// Whether two paths name the same file or folder: through links, `..`, and for one that does not exist yet by its
/// place. For refusing an output that would overwrite an input.
pub fn same_file(a: impl AsRef<Path>, b: impl AsRef<Path>) -> bool {
    let (a, b) = (a.as_ref(), b.as_ref());
    #[cfg(unix)]
    if let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) {
        use std::os::unix::fs::MetadataExt;
        return (a.dev(), a.ino()) == (b.dev(), b.ino());
    }
    match (resolve(a), resolve(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn resolve(path: &Path) -> Option<PathBuf> {
    if let Ok(resolved) = path.canonicalize() {
        return Some(resolved);
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(parent.canonicalize().ok()?.join(path.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_of_ours_is_replaced_as_a_whole_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let ours: fn(&str) -> bool = |name| name.ends_with(".txt");
        for content in ["first", "second"] {
            let pending = PendingFolder::replacing(&target, ours).unwrap();
            fs::write(pending.path().join(format!("{content}.txt")), content).unwrap();
            pending.commit().unwrap();
            assert_eq!(names(&target), [format!("{content}.txt")]);
        }
        assert_eq!(names(dir.path()), ["out"]);

        let pending = PendingFolder::replacing(&target, ours).unwrap();
        fs::write(target.join("thesis.doc"), "").unwrap();
        assert!(matches!(pending.commit(), Err(MediaError::OutputExists { .. })));
        assert_eq!(names(&target), ["second.txt", "thesis.doc"]);
        assert_eq!(names(dir.path()), ["out"]);
        fs::remove_file(target.join("thesis.doc")).unwrap();
        fs::create_dir(target.join("folder.txt")).unwrap();
        assert!(PendingFolder::replacing(&target, ours).is_err());
        assert!(PendingFolder::create(&target).is_err());
    }
}
