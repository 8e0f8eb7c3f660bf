//! Where the slabs of a network are: some stay in the device's memory, the others take turns in a ring of staging buffers, and
//! while one is computed with the next are on their way.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use candle_core::{DType, Result};
use weights::{TensorSource, TensorSpec};

use crate::device::{Buffer, DeviceMemory, Pending, Use, share};
use crate::slab::{Filled, Layout, Slab};
use crate::traffic::{Happening, Traffic};

/// Staging buffers of the host between a file and a card's memory: one is read into while the other is copied.
const HOST_STAGING: usize = 2;

/// Tensors that are kept or moved together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unit {
    /// What it is called in logs: `blocks.7`, or a matrix's name.
    pub name: String,
    pub tensors: Vec<TensorSpec>,
    /// Whether it stays in the device's memory once it is there.
    pub stays: bool,
}

/// How units are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moving {
    /// Staging buffers in the device's memory.
    pub ring: usize,
    /// Units that do not stay are kept in pinned host memory as far as this reaches, in bytes; the rest is read from the file
    /// every time.
    pub pinned_bytes: u64,
    /// Whether units are brought before they are asked for, by a thread.
    pub ahead: bool,
    /// What matrices are converted to.
    pub dtype: Option<DType>,
}

/// See the module.
pub(crate) struct Store {
    inner: Arc<Inner>,
    loader: Option<JoinHandle<()>>,
}

struct Inner {
    source: Arc<dyn TensorSource>,
    units: Vec<(Unit, Arc<Layout>)>,
    /// Unit of a name.
    names: HashMap<String, usize>,
    device: Arc<dyn DeviceMemory>,
    moving: Moving,
    traffic: Arc<Traffic>,
    /// Bytes of a staging buffer.
    ring_bytes: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    slots: HashMap<usize, Slot>,
    /// To be brought, in this order.
    queue: VecDeque<usize>,
    /// What was asked for last and what is expected after it: no more units that move than there are staging buffers.
    wanted: Vec<usize>,
    /// Staging buffers of the device that exist.
    ring: usize,
    free: Vec<Buffer>,
    staging: Vec<Arc<Buffer>>,
    pinned: HashMap<usize, (Arc<Buffer>, Filled)>,
    pinned_bytes: u64,
    last: Option<usize>,
    /// Which unit was asked for after which.
    after: HashMap<usize, usize>,
    /// Units whose numbers were looked through.
    checked: HashSet<usize>,
    closed: bool,
}

enum Slot {
    /// The loader has it or will.
    Coming,
    /// On its way to the card.
    Copying(Box<dyn Pending>, Filled),
    Here(Arc<Slab>),
    Failed(candle_core::Error),
}

impl Store {
    /// Units of `source` in `device`'s memory. Reads no numbers yet.
    ///
    /// # Errors
    /// A tensor is missing or misshapen.
    pub fn new(
        source: Arc<dyn TensorSource>,
        units: Vec<Unit>,
        device: Arc<dyn DeviceMemory>,
        moving: Moving,
        traffic: Arc<Traffic>,
    ) -> Result<Self> {
        let with_layout = |unit: Unit| {
            let layout = Layout::new(&unit.tensors, source.as_ref(), moving.dtype)?;
            Ok((unit, Arc::new(layout)))
        };
        let units = units.into_iter().map(with_layout).collect::<Result<Vec<_>>>()?;
        let ring_bytes = units.iter().filter(|(u, _)| !u.stays).map(|(_, l)| l.bytes()).max().unwrap_or(0);
        // Room for staging stays free.
        let staged = units.iter().map(|(_, l)| l.bytes()).max().unwrap_or(0) as u64;
        let ceiling = device.pinned_ceiling().saturating_sub(HOST_STAGING as u64 * staged);
        let moving = Moving { pinned_bytes: moving.pinned_bytes.min(ceiling), ..moving };
        let names = units.iter().enumerate().map(|(i, (unit, _))| (unit.name.clone(), i)).collect();
        let inner = Arc::new(Inner {
            source,
            units,
            names,
            device,
            moving,
            traffic,
            ring_bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let loader = moving.ahead.then(|| {
            let inner = inner.clone();
            std::thread::Builder::new().name("weights".to_owned()).spawn(move || inner.bring_all())
        });
        let loader = loader.transpose().map_err(candle_core::Error::wrap)?;
        Ok(Self { inner, loader })
    }

    /// Whether there is a unit of that name.
    pub fn has(&self, name: &str) -> bool {
        self.inner.names.contains_key(name)
    }

    /// Bytes in the device's memory when all units that stay and all staging buffers are there.
    pub fn device_bytes(&self) -> u64 {
        let stays = self.inner.units.iter().filter(|(u, _)| u.stays).map(|(_, l)| l.bytes() as u64).sum::<u64>();
        let others = self.inner.units.iter().filter(|(u, _)| !u.stays).count();
        stays + self.inner.moving.ring.min(others) as u64 * self.inner.ring_bytes as u64
    }

    /// Bytes of a unit, 0 of one that there is not.
    pub fn bytes_of(&self, name: &str) -> u64 {
        self.inner.names.get(name).map_or(0, |unit| self.inner.units[*unit].1.bytes() as u64)
    }

    /// The unit of that name, in the device's memory for as long as the result or anything made from it lives.
    ///
    /// # Errors
    /// There is none, it cannot be read, or the device has no room.
    pub fn get(&self, name: &str) -> Result<Arc<Slab>> {
        match self.inner.names.get(name) {
            Some(unit) => self.inner.get(*unit),
            None => candle_core::bail!("there are no weights called {name}"),
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        {
            let mut state = self.inner.locked();
            state.closed = true;
            state.queue.clear();
            // Dropped without the lock: slabs give their buffers back.
            let (slots, free) = (std::mem::take(&mut state.slots), std::mem::take(&mut state.free));
            drop(state);
            drop((slots, free));
        }
        self.inner.changed.notify_all();
        if let Some(loader) = self.loader.take() {
            // A loader that panicked has told whoever waited for it.
            let _ = loader.join();
        }
    }
}

impl Inner {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn stays(&self, unit: usize) -> bool {
        self.units[unit].0.stays
    }

    fn note(&self, unit: usize, what: Happening) {
        self.traffic.note(&self.units[unit].0.name, what);
    }

    fn get(self: &Arc<Self>, unit: usize) -> Result<Arc<Slab>> {
        let _span = tracing::info_span!(target: "steadydance", "wait for weights").entered();
        self.note(unit, Happening::Asked);
        self.traffic.groups.fetch_add(1, Ordering::Relaxed);
        let mut state = self.locked();
        if let Some(last) = state.last.replace(unit) {
            state.after.insert(last, unit);
        }
        let next = self.next_units(&state, unit);
        state.wanted = std::iter::once(unit).chain(next.iter().copied()).collect();
        self.changed.notify_all();
        let slab = loop {
            // What is neither asked for nor expected makes room, also in the queue. Whoever computes with it still keeps it.
            let State { queue, wanted, slots, .. } = &mut *state;
            queue.retain(|u| {
                let keep = wanted.contains(u);
                if !keep {
                    slots.remove(u);
                }
                keep
            });
            let keep = |u: &usize, slot: &Slot| matches!(slot, Slot::Coming) || self.stays(*u) || wanted.contains(u);
            let unwanted: Vec<(usize, Slot)> = slots.extract_if(|u, slot| !keep(u, slot)).collect();
            if !unwanted.is_empty() {
                drop(state);
                unwanted.into_iter().for_each(|(unit, slot)| self.drop_slot(unit, slot));
                state = self.locked();
                continue;
            }
            match state.slots.remove(&unit) {
                Some(Slot::Here(slab)) => break slab,
                Some(Slot::Failed(error)) => return Err(error),
                Some(Slot::Copying(copy, filled)) => {
                    drop(state);
                    // The device's stream waits; other units may come meanwhile.
                    let buffer = copy.finish().map_err(|e| {
                        self.lost(unit);
                        e.into_candle()
                    })?;
                    let slab = Arc::new(self.slab(unit, buffer, filled));
                    state = self.locked();
                    break slab;
                }
                Some(Slot::Coming) => {
                    state.slots.insert(unit, Slot::Coming);
                    if let Some(at) = state.queue.iter().position(|u| *u == unit) {
                        state.queue.remove(at);
                        state.queue.push_front(unit);
                    }
                    self.changed.notify_all();
                    state = self.wait(state);
                }
                None if self.moving.ahead => {
                    state.slots.insert(unit, Slot::Coming);
                    state.queue.push_front(unit);
                    self.changed.notify_all();
                }
                None => {
                    state.slots.insert(unit, Slot::Coming);
                    drop(state);
                    let slot = self.bring(unit);
                    state = self.locked();
                    if let Some(slot) = slot {
                        state.slots.insert(unit, slot);
                    }
                }
            }
        };
        state.slots.insert(unit, Slot::Here(slab.clone()));
        if self.moving.ahead {
            for unit in next {
                let State { slots, queue, .. } = &mut *state;
                slots.entry(unit).or_insert_with(|| {
                    queue.push_back(unit);
                    Slot::Coming
                });
            }
        }
        drop(state);
        self.changed.notify_all();
        self.note(unit, Happening::Given);
        Ok(slab)
    }

    /// The units that are wanted after this one and must be brought: as many as there are staging buffers besides the one that
    /// is computed with.
    fn next_units(&self, state: &State, unit: usize) -> Vec<usize> {
        let room = if self.stays(unit) { self.moving.ring } else { self.moving.ring.saturating_sub(1) };
        let (mut moved, mut next, mut at) = (0, Vec::new(), unit);
        for _ in 1..self.units.len() {
            at = state.after.get(&at).copied().unwrap_or((at + 1) % self.units.len());
            if at == unit || next.contains(&at) {
                break;
            }
            if self.stays(at) {
                // Brought once; then it is passed over.
                if !matches!(state.slots.get(&at), Some(Slot::Here(_))) {
                    next.push(at);
                }
                continue;
            }
            if moved == room {
                break;
            }
            moved += 1;
            next.push(at);
        }
        next
    }

    /// The loader's thread.
    fn bring_all(self: &Arc<Self>) {
        loop {
            let unit = {
                let mut state = self.locked();
                loop {
                    if state.closed {
                        return;
                    }
                    match state.queue.pop_front() {
                        Some(unit) => break unit,
                        None => state = self.wait(state),
                    }
                }
            };
            let work = std::panic::AssertUnwindSafe(|| self.bring(unit));
            let slot = std::panic::catch_unwind(work).unwrap_or_else(|_| {
                let name = &self.units[unit].0.name;
                Some(Slot::Failed(candle_core::Error::msg(format!("reading {name} failed unexpectedly"))))
            });
            let mut state = self.locked();
            match slot {
                Some(slot) => state.slots.insert(unit, slot),
                None => state.slots.remove(&unit),
            };
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Reads a unit, and starts its copy where one is needed. `None` when it is not wanted any more.
    fn bring(self: &Arc<Self>, unit: usize) -> Option<Slot> {
        self.note(unit, Happening::ReadBegins);
        let name = self.units[unit].0.name.as_str();
        let _span = tracing::info_span!(target: "steadydance", "read weights", name).entered();
        match self.try_to_bring(unit) {
            Ok(slot) => {
                self.note(unit, Happening::ReadEnds);
                slot
            }
            Err(error) => Some(Slot::Failed(error)),
        }
    }

    fn try_to_bring(self: &Arc<Self>, unit: usize) -> Result<Option<Slot>> {
        let layout = self.units[unit].1.clone();
        let bytes = layout.bytes();
        if self.device.is_host() {
            let Some(mut buffer) = self.device_buffer(unit)? else { return Ok(None) };
            return match self.fill(unit, &mut buffer) {
                Ok(filled) => Ok(Some(Slot::Here(Arc::new(self.slab(unit, buffer, filled))))),
                Err(error) => {
                    self.give_back(unit, buffer);
                    Err(error)
                }
            };
        }
        let kept = self.locked().pinned.get(&unit).cloned();
        let (host, filled) = match kept {
            Some(kept) => kept,
            None => {
                let keep = !self.stays(unit) && self.keep_pinned(bytes as u64);
                let mut buffer = if keep { self.device.alloc(bytes, Use::Pinned) } else { self.staging(bytes) }
                    .map_err(|e| e.into_candle())?;
                let filled = self.fill(unit, &mut buffer)?;
                let buffer = Arc::new(buffer);
                let mut state = self.locked();
                match keep {
                    true => drop(state.pinned.insert(unit, (buffer.clone(), filled.clone()))),
                    false => state.staging.push(buffer.clone()),
                }
                (buffer, filled)
            }
        };
        let Some(buffer) = self.device_buffer(unit)? else { return Ok(None) };
        self.note(unit, Happening::CopyBegins);
        self.traffic.copied.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(Some(Slot::Copying(self.device.copy(host, 0..bytes, buffer), filled)))
    }

    fn fill(&self, unit: usize, out: &mut Buffer) -> Result<Filled> {
        let layout = &self.units[unit].1;
        let Some(out) = out.bytes_mut() else {
            candle_core::bail!("{out:?} cannot be read into");
        };
        let check = self.locked().checked.insert(unit);
        let filled = layout.fill(self.source.as_ref(), self.moving.dtype, out, check);
        match &filled {
            Ok(_) => {
                self.traffic.bytes.fetch_add(layout.payload(), Ordering::Relaxed);
                self.traffic.reads.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => drop(self.locked().checked.remove(&unit)),
        }
        filled
    }

    /// Whether so many bytes may be pinned besides those that are; then they are counted.
    fn keep_pinned(&self, bytes: u64) -> bool {
        let mut state = self.locked();
        let fits = state.pinned_bytes + bytes <= self.moving.pinned_bytes;
        if fits {
            state.pinned_bytes += bytes;
        }
        fits
    }

    /// A staging buffer of the host, once its last copy is done.
    fn staging(&self, bytes: usize) -> std::result::Result<Buffer, crate::DeviceError> {
        let mut state = self.locked();
        while state.staging.len() >= HOST_STAGING {
            let done = state.staging.iter().position(|b| Arc::strong_count(b) == 1);
            let Some(buffer) = done.and_then(|at| Arc::into_inner(state.staging.swap_remove(at))) else {
                drop(state);
                let waited = self.device.wait_for_copy();
                state = self.locked();
                if waited {
                    continue;
                }
                // The copy's thread lets go of it without telling.
                let pause = std::time::Duration::from_micros(200);
                state = self.changed.wait_timeout(state, pause).map_or_else(|e| e.into_inner().0, |(state, _)| state);
                continue;
            };
            if buffer.len() >= bytes {
                return Ok(buffer);
            }
        }
        drop(state);
        self.device.alloc(bytes.max(self.ring_bytes), Use::Pinned)
    }

    /// Memory of the device for a unit: its own, or a staging buffer when one is free. `None` when the store was closed, or the
    /// unit is not wanted any more.
    fn device_buffer(&self, unit: usize) -> Result<Option<Buffer>> {
        let refused = |e: crate::DeviceError| e.into_candle();
        if self.stays(unit) {
            return self.device.alloc(self.units[unit].1.bytes(), Use::Weights).map(Some).map_err(refused);
        }
        let mut state = self.locked();
        loop {
            if state.closed || !state.wanted.contains(&unit) {
                return Ok(None);
            }
            if let Some(buffer) = state.free.pop() {
                return Ok(Some(buffer));
            }
            if state.ring < self.moving.ring.max(1) {
                state.ring += 1;
                drop(state);
                return self.device.alloc(self.ring_bytes, Use::Weights).map(Some).map_err(|e| {
                    self.locked().ring -= 1;
                    refused(e)
                });
            }
            state = self.wait(state);
        }
    }

    fn slab(self: &Arc<Self>, unit: usize, buffer: Buffer, filled: Filled) -> Slab {
        let inner = Arc::downgrade(self);
        let memory = share(buffer, move |buffer| {
            if let Some(inner) = inner.upgrade() {
                inner.give_back(unit, buffer);
            }
        });
        Slab::new(self.units[unit].1.clone(), filled, memory, self.device.gpu().cloned())
    }

    fn give_back(&self, unit: usize, mut buffer: Buffer) {
        if !self.stays(unit) {
            buffer.mark_free();
            let mut state = self.locked();
            if !state.closed {
                state.free.push(buffer);
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Without the lock: slabs give their buffers back.
    fn drop_slot(&self, unit: usize, slot: Slot) {
        if let Slot::Copying(copy, _) = slot {
            match copy.finish() {
                Ok(buffer) => self.give_back(unit, buffer),
                Err(_) => self.lost(unit),
            }
        }
    }

    /// The staging buffer of a unit went down with its copy.
    fn lost(&self, unit: usize) {
        if !self.stays(unit) {
            self.locked().ring -= 1;
        }
        self.changed.notify_all();
    }
}
