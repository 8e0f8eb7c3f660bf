//! How much memory something takes.

use std::alloc::System;

use cap::Cap;

/// Highest number of bytes that `f` has allocated at once, above what was allocated before. `allocator` is the binary's, and nothing
/// else may run in it.
pub fn peak(allocator: &Cap<System>, f: impl FnOnce()) -> u64 {
    // The allocator keeps the highest number ever: memory that is never touched brings the present one up to it.
    let (now, highest) = (allocator.allocated(), allocator.max_allocated());
    let ballast = Vec::<u8>::with_capacity(highest - now);
    let before = allocator.max_allocated();
    f();
    drop(ballast);
    (allocator.max_allocated() - before) as u64
}
