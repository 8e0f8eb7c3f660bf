//! Rotary position embedding on adjacent channel pairs.

pub mod reference;
#[cfg(test)]
mod tests;

use candle_core::{Device, Result, Tensor};

use crate::rows::{RowKernel, map_rows, map_rows_in_place, with_f32};

/// Rotates pairs `(2j, 2j+1)` of every head by the angle of its token: `x` `[B, L, H, D]` f32, `cos` and `sin`
/// `[L, D/2]` f32 → `[B, L, H, D]`.
///
/// # Errors
/// Shapes that do not fit.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, heads) = check(x, cos, sin)?;
    if !matches!(x.device(), Device::Cpu) {
        return reference::rope(x, cos, sin);
    }
    with_f32(cos, |cos| with_f32(sin, |sin| map_rows(x, &Rope { angles: Angles { cos, sin, tokens }, heads })))
}

/// As [`rope`], with the result in the memory of `x` where the device can: nobody else may hold `x`.
///
/// # Errors
/// As there.
pub fn rope_in_place(x: Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, heads) = check(&x, cos, sin)?;
    if !matches!(x.device(), Device::Cpu) {
        return reference::rope(&x, cos, sin);
    }
    with_f32(cos, |cos| with_f32(sin, |sin| map_rows_in_place(x, &Rope { angles: Angles { cos, sin, tokens }, heads })))
}

/// Tokens and heads of `x`, if the tables fit.
fn check(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<(usize, usize)> {
    let (_, tokens, heads, width) = x.dims4()?;
    if width % 2 != 0 || cos.dims() != [tokens, width / 2] || sin.dims() != cos.dims() {
        candle_core::bail!("rope: x {:?} with tables {:?} and {:?}", x.dims(), cos.dims(), sin.dims());
    }
    Ok((tokens, heads))
}

/// Cosines and sines of tokens.
pub(crate) struct Angles<'a> {
    /// `[L, D/2]`.
    pub cos: &'a [f32],
    pub sin: &'a [f32],
    /// L.
    pub tokens: usize,
}

impl Angles<'_> {
    /// Those of a token, counted through the batch.
    #[inline(always)]
    pub fn of(&self, token: usize) -> (&[f32], &[f32]) {
        let pairs = self.cos.len() / self.tokens;
        let at = token % self.tokens * pairs;
        (&self.cos[at..at + pairs], &self.sin[at..at + pairs])
    }
}

struct Rope<'a> {
    angles: Angles<'a>,
    heads: usize,
}

impl RowKernel for Rope<'_> {
    #[inline(always)]
    fn row(&self, index: usize, input: &[f32], out: &mut [f32]) {
        let (cos, sin) = self.angles.of(index / self.heads);
        for ((x, o), (c, s)) in input.chunks_exact(2).zip(out.chunks_exact_mut(2)).zip(cos.iter().zip(sin)) {
            o[0] = x[0] * c - x[1] * s;
            o[1] = x[0] * s + x[1] * c;
        }
    }
}
