//! A folder of png pictures, with the settings beside them.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use ::image::codecs::png::PngEncoder;
use ::image::{ExtendedColorType, ImageEncoder, RgbImage};

use super::writer::WriterOptions;
use crate::error::{MediaError, Result};
use crate::output::PendingFolder;

/// Holds the tags and the frame rate of a folder written here.
pub(super) const SETTINGS_FILE: &str = "settings.json";

/// Whether a folder written here has files of this name.
pub(super) fn is_ours(name: &str) -> bool {
    let number = name.strip_prefix("frame_").and_then(|rest| rest.strip_suffix(".png"));
    name == SETTINGS_FILE || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

pub(super) struct PngFolder {
    target: PathBuf,
    pending: PendingFolder,
    settings: serde_json::Value,
    count: usize,
}

impl PngFolder {
    pub fn create(target: &Path, options: &WriterOptions) -> Result<Self> {
        let pending = PendingFolder::replacing(target, is_ours)?;
        let mut settings = serde_json::json!({ "fps": options.fps.as_f64() });
        for (key, tag) in [("title", &options.title), ("comment", &options.comment)] {
            if let Some(text) = tag {
                // JSON stays JSON, so that the file reads well; the reader gives it back as text.
                settings[key] = match key {
                    "comment" => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
                    _ => text.as_str().into(),
                };
            }
        }
        Ok(Self { target: target.to_owned(), pending, settings, count: 0 })
    }

    pub fn write(&mut self, image: &RgbImage) -> Result<()> {
        let path = self.pending.path().join(format!("frame_{:04}.png", self.count));
        self.count += 1;
        let fail = |e: &dyn std::fmt::Display| MediaError::write(&self.target, e);
        let mut file = BufWriter::new(File::create(&path).map_err(|e| fail(&e))?);
        PngEncoder::new(&mut file)
            .write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)
            .map_err(|e| fail(&e))?;
        let file = file.into_inner().map_err(|e| fail(&e.error()))?;
        file.sync_all().map_err(|e| fail(&e))
    }

    pub fn finish(self) -> Result<()> {
        let text = format!("{:#}\n", self.settings);
        fs::write(self.pending.path().join(SETTINGS_FILE), text).map_err(|e| MediaError::write(&self.target, e))?;
        self.pending.commit()
    }
}
