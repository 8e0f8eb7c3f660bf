//! Arithmetic kernels, each beside a slow readable reference.
