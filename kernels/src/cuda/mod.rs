//! Computing on NVIDIA's GPUs.
//!
//! The driver's library is loaded when a GPU is asked for, and nothing else of CUDA is: programs start on machines without a
//! driver and are built on machines without a toolkit. A machine without a usable GPU gives [`NoGpu`], one line that says why.
//!
//! The driver is called directly, some forty functions of its C interface, through `libloading`. The crate `cudarc` was looked
//! at first (0.19): its dynamic loading looks for one library of a fixed name for the whole process and panics where it, or a
//! function of it, is missing; here that is an error that is told, and tests load a driver that emulates a GPU by its path. Its
//! safe layer records an event for each buffer and stream and allocates through the driver's pools; ours has one rule
//! ([`Pool`]) and a budget.
//!
//! Everything is asynchronous. There are two streams: one computes, one copies beside it. Memory is given away in the order of
//! the compute stream, so dropping a tensor needs no waiting. Calls may come from any thread; what two threads give the compute
//! stream is done in some order.

mod code;
mod context;
mod driver;
mod error;
mod gpu;
mod matrix;
pub mod ops;
mod pinned;
mod pool;
mod profile;
mod tensor;
mod tensor_map;

pub use code::{Code, KernelFacts, embedded_bytes, embedded_code};
pub use context::{Event, GpuFacts, Stream};
pub use driver::Driver;
pub use error::{Capability, CudaError, CudaVersion, NoGpu, Result};
pub use gpu::{Gpu, GpuOptions, LEAST, free_bytes, gpus};
pub use matrix::{GpuDifference, GpuMatrix, GpuScales};
pub use pinned::{Pinned, PinnedPool};
pub use pool::{ALIGNMENT, GpuBuffer, Pool, PoolCounts};
pub use profile::KernelTime;
pub use tensor::{Download, GpuDtype, GpuTensor, SharedBuffer};
