//! NVIDIA's GPUs as their driver tells.

use std::sync::mpsc::channel;
use std::time::Duration;

use kernels::cuda::{GpuFacts, NoGpu, free_bytes, gpus};
use serde::Serialize;

/// How long the driver may take; it hangs with a GPU that has fallen off the bus.
const PATIENCE: Duration = Duration::from_secs(10);

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Say `NVIDIA H200`.
    pub name: String,
    /// Compute capability, say `9.0`.
    pub capability: String,
    /// The version of CUDA that its driver serves, say `13.0`.
    pub cuda: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Memory that nobody has, where the driver tells.
    pub free_bytes: Option<u64>,
    /// Why this build cannot compute on it; `None` if its kernels can.
    pub problem: Option<String>,
}

/// All of them, or why there are none.
pub(super) fn find() -> (Vec<Gpu>, Option<String>) {
    let (sender, found) = channel();
    // A thread that hangs is left behind.
    let ask = move || sender.send(gpus().map(|all| all.iter().map(|gpu| described(gpu, free_bytes)).collect()));
    if std::thread::Builder::new().name("GPU probe".to_owned()).spawn(ask).is_err() {
        return (Vec::new(), None);
    }
    match found.recv_timeout(PATIENCE) {
        Ok(Ok(all)) => (all, None),
        Ok(Err(none)) => (Vec::new(), Some(none.to_string())),
        Err(_) => (Vec::new(), Some("the NVIDIA driver does not answer; a GPU may have failed".to_owned())),
    }
}

fn described(gpu: &GpuFacts, free_bytes: impl Fn(u32) -> Result<u64, NoGpu>) -> Gpu {
    Gpu {
        name: gpu.name.clone(),
        capability: gpu.capability.to_string(),
        cuda: gpu.driver.to_string(),
        memory_bytes: gpu.memory_bytes,
        free_bytes: free_bytes(gpu.ordinal).ok(),
        problem: gpu.usable().err().map(|e| e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use kernels::cuda::{Capability, CudaVersion};

    use super::*;

    #[test]
    fn a_gpu_that_is_too_old_says_so() {
        let facts = GpuFacts {
            ordinal: 0,
            name: "NVIDIA GeForce RTX 2080".into(),
            capability: Capability(7, 5),
            memory_bytes: 8 << 30,
            multiprocessors: 46,
            shared_bytes: 64 << 10,
            l2_bytes: 4 << 20,
            bus: "0000:01:00.0".into(),
            driver: CudaVersion(12_040),
        };
        let gpu = described(&facts, |_| Ok(5));
        assert_eq!((gpu.capability.as_str(), gpu.cuda.as_str(), gpu.free_bytes), ("7.5", "12.4", Some(5)));
        assert!(gpu.problem.is_some_and(|p| p.contains("8.0 or newer")));
        assert_eq!(described(&facts, |_| Err(NoGpu::NoDevice)).free_bytes, None);
    }

    #[test]
    fn none_come_with_the_reason() {
        let (found, why) = find();
        assert_eq!(found.is_empty(), why.is_some());
    }
}
