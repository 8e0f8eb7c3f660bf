use std::fmt;
use std::path::PathBuf;

/// What can go wrong between the hub, the cache and here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that cannot be one.
    #[error("{name:?} is no {what}; allowed is {allowed}")]
    Name {
        /// What it was to be.
        what: &'static str,
        /// The name.
        name: String,
        /// What one looks like.
        allowed: &'static str,
    },
    /// A variable of the environment that cannot be used.
    #[error("{variable} is {problem}; {advice}")]
    Variable {
        /// Its name.
        variable: &'static str,
        /// What is wrong. Never its value where that is a secret.
        problem: String,
        /// What to do.
        advice: &'static str,
    },
    /// The network is needed and forbidden.
    #[error(
        "{file} of {repository} is not in {cache} and HF_HUB_OFFLINE is set; unset it, or copy the files there from another machine"
    )]
    Offline {
        /// The repository.
        repository: String,
        /// The first file that is missing.
        file: String,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The hub does not have it.
    #[error("the hub has no {url}; check the name and --revision, or set HF_TOKEN if the repository is private")]
    NotFound {
        /// The address.
        url: String,
    },
    /// The hub wants to know who asks.
    #[error(
        "the hub refuses {repository} ({status}): accept its conditions on {page}, then {}",
        if *.with_token { "check that the token in HF_TOKEN or HF_TOKEN_PATH may read it" } else { "set HF_TOKEN to a token that may read it" }
    )]
    Denied {
        /// The repository.
        repository: String,
        /// Status of the answer, 401 or 403.
        status: u16,
        /// Where its conditions stand.
        page: String,
        /// Whether a token was sent.
        with_token: bool,
    },
    /// The hub answers with a status that is no file.
    #[error("{host} answered with status {status}{}; try again later", if *.tries > 1 { format!(" {tries} times") } else { String::new() })]
    Status {
        /// Who answered.
        host: String,
        /// The answer.
        status: u16,
        /// How often it was asked.
        tries: u32,
    },
    /// No connection came about.
    #[error("cannot reach {host}: {problem}; check the network, HTTPS_PROXY and HF_ENDPOINT")]
    Unreachable {
        /// The host.
        host: String,
        /// DNS, connection, TLS or time.
        problem: String,
    },
    /// The connection was lost too often.
    #[error("the download of {file} broke off at {done} of {size} ({problem}); the same command goes on from there")]
    Broken {
        /// The file.
        file: String,
        /// What is there.
        done: Bytes,
        /// All of it.
        size: Bytes,
        /// What happened last.
        problem: String,
    },
    /// An answer that no hub gives.
    #[error("{url} does not answer like the hub: {problem}; check HF_ENDPOINT and HTTPS_PROXY")]
    NotAHub {
        /// The address.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The disk is too full.
    #[error(
        "{folder} has {free} free, {needed} are needed; free some, or set HF_HUB_CACHE to a folder on a larger disk"
    )]
    NoSpace {
        /// The cache's folder.
        folder: PathBuf,
        /// What there is.
        free: Bytes,
        /// What is still to come, and a reserve.
        needed: Bytes,
    },
    /// The disk became too full on the way.
    #[error("{folder} is full: {file} ends at {done} of {size}; free some, the same command goes on from there")]
    Full {
        /// The file.
        file: String,
        /// The cache's folder.
        folder: PathBuf,
        /// What is there.
        done: Bytes,
        /// All of it.
        size: Bytes,
    },
    /// The hub's file is not the one that this program knows.
    #[error(
        "{file} of {repository} on the hub is not the file that is known here ({what} {found}, known {known}); choose its commit with --revision, or take the hub's with `models pull {repository} --include {file}`"
    )]
    Changed {
        /// The repository.
        repository: String,
        /// The file.
        file: String,
        /// `size` or `sha256`.
        what: &'static str,
        /// What the hub says.
        found: String,
        /// What the table says.
        known: String,
    },
    /// The bytes are not those that were announced.
    #[error("{file} is damaged: its hash is {found}, expected {expected}; the file was removed, pull it again")]
    Checksum {
        /// The file.
        file: String,
        /// Hash of the bytes that came.
        found: String,
        /// Hash that the hub announced.
        expected: String,
    },
    /// The server sends more or less than it announced.
    #[error("{file} is announced with {expected} B but {found} B are sent; the file was removed, try again later")]
    Size {
        /// The file.
        file: String,
        /// Bytes sent.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// Another process is writing what was to be removed.
    #[error("{repository} is being downloaded by another process; end that first")]
    Busy {
        /// The repository.
        repository: String,
    },
    /// A link of the cache leads elsewhere.
    #[error("{path} leads out of the cache {cache}; it was left alone, remove it by hand if it is not wanted")]
    OutsideCache {
        /// The path.
        path: PathBuf,
        /// The cache's folder.
        cache: PathBuf,
    },
    /// The disk says no.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The observer wanted to stop.
    #[error("interrupted; what has come is kept in {cache}, the same command goes on from there")]
    Cancelled {
        /// The cache's folder.
        cache: PathBuf,
    },
}

/// Sorts errors for an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HubErrorKind {
    /// A name or a variable is wrong.
    Usage,
    /// The network, or the hub's answer.
    Network,
    /// Files are damaged.
    Model,
    /// The observer wanted to stop.
    Cancelled,
    /// Disk and everything else.
    Other,
}

impl HubError {
    /// Which kind it is.
    pub fn kind(&self) -> HubErrorKind {
        match self {
            Self::Name { .. } | Self::Variable { .. } => HubErrorKind::Usage,
            Self::Offline { .. }
            | Self::NotFound { .. }
            | Self::Denied { .. }
            | Self::Status { .. }
            | Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::NotAHub { .. } => HubErrorKind::Network,
            Self::Changed { .. } | Self::Checksum { .. } | Self::Size { .. } => HubErrorKind::Model,
            Self::Cancelled { .. } => HubErrorKind::Cancelled,
            Self::NoSpace { .. }
            | Self::Full { .. }
            | Self::Busy { .. }
            | Self::OutsideCache { .. }
            | Self::Io { .. } => HubErrorKind::Other,
        }
    }
}

/// A number of bytes as the hub's pages show it: decimal units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 as f64 {
            b if b >= 1e9 => write!(f, "{:.2} GB", b / 1e9),
            b if b >= 1e6 => write!(f, "{:.1} MB", b / 1e6),
            b if b >= 1e3 => write!(f, "{:.1} kB", b / 1e3),
            _ => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_decimal() {
        let texts = [0, 999, 1_500, 216_746_733, 65_586_000_000].map(|b| Bytes(b).to_string());
        assert_eq!(texts, ["0 B", "999 B", "1.5 kB", "216.7 MB", "65.59 GB"]);
    }
}
