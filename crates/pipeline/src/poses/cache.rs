//! Keypoints that were found before, frame by frame, so that no frame of an unchanged video is looked at twice.
//!
//! One file for each key; the key is a hash of everything that the keypoints depend on. A file that cannot be read is
//! as good as none: it is replaced.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use pose::{FrameKeypoints, WHOLE_BODY_POINTS, WholeBody};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Changes when the same inputs would give other keypoints.
const VERSION: u32 = 1;
/// How often a long extraction saves what it has.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// Size that the folder is brought back to, oldest files first.
const FOLDER_BYTES: u64 = 512 << 20;
/// Largest file that is written and read: about half an hour of one person.
const FILE_BYTES: u64 = 256 << 20;

/// What keypoints depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct CacheKey {
    /// `reference` and `driving` pictures are prepared differently.
    pub role: &'static str,
    /// Hash of the video's bytes (or the picture's, or all pictures').
    pub source: String,
    /// Hashes of the networks' bytes.
    pub detector: String,
    pub estimator: String,
    /// Every constant of the way from picture to keypoints.
    pub profile: String,
    /// What decodes and converts pixels.
    pub decoder: String,
}

impl CacheKey {
    fn file_name(&self) -> io::Result<String> {
        let text = serde_json::to_vec(&(VERSION, self))?;
        Ok(format!("{}.json", &hex(&Sha256::digest(text))[..32]))
    }
}

/// SHA-256 of a file's bytes, or of the names and bytes of a folder's files, as hexadecimal text.
pub(crate) fn hash_of(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    if path.is_dir() {
        let mut files: Vec<PathBuf> = fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
        files.retain(|f| f.is_file());
        files.sort();
        for file in files {
            hasher.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            hasher.update([0]);
            // The length, so that no two folders give the same stream of bytes.
            hasher.update(fs::metadata(&file)?.len().to_le_bytes());
            update(&mut hasher, &file)?;
        }
    } else {
        update(&mut hasher, path)?;
    }
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of pieces of bytes one after another, as hexadecimal text.
pub(crate) fn hash_of_bytes(pieces: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    pieces.iter().for_each(|piece| hasher.update(piece));
    hex(&hasher.finalize())
}

fn update(hasher: &mut Sha256, file: &Path) -> io::Result<()> {
    let mut file = File::open(file)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    /// Pixels of the frames.
    size: [u32; 2],
    frames: BTreeMap<usize, Vec<StoredPerson>>,
}

#[derive(Serialize, Deserialize)]
struct StoredPerson {
    /// x, y and score of every keypoint.
    keypoints: Vec<[f64; 3]>,
}

/// The keypoints of one video under one key.
pub(crate) struct KeypointCache {
    file: Option<PathBuf>,
    size: [u32; 2],
    frames: BTreeMap<usize, FrameKeypoints>,
    unsaved: bool,
    saved: Instant,
    /// By the last saving: a long one comes less often.
    took: Duration,
    failure: Option<io::Error>,
}

impl KeypointCache {
    /// Why the last saving failed.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    /// An empty cache that is never saved.
    pub fn disabled(size: [u32; 2]) -> Self {
        Self {
            file: None,
            size,
            frames: BTreeMap::new(),
            unsaved: false,
            saved: Instant::now(),
            took: Duration::ZERO,
            failure: None,
        }
    }

    /// What is known under `key` in `folder` about frames of `size` pixels.
    pub fn open(folder: &Path, key: &CacheKey, size: [u32; 2]) -> Self {
        let file = key.file_name().ok().map(|name| folder.join(name));
        let frames = file.as_deref().and_then(|file| read(file, size)).unwrap_or_default();
        if let (Some(file), false) = (&file, frames.is_empty()) {
            // Used files are young files, for `trim`.
            let _ = File::options().append(true).open(file).and_then(|f| f.set_modified(SystemTime::now()));
        }
        Self { file, size, frames, unsaved: false, saved: Instant::now(), took: Duration::ZERO, failure: None }
    }

    /// The people of a frame, if it was looked at.
    pub fn get(&self, frame: usize) -> Option<&FrameKeypoints> {
        self.frames.get(&frame)
    }

    /// Remembers a frame, and saves now and then.
    pub fn insert(&mut self, frame: usize, keypoints: FrameKeypoints) {
        self.frames.insert(frame, keypoints);
        self.unsaved = true;
        if self.saved.elapsed() >= SAVE_EVERY.max(20 * self.took) {
            self.save();
        }
    }

    /// Saves what is new. A failure is remembered for [`failure`](Self::failure) and is no error: the work goes on.
    pub fn save(&mut self) {
        let began = Instant::now();
        if let (Some(file), true) = (&self.file, self.unsaved) {
            self.failure = self.write(file).err();
            if let (Some(folder), None) = (file.parent(), &self.failure) {
                trim(folder, FOLDER_BYTES);
                self.unsaved = false;
            }
        }
        (self.saved, self.took) = (Instant::now(), began.elapsed());
    }

    fn write(&self, file: &Path) -> io::Result<()> {
        let folder = file.parent().ok_or(io::ErrorKind::InvalidInput)?;
        fs::create_dir_all(folder)?;
        let person = |body: &WholeBody| StoredPerson {
            keypoints: body.points.iter().zip(&body.scores).map(|([x, y], score)| [*x, *y, *score]).collect(),
        };
        let frames = self.frames.iter().map(|(i, frame)| (*i, frame.people.iter().map(person).collect())).collect();
        let stored = Stored { version: VERSION, size: self.size, frames };
        let text = serde_json::to_vec(&stored)?;
        if text.len() as u64 > FILE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut temp = tempfile::NamedTempFile::new_in(folder)?;
        temp.write_all(&text)?;
        temp.persist(file)?;
        Ok(())
    }
}

impl Drop for KeypointCache {
    /// What was found before an interruption is not lost.
    fn drop(&mut self) {
        self.save();
    }
}

fn read(file: &Path, size: [u32; 2]) -> Option<BTreeMap<usize, FrameKeypoints>> {
    let file = File::open(file).ok().filter(|f| f.metadata().is_ok_and(|m| m.len() <= FILE_BYTES))?;
    let stored: Stored = serde_json::from_reader(BufReader::new(file)).ok()?;
    if stored.version != VERSION || stored.size != size {
        return None;
    }
    let person = |person: &StoredPerson| {
        let keypoints: &[[f64; 3]; WHOLE_BODY_POINTS] = person.keypoints.as_slice().try_into().ok()?;
        let finite = keypoints.iter().flatten().all(|v| v.is_finite());
        finite.then(|| WholeBody { points: keypoints.map(|[x, y, _]| [x, y]), scores: keypoints.map(|k| k[2]) })
    };
    let frame = |(index, people): (&usize, &Vec<StoredPerson>)| {
        let people = people.iter().map(person).collect::<Option<_>>()?;
        Some((*index, FrameKeypoints { people }))
    };
    stored.frames.iter().map(frame).collect()
}

/// Removes the oldest files until the rest is no more than `limit_bytes`.
fn trim(folder: &Path, limit_bytes: u64) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let info = entry.metadata().ok()?;
            let ours = entry.path().extension().is_some_and(|e| e == "json") && info.is_file();
            ours.then(|| (info.modified().unwrap_or(SystemTime::UNIX_EPOCH), info.len(), entry.path()))
        })
        .collect();
    files.sort();
    let mut total: u64 = files.iter().map(|f| f.1).sum();
    for (_, bytes, path) in files {
        if total <= limit_bytes {
            return;
        }
        if fs::remove_file(path).is_ok() {
            total -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> CacheKey {
        let text = |s: &str| s.to_owned();
        CacheKey {
            role: "driving",
            source: text("a"),
            detector: text("b"),
            estimator: text("c"),
            profile: text("d"),
            decoder: text("e"),
        }
    }

    fn person(seed: f64) -> WholeBody {
        WholeBody {
            points: std::array::from_fn(|i| [seed + i as f64 / 3.0, seed * 7.0 - i as f64 / 7.0]),
            scores: std::array::from_fn(|i| (i as f64 * seed).sin()),
        }
    }

    #[test]
    fn frames_come_back_exactly() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("not/there/yet");
        let frames = [FrameKeypoints { people: vec![person(0.1), person(0.2)] }, FrameKeypoints::default()];
        {
            let mut cache = KeypointCache::open(&folder, &key(), [6, 4]);
            cache.insert(3, frames[0].clone());
            cache.insert(9, frames[1].clone());
        }
        let cache = KeypointCache::open(&folder, &key(), [6, 4]);
        assert_eq!((cache.get(3), cache.get(9), cache.get(4)), (Some(&frames[0]), Some(&frames[1]), None));
        // Another size is another video.
        assert!(KeypointCache::open(&folder, &key(), [6, 5]).get(3).is_none());
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let mut names = vec![key().file_name().unwrap()];
        for change in [
            (|k: &mut CacheKey| k.role = "reference") as fn(&mut CacheKey),
            |k| k.source.push('x'),
            |k| k.detector.push('x'),
            |k| k.estimator.push('x'),
            |k| k.profile.push('x'),
            |k| k.decoder.push('x'),
        ] {
            let mut key = key();
            change(&mut key);
            names.push(key.file_name().unwrap());
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 7);
    }

    #[test]
    fn damaged_files_are_as_good_as_none_and_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(key().file_name().unwrap());
        let three = r#"{"version":1,"size":[6,4],"frames":{"0":[{"keypoints":[[1,2,3]]}]}}"#;
        for content in ["", "{", "[]", three, r#"{"version":99,"size":[6,4],"frames":{}}"#] {
            fs::write(&file, content).unwrap();
            let mut cache = KeypointCache::open(dir.path(), &key(), [6, 4]);
            assert!(cache.get(0).is_none(), "{content}");
            cache.insert(0, FrameKeypoints { people: vec![person(1.5)] });
            drop(cache);
            assert!(KeypointCache::open(dir.path(), &key(), [6, 4]).get(0).is_some(), "{content}");
        }
    }

    #[test]
    fn the_folder_stays_small_and_loses_its_oldest() {
        let dir = tempfile::tempdir().unwrap();
        for (i, name) in ["c.json", "a.json", "b.json", "other.txt"].iter().enumerate() {
            let path = dir.path().join(name);
            fs::write(&path, [0; 100]).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 * i as u64);
            File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        trim(dir.path(), 250);
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.json", "b.json", "other.txt"]);
    }

    #[test]
    fn hashes_tell_contents_and_folders_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "abc").unwrap();
        assert_eq!(hash_of(&a).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let one = hash_of(dir.path()).unwrap();
        fs::write(&b, "").unwrap();
        assert_ne!(hash_of(dir.path()).unwrap(), one);
        assert!(hash_of(&dir.path().join("c")).is_err());
    }
}
