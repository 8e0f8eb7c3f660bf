//! The driver functions that these tests need, with numbers in and out.
#![allow(dead_code, reason = "each test file uses its part")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libloading::Library;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The driver has one state for the process, so that tests which share a process take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The emulated GPU with a stream and a module.
pub struct Gpu {
    pub library: Library,
    pub module: *mut c_void,
    pub stream: *mut c_void,
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
        let path = emulated_gpu::library().expect("built on Linux");
        // SAFETY: our own library; its constructors only fill a list.
        let library = unsafe { Library::new(path) }.expect("loads");
        let mut gpu = Self { library, module: null_mut(), stream: null_mut(), _turn: turn };
        let mut context: *mut c_void = null_mut();
        assert_eq!(call!(gpu, cuInit(u32 = 0)), 0);
        assert_eq!(call!(gpu, cuDevicePrimaryCtxRetain(*mut *mut c_void = &mut context, c_int = 0)), 0);
        assert_eq!(call!(gpu, cuCtxSetCurrent(*mut c_void = context)), 0);
        let (mut stream, mut module) = (null_mut(), null_mut());
        assert_eq!(call!(gpu, cuStreamCreateWithPriority(*mut *mut c_void = &mut stream, u32 = 1, c_int = 0)), 0);
        assert_eq!(
            call!(gpu, cuModuleLoadData(*mut *mut c_void = &mut module, *const c_void = b"image".as_ptr().cast())),
            0
        );
        (gpu.stream, gpu.module) = (stream, module);
        gpu
    }

    /// Poisoned memory.
    pub fn empty<T>(&self, count: usize) -> Buffer {
        let bytes = count * size_of::<T>();
        let mut pointer = 0;
        assert_eq!(call!(self, cuMemAlloc_v2(*mut u64 = &mut pointer, usize = bytes)), 0);
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
        let (mut function, name) = (null_mut(), CString::new(name).expect("no NUL"));
        let (module, name) = (self.module, name.as_ptr());
        let code = call!(
            self,
            cuModuleGetFunction(*mut *mut c_void = &mut function, *mut c_void = module, *const c_char = name)
        );
        (code == 0).then_some(function)
    }

    /// Launches and waits. The error is what the emulator says.
    pub fn launch<P: Copy>(
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
        if code == 0 { self.synchronise() } else { Err(self.complaint()) }
    }

    pub fn synchronise(&self) -> Result<(), String> {
        let code = call!(self, cuStreamSynchronize(*mut c_void = self.stream));
        if code == 0 { Ok(()) } else { Err(self.complaint()) }
    }

    fn complaint(&self) -> String {
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
