//! What may become part of a path or an address. Names come from tables, command lines and servers; none is trusted.

use super::HubError;

/// Longest name of a repository, revision, file or blob.
const LONGEST: usize = 512;

fn bad(what: &'static str, name: &str, allowed: &'static str) -> HubError {
    HubError::Name { what, name: name.to_owned(), allowed }
}

fn plain(piece: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !piece.is_empty() && piece.bytes().all(allowed) && !piece.starts_with('.')
}

/// The folder of a repository in the cache: `models--org--name`.
///
/// # Errors
/// The name is not that of a repository.
pub(super) fn repository_folder(repository: &str) -> Result<String, HubError> {
    let pieces: Vec<&str> = repository.split('/').collect();
    // `--` stands for the slash in the folder's name, so it cannot be part of one.
    let fits = pieces.len() <= 2 && pieces.iter().all(|p| plain(p)) && !repository.contains("--");
    match fits && repository.len() <= 96 {
        true => Ok(format!("models--{}", pieces.join("--"))),
        false => Err(bad("repository", repository, "ORGANISATION/NAME of letters, digits, - _ and .")),
    }
}

/// A branch, tag or commit.
///
/// # Errors
/// It could leave the folder of refs.
pub(super) fn check_revision(revision: &str) -> Result<(), HubError> {
    match revision.len() <= LONGEST && revision.split('/').all(plain) {
        true => Ok(()),
        false => Err(bad("revision", revision, "a branch, tag or commit")),
    }
}

/// Whether a revision names one commit for ever.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A file's path within a repository.
///
/// # Errors
/// It could leave the repository's folder, here or on another system.
pub(super) fn check_file(path: &str) -> Result<(), HubError> {
    let odd = |c: char| c.is_control() || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    let piece = |p: &str| !p.is_empty() && p != "." && p != ".." && !p.ends_with(['.', ' ']);
    match path.len() <= LONGEST && !path.contains(odd) && path.split('/').all(piece) {
        true => Ok(()),
        false => Err(bad("file", path, "a relative path inside the repository, pieces separated by /")),
    }
}

/// An entity tag as the name of a blob: without quotes and weakness mark.
///
/// # Errors
/// It could leave the folder of blobs.
pub(super) fn blob_name(etag: &str) -> Result<String, HubError> {
    let name = etag.trim().trim_start_matches("W/").trim_matches('"');
    match name.len() <= 128 && plain(name) && !name.ends_with(".incomplete") {
        true => Ok(name.to_owned()),
        false => Err(bad("entity tag", etag, "letters, digits, - _ and .")),
    }
}

/// Percent-encodes what is not allowed in one piece of an address; `keep` stays besides the unreserved characters.
pub(super) fn encode(text: &str, keep: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if c.is_ascii_alphanumeric() || "-_.~".contains(c) || keep.contains(c) {
            encoded.push(c);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::{Component, Path};

    #[test]
    fn honest_names_pass() {
        assert_eq!(repository_folder("yzd-v/DWPose").unwrap(), "models--yzd-v--DWPose");
        assert_eq!(repository_folder("gpt2").unwrap(), "models--gpt2");
        for file in ["a.bin", "google/umt5-xxl/tokenizer.json", ".gitattributes", "a b/ü.txt"] {
            check_file(file).unwrap();
        }
        for revision in ["main", "v1.0", "refs/pr/1", "1a7144101628d69ee7a3768d1ee3a094070dc388"] {
            check_revision(revision).unwrap();
        }
        assert_eq!(blob_name("W/\"abc-1\"").unwrap(), "abc-1");
        assert_eq!(encode("refs/pr 1", ""), "refs%2Fpr%201");
        assert_eq!(encode("a/ü", "/"), "a/%C3%BC");
    }

    #[test]
    fn hostile_names_do_not() {
        for repository in ["", "/", "a/b/c", "../x", "a/..", "a--b/c", "a b/c", "a/\u{0}", "https://x/y", ".x/y"] {
            assert!(repository_folder(repository).is_err(), "{repository:?}");
        }
        for file in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "C:\\x", "a\\..\\b", "a\n", "a/.. "] {
            assert!(check_file(file).is_err(), "{file:?}");
        }
        for revision in ["", "..", "../main", "/main", "a//b", "refs/../../x", "a b", "-\n"] {
            assert!(check_revision(revision).is_err(), "{revision:?}");
        }
        for etag in ["", "\"\"", "../x", "a/b", ".", "..", ".lock", "x.incomplete"] {
            assert!(blob_name(etag).is_err(), "{etag:?}");
        }
    }

    proptest! {
        #[test]
        fn no_allowed_file_leaves_its_folder(path in "[a-z./\\\\: ]{0,24}") {
            if check_file(&path).is_ok() {
                let inside = Path::new(&path).components().all(|c| matches!(c, Component::Normal(_)));
                prop_assert!(inside, "{path:?}");
            }
        }

        #[test]
        fn no_allowed_blob_has_a_separator(etag in "[a-zA-Z0-9./\"W-]{0,24}") {
            if let Ok(name) = blob_name(&etag) {
                prop_assert_eq!(Path::new(&name).components().count(), 1);
                prop_assert!(!name.starts_with('.'));
            }
        }
    }
}
