//! A folder of pictures read as a video.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ::image::RgbImage;

use super::info::VideoInfo;
use super::png_folder::SETTINGS_FILE;
use super::rate::FrameRate;
use crate::error::{MediaError, Result};
use crate::image::{probe, read_rgb};

const EXTENSIONS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"];

pub(super) struct FolderSource {
    pictures: Vec<PathBuf>,
    next: usize,
    fps: FrameRate,
}

impl FolderSource {
    /// Lists the pictures and compares their sizes from the headers.
    pub fn open(path: &Path, fps: FrameRate) -> Result<(Self, VideoInfo)> {
        let pictures = pictures(path)?;
        let first = probe(&pictures[0])?;
        for picture in &pictures[1..] {
            let info = probe(picture)?;
            if (info.width, info.height) != (first.width, first.height) {
                return Err(MediaError::MixedSizes {
                    path: picture.clone(),
                    width: info.width,
                    height: info.height,
                    first_width: first.width,
                    first_height: first.height,
                });
            }
        }
        let info = VideoInfo {
            width: first.width,
            height: first.height,
            rotation: 0,
            avg_fps: fps.as_f64(),
            r_frame_rate: fps.as_f64(),
            duration_s: Some(pictures.len() as f64 / fps.as_f64()),
            frames: Some(pictures.len() as u64),
            codec: "pictures".to_owned(),
            container: "folder".to_owned(),
            has_audio: false,
            audio_codec: None,
            variable_frame_rate: false,
            metadata: settings(path),
        };
        Ok((Self { pictures, next: 0, fps }, info))
    }

    pub fn next_frame(&mut self) -> Result<Option<(RgbImage, f64)>> {
        let Some(path) = self.pictures.get(self.next) else {
            return Ok(None);
        };
        let time_s = self.next as f64 / self.fps.as_f64();
        self.next += 1;
        Ok(Some((read_rgb(path)?, time_s)))
    }
}

/// The folder's pictures in natural order: `frame_2` before `frame_10`. Hidden files and other types are passed over.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let fail = |source| MediaError::open(folder, source);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if !name.starts_with('.') && EXTENSIONS.contains(&extension.as_str()) && path.is_file() {
            found.push((name, path));
        }
    }
    if found.is_empty() {
        return Err(MediaError::EmptyFolder { path: folder.to_owned() });
    }
    found.sort_by(|a, b| natural(&a.0, &b.0));
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Compares names with runs of digits as numbers.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a_rest, mut b_rest) = (a, b);
    while let (Some(x), Some(y)) = (a_rest.chars().next(), b_rest.chars().next()) {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (m, n) = (digits(a_rest), digits(b_rest));
        let order = if m > 0 && n > 0 {
            let (p, q) = (a_rest[..m].trim_start_matches('0'), b_rest[..n].trim_start_matches('0'));
            (a_rest, b_rest) = (&a_rest[m..], &b_rest[n..]);
            p.len().cmp(&q.len()).then_with(|| p.cmp(q))
        } else {
            (a_rest, b_rest) = (&a_rest[x.len_utf8()..], &b_rest[y.len_utf8()..]);
            x.cmp(&y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    // Equal but for zeros, or one is the other's beginning.
    a_rest.len().cmp(&b_rest.len()).then_with(|| a.cmp(b))
}

/// Tags of a folder written here; none for any other folder.
fn settings(folder: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder.join(SETTINGS_FILE)).unwrap_or_default();
    let values: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    values
        .into_iter()
        .map(|(key, value)| match value {
            serde_json::Value::String(text) => (key, text),
            other => (key, other.to_string()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn numbers_sort_as_numbers() {
        let mut names = ["f10.png", "f9.png", "f001.png", "f1.png", "g0.png", "f10a.png", "a.png", "f2.png"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a.png", "f001.png", "f1.png", "f2.png", "f9.png", "f10.png", "f10a.png", "g0.png"]);
    }
}
