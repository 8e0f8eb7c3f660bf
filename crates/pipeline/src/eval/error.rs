//! What is wrong with an evaluation.

use std::path::PathBuf;

use crate::ErrorKind;

/// Why an evaluation cannot be made, or two cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A file of a set cannot be used.
    #[error("{path}: {problem}; docs/eval.md says what a set consists of")]
    Set {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The set has no such pairs.
    #[error(
        "pairs {from}..{to} are not all there: the set has {found}; \
         give N for the first N, or A..B with B at most {found}"
    )]
    NoSuchPairs {
        /// First that was asked for.
        from: usize,
        /// The one after the last.
        to: usize,
        /// Pairs of the set.
        found: usize,
    },
    /// A setting that the set decides was given another value.
    #[error("{name} is {found}, but the set's truths have {expected}; leave it out, or give {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        found: String,
        /// What the set has.
        expected: String,
    },
    /// More frames than the truth has.
    #[error("num_frames is {found}, but the set's truths have {available} frames; give {largest} or less")]
    TooManyFrames {
        /// What was asked for.
        found: usize,
        /// Frames of the set.
        available: usize,
        /// The largest 4n+1 that fits.
        largest: usize,
    },
    /// A video that is to be judged does not suit its pair.
    #[error("{path}: {problem}; a video to be judged has the truth's size and at least as many frames")]
    Video {
        /// The video, or where it should be.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A report cannot be read.
    #[error("{path}: {problem}; give the report.json of `steadydance eval`")]
    Report {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Two reports have no pair in common.
    #[error("{path}: it has no pair of this set; compare with a report of the same set")]
    NothingInCommon {
        /// The other report.
        path: PathBuf,
    },
    /// Two reports are of different sets.
    #[error("{path}: it is of another set ({differs}); compare with a report of the same set")]
    OtherSet {
        /// The other report.
        path: PathBuf,
        /// In what they differ.
        differs: String,
    },
    /// The folder of unfinished work is something else.
    #[error(
        "{path}: it is no unfinished evaluation of this program ({problem}); \
         move it away, or choose another name with -o"
    )]
    NotUnfinished {
        /// The folder.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// Another process works in the folder.
    #[error("{path} is in use by another evaluation; wait for it, or choose another name with -o")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// The folder has finished pairs of another evaluation.
    #[error(
        "{path}: {finished} pair(s) in it were finished with other values of {differs}; go on with those of then, \
         drop the pairs with --restart, or choose another name with -o"
    )]
    OtherSettings {
        /// The folder.
        path: PathBuf,
        /// Pairs that are finished in it.
        finished: usize,
        /// In what the evaluations differ.
        differs: String,
    },
    /// The observer asked to stop while no clip was being made.
    #[error("cancelled while judging pair {pair}")]
    Cancelled {
        /// Its name.
        pair: String,
    },
}

impl EvalError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            EvalError::Set { .. } | EvalError::Video { .. } | EvalError::Report { .. } => ErrorKind::Input,
            EvalError::Cancelled { .. } => ErrorKind::Cancelled,
            _ => ErrorKind::Usage,
        }
    }
}
