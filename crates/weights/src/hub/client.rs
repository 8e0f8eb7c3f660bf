//! Requests to the hub. Redirects are followed here and not by the HTTP crate: the token must not reach another host,
//! and the hub's own headers stand on the redirect, not on the file behind it.

use std::io::Read;
use std::time::{Duration, SystemTime};

use ureq::http::{HeaderMap, StatusCode, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use serde::Deserialize;

use super::names::{blob_name, check_file, encode, is_commit};
use super::{HubError, Settings, Token};

/// Redirects that are followed before it is taken for a circle.
const MOST_REDIRECTS: usize = 10;

/// Bytes of an answer about a repository, far more than the largest list needs.
const LONGEST_LIST: u64 = 64 << 20;

/// What a repository has at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit.
    pub commit: String,
    /// Its files, each a path inside the repository.
    pub files: Vec<String>,
}

/// Asks one hub.
pub(super) struct Client {
    agent: ureq::Agent,
    endpoint: Uri,
    token: Option<Token>,
}

/// What the hub knows about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub commit: String,
    pub blob: String,
    pub size_bytes: u64,
}

/// What came of one request.
pub(super) enum Trouble {
    /// Asking again may help.
    Passing { problem: String, wait: Option<Duration>, error: Box<HubError> },
    /// It will not.
    Lasting(Box<HubError>),
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Lasting(Box::new(error))
    }
}

impl Client {
    /// A client for [`Settings::endpoint`].
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, HubError> {
        let address = settings.endpoint.parse::<Uri>().ok();
        let web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        let Some(endpoint) = address.filter(web) else {
            return Err(HubError::Variable {
                variable: "HF_ENDPOINT",
                problem: format!("{:?}, which is no web address", settings.endpoint),
                advice: "give one like https://huggingface.co, or unset it",
            });
        };
        if settings.token.as_ref().is_some_and(|t| !t.0.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(HubError::Variable {
                variable: "HF_TOKEN (or the file HF_TOKEN_PATH)",
                problem: "not a token: it has characters that none has".to_owned(),
                advice: "copy it again from the hub's settings page",
            });
        }
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("steadydance/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(Duration::from_secs(10)))
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(settings.read_timeout))
            .timeout_per_read(Some(settings.read_timeout));
        if let Some(path) = &settings.certificates {
            let pem = std::fs::read(path).map_err(|source| HubError::Io {
                action: "read the certificates of SSL_CERT_FILE in",
                path: path.clone(),
                source,
            })?;
            let trusted: Vec<_> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if trusted.is_empty() {
                return Err(HubError::Variable {
                    variable: "SSL_CERT_FILE",
                    problem: format!("{}, which has no certificate", path.display()),
                    advice: "name a PEM file, or unset it",
                });
            }
            config = config.tls_config(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&trusted)).build());
        }
        Ok(Self { agent: config.build().new_agent(), endpoint, token: settings.token.clone() })
    }

    /// The hub's name.
    pub fn host(&self) -> &str {
        self.endpoint.host().unwrap_or("the hub")
    }

    /// Asks for a file's commit, blob and size; no byte of it is sent.
    pub fn metadata(&self, repository: &str, revision: &str, file: &str) -> Result<Metadata, Trouble> {
        let mut url = self.address(repository, revision, file)?;
        // The hub's own headers, the newest of each; those of the host that keeps the file are not the hub's.
        let mut commit = None;
        let mut linked = (None, None);
        for _ in 0..MOST_REDIRECTS {
            let response = self.send(&url, true, None)?;
            let (status, headers) = (response.status(), response.headers());
            let read = |name: &str| header(headers, name).map(str::to_owned);
            commit = read("x-repo-commit").or(commit);
            linked = (read("x-linked-etag").or(linked.0), read("x-linked-size").or(linked.1));
            let mut here = (None, None);
            if status.is_redirection() {
                let next = target(&url, headers)?;
                if self.is_home(&next) {
                    url = next;
                    continue;
                }
            } else {
                self.check(status, headers, &url, repository)?;
                here = (read("etag"), read("content-length"));
            }
            let strange = |problem: &str| HubError::NotAHub { url: url.to_string(), problem: problem.to_owned() };
            let commit = commit.filter(|c| is_commit(c)).ok_or_else(|| strange("it names no commit"))?;
            let etag = linked.0.or(here.0).ok_or_else(|| strange("it names no entity tag"))?;
            let size = linked.1.or(here.1).and_then(|s| s.parse().ok()).ok_or_else(|| strange("it tells no size"))?;
            return Ok(Metadata { commit: commit.to_ascii_lowercase(), blob: blob_name(&etag)?, size_bytes: size });
        }
        Err(circle(&url).into())
    }

    /// Asks for the names of all files.
    pub fn list(&self, repository: &str, revision: &str) -> Result<Listing, Trouble> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let mut url = self.join(&format!("api/models/{repository}/revision/{}", encode(revision, "")))?;
        for _ in 0..MOST_REDIRECTS {
            let response = self.send(&url, false, None)?;
            let (status, headers) = (response.status(), response.headers());
            if status.is_redirection() {
                url = target(&url, headers)?;
                continue;
            }
            self.check(status, headers, &url, repository)?;
            let strange = |problem: String| HubError::NotAHub { url: shown(&url), problem };
            let mut text = Vec::new();
            let read = response.into_body().into_reader().take(LONGEST_LIST + 1).read_to_end(&mut text);
            if let Err(source) = read {
                let (host, problem) = (url.host().unwrap_or_default().to_owned(), source.to_string());
                let error = Box::new(HubError::Unreachable { host, problem: problem.clone() });
                return Err(Trouble::Passing { problem, wait: None, error });
            }
            if text.len() as u64 > LONGEST_LIST {
                return Err(strange(format!("its list has more than {LONGEST_LIST} B")).into());
            }
            let answer: Answer = serde_json::from_slice(&text)
                .map_err(|e| strange(format!("its list of files cannot be read ({e})")))?;
            let files: Vec<_> = answer.siblings.into_iter().map(|s| s.rfilename).collect();
            if let Some(bad) = files.iter().find(|f| check_file(f).is_err()) {
                let bad: String = bad.chars().take(80).collect();
                return Err(strange(format!("it lists {bad:?}, which is no file inside a repository")).into());
            }
            let commit = Some(answer.sha.to_ascii_lowercase()).filter(|c| is_commit(c));
            let commit = commit.ok_or_else(|| strange("it names no commit".to_owned()))?;
            return Ok(Listing { commit, files });
        }
        Err(circle(&url).into())
    }

    /// Opens a file from byte `start` on. Gives where the bytes begin, which is 0 when the server does not do parts,
    /// how many are announced, and the bytes.
    pub fn open(&self, repository: &str, commit: &str, file: &str, start: u64) -> Result<Body, Trouble> {
        let mut url = self.address(repository, commit, file)?;
        for _ in 0..MOST_REDIRECTS {
            let response = self.send(&url, false, Some(start).filter(|s| *s > 0))?;
            let (status, headers) = (response.status(), response.headers());
            if status.is_redirection() {
                url = target(&url, headers)?;
                continue;
            }
            if status == StatusCode::RANGE_NOT_SATISFIABLE {
                return Ok(Body { start: 0, announced: None, bytes: None });
            }
            self.check(status, headers, &url, repository)?;
            let announced = header(headers, "content-length").and_then(|l| l.parse().ok());
            let start = match status {
                StatusCode::PARTIAL_CONTENT => {
                    let range = header(headers, "content-range").and_then(range_start);
                    range.filter(|s| *s == start).ok_or_else(|| HubError::NotAHub {
                        url: shown(&url),
                        problem: "it sends another part of the file than was asked for".to_owned(),
                    })?
                }
                _ => 0,
            };
            return Ok(Body { start, announced, bytes: Some(Box::new(response.into_body().into_reader())) });
        }
        Err(circle(&url).into())
    }

    fn address(&self, repository: &str, revision: &str, file: &str) -> Result<Uri, HubError> {
        self.join(&format!("{repository}/resolve/{}/{}", encode(revision, ""), encode(file, "/")))
    }

    fn join(&self, path: &str) -> Result<Uri, HubError> {
        let text = format!("{}/{path}", self.endpoint.to_string().trim_end_matches('/'));
        text.parse().map_err(|_| HubError::NotAHub { url: text, problem: "it is no address".to_owned() })
    }

    /// Whether an address is the hub's own: only there the token is shown.
    fn is_home(&self, url: &Uri) -> bool {
        url.scheme() == self.endpoint.scheme() && url.authority() == self.endpoint.authority()
    }

    fn send(&self, url: &Uri, head: bool, start: Option<u64>) -> Result<ureq::http::Response<ureq::Body>, Trouble> {
        let mut request = if head { self.agent.head(url) } else { self.agent.get(url) };
        // Compressed answers have other sizes and hashes.
        request = request.header("accept-encoding", "identity");
        if let Some(start) = start {
            request = request.header("range", format!("bytes={start}-"));
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_home(url)) {
            request = request.header("authorization", format!("Bearer {}", token.0));
        }
        request.call().map_err(|error| {
            let host = url.host().unwrap_or_default().to_owned();
            let (problem, passing) = explain(&error);
            let error = Box::new(HubError::Unreachable { host, problem: problem.clone() });
            match passing {
                true => Trouble::Passing { problem, wait: None, error },
                false => Trouble::Lasting(error),
            }
        })
    }

    /// Everything but a good answer as what it means.
    fn check(&self, status: StatusCode, headers: &HeaderMap, url: &Uri, repository: &str) -> Result<(), Trouble> {
        if status.is_success() {
            return Ok(());
        }
        let host = url.host().unwrap_or_default().to_owned();
        let code = header(headers, "x-error-code").unwrap_or_default();
        let refused = HubError::Status { host, status: status.as_u16(), tries: 1 };
        let missing = matches!(code, "RepoNotFound" | "RevisionNotFound" | "EntryNotFound");
        Err(Trouble::from(match status.as_u16() {
            _ if missing => HubError::NotFound { url: shown(url) },
            404 | 410 => HubError::NotFound { url: shown(url) },
            401 | 403 if self.is_home(url) => HubError::Denied {
                repository: repository.to_owned(),
                status: status.as_u16(),
                page: format!("{}/{repository}", self.endpoint.to_string().trim_end_matches('/')),
                with_token: self.token.is_some(),
            },
            // Signed addresses of the host that keeps the files expire; the hub makes a new one. 408, 425, 429 and
            // 5xx ask for patience.
            401 | 403 | 408 | 425 | 429 | 500..=599 => {
                let (problem, wait) = (format!("status {status}"), retry_after(headers, SystemTime::now()));
                return Err(Trouble::Passing { problem, wait, error: Box::new(refused) });
            }
            _ => refused,
        }))
    }
}

/// A file that is being sent.
pub(super) struct Body {
    /// Where in the file the bytes begin.
    pub start: u64,
    /// How many there are to be.
    pub announced: Option<u64>,
    /// The bytes; `None` when there are none from that place on.
    pub bytes: Option<Box<dyn Read + Send>>,
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty())
}

/// How long the server wants to be left alone, from `now` on: `Retry-After` as seconds or as a date (RFC 9110, 10.2.3), or
/// until the window of `RateLimit` ends (`"api";r=0;t=47`), which is what the hub sends. A date is one of the server's
/// clock, so what is left until then is reckoned from its own `Date` where it has one. A date that has passed is no wait.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let date = |text: &str| httpdate::parse_http_date(text.trim()).ok();
    let patience = |text: &str| {
        let seconds = text.trim().parse().ok().map(Duration::from_secs);
        let there = || header(headers, "date").and_then(date).unwrap_or(now);
        seconds.or_else(|| Some(date(text)?.duration_since(there()).unwrap_or_default()))
    };
    let window = || header(headers, "ratelimit")?.split(';').find_map(|p| p.trim().strip_prefix("t=")?.parse().ok());
    header(headers, "retry-after").and_then(patience).or_else(|| window().map(Duration::from_secs))
}

/// The first byte of `bytes 5-9/10`.
fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// An address without its query: that of a signed one is a secret.
fn shown(url: &Uri) -> String {
    url.to_string().split('?').next().unwrap_or_default().to_owned()
}

fn circle(url: &Uri) -> HubError {
    HubError::NotAHub { url: shown(url), problem: format!("more than {MOST_REDIRECTS} redirects") }
}

/// Where a redirect leads.
fn target(from: &Uri, headers: &HeaderMap) -> Result<Uri, HubError> {
    let strange = |problem: &str| HubError::NotAHub { url: shown(from), problem: problem.to_owned() };
    let location = header(headers, "location").ok_or_else(|| strange("a redirect that leads nowhere"))?;
    let (scheme, host) = (from.scheme_str().unwrap_or("https"), from.authority().map_or("", |a| a.as_str()));
    let absolute = match location {
        l if l.starts_with("//") => format!("{scheme}:{l}"),
        l if l.starts_with('/') => format!("{scheme}://{host}{l}"),
        l => l.to_owned(),
    };
    let next: Uri = absolute.parse().map_err(|_| strange("a redirect to no address"))?;
    match (scheme, next.scheme_str()) {
        ("https", Some("https")) | ("http", Some("http" | "https")) => Ok(next),
        ("https", Some("http")) => Err(strange("a redirect from https to http")),
        _ => Err(strange("a redirect to no web address")),
    }
}

/// What a failed request was, and whether a further one may succeed.
fn explain(error: &ureq::Error) -> (String, bool) {
    let text = error.to_string();
    if matches!(error, ureq::Error::Tls(_) | ureq::Error::Rustls(_)) || text.contains("peer certificate") {
        let advice = "behind a proxy that reads along, name its certificates in SSL_CERT_FILE";
        return (format!("{}; {advice}", text.trim_start_matches("io: ")), false);
    }
    match error {
        ureq::Error::HostNotFound => ("its name cannot be resolved".to_owned(), false),
        ureq::Error::Timeout(what) => (format!("no answer in time ({what})"), true),
        ureq::Error::ConnectionFailed => ("the connection failed".to_owned(), true),
        ureq::Error::Io(source) => match source.kind() {
            std::io::ErrorKind::ConnectionRefused => ("the connection was refused".to_owned(), true),
            // What the system's resolver says has no kind of its own.
            _ if source.to_string().contains("lookup address") => ("its name cannot be resolved".to_owned(), false),
            _ => (source.to_string(), true),
        },
        _ => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_and_never_weaken_the_transport() {
        let go = |from: &str, to: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", to.parse().unwrap());
            target(&from.parse().unwrap(), &headers).map(|u| u.to_string()).ok()
        };
        assert_eq!(go("https://h/a", "/b?c").as_deref(), Some("https://h/b?c"));
        assert_eq!(go("https://h/a", "//k/b").as_deref(), Some("https://k/b"));
        assert_eq!(go("http://h:1/a", "https://k/b").as_deref(), Some("https://k/b"));
        for to in ["http://k/b", "ftp://k/b", "file:///etc/passwd", "b", "https://"] {
            assert_eq!(go("https://h/a", to), None, "{to}");
        }
        assert!(target(&"https://h/a".parse().unwrap(), &HeaderMap::new()).is_err());
    }

    #[test]
    fn servers_say_how_long_to_wait() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2026 07:27:30 GMT").unwrap();
        let wait = |pairs: &[(&'static str, &'static str)]| {
            let headers = pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
            retry_after(&headers, now).map(|d| d.as_secs())
        };
        assert_eq!(wait(&[("retry-after", " 7 ")]), Some(7));
        assert_eq!(wait(&[("ratelimit", "\"api\";r=0;t=47")]), Some(47));
        assert_eq!(wait(&[("ratelimit", "\"api\";r=0; t=47"), ("retry-after", "5")]), Some(5));
        // All three spellings of a date that a server may have.
        for date in ["Wed, 21 Oct 2026 07:28:00 GMT", "Wednesday, 21-Oct-26 07:28:00 GMT", "Wed Oct 21 07:28:00 2026"] {
            assert_eq!(wait(&[("retry-after", date)]), Some(30), "{date}");
            // The server's clock is another than ours.
            assert_eq!(wait(&[("retry-after", date), ("date", "Wed, 21 Oct 2026 07:27:52 GMT")]), Some(8), "{date}");
        }
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2020 07:28:00 GMT")]), Some(0));
        for none in ["Wed, 41 Oct 2026 07:28:00 GMT", "-1", "soon", ""] {
            assert_eq!(wait(&[("retry-after", none)]), None, "{none}");
        }
    }

    #[test]
    fn ranges_and_secrets() {
        assert_eq!(range_start("bytes 5-9/10"), Some(5));
        assert_eq!(range_start("items 5-9/10"), None);
        assert_eq!(shown(&"https://k/f?signature=s".parse().unwrap()), "https://k/f");
    }
}
