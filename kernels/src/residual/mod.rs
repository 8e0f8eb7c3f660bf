//! The gated residual addition of modulated transformer blocks.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{D, Device, Result, Tensor};

use crate::rows::{RowKernel, map_rows, map_rows_in_place, with_f32};

/// `x + y·gate`; `x` and `y` `[.., D]` f32 of one shape, `gate` with D elements → the shape of `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn gated_add(x: &Tensor, y: &Tensor, gate: &Tensor) -> Result<Tensor> {
    check(x, y, gate)?;
    if !matches!(x.device(), Device::Cpu) {
        return reference::gated_add(x, y, gate);
    }
    with_f32(y, |y| with_f32(gate, |gate| map_rows(x, &GatedAdd { y, gate })))
}

/// As [`gated_add`], with the result in the memory of `y` where the device can: nobody else may hold `y`.
///
/// # Errors
/// As there.
pub fn gated_add_in_place(x: &Tensor, y: Tensor, gate: &Tensor) -> Result<Tensor> {
    check(x, &y, gate)?;
    if !matches!(x.device(), Device::Cpu) {
        return reference::gated_add(x, &y, gate);
    }
    with_f32(x, |x| with_f32(gate, |gate| map_rows_in_place(y, &AddGated { x, gate })))
}

/// `x + y` of one shape, f32, with the result in the memory of `y` where the device can: nobody else may hold `y`.
///
/// # Errors
/// Shapes that do not fit.
pub fn add_in_place(x: &Tensor, y: Tensor) -> Result<Tensor> {
    if x.dims() != y.dims() {
        candle_core::bail!("add: {:?} + {:?}", x.dims(), y.dims());
    }
    if !matches!(x.device(), Device::Cpu) {
        return x + y;
    }
    with_f32(x, |x| map_rows_in_place(y, &Add { x }))
}

fn check(x: &Tensor, y: &Tensor, gate: &Tensor) -> Result<()> {
    if x.dims() != y.dims() || gate.elem_count() != x.dim(D::Minus1)? {
        candle_core::bail!("gated add: {:?} + {:?} by {:?}", x.dims(), y.dims(), gate.dims());
    }
    Ok(())
}

struct AddGated<'a> {
    x: &'a [f32],
    gate: &'a [f32],
}

impl RowKernel for AddGated<'_> {
    #[inline(always)]
    fn row(&self, index: usize, input: &[f32], out: &mut [f32]) {
        let x = &self.x[index * input.len()..][..input.len()];
        for (((o, y), x), g) in out.iter_mut().zip(input).zip(x).zip(self.gate) {
            *o = x + y * g;
        }
    }
}

struct Add<'a> {
    x: &'a [f32],
}

impl RowKernel for Add<'_> {
    #[inline(always)]
    fn row(&self, index: usize, input: &[f32], out: &mut [f32]) {
        let x = &self.x[index * input.len()..][..input.len()];
        for ((o, y), x) in out.iter_mut().zip(input).zip(x) {
            *o = x + y;
        }
    }
}

struct GatedAdd<'a> {
    y: &'a [f32],
    gate: &'a [f32],
}

impl RowKernel for GatedAdd<'_> {
    #[inline(always)]
    fn row(&self, index: usize, input: &[f32], out: &mut [f32]) {
        let y = &self.y[index * input.len()..][..input.len()];
        for (((o, x), y), g) in out.iter_mut().zip(input).zip(y).zip(self.gate) {
            *o = x + y * g;
        }
    }
}
