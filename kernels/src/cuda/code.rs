//! The kernels' code, as it was compiled when this program was built, and calls of it.

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use super::context::{Context, Stream};
use super::driver::Handle;
use super::error::{CudaError, CudaVersion, Result};

// `IMAGES`, one fat binary of each file with its name, and `TOOLKIT`, the compiler's version as the driver counts.
include!(concat!(env!("OUT_DIR"), "/cuda_code.rs"));

/// Where kernels come from.
#[derive(Debug, Clone, Copy, Default)]
pub enum Code {
    /// What this program was built with.
    #[default]
    Embedded,
    /// Binaries that somebody else has, say those that an emulated driver ignores.
    Images(&'static [&'static [u8]]),
}

/// The version of CUDA that this program's GPU code was compiled with; `None` if it was built without.
pub fn embedded_code() -> Option<CudaVersion> {
    (!IMAGES.is_empty()).then_some(CudaVersion(TOOLKIT))
}

/// Bytes of the GPU code in this program.
pub fn embedded_bytes() -> usize {
    IMAGES.iter().map(|(_, image)| image.len()).sum()
}

/// A kernel's only argument: a plain struct, passed by value.
///
/// # Safety
/// It is `repr(C)` and has the fields of the struct of that name in `kernels/cuda`.
pub(crate) unsafe trait Params: Copy {}

/// Which kernel is called, and with how many threads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch {
    pub kernel: &'static str,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub shared_bytes: u32,
}

impl Launch {
    /// As many blocks in a row.
    pub fn row(kernel: &'static str, blocks: u32, threads: u32) -> Self {
        Self { kernel, grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0 }
    }
}

/// Loaded code.
pub(crate) struct Kernels {
    context: Arc<Context>,
    modules: Vec<Handle>,
    found: Mutex<HashMap<&'static str, Found>>,
}

#[derive(Clone, Copy)]
struct Found {
    function: Handle,
    /// Dynamic shared memory that it was allowed.
    shared_bytes: u32,
}

/// What a kernel was compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelFacts {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread that did not fit the registers.
    pub local_bytes: u32,
    /// Shared memory of a block that is not dynamic.
    pub shared_bytes: u32,
}

impl Kernels {
    pub fn load(context: &Arc<Context>, code: Code) -> Result<Self> {
        let images: Vec<&'static [u8]> = match code {
            Code::Embedded => IMAGES.iter().map(|(_, image)| *image).collect(),
            Code::Images(images) => images.to_vec(),
        };
        let mut kernels = Self { context: context.clone(), modules: Vec::new(), found: Mutex::default() };
        for image in images {
            let (mut module, image) = (Handle::NULL, image.as_ptr().cast::<c_void>());
            context.call("load the kernels", |f| {
                // SAFETY: an image says itself how long it is; no options, so no pointers to them.
                unsafe { (f.module_load)(&mut module, image, 0, std::ptr::null_mut(), std::ptr::null_mut()) }
            })?;
            kernels.modules.push(module);
        }
        Ok(kernels)
    }

    /// What a kernel was compiled to.
    pub fn facts(&self, kernel: &'static str) -> Result<KernelFacts> {
        const SHARED: c_int = 1;
        const LOCAL: c_int = 3;
        const REGISTERS: c_int = 4;
        let function = self.find(kernel)?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: the pointer is valid for the call, and the function is one of a loaded module.
            let tell = |f: &super::driver::Functions| unsafe { (f.function_attribute)(&mut value, which, function) };
            self.context.call("tell of a kernel", tell).map(|()| value.max(0) as u32)
        };
        Ok(KernelFacts {
            registers: attribute(REGISTERS)?,
            local_bytes: attribute(LOCAL)?,
            shared_bytes: attribute(SHARED)?,
        })
    }

    fn find(&self, kernel: &'static str) -> Result<Handle> {
        const NOT_FOUND: c_int = 500;
        let wrong = |problem: &str| CudaError::Kernel { name: kernel.to_owned(), problem: problem.to_owned() };
        let name = CString::new(kernel).map_err(|_| wrong("has a name that cannot be"))?;
        for module in &self.modules {
            let mut function = Handle::NULL;
            let find = |f: &super::driver::Functions| {
                // SAFETY: the module is loaded, the name ends with 0 and the pointer is valid for the call.
                unsafe { (f.module_function)(&mut function, *module, name.as_ptr()) }
            };
            match self.context.code(find) {
                0 => return Ok(function),
                NOT_FOUND => {}
                code => self.context.check("find a kernel", code)?,
            }
        }
        Err(wrong("is not there"))
    }

    /// The kernel, which takes one argument of so many bytes and may have so much shared memory.
    fn ready(&self, launch: &Launch, params_bytes: usize) -> Result<Handle> {
        const MAX_DYNAMIC_SHARED: c_int = 8;
        const ALLOWED: u32 = 48 << 10;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match found.get_mut(launch.kernel) {
            Some(entry) => entry,
            None => {
                let function = self.find(launch.kernel)?;
                self.check_params(launch.kernel, function, params_bytes)?;
                found.entry(launch.kernel).or_insert(Found { function, shared_bytes: ALLOWED })
            }
        };
        if launch.shared_bytes > entry.shared_bytes {
            let bytes = c_int::try_from(launch.shared_bytes).unwrap_or(c_int::MAX);
            self.context.call("give a kernel shared memory", |f| {
                // SAFETY: the function is one of a loaded module.
                unsafe { (f.function_set)(entry.function, MAX_DYNAMIC_SHARED, bytes) }
            })?;
            entry.shared_bytes = launch.shared_bytes;
        }
        Ok(entry.function)
    }

    /// Whether the kernel's argument has as many bytes as ours, where the driver tells.
    fn check_params(&self, kernel: &str, function: Handle, bytes: usize) -> Result<()> {
        let (mut offset, mut size) = (0, 0);
        let told = self.context.code(|f| match f.param_info {
            // SAFETY: the pointers are valid for the call, and the function is one of a loaded module.
            Some(info) => unsafe { info(function, 0, &mut offset, &mut size) },
            None => -1,
        });
        match told == 0 && (offset, size) != (0, bytes) {
            true => {
                let problem = format!("takes {size} bytes at {offset} where this program gives {bytes}");
                Err(CudaError::Kernel { name: kernel.to_owned(), problem })
            }
            false => Ok(()),
        }
    }

    /// Gives a stream a call of a kernel.
    ///
    /// # Safety
    /// What the kernel reads and writes with these arguments is there, and nobody else writes to it, before the stream has come
    /// past this; on streams other than the compute stream buffers know of it.
    pub unsafe fn launch<P: Params>(&self, launch: &Launch, stream: &Stream, params: &P) -> Result<()> {
        let function = self.ready(launch, size_of::<P>())?;
        let mut params = *params;
        let mut arguments = [(&raw mut params).cast::<c_void>()];
        let ([gx, gy, gz], [bx, by, bz], shared) = (launch.grid, launch.block, launch.shared_bytes);
        self.context.call("call a kernel", |f| {
            let (stream, arguments) = (stream.handle(), arguments.as_mut_ptr());
            // SAFETY: the driver copies the argument, which is as long as the kernel's; the rest is the caller's.
            unsafe { (f.launch)(function, gx, gy, gz, bx, by, bz, shared, stream, arguments, std::ptr::null_mut()) }
        })
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for module in &self.modules {
            // SAFETY: loaded once; the device has done with it, see the GPU's own end.
            self.context.code(|f| unsafe { (f.module_unload)(*module) });
        }
    }
}
