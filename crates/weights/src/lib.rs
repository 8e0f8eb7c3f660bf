//! Bytes on disk to tensors.
