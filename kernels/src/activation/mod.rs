//! Activation functions, element by element.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result, Tensor};

use crate::exp::exp;
use crate::rows::{RowKernel, map_rows, map_rows_in_place};

/// `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, f32 → the shape of `x`.
///
/// # Errors
/// `x` is a scalar, or the device fails.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) { map_rows(x, &GeluTanh) } else { reference::gelu_tanh(x) }
}

/// As [`gelu_tanh`], with the result in the memory of `x` where the device can: nobody else may hold `x`.
///
/// # Errors
/// As there.
pub fn gelu_tanh_in_place(x: Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) { map_rows_in_place(x, &GeluTanh) } else { reference::gelu_tanh(&x) }
}

/// `x/(1 + e⁻ˣ)`, f32 → the shape of `x`.
///
/// # Errors
/// `x` is a scalar, or the device fails.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) { map_rows(x, &Silu) } else { reference::silu(x) }
}

/// [`gelu_tanh`] of one number.
#[inline(always)]
pub(crate) fn gelu_tanh_of(x: f32) -> f32 {
    // ½·(1 + tanh u) is the logistic function of 2u.
    const TWICE_ROOT: f32 = 1.595_769_2;
    let u = TWICE_ROOT * (x + 0.044_715 * x * x * x);
    x / (1.0 + exp(-u))
}

struct GeluTanh;

impl RowKernel for GeluTanh {
    #[inline(always)]
    fn row(&self, _: usize, input: &[f32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(input) {
            *o = gelu_tanh_of(*x);
        }
    }
}

struct Silu;

impl RowKernel for Silu {
    #[inline(always)]
    fn row(&self, _: usize, input: &[f32], out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(input) {
            *o = x / (1.0 + exp(-x));
        }
    }
}
