//! Activation functions, element by element.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result, Tensor};

use crate::rows::{VectorRowKernel, map_rows, map_rows_in_place};
use crate::vector::Vector;

/// `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, f32 → the shape of `x`.
///
/// # Errors
/// `x` is a scalar, or the device fails.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) { map_rows(x, &Each(GeluTanh)) } else { reference::gelu_tanh(x) }
}

/// As [`gelu_tanh`], with the result in the memory of `x` where the device can: nobody else may hold `x`.
///
/// # Errors
/// As there.
pub fn gelu_tanh_in_place(x: Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) { map_rows_in_place(x, &Each(GeluTanh)) } else { reference::gelu_tanh(&x) }
}

/// `x/(1 + e⁻ˣ)`, f32 → the shape of `x`.
///
/// # Errors
/// `x` is a scalar, or the device fails.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if matches!(x.device(), Device::Cpu) { map_rows(x, &Each(Silu)) } else { reference::silu(x) }
}

/// [`gelu_tanh`] of the numbers of a vector.
///
/// # Safety
/// As [`Task::run`](crate::vector::Task::run).
#[inline(always)]
pub(crate) unsafe fn gelu_tanh_of<V: Vector>(x: V) -> V {
    // ½·(1 + tanh u) is the logistic function of 2u.
    const TWICE_ROOT: f32 = 1.595_769_2;
    // SAFETY: the caller's.
    unsafe {
        let inner = x.mul(x).mul_add(V::splat(0.044_715), V::splat(1.0));
        x.mul(inner.mul(x).mul(V::splat(TWICE_ROOT)).logistic())
    }
}

struct GeluTanh;

impl Function for GeluTanh {
    #[inline(always)]
    unsafe fn of<V: Vector>(x: V) -> V {
        // SAFETY: the caller's.
        unsafe { gelu_tanh_of(x) }
    }
}

struct Silu;

impl Function for Silu {
    #[inline(always)]
    unsafe fn of<V: Vector>(x: V) -> V {
        // SAFETY: the caller's.
        unsafe { x.silu() }
    }
}

/// The function of every element of a row.
struct Each<F>(F);

/// A function of single elements. A closure would not be compiled for the instruction set.
trait Function: Sync {
    /// # Safety
    /// The machine has the instructions of `V`.
    unsafe fn of<V: Vector>(x: V) -> V;
}

impl<F: Function> VectorRowKernel for Each<F> {
    #[inline(always)]
    unsafe fn row<V: Vector>(&self, _: usize, input: &[f32], out: &mut [f32]) {
        for (x, o) in input.chunks(V::LANES).zip(out.chunks_mut(V::LANES)) {
            // SAFETY: as many floats as there are.
            unsafe {
                if x.len() == V::LANES {
                    F::of(V::load(x.as_ptr())).store(o.as_mut_ptr());
                } else {
                    F::of(V::load_part(x.as_ptr(), x.len())).store_part(o.as_mut_ptr(), x.len());
                }
            }
        }
    }
}
