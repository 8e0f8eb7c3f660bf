//! Memory of the host that the GPU copies from and to by itself.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::Context;
use super::error::{CudaError, Result};

/// What is let go of is kept for the next one up to so many bytes: pinning takes milliseconds.
const KEPT_BYTES: usize = 64 << 20;

/// Pinned memory within a ceiling: the system cannot use what is pinned for anything else.
#[derive(Clone)]
pub struct PinnedPool(Arc<Shared>);

struct Shared {
    context: Arc<Context>,
    state: Mutex<State>,
}

struct State {
    ceiling_bytes: u64,
    /// In use.
    used_bytes: u64,
    peak_bytes: u64,
    kept: Vec<Piece>,
}

struct Piece {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it is memory that whoever has the piece has for himself.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

impl PinnedPool {
    pub(crate) fn new(context: Arc<Context>, ceiling_bytes: u64) -> Self {
        let state = State { ceiling_bytes, used_bytes: 0, peak_bytes: 0, kept: Vec::new() };
        Self(Arc::new(Shared { context, state: Mutex::new(state) }))
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bytes` of it, with anything in them.
    ///
    /// # Errors
    /// [`CudaError::Pinned`] above the ceiling, and what the driver refuses.
    pub fn alloc(&self, bytes: usize) -> Result<Pinned> {
        let piece = {
            let mut state = self.locked();
            // One that is not much too large.
            let fits = |piece: &Piece| piece.bytes >= bytes && piece.bytes <= bytes.saturating_mul(2).max(1 << 16);
            let found = state.kept.iter().enumerate().filter(|(_, p)| fits(p)).min_by_key(|(_, p)| p.bytes);
            let piece = found.map(|(at, _)| at).map(|at| state.kept.swap_remove(at));
            let taken = piece.as_ref().map_or(bytes, |p| p.bytes) as u64;
            let kept = state.kept.iter().map(|p| p.bytes as u64).sum::<u64>();
            if state.used_bytes.saturating_add(taken) > state.ceiling_bytes {
                state.kept.extend(piece);
                let (used_bytes, ceiling_bytes) = (state.used_bytes, state.ceiling_bytes);
                return Err(CudaError::Pinned { asked_bytes: bytes as u64, used_bytes, ceiling_bytes });
            }
            let unkept = match piece.is_none() && state.used_bytes + taken + kept > state.ceiling_bytes {
                true => std::mem::take(&mut state.kept),
                false => Vec::new(),
            };
            state.used_bytes += taken;
            state.peak_bytes = state.peak_bytes.max(state.used_bytes);
            drop(state);
            unkept.into_iter().for_each(|piece| self.0.free(piece));
            piece
        };
        let piece = match piece {
            Some(piece) => piece,
            None => self.0.pin(bytes).inspect_err(|_| self.locked().used_bytes -= bytes as u64)?,
        };
        Ok(Pinned { pool: self.clone(), piece: Some(piece), bytes })
    }

    /// Bytes in use, and the most that were.
    pub fn used_bytes(&self) -> (u64, u64) {
        let state = self.locked();
        (state.used_bytes, state.peak_bytes)
    }

    /// The most that may be in use.
    pub fn ceiling_bytes(&self) -> u64 {
        self.locked().ceiling_bytes
    }

    /// Gives what is kept back to the system.
    pub fn trim(&self) {
        let kept = std::mem::take(&mut self.locked().kept);
        kept.into_iter().for_each(|piece| self.0.free(piece));
    }
}

impl Shared {
    fn pin(&self, bytes: usize) -> Result<Piece> {
        if bytes == 0 {
            return Ok(Piece { start: NonNull::dangling(), bytes });
        }
        let mut start = std::ptr::null_mut();
        // SAFETY: the pointer is valid for the call. No flags.
        self.context.call("pin memory of the host", |f| unsafe { (f.host_alloc)(&mut start, bytes, 0) })?;
        let none = || CudaError::Driver {
            operation: "pin memory of the host",
            name: "no memory without an error".to_owned(),
            code: 0,
        };
        NonNull::new(start.cast()).map(|start| Piece { start, bytes }).ok_or_else(none)
    }

    fn free(&self, piece: Piece) {
        if piece.bytes > 0 {
            // SAFETY: pinned once, and nobody has it.
            self.context.code(|f| unsafe { (f.host_free)(piece.start.as_ptr().cast()) });
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let kept = std::mem::take(&mut state.kept);
        kept.into_iter().for_each(|piece| self.free(piece));
    }
}

/// Pinned bytes. They are not to be dropped while the GPU copies from or to them.
pub struct Pinned {
    pool: PinnedPool,
    piece: Option<Piece>,
    bytes: usize,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of pinned memory", self.bytes)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let Some(piece) = self.piece.take() else { return };
        let mut state = self.pool.locked();
        state.used_bytes -= piece.bytes as u64;
        let kept: usize = state.kept.iter().map(|p| p.bytes).sum();
        if piece.bytes > 0 && kept.saturating_add(piece.bytes) <= KEPT_BYTES {
            state.kept.push(piece);
            return;
        }
        drop(state);
        self.pool.0.free(piece);
    }
}

impl Pinned {
    fn start(&self) -> *mut u8 {
        self.piece.as_ref().map_or(NonNull::dangling(), |p| p.start).as_ptr()
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as many bytes at least, which the system has set to something.
        unsafe { std::slice::from_raw_parts(self.start(), self.bytes) }
    }
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed for itself.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.bytes) }
    }
}
