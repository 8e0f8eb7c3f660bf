//! Memory of the host that may be refused, and begins where pages begin.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Every buffer begins at a multiple of it: a page, and more than any instruction or copy engine asks for.
pub const ALIGNMENT: usize = 4096;

/// The system has no more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system refused {0} bytes of memory")]
pub struct Refused(pub usize);

/// Bytes that are zero at first. Large ones take no memory before they are touched.
#[derive(Debug)]
pub struct PageBuffer {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its bytes, and hands them out as slices under the usual rules.
unsafe impl Send for PageBuffer {}
// SAFETY: as above.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// `bytes` of them, which may be none.
    ///
    /// # Errors
    /// There is not so much memory.
    pub fn zeroed(bytes: usize) -> Result<Self, Refused> {
        // The allocator takes no empty layouts.
        let layout = Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| Refused(bytes))?;
        if bytes == 0 {
            return Ok(Self { start: layout.dangling_ptr(), layout });
        }
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Refused(bytes))?;
        Ok(Self { start, layout })
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: allocated with this layout, and dropped once.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as many bytes were allocated, and all were set to zero.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed for itself.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl AsRef<[u8]> for PageBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_at_pages_are_zero_and_may_be_refused() {
        for bytes in [1, 4095, 4096, 1 << 20] {
            let mut buffer = PageBuffer::zeroed(bytes).unwrap();
            assert_eq!((buffer.len(), buffer.as_ptr() as usize % ALIGNMENT), (bytes, 0));
            assert!(buffer.iter().all(|b| *b == 0));
            buffer[bytes - 1] = 7;
            assert_eq!(buffer.as_ref().last(), Some(&7));
        }
        assert!(PageBuffer::zeroed(0).unwrap().is_empty());
        assert_eq!(PageBuffer::zeroed(usize::MAX).unwrap_err(), Refused(usize::MAX));
        assert_eq!(PageBuffer::zeroed(1 << 60).unwrap_err(), Refused(1 << 60));
    }
}
