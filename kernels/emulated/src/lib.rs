//! A fake CUDA driver: kernels/cuda compiled for the CPU behind the functions of `libcuda`, so that the engine's GPU code runs in tests on
//! machines without a GPU. Every CUDA thread is a fiber; barriers, shuffles and the tensor cores' instructions do what the PTX ISA
//! says. `README.md` beside this lists what it finds that hardware would not show.

use std::path::Path;

/// The library, `libcuda.so.1`; `None` where it is not built (not Linux).
pub fn library() -> Option<&'static Path> {
    let path = Path::new(env!("EMULATED_GPU_LIBRARY"));
    path.exists().then_some(path)
}
