//! Quality, measured: clips for pairs whose truth is known, judged against it. `docs/eval.md` is for those who read
//! reports.
//!
//! The metrics are plain functions of pictures: [`psnr`], [`ssim`], [`jitter`], [`background_jitter`], [`appearance`],
//! [`joint_score`], and [`Similarity`] for the baseline. [`EvalSet`] is a set of pairs, [`evaluate`] makes and judges a
//! clip for each, and an [`EvalReport`] tells the outcome and can be [compared](EvalReport::compare) with an earlier
//! one.

mod appearance;
mod compare;
mod error;
mod fidelity;
mod identity;
mod jitter;
mod joints;
mod marker;
mod page;
mod pair;
mod report;
mod request;
mod run;
mod scores;
mod set;
mod sheet;
mod similarity;
mod unfinished;
mod write;

pub use appearance::{Appearance, appearance};
pub use compare::{Comparison, Difference};
pub use error::EvalError;
pub use fidelity::{PSNR_CAP_DB, psnr, ssim};
pub use jitter::{background_jitter, jitter};
pub use joints::{JointScore, PCK_RADIUS, joint_score};
pub use report::{EvalReport, JudgeNote, Judged, LoraNote, ModelNote, NetworksNote, Summary};
pub use request::{Drive, EvalRequest, EvalSource};
pub use run::evaluate;
pub use scores::{METRICS, Metric, Scores};
pub use set::{EvalSet, PairFiles, PairInfo, SetInfo, Truth};
pub use similarity::{PointPair, Similarity};

/// One frame's figure: whether each pixel belongs to it, row by row from the top.
pub type Mask = Vec<bool>;
