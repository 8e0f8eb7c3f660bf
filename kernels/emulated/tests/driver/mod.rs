//! The driver functions that these tests need, with numbers in and out.
//!
//! With `SD_GPU_IMAGES`, the files that `nvcc -fatbin` made of kernels/cuda/*.cu with colons between, the tests run on a real GPU.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::Library;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The driver has one state for the process, so that tests which share a process take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The emulated GPU, or a real one, with a stream and modules.
pub struct Gpu {
    pub library: Library,
    pub modules: Vec<*mut c_void>,
    pub stream: *mut c_void,
    /// A real one does not fill its memory with NaN patterns.
    pub real: bool,
    _turn: MutexGuard<'static, ()>,
}

/// Device memory; lives as long as the process.
#[derive(Clone, Copy)]
pub struct Buffer {
    pub pointer: u64,
    pub bytes: usize,
}

/// A call of a driver function.
macro_rules! call {
    ($gpu:expr, $name:ident ( $($kind:ty = $value:expr),* )) => {{
        let name = concat!(stringify!($name), "\0");
        // SAFETY: the types are those of cuda.h.
        unsafe {
            let function = $gpu.library.get::<unsafe extern "C" fn($($kind),*) -> std::ffi::c_int>(name.as_bytes()).expect(name);
            function($($value),*)
        }
    }};
}
#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use call;

impl Gpu {
    pub fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let images: Vec<Vec<u8>> = std::env::var("SD_GPU_IMAGES")
            .map(|files| files.split(':').map(|file| std::fs::read(file).expect("an image")).collect())
            .unwrap_or_default();
        let (real, mut path) = (!images.is_empty(), std::path::Path::new("libcuda.so.1"));
        if !real {
            path = emulated_gpu::library().expect("built on Linux");
        }
        // SAFETY: our own library, whose constructors only fill a list, or the driver.
        let library = unsafe { Library::new(path) }.expect("loads");
        let mut gpu = Self { library, modules: Vec::new(), stream: null_mut(), real, _turn: turn };
        let mut context: *mut c_void = null_mut();
        assert_eq!(call!(gpu, cuInit(u32 = 0)), 0);
        assert_eq!(call!(gpu, cuDevicePrimaryCtxRetain(*mut *mut c_void = &mut context, c_int = 0)), 0);
        assert_eq!(call!(gpu, cuCtxSetCurrent(*mut c_void = context)), 0);
        let mut stream = null_mut();
        assert_eq!(call!(gpu, cuStreamCreateWithPriority(*mut *mut c_void = &mut stream, u32 = 1, c_int = 0)), 0);
        gpu.stream = stream;
        for image in if real { images } else { vec![b"image".to_vec()] } {
            let (mut module, image) = (null_mut(), image.as_ptr().cast());
            assert_eq!(call!(gpu, cuModuleLoadData(*mut *mut c_void = &mut module, *const c_void = image)), 0);
            gpu.modules.push(module);
        }
        gpu
    }

    /// Poisoned memory.
    pub fn empty<T>(&self, count: usize) -> Buffer {
        let bytes = count * size_of::<T>();
        let mut pointer = 0;
        assert_eq!(call!(self, cuMemAlloc_v2(*mut u64 = &mut pointer, usize = bytes)), 0);
        if self.real {
            let stream = self.stream;
            assert_eq!(call!(self, cuMemsetD8Async(u64 = pointer, u8 = 0xff, usize = bytes, *mut c_void = stream)), 0);
        }
        Buffer { pointer, bytes }
    }

    pub fn upload<T: Copy>(&self, values: &[T]) -> Buffer {
        let buffer = self.empty::<T>(values.len());
        let (from, stream) = (values.as_ptr().cast(), self.stream);
        assert_eq!(
            call!(
                self,
                cuMemcpyHtoDAsync_v2(
                    u64 = buffer.pointer,
                    *const c_void = from,
                    usize = buffer.bytes,
                    *mut c_void = stream
                )
            ),
            0
        );
        buffer
    }

    pub fn download<T: Copy + Default>(&self, buffer: Buffer) -> Vec<T> {
        let mut values = vec![T::default(); buffer.bytes / size_of::<T>()];
        let (to, stream) = (values.as_mut_ptr().cast(), self.stream);
        assert_eq!(
            call!(
                self,
                cuMemcpyDtoHAsync_v2(*mut c_void = to, u64 = buffer.pointer, usize = buffer.bytes, *mut c_void = stream)
            ),
            0
        );
        self.synchronise().expect("the copy");
        values
    }

    pub fn function(&self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).expect("no NUL");
        self.modules.iter().find_map(|&module| {
            let (mut function, name) = (null_mut(), name.as_ptr());
            let code = call!(
                self,
                cuModuleGetFunction(*mut *mut c_void = &mut function, *mut c_void = module, *const c_char = name)
            );
            (code == 0).then_some(function)
        })
    }

    /// The compute capability, times ten.
    pub fn capability(&self) -> c_int {
        [75, 76].into_iter().fold(0, |sum, attribute| {
            let mut value = 0;
            call!(self, cuDeviceGetAttribute(*mut c_int = &mut value, c_int = attribute, c_int = 0));
            10 * sum + value
        })
    }

    /// Seconds of a kernel that has run before, the median of ten; for real GPUs.
    pub fn seconds<P: Copy>(&self, name: &str, grid: [u32; 3], threads: u32, shared: u32, params: &P) -> f64 {
        let stream = self.stream;
        let mut events = [null_mut(); 2];
        for event in &mut events {
            assert_eq!(call!(self, cuEventCreate(*mut *mut c_void = event, u32 = 0)), 0);
        }
        let mut times: Vec<f32> = (0..12)
            .map(|_| {
                call!(self, cuEventRecord(*mut c_void = events[0], *mut c_void = stream));
                self.start(name, grid, threads, shared, params).expect(name);
                call!(self, cuEventRecord(*mut c_void = events[1], *mut c_void = stream));
                self.synchronise().expect(name);
                let mut time = 0f32;
                let [first, last] = events;
                call!(self, cuEventElapsedTime(*mut f32 = &mut time, *mut c_void = first, *mut c_void = last));
                time
            })
            .skip(2)
            .collect();
        times.sort_by(f32::total_cmp);
        f64::from(times[5]) * 1e-3
    }

    /// Launches and waits. The error is what the emulator says.
    pub fn launch<P: Copy>(
        &self,
        name: &str,
        grid: [u32; 3],
        threads: u32,
        shared: u32,
        params: &P,
    ) -> Result<(), String> {
        self.start(name, grid, threads, shared, params)?;
        self.synchronise()
    }

    fn start<P: Copy>(
        &self,
        name: &str,
        [x, y, z]: [u32; 3],
        threads: u32,
        shared: u32,
        params: &P,
    ) -> Result<(), String> {
        let function = self.function(name).ok_or_else(|| format!("no kernel {name}"))?;
        let (mut offset, mut bytes) = (0usize, 0usize);
        call!(
            self,
            cuFuncGetParamInfo(
                *mut c_void = function,
                usize = 0,
                *mut usize = &mut offset,
                *mut usize = &mut bytes
            )
        );
        assert_eq!(bytes, size_of::<P>(), "the parameters of {name}");
        assert_eq!(
            call!(self, cuFuncSetAttribute(*mut c_void = function, c_int = 8, c_int = shared.max(49152) as c_int)),
            0
        );
        let mut list: [*const c_void; 1] = [std::ptr::from_ref(params).cast()];
        let code = call!(
            self,
            cuLaunchKernel(
                *mut c_void = function,
                u32 = x,
                u32 = y,
                u32 = z,
                u32 = threads,
                u32 = 1,
                u32 = 1,
                u32 = shared,
                *mut c_void = self.stream,
                *mut *const c_void = list.as_mut_ptr(),
                *mut c_void = null_mut()
            )
        );
        if code == 0 { Ok(()) } else { Err(self.complaint(code)) }
    }

    pub fn synchronise(&self) -> Result<(), String> {
        let code = call!(self, cuStreamSynchronize(*mut c_void = self.stream));
        if code == 0 { Ok(()) } else { Err(self.complaint(code)) }
    }

    fn complaint(&self, code: c_int) -> String {
        if self.real {
            return format!("error {code}");
        }
        // SAFETY: the signature in driver.cpp; the text is a C string.
        unsafe {
            let last = self.library.get::<unsafe extern "C" fn() -> *const c_char>(b"sdEmulatedLastMessage\0");
            CStr::from_ptr(last.expect("exported")()).to_string_lossy().into_owned()
        }
    }
}

/// Fresh numbers: the seed is printed, so that a failure can be repeated with `SD_SEED`.
pub fn random() -> ChaCha8Rng {
    let seed = std::env::var("SD_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(fresh);
    println!("SD_SEED={seed}");
    ChaCha8Rng::seed_from_u64(seed)
}

/// A number that no other run has.
fn fresh() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

/// Sums of uniform numbers: near enough to a normal distribution.
pub fn normal(random: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| (0..4).map(|_| random.random_range(-1.0f32..1.0)).sum::<f32>() * 0.866).collect()
}

/// To bf16, the nearest, ties to even.
pub fn bf16(x: f32) -> u16 {
    if x.is_nan() { 0x7fff } else { ((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) >> 16) as u16 }
}

pub fn from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Rounded to bf16.
pub fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| from_bf16(bf16(x))).collect()
}

pub fn to_bf16(x: &[f32]) -> Vec<u16> {
    x.iter().map(|&x| bf16(x)).collect()
}

/// What an e4m3 byte stands for.
pub fn from_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let size = if exponent == 0 { mantissa * 2f32.powi(-9) } else { (8.0 + mantissa) * 2f32.powi(exponent - 10) };
    if byte & 0x7f == 0x7f {
        f32::NAN
    } else if byte & 128 == 0 {
        size
    } else {
        -size
    }
}

/// Fails with the first number that is further off than `relative` of the largest and `own` of itself.
#[track_caller]
pub fn assert_near(found: &[f32], expected: &[f64], relative: f64, own: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f64, |m, v| m.max(v.abs()));
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs();
        assert!(
            off <= relative * largest + own * expected.abs() + 1e-30,
            "{what}: number {i} is {found}, not {expected}"
        );
    }
}
