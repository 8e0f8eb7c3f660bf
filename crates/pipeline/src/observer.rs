//! What a run tells while it goes on, and how it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::Tensor;
use image::RgbImage;
use offload::Phase;
use serde::Serialize;

/// Something that happened. Serialises to one JSON object with an `event` field.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Something worth knowing that is no error: what was chosen, skipped, held or is unusual.
    Note {
        /// One line.
        message: String,
    },
    /// A phase begins; it will report `total` units of progress.
    PhaseStarted {
        /// Which.
        phase: Phase,
        /// Units of work in it: frames, layers or forwards.
        total: usize,
    },
    /// Part of a phase is done.
    Progress {
        /// Which.
        phase: Phase,
        /// Units done so far.
        done: usize,
        /// Units in all.
        total: usize,
    },
    /// A phase has ended and its weights are released.
    PhaseFinished {
        /// Which.
        phase: Phase,
        /// Wall-clock seconds.
        seconds: f64,
    },
    /// One sampler step is done.
    Step {
        /// 1-based.
        step: usize,
        /// Steps in all.
        total: usize,
        /// Timestep the network saw, 0..=1000.
        timestep: f64,
        /// Noise level before the step, 0..=1.
        sigma: f64,
        /// Forwards it took.
        forwards: usize,
        /// Wall-clock seconds.
        seconds: f64,
    },
    /// An evaluation turns to a pair; the events of its run follow.
    PairStarted {
        /// The pair's name.
        name: String,
        /// 1-based.
        pair: usize,
        /// Pairs in all.
        total: usize,
    },
    /// A pair of an evaluation is judged, or was by an earlier call that was interrupted.
    PairFinished {
        /// The pair's name.
        name: String,
        /// 1-based.
        pair: usize,
        /// Pairs in all.
        total: usize,
        /// Its metrics.
        scores: Box<crate::eval::Scores>,
        /// Wall-clock seconds, judging included; 0 if it was known.
        seconds: f64,
    },
}

/// Receives what a run tells. Every method has a default that does nothing, and `()` is an observer.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, _event: &Event) {}

    /// `latents` `[16, F, h, w]` f32 after `step` (1-based) of the sampling loop.
    fn latents(&mut self, _step: usize, _latents: &Tensor) {}

    /// A named tensor on its way: `text_embeds`, `neg_text_embeds` `[n, text_dim]`, `ref_image_embeds`,
    /// `pose_image_embeds` `[1, tokens, clip_dim]`, `image_latents` `[16, F, h, w]`, `frame_mask` `[4, F, h, w]`,
    /// `ref_latents`, `pose_ref_latents` `[16, 1, h, w]`, `pose_latents`, `neg_pose_latents` `[16, F, h, w]`,
    /// `noise` `[16, F, h, w]`, `velocity` `[16, F, h, w]` after guidance, and `video` `[3, n, H, W]` in −1..=1, chunk
    /// after chunk. For parity checks and for those who want more than frames.
    fn tensor(&mut self, _name: &str, _tensor: &Tensor) {}

    /// The initial noise `[16, F, h, w]` f32, when it is to be another than the seed's (say, one exported from another
    /// program: seeds are not portable between programs).
    fn initial_noise(&mut self) -> Option<Tensor> {
        None
    }

    /// Frame `index` of the result, before it is encoded.
    fn frame(&mut self, _index: usize, _frame: &RgbImage) {}

    /// Asked between small pieces of work; `true` stops the run with
    /// [`PipelineError::Cancelled`](crate::PipelineError::Cancelled) and removes partial files.
    fn cancelled(&self) -> bool {
        false
    }
}

impl Observer for () {}

/// A flag that stops a run from another thread or a signal handler. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// Asks the run to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
