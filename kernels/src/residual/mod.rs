//! The gated residual addition of modulated transformer blocks.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{D, Device, Result, Tensor};

use crate::rows::{RowKernel, map_rows, with_f32};

/// `x + y·gate`; `x` and `y` `[.., D]` f32 of one shape, `gate` with D elements → the shape of `x`.
///
/// # Errors
/// Shapes that do not fit.
pub fn gated_add(x: &Tensor, y: &Tensor, gate: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if x.dims() != y.dims() || gate.elem_count() != width {
        candle_core::bail!("gated add: {:?} + {:?} by {:?}", x.dims(), y.dims(), gate.dims());
    }
    if !matches!(x.device(), Device::Cpu) {
        return reference::gated_add(x, y, gate);
    }
    with_f32(y, |y| with_f32(gate, |gate| map_rows(x, &GatedAdd { y, gate })))
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
