//! The driver's library, loaded when a GPU is asked for.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use libloading::Library;

use super::error::{CudaError, CudaVersion, NoGpu, Result};

/// A pointer that only the driver looks behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Handle(pub *mut c_void);

impl Handle {
    pub const NULL: Self = Self(std::ptr::null_mut());
}

// SAFETY: the driver may be called from every thread with any of its handles.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// Where memory of a device begins.
pub(crate) type Address = u64;

/// Map, type of numbers, rank, where it begins, lengths, strides, sides of tiles, steps; then how tiles are interleaved, swizzled,
/// brought to the cache, and filled outside of the tensor.
pub(crate) type EncodeTensorMap = unsafe extern "system" fn(
    *mut c_void,
    c_int,
    u32,
    Address,
    *const u64,
    *const u64,
    *const u32,
    *const u32,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

macro_rules! functions {
    ($($field:ident: $symbol:literal ($($argument:ty),*);)*) => {
        /// What is called of the driver.
        pub(crate) struct Functions {
            $(pub $field: unsafe extern "system" fn($($argument),*) -> c_int,)*
            /// Offset and size of a kernel's argument; of drivers since CUDA 12.4.
            pub param_info: Option<unsafe extern "system" fn(Handle, usize, *mut usize, *mut usize) -> c_int>,
            /// Describes tensors to the copy engine of GPUs since Hopper; of drivers since CUDA 12.
            pub tensor_map: Option<EncodeTensorMap>,
        }

        impl Functions {
            fn of(library: &Library, path: &str) -> std::result::Result<Self, NoGpu> {
                Ok(Self {
                    $($field: {
                        // SAFETY: the driver's header gives the function this type.
                        let found = unsafe { library.get(concat!($symbol, "\0").as_bytes()) };
                        let missing = |_| NoGpu::MissingFunction { library: path.to_owned(), function: $symbol };
                        *found.map_err(missing)?
                    },)*
                    // SAFETY: as above.
                    param_info: unsafe { library.get(b"cuFuncGetParamInfo\0") }.ok().map(|found| *found),
                    // SAFETY: as above.
                    tensor_map: unsafe { library.get(b"cuTensorMapEncodeTiled\0") }.ok().map(|found| *found),
                })
            }
        }
    };
}

functions! {
    init: "cuInit"(c_uint);
    driver_version: "cuDriverGetVersion"(*mut c_int);
    error_name: "cuGetErrorName"(c_int, *mut *const c_char);
    device_count: "cuDeviceGetCount"(*mut c_int);
    device: "cuDeviceGet"(*mut c_int, c_int);
    device_name: "cuDeviceGetName"(*mut c_char, c_int, c_int);
    device_memory: "cuDeviceTotalMem_v2"(*mut usize, c_int);
    device_bus: "cuDeviceGetPCIBusId"(*mut c_char, c_int, c_int);
    device_attribute: "cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    context_retain: "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    context_release: "cuDevicePrimaryCtxRelease_v2"(c_int);
    context_set: "cuCtxSetCurrent"(Handle);
    memory_info: "cuMemGetInfo_v2"(*mut usize, *mut usize);
    alloc: "cuMemAlloc_v2"(*mut Address, usize);
    free: "cuMemFree_v2"(Address);
    host_alloc: "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint);
    host_free: "cuMemFreeHost"(*mut c_void);
    copy_in: "cuMemcpyHtoDAsync_v2"(Address, *const c_void, usize, Handle);
    copy_out: "cuMemcpyDtoHAsync_v2"(*mut c_void, Address, usize, Handle);
    copy_within: "cuMemcpyDtoDAsync_v2"(Address, Address, usize, Handle);
    set: "cuMemsetD8Async"(Address, u8, usize, Handle);
    stream_create: "cuStreamCreateWithPriority"(*mut Handle, c_uint, c_int);
    stream_destroy: "cuStreamDestroy_v2"(Handle);
    stream_synchronise: "cuStreamSynchronize"(Handle);
    stream_wait: "cuStreamWaitEvent"(Handle, Handle, c_uint);
    event_create: "cuEventCreate"(*mut Handle, c_uint);
    event_record: "cuEventRecord"(Handle, Handle);
    event_query: "cuEventQuery"(Handle);
    event_synchronise: "cuEventSynchronize"(Handle);
    event_elapsed: "cuEventElapsedTime"(*mut f32, Handle, Handle);
    event_destroy: "cuEventDestroy_v2"(Handle);
    module_load: "cuModuleLoadDataEx"(*mut Handle, *const c_void, c_uint, *mut c_int, *mut *mut c_void);
    module_unload: "cuModuleUnload"(Handle);
    module_function: "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    function_set: "cuFuncSetAttribute"(Handle, c_int, c_int);
    function_attribute: "cuFuncGetAttribute"(*mut c_int, c_int, Handle);
    launch: "cuLaunchKernel"(Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void);
}

/// A driver that was loaded and initialised. It stays loaded until the program ends.
#[derive(Clone)]
pub struct Driver(Arc<Loaded>);

struct Loaded {
    functions: Functions,
    version: CudaVersion,
    path: String,
    // The driver has threads of its own that do not survive its unloading.
    _library: ManuallyDrop<Library>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "driver {} for CUDA {}", self.0.path, self.0.version)
    }
}

/// What the driver's library is called.
const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

const NO_DEVICE: c_int = 100;
const INSUFFICIENT_DRIVER: c_int = 35;
pub(crate) const OUT_OF_MEMORY: c_int = 2;
pub(crate) const NOT_READY: c_int = 600;
pub(crate) const NOT_SUPPORTED: c_int = 801;

impl Driver {
    /// The system's driver.
    ///
    /// # Errors
    /// There is none, it is too old, or it finds no GPU.
    pub fn load() -> std::result::Result<Self, NoGpu> {
        Self::load_from(Path::new(LIBRARY))
    }

    /// A library that is the driver, or does as if.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_from(path: &Path) -> std::result::Result<Self, NoGpu> {
        let name = path.display().to_string();
        // SAFETY: a driver's initialisers may be run, and a library that the caller names is trusted.
        let library = unsafe { Library::new(path) }.map_err(|e| {
            let problem = e.to_string().lines().collect::<Vec<_>>().join(" ");
            NoGpu::NoDriver { library: name.clone(), problem }
        })?;
        let library = ManuallyDrop::new(library);
        let functions = Functions::of(&library, &name)?;
        let mut loaded = Loaded { functions, version: CudaVersion(0), path: name, _library: library };
        // SAFETY: no arguments but flags, of which there are none.
        match unsafe { (loaded.functions.init)(0) } {
            NO_DEVICE => return Err(NoGpu::NoDevice),
            code => loaded.check("start", code)?,
        }
        let mut version = 0;
        // SAFETY: the pointer is valid for the call.
        let code = unsafe { (loaded.functions.driver_version)(&mut version) };
        loaded.check("tell the driver's version", code)?;
        loaded.version = CudaVersion(version.max(0) as u32);
        Ok(Self(Arc::new(loaded)))
    }

    /// The version of CUDA that it serves.
    pub fn version(&self) -> CudaVersion {
        self.0.version
    }

    /// How many GPUs it has.
    ///
    /// # Errors
    /// The driver fails.
    pub fn count(&self) -> Result<u32> {
        let mut count = 0;
        // SAFETY: the pointer is valid for the call.
        match unsafe { (self.functions().device_count)(&mut count) } {
            NO_DEVICE | INSUFFICIENT_DRIVER => Ok(0),
            code => self.check("count devices", code).map(|()| count.max(0) as u32),
        }
    }

    pub(crate) fn functions(&self) -> &Functions {
        &self.0.functions
    }

    /// The error that `code` is.
    pub(crate) fn check(&self, operation: &'static str, code: c_int) -> Result<()> {
        self.0.check(operation, code)
    }
}

impl Loaded {
    fn check(&self, operation: &'static str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: the pointer is valid for the call.
        let known = unsafe { (self.functions.error_name)(code, &mut text) } == 0 && !text.is_null();
        let name = match known {
            // SAFETY: the driver gives a string that is there for ever.
            true => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
            false => "an error without a name".to_owned(),
        };
        Err(CudaError::Driver { operation, name, code })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_or_is_none_is_told_in_a_line() {
        let none = Driver::load_from(Path::new("/nowhere/libcuda.so.1")).unwrap_err();
        assert!(matches!(none, NoGpu::NoDriver { .. }), "{none}");
        assert!(!none.to_string().contains('\n') && none.to_string().contains("/nowhere/libcuda.so.1"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn another_library_is_no_driver() {
        let wrong = Driver::load_from(Path::new("libc.so.6")).unwrap_err();
        assert!(matches!(wrong, NoGpu::MissingFunction { function: "cuInit", .. }), "{wrong}");
    }
}
