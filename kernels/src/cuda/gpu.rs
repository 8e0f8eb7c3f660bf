//! A GPU to compute on.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::code::{Code, KernelFacts, Kernels, Launch, Params, embedded_code};
use super::context::{Context, Event, GpuFacts, Stream};
use super::driver::Driver;
use super::error::{Capability, CudaError, CudaVersion, NoGpu, Result};
use super::pinned::PinnedPool;
use super::pool::{GpuBuffer, Pool};
use super::profile::{KernelTime, Profile};

/// The oldest GPUs that the kernels are for: their copies run beside arithmetic, and their tensor cores take bf16.
pub const LEAST: Capability = Capability(8, 0);

/// All GPUs of the system, without using any.
///
/// # Errors
/// There is no driver, or no GPU.
pub fn gpus() -> std::result::Result<Vec<GpuFacts>, NoGpu> {
    let driver = Driver::load()?;
    let found = (0..driver.count()?).map(|ordinal| GpuFacts::of(&driver, ordinal)).collect::<Result<Vec<_>>>()?;
    if found.is_empty() { Err(NoGpu::NoDevice) } else { Ok(found) }
}

/// Bytes of a GPU's memory that nobody has. It takes a context, which takes some hundred MB for the moment.
///
/// # Errors
/// There is no such GPU, or the driver fails.
pub fn free_bytes(ordinal: u32) -> std::result::Result<u64, NoGpu> {
    Ok(Context::new(&Driver::load()?, ordinal)?.memory()?.0)
}

impl GpuFacts {
    /// Whether this program can compute on it.
    ///
    /// # Errors
    /// What is missing.
    pub fn usable(&self) -> std::result::Result<(), NoGpu> {
        check(self, Code::Embedded, embedded_code())
    }
}

fn check(facts: &GpuFacts, code: Code, embedded: Option<CudaVersion>) -> std::result::Result<(), NoGpu> {
    if facts.capability < LEAST {
        return Err(NoGpu::TooOld { name: facts.name.clone(), found: facts.capability });
    }
    let Code::Embedded = code else { return Ok(()) };
    // Drivers take the code of every compiler of their major version.
    let needed = CudaVersion(embedded.ok_or(NoGpu::NoCode)?.0 / 1000 * 1000);
    match facts.driver < needed {
        true => Err(NoGpu::DriverTooOld { found: facts.driver, needed }),
        false => Ok(()),
    }
}

/// How a GPU is opened.
#[derive(Debug, Clone, Copy)]
pub struct GpuOptions {
    /// Which, from 0.
    pub ordinal: u32,
    /// The most that may be taken of its memory, in bytes; `None` for all that is free.
    pub budget_bytes: Option<u64>,
    /// The most that may be pinned of the host's memory, in bytes.
    pub pinned_bytes: u64,
    /// Where kernels come from.
    pub code: Code,
    /// Kernels that need a newer GPU than this are left alone; `None` for the best that it can.
    pub most: Option<Capability>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        Self { ordinal: 0, budget_bytes: None, pinned_bytes: 1 << 30, code: Code::Embedded, most: None }
    }
}

/// A GPU with its streams, memory and kernels. Clones are the same.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

// In the order in which things go.
struct Inner {
    facts: GpuFacts,
    level: Capability,
    kernels: Kernels,
    held: Mutex<Vec<(Event, Box<dyn Any + Send>)>>,
    profile: Profile,
    pool: Pool,
    pinned: PinnedPool,
    compute: Arc<Stream>,
    copies: Arc<Stream>,
    context: Arc<Context>,
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.facts.name)
    }
}

impl Gpu {
    /// Opens one.
    ///
    /// # Errors
    /// Why there is none that could be used.
    pub fn open(options: &GpuOptions) -> std::result::Result<Self, NoGpu> {
        Self::open_with(&Driver::load()?, options)
    }

    /// As [`open`](Self::open), of a driver that was loaded.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(driver: &Driver, options: &GpuOptions) -> std::result::Result<Self, NoGpu> {
        let GpuOptions { ordinal, budget_bytes, pinned_bytes, code, most } = *options;
        match driver.count()? {
            0 => return Err(NoGpu::NoDevice),
            count if ordinal >= count => return Err(NoGpu::NoSuchDevice { asked: ordinal, count }),
            _ => {}
        }
        let facts = GpuFacts::of(driver, ordinal)?;
        check(&facts, code, embedded_code())?;
        let level = most.unwrap_or(facts.capability).min(facts.capability);
        let context = Context::new(driver, ordinal)?;
        let kernels = Kernels::load(&context, code)?;
        let (compute, copies) = (Arc::new(context.stream(0)?), Arc::new(context.stream(0)?));
        let budget_bytes = budget_bytes.map_or_else(|| context.memory().map(|(free, _)| free), Ok)?;
        let pool = Pool::new(compute.clone(), budget_bytes);
        let pinned = PinnedPool::new(context.clone(), pinned_bytes);
        Ok(Self(Arc::new(Inner {
            facts,
            level,
            kernels,
            held: Mutex::default(),
            profile: Profile::default(),
            pool,
            pinned,
            compute,
            copies,
            context,
        })))
    }

    /// What it is.
    pub fn facts(&self) -> &GpuFacts {
        &self.0.facts
    }

    /// The newest GPUs whose kernels are used.
    pub fn level(&self) -> Capability {
        self.0.level
    }

    /// Whether kernels for Hopper alone are used: its matrix and copy instructions are of no other GPU.
    pub(crate) fn is_hopper(&self) -> bool {
        self.0.level == Capability(9, 0) && self.0.context.has_tensor_maps()
    }

    pub(crate) fn context(&self) -> &Context {
        &self.0.context
    }

    /// The stream that everything is computed on.
    pub fn compute(&self) -> &Stream {
        &self.0.compute
    }

    /// The stream for copies that run beside.
    pub fn copies(&self) -> &Stream {
        &self.0.copies
    }

    /// Its memory.
    pub fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Memory of the host that it copies from and to.
    pub fn pinned(&self) -> &PinnedPool {
        &self.0.pinned
    }

    /// Free and total memory in bytes, whoever has the rest.
    ///
    /// # Errors
    /// The driver fails.
    pub fn memory(&self) -> Result<(u64, u64)> {
        self.0.context.memory()
    }

    /// What a kernel was compiled to.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn kernel(&self, name: &'static str) -> Result<KernelFacts> {
        self.0.kernels.facts(name)
    }

    /// Waits until everything is done, and lets go of what was kept for it.
    ///
    /// # Errors
    /// Some of it failed.
    pub fn synchronise(&self) -> Result<()> {
        let done = self.0.copies.synchronise().and(self.0.compute.synchronise());
        self.release_done();
        done
    }

    /// Starts to copy a part of the host's memory, preferably pinned, to the beginning of a buffer, beside what is computed.
    /// The memory is kept until then. The host does not wait; the compute stream does when it is told to
    /// ([`GpuBuffer::wait_for_others`]) or the buffer is dropped.
    ///
    /// # Errors
    /// The part is not there or longer than the buffer, or the driver fails.
    pub fn copy_in<T>(&self, from: Arc<T>, part: Range<usize>, to: &mut GpuBuffer) -> Result<()>
    where
        T: AsRef<[u8]> + Send + Sync + 'static,
    {
        let Some(bytes) = (*from).as_ref().get(part.clone()) else {
            return CudaError::arguments("copy", format!("bytes {part:?} of {}", (*from).as_ref().len()));
        };
        // SAFETY: whoever could write to the bytes or free them needs what is kept here.
        let done = unsafe { to.start_copy_in(&self.0.copies, bytes) }?;
        self.hold(done, from);
        Ok(())
    }

    /// Keeps something that the GPU uses by itself, until the event has come to pass.
    pub fn hold(&self, until: Event, what: impl Any + Send) {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner).push((until, Box::new(what)));
        self.release_done();
    }

    /// Lets go of what it held for events that have come to pass.
    pub fn release_done(&self) {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        // After an error nothing will use it any more.
        let done: Vec<_> = held.extract_if(.., |(event, _)| event.is_done().unwrap_or(true)).collect();
        drop(held);
        drop(done);
    }

    /// Waits for what comes to pass first of what it holds things for, and lets go of these; `false` when it holds nothing.
    pub fn release_oldest(&self) -> bool {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() {
            return false;
        }
        let (event, what) = held.remove(0);
        drop(held);
        // After an error nothing will use it any more.
        let _ = event.synchronise();
        drop(what);
        true
    }

    /// From now on the time of each call of a kernel is taken, until [`end_profile`](Self::end_profile). Calls are not put
    /// off by that, but each costs the host two events.
    pub fn start_profile(&self) {
        self.0.profile.start();
    }

    /// What the kernels took that were called since [`start_profile`](Self::start_profile), the longest first. Waits for them.
    ///
    /// # Errors
    /// A call failed.
    pub fn end_profile(&self) -> Result<Vec<KernelTime>> {
        self.0.profile.end()
    }

    /// Gives the compute stream a call of a kernel.
    ///
    /// # Safety
    /// What the kernel reads and writes with these arguments is in buffers that were alive when this was called, and fits them.
    pub(crate) unsafe fn launch<P: Params>(&self, launch: &Launch, params: &P) -> Result<()> {
        self.0.profile.around(launch.kernel, &self.0.compute, || {
            // SAFETY: the caller's; the compute stream's order is the order in which memory is given away.
            unsafe { self.0.kernels.launch(launch, &self.0.compute, params) }
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is held is dropped after this. Should it fail, nothing is at work any more.
        let _ = self.copies.synchronise();
        let _ = self.compute.synchronise();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gpu_lacks_is_told() {
        let facts = |capability, driver| GpuFacts {
            ordinal: 0,
            name: "NVIDIA X".into(),
            capability,
            memory_bytes: 1 << 30,
            multiprocessors: 10,
            shared_bytes: 99 << 10,
            l2_bytes: 4 << 20,
            bus: String::new(),
            driver: CudaVersion(driver),
        };
        let old = facts(Capability(7, 5), 13_000);
        assert!(matches!(check(&old, Code::Embedded, Some(CudaVersion(13_000))), Err(NoGpu::TooOld { .. })));
        let ampere = facts(Capability(8, 6), 12_080);
        assert_eq!(check(&ampere, Code::Embedded, None), Err(NoGpu::NoCode));
        assert!(matches!(
            check(&ampere, Code::Embedded, Some(CudaVersion(13_000))),
            Err(NoGpu::DriverTooOld { needed: CudaVersion(13_000), .. })
        ));
        assert_eq!(check(&ampere, Code::Embedded, Some(CudaVersion(12_090))), Ok(()));
        assert_eq!(check(&ampere, Code::Images(&[]), None), Ok(()));
    }
}
