//! What the bytes of a blob must hash to. The hub names large files by their SHA-256 and small ones as git does.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::HubError;

/// Bytes that are read and hashed at a time.
pub(super) const CHUNK: usize = 1 << 20;

/// How a blob's name follows from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// SHA-256 of the bytes.
    Sha256(String),
    /// SHA-1 of `blob <size>\0` and the bytes: git's name of a file.
    Git(String),
    /// It does not; mirrors may name blobs otherwise.
    Unknown,
}

impl Checksum {
    /// What the name of a blob says.
    pub fn of_blob(name: &str) -> Self {
        let hexadecimal = name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match name.len() {
            64 if hexadecimal => Self::Sha256(name.to_owned()),
            40 if hexadecimal => Self::Git(name.to_owned()),
            _ => Self::Unknown,
        }
    }

    /// The hash in hexadecimal, where there is one.
    pub fn expected(&self) -> Option<&str> {
        match self {
            Self::Sha256(hash) | Self::Git(hash) => Some(hash),
            Self::Unknown => None,
        }
    }

    /// Starts to hash a file of `size` bytes.
    pub fn hasher(&self, size: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => {
                let mut hasher = Sha1::new();
                hasher.update(format!("blob {size}\0"));
                Hasher::Sha1(hasher)
            }
            Self::Unknown => Hasher::None,
        }
    }
}

/// A hash in the making.
pub(super) enum Hasher {
    Sha256(Sha256),
    Sha1(Sha1),
    None,
}

impl Hasher {
    /// Takes further bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::None => {}
        }
    }

    /// The hash in hexadecimal; `None` where nothing is expected.
    pub fn finish(self) -> Option<String> {
        match self {
            Self::Sha256(hasher) => Some(hexadecimal(&hasher.finalize())),
            Self::Sha1(hasher) => Some(hexadecimal(&hasher.finalize())),
            Self::None => None,
        }
    }
}

/// Bytes as people write hashes.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Hashes the first `length` bytes of a file; `go_on` is asked between pieces and told how many bytes were read.
///
/// # Errors
/// The file cannot be read, or `go_on` failed.
pub(super) fn hash_file(
    path: &Path,
    length: u64,
    hasher: &mut Hasher,
    go_on: &mut dyn FnMut(u64) -> Result<(), HubError>,
) -> Result<(), HubError> {
    let problem = |source| HubError::Io { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(problem)?.take(length);
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(problem)? {
            0 => return Ok(()),
            n => {
                hasher.update(buffer.get(..n).unwrap_or_default());
                go_on(n as u64)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(name: &str, bytes: &[u8]) -> Option<String> {
        let mut hasher = Checksum::of_blob(name).hasher(bytes.len() as u64);
        hasher.update(bytes);
        hasher.finish()
    }

    #[test]
    fn hashes_are_the_published_ones() {
        // FIPS 180-2's "abc", and `git hash-object` of "hello\n".
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash(sha256, b"abc").as_deref(), Some(sha256));
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(hash(git, b"hello\n").as_deref(), Some(git));
        assert_eq!(hash("d41d8cd98f00b204e9800998ecf8427e", b""), None);
        assert_eq!(Checksum::of_blob(&"G".repeat(64)), Checksum::Unknown);
    }
}
