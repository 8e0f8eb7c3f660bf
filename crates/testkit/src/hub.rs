//! A hub of weights on this machine: two servers, one that answers like the hub and one like the host that keeps its
//! large files, with faults on demand. It speaks just enough HTTP/1.1, one request a connection.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with one answer to a GET.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// This status instead of the file.
    Status(u16),
    /// One byte of the body is another.
    Corrupt,
    /// The whole file although a part was asked for.
    WholeFile,
    /// So many bytes too many, and announced so.
    Longer(usize),
    /// So many bytes too many, and no announced length.
    LongerUnannounced(usize),
    /// Nothing comes for so long in the middle of the body.
    Stall(Duration),
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Whether it came to the host of large files.
    pub to_storage: bool,
    /// `GET` or `HEAD`.
    pub method: String,
    /// With its slash.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: HashMap<String, String>,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    log: Vec<Request>,
    faults: VecDeque<Fault>,
    heads: VecDeque<u16>,
    token: Option<String>,
    announced: Option<u64>,
    etag: Option<String>,
    delay: Duration,
    patience: Option<String>,
    listing: Option<String>,
    listings_moved: bool,
}

/// The hub; it ends when it is dropped.
pub struct FakeHub {
    address: SocketAddr,
    storage: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

impl FakeHub {
    /// Starts both servers on free ports.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        let [hub, storage] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let (address, storage_address) = (hub.local_addr().unwrap(), storage.local_addr().unwrap());
        let state: Arc<Mutex<State>> = Arc::default();
        let ended = Arc::new(AtomicBool::new(false));
        for (listener, to_storage) in [(hub, false), (storage, true)] {
            let (state, ended) = (state.clone(), ended.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if ended.load(Ordering::SeqCst) {
                        return;
                    }
                    let state = state.clone();
                    // A client that goes away in the middle is not the server's trouble.
                    std::thread::spawn(move || answer(stream, to_storage, storage_address, &state));
                }
            });
        }
        Self { address, storage: storage_address, state, ended }
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Has a file. Those of 1000 bytes and more are kept on the other host, under their SHA-256.
    pub fn put(&self, repository: &str, file: &str, bytes: impl Into<Vec<u8>>) -> &Self {
        self.state.lock().unwrap().files.insert(format!("{repository}/{file}"), bytes.into());
        self
    }

    /// The next answers to GET for a file go wrong so, in this order.
    pub fn faults(&self, faults: impl IntoIterator<Item = Fault>) -> &Self {
        self.state.lock().unwrap().faults.extend(faults);
        self
    }

    /// The next answers to HEAD have these statuses.
    pub fn heads(&self, statuses: impl IntoIterator<Item = u16>) -> &Self {
        self.state.lock().unwrap().heads.extend(statuses);
        self
    }

    /// Answers only those who show this token.
    pub fn require_token(&self, token: &str) -> &Self {
        self.state.lock().unwrap().token = Some(token.to_owned());
        self
    }

    /// Announces this size for every large file.
    pub fn announce_size(&self, size: u64) -> &Self {
        self.state.lock().unwrap().announced = Some(size);
        self
    }

    /// Announces this entity tag for every large file.
    pub fn announce_etag(&self, etag: &str) -> &Self {
        self.state.lock().unwrap().etag = Some(etag.to_owned());
        self
    }

    /// Waits in the middle of each large body.
    pub fn delay(&self, delay: Duration) -> &Self {
        self.state.lock().unwrap().delay = delay;
        self
    }

    /// Every refusal has this header, say `retry-after: 3`.
    pub fn refuse_with(&self, header: &str) -> &Self {
        self.state.lock().unwrap().patience = Some(format!("{header}\r\n"));
        self
    }

    /// Answers this when it is asked what a repository has.
    pub fn announce_listing(&self, text: &str) -> &Self {
        self.state.lock().unwrap().listing = Some(text.to_owned());
        self
    }

    /// Sends those who ask what a repository has to the host of large files, which answers the same.
    pub fn move_listings(&self) -> &Self {
        self.state.lock().unwrap().listings_moved = true;
        self
    }

    /// Every request so far.
    pub fn log(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    /// How often bytes of a large file were asked for.
    pub fn downloads(&self) -> usize {
        self.log().iter().filter(|r| r.to_storage && r.method == "GET").count()
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        for address in [self.address, self.storage] {
            // Wakes the listener up, so that it sees the end.
            let _ = TcpStream::connect(address);
        }
    }
}

/// The hub's name of a file: SHA-256 of large ones, git's of small ones.
pub fn etag(bytes: &[u8]) -> String {
    let hexadecimal = |hash: &[u8]| hash.iter().map(|b| format!("{b:02x}")).collect();
    if bytes.len() >= 1000 {
        return hexadecimal(&Sha256::digest(bytes));
    }
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()));
    hasher.update(bytes);
    hexadecimal(&hasher.finalize())
}

fn answer(stream: TcpStream, to_storage: bool, storage: SocketAddr, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let request = Request { to_storage, method, path, headers };
    let mut s = state.lock().unwrap();
    s.log.push(request.clone());
    let mut stream = reader.into_inner();
    let patience = s.patience.clone().unwrap_or_default();
    let listing = listing(&s, &request);
    if let (true, Some(text)) = (to_storage, &listing) {
        return json(&mut stream, text);
    }
    if to_storage {
        let bytes =
            s.files.values().find(|b| format!("/{}", etag(b)) == request.path.split('?').next().unwrap())?.clone();
        let (fault, delay) = (s.faults.pop_front(), s.delay);
        drop(s);
        if let Some(Fault::Status(status)) = fault {
            return plain(&mut stream, status, &patience);
        }
        return send(&mut stream, &request, bytes, fault, delay);
    }
    let head = request.method == "HEAD";
    if let Some(status) = if head { s.heads.pop_front() } else { None } {
        return plain(&mut stream, status, &patience);
    }
    if s.token.as_ref().is_some_and(|t| request.headers.get("authorization") != Some(&format!("Bearer {t}"))) {
        return plain(&mut stream, 401, "x-error-code: GatedRepo\r\n");
    }
    if request.path.starts_with("/api/models/") {
        let refused = s.faults.pop_front_if(|f| matches!(f, Fault::Status(_)));
        return match (refused, listing) {
            (Some(Fault::Status(status)), _) => plain(&mut stream, status, &patience),
            (_, None) => plain(&mut stream, 404, "x-error-code: RepoNotFound\r\n"),
            (_, Some(_)) if s.listings_moved => {
                plain(&mut stream, 307, &format!("location: http://{storage}{}\r\n", request.path))
            }
            (_, Some(text)) => json(&mut stream, &text),
        };
    }
    // Small files take a detour over an address of the hub itself.
    if let Some(key) = request.path.strip_prefix("/api/resolve-cache/") {
        let bytes = s.files.get(key)?.clone();
        let fault = if head { None } else { s.faults.pop_front() };
        drop(s);
        if let Some(Fault::Status(status)) = fault {
            return plain(&mut stream, status, &patience);
        }
        return send(&mut stream, &request, bytes, fault, Duration::ZERO);
    }
    let (repository, rest) = request.path.trim_start_matches('/').split_once("/resolve/")?;
    let (revision, file) = rest.split_once('/')?;
    let key = format!("{repository}/{file}");
    let Some(bytes) = s.files.get(&key).filter(|_| revision == "main" || revision == COMMIT) else {
        return plain(&mut stream, 404, "x-error-code: EntryNotFound\r\n");
    };
    if bytes.len() < 1000 {
        let headers = format!("x-repo-commit: {COMMIT}\r\nlocation: /api/resolve-cache/{key}\r\n");
        return plain(&mut stream, 307, &headers);
    }
    let (size, name) = (s.announced.unwrap_or(bytes.len() as u64), etag(bytes));
    let told = s.etag.clone().unwrap_or_else(|| name.clone());
    let headers = format!(
        "x-repo-commit: {COMMIT}\r\nx-linked-etag: \"{told}\"\r\nx-linked-size: {size}\r\nlocation: http://{storage}/{name}?signature=secret\r\n"
    );
    plain(&mut stream, 302, &headers)
}

/// What `/api/models/org/name/revision/main` answers; `None` for other addresses and repositories that are not there.
fn listing(state: &State, request: &Request) -> Option<String> {
    let (repository, revision) = request.path.strip_prefix("/api/models/")?.split_once("/revision/")?;
    if let Some(text) = &state.listing {
        return Some(text.clone());
    }
    let here = |key: &&String| key.starts_with(&format!("{repository}/"));
    let mut files: Vec<_> = state.files.keys().filter(here).map(|k| &k[repository.len() + 1..]).collect();
    files.sort();
    if files.is_empty() || ![COMMIT, "main"].contains(&revision) {
        return None;
    }
    let siblings: Vec<_> = files.iter().map(|f| format!("{{\"rfilename\":\"{f}\"}}")).collect();
    Some(format!("{{\"id\":\"{repository}\",\"sha\":\"{COMMIT}\",\"siblings\":[{}]}}", siblings.join(",")))
}

fn json(stream: &mut TcpStream, text: &str) -> Option<()> {
    let length = text.len();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}").ok()
}

fn plain(stream: &mut TcpStream, status: u16, headers: &str) -> Option<()> {
    write!(stream, "HTTP/1.1 {status} Status\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n").ok()
}

fn send(
    stream: &mut TcpStream,
    request: &Request,
    mut bytes: Vec<u8>,
    fault: Option<Fault>,
    delay: Duration,
) -> Option<()> {
    let (name, total) = (etag(&bytes), bytes.len());
    if fault == Some(Fault::Corrupt) {
        *bytes.last_mut()? ^= 1;
    }
    let asked = request.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let start: usize = asked.filter(|_| fault != Some(Fault::WholeFile)).unwrap_or(0);
    if start > total {
        return plain(stream, 416, "");
    }
    let mut body = bytes.split_off(start);
    if let Some(Fault::Longer(more) | Fault::LongerUnannounced(more)) = fault {
        body.extend(vec![7; more]);
    }
    let mut head = match start {
        0 => "HTTP/1.1 200 OK\r\n".to_owned(),
        _ => format!("HTTP/1.1 206 Partial\r\ncontent-range: bytes {start}-{}/{total}\r\n", total - 1),
    };
    if !matches!(fault, Some(Fault::LongerUnannounced(_))) {
        head += &format!("content-length: {}\r\n", body.len());
    }
    write!(stream, "{head}x-repo-commit: {COMMIT}\r\netag: \"{name}\"\r\nconnection: close\r\n\r\n").ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    if let Some(Fault::CutAfter(n)) = fault {
        body.truncate(n);
    }
    let middle = body.len() / 2;
    stream.write_all(&body[..middle]).ok()?;
    stream.flush().ok()?;
    std::thread::sleep(if let Some(Fault::Stall(stall)) = fault { stall } else { delay });
    stream.write_all(&body[middle..]).ok()
}
