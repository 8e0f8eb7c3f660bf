//! What an evaluation is asked for.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Engine, PoseModels, PoseSettings, Settings};

/// What drives the clips of an evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Drive {
    /// The driving clip, whose poses the networks find: the whole way of a user's run.
    Video,
    /// The driving figure's exact keypoints, fitted to the reference as in a run.
    #[default]
    Keypoints,
    /// The exact target poses, not fitted to anything: what the model does with perfect conditions.
    Exact,
}

impl Drive {
    /// For people.
    pub(super) fn words(self) -> &'static str {
        match self {
            Drive::Video => "plain video",
            Drive::Keypoints => "the driving figure's keypoints",
            Drive::Exact => "the exact target poses",
        }
    }
}

/// Where the clips come from.
#[derive(Clone, Copy)]
pub enum EvalSource<'a> {
    /// A model makes them.
    Engine(&'a Engine),
    /// They are there: `NAME.mp4`, or a folder `NAME` of pictures, for each pair.
    Videos(&'a Path),
}

impl<'a> EvalSource<'a> {
    pub(super) fn engine(self) -> Option<&'a Engine> {
        match self {
            EvalSource::Engine(engine) => Some(engine),
            EvalSource::Videos(_) => None,
        }
    }
}

/// An evaluation to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalRequest {
    /// Folder of the set.
    pub set: PathBuf,
    /// Which of its pairs, counted from 0; `None` is all.
    pub pairs: Option<Range<usize>>,
    /// What drives.
    pub drive: Drive,
    /// Numbers of every clip. Size, frame rate and timing are the set's; `num_frames` may be less than the set's.
    pub settings: Settings,
    /// A frame rate that was asked for: an error unless it is the set's. That of `settings` does not count.
    pub fps: Option<f64>,
    /// How poses are found and fitted.
    pub pose: PoseSettings,
    /// The prompt of every clip; `None` takes each pair's own.
    pub prompt: Option<String>,
    /// What no clip must show; `None` is the model's customary negative prompt.
    pub negative_prompt: Option<String>,
    /// The networks that look for joints in the results; without them joints are not judged.
    pub judge: Option<PoseModels>,
    /// Whether clips are kept in the report's folder.
    pub keep_videos: bool,
    /// Rate factor of clips that are kept, 0 to 51. It changes no number: frames are judged before they are encoded.
    pub crf: u8,
    /// Drop what an unfinished evaluation of the same output with other settings has finished.
    pub restart: bool,
    /// The folder to be written: report.json, index.html, sheets/, videos/. It must be new or empty.
    pub output: PathBuf,
}
