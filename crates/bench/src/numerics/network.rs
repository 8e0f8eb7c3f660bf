//! The same network in every precision, on the host or on a GPU.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use dit::{Attention, Dit, GROUPS};
use kernels::Compute;
use offload::{CudaMemory, Network, Placed, Residence};
use serde::Deserialize;
use weights::lora::{LoraFile, Merged, Stack};
use weights::{
    Checkpoint, CheckpointSource, Computing, Matrix, MatrixForm, RandomWeights, Resident, TensorSource, WeightSource,
};

use super::{Numeric, NumericsModel};
use crate::gpu::OpenGpu;
use crate::run::Failed;
use crate::weights::Held;

/// A network whose weights are at hand.
pub(super) struct Net {
    config: dit::Config,
    source: Arc<dyn TensorSource>,
}

/// Sizes of the embedded model that are needed here.
#[derive(Deserialize)]
pub(super) struct DemoSizes {
    pub dit: dit::Config,
    pub vae: vae::Config,
}

pub(super) fn demo_sizes() -> std::result::Result<DemoSizes, Failed> {
    serde_json::from_str(models::DEMO.config).map_err(|e| Failed::Files(e.to_string()))
}

impl Net {
    pub fn of(model: NumericsModel) -> std::result::Result<Self, Failed> {
        let wrong = |e: &dyn std::fmt::Display| Failed::Files(e.to_string());
        match model {
            NumericsModel::Random { model, blocks } => {
                let config = model.config();
                let num_layers = blocks.clamp(1, config.num_layers);
                Ok(Self { config: dit::Config { num_layers, ..config }, source: Arc::new(RandomWeights::new(1)) })
            }
            NumericsModel::Demo => {
                let config = demo_sizes()?.dit;
                let open =
                    |name: &str, bytes: &'static [u8]| Checkpoint::from_bytes(name, bytes).map_err(|e| wrong(&e));
                let plain = Arc::new(CheckpointSource(open("demo/dit.safetensors", models::DEMO.dit)?));
                let manifest = dit::manifest(&config)?;
                let mut fitted = Vec::new();
                for lora in models::DEMO.loras {
                    let file = LoraFile::read(open(lora.name, lora.bytes)?).map_err(|e| wrong(&e))?;
                    let fit = file.fit(&manifest, &dit::diffusers_names(), &config.label()).map_err(|e| wrong(&e))?;
                    fitted.push((fit, 1.0));
                }
                Ok(Self { config, source: Arc::new(Merged::new(plain, Arc::new(Stack::new(fitted)))) })
            }
        }
    }

    pub fn config(&self) -> &dit::Config {
        &self.config
    }

    pub fn blocks(&self) -> usize {
        self.config.num_layers
    }

    pub fn build(&self, numeric: Numeric, gpu: Option<&OpenGpu>) -> Result<Dit> {
        made(&self.config, self.source.clone(), numeric, gpu)
    }

    /// One that shows what comes out of each block, also on a GPU: what is computed there is only looked at block by block when it
    /// ends in something that is not finite, so that a block is added that does.
    pub fn showing_blocks(&self, numeric: Numeric, gpu: Option<&OpenGpu>) -> Result<Dit> {
        let extra = format!("blocks.{}.", self.config.num_layers);
        let config = dit::Config { num_layers: self.config.num_layers + 1, ..self.config.clone() };
        made(&config, Arc::new(Infinite { source: self.source.clone(), extra }), numeric, gpu)
    }
}

fn made(config: &dit::Config, source: Arc<dyn TensorSource>, numeric: Numeric, gpu: Option<&OpenGpu>) -> Result<Dit> {
    let source = Arc::new(Held { source, form: numeric.form });
    let compute = numeric.compute.unwrap_or(Compute::F32);
    let Some(open) = gpu else {
        let weights: Arc<dyn WeightSource> = Arc::new(Resident::new(source, Device::Cpu, None));
        return Dit::new(config, Arc::new(Computing::new(weights, compute)));
    };
    let manifest = dit::manifest(config)?;
    let network = Network { source, manifest: &manifest, groups: GROUPS, dtype: None };
    let memory = Arc::new(CudaMemory::new(open.gpu().clone()));
    let placed = Arc::new(Placed::new(network, Residence::WHOLE, memory)?);
    Dit::new(config, Arc::new(Computing::new(placed, compute)))?.on_gpu(open.gpu().clone(), Attention::default())
}

/// With a block more, which is the first one and adds infinity.
struct Infinite {
    source: Arc<dyn TensorSource>,
    /// How names of that block begin.
    extra: String,
}

impl Infinite {
    fn name(&self, name: &str) -> String {
        match name.strip_prefix(&self.extra) {
            Some(rest) => format!("blocks.0.{rest}"),
            None => name.to_owned(),
        }
    }
}

impl TensorSource for Infinite {
    fn tensor(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Tensor> {
        match name.strip_prefix(&self.extra) {
            Some("ffn.2.bias") => Tensor::full(f32::INFINITY, shape, device)?.to_dtype(dtype.unwrap_or(DType::F32)),
            _ => self.source.tensor(&self.name(name), shape, dtype, device),
        }
    }

    fn matrix(&self, name: &str, shape: &[usize], dtype: Option<DType>, device: &Device) -> Result<Matrix> {
        self.source.matrix(&self.name(name), shape, dtype, device)
    }

    fn form(&self, name: &str, shape: &[usize], dtype: Option<DType>) -> Result<MatrixForm> {
        self.source.form(&self.name(name), shape, dtype)
    }
}
