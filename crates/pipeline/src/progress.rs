//! The observer with a sense of phases: what is running, how far it is, and whether to go on.

use std::time::Instant;

use candle_core::Tensor;
use offload::{Meter, Phase};

use crate::{Event, Observer, PipelineError};

/// Wraps the observer for one run.
pub(crate) struct Progress<'a> {
    observer: &'a mut dyn Observer,
    phase: Phase,
    done: usize,
    total: usize,
    started: Instant,
    /// Seconds of the finished phases.
    pub seconds: Vec<(Phase, f64)>,
    /// What this process had at most in the finished phases, in bytes, where the system tells.
    pub peaks: Vec<(Phase, u64)>,
    /// What was done when memory ran out.
    pub replans: Vec<String>,
    meter: Option<Meter>,
    /// Of the phase that is running.
    span: Option<tracing::span::EnteredSpan>,
}

impl<'a> Progress<'a> {
    pub fn new(observer: &'a mut dyn Observer) -> Self {
        Self {
            observer,
            phase: Phase::Pose,
            done: 0,
            total: 0,
            started: Instant::now(),
            seconds: Vec::new(),
            peaks: Vec::new(),
            replans: Vec::new(),
            meter: Meter::start(),
            span: None,
        }
    }

    pub fn observer(&mut self) -> &mut dyn Observer {
        self.observer
    }

    pub fn note(&mut self, message: impl Into<String>) {
        self.observer.event(&Event::Note { message: message.into() });
    }

    /// A phase goes on in another way than planned.
    pub fn replanned(&mut self, what: String) {
        self.note(what.as_str());
        self.replans.push(what);
    }

    pub fn begin(&mut self, phase: Phase, total: usize) -> Result<(), PipelineError> {
        (self.phase, self.done, self.total, self.started) = (phase, 0, total, Instant::now());
        // What was left open by an attempt that failed ends before the next begins.
        self.span = None;
        self.span = Some(phase_span(phase));
        self.meter.as_ref().map(Meter::take_peak);
        self.observer.event(&Event::PhaseStarted { phase, total });
        self.check()
    }

    /// `units` more are done.
    pub fn advance(&mut self, units: usize) -> Result<(), PipelineError> {
        self.set(self.done + units)
    }

    /// `done` units are done in all.
    pub fn set(&mut self, done: usize) -> Result<(), PipelineError> {
        self.done = done.min(self.total);
        self.observer.event(&Event::Progress { phase: self.phase, done: self.done, total: self.total });
        self.check()
    }

    pub fn end(&mut self) -> Result<(), PipelineError> {
        let seconds = self.started.elapsed().as_secs_f64();
        self.span = None;
        self.seconds.push((self.phase, seconds));
        self.peaks.extend(self.meter.as_ref().map(|meter| (self.phase, meter.take_peak())));
        self.observer.event(&Event::PhaseFinished { phase: self.phase, seconds });
        self.check()
    }

    pub fn tensor(&mut self, name: &str, tensor: &Tensor) {
        self.observer.tensor(name, tensor);
    }

    /// An error when the observer wants to stop.
    pub fn check(&self) -> Result<(), PipelineError> {
        if self.observer.cancelled() { Err(PipelineError::Cancelled { phase: self.phase }) } else { Ok(()) }
    }

    /// Names the place of a computation's failure; a wish to stop that came through a network stays what it is.
    pub fn explain(&self, place: impl FnOnce() -> String, source: candle_core::Error) -> PipelineError {
        if self.observer.cancelled() {
            return PipelineError::Cancelled { phase: self.phase };
        }
        PipelineError::from_compute(place(), source)
    }
}

/// A span by the phase's name, so that tables tell phases apart.
fn phase_span(phase: Phase) -> tracing::span::EnteredSpan {
    macro_rules! span {
        ($name:literal) => {
            tracing::info_span!(target: "steadydance", $name)
        };
    }
    let span = match phase {
        Phase::Pose => span!("pose"),
        Phase::Preview => span!("preview"),
        Phase::TextEncode => span!("text-encode"),
        Phase::ImageEncode => span!("image-encode"),
        Phase::VaeEncode => span!("vae-encode"),
        Phase::Denoise => span!("denoise"),
        Phase::Decode => span!("decode"),
        _ => span!("another phase"),
    };
    span.entered()
}
