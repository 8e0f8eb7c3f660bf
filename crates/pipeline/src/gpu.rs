//! The GPU that the transformer's steps are computed on, and VAE, text and image encoder and pose networks where the plan says so.
//!
//! What `--device` says is settled when a model is opened: the GPU is opened then, so that plans know its free memory. The rest of a
//! clip is computed on the CPU.

use std::path::PathBuf;
use std::sync::Arc;

use kernels::cuda::{Code, Driver, Gpu, GpuOptions, NoGpu};
use offload::{
    CONTEXT_BYTES, CudaMemory, DeviceFacts, DeviceKind, DeviceMemory, Machine, Memory, MemoryFlags, Place, StagePlan,
    card, pinned_ceiling, virtual_card,
};

use crate::needs::Blueprint;
use crate::{HeldDType, RequestError};

/// Names the driver's library by its path; without it the system's is loaded.
const DRIVER: &str = "STEADYDANCE_CUDA_DRIVER";

/// A GPU that is open.
#[derive(Clone)]
pub(crate) struct OwnGpu {
    gpu: Gpu,
    memory: Arc<CudaMemory>,
}

/// What computes, and what is to be said about it.
#[derive(Clone, Default)]
pub(crate) struct Chosen {
    pub gpu: Option<OwnGpu>,
    pub note: Option<String>,
}

impl Chosen {
    /// `auto` (or nothing), `cpu`, `cuda` or `cuda:N`, for a transformer of these sizes.
    ///
    /// # Errors
    /// Another word, or a GPU that was asked for and cannot be used.
    pub fn of(device: &str, config: &dit::Config) -> Result<Self, RequestError> {
        let failed = |why: String| RequestError::Device { found: device.to_owned(), why };
        let ordinal = match device {
            "" | "auto" => None,
            "cpu" => return Ok(Self::default()),
            "cuda" => Some(0),
            other => match other.strip_prefix("cuda:").and_then(|n| n.parse().ok()) {
                Some(ordinal) => Some(ordinal),
                None => return Err(failed("devices are auto, cpu, cuda and cuda:N".to_owned())),
            },
        };
        let opened = match unfit(config) {
            Some(why) => Err(why),
            None => match OwnGpu::open(ordinal.unwrap_or(0)) {
                // A machine that was never meant to have one.
                Err(NoGpu::NoDriver { .. }) if ordinal.is_none() && named_driver().is_none() => {
                    return Ok(Self::default());
                }
                opened => opened.map_err(|e| e.to_string()),
            },
        };
        match (opened, ordinal) {
            (Ok(own), _) => {
                let name = &own.gpu.facts().name;
                let note = format!(
                    "the transformer's steps compute on {name}, VAE, encoders of text and pictures and pose networks where the plan puts them, the rest on the CPU; this engine was tested on an emulated GPU only, so look at the first clip, or choose --device cpu"
                );
                Ok(Self { note: Some(note), gpu: Some(own) })
            }
            (Err(why), Some(_)) => Err(failed(why)),
            (Err(why), None) => Ok(Self { gpu: None, note: Some(format!("computing on the CPU: {why}")) }),
        }
    }

    /// This machine: with the GPU, if there is one.
    pub fn machine(&self) -> Machine {
        match &self.gpu {
            Some(own) => Machine::of_host().with_device(own.facts()),
            None => Machine::of_host(),
        }
    }

    /// What is asked of the planner: with what the GPU cannot compute on the CPU.
    ///
    /// # Errors
    /// It is asked that such a thing be on the GPU.
    pub fn flags(&self, flags: &MemoryFlags, sizes: &Blueprint) -> Result<MemoryFlags, RequestError> {
        let mut flags = flags.clone();
        if self.gpu.is_none() {
            return Ok(flags);
        }
        for (place, flag, problem) in [
            (&mut flags.text_encoder, "--gpu-text-encoder", sizes.text_encoder.gpu_problem()),
            (&mut flags.clip, "--gpu-clip", sizes.image_encoder.gpu_problem()),
            (&mut flags.vae, "--gpu-vae", sizes.vae.check_gpu().err().map(|e| e.to_string())),
        ] {
            let Some(why) = problem else { continue };
            if *place == Some(Place::Device) {
                return Err(RequestError::Device { found: flag.to_owned(), why });
            }
            *place = Some(Place::Cpu);
        }
        Ok(flags)
    }

    /// These flags with the VAE on the CPU where it is to compute in f32: the GPU does in bf16.
    ///
    /// # Errors
    /// It is asked that it do so on the GPU.
    pub fn vae_in(&self, dtype: Option<HeldDType>, flags: MemoryFlags) -> Result<MemoryFlags, RequestError> {
        if self.gpu.is_none() || dtype != Some(HeldDType::F32) {
            return Ok(flags);
        }
        if flags.vae == Some(Place::Device) {
            let why = "the VAE computes in bf16 there; leave out --vae-dtype f32".to_owned();
            return Err(RequestError::Device { found: "--gpu-vae".to_owned(), why });
        }
        Ok(MemoryFlags { vae: Some(Place::Cpu), ..flags })
    }

    /// The memory of the GPU, with as much as a plan allows.
    pub fn memory(&self, stages: &StagePlan) -> Option<Arc<dyn DeviceMemory>> {
        let own = self.gpu.as_ref()?;
        stages.phases.iter().find(|p| p.on == Place::Device)?;
        own.memory.set_total(stages.budgets.device_bytes.saturating_sub(CONTEXT_BYTES));
        Some(own.memory.clone())
    }
}

/// Opens a GPU as [`EngineOptions::device`](crate::EngineOptions::device) does, for measuring it: the one of this number, and
/// what plans say of it.
///
/// # Errors
/// Why there is none that could be used.
pub fn open_gpu(ordinal: u32) -> Result<(Gpu, DeviceFacts), NoGpu> {
    let own = OwnGpu::open(ordinal)?;
    let facts = own.facts();
    Ok((own.gpu, facts))
}

/// The driver's library, if it is named.
fn named_driver() -> Option<PathBuf> {
    std::env::var_os(DRIVER).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Why blocks of these sizes cannot be computed on a GPU.
fn unfit(config: &dit::Config) -> Option<String> {
    let head = config.head_dim();
    let widths = [config.dim, config.ffn_dim];
    // Patches have four numbers a channel, pixels one; both are read eight at a time.
    let channels = [4 * config.in_dim, config.in_dim_c.unwrap_or(0)];
    if channels.iter().any(|c| !c.is_multiple_of(8)) {
        let [patch, pose] = [config.in_dim, channels[1]];
        return Some(format!(
            "the GPU's kernels are for latents of 2, 4, … channels and poses of 8, 16, …; this model has {patch} and {pose}"
        ));
    }
    let fits = head.is_multiple_of(8) && head <= 128 && widths.iter().all(|w| w.is_multiple_of(16) && *w <= 14_336);
    (!fits).then(|| {
        let [dim, ffn] = widths;
        format!(
            "the GPU's kernels are for heads of 8, 16, … 128 channels and widths of 16, 32, … 14336; this model has heads of {head} and widths {dim} and {ffn}"
        )
    })
}

impl OwnGpu {
    fn open(ordinal: u32) -> Result<Self, NoGpu> {
        let driver = match named_driver() {
            Some(path) => Driver::load_from(&path)?,
            None => Driver::load()?,
        };
        let options = GpuOptions { ordinal, pinned_bytes: pinned_ceiling(Memory::of_host()), ..GpuOptions::default() };
        let gpu = match Gpu::open_with(&driver, &options) {
            // The emulated GPU of tests has its kernels in its driver.
            Err(NoGpu::NoCode) => {
                let code = Code::Images(&[b"emulated"]);
                let opened = Gpu::open_with(&driver, &GpuOptions { code, ..options }).ok();
                opened.filter(|gpu| gpu.facts().name.starts_with("emulated")).ok_or(NoGpu::NoCode)?
            }
            opened => opened?,
        };
        Ok(Self { memory: Arc::new(CudaMemory::new(gpu.clone())), gpu })
    }

    /// With the speeds of its kind, or of a middling card where it is not known.
    fn facts(&self) -> DeviceFacts {
        let found = self.gpu.facts();
        let like = card(&found.name).unwrap_or_else(|_| virtual_card(found.memory_bytes));
        // What our context has, and what our pool has and does not use, can be had.
        let counts = self.gpu.pool().counts();
        let own = CONTEXT_BYTES.saturating_add(counts.reserved_bytes);
        let free = self.gpu.memory().map_or(0, |(free, _)| free).saturating_add(own);
        DeviceFacts {
            name: found.name.clone(),
            kind: DeviceKind::Cuda,
            total_bytes: found.memory_bytes,
            free_bytes: free.min(found.memory_bytes),
            has_bf16: true,
            ..like
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_devices() {
        let config = dit::Config::tiny();
        assert!(Chosen::of("cpu", &config).is_ok_and(|c| c.gpu.is_none() && c.note.is_none()));
        for word in ["tpu", "cuda:", "cuda:x", "cuda:-1", "CUDA"] {
            let error = Chosen::of(word, &config).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("auto, cpu, cuda and cuda:N") && !error.contains('\n'), "{error}");
        }
        let wide = dit::Config { num_heads: 1, dim: 256, ..config };
        let odd = dit::Config { in_dim_c: Some(12), ..wide.clone() };
        assert!(unfit(&odd).is_some_and(|why| why.contains("36 and 12") && !why.contains('\n')));
        let why = Chosen::of("auto", &wide).unwrap().note.unwrap_or_default();
        assert!(why.contains("heads of 256") && !why.contains('\n'), "{why}");
        assert!(Chosen::of("cuda", &wide).is_err());
    }
}
