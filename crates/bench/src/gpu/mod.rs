//! Cases on a GPU: opening it, what it can do at most, and what is measured beside time.

mod kernels;
mod transformer;

use std::sync::Arc;

use ::kernels::cuda::{CudaError, Event, Gpu, GpuTensor, KernelTime, NoGpu};
use ::kernels::quant::Encoding;
use dit::Attention;
use offload::{CONTEXT_BYTES, DeviceFacts, Machine, Traffic};
use serde::{Deserialize, Serialize};

use crate::{Forward, OnGpu};

pub(crate) use kernels::{attention, probe, product};
pub(crate) use transformer::transformer;

/// A GPU to measure.
#[derive(Clone)]
pub struct OpenGpu {
    gpu: Gpu,
    facts: DeviceFacts,
}

impl OpenGpu {
    /// The one of this number, opened as a run does it.
    ///
    /// # Errors
    /// Why there is none that could be used.
    pub fn open(ordinal: u32) -> Result<Self, NoGpu> {
        let (gpu, facts) = pipeline::open_gpu(ordinal)?;
        Ok(Self { gpu, facts })
    }

    /// Emulated ones are as slow as programs get.
    pub(crate) fn is_emulated(&self) -> bool {
        self.facts.name.starts_with("emulated")
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn machine(&self) -> Machine {
        Machine::of_host().with_device(self.facts.clone())
    }

    /// What it is, and what it can do at most.
    pub(crate) fn note(&self) -> Result<GpuNote, CudaError> {
        let facts = self.gpu.facts();
        Ok(GpuNote {
            name: facts.name.clone(),
            capability: facts.capability.to_string(),
            kernels_for: self.gpu.level().to_string(),
            memory_bytes: facts.memory_bytes,
            multiprocessors: facts.multiprocessors,
            driver: facts.driver.to_string(),
            peaks: probe(self)?,
        })
    }

    /// Gives everything back that a case has left.
    pub(crate) fn tidy(&self) -> Result<(), CudaError> {
        self.gpu.synchronise()?;
        self.gpu.pinned().trim();
        self.gpu.pool().trim()
    }
}

/// The GPU of a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuNote {
    /// As its driver calls it.
    pub name: String,
    /// Compute capability, say `9.0`.
    pub capability: String,
    /// The newest capability whose kernels are used.
    pub kernels_for: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// CUDA version that the driver serves.
    pub driver: String,
    /// What it can do at most.
    pub peaks: GpuPeaks,
}

/// What a GPU can do at most, measured through this engine's own kernels before the cases: products of random matrices of 8192
/// rows and columns, the fastest of ten. What its tensor cores could do with other kernels is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GpuPeaks {
    /// Products of bf16, 10¹² operations a second.
    pub bf16_tflops: f64,
    /// Of int8.
    pub int8_tops: f64,
    /// Of e4m3, where the GPU has it.
    pub e4m3_tflops: Option<f64>,
    /// Copies within its memory, 10⁹ bytes a second, read and written.
    pub copy_gb_s: f64,
    /// Copies from pinned memory of the host, 10⁹ bytes a second.
    pub in_gb_s: f64,
    /// Copies to pinned memory of the host.
    pub out_gb_s: f64,
}

/// What is known of a case on a GPU besides its time.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct GpuCase {
    /// Tokens of a forward.
    pub tokens: Option<usize>,
    /// Seconds of an average step of a clip with guidance: a forward for each branch, one after another.
    pub step_seconds: Option<f64>,
    /// Seconds of all steps of a clip ([`Model::clip`](crate::Model::clip)).
    pub clip_seconds: Option<f64>,
    /// Seconds until the end of the first run: weights are made and brought, memory is taken.
    pub first_seconds: f64,
    /// The most of its memory that was in use, with the driver's context as plans count it.
    pub peak_bytes: u64,
    /// What the plan said of that.
    pub planned_bytes: Option<u64>,
    /// Bytes of weights that a run copies to it.
    pub copied_bytes: Option<u64>,
    /// Memory of the host that was pinned at most.
    pub pinned_bytes: u64,
    /// What each kernel took in one more run, the longest first. Empty of single kernels.
    pub kernels: Vec<KernelNote>,
}

/// All calls of a kernel in one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KernelNote {
    /// Its name.
    pub kernel: String,
    /// How often it was called.
    pub calls: usize,
    /// What they took together.
    pub seconds: f64,
}

impl From<KernelTime> for KernelNote {
    fn from(time: KernelTime) -> Self {
        Self { kernel: time.kernel.to_owned(), calls: time.calls, seconds: time.seconds }
    }
}

/// What a case on a GPU keeps for its result.
pub(crate) struct Watched {
    pub open: OpenGpu,
    pub tokens: Option<usize>,
    pub clip: Option<(usize, usize)>,
    pub planned_bytes: Option<u64>,
    pub traffic: Option<Arc<Traffic>>,
    /// Whether a run is more than one kernel.
    pub is_network: bool,
}

impl Watched {
    pub fn kernel(open: &OpenGpu) -> Self {
        Self { open: open.clone(), tokens: None, clip: None, planned_bytes: None, traffic: None, is_network: false }
    }

    /// A point in the GPU's work, and its time.
    pub fn now(&self) -> Result<Event, CudaError> {
        self.open.gpu.compute().record_time()
    }

    pub fn copied(&self) -> u64 {
        self.traffic.as_ref().map_or(0, |t| t.copied_bytes())
    }

    pub fn result(&self, median: f64, first_seconds: f64, copied: u64, kernels: Vec<KernelTime>) -> GpuCase {
        GpuCase {
            tokens: self.tokens,
            step_seconds: self.clip.map(|(steps, forwards)| median * forwards as f64 / steps as f64),
            clip_seconds: self.clip.map(|(_, forwards)| median * forwards as f64),
            first_seconds,
            peak_bytes: self.open.gpu.pool().counts().peak_bytes + CONTEXT_BYTES,
            planned_bytes: self.planned_bytes,
            copied_bytes: self.traffic.as_ref().map(|_| copied),
            pinned_bytes: self.open.gpu.pinned().used_bytes().1,
            kernels: kernels.into_iter().map(KernelNote::from).collect(),
        }
    }
}

/// Rows of `first` again and again until there are so many, without anything on the host.
pub(crate) fn repeat_rows(gpu: &Gpu, first: &GpuTensor, rows: usize) -> Result<GpuTensor, CudaError> {
    let mut shape = first.shape().to_vec();
    let few = shape.first().copied().unwrap_or(0).max(1);
    if let Some(count) = shape.first_mut() {
        *count = rows;
    }
    let all = GpuTensor::empty(gpu, &shape, first.dtype())?;
    for at in (0..rows).step_by(few) {
        first.narrow(0, few.min(rows - at))?.copy_to_rows(gpu, &all, at)?;
    }
    Ok(all)
}

/// What tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Numbers {
    Bf16,
    Int8,
    E4m3,
}

impl Numbers {
    /// What most of a case's operations are in: matrices' of 8 bits where they are, although attention beside them is in bf16.
    pub fn of(what: &OnGpu) -> Self {
        match what {
            OnGpu::Attention { precision: Attention::Int8, .. } => Self::Int8,
            OnGpu::Attention { .. } => Self::Bf16,
            OnGpu::Product { form, .. } | OnGpu::Transformer(Forward { form, .. }) => match form.encoding() {
                Some(Encoding::I8) => Self::Int8,
                Some(Encoding::F8E4M3) => Self::E4m3,
                _ => Self::Bf16,
            },
        }
    }

    /// Their name, and what the GPU can do at most in them, in 10⁹ operations a second.
    pub fn most(self, peaks: &GpuPeaks) -> (&'static str, f64) {
        match (self, peaks.e4m3_tflops) {
            (Self::Int8, _) => ("int8", 1e3 * peaks.int8_tops),
            (Self::E4m3, Some(rate)) => ("e4m3", 1e3 * rate),
            _ => ("bf16", 1e3 * peaks.bf16_tflops),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ::kernels::cuda::{Code, Driver, GpuOptions};
    use offload::{DeviceKind, MemoryMode, virtual_card};

    use super::*;
    use crate::{Case, Model, Options, What, run};

    /// An emulated GPU; `None` where it is not built.
    fn emulated() -> Option<OpenGpu> {
        let driver = Driver::load_from(emulated_gpu::library()?).unwrap();
        let options = GpuOptions { code: Code::Images(&[b"emulated"]), ..GpuOptions::default() };
        let gpu = Gpu::open_with(&driver, &options).unwrap();
        let facts = DeviceFacts { name: gpu.facts().name.clone(), kind: DeviceKind::Cuda, ..virtual_card(4 << 30) };
        Some(OpenGpu { gpu, facts })
    }

    #[test]
    fn cases_on_a_gpu_say_what_they_took() {
        let Some(open) = emulated() else { return };
        let form = |name: &str| name.parse().unwrap();
        let dit = |name: &str, mode| {
            let attention = Attention::Bf16;
            OnGpu::Transformer(Forward { model: Model::Tiny, size: [32, 32, 5], form: form(name), mode, attention })
        };
        let cases = [
            OnGpu::Product { shape: [70, 40, 256], form: form("int8-rotated") },
            OnGpu::Attention { shape: [70, 1, 64], precision: Attention::Bf16 },
            OnGpu::Attention { shape: [70, 1, 128], precision: Attention::Int8 },
            dit("bf16", MemoryMode::Full),
            dit("fp8", MemoryMode::Stream),
            dit("int8", MemoryMode::Minimal),
        ];
        let cases = cases.map(|what| Case { name: what.to_string(), what: What::OnGpu(what), usual: true });
        let options = Options { warmups: 1, runs: 2, time: Duration::ZERO };
        let report = run(&cases, &options, Some(&open), &mut |_, _| true).unwrap();
        let note = report.gpu.as_ref().unwrap();
        let GpuPeaks { bf16_tflops, int8_tops, e4m3_tflops, copy_gb_s, in_gb_s, out_gb_s } = note.peaks;
        let rates = [bf16_tflops, int8_tops, e4m3_tflops.unwrap(), copy_gb_s, in_gb_s, out_gb_s];
        assert!(rates.iter().all(|r| *r > 0.0 && r.is_finite()) && note.capability == "9.0", "{note:?}");

        let told: Vec<_> = report.cases.iter().map(|c| (c, c.gpu.as_ref().unwrap())).collect();
        for (case, gpu) in &told {
            assert!(case.of_peak.unwrap() > 0.0 && case.peak.is_none() && case.time.seconds.len() == 2, "{case:?}");
            assert!(gpu.peak_bytes > CONTEXT_BYTES && gpu.first_seconds > 0.0, "{gpu:?}");
        }
        let numbers: Vec<_> = told.iter().map(|(case, _)| case.peak_in.as_deref().unwrap()).collect();
        assert_eq!(numbers, ["int8", "bf16", "int8", "bf16", "e4m3", "int8"]);
        let [.., (_, whole), (_, streamed), (_, minimal)] = &told[..] else { panic!("six cases") };
        for gpu in [whole, streamed, minimal] {
            assert!(gpu.peak_bytes <= gpu.planned_bytes.unwrap(), "{gpu:?}");
            assert_eq!(gpu.tokens, Some(4 * 4));
            assert!((gpu.clip_seconds.unwrap() / gpu.step_seconds.unwrap() - 40.0).abs() < 1e-6, "{gpu:?}");
            assert!(gpu.kernels.iter().any(|k| k.kernel.starts_with("sd_gemm")), "{gpu:?}");
        }
        // What stays is copied once.
        assert_eq!(whole.copied_bytes, Some(0));
        assert!(streamed.copied_bytes > Some(0) && minimal.copied_bytes > Some(0));
        assert!(minimal.peak_bytes < whole.peak_bytes);
        let error = run(&cases[..1], &options, None, &mut |_, _| true).unwrap_err().to_string();
        assert!(error.contains("--device cuda") && !error.contains('\n'), "{error}");
    }
}
