//! Keypoint files: version 1 of the `steadydance-keypoints` JSON format, described in docs/keypoints.md.
//!
//! Reading and writing round-trip exactly: numbers are written in their shortest exact form and parsed to the nearest f64.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::keypoints::{FrameKeypoints, PoseClip, ReferenceKeypoints, WHOLE_BODY_POINTS, WholeBody};
use crate::{Place, PoseError, Result, openpose_json};

/// Value of the `format` field.
pub const FORMAT: &str = "steadydance-keypoints";

/// Value of the `version` field.
pub const VERSION: u64 = 1;

/// Largest file that is read: about 50 000 people-frames.
pub const MAX_BYTES: u64 = 256 << 20;

/// What a file cannot say itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReadOptions {
    /// Frame rate for OpenPose files, which have none. Ignored for our own format.
    pub openpose_fps: Option<f64>,
}

/// Reads a keypoint file: our format, or an OpenPose/DWPose one (told apart by content).
///
/// # Errors
/// Unreadable or too large files, and all that [`parse`] finds.
pub fn read(path: &Path, options: ReadOptions) -> Result<PoseClip> {
    let fail = |source| PoseError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(fail)?;
    let length = file.metadata().map_err(fail)?.len();
    too_large(length)?;
    let mut bytes = Vec::new();
    // A pipe has no length beforehand, and a file may grow meanwhile.
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(fail)?;
    parse(&bytes, options)
}

/// Parses and validates the text of a keypoint file.
///
/// # Errors
/// Anything but a valid clip; the message names the frame, person and field.
pub fn parse(bytes: &[u8], options: ReadOptions) -> Result<PoseClip> {
    too_large(bytes.len() as u64)?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if text.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
        return openpose_json::clip(from_slice(text)?, options);
    }
    let probe = match from_slice::<Probe>(text) {
        // The full reader knows better where in the clip the text breaks off.
        Err(broken @ PoseError::NotJson { .. }) => {
            let full = from_slice::<RawClip>(text).err();
            return Err(full.filter(|error| matches!(error, PoseError::NotJson { .. })).unwrap_or(broken));
        }
        other => other?,
    };
    match probe.format.as_deref() {
        Some(FORMAT) => {}
        None if probe.people => return openpose_json::clip(vec![from_slice(text)?], options),
        other => {
            return Err(PoseError::UnknownFormat {
                found: other.map_or("missing".to_owned(), |found| {
                    // Quoted and cut: it may be anything.
                    format!("{:?}", found.chars().take(60).collect::<String>())
                }),
            });
        }
    }
    if let Some(found) = probe.version.filter(|&found| found != VERSION) {
        return Err(PoseError::UnknownVersion { found, supported: VERSION });
    }
    from_slice::<RawClip>(text)?.into_clip()
}

/// Writes a clip; the file appears under its name only when complete.
///
/// # Errors
/// [`PoseError::Write`], and an invalid clip is not written.
pub fn write(path: &Path, clip: &PoseClip) -> Result<()> {
    let fail = |source| PoseError::Write { path: path.to_owned(), source };
    clip.validate()?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let written = File::create(&partial)
        .and_then(|file| {
            let mut file = BufWriter::new(file);
            write_to(&mut file, clip)?;
            file.flush()
        })
        .and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // Best effort: the write error is the one to report.
        let _ = std::fs::remove_file(&partial);
    }
    written.map_err(fail)
}

/// The clip as JSON text, one frame a line.
///
/// # Errors
/// An invalid clip (JSON has no NaN).
pub fn to_string(clip: &PoseClip) -> Result<String> {
    clip.validate()?;
    let mut bytes = Vec::new();
    let fail = |source| PoseError::Write { path: "(memory)".into(), source };
    write_to(&mut bytes, clip).map_err(fail)?;
    String::from_utf8(bytes).map_err(|e| fail(std::io::Error::other(e)))
}

fn write_to(out: &mut impl Write, clip: &PoseClip) -> std::io::Result<()> {
    writeln!(out, "{{\n\"format\": \"{FORMAT}\",\n\"version\": {VERSION},")?;
    let (width, height) = (clip.width, clip.height);
    writeln!(out, "\"width\": {width}, \"height\": {height},")?;
    writeln!(out, "\"fps\": {},", serde_json::to_string(&clip.fps)?)?;
    if let Some(reference) = &clip.reference {
        let (width, height) = (reference.width, reference.height);
        write!(out, "\"reference\": {{\"width\": {width}, \"height\": {height}, \"people\": ")?;
        serde_json::to_writer(&mut *out, &People(&reference.people))?;
        writeln!(out, "}},")?;
    }
    write!(out, "\"frames\": [")?;
    for (index, frame) in clip.frames.iter().enumerate() {
        write!(out, "{}\n{{\"people\": ", if index == 0 { "" } else { "," })?;
        serde_json::to_writer(&mut *out, &People(&frame.people))?;
        write!(out, "}}")?;
    }
    writeln!(out, "\n]\n}}")
}

fn too_large(bytes: u64) -> Result<()> {
    if bytes > MAX_BYTES {
        return Err(PoseError::TooLarge { bytes, limit_bytes: MAX_BYTES });
    }
    Ok(())
}

/// JSON → `T`; an error says at which field.
fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        json_error(e.inner(), path)
    })?;
    json.end().map_err(|e| json_error(&e, ".".to_owned()))?;
    Ok(value)
}

fn json_error(error: &serde_json::Error, path: String) -> PoseError {
    let (line, column) = (error.line(), error.column());
    // The parser appends the position to its words; the message has it already.
    let mut reason = error.to_string();
    if let Some(at) = reason.rfind(" at line ") {
        reason.truncate(at);
    }
    if error.is_data() {
        PoseError::Field { path, reason, line, column }
    } else {
        PoseError::NotJson { line, column, path, reason }
    }
}

/// Just enough to tell what kind of file this is.
#[derive(Deserialize)]
struct Probe {
    format: Option<String>,
    version: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    people: bool,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClip {
    #[serde(rename = "format")]
    _format: String,
    #[serde(rename = "version")]
    _version: u64,
    width: u32,
    height: u32,
    fps: f64,
    reference: Option<RawReference>,
    frames: Vec<RawFrame>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawReference {
    width: u32,
    height: u32,
    people: Vec<RawPerson>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFrame {
    people: Vec<RawPerson>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPerson {
    keypoints: Vec<RawPoint>,
}

impl RawClip {
    fn into_clip(self) -> Result<PoseClip> {
        let frames = self.frames.into_iter().enumerate().map(|(frame, raw)| {
            let place = |person| Place::Frame { frame, person };
            Ok(FrameKeypoints { people: people(raw.people, place)? })
        });
        let clip = PoseClip {
            width: self.width,
            height: self.height,
            fps: self.fps,
            frames: frames.collect::<Result<_>>()?,
            reference: match self.reference {
                None => None,
                Some(raw) => Some(ReferenceKeypoints {
                    width: raw.width,
                    height: raw.height,
                    people: people(raw.people, |person| Place::Reference { person })?,
                }),
            },
        };
        clip.validate()?;
        Ok(clip)
    }
}

fn people(raw: Vec<RawPerson>, place: impl Fn(usize) -> Place) -> Result<Vec<WholeBody>> {
    let person = |(index, raw): (usize, RawPerson)| {
        if raw.keypoints.len() != WHOLE_BODY_POINTS {
            return Err(PoseError::PointCount {
                place: place(index),
                field: "keypoints",
                found: raw.keypoints.len(),
                expected: "133 (COCO-WholeBody)",
            });
        }
        Ok(WholeBody {
            points: std::array::from_fn(|i| [raw.keypoints[i].0[0], raw.keypoints[i].0[1]]),
            scores: std::array::from_fn(|i| raw.keypoints[i].0[2]),
        })
    };
    raw.into_iter().enumerate().map(person).collect()
}

/// `[x, y, score]`. Not a `Vec`: files hold a hundred thousand of them.
struct RawPoint([f64; 3]);

impl<'de> Deserialize<'de> for RawPoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Triple;
        impl<'de> Visitor<'de> for Triple {
            type Value = RawPoint;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a keypoint [x, y, score] of three finite numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<RawPoint, A::Error> {
                let mut point = [0.0; 3];
                for (i, value) in point.iter_mut().enumerate() {
                    *value = seq.next_element()?.ok_or_else(|| A::Error::invalid_length(i, &self))?;
                }
                if seq.next_element::<serde::de::IgnoredAny>()?.is_some() {
                    return Err(A::Error::invalid_length(4, &self));
                }
                Ok(RawPoint(point))
            }
        }
        deserializer.deserialize_seq(Triple)
    }
}

struct People<'a>(&'a [WholeBody]);

impl Serialize for People<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Person))
    }
}

struct Person<'a>(&'a WholeBody);

impl Serialize for Person<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let points = self.0.points.iter().zip(&self.0.scores);
        let triples: Vec<[f64; 3]> = points.map(|(p, &score)| [p[0], p[1], score]).collect();
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("keypoints", &triples)?;
        map.end()
    }
}
