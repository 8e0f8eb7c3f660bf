//! A whole forward, by the same plan, manager of weights and network that make clips.

use std::sync::Arc;

use ::kernels::Compute;
use dit::{Dit, GROUPS};
use offload::{CONTEXT_BYTES, CudaMemory, MemoryFlags, MemoryMode, Network, Phase, Placed, Traffic};
use pipeline::work::{self, Transformer};
use weights::Computing;

use super::{OpenGpu, Watched};
use crate::Forward;
use crate::run::{Failed, Ready, conditions, random};
use crate::weights::Repeated;

/// One forward of one branch.
pub(crate) fn transformer(open: &OpenGpu, forward: Forward) -> Result<Ready, Failed> {
    /// Of a timestep in the middle.
    const TIMESTEP: f64 = 700.0;
    let Forward { model, size, form, mode, attention } = forward;
    let [width, height, frames] = size;
    let config = model.config();
    let (_, forwards) = model.clip();
    let half = (mode == MemoryMode::Partial).then_some(config.num_layers / 2);
    let flags = MemoryFlags { mode: Some(mode), blocks_resident: half, ..MemoryFlags::default() };
    let asked = Transformer { config: &config, size, form, forwards, attention };
    let plan = work::transformer_plan(&asked, &open.machine(), &flags)?;
    let planned_bytes = plan.stages.phase(Phase::Denoise).map(|phase| phase.device_peak_bytes);

    let memory = CudaMemory::new(open.gpu().clone());
    memory.set_total(plan.stages.budgets.device_bytes.saturating_sub(CONTEXT_BYTES));
    let manifest = dit::manifest(&config)?;
    let network = Network { source: Arc::new(Repeated::new(form)), manifest: &manifest, groups: GROUPS, dtype: None };
    let traffic = Arc::new(Traffic::default());
    let placed = Placed::with_traffic(network, plan.residence, Arc::new(memory), traffic.clone())?;
    let net = Dit::new(&config, Arc::new(Computing::new(Arc::new(placed), Compute::Bf16)))?;
    let net = net.on_gpu(open.gpu().clone(), attention)?;

    let [f, h, w] = [(frames - 1) / 4 + 1, height / 8, width / 8];
    let latents = random("latents", &[16, f, h, w])?;
    let condition = conditions(&net, &config, [f, h, w])?;
    // As loops do: once for all steps.
    net.embed_times(&[TIMESTEP])?;
    let appended = if config.is_steadydancer() { 2 } else { 0 };
    let chunking = plan.chunking;
    let once = move || {
        let all = net.forward_branches(&latents, TIMESTEP, &[&condition], chunking, &mut dit::no_tap)?;
        match all.iter().all(|v| v.sum_all().and_then(|s| s.to_scalar::<f32>()).is_ok_and(f32::is_finite)) {
            true => Ok(()),
            false => Err(Failed::NotFinite),
        }
    };
    let watched = Watched {
        open: open.clone(),
        tokens: Some((f + appended) * (h / 2) * (w / 2)),
        clip: Some(model.clip()),
        planned_bytes,
        traffic: Some(traffic),
        is_network: true,
    };
    Ok(Ready::on_gpu(Box::new(once), work::transformer(&config, size), watched))
}
