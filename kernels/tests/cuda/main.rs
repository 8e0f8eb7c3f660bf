//! The GPU's side of this crate on an emulated GPU, and on a real one with `STEADYDANCE_TEST_GPU=1`.

mod attention;
mod elementwise;
mod linear;
mod memory;
mod pictures;
mod rows;
mod vae;

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use kernels::cuda::{Capability, Code, Driver, Gpu, GpuDtype, GpuOptions, GpuTensor};
use libloading::Library;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// The emulated GPU's settings are of the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Options that fit both.
const OPTIONS: GpuOptions =
    GpuOptions { ordinal: 0, budget_bytes: Some(1 << 30), pinned_bytes: 256 << 20, code: Code::Embedded, most: None };

/// GPUs whose kernels are tested, as far as this one has them.
const LEVELS: [Capability; 3] = [Capability(8, 0), Capability(8, 9), Capability(9, 0)];

/// A GPU to test on.
struct Bench {
    gpu: Gpu,
    emulated: Option<Library>,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// With kernels of GPUs of this capability at most.
    fn at(level: Capability) -> Option<Self> {
        Self::with(GpuOptions { most: Some(level), ..OPTIONS })
    }

    /// `None` where there is none, not even an emulated one.
    fn open() -> Option<Self> {
        Self::with(OPTIONS)
    }

    fn with(options: GpuOptions) -> Option<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if std::env::var("STEADYDANCE_TEST_GPU").is_ok_and(|v| v == "1") {
            let gpu = Gpu::open(&options).unwrap();
            return Some(Self { gpu, emulated: None, _alone: alone });
        }
        let path = emulated_gpu::library()?;
        let driver = Driver::load_from(path).unwrap();
        // SAFETY: it is loaded already.
        let library = unsafe { Library::new(path) }.unwrap();
        let gpu = Gpu::open_with(&driver, &GpuOptions { code: Code::Images(&[b"emulated"]), ..options }).unwrap();
        let bench = Self { gpu, emulated: Some(library), _alone: alone };
        // Whatever is not waited for shows.
        bench.tell("sdEmulatedLazyStreams", 1);
        Some(bench)
    }

    /// Calls one of the emulated GPU's own functions, if it is one.
    fn tell(&self, function: &str, value: usize) -> Option<usize> {
        let library = self.emulated.as_ref()?;
        // SAFETY: they take an integer, or nothing, and give one.
        let function = unsafe { library.get::<unsafe extern "C" fn(usize) -> usize>(function.as_bytes()) }.unwrap();
        // SAFETY: as above.
        Some(unsafe { function(value) })
    }

    fn is_emulated(&self) -> bool {
        self.emulated.is_some()
    }

    /// A tensor there, and what it holds.
    fn upload(&self, tensor: &Tensor, dtype: GpuDtype) -> GpuTensor {
        GpuTensor::upload(&self.gpu, tensor, dtype).unwrap()
    }

    /// As f32.
    fn download(&self, tensor: &GpuTensor) -> Tensor {
        tensor.download(&self.gpu).unwrap().to_dtype(DType::F32).unwrap()
    }
}

/// A generator of random numbers that the failing test names.
struct Random(ChaCha8Rng);

impl Random {
    fn new() -> Self {
        let seed = RandomState::new().build_hasher().finish();
        println!("seed {seed}");
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Normal numbers, as they are in bf16 where `dtype` says so.
    fn normal(&mut self, shape: &[usize], dtype: DType) -> Tensor {
        let count = shape.iter().product();
        let values: Vec<f32> = StandardNormal.sample_iter(&mut self.0).take(count).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensor.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()
    }

    fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        self.0.random_range(range)
    }

    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.within(0..list.len())]
    }
}

/// ‖got − want‖ ≤ tolerance·‖want‖, and no number is far off.
#[track_caller]
fn assert_close(got: &Tensor, want: &Tensor, tolerance: f32, what: &str) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let values = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (got, want) = (values(got), values(want));
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(&want).map(|(g, w)| g - w));
    let size = norm(&mut want.iter().copied()).max(1e-20);
    assert!(error <= f64::from(tolerance) * size, "{what}: relative error {:e} above {tolerance:e}", error / size);
    let rms = size / (want.len().max(1) as f64).sqrt();
    let worst = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0f32, f32::max);
    // Six digits of the largest, so that one wrong number among many is seen.
    let largest = want.iter().fold(0f32, |m, w| m.max(w.abs())).max(rms as f32);
    assert!(worst <= 8.0 * tolerance * largest, "{what}: one number is off by {worst:e} of {largest:e}");
}
