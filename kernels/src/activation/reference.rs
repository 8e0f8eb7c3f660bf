//! The definitions in candle's operations, on any device.

use candle_core::{Result, Tensor};

/// See [`gelu_tanh`](super::gelu_tanh).
///
/// # Errors
/// Fails only where the device does.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    x.gelu()
}

/// See [`silu`](super::silu).
///
/// # Errors
/// Fails only where the device does.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}
