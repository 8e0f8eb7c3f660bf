//! The definition in candle's operations, on any device.

use candle_core::{Result, Tensor};

/// See [`rope`](super::rope).
///
/// # Errors
/// Shapes that do not fit.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (batch, tokens, heads, width) = x.dims4()?;
    let pairs = x.reshape((batch, tokens, heads, width / 2, 2))?;
    let (re, im) = (pairs.narrow(4, 0, 1)?, pairs.narrow(4, 1, 1)?);
    let table = |t: &Tensor| t.reshape((1, tokens, 1, width / 2, 1));
    let (cos, sin) = (table(cos)?, table(sin)?);
    let rotated_re = (re.broadcast_mul(&cos)? - im.broadcast_mul(&sin)?)?;
    let rotated_im = (re.broadcast_mul(&sin)? + im.broadcast_mul(&cos)?)?;
    Tensor::cat(&[rotated_re, rotated_im], 4)?.reshape((batch, tokens, heads, width))
}
