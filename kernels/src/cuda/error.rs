//! What a GPU, or the lack of one, is answered with.

use std::fmt;

/// Version of CUDA that a driver serves or code was compiled with, as the driver counts: 1000·major + 10·minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion(pub u32);

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 / 1000, self.0 % 1000 / 10)
    }
}

/// Compute capability of a GPU, major and minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(pub u32, pub u32);

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// Why nothing can be computed on a GPU here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoGpu {
    /// The driver's library is not there, or cannot be loaded.
    #[error("no NVIDIA driver: {library} cannot be loaded; install the driver, or compute on the CPU ({problem})")]
    NoDriver {
        /// What was looked for.
        library: String,
        /// What the system said.
        problem: String,
    },
    /// The driver's library lacks a function.
    #[error("the NVIDIA driver in {library} has no {function}, so it is older than CUDA 11.2; install a newer driver")]
    MissingFunction {
        /// Which library.
        library: String,
        /// Which function.
        function: &'static str,
    },
    /// The driver sees no GPU.
    #[error("the NVIDIA driver finds no GPU; check that one is there and allowed (CUDA_VISIBLE_DEVICES, --gpus)")]
    NoDevice,
    /// There are fewer GPUs.
    #[error("there is no GPU {asked}: there are {count}, counted from 0")]
    NoSuchDevice {
        /// Which was asked for.
        asked: u32,
        /// How many there are.
        count: u32,
    },
    /// The GPU's instructions are not enough.
    #[error("{name} has compute capability {found}; {} or newer is needed (RTX 30, A100 and later)", super::LEAST)]
    TooOld {
        /// What it calls itself.
        name: String,
        /// Its capability.
        found: Capability,
    },
    /// The driver is older than the code in this program.
    #[error(
        "the NVIDIA driver serves CUDA {found}, and this program's GPU code needs {needed}; install a newer driver"
    )]
    DriverTooOld {
        /// What the driver serves.
        found: CudaVersion,
        /// What the code was compiled with, without its minor number.
        needed: CudaVersion,
    },
    /// This program was built without code for GPUs.
    #[error(
        "this build has no GPU code; build where nvcc is on the PATH (scripts/cuda-toolkit.sh gets one) and STEADYDANCE_CUDA is not off"
    )]
    NoCode,
    /// The driver refused a call.
    #[error(transparent)]
    Failed(#[from] CudaError),
}

/// What the driver refuses or fails at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// There is no room for a buffer, also after unused memory was given back.
    #[error("the GPU has no room for {asked_bytes} bytes more: {used_bytes} of {budget_bytes} are in use")]
    OutOfMemory {
        /// What was asked for.
        asked_bytes: u64,
        /// What is in use already.
        used_bytes: u64,
        /// What may be used; less when the driver has less.
        budget_bytes: u64,
    },
    /// More host memory than may be pinned.
    #[error("{asked_bytes} bytes more of host memory cannot be pinned: {used_bytes} of {ceiling_bytes} are")]
    Pinned {
        /// What was asked for.
        asked_bytes: u64,
        /// What is pinned already.
        used_bytes: u64,
        /// What may be pinned.
        ceiling_bytes: u64,
    },
    /// A call of the driver's failed; after some codes nothing works until the program is started anew.
    #[error("the GPU failed to {operation}: {name} ({code})")]
    Driver {
        /// What was to be done.
        operation: &'static str,
        /// The driver's name of the error.
        name: String,
        /// Its number.
        code: i32,
    },
    /// A kernel is not in the code that was loaded, or is another one.
    #[error("GPU kernel {name} {problem}: the program and its GPU code are of different versions; build it anew")]
    Kernel {
        /// Which.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Arguments that do not fit.
    #[error("{operation} on the GPU: {problem}")]
    Arguments {
        /// What was to be done.
        operation: &'static str,
        /// What was found and what is allowed.
        problem: String,
    },
}

/// Of what is done on a GPU.
pub type Result<T> = std::result::Result<T, CudaError>;

impl CudaError {
    /// The error of a GPU inside of an error of tensor code.
    pub fn inside(error: &candle_core::Error) -> Option<&Self> {
        match error {
            candle_core::Error::WrappedContext { wrapped, .. } => wrapped.downcast_ref(),
            candle_core::Error::WithBacktrace { inner, .. } | candle_core::Error::Context { inner, .. } => {
                Self::inside(inner)
            }
            _ => None,
        }
    }

    pub(crate) fn arguments<T>(operation: &'static str, problem: impl Into<String>) -> Result<T> {
        Err(Self::Arguments { operation, problem: problem.into() })
    }
}

impl From<CudaError> for candle_core::Error {
    fn from(error: CudaError) -> Self {
        Self::WrappedContext { wrapped: Box::new(error), context: "GPU".into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_one_line_and_errors_are_found_again() {
        let (library, problem) = ("libcuda.so.1".to_owned(), "not found".to_owned());
        let all = [
            NoGpu::NoDriver { library: library.clone(), problem },
            NoGpu::MissingFunction { library, function: "cuInit" },
            NoGpu::NoDevice,
            NoGpu::NoSuchDevice { asked: 3, count: 1 },
            NoGpu::TooOld { name: "GTX".into(), found: Capability(7, 5) },
            NoGpu::DriverTooOld { found: CudaVersion(12_080), needed: CudaVersion(13_000) },
            NoGpu::NoCode,
        ];
        assert!(all.iter().all(|e| !e.to_string().contains('\n')));
        assert!(all[4].to_string().contains("7.5; 8.0 or newer"), "{}", all[4]);
        assert!(all[5].to_string().contains("serves CUDA 12.8") && all[5].to_string().contains("needs 13.0"));
        let error = CudaError::OutOfMemory { asked_bytes: 1, used_bytes: 2, budget_bytes: 3 };
        let candle = candle_core::Error::from(error.clone()).context("block 3");
        assert_eq!(CudaError::inside(&candle), Some(&error));
        assert_eq!(CudaError::inside(&candle_core::Error::msg("other")), None);
    }
}
