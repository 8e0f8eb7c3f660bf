//! Which files make up a model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::PipelineError;

/// Where a model comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[non_exhaustive]
pub enum ModelSource {
    /// The one inside the program.
    #[default]
    Demo,
    /// Files.
    Files(ModelFiles),
}

/// The files of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFiles {
    /// Diffusion transformer: a file, a shard index, or a folder.
    pub dit: PathBuf,
    /// VAE.
    pub vae: PathBuf,
    /// UMT5 encoder.
    pub text_encoder: PathBuf,
    /// CLIP vision tower.
    pub image_encoder: PathBuf,
    /// `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Sizes that shapes do not tell (`steadydance.json`); only for models of unusual size.
    pub config: Option<PathBuf>,
}

/// Files that stand elsewhere than [`ModelFiles::find`] looks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ModelOverrides {
    /// See [`ModelFiles::vae`].
    pub vae: Option<PathBuf>,
    /// See [`ModelFiles::text_encoder`].
    pub text_encoder: Option<PathBuf>,
    /// See [`ModelFiles::image_encoder`].
    pub image_encoder: Option<PathBuf>,
    /// See [`ModelFiles::tokenizer`].
    pub tokenizer: Option<PathBuf>,
}

impl ModelFiles {
    /// Finds the parts of a model: `path` is a folder in the official layout, or the transformer's file with the
    /// other parts beside it or named in `overrides`.
    ///
    /// # Errors
    /// A part is missing; the error says which names were looked for.
    pub fn find(_path: &Path, _overrides: &ModelOverrides) -> Result<Self, PipelineError> {
        unimplemented!()
    }
}
