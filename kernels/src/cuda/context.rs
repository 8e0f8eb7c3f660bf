//! A GPU's primary context, its streams and events.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::sync::Arc;

use super::driver::{Address, Driver, Functions, Handle, NOT_READY};
use super::error::{Capability, CudaVersion, NoGpu, Result};

/// What a GPU is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFacts {
    /// Its number, from 0.
    pub ordinal: u32,
    /// Say `NVIDIA H200`.
    pub name: String,
    /// Its instructions.
    pub capability: Capability,
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block can have, in bytes.
    pub shared_bytes: u32,
    /// Second-level cache in bytes.
    pub l2_bytes: u64,
    /// Say `0000:01:00.0`.
    pub bus: String,
    /// The version of CUDA that its driver serves.
    pub driver: CudaVersion,
}

const MULTIPROCESSORS: c_int = 16;
const L2_BYTES: c_int = 38;
const CAPABILITY: [c_int; 2] = [75, 76];
const SHARED_BYTES: c_int = 97;

impl GpuFacts {
    pub(crate) fn of(driver: &Driver, ordinal: u32) -> Result<Self> {
        let functions = driver.functions();
        let device = device(driver, ordinal)?;
        let text = |operation, function: unsafe extern "system" fn(*mut _, c_int, c_int) -> c_int| {
            let mut bytes = [0u8; 256];
            // SAFETY: the driver writes at most 255 bytes and ends them with 0.
            let code = unsafe { function(bytes.as_mut_ptr().cast(), 255, device) };
            driver.check(operation, code)?;
            let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
            Ok::<_, super::CudaError>(String::from_utf8_lossy(&bytes[..end]).trim().to_owned())
        };
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: the pointer is valid for the call.
            let code = unsafe { (functions.device_attribute)(&mut value, which, device) };
            driver.check("tell its properties", code).map(|()| value.max(0) as u32)
        };
        let mut memory = 0;
        // SAFETY: as above.
        let code = unsafe { (functions.device_memory)(&mut memory, device) };
        driver.check("tell its memory", code)?;
        Ok(Self {
            ordinal,
            name: text("tell its name", functions.device_name)?,
            capability: Capability(attribute(CAPABILITY[0])?, attribute(CAPABILITY[1])?),
            memory_bytes: memory as u64,
            multiprocessors: attribute(MULTIPROCESSORS)?,
            shared_bytes: attribute(SHARED_BYTES)?,
            l2_bytes: u64::from(attribute(L2_BYTES)?),
            // Some virtual machines hide it.
            bus: text("tell its bus", functions.device_bus).unwrap_or_default(),
            driver: driver.version(),
        })
    }
}

fn device(driver: &Driver, ordinal: u32) -> Result<c_int> {
    let mut device = 0;
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { (driver.functions().device)(&mut device, c_int::try_from(ordinal).unwrap_or(c_int::MAX)) };
    driver.check("find a device", code).map(|()| device)
}

/// The primary context of a GPU, which is let go of when nothing that was made in it is left.
pub(crate) struct Context {
    driver: Driver,
    device: c_int,
    handle: Handle,
}

impl Context {
    pub fn new(driver: &Driver, ordinal: u32) -> std::result::Result<Arc<Self>, NoGpu> {
        let (driver, device) = (driver.clone(), device(driver, ordinal)?);
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is valid for the call.
        let code = unsafe { (driver.functions().context_retain)(&mut handle, device) };
        driver.check("make a context", code)?;
        Ok(Arc::new(Self { driver, device, handle }))
    }

    /// Makes a call of the driver with this context.
    ///
    /// # Errors
    /// What it returns, as `operation`'s error.
    pub fn call(&self, operation: &'static str, call: impl FnOnce(&Functions) -> c_int) -> Result<()> {
        self.check(operation, self.code(call))
    }

    /// As [`call`](Self::call), with the code as it is.
    pub fn code(&self, call: impl FnOnce(&Functions) -> c_int) -> c_int {
        let functions = self.driver.functions();
        // SAFETY: the context lives as long as this; whichever thread this is gets it for the call.
        match unsafe { (functions.context_set)(self.handle) } {
            0 => call(functions),
            code => code,
        }
    }

    pub fn check(&self, operation: &'static str, code: c_int) -> Result<()> {
        self.driver.check(operation, code)
    }

    /// Whether the driver can describe tensors to the copy engine.
    pub fn has_tensor_maps(&self) -> bool {
        self.driver.functions().tensor_map.is_some()
    }

    /// Free and total memory of the GPU in bytes, whoever has the rest.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the pointers are valid for the call.
        self.call("tell its memory", |f| unsafe { (f.memory_info)(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }

    /// Does not wait for other streams, nor they for it.
    pub fn stream(self: &Arc<Self>, priority: c_int) -> Result<Stream> {
        const NON_BLOCKING: u32 = 1;
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is valid for the call.
        self.call("make a stream", |f| unsafe { (f.stream_create)(&mut handle, NON_BLOCKING, priority) })?;
        Ok(Stream { context: self.clone(), handle })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, and nothing that was made in it is left: each holds the context.
        unsafe { (self.driver.functions().context_release)(self.device) };
    }
}

/// Work that a GPU does in its order. Streams do not wait for each other but through events.
pub struct Stream {
    context: Arc<Context>,
    handle: Handle,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {:?}", self.handle.0)
    }
}

impl Stream {
    pub(crate) fn handle(&self) -> Handle {
        self.handle
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Waits until all of its work is done.
    ///
    /// # Errors
    /// Some of it failed.
    pub fn synchronise(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        self.context.call("finish its work", |f| unsafe { (f.stream_synchronise)(self.handle) })
    }

    /// The point after all work that it has been given so far.
    ///
    /// # Errors
    /// The driver fails.
    pub fn record(&self) -> Result<Event> {
        const NO_TIMING: u32 = 2;
        self.event(NO_TIMING)
    }

    /// As [`record`](Self::record), with the time at which it is reached.
    ///
    /// # Errors
    /// The driver fails.
    pub fn record_time(&self) -> Result<Event> {
        self.event(0)
    }

    fn event(&self, flags: u32) -> Result<Event> {
        let mut handle = Handle::NULL;
        // SAFETY: the pointer is valid for the call.
        self.context.call("make an event", |f| unsafe { (f.event_create)(&mut handle, flags) })?;
        let event = Event(Arc::new(Recorded { context: self.context.clone(), handle }));
        // SAFETY: both are alive.
        self.context.call("record an event", |f| unsafe { (f.event_record)(handle, self.handle) })?;
        Ok(event)
    }

    /// Lets what it is given from now on wait for an event of another stream. The host does not wait.
    ///
    /// # Errors
    /// The driver fails.
    pub fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: both are alive; the driver keeps what it needs of the event.
        self.context.call("wait for an event", |f| unsafe { (f.stream_wait)(self.handle, event.0.handle, 0) })
    }

    /// Copies host memory to the GPU's.
    ///
    /// # Safety
    /// `from` is `bytes` of pinned memory that nobody writes to or frees, and `to` as many of the GPU's that nobody else uses,
    /// before the stream has come past this.
    pub(crate) unsafe fn copy_in(&self, to: Address, from: *const u8, bytes: usize) -> Result<()> {
        let from = from.cast::<c_void>();
        // SAFETY: the caller's.
        self.context.call("copy to the GPU", |f| unsafe { (f.copy_in)(to, from, bytes, self.handle) })
    }

    /// Copies memory of the GPU to the host's.
    ///
    /// # Safety
    /// As [`copy_in`](Self::copy_in), the other way round.
    pub(crate) unsafe fn copy_out(&self, to: *mut u8, from: Address, bytes: usize) -> Result<()> {
        let to = to.cast::<c_void>();
        // SAFETY: the caller's.
        self.context.call("copy from the GPU", |f| unsafe { (f.copy_out)(to, from, bytes, self.handle) })
    }

    /// Copies within the GPU's memory.
    ///
    /// # Safety
    /// Both are `bytes` of the GPU's that do not overlap, are there, and that nobody else writes to before the stream has come
    /// past this.
    pub(crate) unsafe fn copy_within(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        // SAFETY: the caller's.
        self.context.call("copy on the GPU", |f| unsafe { (f.copy_within)(to, from, bytes, self.handle) })
    }

    /// Sets bytes of the GPU's memory to zero.
    ///
    /// # Safety
    /// They are there, and nobody else uses them before the stream has come past this.
    pub(crate) unsafe fn zero(&self, to: Address, bytes: usize) -> Result<()> {
        // SAFETY: the caller's.
        self.context.call("clear memory", |f| unsafe { (f.set)(to, 0, bytes, self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: alive until here. Work that is left in it is still done.
        self.context.code(|f| unsafe { (f.stream_destroy)(self.handle) });
    }
}

/// A point in a stream's work. Clones are the same.
#[derive(Clone)]
pub struct Event(Arc<Recorded>);

struct Recorded {
    context: Arc<Context>,
    handle: Handle,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {:?}", self.0.handle.0)
    }
}

impl Event {
    /// Whether the stream has come past it.
    ///
    /// # Errors
    /// What was to be done before failed.
    pub fn is_done(&self) -> Result<bool> {
        // SAFETY: the event is alive.
        match self.0.context.code(|f| unsafe { (f.event_query)(self.0.handle) }) {
            NOT_READY => Ok(false),
            code => self.0.context.check("do its work", code).map(|()| true),
        }
    }

    /// Waits until the stream has come past it.
    ///
    /// # Errors
    /// What was to be done before failed.
    pub fn synchronise(&self) -> Result<()> {
        // SAFETY: the event is alive.
        self.0.context.call("do its work", |f| unsafe { (f.event_synchronise)(self.0.handle) })
    }

    /// Seconds from this to a later one; both were recorded with their times, and are past.
    ///
    /// # Errors
    /// They were not.
    pub fn seconds_to(&self, later: &Self) -> Result<f64> {
        let mut ms = 0.0;
        let elapsed = |f: &Functions| {
            // SAFETY: both events are alive, and the pointer is valid for the call.
            unsafe { (f.event_elapsed)(&mut ms, self.0.handle, later.0.handle) }
        };
        self.0.context.call("measure time", elapsed)?;
        Ok(f64::from(ms) / 1000.0)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        // SAFETY: alive until here. The driver keeps it for as long as streams wait for it.
        self.context.code(|f| unsafe { (f.event_destroy)(self.handle) });
    }
}
