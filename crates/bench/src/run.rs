//! Cases are set up, run, and measured.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use dit::{Conditioning, Dit, Inputs, PoseInputs};
use image::RgbImage;
use kernels::Compute;
use kernels::cuda::CudaError;
use kernels::peak::probe;
use offload::Meter;
use pipeline::{AnimateRequest, Engine, EngineOptions, ModelSource, Motion, PipelineError, Settings, work};
use tempfile::TempDir;
use weights::convert::Form;
use weights::{Checkpoint, RandomWeights, TensorSource, WeightSource, Weights};

use crate::gpu::{self, GpuCase, GpuNote, Numbers, OpenGpu, Watched};
use crate::weights::one_for_all;
use crate::{Case, Environment, Measured, Model, OnGpu, PeakRates, Report, Statistics, What};

/// How often cases are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Runs before those that count.
    pub warmups: usize,
    /// Fewest runs that count, at least 1.
    pub runs: usize,
    /// More are made until this has passed, at most ten times as many.
    pub time: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { warmups: 1, runs: 3, time: Duration::from_secs(2) }
    }
}

/// A case that cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A network failed.
    #[error("{case}: {source}")]
    Network {
        /// The case.
        case: String,
        /// What it said.
        source: candle_core::Error,
    },
    /// A clip failed.
    #[error("{case}: {source}")]
    Clip {
        /// The case.
        case: String,
        /// What the engine said.
        source: Box<PipelineError>,
    },
    /// Files cannot be written or read.
    #[error("{case}: {problem}; free some room in the temporary folder (TMPDIR)")]
    Files {
        /// The case.
        case: String,
        /// What the system said.
        problem: String,
    },
    /// The GPU failed.
    #[error("{case}: {source}")]
    Gpu {
        /// The case.
        case: String,
        /// What it said.
        source: CudaError,
    },
    /// The case is one for a GPU.
    #[error("{case} is measured on a GPU and none was opened; choose --device cuda")]
    NoGpu {
        /// The case.
        case: String,
    },
    /// What a forward gave is not finite.
    #[error("{case}: the network's output is not finite; run `steadydance bench numerics` on this GPU")]
    NotFinite {
        /// The case.
        case: String,
    },
    /// The observer asked to stop.
    #[error("cancelled during {case}")]
    Cancelled {
        /// The case that was at work.
        case: String,
    },
}

/// What a case is once it is set up.
pub(crate) struct Ready {
    /// Runs it once.
    once: Once,
    /// Operations of a run.
    flop: f64,
    /// What most of them are in.
    compute: Compute,
    bytes: Option<u64>,
    /// How much of the network a run is.
    share: f64,
    /// Of one on a GPU.
    watched: Option<Watched>,
}

type Once = Box<dyn FnMut() -> Result<(), Failed>>;

impl Ready {
    /// A case on the host, of so many operations.
    fn on_host(once: Once, flop: f64, compute: Compute) -> Self {
        Self { once, flop, compute, bytes: None, share: 1.0, watched: None }
    }

    /// A case on a GPU, of so many operations.
    pub fn on_gpu(once: Once, flop: f64, watched: Watched) -> Self {
        Self { watched: Some(watched), ..Self::on_host(once, flop, Compute::Bf16) }
    }

    /// Runs it once, and tells the seconds: on a GPU by its own clock, from before its first work to after the last.
    fn seconds(&mut self) -> Result<f64, Failed> {
        let Some(watched) = &self.watched else {
            let start = Instant::now();
            (self.once)()?;
            return Ok(start.elapsed().as_secs_f64());
        };
        let before = watched.now()?;
        (self.once)()?;
        let after = watched.now()?;
        after.synchronise()?;
        Ok(before.seconds_to(&after)?)
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    #[error("{0}")]
    Network(#[from] candle_core::Error),
    #[error("{0}")]
    Clip(Box<PipelineError>),
    #[error("{0}")]
    Files(String),
    #[error("{0}")]
    Gpu(#[from] CudaError),
    #[error("no GPU")]
    NoGpu,
    #[error("not finite")]
    NotFinite,
}

impl From<PipelineError> for Failed {
    fn from(error: PipelineError) -> Self {
        Self::Clip(Box::new(error))
    }
}

impl Failed {
    /// Of a case, or what else it happened to.
    pub fn of(self, case: &str) -> BenchError {
        let case = case.to_owned();
        match self {
            Self::Network(source) => BenchError::Network { case, source },
            Self::Clip(source) => BenchError::Clip { case, source },
            Self::Files(problem) => BenchError::Files { case, problem },
            Self::Gpu(source) => BenchError::Gpu { case, source },
            Self::NoGpu => BenchError::NoGpu { case },
            Self::NotFinite => BenchError::NotFinite { case },
        }
    }
}

/// Measures `cases` one after the other, those for a GPU on this one. `told` sees each case before it begins and, with its result,
/// when it is done; what it returns before a case or between runs says whether to go on.
///
/// # Errors
/// A case cannot be set up or fails; `told` says stop.
pub fn run(
    cases: &[Case],
    options: &Options,
    gpu: Option<&OpenGpu>,
    told: &mut dyn FnMut(&Case, Option<&Measured>) -> bool,
) -> Result<Report, BenchError> {
    let mut report = Report::new(Environment::here(), Vec::with_capacity(cases.len()));
    let of_gpu = |source| BenchError::Gpu { case: "the GPU's peaks".to_owned(), source };
    report.gpu = gpu.map(OpenGpu::note).transpose().map_err(of_gpu)?;
    for case in cases {
        let cancelled = || BenchError::Cancelled { case: case.name.clone() };
        if !told(case, None) {
            return Err(cancelled());
        }
        if let Some(gpu) = gpu {
            gpu.tidy().map_err(|e| Failed::from(e).of(&case.name))?;
            gpu.gpu().pool().restart_peaks();
        }
        let began = Instant::now();
        let meter = Meter::start();
        let mut ready = set_up(&case.what, gpu).map_err(|e| e.of(&case.name))?;
        let mut first = None;
        for _ in 0..options.warmups {
            ready.seconds().map_err(|e| e.of(&case.name))?;
            first.get_or_insert_with(|| began.elapsed());
        }
        let peak = if ready.watched.is_none() { Some(PeakRates::of(probe())) } else { None };
        meter.as_ref().map(Meter::take_peak);
        let (mut seconds, start) = (Vec::new(), Instant::now());
        let (least, copied) = (options.runs.max(1), ready.watched.as_ref().map_or(0, Watched::copied));
        while seconds.len() < least || (start.elapsed() < options.time && seconds.len() < 10 * least) {
            seconds.push(ready.seconds().map_err(|e| e.of(&case.name))?);
            first.get_or_insert_with(|| began.elapsed());
            if !told(case, None) {
                return Err(cancelled());
            }
        }
        let runs = seconds.len();
        let Some(time) = Statistics::of(seconds) else { return Err(cancelled()) };
        let peak_bytes = meter.as_ref().map(Meter::take_peak);
        let mut result = result(case, &ready, time, peak_bytes);
        match (&case.what, &report.gpu) {
            (What::OnGpu(what), Some(note)) => {
                let first = first.map_or(0.0, |first| first.as_secs_f64());
                result
                    .of_gpu(what, note, |median| on_gpu(&mut ready, median, first, (copied, runs)))
                    .map_err(|e| e.of(&case.name))?;
            }
            _ => result.of_host(ready.compute, peak),
        }
        told(case, Some(&result));
        report.cases.push(result);
    }
    Ok(report)
}

/// What there is to tell of a case on a GPU; `copied` is what was copied before so many runs.
fn on_gpu(
    ready: &mut Ready,
    median: f64,
    first_seconds: f64,
    (copied, runs): (u64, usize),
) -> Result<Option<GpuCase>, Failed> {
    let Some(watched) = &ready.watched else { return Ok(None) };
    let copied = (watched.copied() - copied) / runs.max(1) as u64;
    let gpu = watched.open.gpu().clone();
    let mut kernels = Vec::new();
    if watched.is_network {
        gpu.start_profile();
        let done = (ready.once)();
        kernels = gpu.end_profile()?;
        done?;
    }
    Ok(ready.watched.as_ref().map(|w| w.result(median, first_seconds, copied, kernels)))
}

fn result(case: &Case, ready: &Ready, time: Statistics, peak_bytes: Option<u64>) -> Measured {
    Measured {
        name: case.name.clone(),
        flop: ready.flop,
        gflops: (ready.flop > 0.0).then(|| ready.flop / time.median / 1e9),
        of_peak: None,
        peak_in: None,
        peak: None,
        bytes: ready.bytes,
        whole_seconds: (ready.share < 1.0).then(|| time.median / ready.share),
        peak_bytes,
        gpu: None,
        time,
    }
}

impl Measured {
    fn of_host(&mut self, compute: Compute, peak: Option<PeakRates>) {
        let Some(peak) = peak else { return };
        // Without the instructions of a kind the next more exact one is what is computed in.
        let (most, numbers) = match compute {
            Compute::Int8 if peak.int8_gops.is_some() => (peak.int8_gops, Compute::Int8),
            Compute::Int8 | Compute::Bf16 if peak.bf16_gflops.is_some() => (peak.bf16_gflops, Compute::Bf16),
            _ => (Some(peak.f32_gflops), Compute::F32),
        };
        self.of_peak = self.gflops.zip(most).map(|(rate, most)| rate / most);
        self.peak_in = self.gflops.map(|_| numbers.name().to_owned());
        self.peak = Some(peak);
    }

    fn of_gpu(
        &mut self,
        what: &OnGpu,
        note: &GpuNote,
        told: impl FnOnce(f64) -> Result<Option<GpuCase>, Failed>,
    ) -> Result<(), Failed> {
        let (numbers, most) = Numbers::of(what).most(&note.peaks);
        self.of_peak = self.gflops.map(|rate| rate / most);
        self.peak_in = Some(numbers.to_owned());
        self.gpu = told(self.time.median)?;
        Ok(())
    }
}

fn set_up(what: &What, gpu: Option<&OpenGpu>) -> Result<Ready, Failed> {
    match *what {
        What::Load { bytes } => load(bytes),
        What::TextEncoder { layers, tokens, form, compute } => text_encoder(layers, tokens, form, compute),
        What::ImageEncoder { form, compute } => image_encoder(form, compute),
        What::VaeEncode { size } => vae_encode(size),
        What::VaeDecode { size } => vae_decode(size),
        What::Transformer { model, size, blocks, form, compute } => transformer(model, size, blocks, form, compute),
        What::OnGpu(what) => on_this(gpu.ok_or(Failed::NoGpu)?, what),
        What::Clip { frames, compute } => clip(frames, compute),
    }
}

fn on_this(open: &OpenGpu, what: OnGpu) -> Result<Ready, Failed> {
    match what {
        OnGpu::Product { shape, form } => gpu::product(open, shape, form),
        OnGpu::Attention { shape, precision } => gpu::attention(open, shape, precision),
        OnGpu::Transformer(forward) => gpu::transformer(open, forward),
    }
}

/// Weights whose blocks are multiplied in `compute`.
fn held(group: &'static str, form: Form, compute: Compute) -> Arc<dyn WeightSource> {
    Arc::new(weights::Computing::new(one_for_all(group, form), compute))
}

pub(crate) fn random(name: &str, shape: &[usize]) -> candle_core::Result<Tensor> {
    // Named as a gain would be, it lies around one; as a vector, near zero: one dimension more makes it normal.
    let flat: usize = shape.iter().product();
    RandomWeights::new(2)
        .tensor(name, &[flat, 2], Some(DType::F32), &Device::Cpu)?
        .narrow(1, 0, 1)?
        .contiguous()?
        .reshape(shape)
}

fn load(bytes: u64) -> Result<Ready, Failed> {
    const COLUMNS: usize = 4096;
    let files = |e: &dyn std::fmt::Display| Failed::Files(e.to_string());
    let folder = tempfile::tempdir().map_err(|e| files(&e))?;
    let path = folder.path().join("weights.safetensors");
    let count = 16;
    let rows = (bytes as usize / count / COLUMNS / 2).max(1);
    let one = RandomWeights::new(3).tensor("weight", &[rows, COLUMNS], Some(DType::BF16), &Device::Cpu)?;
    let tensors = (0..count).map(|i| (format!("blocks.{i}.weight"), one.clone())).collect();
    weights::save_safetensors(&path, &tensors, &Default::default()).map_err(|e| files(&e))?;
    let bytes = std::fs::metadata(&path).map_err(|e| files(&e))?.len();
    let once = move || {
        // The folder lives as long as the case.
        let path: &Path = &folder.path().join("weights.safetensors");
        let checkpoint = Checkpoint::open(path).map_err(|e| Failed::Files(e.to_string()))?;
        for entry in checkpoint.entries() {
            checkpoint.load(&entry.name, &entry.shape, None, &Device::Cpu)?.force_contiguous()?;
        }
        Ok(())
    };
    Ok(Ready { bytes: Some(bytes), ..Ready::on_host(Box::new(once), 0.0, Compute::F32) })
}

fn text_encoder(layers: usize, tokens: usize, form: Form, compute: Compute) -> Result<Ready, Failed> {
    let whole = umt5::Config::xxl();
    let share = layers as f64 / whole.num_layers as f64;
    let config = umt5::Config { num_layers: layers, ..whole };
    let flop = work::text_encoder(&config, tokens)?;
    let net = umt5::Encoder::new(&config, held("blocks", form, compute))?;
    let ids: Vec<u32> = (0..tokens as u32).map(|i| 1 + i * 37 % 30_000).collect();
    let once = move || Ok(net.encode(&ids).map(drop)?);
    Ok(Ready { share, ..Ready::on_host(Box::new(once), flop, compute) })
}

fn image_encoder(form: Form, compute: Compute) -> Result<Ready, Failed> {
    let config = clip::Config::vit_h_14();
    let flop = work::image_encoder(&config)?;
    let net = clip::VisionTower::new(&config, held("transformer", form, compute))?;
    let pixels = random("pixels", &[1, 3, config.image_size, config.image_size])?;
    let once = move || Ok(net.forward(&pixels).map(drop)?);
    Ok(Ready::on_host(Box::new(once), flop, compute))
}

fn vae_weights() -> Weights {
    Weights::new(Arc::new(RandomWeights::new(4)), Device::Cpu, None)
}

fn vae_encode([width, height, frames]: [usize; 3]) -> Result<Ready, Failed> {
    let config = vae::Config::wan21();
    let (flop, _) = work::autoencoder(&config, [width, height, frames])?;
    let net = vae::Encoder::new(&config, &vae_weights())?;
    let video = random("video", &[1, 3, frames, height, width])?;
    let once = move || Ok(net.encode(&video).map(drop)?);
    Ok(Ready::on_host(Box::new(once), flop, Compute::F32))
}

fn vae_decode([width, height, frames]: [usize; 3]) -> Result<Ready, Failed> {
    let config = vae::Config::wan21();
    let (_, flop) = work::autoencoder(&config, [width, height, frames])?;
    let net = vae::Decoder::new(&config, &vae_weights())?;
    let latents = random("latents", &[1, config.z_dim, (frames - 1) / 4 + 1, height / 8, width / 8])?;
    let once = move || {
        for chunk in net.decode(&latents)? {
            chunk?;
        }
        Ok(())
    };
    Ok(Ready::on_host(Box::new(once), flop, Compute::F32))
}

fn transformer(
    model: Model,
    [width, height, frames]: [usize; 3],
    blocks: usize,
    form: Form,
    compute: Compute,
) -> Result<Ready, Failed> {
    let whole = model.config();
    let share = blocks as f64 / whole.num_layers as f64;
    let config = dit::Config { num_layers: blocks, ..whole };
    let flop = work::transformer(&config, [width, height, frames]);
    let net = Dit::new(&config, held("blocks", form, compute))?;
    let [f, h, w] = [(frames - 1) / 4 + 1, height / 8, width / 8];
    let latents = random("latents", &[16, f, h, w])?;
    let conditions = conditions(&net, &config, [f, h, w])?;
    let once = move || Ok(net.forward(&latents, 700.0, &conditions, &mut dit::no_tap).map(drop)?);
    Ok(Ready { share, ..Ready::on_host(Box::new(once), flop, compute) })
}

/// A prompt of customary length, and what else the network takes.
pub(crate) fn conditions(net: &Dit, config: &dit::Config, [f, h, w]: [usize; 3]) -> candle_core::Result<Conditioning> {
    const PROMPT_TOKENS: usize = 60;
    let tokens = clip::Config::vit_h_14().tokens();
    let image = || random("image tokens", &[1, tokens, config.clip_dim]);
    let has_image = config.in_dim > 16;
    let pose = |channels, frames| random("pose latents", &[channels, frames, h, w]);
    let inputs = Inputs {
        text_embeds: Some(random("text", &[PROMPT_TOKENS.min(config.text_len), config.text_dim])?),
        ref_image_embeds: if has_image { Some(image()?) } else { None },
        image_latents: if has_image { Some(pose(20, f)?) } else { None },
        pose: if config.is_steadydancer() {
            Some(PoseInputs {
                pose_latents: pose(16, f)?,
                ref_latents: pose(36, 1)?,
                pose_ref_latents: pose(16, 1)?,
                pose_image_embeds: image()?,
            })
        } else {
            None
        },
        vace: None,
    };
    net.prepare(&inputs, &mut dit::no_tap)
}

/// A request for the demo over pictures that are drawn into a folder, which lives as long as it is kept.
pub(crate) fn drawn_request([width, height]: [usize; 2], frames: usize) -> Result<(TempDir, AnimateRequest), Failed> {
    let files = |e: &dyn std::fmt::Display| Failed::Files(e.to_string());
    let folder = tempfile::tempdir().map_err(|e| files(&e))?;
    let poses = folder.path().join("pose");
    std::fs::create_dir(&poses).map_err(|e| files(&e))?;
    let [w, h] = [width as u32, height as u32];
    let drawn =
        |t: usize| RgbImage::from_fn(w, h, |x, y| image::Rgb([if (x + t as u32) / 4 == y / 6 { 255 } else { 0 }; 3]));
    for t in 0..frames {
        drawn(t).save(poses.join(format!("{t:04}.png"))).map_err(|e| files(&e))?;
    }
    let picture = RgbImage::from_fn(w, h, |x, y| image::Rgb([x as u8, y as u8, 90]));
    picture.save(folder.path().join("ref.png")).map_err(|e| files(&e))?;
    let preset = models::preset("demo").map_err(|e| Failed::Files(e.to_string()))?;
    let settings = Settings {
        size: Some([width, height]),
        num_frames: Some(frames),
        ..Settings::from_preset(&preset).map_err(PipelineError::from)?
    };
    let motion = Motion::Drawn { pose: poses, neg_pose: None, drive: None };
    let mut request =
        AnimateRequest::new(folder.path().join("ref.png"), motion, settings).output(folder.path().join("clip.mp4"));
    request.snapshot_interval = None;
    Ok((folder, request))
}

/// The demo over drawn pictures: time does not depend on what is in them.
fn clip(frames: usize, compute: Compute) -> Result<Ready, Failed> {
    let (folder, request) = drawn_request([160, 224], frames)?;
    let preset = models::preset("demo").map_err(|e| Failed::Files(e.to_string()))?;
    let device = "cpu".to_owned();
    let options = EngineOptions { device, compute: Some(compute), ..EngineOptions::for_preset(&preset) };
    let engine = Engine::open(&ModelSource::Demo, &options)?;
    let once = move || {
        // The folder lives as long as the case.
        let _ = std::fs::remove_file(folder.path().join("clip.mp4"));
        Ok(engine.animate(&request, &mut ()).map(drop)?)
    };
    Ok(Ready::on_host(Box::new(once), 0.0, compute))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(what: What) -> Case {
        Case { name: what.to_string(), what, usual: true }
    }

    #[test]
    fn small_cases_run_and_say_what_they_did() {
        let cases = [
            case(What::Load { bytes: 1 << 20 }),
            case(What::Transformer {
                model: Model::Wan1_3b,
                size: [64, 64, 1],
                blocks: 1,
                form: "q8_0".parse().unwrap(),
                compute: Compute::Bf16,
            }),
            case(What::Clip { frames: 5, compute: Compute::F32 }),
        ];
        let options = Options { warmups: 0, runs: 2, time: Duration::ZERO };
        let mut told = Vec::new();
        let mut tell = |case: &Case, done: Option<&Measured>| {
            told.extend(done.map(|_| case.name.clone()));
            true
        };
        let report = run(&cases, &options, None, &mut tell).unwrap();
        assert_eq!(told, cases.clone().map(|c| c.name));
        for (case, measured) in cases.iter().zip(&report.cases) {
            assert_eq!((&case.name, measured.time.seconds.len()), (&measured.name, 2));
        }
        let [load, forward, clip] = &report.cases[..] else { panic!("three cases") };
        assert!(load.bytes.is_some_and(|b| b > 1 << 20) && load.gflops.is_none());
        let whole = forward.whole_seconds.unwrap() / forward.time.median;
        assert!((whole - 30.0).abs() < 1e-9 && forward.of_peak.is_some_and(|share| share > 0.0), "{forward:?}");
        assert!(clip.whole_seconds.is_none());
        assert!(matches!(run(&cases, &options, None, &mut |_, _| false), Err(BenchError::Cancelled { .. })));
    }

    #[test]
    fn every_network_is_set_up_for_its_inputs() {
        for model in [Model::WanI2v14b, Model::SteadyDancer14b] {
            let whole = model.config();
            // The wiring of the large ones at a width that takes a moment.
            let config = dit::Config { num_layers: 1, dim: 256, ffn_dim: 256, num_heads: 2, ..whole };
            let net = Dit::new(&config, held("blocks", Form::BF16, Compute::F32)).unwrap();
            let conditions = conditions(&net, &config, [1, 8, 8]).unwrap();
            let out = net.forward(&random("x", &[16, 1, 8, 8]).unwrap(), 500.0, &conditions, &mut dit::no_tap).unwrap();
            assert_eq!(out.dims(), [16, 1, 8, 8]);
        }
    }
}
