//! A GPU to test on: an emulated one, or a real one with `STEADYDANCE_TEST_GPU=1`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{Result, Tensor};
use kernels::cuda::{Code, Driver, Gpu, GpuOptions};
use libloading::Library;

/// The emulated GPU's settings are of the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A GPU with a pool of its own, which tests of one process have one after the other.
pub struct TestGpu {
    /// It.
    pub gpu: Gpu,
    _alone: MutexGuard<'static, ()>,
}

impl TestGpu {
    /// `None` where there is none, not even an emulated one. That one does nothing before it is waited for, so that whatever is
    /// not waited for shows.
    ///
    /// # Panics
    /// There is one and it cannot be used.
    pub fn open() -> Option<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let options = GpuOptions { budget_bytes: Some(1 << 30), ..GpuOptions::default() };
        if std::env::var("STEADYDANCE_TEST_GPU").is_ok_and(|v| v == "1") {
            let gpu = Gpu::open(&options).expect("a GPU, since STEADYDANCE_TEST_GPU is 1");
            return Some(Self { gpu, _alone: alone });
        }
        let path = emulated_gpu::library()?;
        let options = GpuOptions { code: Code::Images(&[b"emulated"]), ..options };
        let gpu = Gpu::open_with(&Driver::load_from(path).expect("a driver"), &options).expect("an emulated GPU");
        // SAFETY: it is loaded already, and the function takes and gives an integer.
        unsafe {
            let library = Library::new(path).expect("the driver again");
            let lazy = library.get::<unsafe extern "C" fn(usize) -> usize>(b"sdEmulatedLazyStreams");
            lazy.expect("its settings")(1);
        }
        Some(Self { gpu, _alone: alone })
    }
}

/// ‖got − want‖ / ‖want‖.
///
/// # Errors
/// Shapes that differ.
pub fn relative_error(got: &Tensor, want: &Tensor) -> Result<f64> {
    let square = |t: &Tensor| t.sqr()?.sum_all()?.to_scalar::<f32>().map(f64::from);
    Ok((square(&(got - want)?)? / square(want)?).sqrt())
}
