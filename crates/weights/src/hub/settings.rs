use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";

/// A token of the hub. It is sent to the hub's own host only, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub(super) String);

impl Token {
    /// Wraps a token; white space around it is dropped, and nothing is left of an empty one.
    pub fn new(token: &str) -> Option<Self> {
        let token = token.trim();
        (!token.is_empty()).then(|| Self(token.to_owned()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Where the hub is, where its files are kept, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, or `hub` in `HF_HOME`, which is `huggingface` in
    /// `XDG_CACHE_HOME` or in `~/.cache` if it is not set.
    pub cache: PathBuf,
    /// Address of the hub: `HF_ENDPOINT`, or the public one.
    pub endpoint: String,
    /// `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, or what is in the file `HF_TOKEN_PATH`, by default `token` in `HF_HOME`.
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` leaves the file out.
    pub token: Option<Token>,
    /// `HF_HUB_OFFLINE`, or `TRANSFORMERS_OFFLINE`: the network is not to be used.
    pub offline: bool,
    /// How long to wait for the next byte: `HF_HUB_DOWNLOAD_TIMEOUT` in seconds, or 30 s.
    pub read_timeout: Duration,
    /// A PEM file of certificates to trust instead of Mozilla's, for proxies that read along: `SSL_CERT_FILE`.
    pub certificates: Option<PathBuf>,
    /// How often a request is tried in vain before it has failed.
    pub tries: u32,
    /// Time before the second try; it doubles with each further one, up to half a minute.
    pub backoff: Duration,
    /// Files that are downloaded at the same time.
    pub connections: usize,
}

impl Settings {
    /// As the environment says.
    pub fn from_env() -> Self {
        Self::read(|name| std::env::var_os(name))
    }

    /// As `variable` says in place of the environment.
    pub fn read(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|v| !v.is_empty());
        let text = |name: &str| set(name).map(|v| v.to_string_lossy().into_owned());
        let truth = |name: &str| {
            text(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_ascii_uppercase().as_str()))
        };
        let user = set("HOME").map(PathBuf::from).or_else(std::env::home_dir).unwrap_or_default();
        let path = |name: &str| set(name).map(|v| below_home(Path::new(&v), &user));

        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| user.join(".cache"));
        let home = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let given = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
        let token = given.and_then(|t| Token::new(&t)).or_else(|| {
            let file = (!truth("HF_HUB_DISABLE_IMPLICIT_TOKEN")).then(|| small_text(&token_file)).flatten();
            file.and_then(|t| Token::new(&t))
        });
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|t| t.trim().parse().ok()).filter(|s| *s > 0);
        Self {
            cache: cache.unwrap_or_else(|| home.join("hub")),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            token,
            offline: truth("HF_HUB_OFFLINE") || (set("HF_HUB_OFFLINE").is_none() && truth("TRANSFORMERS_OFFLINE")),
            read_timeout: Duration::from_secs(seconds.unwrap_or(30)),
            certificates: path("SSL_CERT_FILE"),
            tries: 5,
            backoff: Duration::from_secs(1),
            connections: 4,
        }
    }
}

fn below_home(path: &Path, user: &Path) -> PathBuf {
    path.strip_prefix("~").map_or_else(|_| path.to_owned(), |rest| user.join(rest))
}

/// A token's file; larger ones are something else.
fn small_text(path: &Path) -> Option<String> {
    let info = std::fs::metadata(path).ok().filter(|i| i.is_file() && i.len() < 1 << 16)?;
    std::fs::read_to_string(path).ok().filter(|t| t.len() as u64 <= info.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Settings {
        Settings::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn folders_follow_the_variables() {
        let cache = |variables: &[(&str, &str)]| {
            let mut all = variables.to_vec();
            all.push(("HOME", "/u"));
            read(&all).cache.to_str().unwrap().to_owned()
        };
        assert_eq!(cache(&[]), "/u/.cache/huggingface/hub");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]), "/u/hf/hub");
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/old");
        assert_eq!(cache(&[("HF_HUB_CACHE", "/new"), ("HUGGINGFACE_HUB_CACHE", "/old")]), "/new");
        assert_eq!(cache(&[("HF_HUB_CACHE", "")]), "/u/.cache/huggingface/hub");
    }

    #[test]
    fn tokens_come_from_the_first_place_that_has_one() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "from-file\n").unwrap();
        let hf = ("HF_HOME", home.path().to_str().unwrap());
        let token = |variables: &[(&str, &str)]| read(variables).token.map(|t| t.0);
        assert_eq!(token(&[hf]).as_deref(), Some("from-file"));
        assert_eq!(token(&[hf, ("HF_TOKEN", " given ")]).as_deref(), Some("given"));
        assert_eq!(token(&[hf, ("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_TOKEN", "")]).as_deref(), Some("old"));
        assert_eq!(token(&[hf, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[hf, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"), ("HF_TOKEN", "t")]).as_deref(), Some("t"));
        assert_eq!(token(&[hf, ("HF_TOKEN_PATH", "/no/such")]), None);
        assert!(!format!("{:?}", read(&[("HF_TOKEN", "secret")])).contains("secret"));
    }

    #[test]
    fn offline_and_endpoint() {
        assert_eq!(read(&[]).endpoint, ENDPOINT);
        assert_eq!(read(&[("HF_ENDPOINT", "http://h:1//")]).endpoint, "http://h:1");
        for (variables, offline) in [
            (&[][..], false),
            (&[("HF_HUB_OFFLINE", "1")], true),
            (&[("HF_HUB_OFFLINE", "true")], true),
            (&[("HF_HUB_OFFLINE", "0")], false),
            (&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")], false),
            (&[("TRANSFORMERS_OFFLINE", "yes")], true),
        ] {
            assert_eq!(read(variables).offline, offline, "{variables:?}");
        }
        assert_eq!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "7")]).read_timeout.as_secs(), 7);
        assert_eq!(read(&[("HF_HUB_DOWNLOAD_TIMEOUT", "soon")]).read_timeout.as_secs(), 30);
    }
}
